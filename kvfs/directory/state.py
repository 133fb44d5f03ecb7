"""What kvfs keeps beside a folder of keys, in `<db>/.kvfs/`, or in a folder of `--state-dir`:

<table>.oplog   durable: the op-log, which is also the write-ahead log of the files; besides
                `kvfs_checkpoint` (applied_seq: the files of all ops up to there are durable),
                `kvfs_redo` (seq, value: values that the log does not record, until their files are; NULL
                for one in a blob) and `kvfs_settings` (name, value)
<table>.blobs/  durable: large values of the op-log, see `kvfs.blobs`
<table>.index   disposable: see `kvfs.directory.index`
<table>.lock    held by whoever is writing, from before the first look at a file until the index tells
                of the last one; so of two processes on one folder only one writes at a time
tmp/<table>/    files on their way to their places: on the file system of the keys, so beside the folder
                wherever the rest is
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

import apsw

from kvfs import idempotency, sqlite
from kvfs.blobs import Blobs
from kvfs.directory import files
from kvfs.directory.index import Index
from kvfs.errors import DatabaseError, InvalidSqliteHeader, KvfsError, Overloaded, from_os_error
from kvfs.model import Op, OpType, Value
from kvfs.oplog import OpLog
from kvfs.paths import STATE_DIR
from kvfs.sqlite import ReadPool, fetch, sql_value, stored_value

_LOG_NAME: Final = "files"
_NO_WRITING: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_HASH_CHARS: Final = 16

_SCHEMA: Final = """
CREATE TABLE kvfs_checkpoint (applied_seq INTEGER NOT NULL);
INSERT INTO kvfs_checkpoint VALUES (0);
CREATE TABLE kvfs_redo (seq INTEGER PRIMARY KEY, value);
CREATE TABLE kvfs_settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO kvfs_settings VALUES ('baseline', 'pending');
"""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a store's state lies: its folder, the one for temporary files, and the table's name."""

    path: str
    temporary: str
    table: str

    @classmethod
    def of(cls, db: str, table: str, state_dir: str | None) -> Home:
        """The place for the state of the folder `<db>/<table>`, whether it is there or not."""
        beside = os.path.join(db, STATE_DIR)
        if state_dir is None:
            return cls(beside, os.path.join(beside, "tmp", table), table)
        real = os.path.realpath(db)
        name = f"{os.path.basename(real)}-{hashlib.sha256(real.encode()).hexdigest()[:_HASH_CHARS]}"
        path = os.path.join(os.path.abspath(state_dir), name)
        return cls(path, os.path.join(path if _same_device(path, db) else beside, "tmp", table), table)

    @property
    def log(self) -> str:
        return os.path.join(self.path, f"{self.table}.oplog")

    @property
    def blobs(self) -> str:
        return os.path.join(self.path, f"{self.table}.blobs")

    @property
    def index(self) -> str:
        return os.path.join(self.path, f"{self.table}.index")

    @property
    def lock(self) -> str:
        return os.path.join(self.path, f"{self.table}.lock")

    def known(self) -> bool:
        """Whether there is an op-log of the folder."""
        return os.path.exists(self.log)


def open_state(home: Home) -> State:
    """Open a folder store's state. Where nothing can be written there, it is one of its own, for as long as
    it is open, with the past that the op-log has (`ephemeral`).

    Raises `DatabaseError` for a damaged op-log, `FileSystemError`, `StorageFull`.
    """
    try:
        return State(home)
    except OSError as exc:
        if exc.errno not in _NO_WRITING:
            raise from_os_error(exc, f"open {home.path}") from exc
    folder = tempfile.mkdtemp(prefix="kvfs-")
    try:
        elsewhere = Home(folder, os.path.join(folder, "tmp"), home.table)
        try:
            for suffix in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(home.log + suffix, elsewhere.log + suffix)
            return State(elsewhere, blobs=home.blobs, ephemeral=True)
        except OSError as exc:
            raise from_os_error(exc, f"read {home.path}") from exc
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class State:
    """The op-log, the index, the lock and the temporary files of one folder store.

    `begin`, `commit` and what lies between are the writer's alone.
    """

    def __init__(self, home: Home, *, blobs: str | None = None, ephemeral: bool = False) -> None:
        """Open it, or make it. Raises OSError, `DatabaseError`."""
        self.home = home
        self.ephemeral = ephemeral
        self.blobs = Blobs(blobs or home.blobs)
        self.log = OpLog(_LOG_NAME, self.blobs)
        self._lock = self.temporary = -1
        try:
            os.makedirs(home.path, exist_ok=True)
            os.makedirs(home.temporary, exist_ok=True)
            self._lock = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self.temporary = os.open(home.temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # Opening changes what another process may be using.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._check_log()
            self._writing = sqlite.connect(home.log, create=True)
        except BaseException as exc:
            self._close_files()
            if isinstance(exc, InvalidSqliteHeader):
                raise _damaged(home, exc) from exc
            raise
        self.log_readers = ReadPool(home.log)
        try:
            self.log_id = self._open_log()
            self.index = Index(home.index, log_id=self.log_id)
        except BaseException:
            self._writing.close()
            self._close_files()
            raise
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Idempotent."""
        self.index.close()
        self.log_readers.close()
        self._writing.close()
        self._close_files()
        if self.ephemeral:
            shutil.rmtree(self.home.path, ignore_errors=True)

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

    def renew_index(self) -> None:
        """Begin a new index, in place of one that is lost; between `begin`s."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self.index.renew()
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

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
        """Keep the values that the log does not, until their files are durable. Raises OSError."""
        for op in ops:
            if op.recorded or op.entry is None or op.entry.value is None:
                continue
            value = op.entry.value
            data = None
            if self.log.is_blob(op.entry.size):
                assert op.entry.sha256 is not None
                self.blobs.keep(value, op.entry.sha256)
            else:
                data = sql_value(value if isinstance(value, bytes) else value.read())
            self._writing.execute("INSERT INTO kvfs_redo VALUES (?, ?)", (op.seq, data))

    def redo_value(self, op: Op) -> Value | None:
        """The value of an op whose file may have to be written again; None where it is kept nowhere."""
        if op.entry is None or op.recorded:
            return None if op.entry is None else op.entry.value
        rows = fetch(self._writing, "SELECT value FROM kvfs_redo WHERE seq = ?", (op.seq,))
        if not rows:
            return None
        if rows[0][0] is not None:
            return stored_value(rows[0][0])
        assert op.entry.sha256 is not None
        return self.blobs.value(op.entry.sha256, op.entry.size)

    def durable_seq(self) -> int:
        """The files of all ops up to there survive a power cut."""
        return cast(int, fetch(self._writing, "SELECT applied_seq FROM kvfs_checkpoint")[0][0])

    def note_durable(self, seq: int) -> None:
        """The files of all ops up to `seq` are durable."""
        with sqlite.errors("note a checkpoint"):
            self._writing.execute("UPDATE kvfs_checkpoint SET applied_seq = max(applied_seq, ?)", (seq,))
            done = self._redo_blobs(f"seq <= {seq}")
            self._writing.execute("DELETE FROM kvfs_redo WHERE seq <= ?", (seq,))
            if done:
                for sha256 in done - self._redo_blobs("true"):
                    self.log.drop_blob(self._writing, sha256)

    def setting(self, name: str) -> str | None:
        """One of the store's settings."""
        rows = fetch(self._writing, "SELECT value FROM kvfs_settings WHERE name = ?", (name,))
        return cast(str, rows[0][0]) if rows else None

    def put_setting(self, name: str, value: str) -> None:
        """Set one of the store's settings, inside a transaction."""
        self._writing.execute("INSERT OR REPLACE INTO kvfs_settings VALUES (?, ?)", (name, value))

    def last_op_type(self, key: str) -> OpType | None:
        """What happened to a key last; any thread may ask."""
        with self.log_readers.borrow() as connection:
            return self.log.last(connection, key)[1]

    def log_bytes(self) -> int:
        """What the op-log takes on the disk, without its blobs."""
        size = 0
        for suffix in ("", "-wal"):
            with suppress(OSError):
                size += os.stat(self.home.log + suffix).st_size
        return size

    # --- parts -------------------------------------------------------------------------------------------

    def _check_log(self) -> None:
        """Refuse an empty file where an op-log was: a log is never begun anew in silence."""
        with suppress(FileNotFoundError):
            if os.stat(self.home.log).st_size == 0 and os.path.exists(self.home.index):
                raise _damaged(self.home, "it is empty")

    def _open_log(self) -> str:
        try:
            with sqlite.errors("open the op-log"):
                log_id = self.log.log_id(self._writing)
                if log_id is None:
                    log_id = secrets.token_hex(8)
                    with self._writing:
                        self.log.create(self._writing, log_id)
                        self._writing.execute(_SCHEMA)
                        self._writing.execute(idempotency.SCHEMA)
                return log_id
        except KvfsError as exc:
            if sqlite.is_damage(exc):
                raise _damaged(self.home, exc) from exc
            raise

    def _redo_blobs(self, where: str) -> set[bytes]:
        """The blobs that are kept for files that are not durable yet."""
        rows = fetch(self._writing, f"SELECT seq FROM kvfs_redo WHERE value IS NULL AND {where}")
        ops = [self.log.op_at(self._writing, seq) for (seq,) in rows]
        return {op.entry.sha256 for op in ops if op is not None and op.entry is not None and op.entry.sha256}

    def _close_files(self) -> None:
        for fd in (self._lock, self.temporary):
            if fd >= 0:
                os.close(fd)
        self._lock = self.temporary = -1


def clear(temporary: int) -> None:
    """Remove what a crash left among the temporary files. The lock is held."""
    for name in files.names_in(temporary):
        files.remove(temporary, name)


def _same_device(path: str, db: str) -> bool:
    """Whether files can be renamed from one to the other; `path` is made if it is missing."""
    with suppress(OSError):
        os.makedirs(path, exist_ok=True)
        return os.stat(path).st_dev == os.stat(db).st_dev
    return False


def _damaged(home: Home, what: object) -> DatabaseError:
    reason = what.message if isinstance(what, KvfsError) else str(what)
    return DatabaseError(
        f"The op-log {home.log} is damaged: {reason}. `kvfs rebuild` sets it aside and keeps what can be read"
    )
