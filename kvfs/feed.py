"""The change feed: a store's op-log, read on from a cursor as events. Written once, for every store.

Whoever reads page after page, each from where the last one ended, gets every op once and in order. Values
are those of the ops themselves, as the log has them. Where it has none (`history=false`, or larger than the
log keeps) the value of the key is given if this op is still its last one; else the event says why it is not:
`superseded` by a later op, `expired` since, or `too_large` to be sent with an event.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from kvfs.cursor import Cursor
from kvfs.errors import ChangeCursorExpired
from kvfs.keys import successor
from kvfs.model import INLINE_MAX_BYTES, Entry, Op, OpType
from kvfs.store import Reader

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000

_EVENT_BYTES: Final = 300
"""About what an event takes without its key and value."""


class Kind(enum.StrEnum):
    """What an event is of."""

    SET = "set"
    TTL = "ttl"
    DELETE = "delete"
    EXPIRE = "expire"


class Omitted(enum.StrEnum):
    """Why an event has no value."""

    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    TOO_LARGE = "too_large"


class Lost(enum.StrEnum):
    """Why a cursor leads nowhere: the `reason` of a `ChangeCursorExpired`."""

    CURSOR_EXPIRED = "cursor_expired"
    DATABASE_REPLACED = "database_replaced"


class Event(NamedTuple):
    """An op, and where the next one is found; the value where it was asked for and is known."""

    op: Op
    cursor: Cursor
    value: bytes | None = None
    omitted: Omitted | None = None

    @property
    def kind(self) -> Kind:
        """What the op did to the key, in a word."""
        if self.op.op_type is OpType.EXPIRE:
            return Kind.EXPIRE
        if self.op.entry is None:
            return Kind.DELETE
        return Kind.TTL if self.op.op_type in (OpType.EXPIRE_SET, OpType.PERSIST) else Kind.SET


@dataclass(frozen=True, slots=True)
class ChangesQuery:
    """Which events: ops after `since` of keys under `prefix`, with their values if `values`.

    A page ends after `limit` events, or with the one that fills `max_bytes` of memory, or where the seqs
    reach a multiple of `stride`: who reads from elsewhere meets it there, and can share what follows.
    """

    since: Cursor
    prefix: str = ""
    limit: int = LIMIT_DEFAULT
    values: bool = False
    max_bytes: int = 8 << 20
    stride: int = 1 << 16


class Place(NamedTuple):
    """A place in the log to read on from, and the oldest one there is."""

    cursor: Cursor
    oldest: Cursor


@dataclass(frozen=True, slots=True)
class Changes:
    """Events in order; `next` is where to read on, and `oldest` from where it could be read.

    `has_more`: the log goes on at `next`, perhaps with ops of other keys alone. `unfinished`: it has ops that
    the entries do not show yet, and which are no events until then.
    """

    events: tuple[Event, ...]
    next: Cursor
    oldest: Cursor
    has_more: bool = False
    unfinished: bool = False


def place(reader: Reader, since: Cursor | None) -> Place:
    """Where to read on from `since`, or with None from now on.

    Raises `ChangeCursorExpired`, with `reason` (see `Lost`), `oldest_cursor` and `cursor`, the present place,
    where the log no longer reaches back so far, or is another one: the file was replaced, or was restored
    to before this cursor.
    """
    log_id, pruned = reader.log_id(), reader.pruned_seq()
    now = Cursor(log_id, reader.tail()[0])
    oldest = Cursor(log_id, pruned)
    if since is None:
        return Place(now, oldest)
    if not since.log_id:
        since = Cursor(log_id, 0)  # from before there was a log
    if since.log_id != log_id or since.seq > reader.last_seq():
        lost, message = Lost.DATABASE_REPLACED, "The cursor is of another log: the database was replaced"
    elif since.seq < pruned:
        lost, message = Lost.CURSOR_EXPIRED, "The log was pruned beyond the cursor"
    else:
        return Place(since, oldest)
    raise ChangeCursorExpired(message, reason=lost, oldest_cursor=str(oldest), cursor=str(now))


def changes(reader: Reader, query: ChangesQuery) -> Changes:
    """The events after a cursor, some of them; raises `ChangeCursorExpired`."""
    since, oldest = place(reader, query.since)
    tail = reader.tail()[0]
    through = min(tail, (since.seq // query.stride + 1) * query.stride)
    ops = reader.span(
        after=since.seq,
        through=through,
        start=query.prefix,
        end=successor(query.prefix),
        limit=query.limit,
    )
    events: list[Event] = []
    size = 0
    for op in ops:
        event = _event(reader, op, since.log_id, values=query.values)
        events.append(event)
        size += _EVENT_BYTES + len(op.key) + len(event.value or b"")
        if size >= query.max_bytes:
            break
    cut = len(events) < len(ops) or len(events) == query.limit
    end = events[-1].op.seq if cut and events else max(since.seq, through)
    return Changes(
        events=tuple(events),
        next=Cursor(since.log_id, end),
        oldest=oldest,
        has_more=end < tail,
        unfinished=tail < reader.last_seq(),
    )


def _event(reader: Reader, op: Op, log_id: str, *, values: bool) -> Event:
    cursor = Cursor(log_id, op.seq)
    if not values or op.entry is None:
        return Event(op, cursor)
    if op.entry.size > INLINE_MAX_BYTES:
        return Event(op, cursor, omitted=Omitted.TOO_LARGE)
    if not op.recorded:
        return _present(reader, op, cursor)
    whole = reader.op(op.key, op.op_number)
    assert whole is not None
    assert whole.entry is not None
    return _with_value(op, cursor, whole.entry)


def _present(reader: Reader, op: Op, cursor: Cursor) -> Event:
    """The event of an op whose value the log does not have."""
    bounds = reader.bounds(op.key)
    if bounds is not None and bounds[1] > op.op_number:
        return Event(op, cursor, omitted=Omitted.SUPERSEDED)
    entries = reader.page(op.key, successor(op.key), limit=1, values=True)
    if not entries or entries[0].key != op.key:
        return Event(op, cursor, omitted=Omitted.EXPIRED)
    return _with_value(op, cursor, entries[0])


def _with_value(op: Op, cursor: Cursor, entry: Entry) -> Event:
    # What is not too large for an event is no file either.
    assert isinstance(entry.value, bytes)
    return Event(op, cursor, entry.value)
