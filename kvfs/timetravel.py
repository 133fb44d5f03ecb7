"""Reads of the past, over the op-log alone; written once, for every store.

A key's state at a time is its last op up to then, unless that is a gap: the log then has no value, and
says so instead of guessing.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvfs.errors import TimeTravelGap
from kvfs.keys import successor
from kvfs.model import Entry, OpType
from kvfs.store import Reader
from kvfs.valueops import missing


@dataclass(frozen=True, slots=True)
class PastKeys:
    """The keys that there were at a time.

    `gap_keys` are those whose state then was not recorded; `candidate_truncated` says that there were
    more keys to look at than a read of the past may.
    """

    keys: tuple[str, ...]
    gap_keys: tuple[str, ...]
    candidate_truncated: bool

    @property
    def has_gaps(self) -> bool:
        return bool(self.gap_keys)


def entry_at(reader: Reader, key: str, ts_ns: int) -> Entry:
    """The key's entry as it was at this instant, ops of that very instant included.

    Raises `KeyNotFound` or `KeyExpired` where there was none, `TimeTravelGap` where it is not known.
    """
    op = reader.state_at(key, reader.seq_at(ts_ns))
    if op is None:
        raise missing(expired=False)
    if not op.recorded:
        raise TimeTravelGap("Time-travel chain gap detected for the requested timestamp")
    if op.entry is None or op.entry.expired(ts_ns):
        raise missing(expired=op.entry is not None or op.op_type is OpType.EXPIRE)
    return op.entry


def keys_at(reader: Reader, ts_ns: int, *, prefix: str, after: str | None, limit: int, cap: int) -> PastKeys:
    """The first `limit` keys under a prefix that there were at this instant, in byte order.

    At most `cap` keys that have ever been are looked at.
    """
    seq = reader.seq_at(ts_ns)
    keys: list[str] = []
    gaps: list[str] = []
    looked = 0
    for key in reader.keys_ever(max(prefix, after or "", key=str.encode), successor(prefix)):
        if key == after:
            continue
        if looked == cap:
            return PastKeys(tuple(keys), tuple(gaps), candidate_truncated=True)
        looked += 1
        op = reader.state_at(key, seq)
        if op is None:
            continue
        if not op.recorded:
            gaps.append(key)
        elif op.entry is not None and not op.entry.expired(ts_ns):
            keys.append(key)
            if len(keys) == limit:
                break
    return PastKeys(tuple(keys), tuple(gaps), candidate_truncated=False)
