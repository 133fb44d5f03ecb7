"""A folder's files, reached through its own descriptors: one component at a time, no symlink ever followed.

What is found at a key's path is its file, nothing, or something that is no key (`NoKey`): a symlink, a
FIFO, a socket, a device. Such things are named, and neither opened nor changed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from kvfs.directory import renames
from kvfs.directory.ignore import Rules, RulesFile
from kvfs.directory.names import OWN_VALUE, NoKey, path_of
from kvfs.directory.protection import check_place
from kvfs.model import INLINE_MAX_BYTES, FileValue, Value

Components = Sequence[str]

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE: Final = 0o666
_FOLDER_MODE: Final = 0o777
_READ_ATTEMPTS: Final = 10
_RENAME_ATTEMPTS: Final = 100

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Signature(NamedTuple):
    """What tells that a file is as it was: any difference means that it may have changed."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def moved(self, other: Signature) -> bool:
        """Whether this is that file, at another name: a rename changes the ctime alone."""
        return self[:3] == other[:3]


class Rights(NamedTuple):
    """Who may do what with a file."""

    mode: int
    owner: int
    group: int

    @classmethod
    def of(cls, status: os.stat_result) -> Rights:
        return cls(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


class Found(NamedTuple):
    """A key's file: its signature, the folder it lies in (as a path from the root), its status, its value."""

    signature: Signature
    folder: str
    status: os.stat_result
    value: Value | None = None

    @property
    def rights(self) -> Rights:
        return Rights.of(self.status)


class Names(NamedTuple):
    """The names in a folder, each in order; what is neither file nor folder is left out."""

    files: list[str]
    folders: list[str]


class Looks:
    """Looking at keys' files below one folder, of which this borrows the descriptor.

    `rules` is asked at each look what is ignored.
    """

    def __init__(self, root: int, rules: Callable[[], Rules]) -> None:
        self.root = root
        self.rules = rules

    def look(self, key: str) -> Found | None:
        """The key's file, without its value; None where there is none. Raises `NoKey`."""
        components = path_of(key)
        self.rules().check_file(components)
        parent = self._enter(components[:-1])
        if parent is None:
            return None
        try:
            status = _status(parent, components[-1])
            if status is not None and stat.S_ISDIR(status.st_mode):
                self.rules().check_folder(components)
                with _opened(components[-1], parent) as own:
                    status = _status(own, OWN_VALUE)
                components = (*components, OWN_VALUE)
        finally:
            self._leave(parent)
        if status is None:
            return None
        _regular(status, key)
        return Found(Signature.of(status), "/".join(components[:-1]), status)

    def read(self, key: str) -> Found | None:
        """The key's file with its value as it was under that signature; None where there is none.

        A large value is a `FileValue` on the live file, which others may change. Raises `NoKey`.
        """
        for _ in range(_READ_ATTEMPTS):
            opened = self._open(key)
            if opened is None:
                return None
            fd, folder = opened
            try:
                status = _regular(os.fstat(fd), key)
                before = Signature.of(status)
                if before.size > INLINE_MAX_BYTES:
                    fd, large = -1, FileValue(fd, before.size)
                    return Found(before, folder, status, large)
                value = os.read(fd, before.size + 1)
                if len(value) == before.size and Signature.of(os.fstat(fd)) == before:
                    return Found(before, folder, status, value)
            finally:
                if fd >= 0:
                    os.close(fd)
        raise OSError(errno.EAGAIN, "the file is changing all the time", key)

    def _open(self, key: str) -> tuple[int, str] | None:
        """A descriptor of the key's file, and the folder it lies in."""
        components = path_of(key)
        self.rules().check_file(components)
        parent = self._enter(components[:-1])
        if parent is None:
            return None
        name = components[-1]
        try:
            status = _status(parent, name)
            if status is None:
                return None
            if not stat.S_ISDIR(status.st_mode):
                _regular(status, key)
                return os.open(name, _READ, dir_fd=parent), "/".join(components[:-1])
            self.rules().check_folder(components)
            with _opened(name, parent) as own:
                status = _status(own, OWN_VALUE)
                if status is None:
                    return None
                _regular(status, key)
                return os.open(OWN_VALUE, _READ, dir_fd=own), "/".join(components)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            self._leave(parent)

    def _enter(self, folder: Components) -> int | None:
        """A descriptor of the folder in which a key's file lies, for `_leave`; None where there is none."""
        fd = self.root
        entered = False
        try:
            for depth, name in enumerate(folder, 1):
                try:
                    below = os.open(name, _FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    return None
                except NotADirectoryError:
                    status = _status(fd, name)
                    if status is not None:
                        _regular(status, name)
                        self.rules().check_file(folder[:depth])
                    return None
                fd = _swap(fd, below, self.root)
            entered = True
            return fd
        finally:
            if not entered:
                _swap(fd, -1, self.root)

    def _leave(self, fd: int) -> None:
        _swap(fd, -1, self.root)


class NearLooks(Looks):
    """Looks at one key after another, for a thread and for a moment: the folder of the last one stays open.

    So a folder that is moved away in that moment is still seen where it was.
    """

    def __init__(self, root: int, rules: Rules) -> None:
        super().__init__(root, lambda: rules)
        self._folder: Components = ()
        self._fd = root

    def close(self) -> None:
        """Let go of the folder; idempotent."""
        self._fd = _swap(self._fd, self.root, self.root)
        self._folder = ()

    def _enter(self, folder: Components) -> int | None:
        if folder == self._folder:
            return self._fd
        fd = super()._enter(folder)
        if fd is not None:
            self.close()
            self._fd, self._folder = fd, folder
        return fd

    def _leave(self, fd: int) -> None:
        pass


class Tree(Looks):
    """The files below one folder. Its descriptor stays open until `close`."""

    def __init__(self, path: str) -> None:
        root = os.open(path, _FOLDER)
        super().__init__(root, RulesFile(root, path).now)
        self.path = path
        status = os.fstat(self.root)
        self.identity = (status.st_dev, status.st_ino)

    def close(self) -> None:
        """Idempotent."""
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
            found = ((name, _status(fd, name)) for name in names)
            return {name: Signature.of(status) for name, status in found if status is not None}

    def names(self, components: Components) -> Names:
        """What is in a folder."""
        with self.folder(components) as path_fd:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path_fd)
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
                below = os.open(name, _FOLDER, dir_fd=fd)
                fd = _swap(fd, below, self.root)
            yield fd
        finally:
            _swap(fd, -1, self.root)

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
            status = _status(folder, name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                with _opened(name, folder) as own:
                    moved = _take(own, OWN_VALUE, temporary, store, key)
                components = (*components, OWN_VALUE)
            else:
                moved = _take(folder, name, temporary, store, key)
        finally:
            self._leave(folder)
        self._prune(components[:-1])
        return moved

    def make_room(self, components: Components, store: int) -> None:
        """Make the folders in which a key's file will lie; a file in their place moves into its folder.

        Raises `NoKey` where something else is in their place, OSError where the file could not be put there.
        """
        fd = self.root
        try:
            for depth, name in enumerate(components[:-1], 1):
                try:
                    below = os.open(name, _FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    _make_folder(fd, name)
                    below = os.open(name, _FOLDER, dir_fd=fd)
                except NotADirectoryError:
                    _become_folder(fd, name, store, "/".join(components[:depth]))
                    below = os.open(name, _FOLDER, dir_fd=fd)
                fd = _swap(fd, below, self.root)
            _check_place(fd, components)
        finally:
            _swap(fd, -1, self.root)

    def sync_folders_of(self, key: str) -> None:
        """Make the names durable of all folders on the way to a key's file."""
        components = path_of(key)
        fd = self.root
        try:
            sync(fd, ".")
            for name in components:
                try:
                    below = os.open(name, _FOLDER, dir_fd=fd)
                except (FileNotFoundError, NotADirectoryError):
                    return
                fd = _swap(fd, below, self.root)
                sync(fd, ".")
        finally:
            _swap(fd, -1, self.root)

    def check_removable(self, key: str) -> None:
        """Raise OSError where the key's file could not be taken away."""
        components = path_of(key)
        folder = self._enter(components[:-1])
        if folder is None:
            return
        try:
            _check_place(folder, components)
        finally:
            self._leave(folder)

    def restore_folder(self, store: int, note: str) -> None:
        """Put a folder in its place, or what was there before it, after `exchange_for_folder` was cut off."""
        staging = note.removesuffix(".path")
        with opened(store, note) or FileValue(-1, 0) as written:
            components = os.fsdecode(written.read()).split("/")
        with self.folder(components[:-1]) as parent:
            if _status(parent, components[-1]) is None:
                for name in (staging, f"{staging}.file"):
                    if _status(store, name) is not None:
                        os.rename(name, components[-1], src_dir_fd=store, dst_dir_fd=parent)
                        break
        remove(store, note)

    # --- parts -----------------------------------------------------------------------------------------

    def _place(self, components: Components, temporary: str, store: int, key: str) -> Signature | None:
        with self.folder(components[:-1]) as folder:
            name = components[-1]
            status = _status(folder, name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                with _opened(name, folder) as own:
                    return _put(own, OWN_VALUE, temporary, store, key)
            return _put(folder, name, temporary, store, key)

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
    """Make everything on the file system of this folder durable."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def write_new(folder: int, name: str, value: Value, rights: Rights | None = None) -> None:
    """Make a file with this value, and with these rights, as far as we may give them."""
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
            view = memoryview(value)
            while view:
                view = view[os.write(fd, view) :]
            return
        value.copy_to(fd)
    finally:
        os.close(fd)


def signature_of(folder: int, name: str) -> Signature:
    """The signature of a file of our own."""
    return Signature.of(os.stat(name, dir_fd=folder, follow_symlinks=False))


def sync(folder: int, name: str) -> None:
    """Make a file of our own durable, or with `.` a folder's names."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def nameless(folder: str) -> FileValue:
    """A new file without a name, open for writing; the caller closes it."""
    return FileValue(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), 0)


def opened(folder: int, name: str) -> FileValue | None:
    """What is in a file of our own, None where there is none; the caller closes it."""
    try:
        fd = os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    return FileValue(fd, os.fstat(fd).st_size)


def names_in(folder: int) -> list[str]:
    """The names in a folder of our own."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _put(folder: int, name: str, temporary: str, store: int, key: str) -> Signature | None:
    for _ in range(_RENAME_ATTEMPTS):
        status = _status(folder, name)
        try:
            if status is None:
                renames.rename_to_free(store, temporary, folder, name)
                return None
            _regular(status, key)
            return Signature.of(renames.exchange(store, temporary, folder, name))
        except FileExistsError:
            continue  # somebody made it in between
        except FileNotFoundError:
            if _status(folder, name) is None and _status(store, temporary) is not None:
                continue  # somebody removed it in between
            raise
    raise OSError(errno.EAGAIN, "the file is made and removed all the time", key)


def _take(folder: int, name: str, temporary: str, store: int, key: str) -> Signature | None:
    status = _status(folder, name)
    if status is None:
        return None
    _regular(status, key)
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
        status = _status(parent, name)
        if status is None or stat.S_ISDIR(status.st_mode):
            return
        _regular(status, name)
        staging = f"folder-{status.st_ino}"
        _make_folder(store, staging)
        try:
            with _opened(staging, store) as staged:
                os.link(name, OWN_VALUE, src_dir_fd=parent, dst_dir_fd=staged, follow_symlinks=False)
                renames.exchange_for_folder(store, staging, parent, name, path)
                if not os.path.samestat(os.stat(staging, dir_fd=store, follow_symlinks=False), status):
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
        with _opened(name, folder) as inside:
            for below in names_in(inside):
                remove(inside, below)
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _make_folder(parent: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, _FOLDER_MODE, dir_fd=parent)


def _check_place(folder: int, components: Components) -> None:
    """Raise OSError where a key's file could not be put in place or taken away."""
    if check_place(folder, components[-1], components):
        with _opened(components[-1], folder) as own:
            check_place(own, OWN_VALUE, components)


def _status(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _regular(status: os.stat_result, name: str) -> os.stat_result:
    if stat.S_ISREG(status.st_mode):
        return status
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something that is no file")
    raise NoKey(f"{name!r} is taken by {kind}, which is no key")


_KINDS: Final = {
    stat.S_IFLNK: "a symlink",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFDIR: "a folder",
}


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    fd = os.open(name, _FOLDER, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _swap(fd: int, other: int, root: int) -> int:
    """Close a descriptor on the way down a path, unless it is the root's; the next one."""
    if fd != root:
        os.close(fd)
    return other
