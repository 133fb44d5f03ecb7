"""Having the writer look at what was done to a store behind the server's back, before it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple, TypeVar

from kvfs.errors import Overloaded, from_os_error
from kvfs.keys import check_key
from kvfs.model import Clock, Op, Origin
from kvfs.pending import Pending
from kvfs.store import Reader, Store, Unsettled
from kvfs.writer import Batch, Writer

T = TypeVar("T")

_ATTEMPTS: Final = 20
_REAP_CHUNK: Final = 500


class Settled(NamedTuple):
    """What came of looking at some keys: how many they were, those that had changed, the ops for that."""

    looked: int
    changed: int
    recorded: int


class Settler:
    """Settles one store. Any thread may use it; deadlines are in monotonic seconds."""

    def __init__(self, store: Store, writer: Writer, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock

    def look(self, read: Callable[[Reader], T], deadline: float | None) -> T:
        """What `read` makes of one consistent look, when nothing is left that a crash has left undone."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._store.reading(self._clock(), deadline) as reader:
                    return read(reader)
            except Unsettled as exc:
                self.settle(iter(exc.keys), deadline)
            except FileNotFoundError as exc:
                if attempt:  # the first time it may have been pruned since the look began
                    raise from_os_error(exc, "read a large value of the past") from exc
        raise Overloaded("The folder's index is lost again and again", retry_after_s=1)

    def enter_look(self, stack: ExitStack, now_ns: int, deadline: float | None) -> Reader:
        """A consistent look at an instant, for as long as the stack lasts."""
        for _ in range(_ATTEMPTS):
            try:
                return stack.enter_context(self._store.reading(now_ns))
            except Unsettled as exc:
                self.settle(iter(exc.keys), deadline)
        raise Overloaded("The folder's index is lost again and again", retry_after_s=1)

    def settle_all(self, deadline: float | None) -> None:
        """Have the writer look at every key."""
        # Only when recovery is through does the store know which keys there were.
        self.settle(iter(()), deadline)
        self.settle(self.everything(), deadline)
        self.note_baseline(deadline)

    def note_baseline(self, deadline: float | None) -> None:
        """All that a folder held when it was first seen is in the log."""

        def note(batch: Batch) -> None:
            batch.on(self._store)
            self._store.baseline_done()

        self._writer.submit(note, deadline=deadline, heavy=True).wait(deadline)

    def reap(self, deadline: float | None) -> Pending[int] | None:
        """Have the expiry logged of keys whose TTL has run out, if there are any: some of them."""
        due = self._store.next_expiry()
        if due is None or due > self._clock():
            return None
        return self._writer.submit(
            lambda batch: batch.on(self._store).expire_due(_REAP_CHUNK), deadline=deadline, heavy=True
        )

    def reap_all(self, deadline: float | None) -> int:
        """Have all expiries logged up to an instant, which this returns (Unix nanoseconds)."""
        now_ns = self._clock()
        while (reaping := self.reap(deadline)) is not None and reaping.wait(deadline):
            pass
        return now_ns

    def copy_to(self, path: str, *, locked: bool) -> None:
        """See `kvfs.handle.Handle.copy_to`."""
        self.settle_all(None)
        try:
            self._store.copy_to(path, locked=locked)
        except (Unsettled, FileNotFoundError) as exc:
            raise Overloaded("What is copied was changed meanwhile", retry_after_s=1) from exc

    def settle(self, keys: Iterator[str] | None, deadline: float | None) -> None:
        """Have the writer look at these keys, some at a time, and log what was done to them."""
        for _ in self.settling(keys, deadline):
            pass

    def settling(self, keys: Iterator[str] | None, deadline: float | None) -> Iterator[Settled]:
        """As `settle`, telling of each step."""
        if keys is None:
            return
        looking = Looking(keys)

        def look(batch: Batch) -> tuple[bool, Sequence[Op]]:
            transaction = batch.on(self._store)
            before = len(transaction.staged)
            return transaction.settle(looking.again()), transaction.staged[before:]

        done = False
        while not done:
            done, ops = self._writer.submit(look, deadline=deadline, heavy=True).wait(deadline)
            changed = sum(op.origin is Origin.FILE for op in ops)
            yield Settled(looking.went_through(), changed, len(ops))

    def settle_keys(self, keys: Sequence[str], deadline: float | None) -> None:
        """Have what was done to keys in their history. Raises as `check_key`."""
        for key in keys:
            check_key(key)
        stale = self._store.unsettled_among(keys)
        if stale:
            self.settle(iter(stale), deadline)

    def settle_until(self, ts_ns: int, deadline: float | None) -> None:
        """Have what was done up to an instant in the history.

        Nothing is to be done for the past: an edit counts from when it was seen.
        """
        if ts_ns >= self._clock():
            self.settle(self.everything(), deadline)

    def settle_soon(self, keys: Sequence[str]) -> Pending[bool]:
        """Have the writer look at keys when it comes to it."""
        looking = Looking(iter(keys))
        return self._writer.submit(lambda batch: batch.on(self._store).settle(looking.again()), heavy=True)

    def everything(self) -> Iterator[str] | None:
        """All keys that may have been changed."""
        return self._store.scan("", self._clock(), everything=True)


class Looking:
    """Keys to look at: a batch that begins again gets again what it had."""

    def __init__(self, keys: Iterator[str]) -> None:
        self._keys = keys
        self._ahead: deque[str] = deque()
        self._given: list[str] = []

    def again(self) -> Iterator[str]:
        """The keys that no batch has gone through yet."""
        self._ahead.extendleft(reversed(self._given))
        self._given.clear()
        while True:
            try:
                key = self._ahead.popleft() if self._ahead else next(self._keys)
            except StopIteration:
                return
            self._given.append(key)
            yield key

    def went_through(self) -> int:
        """A batch has gone through what it had; how many that were."""
        looked = len(self._given)
        self._given.clear()
        return looked


def noting(keys: Iterator[str], noted: set[str]) -> Iterator[str]:
    """The keys, which are noted as they come. Not a generator: it goes on after `keys` has failed."""

    def note(key: str) -> str:
        noted.add(key)
        return key

    return map(note, keys)
