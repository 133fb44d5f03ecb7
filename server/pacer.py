"""Bounds what one kind of work takes of the event loop's time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SHARE: Final = 0.05
_SHARE_OF_QUIET: Final = 0.5
_QUIET: Final = 0.05


class Pacer:
    """Keeps what deliveries take of the loop's time to a share of it, a small one where requests want it too.

    After a rest it lets them go at once.
    """

    def __init__(self) -> None:
        self._free_at = 0.0
        self._taken_s = 0.0
        # When it was last looked who uses the loop; its thread's time then, and what deliveries took since.
        self._looked_s = time.monotonic()
        self._used_s = time.thread_time()
        self._delivered_s = 0.0

    async def turn(self) -> None:
        """Wait until there is time again."""
        wait_s = self._free_at - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    @contextmanager
    def delivering(self) -> Iterator[float]:
        """Count what is done inside; yields when it began."""
        began_s, used_s = time.monotonic(), time.thread_time()
        try:
            yield began_s
        finally:
            self._taken_s += time.monotonic() - began_s
            self._delivered_s += time.thread_time() - used_s

    def rest(self, more_s: float) -> None:
        """Let as much time pass before the next turn as what was taken is worth, and `more_s` of a thread."""
        share = _SHARE if self._others() > _QUIET else _SHARE_OF_QUIET
        taken_s, self._taken_s = self._taken_s + more_s, 0.0
        self._free_at = max(time.monotonic(), self._free_at) + taken_s * (1 / share - 1)

    def _others(self) -> float:
        """What part of the time since this was last asked the loop has worked on other things."""
        now_s, used_s = time.monotonic(), time.thread_time()
        others_s = used_s - self._used_s - self._delivered_s
        passed_s = now_s - self._looked_s
        self._looked_s, self._used_s, self._delivered_s = now_s, used_s, 0.0
        return others_s / passed_s if passed_s else 1.0
