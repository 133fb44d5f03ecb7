"""A batch of writes on one store: each is decided against the state as its predecessors left it.

Nothing here touches the store's durable state before `flush`; so a write that fails leaves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from itertools import islice
from typing import Final, cast

from kvfs import timetravel, valueops
from kvfs.config import Config
from kvfs.errors import CasMismatch, FileSystemError, ImportConflict, NotFound, PathConflict, TimeTravelGap
from kvfs.model import (
    INLINE_MAX_BYTES,
    NS,
    UNCONDITIONAL,
    BatchDelete,
    BatchSet,
    Change,
    Clock,
    Delete,
    Entry,
    FileValue,
    KeyState,
    KeyWrite,
    Op,
    OpType,
    Outcome,
    Rollback,
    RollbackTable,
    Write,
    WriteResult,
    value_bytes,
    value_hash,
)
from kvfs.store import EmptyReader, Log, SelfContained, Store, TooHeavy

_EXPIRED: Final = Change(OpType.EXPIRE, None)
_SETTLE_KEYS: Final = 2000
_SETTLE_AHEAD: Final = 100
_SETTLE_BYTES: Final = 16 << 20


class Transaction:
    """The writer's view of one store between `begin` and `commit`."""

    def __init__(self, store: Store, *, clock: Clock, config: Config, light: bool) -> None:
        self._store = store
        self._light = light
        self._clock = clock
        self._config = config
        self._seq, self._ts_ns = store.tail()
        self._states: dict[str, KeyState] = {}
        self._ops: list[Op] = []
        # A history that is imported tells of expiries itself; one logged here would come before its rest.
        last = store.last_import()
        self._logs_expiries = last is None or not last.waits_at(self._seq)

    def apply(self, write: Write) -> Outcome:
        """Decide a write and stage its ops, all or none of them."""
        if not (isinstance(write, RollbackTable) and write.dry_run):
            self._store.check_writable()
            self._logs_expiries = True
        match write:
            case BatchSet():
                return Outcome(self._batch_set(write))
            case BatchDelete():
                return Outcome(self._batch_delete(write))
            case Rollback():
                return Outcome((self._roll_back(write),))
            case RollbackTable():
                return Outcome(self._roll_back_table(write))
            case _:
                return Outcome((self._apply_one(write),))

    def state(self, key: str) -> KeyState:
        """The key's present state; what happened behind the server's back, and an expiry, become ops."""
        state = self._states.get(key)
        if state is None:
            state = self._store.load(key)
            if state.unlogged is not None:
                state = self._log_what_was_done(key, state, state.unlogged)
            self._states[key] = state
        entry = state.entry
        if entry is not None and entry.expire_ns is not None and entry.expired(self._now()):
            if self._store.read_only or not self._logs_expiries:
                return state._replace(entry=None, expired=True)
            state = self._stage(key, state, _EXPIRED)
        return state

    def _log_what_was_done(self, key: str, state: KeyState, done: Change) -> KeyState:
        """Stage what somebody did to a key behind the server's back."""
        logs_expiries = self._logs_expiries and not self._store.read_only
        if logs_expiries and state.entry is not None and state.entry.expired(self._now()):
            # Whatever was put there since must not go with what has run out.
            state = self._stage(key, state, _EXPIRED)
            if done.value is None:
                return state
            done = done._replace(expire_ns=None)
        return self._stage(key, state, done)

    def entry(self, key: str) -> Entry:
        """The key's present entry with its value; `KeyNotFound` or `KeyExpired` where there is none."""
        state = self._unblocked(key)
        if state.entry is None:
            raise valueops.missing(expired=state.expired)
        value = state.entry.value
        if value is None:
            return state.entry.with_value(self._store.load_value(key))
        if isinstance(value, FileValue):
            # What is staged is closed with the batch.
            return state.entry.with_value(FileValue(os.dup(value.fd), value.size))
        return state.entry

    def expire_due(self, limit: int) -> int:
        """Stage the expiry of up to `limit` keys whose TTL has run out; how many there were."""
        if not self._logs_expiries:
            return 0
        keys = self._store.due(self._now(), limit)
        for key in keys:
            self.state(key)
        return len(keys)

    def settle(self, keys: Iterator[str]) -> bool:
        """Look at keys, so that what happened to them becomes ops; True when there are no more.

        Some at a time: a batch holds the values of what it logs.
        """
        looked = size = 0
        while ahead := list(islice(keys, _SETTLE_AHEAD)):
            self._store.prefetch(ahead)
            staged = len(self._ops)
            for key in ahead:
                try:
                    self.state(key)
                except FileSystemError:
                    continue  # it says so to whoever asks for that key, and keeps no other back
            looked += len(ahead)
            size += sum(op.entry.size for op in self._ops[staged:] if op.entry is not None)
            if looked >= _SETTLE_KEYS or size > _SETTLE_BYTES:
                return False
        return True

    # --- what comes from elsewhere --------------------------------------------------------------------

    @property
    def tail(self) -> int:
        """The seq of the last op, staged ones among them."""
        return self._seq

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All that is staged inside, or nothing of it where that fails."""
        undo = self._mark()
        try:
            yield
        except BaseException:
            self._undo(undo)
            raise

    def put(self, entry: Entry) -> None:
        """Stage an entry from elsewhere, whole, as a set of now; it expires when it says."""
        self._logs_expiries = True
        state = self._writable(entry.key)
        now_ns = self._now()
        assert entry.value is not None
        change = Change(
            OpType.SET,
            entry.value,
            entry.content_type,
            expire_ns=entry.expire_ns,
            ttl_s=entry.ttl_left_s(now_ns),
            sha256=entry.sha256,
        )
        self._stage(entry.key, state, change, ts_ns=now_ns)

    def append(self, op: Op) -> None:
        """Stage an op from elsewhere as it was logged there, with its seq, number and time.

        Raises `ImportConflict` where it does not follow what there is: its seq, its time, or its number
        among the ops of its key; also where somebody has edited the key's file.
        """
        self._logs_expiries = False
        before = self._seq
        state = self._writable(op.key)
        if self._seq != before:
            raise ImportConflict(f"{op.key!r} was changed here since the import began")
        if op.seq <= before or op.ts_ns < self._ts_ns:
            raise ImportConflict(f"op {op.op_number} of {op.key!r} is from before the last that is there")
        if state.last_op_number not in (0, op.op_number - 1):
            raise ImportConflict(
                f"op {op.op_number} of {op.key!r} does not follow op {state.last_op_number}, its last here"
            )
        recorded = op.recorded and (op.left is None or op.left.size <= self._config.history_max_value_bytes)
        self._seq, self._ts_ns = op.seq, op.ts_ns
        self._ops.append(op._replace(recorded=recorded))
        expired = op.op_type is OpType.EXPIRE
        self._states[op.key] = KeyState(op.left, op.op_number, expired=expired)

    @property
    def staged(self) -> Sequence[Op]:
        """The ops so far."""
        return self._ops

    def create(self) -> None:
        """Make the store, if it is not there yet."""
        self._store.create()

    def flush(self) -> None:
        """Hand the staged ops to the store."""
        if self._ops:
            self._store.write(self._ops)

    # --- deciding ---------------------------------------------------------------------------------------

    def _apply_one(self, write: KeyWrite) -> WriteResult:
        situation = self._situation(write.key)
        valueops.check_conditions(write.conditions, situation)
        return self._decide(write, situation)

    def _roll_back(self, write: Rollback) -> WriteResult:
        situation = self._situation(write.key)
        valueops.check_conditions(write.conditions, situation)
        state, key = situation.state, write.key
        with self._store.log() as committed:
            log = timetravel.Overlaid(committed, self._ops)
            change = timetravel.undone(log, key, state.last_op_number, write.steps, situation.ts_ns)
        self._stage(key, state, change, ts_ns=situation.ts_ns)
        gone = change.value is None
        return WriteResult(
            key, situation.next_op_number, created=state.entry is None and not gone, removed=int(gone)
        )

    def _roll_back_table(self, write: RollbackTable) -> tuple[WriteResult, ...]:
        """Restore and remove keys, all or none: where that of any key is not known, nothing is staged.

        The future is taken as the present. A key that would change while its file name is taken by what is
        no key fails it all with `PathConflict`: to leave such keys out is for `exclude_keys` to say. One that
        was not there and is not is no conflict.
        """
        self._look_at(write)
        now_ns = self._now()
        at_ns = min(write.to_ns, now_ns)
        changes: list[tuple[KeyState, timetravel.Difference]] = []
        gaps: list[str] = []
        with self._store.log() as committed:
            log = timetravel.Overlaid(committed, tuple(self._ops))
            seq = log.seq_at(at_ns)
            for key in _rolled_back(write, log):
                try:
                    change = timetravel.going_back(log, key, seq, at_ns, now_ns)
                except TimeTravelGap:
                    gaps.append(key)
                    continue
                if change is not None:
                    changes.append((self._writable(key), change))
            if gaps:
                raise TimeTravelGap("The state of some keys at that time is not known", gap_keys=gaps)
            if not write.dry_run:
                now_ns = self._now()
                made = [timetravel.restoring(log, change.after, now_ns, at_ns) for _, change in changes]
                for (state, change), restored in zip(changes, made, strict=True):
                    self._stage(change.key, state, restored, ts_ns=now_ns)
        return tuple(
            WriteResult(
                change.key,
                state.last_op_number + (not write.dry_run),
                created=change.before is None,
                removed=int(change.after is None),
            )
            for state, change in changes
        )

    def _look_at(self, write: RollbackTable) -> None:
        """Have what was done behind the server's back to the keys that may be rolled back among the ops."""
        scanned = self._store.scan("", self._now(), everything=True) if write.keys is None else None
        for key in write.keys or scanned or ():
            with suppress(FileSystemError):
                self.state(key)  # it is told again if the key is to change

    def _writable(self, key: str) -> KeyState:
        state = self._unblocked(key)
        if state.hidden is not None:
            raise PathConflict(state.hidden)
        return state

    def _decide(self, write: KeyWrite, situation: valueops.Situation) -> WriteResult:
        change, result = valueops.decide(write, situation)
        if change is not None:
            self._stage(write.key, situation.state, change, ts_ns=situation.ts_ns)
        return result

    def _batch_set(self, write: BatchSet) -> tuple[WriteResult, ...]:
        failed: list[str] = []
        current_etag: object = None
        self._store.prefetch([item.key for item in write.items if item.key not in self._states])
        for item in write.items:
            if item.conditions is UNCONDITIONAL:
                continue
            try:
                valueops.check_conditions(item.conditions, self._situation(item.key))
            except CasMismatch as exc:
                current_etag = current_etag if failed else exc.details["current_etag"]
                failed.append(item.key)
        if failed:
            raise CasMismatch("Conditions of the batch do not hold", current_etag=current_etag, failed=failed)
        with self.whole():
            return tuple(self._decide(item, self._situation(item.key)) for item in write.items)

    def _batch_delete(self, write: BatchDelete) -> tuple[WriteResult, ...]:
        results = []
        self._store.prefetch([key for key in write.keys if key not in self._states])
        with self.whole():
            for key in write.keys:
                try:
                    results.append(self._apply_one(Delete(key, history=write.history)))
                except NotFound:
                    continue
        return tuple(results)

    def _situation(self, key: str) -> valueops.Situation:
        state = self._writable(key)
        return valueops.Situation(state, partial(self._load, key), self._now(), self._config.max_value_bytes)

    def _unblocked(self, key: str) -> KeyState:
        state = self.state(key)
        if state.blocked is not None:
            raise PathConflict(state.blocked)
        return state

    def _load(self, key: str) -> bytes:
        entry = self._states[key].entry
        assert entry is not None
        if entry.value is not None:
            return value_bytes(entry.value)
        if self._light and entry.size > INLINE_MAX_BYTES:
            raise TooHeavy
        value = self._store.load_value(key)
        if isinstance(value, FileValue):
            with value:
                return value.read()
        return value

    # --- staging ----------------------------------------------------------------------------------------

    def _now(self) -> int:
        """The time of an op decided now: never before the last op's, whatever the clock does."""
        return max(self._clock(), self._ts_ns)

    def _stage(self, key: str, state: KeyState, change: Change, *, ts_ns: int | None = None) -> KeyState:
        ts_ns = self._now() if ts_ns is None else ts_ns
        self._seq += 1
        self._ts_ns = ts_ns
        number = state.last_op_number + 1
        entry = None if change.value is None else _entry(key, number, ts_ns, state.entry, change)
        op_type = change.op_type
        recorded = change.recorded and (entry is None or entry.size <= self._config.history_max_value_bytes)
        op = Op(self._seq, key, number, op_type, change.origin, ts_ns, entry, recorded, change.ttl_s)
        self._ops.append(op)
        expired = op_type is OpType.EXPIRE
        state = state._replace(entry=entry, last_op_number=number, expired=expired, unlogged=None)
        self._states[key] = state
        return state

    def _mark(self) -> tuple[int, int, int, dict[str, KeyState]]:
        return self._seq, self._ts_ns, len(self._ops), dict(self._states)

    def _undo(self, mark: tuple[int, int, int, dict[str, KeyState]]) -> None:
        self._seq, self._ts_ns, kept, self._states = mark
        del self._ops[kept:]


def check_on_nothing(write: Write, *, clock: Clock, config: Config) -> None:
    """Decide a write where there is no key at all; raises what it would fail with."""
    Transaction(cast(Store, _Nothing()), clock=clock, config=config, light=False).apply(write)


def _rolled_back(write: RollbackTable, log: Log) -> Iterable[str]:
    if write.keys is not None:
        return sorted(set(write.keys), key=str.encode)
    excluded = frozenset(write.exclude_keys or ())
    return (key for key in log.keys_ever("", None) if key not in excluded)


class _Nothing(SelfContained):
    """As much of a `Store` without keys as deciding a write needs."""

    def log(self) -> AbstractContextManager[Log]:
        return nullcontext(EmptyReader())

    def scan(self, prefix: str, now_ns: int, *, everything: bool = False) -> None:
        return None

    def tail(self) -> tuple[int, int]:
        return 0, 0

    def last_import(self) -> None:
        return None

    def load(self, key: str) -> KeyState:
        return KeyState(None, 0)


def _entry(key: str, number: int, ts_ns: int, before: Entry | None, change: Change) -> Entry:
    assert change.value is not None
    now_s = ts_ns // NS
    value = change.value
    created_s = now_s if before is None else before.created_s
    updated_s = now_s if before is None or change.touch else before.updated_s
    return Entry(
        key, value, len(value), change.content_type, created_s, updated_s, change.expire_ns, number,
        change.sha256 or value_hash(value),
    )  # fmt: skip
