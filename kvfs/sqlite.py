"""The one place that opens SQLite: connections as kvfs needs them, and SQLite's errors as kvfs's own."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import apsw
import orjson

from kvfs import disk
from kvfs.errors import (
    DatabaseError,
    DatabaseNotFound,
    DeadlineExceeded,
    InvalidSqliteHeader,
    KvfsError,
    Overloaded,
    PayloadTooLarge,
    StorageFull,
    from_os_error,
)

T = TypeVar("T")

SqlValue = None | int | float | str | bytes

SIDE_FILES: Final = ("-wal", "-shm", "-journal")
"""How the names end of what SQLite keeps beside a database."""

SQLITE_VERSION: Final = apsw.sqlite_lib_version()

MAX_PROBLEMS: Final = 100
"""How many problems a check tells of."""

_STATEMENTS_CACHED: Final = 200
_CACHE_KIB: Final = 8192
_BUSY_PAUSE_S: Final = 0.0003
_BUSY_PAUSE_MAX_S: Final = 0.005
_BUSY_PAUSE_PART: Final = 16
# A commit writes and syncs whole pages, and a small value changes few bytes of each: small pages make a
# durable write cheap. docs/decisions/0003 has the figures.
_PAGE_BYTES: Final = 1024
_WAL_BYTES: Final = 8 << 20
_COPY_PAGES: Final = 4096
_STEPS_UNCHECKED: Final = 20_000
_UNTOUCHED_WAIT_MS: Final = 1000
_FAILED_SYNCS: Final = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})


def connect(
    path: str,
    *,
    create: bool = False,
    shrinkable: bool = False,
    readonly: bool = False,
    synchronous: Literal["FULL", "OFF"] = "FULL",
    accept: Callable[[apsw.Connection], None] | None = None,
    deadline: float | None = None,
) -> apsw.Connection:
    """Open a database file in WAL mode; a busy one is tried until `deadline` (monotonic seconds).

    The connection never waits for a lock by itself: `retry_busy` does, to a deadline. `synchronous=OFF`
    is for what can be made anew; everything else is FULL, since NORMAL loses commits in a power cut.
    A file that is made `shrinkable` can give free pages back to the file system: see `give_back`.
    `accept` looks at the database before anything is changed; where it raises, nothing was.
    Raises `DatabaseNotFound`, `InvalidSqliteHeader`, `DatabaseError`, `Overloaded`.
    """
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
    if create:
        flags |= apsw.SQLITE_OPEN_CREATE
    with naming(path):
        logged = os.path.exists(f"{path}-wal")
        connection = _connected(
            path,
            flags,
            logged=logged,
            create=create,
            shrinkable=shrinkable,
            synchronous=synchronous,
            accept=accept,
            deadline=deadline,
        )
        if not logged and synchronous == "FULL" and not readonly:
            _sync_names(connection, path)
        return connection


@contextmanager
def naming(path: str, *, alone: bool = False) -> Iterator[None]:
    """Nobody deletes a database in this one's folder meanwhile; `alone`: and nobody opens one.

    So that no connection has a file of one database, and side files of another that came after it. It holds
    between processes that ask for it; where a folder cannot be locked, it holds for nobody.
    """
    try:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # whoever opens something there is told why it cannot be
        return
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def _connected(
    path: str,
    flags: int,
    *,
    logged: bool,
    create: bool,
    shrinkable: bool,
    synchronous: Literal["FULL", "OFF"],
    accept: Callable[[apsw.Connection], None] | None,
    deadline: float | None,
) -> apsw.Connection:
    readonly = bool(flags & apsw.SQLITE_OPEN_READONLY)
    try:
        connection = apsw.Connection(path, flags=flags, statementcachesize=_STATEMENTS_CACHED)
    except apsw.Error as exc:
        if not os.path.exists(path) and not create:
            raise DatabaseNotFound("Database file does not exist") from exc
        raise translate(exc, f"open {path}") from exc
    try:
        if not readonly and connection.readonly("main") and os.access(path, os.W_OK):
            # What cannot be opened for writing SQLite opens for reading, also when that was the lack of a
            # descriptor for a moment; and so it would stay for as long as this is open.
            raise DatabaseError(f"Cannot open {path}: it could not be opened for writing")
        with errors(f"open {path}"):
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            # The first statement reads the header: what is no database says so here.
            retry_busy(lambda: connection.pragma("schema_version"), deadline)
            if accept is not None:
                # To close the last connection is to write the log, if there was one, into the file.
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(logged))
                retry_busy(lambda: accept(connection), deadline)
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            if create and not retry_busy(lambda: connection.pragma("page_count"), deadline):
                connection.pragma("page_size", _PAGE_BYTES)
                if shrinkable:
                    retry_busy(lambda: connection.pragma("auto_vacuum", "incremental"), deadline)
            if not readonly and not connection.readonly("main"):
                mode = retry_busy(lambda: connection.pragma("journal_mode", "wal"), deadline)
                if mode != "wal":
                    raise DatabaseError(f"Cannot use write-ahead logging for {path}: journal mode is {mode}")
                # Opens the side files, if it was a new database: later, their names may be another's.
                retry_busy(lambda: connection.pragma("schema_version"), deadline)
            connection.wal_autocheckpoint(retry_busy(lambda: long_log_frames(connection), deadline))
            connection.pragma("synchronous", synchronous)
            connection.pragma("foreign_keys", 1)
            connection.pragma("cache_size", -_CACHE_KIB)
            connection.pragma("temp_store", "memory")
    except BaseException:
        connection.close()
        raise
    return connection


def _sync_names(connection: apsw.Connection, path: str) -> None:
    """Have a new database and its write-ahead log found after a power cut. SQLite hides it if that fails."""
    try:
        disk.sync(os.path.dirname(path) or ".")
    except OSError as exc:
        connection.close()
        raise from_os_error(exc, f"open {path}") from exc


def _page_bytes(connection: apsw.Connection) -> int:
    return int(connection.pragma("page_size"))


class errors:
    """Turns apsw's errors into kvfs's own: `with errors("write the table"): ...`."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str = "use the database") -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, apsw.Error):
            raise translate(error, self._doing) from error
        if isinstance(error, UnicodeDecodeError):
            raise DatabaseError(f"Cannot {self._doing}: there is text that is not UTF-8") from error


def translate(error: apsw.Error, doing: str = "use the database") -> KvfsError:
    """The kvfs error for one of apsw's, by SQLite's result code."""
    code = getattr(error, "result", apsw.SQLITE_ERROR) & 0xFF
    message = f"Cannot {doing}: {error}"
    if code in (apsw.SQLITE_BUSY, apsw.SQLITE_LOCKED):
        return Overloaded("The database is locked", retry_after_s=1)
    # The shared memory of a WAL cannot grow for want of room alone, which SQLite has no code for.
    if code == apsw.SQLITE_FULL or getattr(error, "extendedresult", code) == apsw.SQLITE_IOERR_SHMSIZE:
        return StorageFull(message)
    if code == apsw.SQLITE_NOMEM:
        return Overloaded("SQLite has no memory left", retry_after_s=1)
    if code == apsw.SQLITE_NOTADB:
        return InvalidSqliteHeader("The file is not a SQLite database")
    if code == apsw.SQLITE_INTERRUPT:
        return DeadlineExceeded()
    if code == apsw.SQLITE_TOOBIG:
        return PayloadTooLarge("The value is larger than SQLite can hold")
    return DatabaseError(message, sqlite_code=getattr(error, "extendedresult", code))


def commit(connection: apsw.Connection, *, can_cache: bool = True) -> None:
    """Make a transaction durable. An error says that it is not, but with `outcome="unknown"` it may be."""
    try:
        connection.execute("COMMIT", can_cache=can_cache)
    except apsw.IOError as exc:
        # The commit record may have reached the disk before the sync of it failed.
        error = translate(exc, "commit")
        raise type(error)(error.message, outcome="unknown", **error.details) from exc
    except apsw.Error as exc:
        raise translate(exc, "commit") from exc


def limit_memory(most_bytes: int) -> None:
    """Bound what SQLite may take in this process, caches and all.

    From a third on, caches take pages from themselves instead of growing; what cannot do with the rest
    fails as `Overloaded`.
    """
    apsw.hard_heap_limit(most_bytes)
    apsw.soft_heap_limit(most_bytes // 3)


def is_failed_sync(error: BaseException) -> bool:
    """Whether an error is SQLite's word for an fsync that failed."""
    return getattr(error, "extendedresult", apsw.SQLITE_OK) in _FAILED_SYNCS


def is_damage(error: KvfsError) -> bool:
    """Whether an error tells that a file is damaged."""
    code = error.details.get("sqlite_code", apsw.SQLITE_OK)
    return (
        isinstance(error, InvalidSqliteHeader)
        or code == apsw.SQLITE_IOERR_SHORT_READ
        or (isinstance(code, int) and code & 0xFF == apsw.SQLITE_CORRUPT)
    )


def retry_busy(attempt: Callable[[], T], deadline: float | None) -> T:
    """`attempt`, again and again while the database is locked, until `deadline` (monotonic seconds).

    Only BUSY is tried again. With None there is one attempt. Raises `Overloaded` at the end.
    """
    began = time.monotonic()
    while True:
        try:
            return attempt()
        except (apsw.BusyError, apsw.LockedError) as exc:
            now = time.monotonic()
            pause_s = busy_pause_s(now - began)
            if deadline is None or now + pause_s > deadline:
                raise translate(exc) from exc
            time.sleep(pause_s)


def busy_pause_s(waited_s: float) -> float:
    """After how long to try again for a lock that another program has, having waited so long.

    Soon at first, since between two commits of a busy program there is little time; whoever holds it for
    long is not asked all the time.
    """
    return min(max(_BUSY_PAUSE_S, waited_s / _BUSY_PAUSE_PART), _BUSY_PAUSE_MAX_S)


def fetch(
    connection: apsw.Connection, sql: str, bindings: Sequence[SqlValue] | Mapping[str, SqlValue] = ()
) -> list[Any]:
    """All rows of a query. Fetched whole, because a half-read one would hold back checkpoints."""
    return connection.execute(sql, bindings).fetchall()


def json_text(values: Sequence[str]) -> str:
    """Texts as one binding, for `json_each`."""
    return orjson.dumps(values).decode()


def sql_value(value: bytes) -> str | bytes:
    """A value as it is kept in a row: TEXT where it is UTF-8 without NUL, so that SQL reads it as text."""
    if b"\0" in value:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def stored_value(value: SqlValue) -> bytes:
    """The bytes of a value as it is kept in a row, whoever put it there."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    return str(value).encode()


def has_table(connection: apsw.Connection, name: str) -> bool:
    """Whether there is such a table now. (apsw's `table_exists` goes by the schema as it was last read.)"""
    sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE"
    return bool(fetch(connection, sql, (name,)))


def is_database(path: str) -> bool:
    """Whether SQLite can read the file's header.

    `immutable`: SQLite then neither locks nor makes side files, and reads what is in the main file, which
    is enough to see its header. It must be SQLite that opens it: closing a database file by any other means
    drops the locks that SQLite holds on it in this process (sqlite.org/howtocorrupt.html, 2.2).
    """
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(f"file:{quote(path)}?mode=ro&immutable=1", flags=flags)
    except apsw.Error:
        return False
    try:
        connection.pragma("schema_version")
        return True
    except apsw.Error:
        return False
    finally:
        connection.close()


class Disturbed(Exception):
    """A database was opened by another program while `untouched` read it without locks."""


@contextmanager
def untouched(path: str) -> Iterator[apsw.Connection]:
    """A connection that reads a database and changes nothing on the disk: no side file is made or emptied.

    Where no program has the database open, nothing is locked; what was read then means nothing if one opens
    it meanwhile, which raises `Disturbed`. Raises `DatabaseNotFound`, `InvalidSqliteHeader`, `DatabaseError`.
    """
    if not os.path.exists(path):
        raise DatabaseNotFound("Database file does not exist")
    before = disk.identity(path)
    shared = os.path.exists(path + "-shm")
    if shared:
        # A program may have it open. If none has, SQLite reads the log that one has left by itself.
        ways = ["mode=ro&readonly_shm=1", "mode=ro"]
    elif os.path.exists(path + "-wal"):
        # A log without shared memory: nobody has it open. The index of the log is made in memory.
        ways = ["mode=ro&vfs=unix-none"]
    else:
        ways = ["mode=ro&immutable=1"]
    try:
        connection = _first_readable(path, ways)
        try:
            yield connection
        finally:
            connection.close()
    except (apsw.Error, KvfsError) as exc:
        if disk.identity(path) != before or os.path.exists(path + "-shm") != shared:
            raise Disturbed from exc
        raise
    if disk.identity(path) != before or (not shared and os.path.exists(path + "-shm")):
        raise Disturbed


def _first_readable(path: str, ways: Sequence[str]) -> apsw.Connection:
    for way in ways:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"file:{quote(path)}?{way}", flags=flags)
        try:
            with errors(f"read {path}"):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
                connection.set_busy_timeout(_UNTOUCHED_WAIT_MS)
                if "vfs=" in way:
                    connection.pragma("locking_mode", "exclusive")
                connection.pragma("schema_version")
            return connection
        except KvfsError:
            connection.close()
            if way == ways[-1]:
                raise
    raise AssertionError


class Space(NamedTuple):
    """What a database takes: its size, how much of that is free pages, and how much was just given back."""

    size_bytes: int = 0
    free_bytes: int = 0
    given_back_bytes: int = 0


def give_back(connection: apsw.Connection, pages: int) -> Space:
    """Take up to so many free pages off a shrinkable database, inside the caller's transaction.

    The file itself gets shorter with a checkpoint. Others keep their free pages, which are filled again.
    """
    before = int(connection.pragma("page_count"))
    if pages:
        fetch(connection, f"PRAGMA incremental_vacuum({pages})")
    after = int(connection.pragma("page_count"))
    page_bytes = _page_bytes(connection)
    free = int(connection.pragma("freelist_count"))
    return Space(after * page_bytes, free * page_bytes, (before - after) * page_bytes)


def copy(connection: apsw.Connection, path: str) -> None:
    """Copy a database as a transaction sees it, page by page, to a file that is not there yet; durable."""
    # A transaction begins with what it reads first. Without one, the copy begins again after each commit.
    fetch(connection, "SELECT 1 FROM sqlite_schema LIMIT 1")
    target = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    with closing(target), target.backup("main", connection, "main") as backup:
        while not backup.done:
            backup.step(_COPY_PAGES)
    disk.sync(path)


def checkpoint(connection: apsw.Connection) -> None:
    """Bring into the file what the write-ahead log has, and empty that, as far as nobody is in the way."""
    # The first keeps no writer waiting while it copies; the second has nothing left to copy.
    for mode in (apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_TRUNCATE):
        with suppress(Overloaded), errors("checkpoint"):
            connection.wal_checkpoint(mode=mode)


def check(connection: apsw.Connection, *, quick: bool) -> list[str]:
    """What is wrong with a database, as SQLite tells it, `MAX_PROBLEMS` at most; nothing in a sound one."""
    pragma = "quick_check" if quick else "integrity_check"
    try:
        told = [str(row[0]) for row in fetch(connection, f"PRAGMA {pragma}({MAX_PROBLEMS})")]
    except apsw.CorruptError as exc:
        # So damaged that not even this can be told in full.
        return [str(exc)]
    return [] if told == ["ok"] else told


def long_log_frames(connection: apsw.Connection) -> int:
    """With how many frames a write-ahead log is to be checkpointed."""
    return _WAL_BYTES // _page_bytes(connection)


def files_of(path: str) -> list[str]:
    """A database's file, and those that SQLite may keep beside it."""
    return [path, *(path + suffix for suffix in SIDE_FILES)]


def size_bytes(path: str) -> int:
    """What a database takes on the disk, with its write-ahead log."""
    size = 0
    for name in (path, f"{path}-wal"):
        with suppress(OSError):
            size += os.stat(name).st_size
    return size


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class ReadPool:
    """Connections for reading, each lent to one thread at a time; any thread may borrow.

    The list needs no lock: its `append` and `pop` are atomic. `close` closes what is idle, and lent ones
    as they come back.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[apsw.Connection] = []
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[apsw.Connection]:
        """A connection for a while; its errors become kvfs's own."""
        connection = self.take()
        try:
            with errors():
                yield connection
        finally:
            self.give_back(connection)

    @contextmanager
    def snapshot(self, deadline: float | None = None) -> Iterator[apsw.Connection]:
        """A connection that sees one consistent state; interrupted at `deadline` (monotonic seconds)."""
        with self.borrow() as connection:
            if deadline is not None:
                connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_UNCHECKED)
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if deadline is not None:
                    connection.set_progress_handler(None)
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def take(self) -> apsw.Connection:
        """A connection that nobody else uses until `give_back`."""
        try:
            return self._idle.pop()
        except IndexError:
            if self._closed:
                raise Overloaded("The store is being closed", retry_after_s=1) from None
            # Not SQLITE_OPEN_READONLY: such a connection cannot recover a WAL after a crash.
            connection = connect(self._path, deadline=time.monotonic() + 1)
            with errors():
                connection.pragma("query_only", 1)
            return connection

    def give_back(self, connection: apsw.Connection) -> None:
        self._idle.append(connection)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()
