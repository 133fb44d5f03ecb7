"""The recording of outside edits, from when a store is opened: first the baseline, then what happens.

One process at a time records a folder, whoever has the lock of its `.watch` file; the others stand by. The
kernel takes the lock from a process that dies, and one that stands by goes on with a scan.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from kvfs.directory.recorder import Recorder, RecorderStatus
from kvfs.errors import KvfsError

_LOG = logging.getLogger("kvfs.recorder")

_LOOK_S: Final = 0.5


class Recording:
    """A recorder, and before it, in a thread of its own, what takes long and must come first.

    `catch_up` has everything logged that is not yet; None where there is nothing to catch up with. `lock` is
    the path of the file whose lock a process must have that records.
    """

    def __init__(self, begin: Callable[[], Recorder], catch_up: Callable[[], None] | None, lock: str) -> None:
        """Raises OSError where there can be no lock."""
        self._begin = begin
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        # Guards `_recorder`, and keeps `_lock` open.
        self._guard = threading.Lock()
        self._recorder: Recorder | None = None
        self._closed = threading.Event()
        self.standing_by = not self._locked()
        """Whether another process records."""
        if self.standing_by:
            self._in_a_thread("kvfs-standby", self._stand_by)
        elif catch_up is not None:
            self._in_a_thread("kvfs-baseline", lambda: self._catch_up(catch_up))
        else:
            self._record()

    def status(self) -> RecorderStatus | None:
        """How the recorder fares; None while there is none yet."""
        return None if self._recorder is None else self._recorder.status()

    def close(self) -> None:
        """Idempotent."""
        self._closed.set()
        with self._guard:
            if self._lock < 0:
                return
            if self._recorder is not None:
                self._recorder.close()
            os.close(self._lock)
            self._lock = -1

    def _in_a_thread(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def _locked(self) -> bool:
        """Whether this process has the lock, or just got it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _stand_by(self) -> None:
        """Wait until nobody records any more."""
        while not self._closed.wait(_LOOK_S):
            with self._guard:
                if self._lock < 0:
                    return
                self.standing_by = not self._locked()
            if not self.standing_by:
                self._record()
                return

    def _catch_up(self, catch_up: Callable[[], None]) -> None:
        try:
            catch_up()
        except KvfsError as exc:
            # The recorder's first scan finds what is left.
            if not self._closed.is_set():
                _LOG.warning("cannot log the files that are there yet: %s", exc.message)
        except Exception:
            _LOG.exception("cannot log the files that are there")
        self._record()

    def _record(self) -> None:
        with self._guard:
            if not self._closed.is_set():
                self._recorder = self._begin()
