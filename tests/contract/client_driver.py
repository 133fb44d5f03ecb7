"""A store driven through the Python client over real HTTP, blocking or from an event loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from kvfs.client import AsyncClient, AsyncTable, Client, JsonText, Table
from kvfs.client import Item as ClientItem
from kvfs.client.records import Written
from kvfs.errors import KvfsError
from kvfs.model import NS, Entry, OnConflict, value_bytes
from kvfs.transfer.format import parse_seal
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
    Told,
    Undone,
    Was,
    Wrote,
)
from tests.contract.driver import Table as PastTable
from tests.contract.engine_driver import brought
from tests.polling import eventually


class Clients:
    """A client of each kind for one server, with the same options; and an event loop for the one."""

    def __init__(self, url: str, **options: Any) -> None:
        self.blocking = Client(url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.asynchronous = AsyncClient(url, **options)

    def table(self, db: str, name: str, *, awaited: bool) -> Table:
        """A store to call; one that is `awaited` is asked on the event loop, with the same methods."""
        if not awaited:
            return self.blocking.table(db, name, create=True)
        return cast(Table, _Awaited(self.asynchronous.table(db, name, create=True), self._loop))

    def close(self) -> None:
        self.blocking.close()
        asyncio.run_coroutine_threadsafe(self.asynchronous.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Awaited:
    """An async table whose methods wait for their results."""

    def __init__(self, table: object, loop: asyncio.AbstractEventLoop) -> None:
        self._table = table
        self._loop = loop

    @contextmanager
    def export(self, **asked: Any) -> Iterator[Iterator[bytes]]:
        async def whole() -> list[bytes]:
            async with cast(AsyncTable, self._table).export(**asked) as pieces:
                return [piece async for piece in pieces]

        yield iter(asyncio.run_coroutine_threadsafe(whole(), self._loop).result())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._table, name)

        def call(*args: object, **more: object) -> object:
            return asyncio.run_coroutine_threadsafe(method(*args, **more), self._loop).result()

        return call


class ClientDriver(Driver):
    """One store of a server, through a client."""

    def __init__(
        self,
        clients: Clients,
        db: str,
        table: str,
        *,
        awaited: bool,
        directory: bool,
        check: Callable[[], None],
    ) -> None:
        self.directory = directory
        self._clients = clients
        self._db = db
        self._awaited = awaited
        self._table = clients.table(db, table, awaited=awaited)
        self._check = check

    # --- reading -----------------------------------------------------------------------------------------

    def get(self, key: str) -> Got:
        with _told():
            return _got(self._table.get(key))

    def get_node(self, key: str, path: str) -> bytes:
        with _told():
            node = self._table.get_node(key, path)
            assert self._table.get_json(key, path) == json.loads(node)
            return node

    def get_at(self, key: str, at_ns: int) -> Got:
        with _told():
            return _got(self._table.get_at(key, at_ns))

    def batch_get(self, keys: Sequence[str]) -> dict[str, Got | None]:
        with _told():
            found = self._table.get_many(keys)
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
        with _told():
            page = self._table.list(
                prefix=prefix,
                after=after,
                offset=int(offset),
                limit=100 if limit is None else limit,
                delimiter=delimiter,
                values=values,
                total=total,
            )
        return Page(
            keys=[entry.key for entry in page.entries],
            items=[_listed(entry) for entry in page.entries],
            prefixes=[*page.prefixes],
            has_more=page.has_more,
            next_cursor=None if page.next_offset is None else str(page.next_offset),
            next_after=page.last,
            total=page.total,
            change_cursor=page.cursor,
        )

    def list_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> PastPage:
        with _told():
            past = self._table.list_at(at_ns, prefix=prefix, limit=100 if limit is None else limit)
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
        with _told():
            page = self._table.history(
                key, limit=50 if limit is None else limit, before=before, after=after, newest=newest
            )
        operations = [
            Done(
                each.op_number,
                each.op_type,
                each.origin,
                each.value,
                each.before,
                each.content_type,
                each.ts_ms,
                each.ttl_s,
                each.gap,
            )
            for each in page.operations
        ]
        return Told(operations, page.total, page.oldest_op_number)

    def snapshot(self, key: str, op_number: int) -> Was:
        with _told():
            past = self._table.snapshot(key, op_number)
        return Was(past.value, past.content_type)

    def snapshot_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> PastTable:
        with _told():
            past = self._table.snapshot_at(at_ns, prefix=prefix, limit=100 if limit is None else limit)
        keys = {each.key: Was(each.value, each.content_type, each.ttl_s) for each in past.entries}
        return PastTable(keys, past.total, [*past.gap_keys], past.candidate_truncated)

    def diff(self, from_ns: int, to_ns: int, *, keys: Sequence[str] | None = None) -> Changed:
        with _told():
            diff = self._table.diff(from_ns, to_ns, keys=keys)
        found = {each.key: (each.before, each.after) for each in diff.differences}
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
        with _told():
            done = self._table.rollback(
                key,
                1 if steps is None else steps,
                if_match_etag=if_match_etag,
                idempotency_key=idempotency_key,
            )
        return Undone(done.op_number, done.value, done.existed, done.replayed)

    def rollback_table(
        self,
        to_ns: int,
        *,
        keys: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> Reverted:
        with _told():
            done = self._table.rollback_table(
                to_ns,
                keys=keys,
                exclude_keys=exclude_keys,
                dry_run=dry_run,
                idempotency_key=idempotency_key,
            )
        return Reverted([*done.restored], [*done.deleted], done.replayed)

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
        with _told():
            return _wrote(
                self._table.set(
                    key,
                    value,
                    content_type=content_type,
                    ttl_s=ttl,
                    path=path,
                    if_match=if_match,
                    if_match_etag=if_match_etag,
                    if_none_match=if_none_match,
                    history=history,
                    idempotency_key=idempotency_key,
                )
            )

    def delete(
        self,
        key: str,
        *,
        if_match_etag: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote:
        with _told():
            return _wrote(
                self._table.delete(
                    key, if_match_etag=if_match_etag, history=history, idempotency_key=idempotency_key
                )
            )

    def incr(
        self,
        key: str,
        delta: int | None = None,
        *,
        path: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote:
        by = 1 if delta is None else delta
        with _told():
            return _wrote(
                self._table.incr(key, by, path=path, history=history, idempotency_key=idempotency_key)
            )

    def decr(self, key: str, delta: int | None = None, *, path: str | None = None) -> Wrote:
        with _told():
            return _wrote(self._table.decr(key, 1 if delta is None else delta, path=path))

    def push(
        self, key: str, node: str, *, path: str | None = None, idempotency_key: str | None = None
    ) -> Wrote:
        with _told():
            return _wrote(self._table.push(key, JsonText(node), path=path, idempotency_key=idempotency_key))

    def pop(self, key: str, *, path: str | None = None, idempotency_key: str | None = None) -> Wrote:
        with _told():
            return _wrote(self._table.pop(key, path=path, idempotency_key=idempotency_key))

    def remove(
        self, key: str, *, index: int | None = None, node: str | None = None, path: str | None = None
    ) -> Wrote:
        with _told():
            if node is None:
                return _wrote(self._table.remove(key, index=index, path=path))
            return _wrote(self._table.remove(key, index=index, item=JsonText(node), path=path))

    def expire(self, key: str, ttl: int, *, idempotency_key: str | None = None) -> Wrote:
        with _told():
            return _wrote(self._table.expire(key, ttl, idempotency_key=idempotency_key))

    def persist(self, key: str) -> Wrote:
        with _told():
            return _wrote(self._table.persist(key))

    def batch_set(
        self, items: Sequence[Item], *, history: bool = True, idempotency_key: str | None = None
    ) -> Sequence[Wrote]:
        sets = [
            ClientItem(item.key, item.value, item.content_type, item.ttl, item.if_match, item.if_none_match)
            for item in items
        ]
        with _told():
            done = self._table.set_many(sets, history=history, idempotency_key=idempotency_key)
        return [_wrote(each) for each in done]

    def batch_delete(self, keys: Sequence[str], *, idempotency_key: str | None = None) -> int:
        with _told():
            return self._table.delete_many(keys, idempotency_key=idempotency_key)

    def prune(self, *, before_ns: int | None = None, keep_last: int | None = None) -> Pruned:
        with _told():
            pruned = self._table.prune(before_ns=before_ns, keep_last=keep_last)
        return Pruned(pruned.removed, pruned.keys, pruned.stopped_by is None)

    def retention(self) -> dict[str, int | None]:
        with _told():
            return self._table.retention()._asdict()

    def set_retention(self, **changes: int | None) -> dict[str, int | None]:
        with _told():
            return self._table.set_retention(**changes)._asdict()

    def export(self, *, history: bool = False, after: bytes | None = None) -> bytes:
        seal = None if after is None else parse_seal(after)
        with _told(), self._table.export(history=history, after=seal) as pieces:
            return b"".join(pieces)

    def import_(self, data: bytes, *, on_conflict: str = "fail") -> Brought:
        with _told():
            return brought(self._table.import_part(data, on_conflict=OnConflict(on_conflict)))

    # --- around it ---------------------------------------------------------------------------------------

    def sibling(self, table: str) -> Driver:
        return ClientDriver(
            self._clients,
            self._db,
            table,
            awaited=self._awaited,
            directory=self.directory,
            check=lambda: None,
        )

    def now_ns(self) -> int:
        return time.time_ns()

    def let_pass(self, seconds: float) -> None:
        until = time.time() + seconds
        eventually(lambda: time.time() >= until, seconds + 5, "time passes")

    def close(self) -> None:
        self._check()

    def make(self) -> None:
        """Make the database file or the directory."""
        path = self._db + "/" if self.directory else self._db
        assert self._clients.blocking.database(path).create().created


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except KvfsError as error:
        raise StoreError(error.code, error.message, error.details) from error


def _got(entry: Entry, *, etag: bool = True) -> Got:
    assert entry.value is not None
    value = value_bytes(entry.value)
    assert len(value) == entry.size
    return Got(
        value,
        entry.content_type,
        entry.created_s,
        entry.updated_s,
        _seconds(entry),
        entry.etag if etag else None,
    )


def _listed(entry: Entry) -> Listed:
    return Listed(
        entry.key,
        entry.size,
        entry.content_type,
        entry.created_s,
        entry.updated_s,
        _seconds(entry),
        entry.op_number,
        None if entry.value is None else value_bytes(entry.value),
    )


def _seconds(entry: Entry) -> int | None:
    return None if entry.expire_ns is None else entry.expire_ns // NS


def _wrote(written: Written) -> Wrote:
    return Wrote(
        written.op_number,
        created=written.created,
        content_type=written.content_type,
        size=written.size,
        number=written.number,
        previous=written.previous,
        length=written.length,
        popped=written.item,
        removed=written.removed,
        expire_at=written.expire_s,
        replayed=written.replayed,
    )
