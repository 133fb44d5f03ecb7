"""Descriptors of files that were read lately, so that reading them again opens nothing.

Where a folder is watched, the kernel tells the watcher of each file that is opened, and that costs more
than all else of a read. Values are not kept: a descriptor reads what is in its file now, also what a program
has changed through a mapping, which no signature tells at once.
"""

from __future__ import annotations

import os
import resource
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvfs.directory.looks import Signature

_MOST: Final = 4096
_PART_OF_LIMIT: Final = 4


class HotFiles:
    """The open files of one folder, by key. Any thread may ask; whoever takes one has it alone.

    All folders of a process share what it may have open: what is too much is closed at once.
    """

    _lock: Final = threading.Lock()
    _held = 0

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = _MOST if soft == resource.RLIM_INFINITY else min(_MOST, soft // _PART_OF_LIMIT)
        self._young: dict[str, tuple[int, Signature]] = {}
        self._old: dict[str, tuple[int, Signature]] = {}
        self._closed = False

    def take(self, key: str, signature: Signature) -> int | None:
        """The descriptor of a key's file, if it is the one with this signature; for `give`."""
        with self._lock:
            hot = self._young.pop(key, None) or self._old.pop(key, None)
            if hot is None:
                return None
            HotFiles._held -= 1
        fd, known = hot
        if known == signature:
            return fd
        os.close(fd)
        return None

    def give(self, key: str, fd: int, signature: Signature) -> None:
        """Have a descriptor kept, or closed."""
        with self._lock:
            if not self._closed and HotFiles._held < self._most and key not in self._young:
                self._young[key] = (fd, signature)
                HotFiles._held += 1
                return
        os.close(fd)

    def rest(self) -> None:
        """Close what was not read since the last time but one: a deleted file takes space until then."""
        with self._lock:
            gone, self._old, self._young = self._old, self._young, {}
            HotFiles._held -= len(gone)
        for fd, _ in gone.values():
            os.close(fd)

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self.rest()
        self.rest()
