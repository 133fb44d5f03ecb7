"""What a look into the past costs in a long op-log, against the same in a short one.

    python benchmarks/time_travel.py [--ops 10000000] [--keys 100000] [--rounds 5] [--at PATH]

Two tables with as many ops a key: one with `--ops` over `--keys`, one with 10 000 ops over so many keys that
each has the same share of them. They are made once and kept in `build/time_travel/` (`--at` names another
place): the long one takes minutes to make, and gigabytes. A round asks each of them the same questions about
random keys and random times; the median of the rounds is shown.

All that is asked of one key is shown as a ratio of the two tables, in CPU time, system calls included: the
files are in memory soon, and what else the machine is doing matters less so. What goes through many keys is
shown for the long one, in milliseconds on the wall.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import kvfs
from kvfs.database import Database
from kvfs.model import NS, Op, OpType, Origin, value_hash
from kvfs.table import TableStore

TABLE = "past"
SHORT_OPS = 10_000
BATCH_OPS = 100_000
GAP_NS = NS // 100  # from an op to the next one, on average
START_NS = 1_700_000_000 * NS
MINUTE_NS = 60 * NS
PAGE = 50
PREFIX_KEYS = 100
QUESTIONS = 1000
BUILD_CACHE_KIB = 2 << 20
RATIO_GOAL = 2.0
PREFIX_GOAL_MS = 20.0


@dataclass(frozen=True)
class Log:
    """An open table, and how much is in it."""

    store: kvfs.Handle
    keys: int
    ops: int

    def key(self, rng: random.Random) -> str:
        return key_of(rng.randrange(self.keys))

    def moment(self, rng: random.Random) -> int:
        return rng.randrange(START_NS, self.end_ns)

    @property
    def end_ns(self) -> int:
        return START_NS + self.ops * GAP_NS


Question = Callable[[Log, random.Random], object]


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads of the past in a long op-log.")
    parser.add_argument("--ops", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at", type=Path, default=Path("build/time_travel"), help="keep the tables here")
    options = parser.parse_args()
    short_keys = max(1, SHORT_OPS * options.keys // options.ops)
    with (
        opened(options.at, ops=options.ops, keys=options.keys) as long_store,
        opened(options.at, ops=SHORT_OPS, keys=short_keys) as short_store,
    ):
        long = Log(long_store, options.keys, options.ops)
        short = Log(short_store, short_keys, SHORT_OPS)
        print(f"{long.ops} ops over {long.keys} keys, against {short.ops} over {short.keys}")
        compare(long, short, rounds=options.rounds)
        measure_many(long, rounds=options.rounds)


# --- the tables --------------------------------------------------------------------------------------------


def opened(folder: Path, *, ops: int, keys: int) -> kvfs.Handle:
    """The table with so many ops, made if it is not there."""
    path = folder / f"{ops}-ops-{keys}-keys.db"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        unfinished = path.with_suffix(".unfinished")
        for file in folder.glob(unfinished.name + "*"):
            file.unlink()
        fill(unfinished, ops=ops, keys=keys)
        unfinished.rename(path)
        print(f"made {path} in {time.perf_counter() - began:.0f} s")
    return kvfs.open(str(path), TABLE, create=False)


def fill(path: Path, *, ops: int, keys: int) -> None:
    """Make a table with so many sets of random keys, each key at least once; it need not survive a crash."""
    database = Database(str(path), create=True)
    database.connection.pragma("synchronous", "OFF")
    database.connection.pragma("cache_size", -BUILD_CACHE_KIB)
    store = TableStore(database, TABLE)
    making = made(ops, keys)
    # In one transaction: the pages of the index, which all batches change, are written once.
    database.begin(light=False)
    store.tail()
    while batch := list(islice(making, BATCH_OPS)):
        store.write(batch)
    database.commit()
    database.close()


def made(ops: int, keys: int) -> Iterator[Op]:
    rng = random.Random(ops)
    numbers = [0] * keys
    created_s = [0] * keys
    ts_ns = START_NS
    for seq in range(1, ops + 1):
        which = seq - 1 if seq <= keys else rng.randrange(keys)
        ts_ns += round(rng.expovariate(1) * GAP_NS)
        numbers[which] += 1
        created_s[which] = created_s[which] or ts_ns // NS
        value = b'{"seq": %d, "text": "as long as values are now and then"}' % seq
        key, now_s = key_of(which), ts_ns // NS
        entry = kvfs.Entry(
            key, value, len(value), "application/json", created_s[which], now_s, None, numbers[which],
            value_hash(value),
        )  # fmt: skip
        yield Op(seq, key, numbers[which], OpType.SET, Origin.API, ts_ns, entry)


def key_of(number: int) -> str:
    """A hundred keys share a prefix."""
    return f"users/{number // PREFIX_KEYS:06}/{number % PREFIX_KEYS:02}"


# --- measuring ---------------------------------------------------------------------------------------------


def compare(long: Log, short: Log, *, rounds: int) -> None:
    """Print what a look at one key's past costs in each, and the ratios."""
    questions: dict[str, Question] = {
        "a page of a history": lambda log, rng: log.store.history(
            log.key(rng), limit=PAGE, before=rng.randrange(2, 100)
        ),
        "a snapshot after an op": lambda log, rng: log.store.snapshot(log.key(rng), rng.randrange(1, 20)),
        "a value at a time": value_at,
    }
    for name, ask in questions.items():
        costs: dict[Log, list[float]] = {long: [], short: []}
        for turn in range(rounds):
            for log, times in costs.items():
                times.append(timed(partial(ask_often, ask, log, turn), time.process_time) / QUESTIONS)
        ratio = median(a / b for a, b in zip(costs[long], costs[short], strict=True))
        show(name, f"{median(costs[long]) * 1e6:.0f} µs")
        show("  in the short log", f"{median(costs[short]) * 1e6:.0f} µs")
        show("  ratio", f"{ratio:.2f}", goal=RATIO_GOAL)


def ask_often(ask: Question, log: Log, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(QUESTIONS):
        ask(log, rng)


def value_at(log: Log, rng: random.Random) -> kvfs.Entry | None:
    try:
        return log.store.get_at(log.key(rng), log.moment(rng))
    except kvfs.errors.KeyNotFound:
        return None  # it was made later


def measure_many(log: Log, *, rounds: int) -> None:
    """Print what goes through many keys."""
    rng = random.Random(log.ops)
    minute = log.moment(rng)
    last = log.end_ns - MINUTE_NS
    questions: dict[str, Callable[[], object]] = {
        "a table of 100 keys, by a prefix": lambda: log.store.snapshot_at(
            log.moment(rng), prefix=log.key(rng)[:-2]
        ),
        "a table of all keys, 100 shown": lambda: log.store.snapshot_at(log.moment(rng)),
        "a table of all keys, 1000 shown": lambda: log.store.snapshot_at(log.moment(rng), limit=1000),
        "what changed in a minute": lambda: log.store.diff(minute, minute + MINUTE_NS),
        "what changed in the last minute": lambda: log.store.diff(last, log.end_ns),
        "what changed in all": lambda: log.store.diff(START_NS, log.end_ns),
    }
    for name, ask in questions.items():
        times_ms = [timed(ask) * 1000 for _ in range(rounds)]
        show(name, f"{median(times_ms):.1f} ms", goal=PREFIX_GOAL_MS if "prefix" in name else None)


def timed(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How many seconds it takes."""
    start = clock()
    action()
    return clock() - start


def show(what: str, figure: str, *, goal: float | None = None) -> None:
    bound = "" if goal is None else f"   (goal: at most {goal:g})"
    print(f"  {what:<42}{figure:>10}{bound}", flush=True)


if __name__ == "__main__":
    main()
