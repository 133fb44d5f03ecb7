"""How far a file's times can be trusted to tell of a change.

A signature that is not trusted is racy: it is not believed, and the file is hashed again at the next look.
The idea is git's (Documentation/technical/racy-git.txt). There are two reasons:

- A file system that stamps times with a coarse clock gives two changes within one tick the same time. A
  kernel with multigrain timestamps gives each change after a look a time of its own; elsewhere times within
  two ticks of the file system's own "now" are racy.
- A write sets a file's times when it begins, and may go on copying for a while. So the times of a file that
  others write to are racy until they are older than any write lasts.
"""

from __future__ import annotations

import os
from typing import Final

from kvfs.directory.looks import Rights, Signature
from kvfs.model import NS

_PROBE: Final = "clock"
_PROBES: Final = 20
_TICK_NS: Final = 10_000_000
_COARSE_NS: Final = 2 * NS
_WRITE_NS: Final = 2 * NS


class Grain:
    """The measured grain of the times in one file system; `folder` is where a probe file may lie.

    `apart`: the files lie on another one, where nothing can be measured, so that the worst is assumed.
    """

    def __init__(self, folder: int, *, apart: bool = False) -> None:
        self._fd = os.open(
            _PROBE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=folder
        )
        # What a file that is made here gets.
        self.rights = Rights.of(os.fstat(self._fd))
        times = [self.now_ns() for _ in range(_PROBES)]
        if apart:
            self._margin_ns = 2 * _COARSE_NS
        elif len(set(times)) == len(times):
            self._margin_ns = 0
        elif any(time % NS for time in times):
            self._margin_ns = 2 * _TICK_NS
        else:
            self._margin_ns = 2 * _COARSE_NS

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def coarse(self) -> bool:
        """Whether two changes can have the same time."""
        return self._margin_ns > 0

    def now_ns(self) -> int:
        """The file system's "now", to be asked before a look."""
        os.pwrite(self._fd, b"t", 0)
        return os.fstat(self._fd).st_mtime_ns

    def trusted(self, signature: Signature, now_ns: int) -> bool:
        """Whether no change can hide behind the signature of a file that was looked at after `now_ns`."""
        return _newest(signature) < now_ns - max(self._margin_ns, _WRITE_NS)

    def trusted_at_once(self, signature: Signature, now_ns: int) -> bool:
        """As `trusted`, of what nobody else was writing to: a file just made, or a folder's names."""
        return not self._margin_ns or _newest(signature) < now_ns - self._margin_ns


def _newest(signature: Signature) -> int:
    return max(signature.mtime_ns, signature.ctime_ns)
