"""Pages of the change feed, over the reference store's reader: every op once and in order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.cursor import Cursor
from kvfs.errors import ChangeCursorExpired
from kvfs.feed import Changes, ChangesQuery, Event, Kind, Lost, Omitted, changes, place
from kvfs.model import INLINE_MAX_BYTES, Entry, Op, OpType, Origin
from kvfs.retention import Standing
from tests.reference import LOG_ID, ReferenceReader

KEYS = ["a", "a/b", "ab", "b", "é", "\U0010ffff"]
START = Cursor(LOG_ID, 0)
TOMBSTONES = (OpType.DELETE, OpType.EXPIRE)


def op_of(
    seq: int, key: str, number: int, op_type: OpType = OpType.SET, *, size: int = 1, recorded: bool = True
) -> Op:
    entry = None
    if op_type not in TOMBSTONES:
        value = b"%d" % seq + b"." * size
        entry = Entry(key, value, len(value), "text/plain", 1, 2, None, number)
    return Op(seq, key, number, op_type, Origin.API, seq, entry, recorded)


@st.composite
def logs(draw: st.DrawFn) -> list[Op]:
    numbers = dict.fromkeys(KEYS, 0)
    ops = []
    for seq in range(1, draw(st.integers(0, 40)) + 1):
        key = draw(st.sampled_from(KEYS))
        numbers[key] += 1
        ops.append(op_of(seq, key, numbers[key], draw(st.sampled_from([*OpType]))))
    return ops


queries = st.builds(
    ChangesQuery,
    since=st.just(START),
    prefix=st.sampled_from(["", "a", "a/", "é", "zz", "\U0010ffff"]),
    limit=st.integers(1, 10),
    values=st.booleans(),
    max_bytes=st.sampled_from([1, 700, 1 << 20]),
    stride=st.integers(1, 50),
)


def pages(reader: ReferenceReader, query: ChangesQuery) -> list[Changes]:
    """The pages from `query.since` to the end."""
    found = [changes(reader, query)]
    while found[-1].has_more:
        assert found[-1].next > query.since
        query = replace(query, since=found[-1].next)
        found.append(changes(reader, query))
    return found


def events(reader: ReferenceReader, query: ChangesQuery) -> list[Event]:
    return [event for each in pages(reader, query) for event in each.events]


@given(logs(), queries, st.integers(0, 40))
def test_pages_of_any_size_from_any_place_tell_every_op_once_and_in_order(
    ops: list[Op], query: ChangesQuery, after: int
) -> None:
    reader = ReferenceReader(ops, now_ns=0)
    query = replace(query, since=Cursor(LOG_ID, min(after, len(ops))))
    expected = [op.seq for op in ops if op.seq > after and op.key.startswith(query.prefix)]
    told = events(reader, query)
    assert [event.op.seq for event in told] == expected
    assert [event.cursor for event in told] == [Cursor(LOG_ID, seq) for seq in expected]
    if query.values:
        values = {op.seq: None if op.entry is None else op.entry.value for op in ops}
        assert [event.value for event in told] == [values[seq] for seq in expected]


@given(logs(), queries, st.data())
def test_whoever_reads_on_from_an_event_gets_what_follows_it(
    ops: list[Op], query: ChangesQuery, data: st.DataObject
) -> None:
    reader = ReferenceReader(ops, now_ns=0)
    told = events(reader, query)
    if told:
        at = data.draw(st.integers(0, len(told) - 1))
        assert events(reader, replace(query, since=told[at].cursor)) == told[at + 1 :]


@given(logs(), queries)
def test_a_page_keeps_its_bounds_and_ends_where_others_meet_it(ops: list[Op], query: ChangesQuery) -> None:
    for each in pages(ReferenceReader(ops, now_ns=0), query):
        assert len(each.events) <= query.limit
        assert len(each.events) <= 1 or query.max_bytes > 1
        full = len(each.events) == query.limit or query.max_bytes < 1 << 20
        assert full or each.next.seq % query.stride == 0 or not each.has_more


@given(logs())
def test_a_cursor_from_before_the_log_leads_to_its_first_op(ops: list[Op]) -> None:
    reader = ReferenceReader(ops, now_ns=0)
    assert changes(reader, ChangesQuery(Cursor("", 0))) == changes(reader, ChangesQuery(START))


def test_ops_are_told_in_four_kinds() -> None:
    told = {op_type: Event(op_of(1, "k", 1, op_type), START).kind for op_type in OpType}
    others = {OpType.DELETE: Kind.DELETE, OpType.EXPIRE: Kind.EXPIRE}
    others |= dict.fromkeys((OpType.EXPIRE_SET, OpType.PERSIST), Kind.TTL)
    assert told == {op_type: others.get(op_type, Kind.SET) for op_type in OpType}
    assert Event(op_of(1, "k", 2, OpType.ROLLBACK)._replace(entry=None), START).kind is Kind.DELETE


def test_a_value_that_was_not_recorded_is_told_while_it_is_the_keys_last() -> None:
    ops = [op_of(1, "a", 1, recorded=False), op_of(2, "a/b", 1), op_of(3, "a", 2, recorded=False)]
    first, _, last = events(ReferenceReader(ops, now_ns=0), ChangesQuery(START, values=True))
    assert (first.value, first.omitted) == (None, Omitted.SUPERSEDED)
    assert (last.value, last.omitted) == (b"3.", None)


def test_a_value_that_was_not_recorded_and_has_expired_is_not_known() -> None:
    op = op_of(1, "a", 1, recorded=False)
    assert op.entry is not None
    dying = op._replace(entry=op.entry._replace(expire_ns=10))
    for ops in ([dying], [dying, op_of(2, "a/b", 1)]):
        told = events(ReferenceReader(ops, now_ns=10), ChangesQuery(START, values=True))
        assert (told[0].value, told[0].omitted) == (None, Omitted.EXPIRED)


def test_a_value_too_large_for_an_event_is_left_out() -> None:
    for recorded in (True, False):
        op = op_of(1, "a", 1, size=INLINE_MAX_BYTES, recorded=recorded)
        (told,) = events(ReferenceReader([op], now_ns=0), ChangesQuery(START, values=True))
        assert (told.value, told.omitted) == (None, Omitted.TOO_LARGE)


def test_without_a_cursor_the_place_is_the_end() -> None:
    reader = ReferenceReader([op_of(1, "a", 1), op_of(2, "a", 2)], now_ns=0)
    assert place(reader, None) == (Cursor(LOG_ID, 2), START)


@pytest.mark.parametrize(
    ("since", "reason"),
    [
        (Cursor(LOG_ID, 1), Lost.CURSOR_EXPIRED),
        (Cursor("", 0), Lost.CURSOR_EXPIRED),
        (Cursor(LOG_ID, 4), Lost.DATABASE_REPLACED),
        (Cursor("ab", 3), Lost.DATABASE_REPLACED),
    ],
)
def test_a_cursor_that_leads_nowhere_is_refused_with_where_to_go_on(since: Cursor, reason: Lost) -> None:
    ops = [op_of(seq, "a", seq) for seq in (1, 2, 3)]
    reader = ReferenceReader(ops, now_ns=0, known=Standing(pruned_seq=2))
    for ask in (lambda: place(reader, since), lambda: changes(reader, ChangesQuery(since))):
        with pytest.raises(ChangeCursorExpired) as caught:
            ask()
        assert caught.value.details == {
            "reason": reason, "oldest_cursor": f"{LOG_ID}.2", "cursor": f"{LOG_ID}.3"
        }  # fmt: skip
    assert [event.op.seq for event in changes(reader, ChangesQuery(Cursor(LOG_ID, 2))).events] == [3]
