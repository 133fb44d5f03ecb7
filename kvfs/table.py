"""The table store: keys as rows of an ordinary table in a `.db` file, their op-log beside them.

    key          TEXT PRIMARY KEY
    value        TEXT, or BLOB where it is not UTF-8 without NUL
    content_type TEXT      NULL in rows of other programs: told by the value then
    created_at   INTEGER   Unix seconds
    updated_at   INTEGER
    expire_at    REAL      Unix seconds in whole milliseconds; NULL without a TTL
    op_number    INTEGER   the key's last op in the log

Rows and log change in one transaction.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, Final, cast

import apsw

from kvfs import content_types, sqlite
from kvfs.database import Database
from kvfs.errors import InvalidParameters, KeyNotFound, from_os_error
from kvfs.model import (
    INLINE_MAX_BYTES,
    NS,
    NS_PER_MS,
    Entry,
    FileValue,
    KeyState,
    Op,
    OpType,
    Value,
    value_bytes,
)
from kvfs.oplog import LogReader, OpLog
from kvfs.sqlite import SqlValue, fetch, has_table, quoted, sql_value, stored_value
from kvfs.store import EmptyReader, Log, Reader, SelfContained, Unsettled
from kvfs.valueops import missing

_COLUMNS: Final = ("key", "value", "content_type", "created_at", "updated_at", "expire_at", "op_number")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS {table} (
    key TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL,
    content_type TEXT,
    created_at INTEGER NOT NULL DEFAULT (unixepoch()),
    updated_at INTEGER NOT NULL DEFAULT (unixepoch()),
    expire_at REAL,
    op_number INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS {index} ON {table} (expire_at) WHERE expire_at IS NOT NULL;
"""

_LIVE: Final = "(expire_at IS NULL OR expire_at > :now)"


class TableStore(SelfContained):
    """One KV table. Implements `kvfs.store.Store`."""

    def __init__(self, database: Database, name: str) -> None:
        self.volume = database
        self.name = name
        self.directory = False
        self._database = database
        self._log = OpLog(name)
        table = quoted(name)
        self._schema = _SCHEMA.format(table=table, index=quoted(f"kvfs_expiry_{name}"))
        row = "content_type, created_at, updated_at, expire_at, op_number"
        small = f"iif(octet_length(value) <= {INLINE_MAX_BYTES}, value, NULL)"
        self._get = f"SELECT {small}, octet_length(value), {row} FROM {table} WHERE key = ?"
        self._get_value = f"SELECT value FROM {table} WHERE key = ?"
        # Not INSERT OR REPLACE: that moves the row to a new place, and dirties more pages.
        self._put = (
            f"INSERT INTO {table} ({', '.join(_COLUMNS)}) VALUES (?,?,?,?,?,?,?)"
            " ON CONFLICT (key) DO UPDATE SET "
            + ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS[1:])
        )
        self._delete = f"DELETE FROM {table} WHERE key = ?"
        self._due = f"SELECT key FROM {table} WHERE expire_at <= ? ORDER BY expire_at LIMIT ?"
        self._next_expiry = f"SELECT min(expire_at) FROM {table} WHERE expire_at IS NOT NULL"
        self.page_sql = (
            f"SELECT key, iif(:values, value, NULL), octet_length(value), {row} FROM {table}"
            f" WHERE {{range}} AND {_LIVE} ORDER BY key LIMIT :limit OFFSET :offset"
        )
        self.count_sql = f"SELECT count(*) FROM {table} WHERE {{range}} AND {_LIVE}"
        self._log_id = ""
        self._log_id_of = 0
        # Whether a reader has found table and log.
        self._known = False
        # Whether they are there, as this batch found it: the writer's.
        self._there = False

    # --- reading ---------------------------------------------------------------------------------------

    def get(self, key: str, now_ns: int) -> Entry:
        pool = self._database.readers
        connection = pool.take()
        try:
            if not self._known and not self._exists(connection):
                raise missing(expired=False)
            rows = fetch(connection, self._get, (key,))
            if rows:
                entry = _entry(key, rows[0])
                if entry.expire_ns is None or entry.expire_ns > now_ns:
                    return entry
                raise missing(expired=True)
            raise missing(expired=self._log.last(connection, key)[1] is OpType.EXPIRE)
        except apsw.SQLError as exc:
            if self._exists(connection):
                # It has just come into being, or is no KV table: `fetch` will tell.
                raise Unsettled(key) from exc
            raise missing(expired=False) from None
        except apsw.Error as exc:
            raise sqlite.translate(exc) from exc
        finally:
            pool.give_back(connection)

    def fetch(self, key: str, now_ns: int) -> Entry:
        with self._database.readers.snapshot() as connection:
            if not self._exists(connection):
                raise missing(expired=False)
            rows = fetch(connection, self._get, (key,))
            if not rows:
                raise missing(expired=self._log.last(connection, key)[1] is OpType.EXPIRE)
            entry = _entry(key, rows[0])
            if entry.expired(now_ns):
                raise missing(expired=True)
            if entry.value is None:
                value = stored_value(fetch(connection, self._get_value, (key,))[0][0])
                entry = _entry(key, (value, *rows[0][1:]))
            return entry

    @contextmanager
    def reading(
        self, now_ns: int, deadline: float | None = None, *, looked: Set[str] = frozenset()
    ) -> Iterator[Reader]:
        with self._database.readers.snapshot(deadline) as connection:
            if self._exists(connection):
                yield _TableReader(self, self._log, connection, now_ns)
            else:
                yield EmptyReader()

    def log_id(self) -> str:
        replacements = self._database.replacements
        if not self._log_id or replacements != self._log_id_of:
            with self._database.readers.borrow() as connection:
                self._log_id = self._log.log_id(connection) or ""
            self._log_id_of = replacements
        return self._log_id

    def scan(self, prefix: str, now_ns: int, *, everything: bool = False) -> None:
        return None

    def unsettled_among(self, keys: Sequence[str]) -> list[str]:
        return []

    def upload(self) -> FileValue:
        folder = os.path.dirname(self._database.path)
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                return FileValue(os.dup(file.fileno()), 0)
        except OSError as exc:
            raise from_os_error(exc, "keep an upload") from exc

    # --- writing: the writer's thread only -------------------------------------------------------------

    def tail(self) -> tuple[int, int]:
        connection = self._database.connection
        with sqlite.errors():
            # What was there once is looked for again, since other programs may drop it.
            self._there = (self._there and self._exists(connection)) or self._look()
            return self._log.tail(connection) if self._there else (0, 0)

    def load(self, key: str) -> KeyState:
        if not self._there:
            return KeyState(None, 0)
        connection = self._database.connection
        try:
            rows = connection.execute(self._get, (key,)).fetchall()
            if rows:
                entry = _entry(key, rows[0])
                return KeyState(entry, entry.op_number)
            number, op_type = self._log.last(connection, key)
            return KeyState(None, number, expired=op_type is OpType.EXPIRE)
        except apsw.Error as exc:
            raise sqlite.translate(exc) from exc

    def load_value(self, key: str) -> Value:
        with sqlite.errors():
            rows = fetch(self._database.connection, self._get_value, (key,))
        if not rows:
            raise KeyNotFound("Key not found")
        return stored_value(rows[0][0])

    def due(self, now_ns: int, limit: int) -> list[str]:
        if not self._there:
            return []
        with sqlite.errors():
            rows = fetch(self._database.connection, self._due, (now_ns / NS, limit))
        return [row[0] for row in rows]

    def next_expiry(self) -> int | None:
        with self._database.readers.borrow() as connection:
            if not self._exists(connection):
                return None
            (expire_at,) = fetch(connection, self._next_expiry)[0]
        return _expire_ns(expire_at)

    @contextmanager
    def log(self) -> Iterator[Log]:
        with sqlite.errors("read the op-log"):
            yield LogReader(self._log, self._database.connection) if self._there else EmptyReader()

    def create(self) -> None:
        if self._there:
            return
        connection = self._database.connection
        with sqlite.errors(f"make {self.name}"):
            if self._log.log_id(connection) is None:
                self._log.create(connection, secrets.token_hex(8))
            connection.execute(self._schema)
            self._there = True

    def write(self, ops: Sequence[Op]) -> None:
        self.create()
        connection = self._database.connection
        last = {op.key: op.entry for op in ops}
        with sqlite.errors(f"write {self.name}"):
            self._log.append(connection, ops)
            connection.executemany(self._put, (_row(entry) for entry in last.values() if entry is not None))
            gone = [(key,) for key, entry in last.items() if entry is None]
            if gone:
                connection.executemany(self._delete, gone)

    # --- parts -----------------------------------------------------------------------------------------

    def _exists(self, connection: apsw.Connection) -> bool:
        """Whether there is such a KV table: what has no log is another program's, and none."""
        self._known = has_table(connection, self.name) and self._log.log_id(connection) is not None
        return self._known

    def _look(self) -> bool:
        """Whether table and log are there. Raises `InvalidParameters` where something else has the name."""
        connection = self._database.connection
        exists = has_table(connection, self.name)
        if self._log.log_id(connection) is not None:
            if not exists:
                # Another program dropped it; its log goes on.
                connection.execute(self._schema)
            return True
        if exists or _taken(connection, self.name):
            raise InvalidParameters(f"{self.name} exists in the database and is not a KV table")
        return False


class _TableReader(LogReader):
    """Implements `kvfs.store.Reader` in one read transaction."""

    def __init__(self, store: TableStore, log: OpLog, connection: apsw.Connection, now_ns: int) -> None:
        super().__init__(log, connection)
        self._store = store
        self._now_s = now_ns / NS

    def page(
        self,
        start: str,
        end: str | None,
        *,
        limit: int,
        offset: int = 0,
        after: bool = False,
        values: bool = False,
    ) -> list[Entry]:
        bounds, parameters = _range(start, end, after=after)
        rows = fetch(
            self._connection,
            self._store.page_sql.format(range=bounds),
            {**parameters, "now": self._now_s, "limit": limit, "offset": offset, "values": values},
        )
        return [_entry(row[0], row[1:]) for row in rows]

    def count(self, start: str, end: str | None) -> int:
        bounds, parameters = _range(start, end, after=False)
        sql = self._store.count_sql.format(range=bounds)
        return cast(int, fetch(self._connection, sql, {**parameters, "now": self._now_s})[0][0])


def _range(start: str, end: str | None, *, after: bool) -> tuple[str, dict[str, SqlValue]]:
    bounds = "key > :start" if after else "key >= :start"
    if end is None:
        return bounds, {"start": start}
    return f"{bounds} AND key < :end", {"start": start, "end": end}


def _taken(connection: apsw.Connection, name: str) -> bool:
    """Whether a view, an index or a trigger bears this name."""
    sql = "SELECT 1 FROM sqlite_schema WHERE name = ? COLLATE NOCASE"
    return bool(fetch(connection, sql, (name,)))


def _entry(key: str, row: Sequence[Any]) -> Entry:
    value, size, content_type, created_at, updated_at, expire_at, op_number = row
    data = None if value is None else stored_value(value)
    if content_type is None:
        content_type = content_types.BYTES if data is None else content_types.detect(data)
    return Entry(
        key,
        data,
        size,
        content_type,
        created_at if type(created_at) is int else _seconds(created_at),
        updated_at if type(updated_at) is int else _seconds(updated_at),
        None if expire_at is None else _expire_ns(expire_at),
        op_number,
    )


def _seconds(value: SqlValue) -> int:
    # Other programs may put anything here; a row must stay readable all the same.
    return int(value) if isinstance(value, int | float) else 0


def _expire_ns(expire_at: SqlValue) -> int | None:
    return round(expire_at * 1000) * NS_PER_MS if isinstance(expire_at, int | float) else None


def _row(entry: Entry) -> tuple[SqlValue, ...]:
    assert entry.value is not None
    return (
        entry.key,
        sql_value(value_bytes(entry.value)),
        entry.content_type,
        entry.created_s,
        entry.updated_s,
        None if entry.expire_ns is None else entry.expire_ns / NS,
        entry.op_number,
    )
