"""Checkpoints that commits do not wait for.

A checkpoint copies the pages of a write-ahead log into the file, and syncs that. SQLite does it by itself in
a commit, when the log is long; then that commit, and all that has gathered behind it, waits for tens of
milliseconds. Here a thread of its own copies the log, while commits go on, and then what came meanwhile. But
a log begins anew only when all of it is copied: so what is left after that is copied by a commit.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

import apsw

from kvfs import sqlite
from kvfs.doubt import Doubt
from kvfs.errors import KvfsError

_LOG = logging.getLogger("kvfs.checkpoints")

_PASSES: Final = 2
_TIMES_TOO_LONG: Final = 4
_AGAIN_SHARE: Final = 32


class Checkpoints:
    """Keeps the write-ahead log of one database short, as one connection commits to it.

    Whoever commits asks `take_due`, and if so has another thread `copy`. `close` waits for that, and is
    idempotent. A sync that fails leaves the database in doubt; other errors leave the log as it is, to be
    tried again.
    """

    def __init__(self, connection: apsw.Connection, readers: sqlite.ReadPool, doubt: Doubt) -> None:
        self._readers = readers
        self._doubt = doubt
        # All in frames: a page with its header, as the log has them. Both threads write to what follows, one
        # now and then over the other: that costs a pass, and no more.
        self._long = sqlite.long_log_frames(connection)
        self._too_long = self._long * _TIMES_TOO_LONG
        self._next = self._long
        self._passes = 0
        self._due = False
        self._under_way = False
        self._copying = threading.Lock()
        self._closed = False
        connection.set_wal_hook(self._committed)

    def take_due(self) -> bool:
        """Whether the log is to be copied now, which is told once."""
        due, self._due = self._due, False
        return due

    def copy(self) -> None:
        """Copy what the log has."""
        try:
            with self._copying, suppress(KvfsError):
                if not self._closed:
                    with self._doubt, self._readers.borrow() as connection:
                        self._copy(connection)
        finally:
            self._under_way = False

    def close(self) -> None:
        """Copy nothing more."""
        with self._copying:
            self._closed = True

    def _committed(self, connection: apsw.Connection, _name: str, frames: int) -> int:
        """SQLite has committed; the log has so many frames."""
        if frames < self._long:
            self._next, self._passes = self._long, 0
        elif frames >= self._next:
            if frames >= self._too_long or (self._passes == _PASSES and not self._under_way):
                self._passes = 0
                with suppress(apsw.Error), self._doubt:
                    self._copy(connection)
            elif not self._under_way:
                self._passes += 1
                self._due = self._under_way = True
        return apsw.SQLITE_OK

    def _copy(self, connection: apsw.Connection) -> None:
        frames, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        # Where a reader is in the way, not again at each commit.
        self._next = 0 if copied == frames else frames + self._long // _AGAIN_SHARE


class Checkpointer:
    """The thread that copies logs. Any thread may ask it to; `close` waits for what it is at."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Checkpoints | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="kvfs-checkpoints", daemon=True)
        self._thread.start()

    def ask(self, checkpoints: Checkpoints) -> None:
        self._asked.put(checkpoints)

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (checkpoints := self._asked.get()) is not None:
            try:
                checkpoints.copy()
            except Exception:
                _LOG.exception("a write-ahead log could not be copied")
