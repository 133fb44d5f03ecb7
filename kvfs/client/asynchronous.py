"""The client for asyncio: as the blocking one, with `await`, `async for` and `async with`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpcore

from kvfs.client import db, kv, past, transfer
from kvfs.client.call import URL_DEFAULT, Answer, Call, Pages
from kvfs.client.kv import Target
from kvfs.client.retries import (
    ATTEMPT_S,
    AWAY_PAUSE_S,
    FAILURES,
    KEEP_ALIVE_S,
    RETRIES,
    TIMEOUT_S,
    Attempt,
    Pause,
    Retries,
    Times,
    broken_off,
    course,
    is_away,
)
from kvfs.client.sending import Content, Server, answer
from kvfs.errors import KvfsError
from kvfs.model import Entry
from kvfs.transfer.format import Seal

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


class AsyncTransport:
    """Connections to one server, shared by all that talk to it, on one event loop."""

    def __init__(
        self, server: Server, pool: httpcore.AsyncConnectionPool, times: Times, retries: Retries
    ) -> None:
        self._server = server
        self._pool = pool
        self._times = times
        self._retries = retries

    def within(self, timeout_s: float) -> AsyncTransport:
        """The same connections, with this time for each call."""
        times = replace(self._times, timeout_s=timeout_s)
        return AsyncTransport(self._server, self._pool, times, self._retries)

    async def send(self, call: Call[T]) -> T:
        """Make a call, its retries included; raises `KvfsError`."""
        try:
            told, _ = await self._run(call, whole=True)
        except KvfsError as error:
            if call.recover is None:
                raise
            return call.recover(error)
        return call.parse(told)

    async def turn(self, pages: Pages[U, T]) -> AsyncIterator[T]:
        """All items of pages that follow one another."""
        call: Call[U] | None = pages.first
        while call is not None:
            page = await (self._persist(call) if pages.endless else self.send(call))
            for item in pages.items(page):
                yield item
            call = pages.rest(page)

    @asynccontextmanager
    async def open(self, call: Call[T]) -> AsyncIterator[tuple[T, AsyncIterator[bytes]]]:
        """Make a call; what its answer's headers tell, and the chunks of its body as they come."""
        told, response = await self._run(call, whole=False)
        try:
            yield call.parse(told), _chunks(response)
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._pool.aclose()

    async def _persist(self, call: Call[U]) -> U:
        while True:
            try:
                return await self.send(call)
            except KvfsError as error:
                if not is_away(error):
                    raise
            await asyncio.sleep(AWAY_PAUSE_S)

    async def _run(self, call: Call[T], *, whole: bool) -> tuple[Answer, httpcore.Response]:
        """Go through the course of a call; `whole`: read the answer's body, and be done with it."""
        content = Content(call.body)
        steps = course(call, self._times, self._retries, self._server.headers)
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                step = next(steps)
                continue
            try:
                told, response = await self._attempt(call.method, step, content, whole=whole)
            except FAILURES as exc:
                step = steps.throw(exc)
                continue
            try:
                step = steps.send(told)
            except StopIteration:
                return told, response

    async def _attempt(
        self, method: str, attempt: Attempt, content: Content, *, whole: bool
    ) -> tuple[Answer, httpcore.Response]:
        response = await self._pool.handle_async_request(self._server.request(method, attempt, content))
        if not whole and response.status < 400:
            return answer(response, b""), response
        try:
            return answer(response, await response.aread()), response
        finally:
            await response.aclose()


async def _chunks(response: httpcore.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_stream():
            yield chunk
    except FAILURES as exc:
        raise broken_off(exc) from exc


class _Caller:
    """What makes calls about one target."""

    def __init__(self, transport: AsyncTransport, target: Target) -> None:
        self._transport = transport
        self._target = target

    def within(self, timeout_s: float) -> Self:
        """The same, with so many seconds for each call, retries included."""
        other = copy(self)
        other._transport = self._transport.within(timeout_s)
        return other


def _soon(
    build: Callable[Concatenate[Target, P], Call[T]],
) -> Callable[Concatenate[_Caller, P], Coroutine[Any, Any, T]]:
    """The method that makes such a call."""

    @wraps(build)
    async def method(self: _Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transport.send(build(self._target, *args, **kwargs))

    return method


def _each(
    build: Callable[Concatenate[Target, P], Pages[U, T]],
) -> Callable[Concatenate[_Caller, P], AsyncIterator[T]]:
    """The method that goes through such pages."""

    @wraps(build)
    def method(self: _Caller, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self._transport.turn(build(self._target, *args, **kwargs))

    return method


class AsyncTable(_Caller):
    """One table or folder: keys and values, their past, and their changes."""

    get = _soon(kv.get)
    get_at = _soon(kv.get_at)
    get_text = _soon(kv.get_text)
    get_json = _soon(kv.get_json)
    get_node = _soon(kv.get_node)
    get_many = _soon(kv.get_many)
    exists = _soon(kv.exists)
    list = _soon(kv.list)
    keys = _each(kv.keys)
    entries = _each(kv.entries)
    count = _soon(kv.count)
    set = _soon(kv.set)
    set_json = _soon(kv.set_json)
    set_many = _soon(kv.set_many)
    delete = _soon(kv.delete)
    delete_many = _soon(kv.delete_many)
    incr = _soon(kv.incr)
    decr = _soon(kv.decr)
    push = _soon(kv.push)
    pop = _soon(kv.pop)
    remove = _soon(kv.remove)
    expire = _soon(kv.expire)
    persist = _soon(kv.persist)

    list_at = _soon(past.list_at)
    history = _soon(past.history)
    operations = _each(past.operations)
    snapshot = _soon(past.snapshot)
    snapshot_at = _soon(past.snapshot_at)
    diff = _soon(past.diff)
    rollback = _soon(past.rollback)
    rollback_table = _soon(past.rollback_table)
    changes = _soon(past.changes)
    follow = _each(past.follow)

    import_part = _soon(transfer.import_part)

    maintain = _soon(db.maintain)
    prune = _soon(db.prune)
    retention = _soon(db.retention)
    set_retention = _soon(db.set_retention)

    @asynccontextmanager
    async def stream(self, key: str) -> AsyncIterator[tuple[Entry, AsyncIterator[bytes]]]:
        """A large value as it comes: its entry without the value, and the chunks of it."""
        async with self._transport.open(kv.get(self._target, key)) as (entry, chunks):
            yield entry._replace(value=None), chunks

    @asynccontextmanager
    async def export(
        self, *, history: bool = False, after: Seal | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The store as a stream of JSON lines, in pieces as they come."""
        call = transfer.export(self._target, history=history, after=after)
        async with self._transport.open(call) as (_, pieces):
            yield pieces

    def __aiter__(self) -> AsyncIterator[str]:
        return self.keys()


class AsyncDatabase(_Caller):
    """One database: its tables, and SQL on it where it is a file."""

    create = _soon(db.create)
    delete = _soon(db.delete)
    transaction = _soon(db.transaction)
    execute = _soon(db.execute)
    query = _soon(db.query)
    select = _soon(db.select)
    sql_history = _soon(db.sql_history)
    sql_stats = _soon(db.sql_stats)
    clear_sql_history = _soon(db.clear_sql_history)
    maintain = _soon(db.maintain)

    def table(self, name: str | None = None) -> AsyncTable:
        """One of its tables, or for a directory one of its folders; without a name, `kv_store`."""
        return AsyncTable(self._transport, self._target._replace(table=name))


class AsyncClient(_Caller):
    """A server, by its URL, for one event loop; with the options of `Client`.

    Close it with `await client.close()`, or use it in `async with`.
    """

    def __init__(
        self,
        url: str = URL_DEFAULT,
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        attempt_s: float = ATTEMPT_S,
        retries: Retries = RETRIES,
        max_connections: int = 20,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        server = Server.at(url, token)
        pool = httpcore.AsyncConnectionPool(
            server.ssl_context(ssl_context), max_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S
        )
        super().__init__(AsyncTransport(server, pool, Times(timeout_s, attempt_s), retries), Target(""))

    health = _soon(db.health)
    databases = _soon(db.databases)

    def database(self, db: str, *, create: bool = False) -> AsyncDatabase:
        """A database: a name in the data dir, or an absolute path. `create`: writes make it."""
        return AsyncDatabase(self._transport, Target(db, create=create))

    def table(self, db: str, name: str | None = None, *, create: bool = False) -> AsyncTable:
        """A table of a database, or a folder of a directory; without a name, `kv_store`."""
        return AsyncTable(self._transport, Target(db, name, create))

    async def close(self) -> None:
        """Close the connections; idempotent."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
