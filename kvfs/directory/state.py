"""What kvfs keeps beside a folder of keys, in `<db>/.kvfs/`, or in a folder of `--state-dir`:

<table>.oplog   durable: the op-log, which is also the write-ahead log of the files; besides
                `kvfs_checkpoint` (applied_seq: the files of all ops up to there are durable),
                `kvfs_redo` (seq, value: values that the log does not record, until their files are; NULL
                for one in a blob; 0 for no value: of an op that was imported and tells of an edit to
                another folder's file, so that it must be put in place here) and `kvfs_settings`
                (name, value)
<table>.blobs/  durable: large values of the op-log, see `kvfs.blobs`
<table>.index   disposable: see `kvfs.directory.index`
<table>.oplog.damaged-<time>    a damaged op-log that was set aside, see `kvfs.directory.repair`
<table>.doubt   there while what the disk has is in doubt: why, see `kvfs.doubt`
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
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, cast

import apsw

from kvfs import disk, idempotency, imports, retention, sqlite
from kvfs.blobs import Blobs
from kvfs.directory import files
from kvfs.directory.index import Index, boot_id
from kvfs.errors import DatabaseError, KvfsError, Overloaded, from_os_error
from kvfs.imports import LastImport
from kvfs.model import Entry, Op, OpType, Origin, Value, value_bytes
from kvfs.oplog import OpLog
from kvfs.paths import STATE_DIR, TABLE_DEFAULT
from kvfs.registry import check_formats
from kvfs.sqlite import ReadPool, SqlValue, fetch, sql_value, stored_value

LOG_NAME: Final = "files"
ASIDE: Final = ".damaged-"
NO_LOG: Final = "there is no log in it"
_LOG_FILE: Final = re.compile(rf"(.+?)\.oplog(?:{re.escape(ASIDE)}.*)?")
_NO_WRITING: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_HASH_CHARS: Final = 16
_LOCK_WAIT_S: Final = 30.0
_LOCK_PAUSE_S: Final = 0.002

_SCHEMA: Final = """
CREATE TABLE kvfs_checkpoint (applied_seq INTEGER NOT NULL);
INSERT INTO kvfs_checkpoint VALUES (0);
CREATE TABLE kvfs_redo (seq INTEGER PRIMARY KEY, value);
CREATE TABLE kvfs_settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO kvfs_settings VALUES ('baseline', 'pending');
"""

_BOOT_ID: Final = "boot_id"
_TO_BE_PLACED: Final = 0


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
    def cookies(self) -> str:
        return self.temporary + ".cookies"

    @property
    def lock(self) -> str:
        return os.path.join(self.path, f"{self.table}.lock")

    @property
    def doubt(self) -> str:
        return os.path.join(self.path, f"{self.table}.doubt")

    @property
    def watch(self) -> str:
        return os.path.join(self.path, f"{self.table}.watch")

    def set_aside(self) -> list[str]:
        """The paths of damaged op-logs that were set aside, the oldest first."""
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        beginning = f"{self.table}.oplog{ASIDE}"
        return [
            os.path.join(self.path, name)
            for name in names
            if name.startswith(beginning) and not name.endswith(sqlite.SIDE_FILES)
        ]

    def known(self) -> bool:
        """Whether there is an op-log of the folder, or was one."""
        return os.path.exists(self.log) or bool(self.set_aside())


def known_tables(db: str, state_dir: str | None) -> list[str]:
    """The tables in a database directory that have an op-log, or had one that was set aside."""
    try:
        names = os.listdir(Home.of(db, TABLE_DEFAULT, state_dir).path)
    except OSError:
        return []
    return sorted({match[1] for name in names if (match := _LOG_FILE.fullmatch(name))})


def open_state(home: Home) -> State:
    """Open a folder store's state. Where nothing can be written there, it is one of its own, for as long as
    it is open, with the past that the op-log has (`ephemeral`).

    Raises `DatabaseError` for a damaged op-log, `NewerFormat`, `FileSystemError`, `StorageFull`.
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
            if os.path.exists(home.log):
                _copy_log(home.log, elsewhere.log)
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
        self.log = OpLog(LOG_NAME, self.blobs)
        self._lock = self.temporary = -1
        try:
            os.makedirs(home.path, exist_ok=True)
            os.makedirs(home.temporary, exist_ok=True)
            _check_writable(home)
            self._lock = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self.temporary = os.open(home.temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # Opening changes what another process may be using.
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if not ephemeral:
                self.blobs.clear()
            self._check_log()
            self._writing = sqlite.connect(home.log, create=True, shrinkable=True, accept=check_formats)
        except BaseException as exc:
            self._close_files()
            if isinstance(exc, KvfsError) and sqlite.is_damage(exc):
                raise _damaged(home, exc) from exc
            raise
        self._log_path = home.log
        self.log_readers = ReadPool(home.log)
        try:
            self._log_identity = disk.identity(home.log)
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
        except BlockingIOError as exc:
            raise Overloaded("Another program is writing to the folder", retry_after_s=1) from exc
        except OSError as exc:
            raise from_os_error(exc, "lock the folder") from exc
        try:
            if self.replaced():
                raise DatabaseError("The op-log was replaced; ask again, so that the new one is opened")
            with sqlite.errors("begin in the op-log"):
                self._writing.execute("BEGIN IMMEDIATE")
            self.index.begin()
        except BaseException:
            self.rollback()
            raise

    def replaced(self) -> bool:
        """Whether another op-log is now where this one was opened."""
        return disk.identity(self._log_path) != self._log_identity

    def check_tail(self, seq: int) -> None:
        """Raise `DatabaseError` where the op-log, which ends with this seq, has had more.

        SQLite takes a write-ahead log for whole up to where it is damaged; but an op is applied, which the
        index tells, when it is durable.
        """
        applied = self.index.applied_seq
        if applied > seq:
            raise _damaged(
                self.home,
                f"its last ops are missing: the index has those up to seq {applied}, and it up to {seq}",
            )

    def renew_index(self) -> None:
        """Begin a new index, in place of one that is lost; between `begin`s."""
        with self.locked():
            self.index.renew()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing meanwhile; between `begin`s."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def commit_log(self) -> None:
        """Make the log durable; the lock stays."""
        sqlite.commit(self._writing)

    def commit_index(self, applied_seq: int) -> None:
        """The ops up to `applied_seq` are in their files; let go of the lock."""
        self.index.commit(applied_seq)
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def commit_and_begin(self) -> None:
        """Commit log and index, whose ops are all in their files, and begin again; the lock stays."""
        seq, _ = self.log.tail(self._writing)
        self.commit_log()
        self.index.commit(seq)
        with sqlite.errors("begin in the op-log"):
            self._writing.execute("BEGIN IMMEDIATE")
        self.index.begin()

    def rollback(self) -> None:
        """Forget what was not committed; let go of the lock."""
        if self._writing.in_transaction:
            self._writing.execute("ROLLBACK")
        self.index.rollback()
        with suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    # --- the log's own tables ----------------------------------------------------------------------------

    def keep_for_redo(self, ops: Sequence[Op]) -> None:
        """Keep the values that the log does not, until their files are durable. Raises OSError."""
        for op in ops:
            if not op.recorded and op.left is not None:
                data = self._kept_for_redo(op.left)
            elif op.origin is Origin.FILE:
                data = _TO_BE_PLACED
            else:
                continue
            self._writing.execute("INSERT INTO kvfs_redo VALUES (?, ?)", (op.seq, data))

    def came_from_file(self, op: Op) -> bool:
        """Whether the op tells of an edit to this folder's own file, which so is in place."""
        return op.origin is Origin.FILE and not self._redo_rows(op)

    def redo_value(self, op: Op) -> Value | None:
        """The value of an op whose file may have to be written again; None where it is kept nowhere."""
        if op.entry is None or op.recorded:
            return None if op.entry is None else op.entry.value
        rows = self._redo_rows(op)
        if not rows or rows[0][0] == _TO_BE_PLACED:
            return None
        if rows[0][0] is not None:
            return stored_value(rows[0][0])
        assert op.entry.sha256 is not None
        return self.blobs.value(op.entry.sha256, op.entry.size)

    def durable_seq(self) -> int:
        """See `durable_seq`."""
        return durable_seq(self._writing)

    def power_was_lost(self) -> bool:
        """Whether the machine has been started anew since the last checkpoint."""
        return self.setting(_BOOT_ID) != boot_id()

    def note_durable(self, seq: int) -> None:
        """The files of all ops up to `seq` are durable."""
        with sqlite.errors("note a checkpoint"):
            self._writing.execute("UPDATE kvfs_checkpoint SET applied_seq = max(applied_seq, ?)", (seq,))
            self.put_setting(_BOOT_ID, boot_id())
            done = self._redo_blobs(f"seq <= {seq}")
            self._writing.execute("DELETE FROM kvfs_redo WHERE seq <= ?", (seq,))
            self.drop_blobs(done)

    def drop_blobs(self, hashes: Set[bytes]) -> int:
        """Remove those of these blobs that no op names, and no file waits for; how many bytes they had.

        Inside a transaction, when what named them is durably gone.
        """
        if not hashes:
            return 0
        waiting = self._redo_blobs("true")
        return sum(self.log.drop_blob(self._writing, sha256) for sha256 in hashes - waiting)

    def last_import(self) -> LastImport | None:
        """The last import into the folder."""
        return imports.read(self._writing, self.log.name) if imports.known(self._writing) else None

    def note_import(self, last: LastImport) -> None:
        """Note how far an import got, inside a transaction."""
        imports.write(self._writing, self.log.name, last)

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
        return sqlite.size_bytes(self.home.log)

    # --- parts -------------------------------------------------------------------------------------------

    def _check_log(self) -> None:
        """Refuse to begin anew where an op-log was: that is never done in silence."""
        try:
            if os.stat(self.home.log).st_size == 0 and os.path.exists(self.home.index):
                raise _damaged(self.home, "it is empty")
        except FileNotFoundError:
            if self.home.set_aside():
                raise _damaged(self.home, "it was set aside, and its repair was cut off") from None

    def _open_log(self) -> str:
        try:
            with sqlite.errors("open the op-log"):
                log_id = self.log.log_id(self._writing)
                if log_id is None:
                    # An index is made after the log. All that there was may have been in a write-ahead log.
                    if os.path.exists(self.home.index):
                        raise _damaged(self.home, NO_LOG)
                    log_id = new_log_id()
                    with self._writing:
                        make_log(self.log, self._writing, log_id)
                return log_id
        except KvfsError as exc:
            if sqlite.is_damage(exc):
                raise _damaged(self.home, exc) from exc
            raise

    def _kept_for_redo(self, entry: Entry) -> SqlValue:
        """A value as it is kept in a row; NULL where a blob is kept instead."""
        assert entry.value is not None
        if not self.log.is_blob(entry.size):
            return sql_value(value_bytes(entry.value))
        assert entry.sha256 is not None
        self.blobs.keep(entry.value, entry.sha256)
        return None

    def _redo_rows(self, op: Op) -> list[tuple[SqlValue]]:
        return fetch(self._writing, "SELECT value FROM kvfs_redo WHERE seq = ?", (op.seq,))

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


def durable_seq(connection: apsw.Connection) -> int:
    """The files of all ops up to there survive a power cut: of each key, recovery needs the last of these ops
    and all after it.
    """
    return cast(int, fetch(connection, "SELECT applied_seq FROM kvfs_checkpoint")[0][0])


def new_log_id() -> str:
    """An identity for an op-log."""
    return secrets.token_hex(8)


def make_log(log: OpLog, connection: apsw.Connection, log_id: str) -> None:
    """Make an op-log with all its tables, inside the caller's transaction."""
    log.create(connection, log_id)
    connection.execute(_SCHEMA)
    connection.execute("INSERT INTO kvfs_settings VALUES (?, ?)", (_BOOT_ID, boot_id()))
    connection.execute(idempotency.SCHEMA)
    # Last: where each table begins, a repair knows from a log that is whole.
    connection.execute(retention.SCHEMA)


@contextmanager
def held(home: Home, *, shared: bool) -> Iterator[None]:
    """Nobody writes to the folder, or opens it, meanwhile; `shared` by all that only look.

    They make no lock where there is none. Raises `Overloaded` where another program has it all the time.
    """
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT  # to look needs no right to write
    try:
        fd = os.open(home.lock, flags | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        if not shared:
            raise
        yield
        return
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, operation | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    message = "Another program is writing to the folder all the time"
                    raise Overloaded(message, retry_after_s=1) from exc
                time.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(fd)


def _check_writable(home: Home) -> None:
    """Raise PermissionError for what SQLite would open for reading alone, to fail at the first write."""
    databases = (*sqlite.files_of(home.log), *sqlite.files_of(home.index))
    for path in (home.path, home.temporary, *databases):
        if os.path.exists(path) and not os.access(path, os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, "Permission denied", path)


def _copy_log(path: str, copy: str) -> None:
    """Copy an op-log that we cannot write to, and others may be writing to. Raises OSError."""
    with (
        suppress(KvfsError, apsw.Error),
        closing(sqlite.connect(path, readonly=True)) as source,
    ):
        sqlite.copy(source, copy)
        return
    # So SQLite says where it can make no side files; then nobody has it open, and files are all there is.
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(path + suffix, copy + suffix)


def clear(temporary: int) -> None:
    """Remove what a crash left among the temporary files. The lock is held."""
    for name in disk.names_in(temporary):
        files.remove(temporary, name)


def _same_device(path: str, db: str) -> bool:
    """Whether files can be renamed from one to the other, as far as they are there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    while not os.path.exists(db):
        db = os.path.dirname(db)
    return os.stat(path).st_dev == os.stat(db).st_dev


def _damaged(home: Home, what: object) -> DatabaseError:
    reason = what.message if isinstance(what, KvfsError) else str(what)
    return DatabaseError(
        f"The op-log {home.log} is damaged: {reason}. `kvfs rebuild` sets it aside and keeps what can be read"
    )
