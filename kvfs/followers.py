"""Who is told that a volume has committed something, or is about to go. What happened, the log tells."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Protocol


class Ending(enum.StrEnum):
    """Why a volume goes."""

    DELETED = "database_deleted"
    REPLACED = "database_replaced"


class Follower(Protocol):
    """Somebody who is told, by the thread that commits or closes: so it must be quick, and never raise."""

    def grown(self) -> None:
        """Something was committed, perhaps to the log that is followed."""

    def ending(self, why: Ending) -> None:
        """The volume is closed as soon as its leases are released."""


class Followers:
    """Those who follow one volume. Any thread may use it; nobody following costs a look at a tuple."""

    def __init__(self) -> None:
        # Guards changes; who tells reads a tuple that never changes.
        self._lock = threading.Lock()
        self._following: tuple[Follower, ...] = ()
        self._ending: Ending | None = None

    def add(self, follower: Follower) -> Callable[[], None]:
        """Tell this one from now on, until what is returned is called."""
        with self._lock:
            self._following = (*self._following, follower)
            ending = self._ending
        if ending is not None:
            follower.ending(ending)
        return lambda: self._remove(follower)

    def grown(self) -> None:
        """Tell that something was committed."""
        for follower in self._following:
            follower.grown()

    def end(self, why: Ending | None) -> None:
        """Tell that the volume goes, also to whoever comes later; None: it stays after all."""
        with self._lock:
            self._ending = why
            following = self._following
        if why is not None:
            for follower in following:
                follower.ending(why)

    def _remove(self, follower: Follower) -> None:
        with self._lock:
            self._following = tuple(each for each in self._following if each is not follower)
