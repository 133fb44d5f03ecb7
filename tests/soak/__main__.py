"""Puts servers through faults, for as long as is wanted, and adds up what came of it.

    python -m tests.soak [--minutes 10] [--rounds N] [--only FAULT,…] [--seed S] [--at PATH]
                         [--results FILE] [--write FILE]

Faults take turns, a few rounds each, those first of which least is done. With `--rounds` each goes on until
so many of its rounds are in the results. Whatever is found is told with the seed that replays it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.soak import report, tally
from tests.soak.faults import Fault, run
from tests.soak.registry import FAULTS
from tests.soak.tally import Tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.soak", description="Put servers through faults.")
    parser.add_argument("--minutes", type=float, default=10, help="be done after about so long (10)")
    parser.add_argument("--rounds", type=int, help="rounds that each fault is to come to in all")
    parser.add_argument("--only", default="", help="the faults whose names begin so; several by commas")
    parser.add_argument("--seed", type=int, help="go through the rounds of this seed, once")
    parser.add_argument("--at", type=Path, help="whose disk the stores lie on")
    parser.add_argument("--results", type=Path, default=Path("build/soak.jsonl"), help="what runs come to")
    parser.add_argument("--fuzzed", type=Path, default=Path("build/fuzz.jsonl"), help="what fuzzing came to")
    parser.add_argument("--write", type=Path, help="write the table of all results into this document")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if fault.name.startswith(tuple(options.only.split(",")))]
    if not faults:
        sys.exit(f"There is no such fault; there are {', '.join(fault.name for fault in FAULTS)}.")
    # However it is ended, the servers end with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    soak = Soak(options.results, options.at)
    if options.seed is not None:
        for fault in faults:
            soak.go(fault, options.seed)
    else:
        soak.go_on(faults, until=time.monotonic() + 60 * options.minutes, rounds=options.rounds)
    if options.write is not None:
        tallies, inputs = tally.kept(options.results), report.fuzzed(options.fuzzed)
        options.write.write_text(report.written(options.write.read_text(), tallies, inputs))
    sys.exit(1 if soak.found else 0)


class Soak:
    """Runs of faults, each in a folder of its own, which stays where something is found."""

    def __init__(self, results: Path, at: Path | None) -> None:
        self.found = 0
        self._results = results
        self._at = at

    def go_on(self, faults: list[Fault], *, until: float, rounds: int | None) -> None:
        """Go on with those that are least far, until then or until each has come to so many rounds."""
        while faults and time.monotonic() < until:
            done = tally.kept(self._results)
            far = {fault: done.get(fault.name, Tally(fault.name)).rounds for fault in faults}
            left_s = until - time.monotonic()
            faults = [
                fault
                for fault in faults
                if (rounds is None or far[fault] < rounds) and 60 * fault.minutes <= left_s
            ]
            if faults:
                fault = min(faults, key=lambda fault: far[fault] / fault.wanted)
                if not self.go(fault, random.SystemRandom().randrange(10**9)):
                    faults.remove(fault)

    def go(self, fault: Fault, seed: int) -> bool:
        """A few rounds of a fault; whether there can be any here."""
        home = Path(tempfile.mkdtemp(prefix=f"kvfs-soak-{fault.name}-", dir=self._at))
        try:
            came = run(fault, home, seed=seed)
        except KeyboardInterrupt:
            shutil.rmtree(home, ignore_errors=True)
            raise
        except pytest.skip.Exception as skipped:
            print(f"{fault.name}: not run: {skipped}", flush=True)
            shutil.rmtree(home)
            return False
        tally.keep(self._results, came)
        print(_shown(came), *came.notes, sep="\n", flush=True)
        if came.clean:
            shutil.rmtree(home)
        else:
            self.found += 1
            print("\n".join(came.findings))
            print(
                f"Again: python -m tests.soak --only {fault.name} --seed {seed}; what is left: {home}",
                flush=True,
            )
        return True


def _shown(came: Tally) -> str:
    return (
        f"{came.fault:16}{came.rounds:4} rounds {came.faults:5} faults {came.requests:8} requests"
        f" {came.acknowledged:8} acknowledged, recovered within {came.recovery_s:.2f} s: "
        + ("clean" if came.clean else f"{came.lost} lost, {came.stale} stale, {came.wrong} wrong")
    )


if __name__ == "__main__":
    main()
