"""When a key whose file was changed is ready to be recorded: one save, one op.

Programs save in steps: they truncate and then write, or delete and create anew. So a file is recorded when it
has been quiet for a moment and two looks agree, or at last when it never comes to rest; one that vanished
only when it stays away. What is gone without ever having been recorded, or is as it was recorded, is nothing.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from kvfs.directory.looks import Signature

LOOK_S: Final = 0.075
QUIET_S: Final = 0.15
ABSENT_S: Final = 0.5
LONGEST_S: Final = 2.0


class Sight(NamedTuple):
    """A look at a key: its file's signature now, and what the index knows of it.

    `signature` None: there is no file, or no key's. `known` None: the index knows nothing, or nothing that
    it believes; with `has_row` there is a row.
    """

    signature: Signature | None
    known: Signature | None
    has_row: bool

    @property
    def nothing_new(self) -> bool:
        """Whether the file is as the index knows it, or there is neither."""
        if self.signature is None:
            return not self.has_row
        return self.signature == self.known


class Verdict(Enum):
    """What a look at a key came to."""

    WAIT = auto()
    DROP = auto()
    SETTLE = auto()


@dataclass(slots=True)
class _Change:
    first_s: float
    changed_s: float
    announced: bool
    looked: bool = False
    seen: Signature | None = None


class Debounce:
    """Changed keys, until each is dropped or ready. Times are monotonic seconds. For one thread.

    Every key in `_changes` has one entry in `_due`, or is being looked at.
    """

    def __init__(self) -> None:
        self._changes: dict[str, _Change] = {}
        self._due: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._changes)

    def clear(self) -> None:
        """Forget all."""
        self._changes.clear()
        self._due.clear()

    def note(self, key: str, now: float, *, announced: bool) -> None:
        """A key was changed, or seems to be; `announced`: an event has told of it."""
        change = self._changes.get(key)
        if change is None:
            self._changes[key] = _Change(now, now, announced)
            heapq.heappush(self._due, (now + LOOK_S, key))
        elif announced:
            change.changed_s = now
            change.announced = True

    def next_due(self) -> float | None:
        """When there is something to look at."""
        return self._due[0][0] if self._due else None

    def due(self, now: float, limit: int) -> list[str]:
        """Keys to look at now, each of which must be told to `decide` or `drop` then."""
        keys: list[str] = []
        while self._due and self._due[0][0] <= now and len(keys) < limit:
            _, key = heapq.heappop(self._due)
            change = self._changes[key]
            quiet = min(change.changed_s + LOOK_S, change.first_s + LONGEST_S)
            if quiet > now:
                heapq.heappush(self._due, (quiet, key))
            else:
                keys.append(key)
        return keys

    def drop(self, key: str) -> None:
        """A key that was due is none that could be looked at."""
        del self._changes[key]

    def decide(self, key: str, sight: Sight, now: float) -> tuple[Verdict, bool]:
        """What to do after a look at a key that was due, and whether an event had told of it."""
        change = self._changes[key]
        if sight.nothing_new:
            del self._changes[key]
            return Verdict.DROP, change.announced
        agreed = change.looked and sight.signature == change.seen
        if change.looked and not agreed:
            change.changed_s = now
        change.looked, change.seen = True, sight.signature
        if sight.signature is None:
            ready = change.changed_s + ABSENT_S
        else:
            ready = change.changed_s + QUIET_S
            longest = change.first_s + LONGEST_S
            agreed = agreed or now >= longest
            ready = min(ready, longest)
        if agreed and now >= ready:
            del self._changes[key]
            return Verdict.SETTLE, change.announced
        heapq.heappush(self._due, (max(ready, now + LOOK_S / 2), key))
        return Verdict.WAIT, change.announced
