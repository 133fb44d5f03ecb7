"""Tries made-up inputs on every target, and prints a line of JSON for each; `make fuzz`.

With the same seed the inputs are the same. Exits with 1 where a target failed.
"""

from __future__ import annotations

import json
import math
import sys
import time

import click

from tests.fuzz.child import tried
from tests.fuzz.targets import TARGETS


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="How many, of all targets together.")
@click.option("--only", multiple=True, help="The names of the targets; without it all of them.")
@click.option("--seed", default=1, show_default=True, help="Which inputs.")
def main(inputs: int, only: tuple[str, ...], seed: int) -> None:
    """Try made-up inputs on what reads what others write."""
    targets = [target for target in TARGETS if not only or target.name in only]
    shares = sum(target.share for target in targets)
    failed = False
    total = 0
    for target in targets:
        began = time.monotonic()
        count, failure = tried(target.name, math.ceil(inputs * target.share / shares), seed)
        failed |= failure is not None
        total += count
        seconds = round(time.monotonic() - began, 1)
        line = {"target": target.name, "inputs": count, "seconds": seconds, "failure": failure}
        print(json.dumps(line), flush=True)
    print(json.dumps({"target": "all", "inputs": total, "seed": seed}), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
