"""Waiting for what happens in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(happened: Callable[[], bool], within_s: float, what: str) -> None:
    """Return as soon as it has happened; fail after so long."""
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)
