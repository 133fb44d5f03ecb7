"""The table store: keys as rows of an ordinary table in a `.db` file, their op-log beside them.

    key          TEXT PRIMARY KEY
    value        TEXT, or BLOB where it is not UTF-8 without NUL
    content_type TEXT      NULL in rows of other programs: told by the value then
    created_at   INTEGER   Unix seconds
    updated_at   INTEGER
    expire_at    REAL      Unix seconds in whole milliseconds; NULL without a TTL
    op_number    INTEGER   the key's last op in the log

Rows and log change in one transaction, also where SQL writes the rows (`kvfs.triggers`).
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, Final, cast

import apsw

from kvfs import content_types, imports, pruning, sqlite
from kvfs.database import Database
from kvfs.errors import DatabaseError, InvalidParameters, KeyNotFound, from_os_error
from kvfs.imports import LastImport
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
from kvfs.oplog import LogReader, OpLog, can_be_cached
from kvfs.retention import Standing
from kvfs.sqlite import SqlValue, fetch, has_table, json_text, quoted, sql_value
from kvfs.store import Cut, EmptyReader, Log, Reader, SelfContained, Step, TooHeavy, Unsettled, Walk
from kvfs.triggers import EXPIRE_MAX_MS, Triggers
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

# As bytes, whatever SQL has put there; no text that is not UTF-8 can fail to be read.
_VALUE: Final = "CAST(value AS BLOB)"
_SMALL: Final = f"iif(octet_length(value) <= {INLINE_MAX_BYTES}, {_VALUE}, NULL)"
_LIVE: Final = "(expire_at IS NULL OR expire_at > :now)"


class TableStore(SelfContained):
    """One KV table. Implements `kvfs.store.Store`."""

    def __init__(self, database: Database, name: str) -> None:
        self.volume = database
        self.name = name
        self.directory = False
        self._database = database
        self._log = OpLog(name)
        self._triggers = Triggers(name, self._log.table)
        # Of the batch that is being decided.
        self._ahead: dict[str, KeyState] = {}
        table = quoted(name)
        self._schema = _SCHEMA.format(table=table, index=quoted(f"kvfs_expiry_{name}"))
        row = "content_type, created_at, updated_at, expire_at, op_number"
        self._get = f"SELECT {_SMALL}, octet_length(value), {row} FROM {table} WHERE key = ?"
        self._get_many = (
            f"SELECT key, NULL, octet_length(value), {row} FROM {table}"
            " WHERE key IN (SELECT value FROM json_each(?))"
        )
        self._get_value = f"SELECT {_VALUE} FROM {table} WHERE key = ?"
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
            f"SELECT key, iif(:values, {_VALUE}, iif(content_type IS NULL, {_SMALL}, NULL)),"
            f" octet_length(value), {row} FROM {table}"
            f" WHERE {{range}} AND {_LIVE} ORDER BY key LIMIT :limit OFFSET :offset"
        )
        self.count_sql = f"SELECT count(*) FROM {table} WHERE {{range}} AND {_LIVE}"
        # Whether a reader has found table and log, and by which schema all that belongs to them.
        self._known = False
        self._complete_at = -1
        # Whether they are there, as this batch found it, and the schema that it knows of: the writer's.
        self._there = False
        self._schema_version = -1
        self._imported = False

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
                value = fetch(connection, self._get_value, (key,))[0][0]
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

    def copy_to(self, path: str, *, locked: bool) -> None:
        with self._database.readers.snapshot() as connection:
            sqlite.copy(connection, path)

    # --- writing: the writer's thread only -------------------------------------------------------------

    @property
    def read_only(self) -> bool:
        return self._database.readonly

    def check_writable(self) -> None:
        if self.read_only:
            raise DatabaseError("The database is read-only")

    def tail(self) -> tuple[int, int]:
        connection = self._database.connection
        self._ahead = {}
        with sqlite.errors():
            # What was there once is looked for again when any program has changed the schema.
            if self._schema_version != _schema_version(connection):
                self._there = self._look()
            return self._log.tail(connection) if self._there else (0, 0)

    def prefetch(self, keys: Sequence[str]) -> None:
        if not self._there:
            return
        connection = self._database.connection
        with sqlite.errors():
            rows = fetch(connection, self._get_many, (json_text(keys),))
            self._ahead = {row[0]: KeyState(_entry(row[0], row[1:]), row[-1]) for row in rows}
            gone = self._log.last_facts(connection, [key for key in keys if key not in self._ahead])
        for key in keys:
            if key not in self._ahead:
                op = gone.get(key)
                self._ahead[key] = (
                    KeyState(None, 0)
                    if op is None
                    else KeyState(None, op.op_number, expired=op.op_type is OpType.EXPIRE)
                )

    def load(self, key: str) -> KeyState:
        if not self._there:
            return KeyState(None, 0)
        if self._ahead and (ahead := self._ahead.get(key)) is not None:
            return ahead
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
        return cast(bytes, rows[0][0])

    def due(self, now_ns: int, limit: int) -> list[str]:
        if not self._there:
            return []
        with sqlite.errors():
            rows = fetch(self._database.connection, self._due, (now_ns / NS, limit))
        return [row[0] for row in rows]

    def next_expiry(self) -> int | None:
        if self.read_only:
            return None
        with self._database.readers.borrow() as connection:
            if not has_table(connection, self.name):
                return None
            (expire_at,) = fetch(connection, self._next_expiry)[0]
        return _expire_ns(expire_at)

    @contextmanager
    def log(self) -> Iterator[Log]:
        with sqlite.errors("read the op-log"):
            yield LogReader(self._log, self._database.connection) if self._there else EmptyReader()

    def prune(self, walk: Walk, cut: Cut) -> Step:
        if not self._there:
            return Step(None)
        with sqlite.errors("prune the op-log"):
            return pruning.step(self._log, self._database.connection, walk, cut)

    def change_standing(self, change: Callable[[Standing], Standing]) -> Standing:
        self.create()
        with sqlite.errors("note the retention"):
            return self._log.change_standing(self._database.connection, change)

    def last_import(self) -> LastImport | None:
        if not self._imported:
            return None
        with sqlite.errors("read how far an import got"):
            return imports.read(self._database.connection, self.name)

    def note_import(self, last: LastImport) -> None:
        self.create()
        with sqlite.errors("note how far an import got"):
            imports.write(self._database.connection, self.name, last)

    def create(self) -> None:
        if self._there:
            return
        self.check_writable()
        connection = self._database.connection
        with sqlite.errors(f"make {self.name}"):
            if self._log.log_id(connection) is None:
                self._log.create(connection, secrets.token_hex(8))
            connection.execute(self._schema)
            self._triggers.install(connection)
            self._there = True

    def write(self, ops: Sequence[Op]) -> None:
        self.create()
        connection = self._database.connection
        last = {op.key: op.left for op in ops}
        with sqlite.errors(f"write {self.name}"):
            self._log.append(connection, ops)
            rows = (_row(entry) for entry in last.values() if entry is not None)
            connection.executemany(self._put, rows, can_cache=can_be_cached(last.values()))
            gone = [(key,) for key, entry in last.items() if entry is None]
            if gone:
                connection.executemany(self._delete, gone)

    # --- parts -----------------------------------------------------------------------------------------

    def _exists(self, connection: apsw.Connection) -> bool:
        """Whether there is such a KV table: what has no log is another program's, and none.

        Raises `Unsettled` where the writer must first log what was done to it unseen.
        """
        logged = self._log.log_id(connection) is not None
        version = _schema_version(connection)
        if logged and version == self._complete_at:
            return True
        exists = has_table(connection, self.name)
        if logged and not self._database.readonly and not (exists and self._triggers.installed(connection)):
            raise Unsettled
        self._known = exists and logged
        if self._known:
            self._complete_at = version
        return self._known

    def _look(self) -> bool:
        """Whether table and log are there. Raises `InvalidParameters` where something else has the name."""
        connection = self._database.connection
        self._imported = imports.known(connection)
        exists = has_table(connection, self.name)
        if self._log.log_id(connection) is None:
            if exists or _taken(connection, self.name):
                raise InvalidParameters(f"{self.name} exists in the database and is not a KV table")
            return False
        if self.read_only:
            return exists
        if not exists or not self._triggers.installed(connection):
            # Another program dropped them; the log goes on.
            if self._database.light:
                raise TooHeavy
            connection.execute(self._schema)
            self._triggers.install(connection)
        self._schema_version = _schema_version(connection)
        return True


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
        entries = [_entry(row[0], row[1:]) for row in rows]
        return entries if values else [entry._replace(value=None) for entry in entries]

    def count(self, start: str, end: str | None) -> int:
        bounds, parameters = _range(start, end, after=False)
        sql = self._store.count_sql.format(range=bounds)
        return cast(int, fetch(self._connection, sql, {**parameters, "now": self._now_s})[0][0])

    def settled_seq(self) -> int:
        return self.tail()[0]


def _range(start: str, end: str | None, *, after: bool) -> tuple[str, dict[str, SqlValue]]:
    bounds = "key > :start" if after else "key >= :start"
    if end is None:
        return bounds, {"start": start}
    return f"{bounds} AND key < :end", {"start": start, "end": end}


def _schema_version(connection: apsw.Connection) -> int:
    """Changes with the schema, whoever changes it."""
    return cast(int, fetch(connection, "PRAGMA schema_version")[0][0])


def _taken(connection: apsw.Connection, name: str) -> bool:
    """Whether a view, an index or a trigger bears this name."""
    sql = "SELECT 1 FROM sqlite_schema WHERE name = ? COLLATE NOCASE"
    return bool(fetch(connection, sql, (name,)))


def _entry(key: str, row: Sequence[Any]) -> Entry:
    value, size, content_type, created_at, updated_at, expire_at, op_number = row
    if type(content_type) is not str:
        content_type = content_types.BYTES if value is None else content_types.detect(value)
    return Entry(
        key,
        value,
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
    if not isinstance(expire_at, int | float):
        return None
    return round(max(0, min(expire_at * 1000, EXPIRE_MAX_MS))) * NS_PER_MS


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
