"""Time travel, over the op-log alone; written once, for every store.

A key's state at a time is its last op up to then, unless that is a gap: the log then has no value, and
says so instead of guessing. The same holds for what was pruned: of a key whose first op is not there any
more, nobody knows what it was before those that are.

Reads of many keys look at a bounded number of candidates (`candidate_truncated` says that there were more).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Final, NamedTuple

from kvfs.errors import InvalidParameters, KeyNotFound, TimeTravelGap
from kvfs.keys import successor
from kvfs.model import Change, Entry, FileValue, Op, OpType
from kvfs.store import Log, Reader
from kvfs.valueops import expires_after, missing

HISTORY_LIMIT_DEFAULT: Final = 50
HISTORY_LIMIT_MAX: Final = 1000

_HISTORY_MAX_BYTES: Final = 16 << 20
_ANY_SEQ: Final = 2**63 - 1
_GONE: Final = Change(OpType.ROLLBACK, None)
_GAP: Final = "Time-travel chain gap detected for the requested timestamp"


class Operation(NamedTuple):
    """An op, and the key's value before it (None: there was none, or nobody knows)."""

    op: Op
    before: Entry | None


@dataclass(frozen=True, slots=True)
class History:
    """Ops of one key. `total` and `oldest_op_number` speak of all that the log has of it."""

    operations: tuple[Operation, ...]
    total: int
    oldest_op_number: int


@dataclass(frozen=True, slots=True)
class PastKeys:
    """The keys that there were at a time.

    `gap_keys` are those whose state then was not recorded; `candidate_truncated` says that there were
    more keys to look at than a read of the past may.
    """

    keys: tuple[str, ...]
    gap_keys: tuple[str, ...]
    candidate_truncated: bool

    @property
    def has_gaps(self) -> bool:
        return bool(self.gap_keys)


@dataclass(frozen=True, slots=True)
class PastEntries:
    """The first entries, in byte order, of all that there were at a time; `total` counts all of them."""

    entries: tuple[Entry, ...]
    total: int
    gap_keys: tuple[str, ...]
    candidate_truncated: bool

    @property
    def has_gaps(self) -> bool:
        return bool(self.gap_keys)


class Difference(NamedTuple):
    """What became of a key between two times; None where it was not there."""

    key: str
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed between two times, in byte order; `gap_keys` are those of which nobody knows."""

    differences: tuple[Difference, ...]
    gap_keys: tuple[str, ...]
    candidate_truncated: bool

    @property
    def has_gaps(self) -> bool:
        return bool(self.gap_keys)


# --- one key -------------------------------------------------------------------------------------------


def entry_at(log: Log, key: str, ts_ns: int) -> Entry:
    """The key's entry as it was at this instant, ops of that very instant included.

    Raises `KeyNotFound` or `KeyExpired` where there was none, `TimeTravelGap` where it is not known.
    """
    op = _known(log, key, log.seq_at(ts_ns))
    entry = _live(op, ts_ns)
    if entry is None:
        raise missing(expired=op is not None and (op.entry is not None or op.op_type is OpType.EXPIRE))
    entry = _with_value(log, entry)
    _hold(entry)
    return entry


def history(
    log: Reader, key: str, *, limit: int, before: int | None = None, after: int | None = None, newest: bool
) -> History:
    """A page of the key's ops, the newest first or the oldest: beyond op `before`, or `after`.

    Values are in memory; a page of large ones ends early. Raises `KeyNotFound` for a key that has none.
    """
    bounds = log.bounds(key)
    if bounds is None:
        raise KeyNotFound("No history found")
    first, last = bounds
    above = 0 if after is None else min(max(after, 0), last)
    below = last + 1 if before is None else min(max(before, 0), last + 1)
    page = log.history(key, above=above, below=below, limit=limit, newest=newest)
    operations: list[Operation] = []
    near: dict[int, Op | None] = {}
    size = 0
    for facts in page:
        size += 0 if facts.entry is None else facts.entry.size
        if operations and size > _HISTORY_MAX_BYTES:
            break
        numbers = (facts.op_number - 1, facts.op_number)
        near = {number: near[number] if number in near else _whole(log, key, number) for number in numbers}
        earlier, op = near.values()
        assert op is not None
        operations.append(Operation(op, None if earlier is None else earlier.entry))
    return History(tuple(operations), last - first + 1, first)


def snapshot(log: Log, key: str, op_number: int) -> Op:
    """The op after which the key was as asked for, with its value; a `FileValue` is the caller's to close.

    Raises `KeyNotFound` where there is no such op, `TimeTravelGap` where its value is not known.
    """
    bounds = log.bounds(key)
    if bounds is None or not 1 <= op_number <= bounds[1]:
        raise KeyNotFound("No such operation")
    op = log.op(key, op_number)
    if op is None or not op.recorded:
        raise TimeTravelGap("The value after this operation was not recorded, or is pruned")
    if op.entry is not None:
        _hold(op.entry)
    return op


# --- many keys -----------------------------------------------------------------------------------------


def keys_at(log: Log, ts_ns: int, *, prefix: str, after: str | None, limit: int, cap: int) -> PastKeys:
    """The first `limit` keys under a prefix that there were at this instant, in byte order.

    At most `cap` keys that have ever been are looked at.
    """
    seq = log.seq_at(ts_ns)
    keys: list[str] = []
    gaps: list[str] = []
    candidates = _Candidates(_keys_from(log, prefix, after), cap)
    for key in candidates:
        try:
            entry = _live(_known(log, key, seq), ts_ns)
        except TimeTravelGap:
            gaps.append(key)
            continue
        if entry is not None:
            keys.append(key)
            if len(keys) == limit:
                break
    return PastKeys(tuple(keys), tuple(gaps), candidates.truncated)


def entries_at(log: Log, ts_ns: int, *, prefix: str, limit: int, cap: int) -> PastEntries:
    """The entries under a prefix as they were at this instant: the first `limit`, with their values."""
    seq = log.seq_at(ts_ns)
    entries: list[Entry] = []
    gaps: list[str] = []
    total = 0
    candidates = _Candidates(_keys_from(log, prefix, None), cap)
    for key in candidates:
        try:
            entry = _live(_known(log, key, seq), ts_ns)
        except TimeTravelGap:
            gaps.append(key)
            continue
        if entry is not None:
            total += 1
            if len(entries) < limit:
                entries.append(_in_memory(log, entry))
    return PastEntries(tuple(entries), total, tuple(gaps), candidates.truncated)


def diff(log: Reader, from_ns: int, to_ns: int, *, keys: Collection[str] | None, cap: int) -> Diff:
    """What changed between two instants, of these keys or of all.

    A key that changed and changed back is not in it; another content type is a change, another TTL is not.
    Of a key whose state at one of the two is not known, `gap_keys` tells if it may have changed between them.
    Raises `InvalidParameters` where the second is before the first.
    """
    if from_ns > to_ns:
        raise InvalidParameters("from must not be after to")
    from_seq, to_seq = log.seq_at(from_ns), log.seq_at(to_ns)
    differences: list[Difference] = []
    gaps: list[str] = []
    if keys is not None:
        asked: Iterable[str] = _in_order(keys)
    elif to_seq - from_seq > cap:
        asked = log.keys_ever("", None)
    else:
        asked = log.changed_between(from_seq, to_seq, from_ns=from_ns, to_ns=to_ns, limit=cap + 1)
    candidates = _Candidates(asked, cap)
    for key in candidates:
        try:
            before = _live(_known(log, key, from_seq), from_ns)
            after = _live(_known(log, key, to_seq), to_ns)
        except TimeTravelGap:
            if not _unchanged(log, key, (from_seq, from_ns), (to_seq, to_ns)):
                gaps.append(key)
            continue
        if _differ(before, after):
            old = None if before is None else _in_memory(log, before)
            new = None if after is None else _in_memory(log, after)
            differences.append(Difference(key, old, new))
    return Diff(tuple(differences), tuple(gaps), candidates.truncated)


# --- going back ----------------------------------------------------------------------------------------


def undone(log: Log, key: str, last_number: int, steps: int, now_ns: int) -> Change:
    """What undoes a key's last `steps` ops.

    A TTL comes back with what was left of it when the first of them happened; where that was the expiry
    itself, the value comes back without one. Raises `InvalidParameters`, `KeyNotFound` for a key that has
    no ops, `TimeTravelGap`.
    """
    if steps < 1:
        raise InvalidParameters("steps must be 1 or more")
    if not last_number:
        raise KeyNotFound("No history found")
    if steps > last_number:
        raise InvalidParameters(f"steps must be {last_number} or less: there are no more operations")
    number = last_number - steps
    if not number:
        return _GONE
    target, first_undone = log.facts(key, number), log.facts(key, number + 1)
    if target is None or not target.recorded or first_undone is None:
        raise TimeTravelGap("The value to go back to was not recorded, or is pruned")
    # Of what ran out, nothing was left.
    at_ns = None if first_undone.op_type is OpType.EXPIRE else first_undone.ts_ns
    return restoring(log, target.entry, now_ns, at_ns)


def going_back(log: Log, key: str, seq: int, at_ns: int, now_ns: int) -> Difference | None:
    """What the key is now and what it was at an instant, up to which the store's last op was `seq`.

    Without values; None where it is as it was. Raises `TimeTravelGap`.
    """
    now = _live(log.state_at(key, _ANY_SEQ), now_ns)
    then = _live(_known(log, key, seq), at_ns)
    if _differ(now, then):
        return Difference(key, now, then)
    if now is None or then is None or now.expire_ns == _expiry(then, now_ns, at_ns):
        return None
    return Difference(key, now, then)


def restoring(log: Log, then: Entry | None, now_ns: int, at_ns: int | None) -> Change:
    """What makes a key be as it was; its TTL is what was left of it at `at_ns` (None: it gets none)."""
    if then is None:
        return _GONE
    entry = _with_value(log, then)
    expire_ns = _expiry(entry, now_ns, at_ns)
    return Change(OpType.ROLLBACK, entry.value, entry.content_type, expire_ns=expire_ns, sha256=entry.sha256)


class Overlaid:
    """A log, with ops after its last one that are not in it yet. Implements `kvfs.store.Log`."""

    def __init__(self, log: Log, staged: Sequence[Op]) -> None:
        self._log = log
        self._staged = staged
        self._by_key: dict[str, list[Op]] = {}
        for op in staged:
            self._by_key.setdefault(op.key, []).append(op)

    def op(self, key: str, op_number: int) -> Op | None:
        for op in self._by_key.get(key, ()):
            if op.op_number == op_number:
                return op
        return self._log.op(key, op_number)

    def facts(self, key: str, op_number: int) -> Op | None:
        for op in self._by_key.get(key, ()):
            if op.op_number == op_number:
                return op
        return self._log.facts(key, op_number)

    def bounds(self, key: str) -> tuple[int, int] | None:
        staged, bounds = self._by_key.get(key), self._log.bounds(key)
        if not staged:
            return bounds
        return (staged[0].op_number if bounds is None else bounds[0], staged[-1].op_number)

    def seq_at(self, ts_ns: int) -> int:
        for op in reversed(self._staged):
            if op.ts_ns <= ts_ns:
                return op.seq
        return self._log.seq_at(ts_ns)

    def state_at(self, key: str, seq: int) -> Op | None:
        for op in reversed(self._by_key.get(key, ())):
            if op.seq <= seq:
                return op
        return self._log.state_at(key, seq)

    def keys_ever(self, start: str, end: str | None) -> Iterator[str]:
        new = (key for key in self._by_key if self._log.bounds(key) is None)
        return merge(self._log.keys_ever(start, end), sorted(new, key=str.encode), key=str.encode)


# --- parts ---------------------------------------------------------------------------------------------


class _Candidates:
    """Keys to look at, up to a bound; `truncated` says that there were more."""

    def __init__(self, keys: Iterable[str], cap: int) -> None:
        self._keys = iter(keys)
        self._left = cap
        self.truncated = False

    def __iter__(self) -> Iterator[str]:
        for key in self._keys:
            if not self._left:
                self.truncated = True
                return
            self._left -= 1
            yield key


def _keys_from(log: Log, prefix: str, after: str | None) -> Iterator[str]:
    keys = log.keys_ever(max(prefix, after or "", key=str.encode), successor(prefix))
    return (key for key in keys if key != after)


def _in_order(keys: Iterable[str]) -> list[str]:
    return sorted(set(keys), key=str.encode)


def _known(log: Log, key: str, seq: int) -> Op | None:
    """The key's last op up to a seq; None if it had none. Raises `TimeTravelGap` if that is not known."""
    op = log.state_at(key, seq)
    if op is None:
        bounds = log.bounds(key)
        if bounds is not None and bounds[0] > 1:
            raise TimeTravelGap(_GAP)
        return None
    if not op.recorded:
        raise TimeTravelGap(_GAP)
    return op


def _with_value(log: Log, entry: Entry) -> Entry:
    op = log.op(entry.key, entry.op_number)
    assert op is not None
    assert op.entry is not None
    return op.entry


def _hold(entry: Entry) -> None:
    """Open a value that lies in a file of its own: pruning may remove that as soon as the look is over.

    Raises FileNotFoundError where it has already.
    """
    if isinstance(entry.value, FileValue):
        os.fstat(entry.value.fd)


def _in_memory(log: Log, entry: Entry) -> Entry:
    op = _whole(log, entry.key, entry.op_number)
    assert op is not None
    assert op.entry is not None
    return op.entry


def _whole(log: Log, key: str, op_number: int) -> Op | None:
    """An op with its value in memory."""
    op = log.op(key, op_number)
    if op is None or op.entry is None or not isinstance(op.entry.value, FileValue):
        return op
    with op.entry.value as file:
        return op._replace(entry=op.entry.with_value(file.read()))


def _unchanged(log: Log, key: str, before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether nothing happened to a key between two (seq, instant), whatever it was."""
    first, second = log.state_at(key, before[0]), log.state_at(key, after[0])
    if first is None or second is None or first.seq != second.seq:
        return before == after
    return (_live(first, before[1]) is None) == (_live(second, after[1]) is None)


def _expiry(entry: Entry, now_ns: int, at_ns: int | None) -> int | None:
    """When a TTL runs out that has from now on what was left of it at `at_ns`."""
    if entry.expire_ns is None or at_ns is None or entry.expire_ns <= at_ns:
        return None
    return expires_after(now_ns, entry.expire_ns - at_ns)


def _live(op: Op | None, ts_ns: int) -> Entry | None:
    """What an op left, if it was still there at this instant."""
    return None if op is None or op.entry is None or op.entry.expired(ts_ns) else op.entry


def _differ(before: Entry | None, after: Entry | None) -> bool:
    if before is None or after is None:
        return before is not after
    return (before.sha256, before.content_type) != (after.sha256, after.content_type)
