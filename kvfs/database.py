"""A SQLite database file: the volume of its KV tables, with one connection that writes and many that read."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing, suppress
from typing import Final

import apsw

from kvfs import disk, idempotency, sqlite, verification
from kvfs.checkpoints import Checkpoints
from kvfs.doubt import Doubt
from kvfs.errors import DatabaseError, InvalidParameters, Overloaded, from_os_error
from kvfs.registry import check_formats
from kvfs.sqlite import ReadPool, Space
from kvfs.status import DatabaseStatus

_OPEN_WAIT_S: Final = 5.0
_DELETE_WAIT_S: Final = 5.0


class Database:
    """An open database file. Implements `kvfs.store.Volume`."""

    def __init__(self, path: str, *, create: bool = False) -> None:
        self.path = path
        deadline = time.monotonic() + _OPEN_WAIT_S
        self._writing = sqlite.connect(
            path, create=create, shrinkable=True, accept=check_formats, deadline=deadline
        )
        self._reading = ReadPool(path)
        self._identity: tuple[int, int] | None = None
        self._closed = False
        self.doubt = Doubt(path, DatabaseError)
        self.checkpoints: Checkpoints | None = None
        self._close_lock = threading.Lock()
        self.light = False
        """Whether the batch under way must do nothing that may take long."""
        try:
            with sqlite.errors():
                # What SQL does to a KV table is logged by triggers; what this does, by itself.
                self._writing.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
                self.checkpoints = Checkpoints(self._writing, self._reading, self.doubt)
                self.readonly = self._writing.readonly("main")
                if self._writing.pragma("encoding") != "UTF-8":
                    raise InvalidParameters("The database's text encoding is not UTF-8")
            self._identity = disk.identity(path)
        except BaseException:
            self.close()
            raise

    # --- reading ---------------------------------------------------------------------------------------

    @property
    def readers(self) -> ReadPool:
        """Connections for reading."""
        return self._reading

    # --- writing: the writer's thread only -------------------------------------------------------------

    @property
    def connection(self) -> apsw.Connection:
        """The connection that writes."""
        return self._writing

    @property
    def in_transaction(self) -> bool:
        return self._writing.in_transaction

    def begin(self, *, light: bool) -> None:
        self.light = light
        self.doubt.check()
        with sqlite.errors("begin a transaction"):
            self._writing.execute("BEGIN" if self.readonly else "BEGIN IMMEDIATE")
        try:
            self.check_in_place()
        except BaseException:
            self.rollback()
            raise

    def commit(self) -> None:
        with self.doubt:
            sqlite.commit(self._writing)

    def finish(self) -> None:
        return None

    def rollback(self) -> None:
        if self._writing.in_transaction:
            with sqlite.errors("roll back"):
                self._writing.execute("ROLLBACK")

    def recall(self, idempotency_key: str, now_s: int) -> tuple[bytes, bytes] | None:
        with sqlite.errors():
            if not self._writing.table_exists("main", "kvfs_idempotency"):
                self._writing.execute(idempotency.SCHEMA)
            return idempotency.recall(self._writing, idempotency_key, now_s)

    def remember(self, idempotency_key: str, fingerprint: bytes, answer: bytes, expire_s: int) -> None:
        with sqlite.errors():
            idempotency.remember(self._writing, idempotency_key, fingerprint, answer, expire_s)

    def forget(self, now_s: int) -> None:
        with sqlite.errors():
            if self._writing.table_exists("main", "kvfs_idempotency"):
                idempotency.forget(self._writing, now_s)

    def rest(self) -> None:
        return None

    def sync(self) -> None:
        return None

    def synced(self, mark: int) -> None:
        return None

    def shrink(self, pages: int) -> Space:
        with sqlite.errors("give free pages back"):
            return sqlite.give_back(self._writing, pages)

    def checkpoint(self) -> None:
        with self.doubt, self._reading.borrow() as connection:
            sqlite.checkpoint(connection)

    def verify(self) -> None:
        verification.verify(self.path)
        self.doubt.dispel()

    # --- being there -----------------------------------------------------------------------------------

    @property
    def watching(self) -> bool:
        return False

    def status(self) -> DatabaseStatus:
        reason = self.doubt.reason
        size_bytes = sqlite.size_bytes(self.path)
        return DatabaseStatus(self.path, size_bytes, self.readonly or reason is not None, reason)

    def replaced(self) -> bool:
        return disk.identity(self.path) != self._identity

    def check_in_place(self) -> None:
        """Raise `Overloaded` where another process has deleted or replaced the file since it was opened.

        Asked for inside a transaction that writes, it holds until that ends: `delete` waits for it. What was
        committed to a file without a name would be lost.
        """
        if self.replaced():
            raise Overloaded("The database was deleted or replaced: ask again", retry_after_s=1)

    def close(self) -> None:
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        if self.checkpoints is not None:
            self.checkpoints.close()
        self._reading.close()
        if self._identity is not None and self.replaced():
            # SQLite leaves a moved file's WAL where it is, and takes it for the WAL of what lies there now.
            with suppress(apsw.Error):
                self._writing.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        # Last, so that SQLite checkpoints and removes the WAL.
        self._writing.close()


def claim(path: str) -> bool:
    """Make an empty file, of which SQLite makes a database; False where there is something, or cannot be.

    Of several processes that want it, one makes it.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return False  # what keeps it from being made, SQLite tells
    # Nobody in this process has locks on a file that was not there.
    os.close(fd)
    return True


def delete(path: str) -> int:
    """Remove a database that nobody here has open, and its side files; how many files that were.

    Other processes may have it open: what they write comes before, or finds it gone. Raises
    `InvalidSqliteHeader` for what is no database, `Overloaded` where it stays locked.
    """
    deadline = time.monotonic() + _DELETE_WAIT_S
    # To have the lock, side files are opened that were not there.
    there = [name for name in sqlite.files_of(path) if os.path.exists(name)]
    with closing(sqlite.connect(path, deadline=deadline)) as connection:
        if not connection.readonly("main"):
            with sqlite.errors(f"delete {path}"):
                sqlite.retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"), deadline)
        with sqlite.naming(path, alone=True):
            for name in sqlite.files_of(path):
                _remove(name)
    return len(there)


def _remove(path: str) -> None:
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as exc:
        raise from_os_error(exc, f"delete {path}") from exc
