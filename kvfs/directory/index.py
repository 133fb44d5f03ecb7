"""The index of a folder store: which keys there are, and what their files looked like. It is disposable:
`synchronous=OFF`, and made anew from the files and the op-log whenever it is missing, of another version,
damaged, or from before a power cut; also when that happens while it is open (`IndexLost`).

    files    key, folder, the file's signature, sha256, and the metadata of its entry;
             inode NULL: the file must be looked at before the row is believed
    folders  path, and the signature under which its names were last read
    meta     version, log_id, boot_id; applied_seq: ops up to there are in the files; -1: the rows are not
             made yet; rules: what was ignored when all folders were gone through
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, cast

import apsw

from kvfs import sqlite
from kvfs.directory.looks import Signature
from kvfs.directory.names import MAPPING_VERSION
from kvfs.errors import KvfsError, from_os_error
from kvfs.model import Entry
from kvfs.sqlite import ReadPool, SqlValue, fetch, json_text
from kvfs.store import StateChanged

VERSION: Final = f"1.{MAPPING_VERSION}"

_SCHEMA: Final = """
CREATE TABLE files (
    key TEXT PRIMARY KEY,
    folder TEXT NOT NULL,
    inode INTEGER, size INTEGER NOT NULL, mtime_ns INTEGER, ctime_ns INTEGER,
    sha256 BLOB NOT NULL,
    content_type TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    updated_s INTEGER NOT NULL,
    expire_ns INTEGER,
    op_number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX files_folder ON files (folder);
CREATE INDEX files_expiry ON files (expire_ns) WHERE expire_ns IS NOT NULL;
CREATE TABLE folders (
    path TEXT PRIMARY KEY,
    inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""

_ROW: Final = (
    "key, inode, size, mtime_ns, ctime_ns, sha256, content_type, created_s, updated_s, expire_ns, op_number"
)
_GET: Final = f"SELECT {_ROW} FROM files WHERE key = ?"
_PUT: Final = "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
_LIVE: Final = "(expire_ns IS NULL OR expire_ns > :now)"
_OPEN_WAIT_S: Final = 5.0
_MARKS: Final = ("version", "log_id", "boot_id")


_LOG = logging.getLogger("kvfs.index")

UNTRUSTED: Final = Signature(0, 0, 0, 0)
"""What no folder has: its names must be read again."""


class IndexLost(StateChanged):
    """The index is damaged, or is not at its path any more: the writer must make it anew.

    A batch that comes upon it begins again, and with that.
    """


class Row(NamedTuple):
    """What the index knows of a key: its entry without the value, and its file's signature.

    `signature` None: the file must be looked at before this is believed.
    """

    entry: Entry
    signature: Signature | None


class Index:
    """An open index. The writer's thread changes it; any thread reads it through `readers`.

    Everything may raise `IndexLost`; after `renew` it is empty, with an `applied_seq` of -1.
    """

    def __init__(self, path: str, *, log_id: str) -> None:
        self._path = path
        self._log_id = log_id
        self._lost = False
        self._open()

    def close(self) -> None:
        """Idempotent."""
        self.readers.close()
        self._writing.close()

    def check(self) -> None:
        """Raise `IndexLost` where the index is damaged or is not at its path any more."""
        if self._lost:
            raise IndexLost
        try:
            status = os.stat(self._path)
        except OSError as exc:
            raise IndexLost from exc
        # SQLite goes on with an emptied file for as long as its write-ahead log has all pages.
        if not status.st_size:
            self._lost = True
        if self._lost or (status.st_dev, status.st_ino) != self._identity:
            raise IndexLost

    def renew(self) -> None:
        """Begin anew, with what is at the path if it can be believed. The store's lock is held."""
        _LOG.warning("the index %s is %s: it is made anew", self._path, "damaged" if self._lost else "gone")
        damaged, self._lost = self._lost, True
        self.close()
        try:
            if damaged:
                self._remove()
            self._open()
        except OSError as exc:
            raise from_os_error(exc, "make the index anew") from exc
        self._lost = False

    # --- reading: any thread ---------------------------------------------------------------------------

    def get(self, key: str) -> Row | None:
        """What is known of a key."""
        self.check()
        pool = self.readers
        try:
            connection = pool.take()
            try:
                rows = fetch(connection, _GET, (key,))
            finally:
                pool.give_back(connection)
        except Exception:
            # Entered only then: this is on the way of every read.
            with self._errors("read the index"):
                raise
        return _row(rows[0]) if rows else None

    @contextmanager
    def reading(self, now_ns: int, deadline: float | None = None) -> Iterator[IndexReader]:
        """A consistent look; interrupted at `deadline` (monotonic seconds)."""
        self.check()
        with self._errors("read the index"), self.readers.snapshot(deadline) as connection:
            # A new connection has opened whatever was at the path by then.
            self.check()
            yield IndexReader(connection, now_ns)

    def folders(self, path: str) -> list[tuple[str, Signature]]:
        """The known folders from `path` on down, with their signatures."""
        if not path:
            rows = self._read("SELECT * FROM folders")
        else:
            rows = self._read(
                "SELECT * FROM folders WHERE path = ?1 OR (path > ?1 || '/' AND path < ?1 || '0')", (path,)
            )
        return [(row[0], Signature(*row[1:])) for row in rows]

    def knows_folder(self, path: str) -> bool:
        """Whether a folder's names were read before."""
        return bool(self._read("SELECT 1 FROM folders WHERE path = ?", (path,)))

    def folders_of_keys(self) -> list[str]:
        """The folders in which keys are known to lie."""
        return [row[0] for row in self._read("SELECT DISTINCT folder FROM files")]

    def keys_in(self, folder: str) -> dict[str, Signature | None]:
        """The keys whose files lie in this very folder."""
        rows = self._read(
            "SELECT key, inode, size, mtime_ns, ctime_ns FROM files WHERE folder = ?", (folder,)
        )
        return {row[0]: None if row[1] is None else Signature(*row[1:]) for row in rows}

    def keys_below(self, folder: str) -> list[str]:
        """The keys whose files lie anywhere below this folder."""
        if not folder:
            return [row[0] for row in self._read("SELECT key FROM files")]
        rows = self._read(
            "SELECT key FROM files WHERE folder = ?1 OR (folder > ?1 || '/' AND folder < ?1 || '0')",
            (folder,),
        )
        return [row[0] for row in rows]

    def rules(self) -> str:
        """By which rules (`ignore.Rules.identity`) all keys and folders are known; empty for none."""
        rows = self._read("SELECT value FROM meta WHERE name = 'rules'")
        return cast(str, rows[0][0]) if rows else ""

    def next_expiry(self) -> int | None:
        """When the next TTL runs out."""
        rows = self._read("SELECT min(expire_ns) FROM files WHERE expire_ns IS NOT NULL")
        return cast("int | None", rows[0][0])

    def due(self, now_ns: int, limit: int) -> list[str]:
        """Keys whose TTL has run out."""
        rows = self._read(
            "SELECT key FROM files WHERE expire_ns <= ? ORDER BY expire_ns LIMIT ?", (now_ns, limit)
        )
        return [row[0] for row in rows]

    def counts(self) -> tuple[int, int]:
        """How many keys and folders are known."""
        return cast(
            tuple[int, int],
            self._read("SELECT (SELECT count(*) FROM files), (SELECT count(*) FROM folders)")[0],
        )

    # --- writing: the writer's thread ------------------------------------------------------------------

    def begin(self) -> None:
        self.check()
        with self._errors("write the index"):
            sqlite.retry_busy(
                lambda: self._writing.execute("BEGIN IMMEDIATE"), time.monotonic() + _OPEN_WAIT_S
            )
            # Another process may have applied ops meanwhile.
            self.applied_seq = cast(int, self._meta("applied_seq"))

    def commit(self, applied_seq: int) -> None:
        """End what `begin` began; the ops up to `applied_seq` are in the files now."""
        with self._errors("write the index"):
            self._writing.execute("UPDATE meta SET value = ? WHERE name = 'applied_seq'", (applied_seq,))
            self._writing.execute("COMMIT")
            self.applied_seq = applied_seq

    def rollback(self) -> None:
        # Where it could not be made anew there is no connection to ask.
        with suppress(apsw.Error):
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")

    def clear(self) -> None:
        """Know nothing any more; `applied_seq` stays for `commit` to set."""
        with self._errors("write the index"):
            self._writing.execute("DELETE FROM files")
            self._writing.execute("DELETE FROM folders")

    def own(self, key: str) -> Row | None:
        """What is known of a key, in the writer's own transaction."""
        with self._errors("read the index"):
            rows = fetch(self._writing, _GET, (key,))
        return _row(rows[0]) if rows else None

    def own_many(self, keys: Sequence[str]) -> dict[str, Row]:
        """As `own`, of many keys; those without a row are left out."""
        sql = f"SELECT {_ROW} FROM files WHERE key IN (SELECT value FROM json_each(?))"
        with self._errors("read the index"):
            return {row[0]: _row(row) for row in fetch(self._writing, sql, (json_text(keys),))}

    def put(self, entry: Entry, folder: str, signature: Signature | None) -> None:
        """Know a key; without a signature, its file must be looked at before that is believed."""
        self.put_many([(entry, folder, signature)])

    def put_many(self, entries: Iterable[tuple[Entry, str, Signature | None]]) -> None:
        """As `put`, of many keys."""
        with self._errors("write the index"):
            self._writing.executemany(_PUT, (_file_row(*entry) for entry in entries))

    def drop(self, key: str) -> None:
        """Know nothing of a key any more."""
        with self._errors("write the index"):
            self._writing.execute("DELETE FROM files WHERE key = ?", (key,))

    def follow(self, rules: str) -> None:
        """Everything is known by these rules now."""
        with self._errors("write the index"):
            self._writing.execute("INSERT OR REPLACE INTO meta VALUES ('rules', ?)", (rules,))

    def put_folder(self, path: str, signature: Signature | None) -> None:
        """Know under which signature a folder's names were read; None: not any more."""
        with self._errors("write the index"):
            if signature is None:
                self._writing.execute("DELETE FROM folders WHERE path = ?", (path,))
            else:
                self._writing.execute("INSERT OR REPLACE INTO folders VALUES (?,?,?,?,?)", (path, *signature))

    # --- parts -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open what is there if it can be believed, else begin anew."""
        self._writing = self._believed() or self._made()
        self.readers = ReadPool(self._path)
        status = os.stat(self._path)
        self._identity = (status.st_dev, status.st_ino)
        self.applied_seq = cast(int, self._meta("applied_seq"))

    def _believed(self) -> apsw.Connection | None:
        if os.path.exists(self._path):
            with suppress(KvfsError, apsw.Error):
                connection = self._connect()
                try:
                    damaged = connection.pragma("quick_check") != "ok"
                    known = dict(fetch(connection, "SELECT name, value FROM meta"))
                    if not damaged and tuple(known.get(name) for name in _MARKS) == self._marks():
                        return connection
                except BaseException:
                    connection.close()
                    raise
                connection.close()
        # A write-ahead log that is left of another index must not meet the new one either.
        self._remove()
        return None

    def _made(self) -> apsw.Connection:
        connection = self._connect()
        version, log_id, boot_id = self._marks()
        with sqlite.errors("make the index"), connection:
            connection.execute(_SCHEMA)
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("version", version), ("log_id", log_id), ("boot_id", boot_id), ("applied_seq", -1)],
            )
        return connection

    def _remove(self) -> None:
        for name in sqlite.files_of(self._path):
            with suppress(FileNotFoundError):
                os.unlink(name)

    def _connect(self) -> apsw.Connection:
        return sqlite.connect(
            self._path, create=True, synchronous="OFF", deadline=time.monotonic() + _OPEN_WAIT_S
        )

    def _marks(self) -> tuple[str, str, str]:
        return VERSION, self._log_id, boot_id()

    def _meta(self, name: str) -> SqlValue:
        rows = fetch(self._writing, "SELECT value FROM meta WHERE name = ?", (name,))
        return cast(SqlValue, rows[0][0])

    def _read(self, sql: str, bindings: Sequence[SqlValue] = ()) -> list[Any]:
        with self._errors("read the index"), self.readers.borrow() as connection:
            return fetch(connection, sql, bindings)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except apsw.Error as exc:
            raise self._translated(sqlite.translate(exc, doing)) from exc
        except UnicodeDecodeError as exc:
            # What lies there now was not written by us.
            self._lost = True
            raise IndexLost from exc
        except KvfsError as exc:
            translated = self._translated(exc)
            if translated is exc:
                raise
            raise translated from exc

    def _translated(self, error: KvfsError) -> KvfsError | IndexLost:
        """`IndexLost` for what tells of a damaged index, which is lost from now on, and for a lost one."""
        # SQLITE_ERROR: a table is not as ours are.
        if sqlite.is_damage(error) or error.details.get("sqlite_code") == apsw.SQLITE_ERROR:
            self._lost = True
        try:
            self.check()
        except IndexLost as lost:
            return lost
        return error


def boot_id() -> str:
    """The running kernel's identity: another one means that the page cache was lost in between."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class IndexReader:
    """Pages of entries from the index alone, in one read transaction."""

    def __init__(self, connection: apsw.Connection, now_ns: int) -> None:
        self._connection = connection
        self._now_ns = now_ns

    def page(self, start: str, end: str | None, *, limit: int, offset: int, after: bool) -> list[Row]:
        sql, parameters = self._where(start, end, after=after)
        rows = self._connection.execute(
            f"SELECT {_ROW} FROM files WHERE {sql} ORDER BY key LIMIT :limit OFFSET :offset",
            {**parameters, "limit": limit, "offset": offset},
        )
        return list(self._rows(rows))

    def count(self, start: str, end: str | None) -> int:
        sql, parameters = self._where(start, end, after=False)
        found = fetch(self._connection, f"SELECT count(*) FROM files WHERE {sql}", parameters)
        return cast(int, found[0][0])

    def applied_seq(self) -> int:
        """The ops up to there are in the files, and in these entries."""
        found = fetch(self._connection, "SELECT value FROM meta WHERE name = 'applied_seq'")
        return max(0, cast(int, found[0][0]))

    def _where(self, start: str, end: str | None, *, after: bool) -> tuple[str, dict[str, SqlValue]]:
        sql = f"key {'>' if after else '>='} :start AND {_LIVE}"
        parameters: dict[str, SqlValue] = {"start": start, "now": self._now_ns}
        if end is not None:
            sql += " AND key < :end"
            parameters["end"] = end
        return sql, parameters

    def _rows(self, cursor: apsw.Cursor) -> Iterator[Row]:
        for row in cursor.fetchall():
            yield _row(row)


def _row(row: tuple[Any, ...]) -> Row:
    key, inode, size, mtime_ns, ctime_ns, digest, content_type, created_s, updated_s, expire_ns, number = row
    return Row(
        Entry(key, None, size, content_type, created_s, updated_s, expire_ns, number, digest),
        None if inode is None else Signature(inode, size, mtime_ns, ctime_ns),
    )


def _file_row(entry: Entry, folder: str, signature: Signature | None) -> tuple[SqlValue, ...]:
    inode, _, mtime_ns, ctime_ns = signature or (None, None, None, None)
    return (
        entry.key, folder, inode, entry.size, mtime_ns, ctime_ns, entry.sha256,
        entry.content_type, entry.created_s, entry.updated_s, entry.expire_ns, entry.op_number,
    )  # fmt: skip
