"""What kvfs keeps beside a folder of keys, in `<db>/.kvfs/`:

<table>.oplog   durable: the op-log, which is also the write-ahead log of the files; besides
                `kvfs_checkpoint` (applied_seq: the files of all ops up to there are durable) and
                `kvfs_redo` (seq, value: values that the log does not record, until their files are)
<table>.index   disposable: see `kvfs.directory.index`
<table>.lock    held by whoever is writing, from before the first look at a file until the index tells
                of the last one; so of two processes on one folder only one writes at a time
tmp/<table>/    files on their way to their places
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from typing import Final, cast

import apsw

from kvfs import idempotency, sqlite
from kvfs.directory import files
from kvfs.directory.index import Index
from kvfs.errors import DatabaseError, InvalidSqliteHeader, Overloaded, from_os_error
from kvfs.model import Op, OpType
from kvfs.oplog import OpLog
from kvfs.sqlite import ReadPool, fetch, sql_value, stored_value

_LOG: Final = OpLog("files")
_MODE: Final = 0o777

_SCHEMA: Final = """
CREATE TABLE kvfs_checkpoint (applied_seq INTEGER NOT NULL);
INSERT INTO kvfs_checkpoint VALUES (0);
CREATE TABLE kvfs_redo (seq INTEGER PRIMARY KEY, value NOT NULL);
"""


class State:
    """The op-log, the index, the lock and the temporary files of one folder store.

    `begin`, `commit` and what lies between are the writer's alone.
    """

    def __init__(self, db: str, table: str) -> None:
        home = os.path.join(db, ".kvfs")
        self.log = _LOG
        self._lock = self.temporary = -1
        try:
            os.makedirs(os.path.join(home, "tmp", table), _MODE, exist_ok=True)
            self._lock = os.open(os.path.join(home, f"{table}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            self.temporary = os.open(
                os.path.join(home, "tmp", table), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            )
            # Opening changes what another process may be using.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            clear(self.temporary)
            path = os.path.join(home, f"{table}.oplog")
            self._writing = sqlite.connect(path, create=True)
        except InvalidSqliteHeader as exc:
            self._close_files()
            raise DatabaseError(f"The op-log {path} is damaged: it is no SQLite database") from exc
        except OSError as exc:
            self._close_files()
            raise from_os_error(exc, f"open {home}") from exc
        except BaseException:
            self._close_files()
            raise
        self.log_readers = ReadPool(path)
        try:
            self.log_id = self._open_log()
            self.index = Index(os.path.join(home, f"{table}.index"), log_id=self.log_id)
        except BaseException:
            self._writing.close()
            self._close_files()
            raise
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        self.index.close()
        self.log_readers.close()
        self._writing.close()
        self._close_files()

    # --- one commit --------------------------------------------------------------------------------------

    @property
    def connection(self) -> apsw.Connection:
        """The connection that writes the op-log."""
        return self._writing

    def begin(self) -> None:
        """Take the lock, begin in log and index. Raises `Overloaded` at once where another has it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Overloaded("Another program is writing to the folder", retry_after_s=1) from exc
        try:
            with sqlite.errors("begin in the op-log"):
                self._writing.execute("BEGIN IMMEDIATE")
            self.index.begin()
        except BaseException:
            self.rollback()
            raise

    def commit_log(self) -> None:
        """Make the log durable; the lock stays."""
        try:
            self._writing.execute("COMMIT")
        except apsw.IOError as exc:
            raise DatabaseError(f"Cannot commit: {exc}", outcome="unknown") from exc
        except apsw.Error as exc:
            raise sqlite.translate(exc, "commit") from exc

    def commit_index(self, applied_seq: int) -> None:
        """The ops up to `applied_seq` are in their files; let go of the lock."""
        self.index.commit(applied_seq)
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def rollback(self) -> None:
        """Forget what was not committed; let go of the lock."""
        if self._writing.in_transaction:
            self._writing.execute("ROLLBACK")
        self.index.rollback()
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    # --- the log's own tables ----------------------------------------------------------------------------

    def keep_for_redo(self, ops: Sequence[Op]) -> None:
        """Keep the values that the log does not, until their files are durable."""
        for op in ops:
            if not op.recorded and op.entry is not None and op.entry.value is not None:
                value = op.entry.value
                data = value if isinstance(value, bytes) else value.read()
                self._writing.execute("INSERT INTO kvfs_redo VALUES (?, ?)", (op.seq, sql_value(data)))

    def redo_value(self, op: Op) -> bytes | None:
        """The value of an op whose file may have to be written again; None where it is kept nowhere."""
        if op.entry is None or op.recorded:
            return None if op.entry is None else cast("bytes | None", op.entry.value)
        rows = fetch(self._writing, "SELECT value FROM kvfs_redo WHERE seq = ?", (op.seq,))
        return stored_value(rows[0][0]) if rows else None

    def durable_seq(self) -> int:
        """The files of all ops up to there survive a power cut."""
        return cast(int, fetch(self._writing, "SELECT applied_seq FROM kvfs_checkpoint")[0][0])

    def note_durable(self, seq: int) -> None:
        """The files of all ops up to `seq` are durable."""
        with sqlite.errors("note a checkpoint"):
            self._writing.execute("UPDATE kvfs_checkpoint SET applied_seq = max(applied_seq, ?)", (seq,))
            self._writing.execute("DELETE FROM kvfs_redo WHERE seq <= ?", (seq,))

    def last_op_type(self, key: str) -> OpType | None:
        """What happened to a key last; any thread may ask."""
        with self.log_readers.borrow() as connection:
            return self.log.last(connection, key)[1]

    # --- parts -------------------------------------------------------------------------------------------

    def _open_log(self) -> str:
        with sqlite.errors("open the op-log"):
            log_id = self.log.log_id(self._writing)
            if log_id is None:
                log_id = secrets.token_hex(8)
                with self._writing:
                    self.log.create(self._writing, log_id)
                    self._writing.execute(_SCHEMA)
                    self._writing.execute(idempotency.SCHEMA)
            return log_id

    def _close_files(self) -> None:
        for fd in (self._lock, self.temporary):
            if fd >= 0:
                os.close(fd)
        self._lock = self.temporary = -1


def clear(folder: int) -> None:
    """Remove what a crash left among the temporary files. The lock is held."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        for name in os.listdir(fd):
            files.remove(folder, name)
    finally:
        os.close(fd)
