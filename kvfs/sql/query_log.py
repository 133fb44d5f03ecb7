"""The query log: what SQL ran on which database, when, for how long, and what came of it.

One SQLite file for a server, `<data dir>/.kvfs/queries.db`, outside every user's database. Format, version 1,
which is its `user_version` (0 in files from before that was noted):

    id          INTEGER  the order in which entries were written; never reused
    db          TEXT     the real path of the database
    sql         TEXT     as it was sent, cut off after 10 000 characters; never the values bound to it
    ts_ns       INTEGER  when it began, Unix nanoseconds
    duration_us INTEGER
    rows        INTEGER  how many it returned or changed
    error       TEXT     NULL where it succeeded

It is a convenience, not a record: entries wait in memory for a moment, and are lost with a killed process;
a file that is damaged is begun anew. One of a newer version is left as it is, and neither read nor written.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import apsw

from kvfs import disk, sqlite
from kvfs.errors import KvfsError, NewerFormat, from_os_error
from kvfs.model import NS
from kvfs.paths import STATE_DIR
from kvfs.sql.model import Executed
from kvfs.sqlite import SqlValue, fetch

_LOG = logging.getLogger("kvfs.sql.query_log")

MAX_ENTRIES: Final = 10_000
"""How many entries of one database are kept."""

_FORMAT: Final = 1
_MAX_SQL_CHARS: Final = 10_000
_MAX_WAITING: Final = 20_000
_FLUSH_S: Final = 0.25
_LOCKED_WAIT_S: Final = 1.0
_HOUR_S: Final = 3600

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS queries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    db TEXT NOT NULL,
    sql TEXT NOT NULL,
    ts_ns INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    error TEXT
);
CREATE INDEX IF NOT EXISTS queries_db ON queries (db, id);
CREATE INDEX IF NOT EXISTS queries_time ON queries (db, ts_ns, id);
"""
_ADD: Final = "INSERT INTO queries (db, sql, ts_ns, duration_us, rows, error) VALUES (?,?,?,?,?,?)"
_PRUNE: Final = (
    "DELETE FROM queries WHERE db = :db AND id <="
    " (SELECT id FROM queries WHERE db = :db ORDER BY id DESC LIMIT 1 OFFSET :most)"
)
_NEWEST: Final = (
    "SELECT id, sql, ts_ns, duration_us, rows, error FROM queries WHERE db = ?"
    " ORDER BY ts_ns DESC, id DESC LIMIT ?"
)
_COUNT: Final = "SELECT count(*) FROM queries WHERE db = ?"
_TOTALS: Final = (
    "SELECT count(*), count(error), avg(duration_us), min(ts_ns), max(ts_ns) FROM queries WHERE db = ?"
)
_NTH_DURATION: Final = "SELECT duration_us FROM queries WHERE db = ? ORDER BY duration_us LIMIT 1 OFFSET ?"
_DELETE: Final = "DELETE FROM queries WHERE db = ?"
_DELETE_ONE: Final = "DELETE FROM queries WHERE db = ? AND id = ?"


@dataclass(frozen=True, slots=True)
class Entry:
    """One query that ran."""

    id: int
    sql: str
    ts_ns: int
    duration_us: int
    rows: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the entries of a database come to; times are None where there are none.

    `per_hour` is over the time from the oldest to the newest, of an hour at least.
    """

    total: int
    errors: int
    mean_us: float
    p95_us: int
    oldest_ns: int | None
    newest_ns: int | None
    per_hour: float


def query_log_in(folder: str) -> str:
    """Where the query log of the databases in a folder lies."""
    return os.path.join(folder, STATE_DIR, "queries.db")


class QueryLog:
    """The log in one file, made when it is first needed. Any thread may use it; `close` is idempotent.

    A thread of its own writes what was recorded, some times a second. Reading writes first what waits.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # Appended to by any thread; when it is full, the oldest are forgotten.
        self._waiting: deque[tuple[str, Executed]] = deque(maxlen=_MAX_WAITING)
        # Guards the connection, and who takes from `_waiting`.
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._work = threading.Event()
        self._closed = threading.Event()

    def record(self, db: str, executed: Sequence[Executed]) -> None:
        """Note what ran on a database; returns at once."""
        if not executed:
            return
        self._waiting.extend((db, each) for each in executed)
        if not self._work.is_set():
            self._work.set()
            if self._thread is None:
                self._begin()

    def entries(self, db: str, limit: int) -> tuple[list[Entry], int]:
        """The newest entries of a database, and how many it has."""
        with self._lock, sqlite.errors("read the query log"):
            connection = self._flushed()
            rows = fetch(connection, _NEWEST, (db, limit))
            return [Entry(*row) for row in rows], fetch(connection, _COUNT, (db,))[0][0]

    def statistics(self, db: str) -> Statistics:
        """What the entries of a database come to."""
        with self._lock, sqlite.errors("read the query log"):
            connection = self._flushed()
            total, errors, mean, oldest, newest = fetch(connection, _TOTALS, (db,))[0]
            if not total:
                return Statistics(0, 0, 0.0, 0, None, None, 0.0)
            # The nearest rank: the least duration that 95 of 100 do not exceed.
            ((p95,),) = fetch(connection, _NTH_DURATION, (db, (total * 95 + 99) // 100 - 1))
        hours = max(1.0, (newest - oldest) / NS / _HOUR_S)
        return Statistics(total, errors, mean, p95, oldest, newest, total / hours)

    def clear(self, db: str) -> int:
        """Forget all entries of a database; how many there were."""
        if not self._waiting and not os.path.exists(self._path):
            return 0
        return self._delete(_DELETE, (db,))

    def delete(self, db: str, entry_id: int) -> bool:
        """Forget one entry of a database; whether there was such."""
        return self._delete(_DELETE_ONE, (db, entry_id)) > 0

    def flush(self) -> None:
        """Write what waits, so that other processes see it."""
        if self._waiting:
            with self._lock:
                self._flushed()

    def close(self) -> None:
        """Write what waits, and close."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            thread = self._thread
        self._work.set()
        if thread is not None:
            thread.join()
        with self._lock, suppress(KvfsError):
            if self._waiting or self._connection is not None:
                self._flushed().close()

    # --- parts -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._write, name="kvfs-queries", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        while not self._closed.is_set():
            self._work.wait()
            self._work.clear()
            try:
                with self._lock:
                    self._flushed()
            except KvfsError as exc:
                _LOG.warning("cannot write the query log: %s", exc.message)
            self._closed.wait(_FLUSH_S)

    def _delete(self, sql: str, bindings: Sequence[SqlValue]) -> int:
        with self._lock, sqlite.errors("write the query log"):
            connection = self._flushed()
            sqlite.retry_busy(lambda: fetch(connection, sql, bindings), time.monotonic() + _LOCKED_WAIT_S)
            return connection.changes()

    def _flushed(self) -> apsw.Connection:
        """The connection, when what waited is written. The lock is held."""
        if self._connection is None or disk.identity(self._path) != self._identity:
            # Another process may have found the file damaged, and begun it anew.
            if self._connection is not None:
                self._connection.close()
            self._connection = self._open()
            self._identity = disk.identity(self._path)
        connection = self._connection
        taken: list[tuple[str, Executed]] = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        if taken:
            with sqlite.errors("write the query log"):
                sqlite.retry_busy(
                    lambda: connection.execute("BEGIN IMMEDIATE"), time.monotonic() + _LOCKED_WAIT_S
                )
                with connection:
                    connection.executemany(_ADD, (_row(db, executed) for db, executed in taken))
                    for db in {db for db, _ in taken}:
                        connection.execute(_PRUNE, {"db": db, "most": MAX_ENTRIES})
                connection.execute("COMMIT")
        return connection

    def _open(self) -> apsw.Connection:
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
        except OSError as exc:
            raise from_os_error(exc, "make the query log") from exc
        try:
            return self._connect()
        except KvfsError as exc:
            if not sqlite.is_damage(exc):
                raise
            with sqlite.naming(self._path, alone=True):
                for name in sqlite.files_of(self._path):
                    with suppress(FileNotFoundError):
                        os.unlink(name)
            return self._connect()

    def _connect(self) -> apsw.Connection:
        deadline = time.monotonic() + _LOCKED_WAIT_S
        connection = sqlite.connect(
            self._path, create=True, synchronous="OFF", accept=_check_format, deadline=deadline
        )
        try:
            with sqlite.errors("make the query log"):
                sqlite.retry_busy(lambda: connection.execute(_SCHEMA), deadline)
                if connection.pragma("user_version") != _FORMAT:
                    sqlite.retry_busy(lambda: connection.pragma("user_version", _FORMAT), deadline)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_format(connection: apsw.Connection) -> None:
    found = connection.pragma("user_version")
    if found > _FORMAT:
        raise NewerFormat(
            f"The query log has format {found}, written by a newer kvfs; this one knows {_FORMAT}"
        )


def _row(db: str, executed: Executed) -> tuple[SqlValue, ...]:
    sql = _storable(executed.sql)
    if len(sql) > _MAX_SQL_CHARS:
        sql = sql[: _MAX_SQL_CHARS - 1] + "…"
    error = None if executed.error is None else _storable(executed.error)
    return db, sql, executed.ts_ns, round(executed.duration_s * 1e6), executed.rows, error


def _storable(text: str) -> str:
    """Text that SQLite takes: what ran, and failed for it, may be no Unicode."""
    return text.encode(errors="replace").decode()
