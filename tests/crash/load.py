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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kvfs.errors import KvfsError
from tests.contract.driver import StoreError
from tests.invariants import Logged

THREADS = 4
KEYS = 12
LARGE_SHARE = 1 / 7
COUNTER = "count"
NOTHING = ""
"""The digest of a key that is not there."""


@dataclass(frozen=True)
class Ack:
    """An acknowledged write: the op that it must be. `digest` of the value, `NOTHING` for a delete."""

    key: str
    op_number: int
    digest: str

    def line(self) -> str:
        return f"{self.op_number} {self.digest or '-'} {self.key}\n"


def parse(line: str) -> Ack:
    """The inverse of `Ack.line`."""
    number, digest, key = line.rstrip("\n").split(" ", 2)
    return Ack(key, int(number), NOTHING if digest == "-" else digest)


class Target(Protocol):
    """What the load needs of a store. Writes return the op number; `delete` and `get` None for no key."""

    def set(self, key: str, value: bytes, history: bool) -> int: ...

    def incr(self, key: str) -> tuple[int, bytes]: ...

    def delete(self, key: str) -> int | None: ...

    def set_many(self, items: list[tuple[str, bytes]]) -> list[int]: ...

    def get(self, key: str) -> tuple[int, bytes] | None: ...

    def swap(self, key: str, value: bytes, op_number: int) -> int | None:
        """Set the key if that is its op; None if it is not."""


class Misread(Exception):
    """A read whose answer no order of the writes explains; `stale` if it was right once."""

    def __init__(self, message: str, *, stale: bool) -> None:
        super().__init__(message)
        self.stale = stale


def digest_of(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def refuses(error: BaseException) -> bool:
    """Whether an error says that nothing was changed."""
    return isinstance(error, StoreError | KvfsError) and error.details.get("outcome") != "unknown"


Digests = Mapping[str, str]
"""What a write leaves, by keys."""


@dataclass
class Acknowledged:
    """Everything that was acknowledged so far, and what was not; any thread may add to it.

    `from_nothing` says that the store was empty when this began, so that all its keys are known.
    `doubtful` are those that were heard while `doubting`, which is when the power is off already: a kernel
    that is told to lose what it has may still answer a sync that was under way.
    """

    acks: list[Ack] = field(default_factory=list)
    doubtful: set[Ack] = field(default_factory=set)
    doubting: bool = False
    refused: list[Digests] = field(default_factory=list)
    """Writes that failed and changed nothing."""
    unknown: list[Digests] = field(default_factory=list)
    """Writes of which nobody told whether they were done."""
    requests: int = 0
    from_nothing: bool = False

    def __post_init__(self) -> None:
        # What a key may hold: its value, and what unanswered writes would have made of it. A key has one
        # writer, who is the only one to touch its set.
        self._held: dict[str, set[str]] = {}

    def add(self, ack: Ack) -> None:
        """A write was answered."""
        self.acks.append(ack)
        if self.doubting:
            self.doubtful.add(ack)
            self._may_hold(ack.key, ack.digest)
        else:
            self._held[ack.key] = {ack.digest}

    def failed(self, digests: Digests, error: BaseException) -> None:
        """A write was answered with an error, or not at all."""
        if refuses(error):
            self.refused.append(digests)
            return
        self.unknown.append(digests)
        for key, digest in digests.items():
            self._may_hold(key, digest)

    def saw(self, key: str, digest: str) -> None:
        """A key was read when nobody wrote it. Raises `Misread`."""
        if self.doubting:
            return
        held = self._held.get(key, {NOTHING} if self.from_nothing else {digest})
        if digest not in held:
            stale = any(ack.key == key and ack.digest == digest for ack in self.acks)
            wanted = " or ".join(each[:8] or "nothing" for each in held)
            raise Misread(f"{key!r} is {digest[:8] or 'nothing'}, and not {wanted}", stale=stale)
        self._held[key] = {digest}

    def _may_hold(self, key: str, digest: str) -> None:
        if self.from_nothing:
            self._held.setdefault(key, {NOTHING})
        if key in self._held:
            self._held[key].add(digest)

    def written(self) -> list[str]:
        """All keys that may be there, but for those that many write."""
        return [key for key in [*self._held] if key != COUNTER]

    def unanswered(self, key: str) -> int:
        """How many writes of a key may or may not have been done."""
        return sum(key in digests for digests in self.unknown)

    def missing_from(self, log: Iterable[Logged], *, keep_last: int | None = None) -> list[Ack]:
        """What was acknowledged and is not in the log as it was told, and cannot have been pruned."""
        logged: dict[tuple[str, int], str] = {}
        first_kept: dict[str, int] = {}
        for op in log:
            logged[op.key, op.op_number] = NOTHING if op.value_hash is None else op.value_hash.hex()
            if keep_last is not None:
                first_kept[op.key] = op.op_number - keep_last + 1
        missing = (ack for ack in self.acks if logged.get((ack.key, ack.op_number)) != ack.digest)
        return [
            ack for ack in missing if ack not in self.doubtful and ack.op_number >= first_kept.get(ack.key, 0)
        ]


class Writer:
    """Random requests of one client, to keys of its own and to a counter of all.

    Its name is what its keys begin with. What it reads back, by `reads` where that is another connection,
    must be what it wrote. `large_share` of what it sets is large.
    """

    def __init__(
        self,
        target: Target,
        name: str,
        seed: int,
        record: Acknowledged,
        *,
        reads: Target | None = None,
        large_share: float = LARGE_SHARE,
    ) -> None:
        self._target = target
        self._reads = reads or target
        self._name = name
        self._seed = seed
        self._record = record
        self._large_share = large_share
        self._chance = random.Random(f"{seed}-{name}")
        self._number = 0
        self._counted = 0

    def step(self) -> None:
        """One request. Raises what it fails with, when that is on record, and `Misread`."""
        self._number += 1
        self._record.requests += 1
        chance = self._chance
        key = f"{self._name}/{chance.randrange(KEYS)}" + chance.choice(["", "/below", ""])
        kind = chance.randrange(16)
        if kind <= 6:
            value = self._value(large=chance.random() < self._large_share)
            self._write({key: value}, lambda: [self._target.set(key, value, kind != 6)])
        elif kind <= 8:
            self._incr()
        elif kind == 9:
            self._delete(key)
        elif kind <= 11:
            self._set_many()
        elif kind <= 13:
            self._read(key)
        elif kind == 14:
            self._swap(key)
        else:
            self._read_counter()

    def _value(self, *, large: bool = False) -> bytes:
        """No two are alike."""
        if large:
            return self._chance.randbytes(self._chance.choice([300_000, 300_000, 1_200_000]))
        return f"{self._seed} {self._name} {self._number} ".encode() * self._chance.choice([1, 1, 1, 200])

    def _write(self, values: Mapping[str, bytes], do: Callable[[], list[int]]) -> None:
        digests = {key: digest_of(value) for key, value in values.items()}
        try:
            numbers = do()
        except BaseException as error:
            self._record.failed(digests, error)
            raise
        for (key, digest), number in zip(digests.items(), numbers, strict=True):
            self._record.add(Ack(key, number, digest))

    def _incr(self) -> None:
        try:
            number, digits = self._target.incr(COUNTER)
        except BaseException as error:
            self._record.failed({COUNTER: NOTHING}, error)
            raise
        self._record.add(Ack(COUNTER, number, digest_of(digits)))
        self._count(int(digits))

    def _delete(self, key: str) -> None:
        try:
            number = self._target.delete(key)
        except BaseException as error:
            self._record.failed({key: NOTHING}, error)
            raise
        if number is None:
            self._record.saw(key, NOTHING)
        else:
            self._record.add(Ack(key, number, NOTHING))

    def _set_many(self) -> None:
        value = self._value()
        values = {f"{self._name}/batch{each}": value + b"%d" % each for each in range(4)}
        self._write(values, lambda: self._target.set_many([*values.items()]))

    def _read(self, key: str) -> tuple[int, bytes] | None:
        got = self._reads.get(key)
        self._record.saw(key, NOTHING if got is None else digest_of(got[1]))
        return got

    def _swap(self, key: str) -> None:
        """Nobody else writes the key: with its own op number it is swapped, with another one it is not."""
        got = self._read(key)
        if got is None:
            return
        number, value = got[0], self._value()
        right = self._chance.random() < 0.5

        def swap() -> list[int]:
            swapped = self._target.swap(key, value, number if right else number - 1)
            if (swapped is not None) is not right and not self._record.doubting:
                raise Misread(f"{key!r} was{'' if swapped else ' not'} swapped at op {number}", stale=False)
            return [] if swapped is None else [swapped]

        if right:
            self._write({key: value}, swap)
        else:
            swap()
            self._record.refused.append({key: digest_of(value)})

    def _read_counter(self) -> None:
        got = self._reads.get(COUNTER)
        self._count(0 if got is None else int(got[1]))

    def _count(self, counted: int) -> None:
        """The counter never goes back, but when the power was cut."""
        if counted < self._counted and not self._record.doubting:
            raise Misread(f"the counter went from {self._counted} back to {counted}", stale=True)
        self._counted = counted


def write_until(
    stop: Callable[[], bool],
    writer: Writer,
    *,
    bears: Callable[[BaseException], bool] = lambda error: False,
) -> None:
    """Have a writer go on until then, or until it fails with something that it does not bear."""
    while not stop():
        try:
            writer.step()
        except Exception as error:
            if not bears(error):
                raise


class _Telling(Acknowledged):
    """Tells of each acknowledged write at once."""

    def add(self, ack: Ack) -> None:
        os.write(1, ack.line().encode())
        super().add(ack)


def main(path: str, table: str, seed: int, keep_last: int | None) -> None:
    """Write until killed, and prune if asked to."""
    import kvfs
    from tests.crash.targets import EngineTarget

    with kvfs.open(path, table) as store:
        os.write(1, b"open\n")
        target = EngineTarget(store)
        record = _Telling()

        def work(me: int) -> None:
            try:
                while me == THREADS:
                    store.prune(keep_last=keep_last)
                write_until(lambda: False, Writer(target, f"p{me}", seed, record))
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
