"""A volume while it is open: its stores, its one writer, and what is done to it by and by."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from kvfs.errors import KvfsError
from kvfs.handle import Handle
from kvfs.paths import Location
from kvfs.pending import Pending
from kvfs.sql.database import SqlDatabase
from kvfs.store import Store, Volume
from kvfs.writer import Batch, Writer

_LOG = logging.getLogger("kvfs.engine")

TEND_S: Final = 3.0
"""For how long what is done in the background waits for a lock."""

_VERIFY_PAUSE_S: Final = 1.0
_VERIFY_PAUSE_MAX_S: Final = 60.0


@dataclass(slots=True, eq=False)
class OpenVolume:
    """An open volume, `location` being where its first store lies.

    `users` and `used` are guarded by the engine's lock, `handles` by the path's; the rest is the reaper's.
    """

    key: str
    location: Location
    volume: Volume
    store: Callable[[str], Store]
    writer: Writer
    sql: SqlDatabase | None
    handles: dict[str, Handle] = field(default_factory=dict)
    users: int = 0
    used: float = 0.0
    expiring: Pending[int] | None = None
    syncing: Pending[None] | None = None
    verifying: Pending[None] | None = None
    verify_at: float = 0.0
    verify_pause_s: float = _VERIFY_PAUSE_S

    @property
    def can_go(self) -> bool:
        """Whether nobody uses it, and nothing would be forgotten that it is in doubt of."""
        return not self.users and self.volume.doubt.reason is None

    def sync(self) -> Pending[None] | None:
        """Make durable what commits left to be written later; what this returns is done when it is noted."""
        mark = self.volume.sync()
        if mark is None:
            return None
        return self.submit(lambda batch: batch.synced(mark))

    def submit(self, run: Callable[[Batch], None]) -> Pending[None]:
        """Have something done in the background; not for longer than `TEND_S`, if another program locks."""
        return self.writer.submit(run, deadline=time.monotonic() + TEND_S, heavy=True)

    def in_doubt(self) -> bool:
        """Whether its disk is in doubt; then it is verified, less and less often until that succeeds."""
        if self.volume.doubt.reason is None:
            self.verify_at, self.verify_pause_s = 0.0, _VERIFY_PAUSE_S
            return False
        now = time.monotonic()
        if now >= self.verify_at and (self.verifying is None or self.verifying.done()):
            self.verify_at = now + self.verify_pause_s
            self.verify_pause_s = min(2 * self.verify_pause_s, _VERIFY_PAUSE_MAX_S)
            self.verifying = self.writer.verify()
        return True

    def verify_what_was_in_doubt(self) -> None:
        """Verify at once what a process before this one has left in doubt."""
        if self.volume.doubt.reason is not None:
            with suppress(KvfsError):
                self.writer.verify().result()

    def close(self) -> None:
        """Make durable what can be, and let go of everything."""
        try:
            syncing = self.sync()
            if syncing is not None:
                syncing.result()
        except KvfsError as exc:
            # Whatever the last checkpoint misses is in the op-log.
            _LOG.warning("cannot checkpoint %s: %s", self.key, exc.message)
        self.writer.close()
        if self.sql is not None:
            self.sql.close()
        self.volume.close()
