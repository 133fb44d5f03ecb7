"""How far a file's times can be trusted to tell of a change.

A file system that stamps times with a coarse clock gives two changes within one tick the same time. So a
signature whose times lie within two ticks of the file system's own "now" is racy: it is not believed, and
the file is hashed again at the next look. The idea is git's (Documentation/technical/racy-git.txt). A
kernel with multigrain timestamps gives each change after a look a time of its own, and nothing is racy.
"""

from __future__ import annotations

import os
from typing import Final

from kvfs.directory.files import Rights, Signature
from kvfs.model import NS

_PROBE: Final = "clock"
_PROBES: Final = 20
_TICK_NS: Final = 10_000_000
_COARSE_NS: Final = 2 * NS


class Grain:
    """The measured grain of the times in one file system; `folder` is where a probe file may lie."""

    def __init__(self, folder: int) -> None:
        self._fd = os.open(
            _PROBE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=folder
        )
        # What a file that is made here gets.
        self.rights = Rights.of(os.fstat(self._fd))
        times = [self._now_ns() for _ in range(_PROBES)]
        if len(set(times)) == len(times):
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

    def now_ns(self) -> int:
        """The file system's "now", to be asked before a look; 0 where nothing is racy."""
        return self._now_ns() if self._margin_ns else 0

    def trusted(self, signature: Signature | None, now_ns: int) -> Signature | None:
        """The signature of a file looked at after `now_ns`, or None where a change could hide behind it."""
        if signature is None or not self._margin_ns:
            return signature
        newest = max(signature.mtime_ns, signature.ctime_ns)
        return signature if newest < now_ns - self._margin_ns else None

    def _now_ns(self) -> int:
        os.pwrite(self._fd, b"t", 0)
        return os.fstat(self._fd).st_mtime_ns
