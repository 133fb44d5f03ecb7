"""What pruning takes out of an op-log, and how: step by step, each small enough to be one of a batch.

Of each key a beginning of its ops goes, and its last op stays for ever, a tombstone too: op numbers are never
used again, and the newest state is always there. So time travel knows what was pruned by a key's first op
having a number above 1.

A step is part of the caller's transaction, whole or not at all; the next one goes on where it ended.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

import apsw

from kvfs.oplog import OpLog
from kvfs.store import AllKeys, Cut, KeysOf, Step, Walk

_STEP_KEYS: Final = 500
_STEP_S: Final = 0.005
_AT_ONCE_OPS: Final = 50
_AT_ONCE_BYTES: Final = 1 << 20


def step(log: OpLog, connection: apsw.Connection, walk: Walk, cut: Cut) -> Step:
    """Remove some of the ops that the cut does not keep: what takes a few milliseconds."""
    under_way = _Step(log, connection, cut)
    with connection:
        left = under_way.along(walk)
    return under_way.made(left)


class _Candidate(NamedTuple):
    """A key to look at: the numbers of its first and its last op, and what is left to walk after it."""

    key: str
    first: int
    last: int
    beyond: Walk


class _Step:
    """One step under way."""

    def __init__(self, log: OpLog, connection: apsw.Connection, cut: Cut) -> None:
        self._log = log
        self._connection = connection
        self._cut = cut
        self._end = time.monotonic() + _STEP_S
        self._removed = 0
        self._keys = 0
        self._blobs: set[bytes] = set()
        self._pruned_seq = 0

    def along(self, walk: Walk) -> Walk | None:
        """Go on from where the last step ended; what is left to walk."""
        candidates, beyond_all = self._page(walk)
        left: Walk | None = walk
        for candidate in candidates:
            removed = self._removed
            whole = self._prune(candidate)
            if whole:
                self._keys += self._removed > removed
                left = candidate.beyond
            if not whole or self._late():
                break
        else:
            left = beyond_all
        self._note()
        return left

    def made(self, left: Walk | None) -> Step:
        """What this has come to."""
        return Step(left, self._removed, self._keys, frozenset(self._blobs))

    def _page(self, walk: Walk) -> tuple[list[_Candidate], Walk | None]:
        """The next keys, and what is left to walk after them."""
        log, connection = self._log, self._connection
        if isinstance(walk, AllKeys):
            spans = log.spans(connection, walk.after, _STEP_KEYS)
            page = [_Candidate(key, first, last, AllKeys(key)) for key, first, last in spans]
            full = len(spans) == _STEP_KEYS
        else:
            found = log.keys_between(connection, walk.after, walk.up_to, _STEP_KEYS)
            bounds = {key: log.bounds(connection, key) or (0, 0) for _, key in found}
            page = [_Candidate(key, *bounds.pop(key, (0, 0)), KeysOf(seq, walk.up_to)) for seq, key in found]
            full = len(found) == _STEP_KEYS
        return page, page[-1].beyond if full else None

    def _prune(self, candidate: _Candidate) -> bool:
        """Remove what is to go of a key, but some of it in any case; whether that was all."""
        kept = self._first_kept(candidate)
        while candidate.first < kept:
            gone = self._log.remove(
                self._connection, candidate.key, below=kept, ops=_AT_ONCE_OPS, size_bytes=_AT_ONCE_BYTES
            )
            self._removed += gone.ops
            self._blobs |= gone.blobs
            self._pruned_seq = max(self._pruned_seq, gone.last_seq)
            if gone.all:
                return True
            if self._late():
                return False
        return True

    def _first_kept(self, candidate: _Candidate) -> int:
        """The number of the key's first op that stays."""
        key, first, last, _ = candidate
        kept = last if self._cut.keep_last is None else last - self._cut.keep_last + 1
        if kept <= first:
            return first
        return min(kept, self._log.number_at(self._connection, key, self._cut.horizon))

    def _late(self) -> bool:
        return time.monotonic() >= self._end

    def _note(self) -> None:
        self._log.change_standing(
            self._connection,
            lambda standing: standing._replace(pruned_seq=max(standing.pruned_seq, self._pruned_seq)),
        )
