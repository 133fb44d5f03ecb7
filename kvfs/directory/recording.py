"""The recording of outside edits, from when a store is opened: first the baseline, then what happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from kvfs.directory.recorder import Recorder, RecorderStatus
from kvfs.errors import KvfsError

_LOG = logging.getLogger("kvfs.recorder")


class Recording:
    """A recorder, and before it, in a thread of its own, what takes long and must come first.

    `catch_up` has everything logged that is not yet; None where there is nothing to catch up with.
    """

    def __init__(self, begin: Callable[[], Recorder], catch_up: Callable[[], None] | None) -> None:
        self._begin = begin
        # Guards `_recorder` and `_closed`.
        self._lock = threading.Lock()
        self._recorder: Recorder | None = None
        self._closed = False
        if catch_up is None:
            self._record()
        else:
            threading.Thread(
                target=self._catch_up, args=(catch_up,), name="kvfs-baseline", daemon=True
            ).start()

    def status(self) -> RecorderStatus | None:
        """How the recorder fares; None while there is none yet."""
        return None if self._recorder is None else self._recorder.status()

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closed = True
        if self._recorder is not None:
            self._recorder.close()

    def _catch_up(self, catch_up: Callable[[], None]) -> None:
        try:
            catch_up()
        except KvfsError as exc:
            # The recorder's first scan finds what is left.
            if not self._closed:
                _LOG.warning("cannot log the files that are there yet: %s", exc.message)
        except Exception:
            _LOG.exception("cannot log the files that are there")
        self._record()

    def _record(self) -> None:
        with self._lock:
            if not self._closed:
                self._recorder = self._begin()
