"""File systems that cannot tell names apart (`Foo` and `foo`, `é` in its two forms), or cannot hold some.

There a file answers to names that are not its own. So a name is believed only if it is among the folder's own
names, letter for letter: to readers a key of another spelling is not there, and it cannot be written. Which
file systems these are is probed when a folder is opened, and for a new name again, since what it would become
is for the file system to say.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from kvfs import disk
from kvfs.directory.mounts import folds_names
from kvfs.directory.names import Hidden, NoKey
from kvfs.model import NS

_PROBE_FOLDER: Final = "names"
_PROBES: Final = (("Probe", "pROBE"), ("\u00e9", "e\u0301"))
_HARD_TO_HOLD: Final = ("a:b", "a?", "a.", "x" * 255)
_GET_FLAGS: Final = 0x80086601
_CASEFOLD: Final = 0x40000000
_FOLDERS_KEPT: Final = 64
# Longer than the coarsest tick of a file system (vfat's), twice.
_SETTLED_NS: Final = 4 * NS


def is_odd(root: int, temporary: int, path: str) -> bool:
    """Whether names need a second look below `root`. In `temporary` names are tried, under the lock."""
    device = os.fstat(root).st_dev
    if os.fstat(temporary).st_dev != device:
        return _flagged(root) or folds_names(path)
    return _flagged(root) or _probe(temporary)


def check_apart(paths: Iterable[Sequence[str]]) -> None:
    """Raise `NoKey` for new paths of which the file system could take one for another."""
    spelled: dict[tuple[str, ...], Sequence[str]] = {}
    for path in paths:
        folded = [_fold(name) for name in path]
        for depth in range(1, len(path) + 1):
            other = spelled.setdefault(tuple(folded[:depth]), path[:depth])
            if other != path[:depth]:
                raise NoKey(f"the file system cannot tell {path[depth - 1]!r} from {other[-1]!r}")


class Spelling:
    """Checks names on an odd file system. For one thread, or for any where `brief` is False.

    What it knows of a folder it keeps while that is unchanged; if `brief`, also where that is not sure.
    """

    def __init__(self, *, brief: bool = False) -> None:
        self._brief = brief
        self._known: dict[int, tuple[tuple[int, int], frozenset[str]]] = {}

    def check(self, folder: int, name: str) -> None:
        """Raise `Hidden` where a name that the folder answers to is not its own."""
        names = self._names(folder)
        if name in names:
            return
        folded = _fold(name)
        other = next((each for each in sorted(names) if _fold(each) == folded), None)
        if other is None:
            raise Hidden(f"the file system does not keep the name {name!r} as it is")
        raise Hidden(f"the file system cannot tell {name!r} from {other!r}")

    def _names(self, folder: int) -> frozenset[str]:
        status = os.fstat(folder)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        known = self._known.get(status.st_ino)
        if known is not None and known[0] == times:
            return known[1]
        names = frozenset(disk.names_in(folder))
        # The root of a vfat has no times.
        if self._brief or 0 < max(times) < time.time_ns() - _SETTLED_NS:
            if len(self._known) >= _FOLDERS_KEPT:
                self._known.clear()
            self._known[status.st_ino] = (times, names)
        return names


def check_held(temporary: int, names: Sequence[str]) -> None:
    """Raise `NoKey` for a name that the file system cannot hold as it is."""
    for name in names:
        if not _holds(temporary, name):
            raise NoKey(f"the file system cannot hold the name {name!r}")


def _fold(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _flagged(root: int) -> bool:
    """Whether the folder itself folds case, as ext4 and f2fs let one say of each."""
    with suppress(OSError):
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            answer = fcntl.ioctl(fd, _GET_FLAGS, bytes(8))
        finally:
            os.close(fd)
        return bool(struct.unpack("=q", answer)[0] & _CASEFOLD)
    return False


def _probe(temporary: int) -> bool:
    return any(_answers(temporary, *pair) for pair in _PROBES) or not all(
        _holds(temporary, name) for name in _HARD_TO_HOLD
    )


def _answers(temporary: int, name: str, other: str) -> bool:
    """Whether a file of one name answers to another."""
    with _Trial(temporary, name) as folder:
        try:
            os.stat(other, dir_fd=folder)
        except OSError:
            return False
        return True


def _holds(temporary: int, name: str) -> bool:
    try:
        with _Trial(temporary, name) as folder:
            return disk.names_in(folder) == [name]
    except OSError:
        return False


class _Trial:
    """A file of this name in a folder of its own, for a moment."""

    def __init__(self, temporary: int, name: str) -> None:
        self._temporary = temporary
        self._name = name
        self._folder = -1

    def __enter__(self) -> int:
        with suppress(FileExistsError):
            os.mkdir(_PROBE_FOLDER, dir_fd=self._temporary)
        self._folder = os.open(
            _PROBE_FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._temporary
        )
        try:
            # A process that was killed here may have left its own.
            self._clear()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self._name, flags, 0o600, dir_fd=self._folder))
        except BaseException:
            self.__exit__()
            raise
        return self._folder

    def __exit__(self, *_exc: object) -> None:
        with suppress(OSError):
            self._clear()
        os.close(self._folder)
        with suppress(OSError):
            os.rmdir(_PROBE_FOLDER, dir_fd=self._temporary)

    def _clear(self) -> None:
        for name in os.listdir(self._folder):
            os.unlink(name, dir_fd=self._folder)
