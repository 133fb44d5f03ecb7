"""kvfs beside its peers on this machine, in ratios.

    python -m benchmarks [--short] [--only WORD] [--rounds 5] [--seconds 3] [--at PATH] [--write FILE]

Each line takes turns: kvfs, the peer, kvfs, the peer; its figure is the median of the ratios of the turns,
with the lowest and the highest beside it. The load is wrk's, with 32 connections unless said, on one core,
and the servers on another, where there are two. Peers that are not installed are named, and their lines are
left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.lines import LINES, Bench
from benchmarks.servers import missing


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description="kvfs beside its peers.")
    parser.add_argument("--short", action="store_true", help="the main lines in under a minute")
    parser.add_argument("--only", default="", help="the lines that have this in their names")
    parser.add_argument("--rounds", type=int, help="turns of each side (5; short: 3)")
    parser.add_argument("--seconds", type=int, help="how long a turn is (3; short: 1)")
    parser.add_argument("--at", type=Path, default=Path.cwd(), help="whose disk the stores lie on")
    parser.add_argument(
        "--write", type=Path, help="write the table, and what it was measured on, to this file"
    )
    options = parser.parse_args()
    absent = missing()
    if "wrk" in absent:
        sys.exit("The load comes from wrk, which is not installed (Debian: apt-get install wrk).")
    lines = [line for line in LINES if options.only in line.name and (line.short or not options.short)]
    rounds = options.rounds or (3 if options.short else 5)
    seconds = options.seconds or (1 if options.short else 3)
    with tempfile.TemporaryDirectory(prefix="kvfs-bench-", dir=options.at) as home, ExitStack() as stack:
        bench = Bench(Path(home), stack, rounds=rounds, seconds=seconds)
        print(report.heading())
        rows = []
        for line in lines:
            lacking = [name for name in line.needs if name in absent]
            rows.append(report.Row(line, None if lacking else line.measure(bench), lacking))
            print(report.shown(rows[-1]), flush=True)
    if options.write is not None:
        options.write.write_text(report.document(rows, rounds=rounds, seconds=seconds))


if __name__ == "__main__":
    main()
