"""Looking after a database file as a whole, while it is served.

What writes runs in the writer's thread, between two batches, on a connection of its own; what reads runs
beside everything. All of it is interrupted at its deadline, and then nothing has changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import apsw

from kvfs import disk, registry, sqlite
from kvfs.database import Database
from kvfs.errors import (
    DatabaseError,
    DeadlineExceeded,
    InvalidDbPath,
    InvalidParameters,
)
from kvfs.oplog import OpLog
from kvfs.pending import Pending
from kvfs.registry import check_formats
from kvfs.sql.interrupts import Interrupter
from kvfs.triggers import Triggers
from kvfs.writer import Writer

T = TypeVar("T")

_STEP_PAGES: Final = 4096
_PAUSE_S: Final = 0.005
_NEW_LOG_IDS: Final = "UPDATE kvfs_stores SET log_id = lower(hex(randomblob(8)))"


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """How many frames the write-ahead log had, which is empty now: all of it is in the database file."""

    frames: int


@dataclass(frozen=True, slots=True)
class Resized:
    """How many bytes the database took on the disk before, and how many it takes now."""

    before_bytes: int
    after_bytes: int


class Maintenance:
    """What can be done to one open database file. Any thread may use it."""

    def __init__(self, database: Database, writer: Writer, interrupter: Interrupter) -> None:
        self._database = database
        self._writer = writer
        self._interrupter = interrupter

    # --- what reads: blocks ------------------------------------------------------------------------------

    def check(self, *, quick: bool, deadline: float) -> list[str]:
        """What is wrong with the file, `sqlite.MAX_PROBLEMS` at most; nothing in a sound one.

        Unless `quick`, that is also each row of a KV table that is not what its op-log says.
        """
        with self._connected(deadline, readonly=True) as connection:
            problems = sqlite.check(connection, quick=quick)
            return problems if quick or problems else _check_rows(connection)

    def copy_into(self, path: str, *, deadline: float) -> int:
        """Write a compact copy to a path where nothing is; how many bytes it has.

        Raises `InvalidParameters` where there is something, also if that has come while it was written.
        """
        with _beside(path) as made:
            with self._connected(deadline, readonly=True) as connection:
                connection.execute("VACUUM INTO ?", (made,))
            disk.put_in_place(made, path)
        return os.stat(path).st_size

    # --- what writes: in the writer's turn -----------------------------------------------------------------

    def checkpoint(self, *, deadline: float) -> Pending[Checkpointed]:
        """Write all of the write-ahead log into the database file, and empty it; waits for readers."""
        return self._alone(_checkpoint, deadline)

    def vacuum(self, *, deadline: float) -> Pending[Resized]:
        """Write the whole file anew, without holes."""
        return self._alone(self._vacuum, deadline)

    def optimize(self, *, deadline: float) -> Pending[None]:
        """Gather what the query planner wants to know of the tables."""
        return self._alone(_optimize, deadline)

    def restore(self, source: str, *, deadline: float) -> Pending[Resized]:
        """Replace the contents by those of another database file, in one transaction.

        Blocks while the source is checked and copied. Its KV tables' op-logs get new identities, so that
        followers of the old ones are told. Raises `InvalidParameters` for a source that is damaged,
        is not UTF-8, or is the database itself, `NewerFormat` for one of a newer kvfs.
        """
        if disk.identity(source) == disk.identity(self._database.path):
            raise InvalidParameters("src_path is the database itself")
        made = disk.temporary_beside(self._database.path)
        try:
            self._prepare(source, made, deadline)
            pending = self._alone(lambda connection, until: self._replace(connection, made, until), deadline)
        except BaseException:
            _remove(made)
            raise
        pending.add_done_callback(lambda _: _remove(made))
        return pending

    # --- parts -------------------------------------------------------------------------------------------

    def _vacuum(self, connection: apsw.Connection, deadline: float) -> Resized:
        before = sqlite.size_bytes(self._database.path)
        sqlite.retry_busy(lambda: connection.execute("VACUUM"), deadline)
        return self._resized(connection, before)

    def _resized(self, connection: apsw.Connection, before_bytes: int) -> Resized:
        """What a rewriting came to. The log has it all twice now, and is emptied unless somebody reads it."""
        with suppress(apsw.BusyError):
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return Resized(before_bytes, sqlite.size_bytes(self._database.path))

    def _prepare(self, source: str, made: str, deadline: float) -> None:
        """A sound copy of the source, in pages of the size that the database has."""
        with self._connected(deadline, readonly=True) as connection:
            page_bytes = int(connection.pragma("page_size"))
        original = sqlite.connect(source, readonly=True, accept=check_formats, deadline=deadline)
        try:
            with self._interrupter.running(original, deadline), sqlite.errors("read the backup"):
                if original.pragma("encoding") != "UTF-8":
                    raise InvalidParameters("src_path: the text encoding is not UTF-8")
                problems = sqlite.check(original, quick=False)
                if problems:
                    raise InvalidParameters(f"src_path is damaged: {problems[0]}")
                original.pragma("page_size", page_bytes)
                original.execute("VACUUM INTO ?", (made,))
        finally:
            original.close()
        copy = apsw.Connection(made)
        try:
            with sqlite.errors("prepare the backup"):
                if sqlite.has_table(copy, "kvfs_stores"):
                    copy.execute(_NEW_LOG_IDS)
        finally:
            copy.close()

    def _replace(self, connection: apsw.Connection, made: str, deadline: float) -> Resized:
        before = sqlite.size_bytes(self._database.path)
        copy = apsw.Connection(made, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            # One transaction of the database: readers see the old contents, or the new.
            with connection.backup("main", copy, "main") as backup:
                while not backup.done:
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded
                    try:
                        backup.step(_STEP_PAGES)
                    except (apsw.BusyError, apsw.LockedError):
                        time.sleep(_PAUSE_S)
        finally:
            copy.close()
        return self._resized(connection, before)

    def _alone(self, work: Callable[[apsw.Connection, float], T], deadline: float) -> Pending[T]:
        def run() -> T:
            if self._database.readonly:
                raise DatabaseError("The database is read-only")
            with self._connected(deadline, readonly=False) as connection:
                result = work(connection, deadline)
            # What was done to a file that had lost its name counts for nothing.
            self._database.check_in_place()
            return result

        return self._writer.submit_alone(run, deadline=deadline)

    @contextmanager
    def _connected(self, deadline: float, *, readonly: bool) -> Iterator[apsw.Connection]:
        """A connection for this one thing, interrupted at the deadline."""
        connection = sqlite.connect(self._database.path, readonly=readonly, deadline=deadline)
        try:
            connection.pragma("temp_store", "file")
            with self._interrupter.running(connection, deadline) as running:
                try:
                    yield connection
                except apsw.InterruptError as exc:
                    raise running.error or DeadlineExceeded() from exc
                except apsw.Error as exc:
                    raise sqlite.translate(exc, "look after the database") from exc
        finally:
            connection.close()


def _check_rows(connection: apsw.Connection) -> list[str]:
    """SQLite does not see that bytes of a value have changed; but each value is twice in the file."""
    problems: list[str] = []
    for name in registry.names(connection):
        if sqlite.has_table(connection, name):
            keys = Triggers(name, OpLog(name).table).differences(
                connection, sqlite.MAX_PROBLEMS - len(problems)
            )
            problems += [f"{name}: {key!r} is not what its last operation says" for key in keys]
    return problems


def _optimize(connection: apsw.Connection, deadline: float) -> None:
    # All tables, not only those that this connection has read.
    sqlite.retry_busy(lambda: connection.execute("PRAGMA optimize(0x10002)"), deadline)


def _checkpoint(connection: apsw.Connection, deadline: float) -> Checkpointed:
    def attempt() -> tuple[int, int]:
        return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    _, before = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    sqlite.retry_busy(attempt, deadline)
    return Checkpointed(before)


@contextmanager
def _beside(path: str) -> Iterator[str]:
    """A path in the same folder, where something may be made that is gone at the end."""
    if os.path.lexists(path):
        raise InvalidParameters(f"{path} exists already")
    if not os.path.isdir(os.path.dirname(path)):
        raise InvalidDbPath(f"{os.path.dirname(path)} is not a directory")
    made = disk.temporary_beside(path)
    try:
        yield made
    finally:
        _remove(made)


def _remove(path: str) -> None:
    for name in sqlite.files_of(path):
        with suppress(FileNotFoundError):
            os.unlink(name)
