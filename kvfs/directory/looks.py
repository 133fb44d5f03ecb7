"""Looking at keys' files: one component of a path at a time, no symlink ever followed.

What is found at a key's path is its file, nothing, or something that is no key (`NoKey`): a symlink, a
FIFO, a socket, a device. Such things are named, and neither opened nor changed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from kvfs.directory.ignore import Rules
from kvfs.directory.names import OWN_VALUE, NoKey, path_of
from kvfs.directory.spelling import Spelling
from kvfs.model import INLINE_MAX_BYTES, FileValue, Value

Components = Sequence[str]

FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_ATTEMPTS: Final = 10
# What names a file system that cannot hold them is asked for.
_UNHELD: Final = frozenset({errno.EINVAL, errno.ENAMETOOLONG})


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


class Looks:
    """Looking at keys' files below one folder, of which this borrows the descriptor.

    `rules` is asked at each look what is ignored.
    """

    def __init__(self, root: int, rules: Callable[[], Rules]) -> None:
        self.root = root
        self.rules = rules
        self.spelling: Spelling | None = None

    def look(self, key: str) -> Found | None:
        """The key's file, without its value; None where there is none. Raises `NoKey`."""
        components = path_of(key)
        self.rules().check_file(components)
        parent = self._enter(components[:-1])
        if parent is None:
            return None
        try:
            status = self._status(parent, components[-1])
            if status is not None and stat.S_ISDIR(status.st_mode):
                self.rules().check_folder(components)
                with opened_folder(components[-1], parent) as own:
                    status = self._status(own, OWN_VALUE)
                components = (*components, OWN_VALUE)
        finally:
            self._leave(parent)
        if status is None:
            return None
        regular(status, key)
        return Found(Signature.of(status), "/".join(components[:-1]), status)

    def read(self, key: str) -> Found | None:
        """The key's file with its value as it was under that signature; None where there is none.

        A large value is a `FileValue` on the live file, which others may change. Raises `NoKey`.
        """
        for _ in range(_READ_ATTEMPTS):
            opened = self._open(key)
            if opened is None:
                return None
            fd, folder, status, before = opened
            true = False
            try:
                large = before.size > INLINE_MAX_BYTES
                value = b"" if large else os.pread(fd, before.size + 1, 0)
                # What is open is what was looked at before, and has not changed since.
                true = Signature.of(os.fstat(fd)) == before and (large or len(value) == before.size)
                if true:
                    return Found(before, folder, status, FileValue(fd, before.size) if large else value)
            finally:
                if not true:
                    os.close(fd)
                elif not large:
                    self._done(key, fd, before)
        raise OSError(errno.EAGAIN, "the file is changing all the time", key)

    def _open(self, key: str) -> tuple[int, str, os.stat_result, Signature] | None:
        """A descriptor of the key's file, the folder it lies in, and what its status was before."""
        components = path_of(key)
        self.rules().check_file(components)
        parent = self._enter(components[:-1])
        if parent is None:
            return None
        name = components[-1]
        try:
            status = self._status(parent, name)
            if status is None:
                return None
            if not stat.S_ISDIR(status.st_mode):
                signature = Signature.of(regular(status, key))
                fd = self._file(key, name, parent, signature)
                return fd, "/".join(components[:-1]), status, signature
            self.rules().check_folder(components)
            with opened_folder(name, parent) as own:
                status = self._status(own, OWN_VALUE)
                if status is None:
                    return None
                signature = Signature.of(regular(status, key))
                return self._file(key, OWN_VALUE, own, signature), "/".join(components), status, signature
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            self._leave(parent)

    def _file(self, key: str, name: str, folder: int, signature: Signature) -> int:
        """A descriptor of the key's file, for `_done`: mostly the one with this signature."""
        return os.open(name, READ, dir_fd=folder)

    def _done(self, key: str, fd: int, signature: Signature) -> None:
        """The file was read, and has this signature."""
        os.close(fd)

    def _enter(self, folder: Components) -> int | None:
        """A descriptor of the folder in which a key's file lies, for `_leave`; None where there is none."""
        fd = self.root
        entered = False
        try:
            for depth, name in enumerate(folder, 1):
                try:
                    below = os.open(name, FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    return None
                except NotADirectoryError:
                    status = self._status(fd, name)
                    if status is not None:
                        regular(status, name)
                        self.rules().check_file(folder[:depth])
                    return None
                except OSError as exc:
                    if exc.errno in _UNHELD:
                        return None
                    raise
                if self.spelling is not None:
                    try:
                        self.spelling.check(fd, name)
                    except BaseException:
                        os.close(below)
                        raise
                fd = swap(fd, below, self.root)
            entered = True
            return fd
        finally:
            if not entered:
                swap(fd, -1, self.root)

    def _leave(self, fd: int) -> None:
        swap(fd, -1, self.root)

    def _status(self, folder: int, name: str) -> os.stat_result | None:
        """What is at this very name."""
        status = status_at(folder, name)
        if status is not None and self.spelling is not None:
            self.spelling.check(folder, name)
        return status


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
        self._fd = swap(self._fd, self.root, self.root)
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


def status_at(folder: int, name: str) -> os.stat_result | None:
    """What is at a name in a folder; None where there is nothing."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno in _UNHELD:
            return None
        raise


def regular(status: os.stat_result, name: str) -> os.stat_result:
    """The same status, of a file; raises `NoKey` for anything else."""
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
def opened_folder(name: str, folder: int) -> Iterator[int]:
    """A descriptor of a folder in a folder, for a moment."""
    fd = os.open(name, FOLDER, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def swap(fd: int, other: int, root: int) -> int:
    """Close a descriptor on the way down a path, unless it is the root's; the next one."""
    if fd != root:
        os.close(fd)
    return other
