"""What lies in the data dir: database files and folders of stores."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import Final

from kvfs import sqlite
from kvfs.directory.state import Home
from kvfs.errors import from_os_error
from kvfs.paths import STATE_DIR, TABLE_DEFAULT, Kind

_LOG: Final = ".oplog"
_EXTENSIONS: Final = frozenset({".db", ".db3", ".sqlite", ".sqlite3"})


@dataclass(frozen=True, slots=True)
class Listed:
    """A database file or folder.

    `size_bytes` is the main file's alone, and None for a folder; `modified_s` looks at the write-ahead log
    too. `valid`: what has a database's extension is one.
    """

    name: str
    path: str
    kind: Kind
    size_bytes: int | None
    modified_s: int
    valid: bool


def listed(data_dir: str) -> list[Listed]:
    """What is directly in the data dir, by name; what others would call neither is left out.

    Hidden names, side files, symlinks that lead elsewhere and names that are no UTF-8 are left out too.
    """
    try:
        names = sorted(os.listdir(data_dir))
    except OSError as exc:
        raise from_os_error(exc, f"list {data_dir}") from exc
    found = (_look(data_dir, name) for name in names if not name.startswith(".") and _utf8(name))
    return [each for each in found if each is not None]


def folder_stores(data_dir: str, state_dir: str | None) -> list[tuple[str, str]]:
    """(database, table) of the folder stores with an op-log, in the data dir and in its folders."""
    found = []
    for db in (data_dir, *(each.path for each in listed(data_dir) if each.kind is Kind.DIRECTORY)):
        home = Home.of(os.path.realpath(db), TABLE_DEFAULT, state_dir).path
        with contextlib.suppress(OSError):
            logs = [name for name in sorted(os.listdir(home)) if name.endswith(_LOG)]
            found += [(os.path.realpath(db), name.removesuffix(_LOG)) for name in logs]
    return found


def _look(data_dir: str, name: str) -> Listed | None:
    real_dir = os.path.realpath(data_dir)
    path = os.path.realpath(os.path.join(data_dir, name))
    if not path.startswith(real_dir.rstrip("/") + "/") or STATE_DIR in path.split("/"):
        return None
    try:
        status = os.lstat(path)
    except OSError:
        return None  # gone since, or a symlink to nothing
    modified_s = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        return Listed(name, path, Kind.DIRECTORY, None, modified_s, valid=True)
    if not stat.S_ISREG(status.st_mode) or name.endswith(sqlite.SIDE_FILES):
        return None
    valid = sqlite.is_database(path)
    if not valid and os.path.splitext(name)[1].lower() not in _EXTENSIONS:
        return None
    with contextlib.suppress(OSError):
        modified_s = max(modified_s, int(os.stat(path + "-wal").st_mtime))
    return Listed(name, path, Kind.TABLE, status.st_size, modified_s, valid)


def _utf8(name: str) -> bool:
    try:
        name.encode()
        return True
    except UnicodeEncodeError:
        return False
