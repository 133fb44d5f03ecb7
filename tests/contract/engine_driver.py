"""A store driven through `kvfs.engine.Engine`, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kvfs import content_types, valueops
from kvfs.engine import Engine
from kvfs.errors import KvfsError
from kvfs.handle import Handle
from kvfs.listing import LIMIT_DEFAULT, Query
from kvfs.model import (
    INLINE_MAX_BYTES,
    NS,
    NS_PER_MS,
    BatchDelete,
    BatchSet,
    Conditions,
    Delete,
    Entry,
    FileValue,
    Incr,
    OnConflict,
    OpType,
    Outcome,
    Pop,
    Push,
    Remove,
    Rollback,
    Set,
    SetTtl,
    Value,
    Write,
    WriteResult,
)
from kvfs.status import Imported
from kvfs.timetravel import HISTORY_LIMIT_DEFAULT
from kvfs.transfer.format import parse_seal
from tests.clocks import HurriedClock
from tests.contract.driver import (
    Brought,
    Changed,
    Done,
    Driver,
    Got,
    Item,
    Listed,
    Page,
    PastPage,
    Pruned,
    Reverted,
    StoreError,
    Table,
    Told,
    Undone,
    Was,
    Wrote,
)


class EngineDriver(Driver):
    """One store of an engine, leased anew for each call, as a server does it."""

    def __init__(
        self,
        engine: Engine,
        db: str,
        table: str,
        *,
        clock: HurriedClock,
        directory: bool,
        check: Callable[[], None],
    ) -> None:
        self.directory = directory
        self._engine = engine
        self._db = db
        self._table = table
        self._clock = clock
        self._check = check

    # --- reading -----------------------------------------------------------------------------------------

    def get(self, key: str) -> Got:
        with self._handle() as handle:
            return _got(handle.get(key))

    def get_node(self, key: str, path: str) -> bytes:
        with self._handle() as handle:
            return valueops.read_node(_got(handle.get(key)).value, path)

    def get_at(self, key: str, at_ns: int) -> Got:
        with self._handle() as handle:
            return _got(handle.get_at(key, at_ns))

    def batch_get(self, keys: Sequence[str]) -> dict[str, Got | None]:
        with self._handle() as handle:
            found = handle.get_many(keys)
        return {key: None if entry is None else _got(entry, etag=False) for key, entry in found.items()}

    def list(
        self,
        *,
        prefix: str = "",
        limit: int | None = None,
        offset: int | str = 0,
        after: str | None = None,
        delimiter: str = "",
        values: bool = False,
        total: bool = False,
    ) -> Page:
        query = Query(
            prefix=prefix,
            after=after,
            offset=int(offset),
            limit=LIMIT_DEFAULT if limit is None else limit,
            delimiter=delimiter,
            values=values,
            total=total,
        )
        with self._handle() as handle:
            page = handle.list(query)
            change_cursor = str(page.cursor)
        count = len(page.entries) + len(page.prefixes)
        return Page(
            keys=[entry.key for entry in page.entries],
            items=[_listed(entry) for entry in page.entries],
            prefixes=[*page.prefixes],
            has_more=page.has_more,
            next_cursor=str(query.offset + count) if page.has_more else None,
            next_after=page.last if page.has_more else None,
            total=page.total,
            change_cursor=change_cursor,
        )

    def list_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> PastPage:
        with self._handle() as handle:
            past = handle.list_at(at_ns, prefix=prefix, limit=LIMIT_DEFAULT if limit is None else limit)
        return PastPage([*past.keys], [*past.gap_keys], past.candidate_truncated)

    def history(
        self,
        key: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
        newest: bool = True,
    ) -> Told:
        with self._handle() as handle:
            page = handle.history(
                key,
                limit=HISTORY_LIMIT_DEFAULT if limit is None else limit,
                before=before,
                after=after,
                newest=newest,
            )
        operations = [
            Done(
                op.op_number,
                op.op_type,
                op.origin,
                _value(op.entry),
                _value(earlier),
                None if op.entry is None else op.entry.content_type,
                op.ts_ns // NS_PER_MS,
                op.ttl_s,
                not op.recorded,
            )
            for op, earlier in page.operations
        ]
        return Told(operations, page.total, page.oldest_op_number)

    def snapshot(self, key: str, op_number: int) -> Was:
        with self._handle() as handle:
            op = handle.snapshot(key, op_number)
        return Was(_value(op.entry), None if op.entry is None else op.entry.content_type)

    def snapshot_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> Table:
        with self._handle() as handle:
            past = handle.snapshot_at(at_ns, prefix=prefix, limit=LIMIT_DEFAULT if limit is None else limit)
        keys = {
            entry.key: Was(_value(entry), entry.content_type, entry.ttl_left_s(at_ns))
            for entry in past.entries
        }
        return Table(keys, past.total, [*past.gap_keys], past.candidate_truncated)

    def diff(self, from_ns: int, to_ns: int, *, keys: Sequence[str] | None = None) -> Changed:
        with self._handle() as handle:
            diff = handle.diff(from_ns, to_ns, keys=keys)
        found = {key: (_value(before), _value(after)) for key, before, after in diff.differences}
        return Changed(found, [*diff.gap_keys], diff.candidate_truncated)

    # --- writing -----------------------------------------------------------------------------------------

    def rollback(
        self,
        key: str,
        steps: int | None = None,
        *,
        if_match_etag: str | None = None,
        idempotency_key: str | None = None,
    ) -> Undone:
        conditions = Conditions(etags=_tags(if_match_etag))
        write = Rollback(key, 1 if steps is None else steps, conditions)
        with self._handle() as handle:
            outcome = handle.apply(write, idempotency_key=idempotency_key)
            number = outcome.result.op_number
            op = handle.op(key, number)
        assert op is not None
        assert (op.entry is None) == bool(outcome.result.removed)
        return Undone(number, _value(op.entry), op.entry is not None, outcome.replayed)

    def rollback_table(
        self,
        to_ns: int,
        *,
        keys: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> Reverted:
        with self._handle() as handle:
            outcome = handle.rollback_table(
                to_ns,
                keys=keys,
                exclude_keys=exclude_keys,
                dry_run=dry_run,
                idempotency_key=idempotency_key,
            )
        restored = [result.key for result in outcome.results if not result.removed]
        deleted = [result.key for result in outcome.results if result.removed]
        return Reverted(restored, deleted, outcome.replayed)

    def set(
        self,
        key: str,
        value: bytes,
        *,
        content_type: str | None = None,
        ttl: int | None = None,
        path: str | None = None,
        if_match: bytes | None = None,
        if_match_etag: str | None = None,
        if_none_match: bool = False,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote:
        conditions = Conditions(
            value=if_match, etags=_tags(if_match_etag), exists=False if if_none_match else None
        )
        with self._handle() as handle, _sent(handle, value) as sent:
            write = Set(
                key,
                sent,
                content_types.classify(content_type, sent),
                ttl_s=ttl or None,
                path=path,
                conditions=conditions,
                history=history,
            )
            outcome = handle.apply(write, idempotency_key=idempotency_key)
        result = outcome.result
        return Wrote(
            result.op_number,
            created=result.created,
            content_type=result.content_type,
            size=result.size,
            replayed=outcome.replayed,
        )

    def delete(
        self,
        key: str,
        *,
        if_match_etag: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote:
        outcome = self._apply(
            Delete(key, Conditions(etags=_tags(if_match_etag)), history), idempotency_key=idempotency_key
        )
        return Wrote(outcome.result.op_number, replayed=outcome.replayed)

    def incr(
        self,
        key: str,
        delta: int | None = None,
        *,
        path: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote:
        write = Incr(key, 1 if delta is None else delta, path=path, history=history)
        return _added(self._apply(write, idempotency_key=idempotency_key))

    def decr(self, key: str, delta: int | None = None, *, path: str | None = None) -> Wrote:
        return _added(self._apply(Incr(key, -1 if delta is None else -delta, path=path, op_type=OpType.DECR)))

    def push(
        self, key: str, node: str, *, path: str | None = None, idempotency_key: str | None = None
    ) -> Wrote:
        outcome = self._apply(Push(key, node.encode(), path=path), idempotency_key=idempotency_key)
        return Wrote(outcome.result.op_number, length=outcome.result.length, replayed=outcome.replayed)

    def pop(self, key: str, *, path: str | None = None, idempotency_key: str | None = None) -> Wrote:
        outcome = self._apply(Pop(key, path=path), idempotency_key=idempotency_key)
        result = outcome.result
        popped = None if result.node is None else json.loads(result.node)
        return Wrote(result.op_number, length=result.length, popped=popped, replayed=outcome.replayed)

    def remove(
        self, key: str, *, index: int | None = None, node: str | None = None, path: str | None = None
    ) -> Wrote:
        wanted = None if node is None else node.encode()
        result = self._apply(Remove(key, index=index, node=wanted, path=path)).result
        return Wrote(removed=result.removed, length=result.length)

    def expire(self, key: str, ttl: int, *, idempotency_key: str | None = None) -> Wrote:
        return _timed(self._apply(SetTtl(key, ttl), idempotency_key=idempotency_key))

    def persist(self, key: str) -> Wrote:
        return _timed(self._apply(SetTtl(key, None)))

    def batch_set(
        self, items: Sequence[Item], *, history: bool = True, idempotency_key: str | None = None
    ) -> Sequence[Wrote]:
        with _told():
            sets = tuple(
                Set(
                    item.key,
                    item.value.encode(),
                    content_types.classify(item.content_type, item.value.encode()),
                    ttl_s=item.ttl or None,
                    conditions=Conditions(
                        etags=_tags(item.if_match), exists=False if item.if_none_match else None
                    ),
                    history=history,
                )
                for item in items
            )
        outcome = self._apply(BatchSet(sets), idempotency_key=idempotency_key)
        return [
            Wrote(result.op_number, created=result.created, replayed=outcome.replayed)
            for result in outcome.results
        ]

    def batch_delete(self, keys: Sequence[str], *, idempotency_key: str | None = None) -> int:
        return len(self._apply(BatchDelete(tuple(keys)), idempotency_key=idempotency_key).results)

    def prune(self, *, before_ns: int | None = None, keep_last: int | None = None) -> Pruned:
        with self._handle() as handle:
            pruned = handle.prune(before_ns=before_ns, keep_last=keep_last)
        return Pruned(pruned.removed, pruned.keys, pruned.stopped_by is None)

    def retention(self) -> dict[str, int | None]:
        with self._handle() as handle:
            return handle.retention()._asdict()

    def set_retention(self, **changes: int | None) -> dict[str, int | None]:
        with self._handle() as handle:
            return handle.set_retention(**changes)._asdict()

    def export(self, *, history: bool = False, after: bytes | None = None) -> bytes:
        with self._handle() as handle:
            return b"".join(
                handle.export(history=history, after=None if after is None else parse_seal(after))
            )

    def import_(self, data: bytes, *, on_conflict: str = "fail") -> Brought:
        with self._handle() as handle:
            importer = handle.importer(OnConflict(on_conflict))
            importer.feed(data)
            return brought(importer.finish(part=True))

    # --- around it ---------------------------------------------------------------------------------------

    def sibling(self, table: str) -> Driver:
        return EngineDriver(
            self._engine,
            self._db,
            table,
            clock=self._clock,
            directory=self.directory,
            check=lambda: None,
        )

    def now_ns(self) -> int:
        return self._clock()

    def let_pass(self, seconds: float) -> None:
        self._clock.hurry(seconds)

    def close(self) -> None:
        self._engine.close()
        self._check()

    # --- parts -------------------------------------------------------------------------------------------

    @contextmanager
    def _handle(self) -> Iterator[Handle]:
        with _told(), self._engine.lease(self._db, self._table, create=True) as handle:
            yield handle

    def _apply(self, write: Write, *, idempotency_key: str | None = None) -> Outcome:
        with self._handle() as handle:
            return handle.apply(write, idempotency_key=idempotency_key)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except KvfsError as error:
        raise StoreError(error.code, error.message, error.details) from error


@contextmanager
def _sent(handle: Handle, value: bytes) -> Iterator[Value]:
    """A value as a server hands it on: a large one in a file."""
    if len(value) <= INLINE_MAX_BYTES:
        yield value
        return
    with handle.upload() as file:
        with open(file.fd, "wb", closefd=False) as writing:
            writing.write(value)
        file.size = len(value)
        yield file


def _tags(etag: str | None) -> tuple[str, ...] | None:
    return None if etag is None else (etag,)


def _got(entry: Entry, *, etag: bool = True) -> Got:
    assert entry.value is not None
    value = entry.value
    if isinstance(value, FileValue):
        with value:
            value = value.read()
    assert len(value) == entry.size
    return Got(
        value,
        entry.content_type,
        entry.created_s,
        entry.updated_s,
        _seconds(entry.expire_ns),
        entry.etag if etag else None,
    )


def _value(entry: Entry | None) -> bytes | None:
    if entry is None:
        return None
    if isinstance(entry.value, FileValue):
        with entry.value as file:
            return file.read()
    return entry.value


def _listed(entry: Entry) -> Listed:
    assert not isinstance(entry.value, FileValue)
    return Listed(
        entry.key,
        entry.size,
        entry.content_type,
        entry.created_s,
        entry.updated_s,
        _seconds(entry.expire_ns),
        entry.op_number,
        entry.value,
    )


def _added(outcome: Outcome) -> Wrote:
    result = outcome.result
    return Wrote(result.op_number, number=result.number, previous=result.previous, replayed=outcome.replayed)


def _timed(outcome: Outcome) -> Wrote:
    result: WriteResult = outcome.result
    return Wrote(result.op_number, expire_at=_seconds(result.expire_ns), replayed=outcome.replayed)


def _seconds(ns: int | None) -> int | None:
    return None if ns is None else ns // NS


def brought(told: Imported) -> Brought:
    """What came of an import, as tests compare it."""
    return Brought(told.records, told.complete, told.imported, told.skipped, told.expired)
