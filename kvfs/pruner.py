"""Prunes a store through its writer: on demand, and as its retention says.

Both are made of steps, each a few milliseconds of a batch, so that reads and writes go on meanwhile.

Retention goes through all keys once. From then on an op can make others removable at two times only: when it
has become old, so that nobody may ask any more for what was before it; and when it is new, so that its key
may have one op too many. Up to where ops were looked at for the one and for the other is noted in the log
(`aged_seq`, `counted_seq`), and only the ops after that are looked at. So what it costs grows with what there
is to remove, and is nothing where nothing happened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final, Protocol, TypeVar

from kvfs.config import Config
from kvfs.errors import InvalidParameters, KvfsError, Unavailable
from kvfs.model import KEEP_EVERYTHING, NS, Clock, Retention, Unchanged
from kvfs.retention import Standing
from kvfs.sqlite import Space
from kvfs.status import Pruned
from kvfs.store import AllKeys, Cut, KeysOf, Reader, Step, Store, Walk
from kvfs.writer import Batch, Writer

T = TypeVar("T")

_SHRINK_PAGES: Final = 200
_BLOBS_AT_ONCE: Final = 200
_FREE_MIN_BYTES: Final = 1 << 20
_FREE_PART: Final = 4
_PATIENCE_S: Final = 3.0
_MOST: Final = 2**53 - 1


class Look(Protocol):
    """What `read` makes of one consistent look at the store."""

    def __call__(self, read: Callable[[Reader], T], deadline: float | None) -> T: ...


class Pruner:
    """Prunes one store. Any thread may `prune`; only one at a time changes or enforces its retention."""

    def __init__(self, store: Store, writer: Writer, look: Look, *, config: Config, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._look = look
        self._config = config
        self._clock = clock
        # Guards `_pass` and `_shrinking`. A retention that was changed is not enforced as it was any more.
        self._retaining = threading.Lock()
        self._pass: _Pass | None = None
        self._shrinking = False

    # --- on demand ---------------------------------------------------------------------------------------

    def prune(self, *, before_ns: int | None, keep_last: int | None, deadline: float | None) -> Pruned:
        """See `kvfs.handle.Handle.prune`."""
        if before_ns is None and keep_last is None:
            raise InvalidParameters("give before, keep_last, or both")
        _check("keep_last", keep_last)
        self._store.check_writable()
        tally = _Tally()
        stopped_by = None
        try:
            cut = Cut(self._horizon(before_ns, deadline), keep_last)
            for _ in self._walk(AllKeys(), cut, deadline, tally):
                pass
            tally.freed_bytes += self._drop_orphans(deadline)
            tally.freed_bytes += self._give_back(deadline)
        except KvfsError as exc:
            if not tally.removed:
                raise
            stopped_by = exc.code
        pruned_seq = self._look(lambda reader: reader.pruned_seq(), None)
        free_bytes = self._shrink(0, None).free_bytes
        return Pruned(tally.removed, tally.keys, stopped_by, pruned_seq, tally.freed_bytes, free_bytes)

    # --- by retention ------------------------------------------------------------------------------------

    def set_retention(
        self, *, keep_last: int | Unchanged | None, max_age_s: int | Unchanged | None, deadline: float | None
    ) -> Retention:
        """See `kvfs.handle.Handle.set_retention`."""
        given = {"keep_last": keep_last, "max_age_s": max_age_s}
        changes = {name: value for name, value in given.items() if not isinstance(value, Unchanged)}
        for name, value in changes.items():
            _check(name, value)
        self._store.check_writable()

        def change(standing: Standing) -> Standing:
            retention = standing.retention._replace(**changes)
            if retention == standing.retention:
                return standing
            return Standing(retention, standing.pruned_seq)

        with self._retaining:
            return self._submit(partial(self._store.change_standing, change), deadline).retention

    def retain(self, deadline: float) -> None:
        """Enforce the retention until the deadline (monotonic seconds); the rest is for the next time."""
        if self._store.read_only:
            return
        with self._retaining:
            standing, due = self._look(self._due, deadline)
            if self._pass is None or self._pass.retention != standing.retention:
                self._pass = due
            if self._pass is not None and self._enforce(self._pass, deadline):
                self._pass = None
            if self._shrinking and time.monotonic() < deadline:
                self._shrinking = self._shrink_where_mostly_free(deadline)

    def _due(self, reader: Reader) -> tuple[Standing, _Pass | None]:
        """The store's standing, and what there is to do to enforce it now."""
        standing = reader.standing()
        if standing.retention == KEEP_EVERYTHING:
            return standing, None
        grace_s = self._config.retention_grace_s
        age_s = max(grace_s, standing.retention.max_age_s or 0)
        settled, now_ns = reader.settled_seq(), self._clock()
        aged, counted = (min(settled, reader.seq_at(now_ns - int(s * NS))) for s in (age_s, grace_s))
        walks = _walks(standing, aged, counted)
        return standing, _Pass(standing.retention, aged, counted, walks) if walks else None

    def _enforce(self, current: _Pass, deadline: float) -> bool:
        """Go on with a pass; whether it is through."""
        cut = Cut(current.aged, current.retention.keep_last)
        patience = deadline + _PATIENCE_S
        while current.walks:
            for left in self._walk(current.walks[0], cut, patience, current.tally, under=current.retention):
                current.walks[:1] = [] if left is None else [left]
                if time.monotonic() >= deadline:
                    return False
        self._submit(partial(self._store.change_standing, current.noted_in), patience)
        self._shrinking = self._shrinking or current.tally.removed > 0
        return True

    def _shrink_where_mostly_free(self, deadline: float) -> bool:
        """Give free pages back if they are many; whether to go on with that.

        A few stay for what is written next, which would only make the file grow again.
        """
        space = self._shrink(0, deadline + _PATIENCE_S)
        if space.free_bytes < max(_FREE_MIN_BYTES, space.size_bytes // _FREE_PART):
            return False
        return self._give_back(deadline) > 0

    # --- parts -------------------------------------------------------------------------------------------

    def _horizon(self, before_ns: int | None, deadline: float | None) -> int:
        """Up to which seq ops may go, except for the last one of each key up to there."""
        # The first look makes sure that what a crash has left is done, and then all can be made durable.
        self._look(lambda reader: None, deadline)
        mark = self._store.volume.sync()
        if mark is not None:
            self._submit(partial(self._store.volume.synced, mark), deadline)

        def horizon(reader: Reader) -> int:
            settled = reader.settled_seq()
            return settled if before_ns is None else min(settled, reader.seq_at(before_ns))

        return self._look(horizon, deadline)

    def _walk(
        self,
        walk: Walk,
        cut: Cut,
        deadline: float | None,
        tally: _Tally,
        *,
        under: Retention | None = None,
    ) -> Iterator[Walk | None]:
        """Prune step by step; what is left to walk after each, when it is durable.

        It ends where the store has another retention by then than the one it is to be pruned `under`.
        """
        left: Walk | None = walk
        while left is not None:
            step = self._submit(partial(self._step, left, cut, under), deadline)
            tally.removed += step.removed
            tally.keys += step.keys
            if step.blobs:
                tally.freed_bytes += self._submit(partial(self._store.drop_blobs, step.blobs), None)
            left = step.walk
            yield left

    def _step(self, walk: Walk, cut: Cut, under: Retention | None) -> Step:
        # Another process may have changed the retention, and been told that it holds.
        if under is not None and self._store.change_standing(_as_it_is).retention != under:
            return Step(None)
        return self._store.prune(walk, cut)

    def _drop_orphans(self, deadline: float | None) -> int:
        """Drop blobs that were left where a pruning ended between their ops and them; their bytes."""
        hashes = self._store.blobs()
        freed = 0
        while some := frozenset(islice(hashes, _BLOBS_AT_ONCE)):
            freed += self._submit(partial(self._store.drop_blobs, some), deadline)
        return freed

    def _give_back(self, deadline: float | None) -> int:
        """Give free pages back to the file system, as many as the time allows; their bytes."""
        freed = 0
        with suppress(Unavailable):
            while deadline is None or time.monotonic() < deadline:
                given_back = self._shrink(_SHRINK_PAGES, deadline).given_back_bytes
                if not given_back:
                    break
                freed += given_back
        if freed:
            self._store.volume.checkpoint()
        return freed

    def _shrink(self, pages: int, deadline: float | None) -> Space:
        return self._submit(partial(self._store.volume.shrink, pages), deadline)

    def _submit(self, run: Callable[[], T], deadline: float | None) -> T:
        """Have the writer do something that is part of a batch."""

        def work(batch: Batch) -> T:
            batch.on(self._store)
            return run()

        return self._writer.submit(work, deadline=deadline, heavy=True).wait(deadline)


@dataclass(slots=True)
class _Tally:
    """What was removed so far: ops, the keys of which all went that was to go, bytes of files."""

    removed: int = 0
    keys: int = 0
    freed_bytes: int = 0


@dataclass(slots=True)
class _Pass:
    """One time of going through what has come to be in question; `walks` are still to be gone."""

    retention: Retention
    aged: int
    counted: int
    walks: list[Walk]
    tally: _Tally = field(default_factory=_Tally)

    def noted_in(self, standing: Standing) -> Standing:
        """The standing when this is through."""
        if standing.retention != self.retention:
            return standing
        return standing._replace(
            aged_seq=max(standing.aged_seq, self.aged), counted_seq=max(standing.counted_seq, self.counted)
        )


def _walks(standing: Standing, aged: int, counted: int) -> list[Walk]:
    """Where ops may be that a retention does not keep, and that nobody has looked at since."""
    if not standing.aged_seq:
        return [AllKeys()] if aged else []
    walks: list[Walk] = []
    if aged > standing.aged_seq:
        walks.append(KeysOf(standing.aged_seq, aged))
    # With one rule alone, what has become old enough for the other is all that is in question.
    if None not in standing.retention and counted > standing.counted_seq:
        walks.append(KeysOf(standing.counted_seq, counted))
    return walks


def _as_it_is(standing: Standing) -> Standing:
    return standing


def _check(name: str, value: int | None) -> None:
    if value is not None and (type(value) is not int or not 1 <= value <= _MOST):
        raise InvalidParameters(f"{name} must be an integer from 1 to {_MOST}")
