"""Copies a folder store while others write to it: its op-log as it is at one moment, and the files of then.

A file whose content is what the log says of that moment is copied as it is; in the place of any other, what
the log says is written. So the copy is what the store was, whatever becomes of its files meanwhile. Only the
value of a gap has no other place than its file: where one is changed too soon, nobody may write until all of
them are copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext, suppress
from typing import Final

import apsw

from kvfs import sqlite
from kvfs.blobs import Blobs
from kvfs.directory import files
from kvfs.directory.files import Tree
from kvfs.directory.folder import Folder
from kvfs.directory.ignore import RULES
from kvfs.directory.names import NoKey, path_of
from kvfs.directory.spelling import Spelling, is_odd
from kvfs.directory.state import Home, State, held
from kvfs.errors import FileSystemError
from kvfs.model import Entry, FileValue, Op, Value, value_hash
from kvfs.oplog import BLOB
from kvfs.store import Unsettled

_NEW: Final = "copy"


def copy(source: Folder, db: str, table: str, *, locked: bool) -> None:
    """Copy a folder store to `<db>/<table>`, where nothing is yet.

    The copy has the same op-log, and an index that is still to be made; it is durable. `locked`: nobody may
    write while the values of gaps are copied. It raises `Unsettled` where one of them was changed meanwhile,
    FileNotFoundError where what was to be copied is pruned, other OSErrors, `KvfsError`, and leaves nothing.
    """
    home = Home.of(db, table, None)
    path = os.path.join(db, table)
    try:
        _copy(source, home, path, locked=locked)
        _note_durable(home)
    except BaseException:
        _remove(home, path)
        raise


def _copy(source: Folder, home: Home, path: str, *, locked: bool) -> None:
    os.makedirs(home.temporary)
    os.mkdir(path)
    with ExitStack() as stack:
        log = stack.enter_context(source.state.log_readers.snapshot())
        copying = stack.enter_context(closing(_Copying(source, log, home, path)))
        with held(source.state.home, shared=False) if locked else nullcontext():
            # The look begins with the first thing that is read.
            gaps = [op.entry for op in copying.heads() if not op.recorded and op.entry is not None]
            for entry in gaps:
                if not copying.file(entry):
                    raise Unsettled(entry.key)
        for op in copying.heads():
            if op.recorded and op.entry is not None and not copying.file(op.entry):
                copying.logged(op.entry)
        copying.rest()


def _remove(home: Home, path: str) -> None:
    """Remove what there is of a copy."""
    for folder in (path, home.temporary, home.blobs):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (*sqlite.files_of(home.log), *sqlite.files_of(home.index), home.lock):
        with suppress(FileNotFoundError):
            os.unlink(file)


class _Copying:
    """One copy on its way. `log` is one look at the source's log."""

    def __init__(self, source: Folder, log: apsw.Connection, home: Home, path: str) -> None:
        self._source = source
        self._log = log
        self._home = home
        self._tree = Tree(path)
        self._temporary = os.open(home.temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if is_odd(self._tree.root, self._temporary, path):
            self._tree.spelling = Spelling()

    def close(self) -> None:
        """Idempotent."""
        self._tree.close()
        if self._temporary >= 0:
            os.close(self._temporary)
            self._temporary = -1

    def heads(self) -> Iterator[Op]:
        """The last op of each key."""
        return self._source.state.log.heads(self._log)

    def file(self, entry: Entry) -> bool:
        """Copy a key's file as it is; False where that is not what its entry says."""
        try:
            found = self._source.tree.read(entry.key)
        except NoKey:
            return False
        if found is None or found.value is None:
            return False
        with found.value if isinstance(found.value, FileValue) else nullcontext():
            if len(found.value) != entry.size:
                return False
            files.write_new(self._temporary, _NEW, found.value, found.rights)
        if not self._holds(entry):
            files.remove(self._temporary, _NEW)
            return False
        os.utime(_NEW, ns=(found.status.st_atime_ns, found.status.st_mtime_ns), dir_fd=self._temporary)
        self._place(entry)
        return True

    def logged(self, entry: Entry) -> None:
        """Write what the log has as a key's value."""
        op = self._source.state.log.op(self._log, entry.key, entry.op_number)
        value: Value | None = None if op is None or op.entry is None else op.entry.value
        if value is None:
            raise FileSystemError(f"The op-log does not have the value of {entry.key!r}")
        files.write_new(self._temporary, _NEW, value)
        self._place(entry)

    def rest(self) -> None:
        """Copy the log with its blobs, and the rules of what is ignored; make all of it durable."""
        sqlite.copy(self._log, self._home.log)
        blobs = Blobs(self._home.blobs)
        table = self._source.state.log.table
        for (sha256,) in self._log.execute(f"SELECT DISTINCT value_hash FROM {table} WHERE flags & {BLOB}"):
            path = blobs.path(sha256)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copyfile(self._source.state.blobs.path(sha256), path)
        with suppress(FileNotFoundError):
            shutil.copy2(os.path.join(self._source.tree.path, RULES), self._tree.path, follow_symlinks=False)
        files.sync_file_system(self._tree.root)
        files.sync_file_system(self._temporary)

    def _holds(self, entry: Entry) -> bool:
        """Whether what was copied is the entry's value: its file may have been changed on the way."""
        with files.opened(self._temporary, _NEW) or FileValue(-1, 0) as copied:
            return value_hash(copied) == entry.sha256

    def _place(self, entry: Entry) -> None:
        self._tree.make_room(path_of(entry.key), self._temporary)
        self._tree.place(entry.key, _NEW, self._temporary)


def _note_durable(home: Home) -> None:
    """Have the copy's log say that the files of all of its ops are durable."""
    with closing(State(home)) as state:
        state.begin()
        try:
            state.note_durable(state.log.tail(state.connection)[0])
            state.commit_log()
        finally:
            state.rollback()
