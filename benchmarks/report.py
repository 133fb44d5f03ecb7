"""What the lines came to, on a terminal and as a document."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import apsw

import kvfs
from benchmarks.lines import Figure, Line
from benchmarks.servers import LOAD_CPU, SERVER_CPU

_PACKAGES = ("aiohttp", "uvloop", "orjson", "apsw")


class Row(NamedTuple):
    """A line and what it came to; None where what it needs is `lacking`."""

    line: Line
    figure: Figure | None
    lacking: Sequence[str]


def heading() -> str:
    return f"{'':52}{'kvfs':>12}{'other':>12}{'figure':>9}  {'spread':15}{'goal':>8}"


def shown(row: Row) -> str:
    """A row for a terminal."""
    name, figure, of, spread, goal, verdict = _cells(row)
    kvfs_side, _, other = of.partition(" / ")
    return f"{name:52}{kvfs_side:>12}{other:>12}{figure:>9}  {spread:15}{goal:>8}  {verdict}".rstrip()


def document(rows: Sequence[Row], *, rounds: int, seconds: int) -> str:
    """The whole of `docs/benchmarks.md`."""
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `make bench`. Figures of one machine tell nothing of another: what counts are the",
            f"ratios, each the median of {rounds} turns of {seconds} s on either side, one after the other.",
            "The spread is the lowest and the highest of them. What the lines are is told in",
            "[benchmarks/README.md](../benchmarks/README.md).",
            "",
            *_machine(),
            "",
            "| work | figure | spread | kvfs / other | goal | |",
            "|---|---|---|---|---|---|",
            *(
                f"| {name} | {figure} | {spread} | {of} | {goal} | {verdict} |"
                for name, figure, of, spread, goal, verdict in map(_cells, rows)
            ),
            "",
        ]
    )


def _cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """(name, figure, both sides, spread, goal, verdict)"""
    line, figure = row.line, row.figure
    bound = "" if line.goal is None else f"{'≤' if line.at_most else '≥'} {line.goal:g}"
    if figure is None:
        return line.name, "", "", "", bound, f"not measured: {', '.join(row.lacking)} is not installed"
    of = f"{figure.ours:,.{line.digits}f}"
    if figure.theirs is not None:
        of += f" / {figure.theirs:,.{line.digits}f}"
    spread = f"{min(figure.all):.2f} to {max(figure.all):.2f}"
    verdict = "" if line.goal is None else "met" if line.reached(figure) else "missed"
    return line.name, f"{figure.value:.2f}", of, spread, bound, verdict


# --- the machine -----------------------------------------------------------------------------------------


def _machine() -> Iterator[str]:
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    yield f"- measured on {datetime.now(UTC):%Y-%m-%d}, by `{command}`"
    yield f"- {_processor()}, {os.cpu_count()} cores, Linux {platform.release()}"
    if SERVER_CPU is None:
        yield "- servers and load on the same core"
    else:
        yield f"- servers on core {SERVER_CPU}, the load on core {LOAD_CPU}"
    versions = [f"{name} {metadata.version(name)}" for name in _PACKAGES]
    yield f"- kvfs {kvfs.__version__}, Python {platform.python_version()}, {', '.join(versions)}"
    yield f"- SQLite {apsw.sqlite_lib_version()}, {', '.join(_programs())}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def _programs() -> Iterator[str]:
    for name, option in (("wrk", "-v"), ("etcd", "--version"), ("nginx", "-v")):
        if shutil.which(name) is None:
            yield f"no {name}"
            continue
        done = subprocess.run([name, option], capture_output=True, text=True, check=False)
        yield " ".join((done.stdout + done.stderr).splitlines()[0].split()[:3]).replace(" version:", "")
