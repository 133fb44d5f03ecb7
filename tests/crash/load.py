"""Load for crash tests, and the record of what was acknowledged.

As a program (`python -m tests.crash.load <path> <table> <seed> [<keep_last>]`) it writes to a store through
the engine until it is killed, and tells of each acknowledged write in a line. With `keep_last` it prunes
meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tests.invariants import Logged

THREADS = 4
KEYS = 12
COUNTER = "count"


@dataclass(frozen=True)
class Ack:
    """An acknowledged write: the op that it must be. `digest` of the value, empty for a delete."""

    key: str
    op_number: int
    digest: str

    def line(self) -> str:
        return f"{self.op_number} {self.digest or '-'} {self.key}\n"


def parse(line: str) -> Ack:
    """The inverse of `Ack.line`."""
    number, digest, key = line.rstrip("\n").split(" ", 2)
    return Ack(key, int(number), "" if digest == "-" else digest)


class Target(Protocol):
    """What the load needs of a store. Each returns the op number."""

    def set(self, key: str, value: bytes, history: bool) -> int: ...

    def incr(self, key: str) -> tuple[int, bytes]: ...

    def delete(self, key: str) -> int | None: ...

    def set_many(self, items: list[tuple[str, bytes]]) -> list[int]: ...


def digest_of(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def write_until(
    stop: Callable[[], bool], target: Target, me: int, seed: int, told: Callable[[Ack], None]
) -> None:
    """Random writes to the keys of one writer, and to a counter of all."""
    chance = random.Random(f"{seed}-{me}")
    number = 0
    while not stop():
        number += 1
        key = f"w{me}/{chance.randrange(KEYS)}" + chance.choice(["", "/below", ""])
        value = f"{seed} {me} {number} ".encode() * chance.choice([1, 1, 1, 200])
        kind = chance.randrange(12)
        if kind == 0:
            value = chance.randbytes(chance.choice([300_000, 300_000, 1_200_000]))
        if kind <= 6:
            told(Ack(key, target.set(key, value, kind != 6), digest_of(value)))
        elif kind <= 8:
            counted, digits = target.incr(COUNTER)
            told(Ack(COUNTER, counted, digest_of(digits)))
        elif kind == 9:
            deleted = target.delete(key)
            if deleted is not None:
                told(Ack(key, deleted, ""))
        else:
            items = [(f"w{me}/batch{each}", value + b"%d" % each) for each in range(4)]
            for (name, content), op_number in zip(items, target.set_many(items), strict=True):
                told(Ack(name, op_number, digest_of(content)))


@dataclass
class Acknowledged:
    """Everything that was acknowledged so far; any thread may add to it.

    `doubtful` are those that were heard when the power was off already, in a test that cuts it: a kernel that
    is told to lose what it has may still answer a sync that was under way.
    """

    acks: list[Ack] = field(default_factory=list)
    doubtful: set[Ack] = field(default_factory=set)

    def add(self, ack: Ack) -> None:
        self.acks.append(ack)

    def missing_from(self, log: Iterable[Logged], *, keep_last: int | None = None) -> list[Ack]:
        """What was acknowledged and is not in the log as it was told, and cannot have been pruned."""
        logged: dict[tuple[str, int], str] = {}
        first_kept: dict[str, int] = {}
        for op in log:
            logged[op.key, op.op_number] = "" if op.value_hash is None else op.value_hash.hex()
            if keep_last is not None:
                first_kept[op.key] = op.op_number - keep_last + 1
        missing = (ack for ack in self.acks if logged.get((ack.key, ack.op_number)) != ack.digest)
        return [
            ack for ack in missing if ack not in self.doubtful and ack.op_number >= first_kept.get(ack.key, 0)
        ]


def main(path: str, table: str, seed: int, keep_last: int | None) -> None:
    """Write until killed, and prune if asked to."""
    import kvfs
    from tests.crash.targets import EngineTarget

    def tell(ack: Ack) -> None:
        os.write(1, ack.line().encode())

    with kvfs.open(path, table) as store:
        os.write(1, b"open\n")
        target = EngineTarget(store)

        def work(me: int) -> None:
            try:
                while me == THREADS:
                    store.prune(keep_last=keep_last)
                write_until(lambda: False, target, me, seed, tell)
            except BaseException:
                traceback.print_exc()
                os._exit(1)

        workers = range(THREADS + (keep_last is not None))
        threads = [threading.Thread(target=work, args=(me,)) for me in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if sys.argv[4:] else None)
