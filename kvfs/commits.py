"""How many writes shared a commit, and how long commits took, in all volumes together."""

from __future__ import annotations

import threading

from kvfs.histogram import Histogram


class Commits:
    """Counts commits; any thread may. `_lock` guards the histograms: it is taken once a commit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes = Histogram()
        self._durations_us = Histogram()

    def add(self, *, writes: int, duration_s: float) -> None:
        """Count a commit that made so many writes durable."""
        with self._lock:
            self._writes.add(writes)
            self._durations_us.add(int(duration_s * 1e6))

    def so_far(self) -> tuple[Histogram, Histogram]:
        """(writes a commit, microseconds a commit)."""
        with self._lock:
            return self._writes.copy(), self._durations_us.copy()
