"""Clocks that tests can move."""

from __future__ import annotations

import time

from tests import polling

NS = 1_000_000_000
NS_PER_MS = 1_000_000


class HurriedClock:
    """The real time, and as much as it was hurried on."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self._ahead_ns

    def hurry(self, seconds: float) -> None:
        self._ahead_ns += round(seconds * NS)


class HandClock:
    """Stands still until it is moved, in either direction."""

    def __init__(self, ns: int = 1_700_000_000 * NS) -> None:
        self.ns = ns

    def __call__(self) -> int:
        return self.ns

    def move(self, seconds: float) -> None:
        self.ns += round(seconds * NS)


def moment() -> int:
    """An instant after all ops so far and before those to come, also of SQL, which tells milliseconds."""
    at_ns = time.time_ns()
    polling.eventually(lambda: time.time_ns() // NS_PER_MS > at_ns // NS_PER_MS, 1, "a millisecond")
    return at_ns
