"""The table of what was run and found, in a document, between two marks."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import apsw

import kvfs
from tests.soak.registry import FAULTS
from tests.soak.tally import Tally

MARKED: Final = re.compile(r"(?<=<!-- made by `make soak` -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


def written(document: str, tallies: Mapping[str, Tally], fuzzed: Mapping[str, int]) -> str:
    """The document with the table of these tallies, and of how many inputs were fuzzed, by the target."""
    assert MARKED.search(document), "the document has no marks for a table"
    made = "\n".join([*_table(tallies), *_fuzzing(fuzzed), *_notes(tallies)])
    return MARKED.sub(lambda _: made, document)


def fuzzed(results: Path) -> dict[str, int]:
    """How many inputs each target was given, from lines of JSON that say "target" and "inputs"."""
    found: dict[str, int] = {}
    for line in results.read_text().splitlines() if results.exists() else []:
        told = json.loads(line)
        found[told["target"]] = found.get(told["target"], 0) + told["inputs"]
    return found


def _table(tallies: Mapping[str, Tally]) -> Iterator[str]:
    yield (
        f"Up to {datetime.now(UTC):%Y-%m-%d}, on Linux {platform.release()} with {os.cpu_count()} cores, with"
        f" kvfs {kvfs.__version__}, Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}:"
    )
    yield ""
    yield "| what befell the server | rounds | faults | requests | writes | lost | stale | wrong | recovery |"
    yield "|---|---|---|---|---|---|---|---|---|"
    shown = [(fault, tallies[fault.name]) for fault in FAULTS if fault.name in tallies]
    total = Tally("all together")
    for fault, tally in shown:
        yield _row(fault.what, tally)
        total += tally
    yield _row(total.fault, total)


def _row(what: str, tally: Tally) -> str:
    counts = (
        tally.rounds, tally.faults, tally.requests, tally.acknowledged, tally.lost, tally.stale, tally.wrong
    )  # fmt: skip
    cells = [what, *(f"{count:,}" for count in counts), f"{tally.recovery_s:.1f} s"]
    return f"| {' | '.join(cells)} |"


def _fuzzing(inputs: Mapping[str, int]) -> Iterator[str]:
    if inputs:
        yield ""
        yield "| what was fuzzed | inputs |"
        yield "|---|---|"
        for target, count in inputs.items():
            yield f"| {target} | {count:,} |"
        yield f"| all together | {sum(inputs.values()):,} |"


def _notes(tallies: Mapping[str, Tally]) -> Iterator[str]:
    notes = [note for fault in FAULTS if fault.name in tallies for note in tallies[fault.name].notes]
    if notes:
        yield ""
        yield "Minutes of mixed load, run by run:"
        yield ""
        yield from (f"- {note}" for note in notes)
