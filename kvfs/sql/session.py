"""One guarded connection to a database, and how SQL of strangers runs on it.

A session belongs to one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import apsw

from kvfs import sqlite
from kvfs.errors import DeadlineExceeded, KvfsError, NotASelect, SqlError
from kvfs.sql import functions
from kvfs.sql.guard import ONLY_SELECT, OWN, Guard, Mode
from kvfs.sql.interrupts import Interrupter, Running
from kvfs.sql.model import BatchChanged, Bindings, Changed, Item, MakeRows, Result, Selected

MAX_ROWS: Final = 10_000
"""How many rows of a query anybody gets."""

_CACHE_KIB: Final = 4096
_ITEM: Final = "kvfs_item"
_OWN_NAMES: Final = f"SELECT type, name FROM sqlite_schema WHERE name LIKE '{OWN[:-1]}\\_%' ESCAPE '\\'"
_KV_TABLES: Final = "SELECT name FROM kvfs_stores"

_FAULTS_OF_SQL: Final = frozenset(
    {
        apsw.SQLITE_ERROR, apsw.SQLITE_ABORT, apsw.SQLITE_AUTH, apsw.SQLITE_CONSTRAINT, apsw.SQLITE_MISMATCH,
        apsw.SQLITE_MISUSE, apsw.SQLITE_RANGE, apsw.SQLITE_SCHEMA, apsw.SQLITE_TOOBIG,
    }
)  # fmt: skip
"""SQLite's result codes that the SQL is to blame for, and nothing below it."""


class NeedsWriting(Exception):
    """A statement that writes came up in a session that only reads. Never leaves the engine's callers."""


class Session:
    """A connection with a guard. With `readonly` it writes nothing, and what would raises `NeedsWriting`.

    An empty `path` is a database of its own, which is gone with the session.
    """

    def __init__(
        self, path: str, interrupter: Interrupter, *, readonly: bool, max_length: int, deadline: float
    ) -> None:
        self.readonly = readonly
        self._interrupter = interrupter
        self._running: Running | None = None
        self._deadline = deadline
        if path:
            self.connection = sqlite.connect(path, readonly=readonly, deadline=deadline)
        else:
            self.connection = apsw.Connection("")
        # What the trace has seen since the item began.
        self._single = False
        self._statements = 0
        self._columns: list[str] = []
        self._changes_before = 0
        self._schema_version: object = None
        self._own_names: frozenset[tuple[str, str]] = frozenset()
        try:
            with sqlite.errors():
                self._prepare(max_length)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, max_length: int) -> None:
        connection = self.connection
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
        connection.pragma("foreign_keys", 1)
        connection.pragma("cache_size", -_CACHE_KIB)
        # A large sort goes on in files; memory is bounded for all of SQLite together.
        connection.pragma("temp_store", "file")
        if self.readonly:
            connection.pragma("query_only", 1)
        functions.register(connection, max_length=max_length)
        self.guard = Guard(connection, max_length=max_length)
        connection.exec_trace = self._trace

    def close(self) -> None:
        """Undo what is not committed, and close."""
        self.connection.close()

    # --- transactions ----------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, mode: Mode, deadline: float) -> Iterator[None]:
        """A transaction that is undone at the end unless it was committed. Nothing in it outlives `deadline`.

        Raises `Overloaded` where the database stays locked, `DeadlineExceeded`, `SqlError`, `NeedsWriting`
        and what `sqlite.translate` makes of SQLite's errors.
        """
        self._deadline = deadline
        try:
            with self._interrupter.running(self.connection, deadline) as self._running, self._errors():
                sqlite.retry_busy(self._begin, deadline)
                self.guard.watch(mode)
                yield
        finally:
            self.guard.mode = Mode.OWN
            if self.connection.in_transaction:
                with suppress(apsw.Error):
                    self._own("ROLLBACK")

    def commit(self) -> None:
        """Make the transaction durable; a deferred constraint that is violated is a `SqlError`."""
        self.guard.mode = Mode.OWN
        try:
            sqlite.commit(self.connection, can_cache=False)
        except KvfsError as exc:
            if isinstance(exc.__cause__, apsw.ConstraintError):
                raise SqlError(str(exc.__cause__)) from exc
            raise

    def _begin(self) -> None:
        if self._running is not None and self._running.error is not None:
            # It was to end while it waited for others, when there was no statement to interrupt.
            raise self._running.error
        self._own("BEGIN" if self.readonly else "BEGIN IMMEDIATE")
        try:
            # Takes the snapshot.
            (version,) = self._own("PRAGMA schema_version").fetchall()[0]
            if not self.readonly and version != self._schema_version:
                self._own_names = self._names()
                self.guard.kv_tables = self._kv_tables()
                self._schema_version = version
        except BaseException:
            self._own("ROLLBACK")
            raise

    # --- items -----------------------------------------------------------------------------------------

    def run(self, item: Item, make_rows: MakeRows) -> Result:
        """Run one item. Raises as `transaction`; then it is undone if it is `no_fail`, else half done."""
        if not item.no_fail or self.readonly:
            return self._run(item, make_rows)
        self._own(f"SAVEPOINT {_ITEM}")
        try:
            result = self._run(item, make_rows)
        except SqlError:
            if self.connection.in_transaction:
                self._own(f"ROLLBACK TO {_ITEM}")
                self._own(f"RELEASE {_ITEM}")
            raise
        self._own(f"RELEASE {_ITEM}")
        return result

    def select(self, sql: str, bindings: Bindings, make_rows: MakeRows) -> Selected:
        """The rows of one statement."""
        self._begin_item(single=True)
        # What must be one SELECT is compiled anew, so that the guard sees what it is.
        can_cache = self.guard.mode is not Mode.SELECT
        with self._errors():
            cursor = self.connection.execute(sql, bindings, can_cache=can_cache)
            rows = make_rows(self._columns)
            add = rows.add
            count, truncated = 0, False
            try:
                for row in cursor:
                    if count == MAX_ROWS:
                        truncated = True
                        break
                    add(row)
                    count += 1
            finally:
                cursor.close(True)
        rows.end()
        return Selected(rows, count, truncated)

    @property
    def undone(self) -> bool:
        """Whether SQLite has undone the whole transaction by itself, as `OR ROLLBACK` makes it."""
        return not self.connection.in_transaction

    # --- parts -----------------------------------------------------------------------------------------

    def _run(self, item: Item, make_rows: MakeRows) -> Result:
        result: Result
        if item.query:
            result = self.select(item.sql, item.bindings, make_rows)
        elif item.batch is not None:
            result = self._run_batch(item.sql, item.batch)
        else:
            with self._errors():
                result = Changed(self._change(item.sql, item.bindings))
        if self.guard.altered:
            self._check_names()
        return result

    def _run_batch(self, sql: str, batch: Sequence[Bindings]) -> BatchChanged:
        counts: list[int] = []
        try:
            with self._errors():
                for bindings in batch:
                    counts.append(self._change(sql, bindings))
        except SqlError as exc:
            exc.batch_index = len(counts)
            raise
        return BatchChanged(counts)

    def _change(self, sql: str, bindings: Bindings) -> int:
        """How many rows the last statement in the text changed."""
        self._begin_item(single=False)
        connection = self.connection
        for _ in connection.execute(sql, bindings):
            pass
        # `changes` still tells of an earlier statement where the last one changes nothing.
        return connection.changes() if connection.total_changes() != self._changes_before else 0

    def _begin_item(self, *, single: bool) -> None:
        self._single = single
        self._statements = 0

    def _trace(self, cursor: apsw.Cursor, sql: str, _: object) -> bool:
        """Called before each statement of strangers runs, compiled and authorized."""
        if self.guard.mode is Mode.OWN or (self._statements and not cursor.has_vdbe):
            # What follows a statement may be a comment.
            return True
        lone = not self._statements and cursor.has_vdbe
        if self.guard.mode is Mode.SELECT:
            if not (lone and self.guard.selects and cursor.is_readonly) or cursor.is_explain:
                raise NotASelect
        elif self.readonly and not cursor.is_readonly:
            raise NeedsWriting
        if self._single:
            if not lone:
                raise SqlError("a query must be one statement")
            self._columns = [column[0] for column in cursor.get_description()]
        self._statements += 1
        self._changes_before = self.connection.total_changes()
        if time.monotonic() > self._deadline:
            raise DeadlineExceeded
        return True

    def _own(self, sql: str) -> apsw.Cursor:
        """Run a statement of kvfs's own. Never cached: what strangers write is compiled under their rules."""
        mode, self.guard.mode = self.guard.mode, Mode.OWN
        try:
            return self.connection.execute(sql, can_cache=False)
        finally:
            self.guard.mode = mode

    def _names(self) -> frozenset[tuple[str, str]]:
        return frozenset((str(kind), str(name)) for kind, name in self._own(_OWN_NAMES))

    def _kv_tables(self) -> frozenset[str]:
        if ("table", "kvfs_stores") not in self._own_names:
            return frozenset()
        return frozenset(str(name).lower() for (name,) in self._own(_KV_TABLES))

    def _check_names(self) -> None:
        """No authorizer is told what a table is renamed to."""
        self.guard.altered = False
        if self._names() != self._own_names:
            raise SqlError(f"names that begin with {OWN} are kvfs's own")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (apsw.Error, KeyError, ValueError) as exc:
            raise self._translated(exc) from exc

    def _translated(self, error: Exception) -> Exception:
        """What an error of apsw means: the SQL's own fault, or that of something below."""
        if isinstance(error, KeyError):
            return SqlError(f"there is no value for the parameter {error.args[0]}")
        if isinstance(error, UnicodeDecodeError):
            return SqlError("a text in the result is not UTF-8: CAST it AS BLOB")
        if not isinstance(error, apsw.Error):
            return SqlError(str(error))
        code = getattr(error, "result", apsw.SQLITE_ERROR) & 0xFF
        if code == apsw.SQLITE_AUTH and self.guard.reason is not None:
            return NotASelect() if self.guard.reason == ONLY_SELECT else SqlError(self.guard.reason)
        if code in _FAULTS_OF_SQL:
            return SqlError(str(error))
        if code == apsw.SQLITE_READONLY and self.readonly:
            return NeedsWriting()
        if code == apsw.SQLITE_INTERRUPT and self._running is not None and self._running.error is not None:
            return self._running.error
        return sqlite.translate(error, "run the SQL")
