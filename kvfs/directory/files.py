"""A folder's files, reached through its own descriptors: how they are put in place, moved and taken away.

Besides, files of kvfs's own, which it makes on the way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from kvfs import disk
from kvfs.directory import renames
from kvfs.directory.hot import HotFiles
from kvfs.directory.ignore import RulesFile
from kvfs.directory.looks import (
    FOLDER,
    READ,
    Components,
    Looks,
    Rights,
    Signature,
    opened_folder,
    regular,
    status_at,
    swap,
)
from kvfs.directory.names import OWN_VALUE, path_of
from kvfs.directory.protection import Standing, check_folder, check_place
from kvfs.directory.spelling import check_held
from kvfs.model import FileValue, Value

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_MODE: Final = 0o666
_FOLDER_MODE: Final = 0o777
_RENAME_ATTEMPTS: Final = 100

_libc: Final = ctypes.CDLL(None, use_errno=True)


Checked = dict[Components, Standing]
"""The folders that were asked, for a moment, whether anything may be put into them."""


class Names(NamedTuple):
    """The names in a folder, each in order; what is neither file nor folder is left out."""

    files: list[str]
    folders: list[str]


class Tree(Looks):
    """The files below one folder. Its descriptor stays open until `close`."""

    def __init__(self, path: str) -> None:
        root = os.open(path, FOLDER)
        super().__init__(root, RulesFile(root, path).now)
        self.path = path
        status = os.fstat(self.root)
        self.identity = (status.st_dev, status.st_ino)
        self.hot = HotFiles()

    def close(self) -> None:
        """Idempotent."""
        self.hot.close()
        if self.root >= 0:
            os.close(self.root)
            self.root = -1

    # --- looking ---------------------------------------------------------------------------------------

    def folder_signature(self, components: Components) -> Signature | None:
        """The signature of a folder, None where there is none: the same one, the same names in it."""
        try:
            with self.folder(components) as fd:
                # A folder's size says nothing, and its ctime changes with mode and owner too.
                return Signature.of(os.fstat(fd))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def signatures(self, components: Components, names: Iterable[str]) -> dict[str, Signature]:
        """The signatures of files in a folder, without those that are not there."""
        with self.folder(components) as fd:
            found = ((name, status_at(fd, name)) for name in names)
            return {name: Signature.of(status) for name, status in found if status is not None}

    def names(self, components: Components) -> Names:
        """What is in a folder."""
        with self.folder(components) as path_fd:
            fd = os.open(".", _LISTED, dir_fd=path_fd)
        try:
            files, folders = [], []
            with os.scandir(fd) as found:
                for entry in found:
                    if entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
        finally:
            os.close(fd)
        return Names(sorted(files), sorted(folders))

    @contextmanager
    def folder(self, components: Components) -> Iterator[int]:
        """A descriptor of a folder. Raises FileNotFoundError or NotADirectoryError, also for symlinks."""
        fd = self.root
        try:
            for name in components:
                below = os.open(name, FOLDER, dir_fd=fd)
                fd = swap(fd, below, self.root)
            yield fd
        finally:
            swap(fd, -1, self.root)

    def _file(self, key: str, name: str, folder: int, signature: Signature) -> int:
        hot = self.hot.take(key, signature)
        return super()._file(key, name, folder, signature) if hot is None else hot

    def _done(self, key: str, fd: int, signature: Signature) -> None:
        self.hot.give(key, fd, signature)

    # --- changing --------------------------------------------------------------------------------------

    def place(self, key: str, temporary: str, store: int) -> Signature | None:
        """Move the file `temporary` of the folder `store` to the key's place, in one step.

        What was there lies at `temporary` then: its signature, or None if there was nothing. Raises
        `NoKey`, OSError.
        """
        components = path_of(key)
        try:
            return self._place(components, temporary, store, key)
        except (FileNotFoundError, NotADirectoryError):
            self.make_room(components, store)
            return self._place(components, temporary, store, key)

    def displace(self, key: str, temporary: str, store: int) -> Signature | None:
        """Move the key's file to `temporary` in `store`; its signature there, None if there was nothing."""
        components = path_of(key)
        name = components[-1]
        folder = self._enter(components[:-1])
        if folder is None:
            return None
        try:
            status = status_at(folder, name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                with opened_folder(name, folder) as own:
                    moved = _take(own, OWN_VALUE, temporary, store, key)
                components = (*components, OWN_VALUE)
            else:
                moved = _take(folder, name, temporary, store, key)
        finally:
            self._leave(folder)
        self._prune(components[:-1])
        return moved

    def make_room(
        self, components: Components, store: int, checked: Checked | None = None
    ) -> list[Components]:
        """Make the folders in which a key's file will lie; a file in their place moves into its folder.

        Returns the paths that were files and are folders now. Raises `NoKey` where something else is in
        their place, OSError where the file could not be put there.
        """
        if self.spelling is not None:
            check_held(store, components)
        moved = []
        fd = self.root
        try:
            for depth, name in enumerate(components[:-1], 1):
                try:
                    below = os.open(name, FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    _make_folder(fd, name)
                    below = os.open(name, FOLDER, dir_fd=fd)
                except NotADirectoryError:
                    _become_folder(fd, name, store, "/".join(components[:depth]))
                    moved.append(components[:depth])
                    below = os.open(name, FOLDER, dir_fd=fd)
                fd = swap(fd, below, self.root)
            _check_place(fd, components, checked)
        finally:
            swap(fd, -1, self.root)
        return moved

    def sync_folders_of(self, key: str) -> None:
        """Make the names durable of all folders on the way to a key's file."""
        components = path_of(key)
        fd = self.root
        try:
            disk.sync(".", dir_fd=fd)
            for name in components:
                try:
                    below = os.open(name, FOLDER, dir_fd=fd)
                except (FileNotFoundError, NotADirectoryError):
                    return
                fd = swap(fd, below, self.root)
                disk.sync(".", dir_fd=fd)
        finally:
            swap(fd, -1, self.root)

    def check_removable(self, key: str, checked: Checked) -> None:
        """Raise OSError where the key's file could not be taken away."""
        components = path_of(key)
        folder = self._enter(components[:-1])
        if folder is None:
            return
        try:
            _check_place(folder, components, checked)
        finally:
            self._leave(folder)

    def restore_folder(self, store: int, note: str) -> None:
        """Put a folder in its place, or what was there before it, after `exchange_for_folder` was cut off."""
        staging = note.removesuffix(".path")
        with opened(store, note) or FileValue(-1, 0) as written:
            components = os.fsdecode(written.read()).split("/")
        with self.folder(components[:-1]) as parent:
            if status_at(parent, components[-1]) is None:
                for name in (staging, f"{staging}.file"):
                    if status_at(store, name) is not None:
                        os.rename(name, components[-1], src_dir_fd=store, dst_dir_fd=parent)
                        break
        remove(store, note)

    # --- parts -----------------------------------------------------------------------------------------

    def _place(self, components: Components, temporary: str, store: int, key: str) -> Signature | None:
        with self.folder(components[:-1]) as folder:
            name = components[-1]
            status = status_at(folder, name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                with opened_folder(name, folder) as own:
                    return _put(own, OWN_VALUE, temporary, store, key, status_at(own, OWN_VALUE))
            return _put(folder, name, temporary, store, key, status)

    def _prune(self, components: Components) -> None:
        """Remove a folder and those above it, as far up as they are empty."""
        while components:
            try:
                with self.folder(components[:-1]) as above:
                    os.rmdir(components[-1], dir_fd=above)
            except OSError:
                return
            components = components[:-1]


def sync_file_system(folder: int) -> None:
    """Make everything on the file system of this folder durable. Raises OSError, `SyncFailed`."""
    fd = opened_for_syncs(folder)
    try:
        sync_all(fd)
    finally:
        os.close(fd)


def sync_all(fd: int) -> None:
    """Make everything on the file system of this open file durable. Raises OSError, `SyncFailed`.

    What failed to be written, Linux tells each descriptor once, if that was open by then.
    """
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise disk.sync_error(OSError(number, os.strerror(number)))


def opened_for_syncs(folder: int) -> int:
    """A descriptor for `sync_all`, which from now on is told of all that fails."""
    return os.open(".", _LISTED, dir_fd=folder)


def write_new(folder: int, name: str, value: Value, rights: Rights | None = None) -> Signature:
    """Make a file with this value, and with these rights, as far as we may give them; its signature."""
    try:
        fd = os.open(name, _NEW, _FILE_MODE, dir_fd=folder)
    except FileExistsError:
        # What another process left when it crashed: whoever holds the lock owns all names here.
        remove(folder, name)
        fd = os.open(name, _NEW, _FILE_MODE, dir_fd=folder)
    try:
        if rights is not None:
            with suppress(PermissionError):
                os.fchown(fd, rights.owner, rights.group)
            os.fchmod(fd, rights.mode)
        if isinstance(value, bytes):
            disk.write_all(fd, value)
        else:
            value.copy_to(fd)
        return Signature.of(os.fstat(fd))
    finally:
        os.close(fd)


def signature_of(folder: int, name: str) -> Signature:
    """The signature of a file of our own."""
    return Signature.of(os.stat(name, dir_fd=folder, follow_symlinks=False))


def nameless(folder: str) -> FileValue:
    """A new file without a name, open for writing; the caller closes it."""
    try:
        return FileValue(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), 0)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    fd, path = tempfile.mkstemp(prefix="upload-", dir=folder)
    os.unlink(path)
    return FileValue(fd, 0)


def opened(folder: int, name: str) -> FileValue | None:
    """What is in a file of our own, None where there is none; the caller closes it."""
    try:
        fd = os.open(name, READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    return FileValue(fd, os.fstat(fd).st_size)


def _put(
    folder: int, name: str, temporary: str, store: int, key: str, status: os.stat_result | None
) -> Signature | None:
    """Move `temporary` to a name with this status; the signature of what lies at `temporary` then."""
    for _ in range(_RENAME_ATTEMPTS):
        try:
            if status is None:
                renames.rename_to_free(store, temporary, folder, name)
                return None
            regular(status, key)
            return Signature.of(renames.exchange(store, temporary, folder, name))
        except FileExistsError:
            status = status_at(folder, name)  # somebody made it in between
        except FileNotFoundError:
            status = status_at(folder, name)
            if status is not None or status_at(store, temporary) is None:
                raise
            # Somebody removed it in between.
    raise OSError(errno.EAGAIN, "the file is made and removed all the time", key)


def _take(folder: int, name: str, temporary: str, store: int, key: str) -> Signature | None:
    status = status_at(folder, name)
    if status is None:
        return None
    regular(status, key)
    try:
        renames.rename_to_free(folder, name, store, temporary)
    except FileExistsError:
        remove(store, temporary)
        renames.rename_to_free(folder, name, store, temporary)
    except FileNotFoundError:
        return None
    return signature_of(store, temporary)


def _become_folder(parent: int, name: str, store: int, path: str) -> None:
    """Turn a key's file into a folder with that file as its own value, in one step for any reader.

    The file is linked, not copied: a program that has it open goes on writing to the key's value. Whatever
    somebody puts in its place meanwhile becomes the value.
    """
    for _ in range(_RENAME_ATTEMPTS):
        status = status_at(parent, name)
        if status is None or stat.S_ISDIR(status.st_mode):
            return
        regular(status, name)
        staging = f"folder-{status.st_ino}"
        _make_folder(store, staging)
        try:
            with opened_folder(staging, store) as staged:
                linked = renames.link_or_copy(parent, name, staged, OWN_VALUE)
                renames.exchange_for_folder(store, staging, parent, name, path)
                if not linked or not os.path.samestat(
                    os.stat(staging, dir_fd=store, follow_symlinks=False), status
                ):
                    renames.exchange(store, staging, staged, OWN_VALUE)
        except FileNotFoundError:
            remove(store, staging)
            continue  # the file was replaced or removed in between
        except BaseException:
            remove(store, staging)
            raise
        os.unlink(staging, dir_fd=store)
        return
    raise OSError(errno.EAGAIN, "the file is made and removed all the time", name)


def remove(folder: int, name: str) -> None:
    """Remove a file, or a folder of files."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        with opened_folder(name, folder) as inside:
            for below in disk.names_in(inside):
                remove(inside, below)
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _make_folder(parent: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, _FOLDER_MODE, dir_fd=parent)


def _check_place(folder: int, components: Components, checked: Checked | None) -> None:
    """Raise OSError where a key's file could not be put in place or taken away."""
    path = components[:-1]
    above = None if checked is None else checked.get(path)
    if above is None:
        above = check_folder(folder, components)
        if checked is not None:
            checked[path] = above
    if check_place(folder, components[-1], components, above):
        with opened_folder(components[-1], folder) as own:
            check_place(own, OWN_VALUE, components, check_folder(own, components))
