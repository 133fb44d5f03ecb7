"""A store without a server, with the methods of a client's `Table`: `kvfs.handle.Handle` in other words.

What a command does is so written once, for both. Values are in memory, but for those that `stream` gives and
files that `set` takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, Final

from kvfs import content_types, cursor, feed, valueops
from kvfs.client import records
from kvfs.client.kv import json_bytes
from kvfs.client.records import Item, Written
from kvfs.config import Config
from kvfs.errors import InvalidParameters, NotFound, PayloadTooLarge
from kvfs.handle import Handle
from kvfs.listing import Query
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
    Op,
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
from kvfs.opening import open_store
from kvfs.paths import TABLE_DEFAULT
from kvfs.status import Imported
from kvfs.transfer.format import Seal

_CHUNK_BYTES: Final = 1 << 16
_LOOK_EVERY_S: Final = 0.5


@contextmanager
def opened(
    path: str, table: str | None, *, create: bool, timeout_s: float, state_dir: str | None
) -> Iterator[Local]:
    """Open a store, and close it at the end; raises what `kvfs.open` raises."""
    config = Config(watch=False, state_dir=state_dir)
    with open_store(path, table or TABLE_DEFAULT, create=create, config=config) as handle:
        yield Local(handle, config, timeout_s)


class Local:
    """One open store; each call takes at most `timeout_s`."""

    def __init__(self, handle: Handle, config: Config, timeout_s: float) -> None:
        self._handle = handle
        self._config = config
        self._timeout_s = timeout_s

    # --- reading ----------------------------------------------------------------------------------------

    def get(self, key: str) -> Entry:
        return _in_memory(self._handle.get(key, deadline=self._deadline))

    def get_at(self, key: str, ts_ns: int) -> Entry:
        return _in_memory(self._handle.get_at(key, ts_ns, deadline=self._deadline))

    def get_node(self, key: str, path: str) -> bytes:
        value = self.get(key).value
        assert isinstance(value, bytes)
        return valueops.read_node(value, path)

    def get_many(self, keys: Iterable[str]) -> dict[str, Entry | None]:
        return self._handle.get_many(keys, deadline=self._deadline)

    @contextmanager
    def stream(self, key: str) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        entry = self._handle.get(key, deadline=self._deadline)
        value = entry.value
        if isinstance(value, FileValue):
            with value:
                offsets = range(0, value.size, _CHUNK_BYTES)
                yield entry._replace(value=None), (value.read(at, _CHUNK_BYTES) for at in offsets)
        else:
            assert value is not None
            yield entry._replace(value=None), iter((value,))

    def exists(self, key: str) -> bool:
        try:
            with self.stream(key):
                return True
        except NotFound:
            return False

    def list(
        self,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        delimiter: str = "",
        values: bool = False,
    ) -> records.Page:
        query = Query(prefix=prefix, after=after, limit=limit, delimiter=delimiter, values=values)
        page = self._handle.list(query, deadline=self._deadline)
        return records.Page(
            entries=page.entries,
            prefixes=page.prefixes,
            has_more=page.has_more,
            last=page.last if page.has_more else None,
            next_offset=None,
            total=None,
            cursor=str(page.cursor),
        )

    # --- writing ----------------------------------------------------------------------------------------

    def set(
        self,
        key: str,
        value: bytes | BinaryIO,
        *,
        content_type: str | None = None,
        ttl_s: int | None = None,
        path: str | None = None,
        if_match: bytes | None = None,
        if_match_etag: str | None = None,
        if_none_match: bool = False,
        history: bool = True,
    ) -> Written:
        conditions = _conditions(if_match_etag, if_none_match=if_none_match, value=if_match)
        with self._value(value) as sent:
            kind = content_types.classify(content_type, sent)
            return self._write(Set(key, sent, kind, ttl_s or None, path, conditions, history))

    def delete(self, key: str, *, if_match_etag: str | None = None, history: bool = True) -> Written:
        return self._write(Delete(key, _conditions(if_match_etag), history))

    def incr(self, key: str, delta: int = 1, *, path: str | None = None, history: bool = True) -> Written:
        return self._write(Incr(key, delta, path, history))

    def decr(self, key: str, delta: int = 1, *, path: str | None = None, history: bool = True) -> Written:
        return self._write(Incr(key, -delta, path, history, OpType.DECR))

    def push(self, key: str, item: Any, *, path: str | None = None, history: bool = True) -> Written:
        return self._write(Push(key, json_bytes(item), path, history))

    def pop(self, key: str, *, path: str | None = None, history: bool = True) -> Written:
        return self._write(Pop(key, path, history))

    def remove(
        self,
        key: str,
        *,
        index: int | None = None,
        item: Any = ...,
        path: str | None = None,
        history: bool = True,
    ) -> Written:
        node = None if item is ... else json_bytes(item)
        return self._write(Remove(key, index, node, path, history))

    def expire(self, key: str, ttl_s: int, *, history: bool = True) -> Written:
        return self._write(SetTtl(key, ttl_s, history))

    def persist(self, key: str, *, history: bool = True) -> Written:
        return self._write(SetTtl(key, None, history))

    def set_many(self, items: Iterable[Item], *, history: bool = True) -> tuple[Written, ...]:
        sets = tuple(_set(item, history=history) for item in items)
        return tuple(map(_written, self._apply(BatchSet(sets)).results))

    def delete_many(self, keys: Iterable[str], *, history: bool = True) -> int:
        return len(self._apply(BatchDelete(tuple(keys), history)).results)

    # --- the past ---------------------------------------------------------------------------------------

    def list_at(
        self, ts_ns: int, *, prefix: str = "", after: str | None = None, limit: int = 100
    ) -> records.PastKeys:
        past = self._handle.list_at(ts_ns, prefix=prefix, after=after, limit=limit, deadline=self._deadline)
        return records.PastKeys(past.keys, past.gap_keys, past.candidate_truncated)

    def history(
        self,
        key: str,
        *,
        limit: int = 50,
        before: int | None = None,
        after: int | None = None,
        newest: bool = True,
    ) -> records.History:
        page = self._handle.history(
            key, limit=limit, before=before, after=after, newest=newest, deadline=self._deadline
        )
        operations = tuple(_operation(each.op, each.before) for each in page.operations)
        return records.History(operations, page.total, page.oldest_op_number)

    def snapshot(self, key: str, op_number: int) -> records.Past:
        op = self._handle.snapshot(key, op_number, deadline=self._deadline)
        return records.Past(key, _bytes(op.entry), None if op.entry is None else op.entry.content_type)

    def snapshot_at(self, ts_ns: int, *, prefix: str = "", limit: int = 100) -> records.PastEntries:
        past = self._handle.snapshot_at(ts_ns, prefix=prefix, limit=limit, deadline=self._deadline)
        entries = tuple(
            records.Past(each.key, _bytes(each), each.content_type, each.ttl_left_s(ts_ns))
            for each in past.entries
        )
        return records.PastEntries(entries, past.total, past.gap_keys, past.candidate_truncated)

    def diff(self, from_ns: int, to_ns: int, *, keys: Collection[str] | None = None) -> records.Diff:
        found = self._handle.diff(from_ns, to_ns, keys=keys, deadline=self._deadline)
        differences = tuple(
            records.Difference(each.key, _bytes(each.before), _bytes(each.after))
            for each in found.differences
        )
        return records.Diff(differences, found.gap_keys, found.candidate_truncated)

    def rollback(self, key: str, steps: int = 1, *, if_match_etag: str | None = None) -> records.RolledBack:
        result = self._apply(Rollback(key, steps, _conditions(if_match_etag))).result
        op = self._handle.op(key, result.op_number)
        return records.RolledBack(
            key, result.op_number, None if op is None else _bytes(op.entry), existed=not result.removed
        )

    def rollback_table(
        self,
        to_ns: int,
        *,
        keys: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> records.TableRolledBack:
        outcome = self._handle.rollback_table(
            to_ns, keys=keys, exclude_keys=exclude_keys, dry_run=dry_run, deadline=self._deadline
        )
        return records.TableRolledBack(
            restored=tuple(each.key for each in outcome.results if not each.removed),
            deleted=tuple(each.key for each in outcome.results if each.removed),
        )

    # --- following --------------------------------------------------------------------------------------

    def changes(
        self, since: str | None = None, *, prefix: str = "", limit: int = 100, values: bool = False
    ) -> records.Changes:
        if self._handle.directory:
            self._handle.settle_all(deadline=self._deadline)
        if since is None:
            place = self._handle.place(deadline=self._deadline)
            return records.Changes((), str(place.cursor), str(place.oldest), has_more=False)
        query = feed.ChangesQuery(cursor.parse(since), prefix, limit, values)
        page = self._handle.changes(query, deadline=self._deadline)
        events = tuple(map(_event, page.events))
        return records.Changes(events, str(page.next), str(page.oldest), page.has_more)

    def follow(
        self, since: str | None = None, *, prefix: str = "", values: bool = False
    ) -> Iterator[records.Event]:
        while True:
            page = self.changes(since, prefix=prefix, limit=feed.LIMIT_MAX, values=values)
            yield from page.events
            since = page.cursor
            if not page.has_more:
                # Other programs write to the files as well, and none of them would tell.
                time.sleep(_LOOK_EVERY_S)

    # --- whole stores -----------------------------------------------------------------------------------

    @contextmanager
    def export(self, *, history: bool = False, after: Seal | None = None) -> Iterator[Iterator[bytes]]:
        with closing(self._handle.export(history=history, after=after, deadline=self._deadline)) as pieces:
            yield pieces

    def import_part(self, part: bytes, *, on_conflict: OnConflict = OnConflict.FAIL) -> Imported:
        importer = self._handle.importer(on_conflict)
        importer.feed(part, deadline=self._deadline)
        return importer.finish(part=True, deadline=self._deadline)

    # --- parts ------------------------------------------------------------------------------------------

    @property
    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    def _apply(self, write: Write) -> Outcome:
        return self._handle.apply(write, deadline=self._deadline)

    def _write(self, write: Write) -> Written:
        return _written(self._apply(write).result)

    @contextmanager
    def _value(self, value: bytes | BinaryIO) -> Iterator[Value]:
        """A value as the engine takes it: a large one in a file of its own."""
        if isinstance(value, bytes) and len(value) <= INLINE_MAX_BYTES:
            yield value
            return
        with self._handle.upload() as file:
            with open(file.fd, "wb", closefd=False) as writing:
                for chunk in (
                    [value] if isinstance(value, bytes) else iter(lambda: value.read(_CHUNK_BYTES), b"")
                ):
                    file.size += len(chunk)
                    if file.size > self._config.max_value_bytes:
                        raise PayloadTooLarge(f"The value is over {self._config.max_value_bytes} bytes")
                    writing.write(chunk)
            yield file if file.size > INLINE_MAX_BYTES else file.read()


# --- the engine's records as the client's ---------------------------------------------------------------


def _conditions(etag: str | None, *, if_none_match: bool = False, value: bytes | None = None) -> Conditions:
    if etag is not None and if_none_match:
        raise InvalidParameters("if_match and if_none_match contradict each other")
    if etag == "*":
        return Conditions(value=value, exists=True)
    return Conditions(
        value=value, etags=None if etag is None else (etag,), exists=False if if_none_match else None
    )


def _set(item: Item, *, history: bool) -> Set:
    value = item.value.encode() if isinstance(item.value, str) else item.value
    return Set(
        item.key,
        value,
        content_types.classify(item.content_type, value),
        ttl_s=item.ttl_s or None,
        conditions=_conditions(item.if_match, if_none_match=item.if_none_match),
        history=history,
    )


def _written(result: WriteResult) -> Written:
    return Written(
        key=result.key,
        op_number=result.op_number,
        created=result.created,
        content_type=result.content_type,
        size=result.size,
        number=result.number,
        previous=result.previous,
        length=result.length,
        item=None if result.node is None else json.loads(result.node),
        popped=result.node is not None,
        removed=result.removed,
        expire_s=None if result.expire_ns is None else result.expire_ns // NS,
    )


def _operation(op: Op, before: Entry | None) -> records.Operation:
    return records.Operation(
        op_number=op.op_number,
        op_type=op.op_type,
        origin=op.origin,
        value=_bytes(op.entry),
        before=_bytes(before),
        content_type=None if op.entry is None else op.entry.content_type,
        ts_ms=op.ts_ns // NS_PER_MS,
        ttl_s=op.ttl_s,
        gap=not op.recorded,
    )


def _event(event: feed.Event) -> records.Event:
    op, entry = event.op, event.op.entry
    return records.Event(
        seq=op.seq,
        cursor=str(event.cursor),
        key=op.key,
        kind=event.kind,
        op_number=op.op_number,
        origin=op.origin,
        ts_ms=op.ts_ns // NS_PER_MS,
        expire_s=None if entry is None or entry.expire_ns is None else entry.expire_ns // NS,
        value=event.value,
        content_type=None if entry is None else entry.content_type,
        omitted=event.omitted,
    )


def _in_memory(entry: Entry) -> Entry:
    value = _bytes(entry)
    return entry if value is None else entry.with_value(value)


def _bytes(entry: Entry | None) -> bytes | None:
    if entry is None:
        return None
    if isinstance(entry.value, FileValue):
        with entry.value as file:
            return file.read()
    return entry.value
