"""Keys that the writer is to look at, some in each batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator


class Looking:
    """Keys to look at: a batch that begins again gets again what it had."""

    def __init__(self, keys: Iterator[str]) -> None:
        self._keys = keys
        self._ahead: deque[str] = deque()
        self._given: list[str] = []

    def again(self) -> Iterator[str]:
        """The keys that no batch has gone through yet."""
        self._ahead.extendleft(reversed(self._given))
        self._given.clear()
        while True:
            try:
                key = self._ahead.popleft() if self._ahead else next(self._keys)
            except StopIteration:
                return
            self._given.append(key)
            yield key

    def went_through(self) -> int:
        """A batch has gone through what it had; how many that were."""
        looked = len(self._given)
        self._given.clear()
        return looked


def noting(keys: Iterator[str], noted: set[str]) -> Iterator[str]:
    """The keys, which are noted as they come. Not a generator: it goes on after `keys` has failed."""

    def note(key: str) -> str:
        noted.add(key)
        return key

    return map(note, keys)
