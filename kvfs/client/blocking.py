"""The blocking client. What can be asked stands in `kv`, `past` and `db`, once for both clients."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

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
from kvfs.errors import KvfsError, NotFound
from kvfs.model import Entry, value_bytes
from kvfs.transfer.format import Seal

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


class Transport:
    """Connections to one server, shared by all that talk to it. Any thread may use it."""

    def __init__(self, server: Server, pool: httpcore.ConnectionPool, times: Times, retries: Retries) -> None:
        self._server = server
        self._pool = pool
        self._times = times
        self._retries = retries

    def within(self, timeout_s: float) -> Transport:
        """The same connections, with this time for each call."""
        return Transport(self._server, self._pool, replace(self._times, timeout_s=timeout_s), self._retries)

    def send(self, call: Call[T]) -> T:
        """Make a call, its retries included; raises `KvfsError`."""
        try:
            told, _ = self._run(call, whole=True)
        except KvfsError as error:
            if call.recover is None:
                raise
            return call.recover(error)
        return call.parse(told)

    def turn(self, pages: Pages[U, T]) -> Iterator[T]:
        """All items of pages that follow one another."""
        call: Call[U] | None = pages.first
        while call is not None:
            page = self._persist(call) if pages.endless else self.send(call)
            yield from pages.items(page)
            call = pages.rest(page)

    @contextmanager
    def open(self, call: Call[T]) -> Iterator[tuple[T, Iterator[bytes]]]:
        """Make a call; what its answer's headers tell, and the chunks of its body as they come."""
        told, response = self._run(call, whole=False)
        try:
            yield call.parse(told), _chunks(response)
        finally:
            response.close()

    def close(self) -> None:
        self._pool.close()

    def _persist(self, call: Call[U]) -> U:
        while True:
            try:
                return self.send(call)
            except KvfsError as error:
                if not is_away(error):
                    raise
            time.sleep(AWAY_PAUSE_S)

    def _run(self, call: Call[T], *, whole: bool) -> tuple[Answer, httpcore.Response]:
        """Go through the course of a call; `whole`: read the answer's body, and be done with it."""
        content = Content(call.body)
        steps = course(call, self._times, self._retries, self._server.headers)
        step = next(steps)
        while True:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                step = next(steps)
                continue
            try:
                told, response = self._attempt(call.method, step, content, whole=whole)
            except FAILURES as exc:
                step = steps.throw(exc)
                continue
            try:
                step = steps.send(told)
            except StopIteration:
                return told, response

    def _attempt(
        self, method: str, attempt: Attempt, content: Content, *, whole: bool
    ) -> tuple[Answer, httpcore.Response]:
        response = self._pool.handle_request(self._server.request(method, attempt, content))
        if not whole and response.status < 400:
            return answer(response, b""), response
        try:
            return answer(response, response.read()), response
        finally:
            response.close()


def _chunks(response: httpcore.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_stream()
    except FAILURES as exc:
        raise broken_off(exc) from exc


class _Caller:
    """What makes calls about one target."""

    def __init__(self, transport: Transport, target: Target) -> None:
        self._transport = transport
        self._target = target

    def within(self, timeout_s: float) -> Self:
        """The same, with so many seconds for each call, retries included."""
        other = copy(self)
        other._transport = self._transport.within(timeout_s)
        return other


def _now(build: Callable[Concatenate[Target, P], Call[T]]) -> Callable[Concatenate[_Caller, P], T]:
    """The method that makes such a call."""

    @wraps(build)
    def method(self: _Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._transport.send(build(self._target, *args, **kwargs))

    return method


def _each(
    build: Callable[Concatenate[Target, P], Pages[U, T]],
) -> Callable[Concatenate[_Caller, P], Iterator[T]]:
    """The method that goes through such pages."""

    @wraps(build)
    def method(self: _Caller, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._transport.turn(build(self._target, *args, **kwargs))

    return method


class Table(_Caller):
    """One table or folder: keys and values, their past, and their changes.

    It can be used like a dict of bytes: `table["k"]`, `table["k"] = b"v"`, `del table["k"]`, `"k" in table`,
    `for key in table`, `len(table)`; `as_dict` has the rest of a dict's methods.
    """

    get = _now(kv.get)
    get_at = _now(kv.get_at)
    get_text = _now(kv.get_text)
    get_json = _now(kv.get_json)
    get_node = _now(kv.get_node)
    get_many = _now(kv.get_many)
    exists = _now(kv.exists)
    list = _now(kv.list)
    keys = _each(kv.keys)
    entries = _each(kv.entries)
    count = _now(kv.count)
    set = _now(kv.set)
    set_json = _now(kv.set_json)
    set_many = _now(kv.set_many)
    delete = _now(kv.delete)
    delete_many = _now(kv.delete_many)
    incr = _now(kv.incr)
    decr = _now(kv.decr)
    push = _now(kv.push)
    pop = _now(kv.pop)
    remove = _now(kv.remove)
    expire = _now(kv.expire)
    persist = _now(kv.persist)

    list_at = _now(past.list_at)
    history = _now(past.history)
    operations = _each(past.operations)
    snapshot = _now(past.snapshot)
    snapshot_at = _now(past.snapshot_at)
    diff = _now(past.diff)
    rollback = _now(past.rollback)
    rollback_table = _now(past.rollback_table)
    changes = _now(past.changes)
    follow = _each(past.follow)

    import_part = _now(transfer.import_part)

    maintain = _now(db.maintain)
    prune = _now(db.prune)
    retention = _now(db.retention)
    set_retention = _now(db.set_retention)

    @contextmanager
    def stream(self, key: str) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """A large value as it comes: its entry without the value, and the chunks of it.

        with table.stream("film.mp4") as (entry, chunks): ...
        """
        with self._transport.open(kv.get(self._target, key)) as (entry, chunks):
            yield entry._replace(value=None), chunks

    @contextmanager
    def export(self, *, history: bool = False, after: Seal | None = None) -> Iterator[Iterator[bytes]]:
        """The store as a stream of JSON lines, in pieces as they come.

        with table.export(history=True) as pieces: ...
        """
        with self._transport.open(transfer.export(self._target, history=history, after=after)) as (_, pieces):
            yield pieces

    def as_dict(self) -> MutableMapping[str, bytes]:
        """The table as a mapping of keys to values, with all methods of a dict."""
        return _Mapping(self)

    def __getitem__(self, key: str) -> bytes:
        try:
            return value_bytes(self.get(key).value or b"")
        except NotFound as exc:
            raise KeyError(key) from exc

    def __setitem__(self, key: str, value: bytes | str) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        try:
            self.delete(key)
        except NotFound as exc:
            raise KeyError(key) from exc

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(key) and self.exists(key)

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        # An empty table is still a table, and looking would be a request.
        return True


class _Mapping(MutableMapping[str, bytes]):
    def __init__(self, table: Table) -> None:
        self._table = table

    def __getitem__(self, key: str) -> bytes:
        return self._table[key]

    def __setitem__(self, key: str, value: bytes) -> None:
        self._table[key] = value

    def __delitem__(self, key: str) -> None:
        del self._table[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class Database(_Caller):
    """One database: its tables, and SQL on it where it is a file."""

    create = _now(db.create)
    delete = _now(db.delete)
    transaction = _now(db.transaction)
    execute = _now(db.execute)
    query = _now(db.query)
    select = _now(db.select)
    sql_history = _now(db.sql_history)
    sql_stats = _now(db.sql_stats)
    clear_sql_history = _now(db.clear_sql_history)
    maintain = _now(db.maintain)

    def table(self, name: str | None = None) -> Table:
        """One of its tables, or for a directory one of its folders; without a name, `kv_store`."""
        return Table(self._transport, self._target._replace(table=name))


class Client(_Caller):
    """A server, by its URL. Any thread may use it; `close` it, or use it as a context manager.

    A call takes at most `timeout_s`, retries included; an attempt at a call that should be quick is given up
    after `attempt_s`, and made again. `retries` says how often; writes are sent with an idempotency key, so
    that one that is repeated happens once.
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
        pool = httpcore.ConnectionPool(
            server.ssl_context(ssl_context), max_connections=max_connections, keepalive_expiry=KEEP_ALIVE_S
        )
        super().__init__(Transport(server, pool, Times(timeout_s, attempt_s), retries), Target(""))

    health = _now(db.health)
    databases = _now(db.databases)

    def database(self, db: str, *, create: bool = False) -> Database:
        """A database: a name in the data dir, or an absolute path. `create`: writes make it."""
        return Database(self._transport, Target(db, create=create))

    def table(self, db: str, name: str | None = None, *, create: bool = False) -> Table:
        """A table of a database, or a folder of a directory; without a name, `kv_store`."""
        return Table(self._transport, Target(db, name, create))

    def close(self) -> None:
        """Close the connections; idempotent."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
