"""Copies a database while it is in use: a file with all its tables, or a directory with its folders."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import Final

from kvfs import disk, sqlite
from kvfs.config import Config
from kvfs.directory.state import known_tables
from kvfs.errors import DatabaseNotFound, FileSystemError, InvalidParameters, Overloaded, from_os_error
from kvfs.opening import open_store
from kvfs.paths import TABLE_DEFAULT

_ATTEMPTS: Final = 5


def backup(source: str, destination: str, *, table: str | None = None, state_dir: str | None = None) -> str:
    """Copy a database, as it is at one moment, to where nothing is; the path of the copy.

    A database file is copied page by page. Of a directory all folders that have an op-log are copied, or the
    one that `table` names, each as it is at one moment; their files are what their op-logs say. It takes as
    long as it is large, and nobody waits for it, but for writers of a folder while values are copied that its
    op-log does not have. What fails or is cut off leaves nothing at the destination.

    Raises `DatabaseNotFound`, `InvalidParameters` where there is something at the destination, or a directory
    has no such folder, and what `kvfs.open` raises.
    """
    source, destination = os.path.abspath(source), os.path.abspath(destination)
    if os.path.lexists(destination):
        raise InvalidParameters(f"{destination} exists already")
    config = Config(watch=False, state_dir=state_dir)
    if os.path.isdir(source):
        tables = [table] if table is not None else known_tables(source, state_dir)
        if not tables:
            raise DatabaseNotFound(f"No folder in {source} has an op-log")
        _copy_folders(source, destination, tables, config)
    elif table is not None:
        raise InvalidParameters("a database file is copied with all its tables")
    else:
        _copy_file(source, destination, config)
    return destination


def _copy_file(source: str, destination: str, config: Config) -> None:
    made = disk.temporary_beside(destination)
    try:
        with open_store(source, TABLE_DEFAULT, create=False, config=config) as store:
            store.copy_to(made)
        disk.put_in_place(made, destination)
    finally:
        for name in sqlite.files_of(made):
            with suppress(FileNotFoundError):
                os.unlink(name)


def _copy_folders(source: str, destination: str, tables: list[str], config: Config) -> None:
    made = disk.temporary_beside(destination)
    try:
        os.mkdir(made)
        for table in tables:
            _copy_folder(source, made, table, config)
        disk.sync(made)
        # Whoever has made something there meanwhile keeps it: only an empty directory gives way.
        os.rename(made, destination)
        disk.sync(os.path.dirname(destination))
    except OSError as exc:
        raise from_os_error(exc, f"copy to {destination}") from exc
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _copy_folder(source: str, made: str, table: str, config: Config) -> None:
    with open_store(source + "/", table, create=False, config=config) as store:
        for attempt in range(_ATTEMPTS):
            try:
                store.copy_to(made, locked=attempt > 0)
                break
            except Overloaded:
                if attempt == _ATTEMPTS - 1:
                    raise
    # With the index that this makes, the copy is whole; and it is known to be what its op-log says.
    with open_store(made + "/", table, create=False, config=Config(watch=False)) as copy:
        changed = copy.rebuild().changed
    if changed:
        raise FileSystemError(f"{changed} files of the copy of {table} are not what was written")
