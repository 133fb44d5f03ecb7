"""Which database a name means, and whether it is allowed: bare names lie in the data dir, absolute ones in
it too unless any absolute path is allowed. Symlinks are followed, and must not lead outside."""

from __future__ import annotations

import enum
import errno
import os
import re
import stat
from dataclasses import dataclass
from typing import Final

from kvfs.errors import (
    DatabaseNotFound,
    InvalidDbPath,
    InvalidParameters,
    PathConflict,
    PathIsDirectory,
    from_os_error,
)

TABLE_DEFAULT: Final = "kv_store"
STATE_DIR: Final = ".kvfs"

_NOT_ABSOLUTE: Final = "directory-mode: invalid path input: path must be absolute"
_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_MEMORY: Final = re.compile(r":memory:|file:.*", re.IGNORECASE | re.DOTALL)


class Kind(enum.StrEnum):
    """What keeps a store."""

    TABLE = "table"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a store is: the real path of its database file or folder of stores, and its table's name.

    `literal`: no symlink was on the way.
    """

    kind: Kind
    path: str
    table: str
    literal: bool = True

    @property
    def folder(self) -> str:
        """The folder of a directory store's keys."""
        return os.path.join(self.path, self.table)


class Paths:
    """The rules for database paths, given the data dir."""

    def __init__(self, data_dir: str, *, any_absolute: bool = False) -> None:
        self.data_dir = os.path.abspath(data_dir)
        self._real_dir = os.path.realpath(data_dir)
        self._any_absolute = any_absolute

    def store(self, db: str, *, table: str | None, create: bool = False) -> Location:
        """The store that `db` and `table` name; it exists, or `create` is set.

        Raises `InvalidDbPath`, `InvalidParameters` (the table's name), `PathIsDirectory`,
        `DatabaseNotFound`, `PathConflict`.
        """
        if table is not None:
            check_table(table)
        path, literal = self._resolve(db)
        found = _lstat(path)
        wants_folder = db.endswith("/") and create
        if (found is not None and stat.S_ISDIR(found.st_mode)) or (found is None and wants_folder):
            if table is None:
                raise PathIsDirectory("Path is a directory: a directory store needs the table parameter")
            if not os.path.isabs(db):
                raise InvalidDbPath(_NOT_ABSOLUTE)
            return self._folder(path, table, literal=literal)
        if db.endswith("/") and found is not None:
            raise InvalidDbPath("the path is a file, not a directory")
        self._check_file(found, create=create)
        return Location(Kind.TABLE, path, table or TABLE_DEFAULT, literal)

    def file(self, db: str, *, create: bool = False) -> str:
        """The real path of the `.db` file that `db` names; it exists, or `create` is set."""
        path, _ = self._resolve(db)
        found = _lstat(path)
        if (found is not None and stat.S_ISDIR(found.st_mode)) or db.endswith("/"):
            raise PathIsDirectory("Path is a directory: a database file is needed")
        self._check_file(found, create=create)
        return path

    def folder(self, db: str) -> str:
        """The real path of the folder of stores that `db` names, existing or not."""
        path, _ = self._resolve(db)
        if not os.path.isabs(db):
            raise InvalidDbPath(_NOT_ABSOLUTE)
        found = _lstat(path)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            raise InvalidDbPath("Path is a file, not a directory")
        return path

    def resolve(self, db: str) -> str:
        """The real path that `db` leads to, whether there is anything or not; raises `InvalidDbPath`."""
        return self._resolve(db)[0]

    # --- parts -----------------------------------------------------------------------------------------

    def _resolve(self, db: str) -> tuple[str, bool]:
        """The real path that a `db` parameter names, checked against the rules, existing or not.

        And whether no symlink was on the way.
        """
        check_db(db)
        try:
            path = self._absolute(db)
            real = os.path.realpath(path)
        except (OSError, UnicodeEncodeError) as exc:
            raise InvalidDbPath("the path cannot be used") from exc
        absolute = os.path.isabs(db)
        if not _inside(real, self._real_dir) and not (absolute and self._any_absolute):
            if absolute and not _inside(os.path.normpath(path), self.data_dir):
                raise InvalidDbPath(f"absolute database paths outside {self.data_dir} are disallowed")
            raise InvalidDbPath(f"the path leads outside {self.data_dir} through a symlink")
        if STATE_DIR in real.removeprefix(self._real_dir).split("/"):
            raise InvalidDbPath(f"{STATE_DIR} is kvfs's own")
        return real, real == os.path.normpath(path)

    def _absolute(self, db: str) -> str:
        if os.path.isabs(db):
            return db
        if db.endswith("/"):
            raise InvalidDbPath(_NOT_ABSOLUTE)
        name = db.removeprefix("./")
        if "/" in name or "\\" in name:
            raise InvalidDbPath(
                "relative paths with separators are disallowed: use a bare name or an absolute path"
            )
        if name in ("", ".", ".."):
            raise InvalidDbPath("db must be a file name")
        path = os.path.join(self._real_dir, name)
        if "." in name.lstrip(".") or (os.path.isdir(path) and not os.path.lexists(path + ".db")):
            return path
        return path + ".db"

    def _folder(self, path: str, table: str, *, literal: bool) -> Location:
        folder = os.path.join(path, table)
        found = _lstat(folder)
        if found is not None and stat.S_ISLNK(found.st_mode):
            real = os.path.realpath(folder)
            if os.path.dirname(real) != path:
                raise InvalidDbPath(f"{table} is a symlink that leads out of its directory")
            return self._folder(path, os.path.basename(real), literal=False)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            raise PathConflict(f"{table} is not a directory")
        return Location(Kind.DIRECTORY, path, table, literal)

    def _check_file(self, found: os.stat_result | None, *, create: bool) -> None:
        if found is None:
            if not create:
                raise DatabaseNotFound("Database file does not exist")
        elif not stat.S_ISREG(found.st_mode):
            raise InvalidDbPath("the path is neither a file nor a directory")


def check_db(db: str) -> str:
    """The name of a database itself, if it can be one of a file; else `InvalidDbPath`."""
    if not db:
        raise InvalidDbPath("db must not be empty: in-memory databases are not supported")
    if "\0" in db:
        raise InvalidDbPath("db must not contain NUL")
    if _MEMORY.fullmatch(db):
        raise InvalidDbPath("in-memory databases are not supported")
    return db


def check_table(table: str) -> str:
    """The table's name itself, if it is allowed; else `InvalidParameters`."""
    if not _TABLE.fullmatch(table):
        raise InvalidParameters(
            "table must be 1 to 64 of letters, digits, '_', '-' and '.', starting with a letter or '_'"
        )
    if table.lower().startswith(("sqlite_", "kvfs_")):
        raise InvalidParameters("table must not start with sqlite_ or kvfs_")
    return table


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _lstat(path: str) -> os.stat_result | None:
    """The status of a path whose symlinks are resolved; None where there is nothing."""
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        if exc.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InvalidDbPath("the path is longer than the file system allows") from exc
        raise from_os_error(exc, "look at the database path") from exc
