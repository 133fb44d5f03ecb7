"""The op-log's look-ups by time against a scan, also where ops were pruned; and that values come back."""

from __future__ import annotations

from collections.abc import Iterator

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfs import oplog
from kvfs.errors import DatabaseError
from kvfs.model import Entry, Op, OpType, Origin, value_hash
from kvfs.oplog import OpLog
from tests import nasty

LOG = OpLog("t")
KEYS = ["a", "a/b", "b", "é"]


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    """A database with an empty log."""
    connection = apsw.Connection(":memory:")
    LOG.create(connection, "identity")
    yield connection
    connection.close()


def op_of(seq: int, key: str, number: int, ts_ns: int, value: bytes | None = b"x") -> Op:
    entry = None
    if value is not None:
        entry = Entry(key, value, len(value), "text/plain", 1, 2, None, number, value_hash(value))
    op_type = OpType.DELETE if value is None else OpType.SET
    return Op(seq, key, number, op_type, Origin.API, ts_ns, entry)


def without_value(op: Op) -> Op:
    return op if op.entry is None else op._replace(entry=op.entry._replace(value=None))


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Op], list[int]]:
    """Ops as a writer makes them, and the seqs of those that were pruned since."""
    ops: list[Op] = []
    numbers = dict.fromkeys(KEYS, 0)
    ts_ns = draw(st.integers(0, 5))
    for seq in range(1, draw(st.integers(0, 40)) + 1):
        key = draw(st.sampled_from(KEYS))
        numbers[key] += 1
        ts_ns += draw(st.sampled_from([0, 0, 1, 2, 10, 10**6]))
        ops.append(op_of(seq, key, numbers[key], ts_ns))
    pruned = draw(st.lists(st.integers(1, max(1, len(ops))), max_size=len(ops)))
    return ops, pruned


@settings(max_examples=150, deadline=None)
@given(logs(), st.data())
def test_the_past_is_found_as_a_scan_finds_it(log: tuple[list[Op], list[int]], data: st.DataObject) -> None:
    ops, pruned = log
    connection = apsw.Connection(":memory:")
    LOG.create(connection, "identity")
    LOG.append(connection, ops)
    connection.executemany('DELETE FROM "kvfs_oplog_t" WHERE seq = ?', [(seq,) for seq in pruned])
    left = [op for op in ops if op.seq not in pruned]
    latest_ns = max((op.ts_ns for op in ops), default=0)
    with pytest.MonkeyPatch.context() as patch:
        # So that there is something to look for in so few ops.
        for name in ("_SCANNED_ROWS", "_SCANNED_NUMBERS"):
            patch.setattr(oplog, name, data.draw(st.sampled_from([1, 2, 5])))
        for ts_ns in {0, latest_ns, latest_ns + 1, data.draw(st.integers(0, latest_ns + 1))}:
            found = max((op.seq for op in left if op.ts_ns <= ts_ns), default=0)
            assert LOG.seq_at(connection, ts_ns) == found
        for seq in {0, len(ops), len(ops) + 5, data.draw(st.integers(0, len(ops) + 1))}:
            for key in [*KEYS, "never"]:
                states = [op for op in left if op.key == key and op.seq <= seq]
                assert LOG.state_at(connection, key, seq) == (without_value(states[-1]) if states else None)
    assert LOG.tail(connection) == ((left[-1].seq, left[-1].ts_ns) if left else (0, 0))
    assert [*LOG.keys(connection, "", None)] == sorted({op.key for op in left}, key=str.encode)
    assert [*LOG.keys(connection, "a", "b")] == sorted({op.key for op in left} & {"a", "a/b"}, key=str.encode)
    since = data.draw(st.integers(0, len(ops)))
    assert LOG.since(connection, since, 5) == [op for op in left if op.seq > since][:5]
    connection.close()


@given(nasty.keys, nasty.values, st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_op_comes_back_as_it_was(key: str, value: bytes, recorded: bool) -> None:
    connection = apsw.Connection(":memory:")
    LOG.create(connection, "identity")
    entry = Entry(key, value, len(value), "a/b; c=d", 5, 6, 7_000_000, 3, value_hash(value))
    op = Op(1, key, 3, OpType.PUSH, Origin.FILE, 123_456_789, entry, recorded, 60)
    LOG.append(connection, [op])
    found = LOG.op(connection, key, 3)
    assert found is not None
    assert found.entry is not None
    assert found.entry.value == (value if recorded else None)
    assert (found.entry.size, found.entry.sha256) == (len(value), value_hash(value))
    assert found[:6] == op[:6]
    assert (found.recorded, found.ttl_s) == (recorded, 60)
    assert LOG.last(connection, key) == (3, OpType.PUSH)
    connection.close()


@pytest.mark.parametrize("op_type", [OpType.DELETE, OpType.EXPIRE])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_tombstone_comes_back_without_an_entry(
    connection: apsw.Connection, op_type: OpType, recorded: bool
) -> None:
    op = Op(1, "k", 1, op_type, Origin.API, 5, None, recorded)
    LOG.append(connection, [op])
    assert LOG.op(connection, "k", 1) == op
    assert LOG.last(connection, "k") == (1, op_type)


def test_a_key_has_one_op_of_a_number(connection: apsw.Connection) -> None:
    LOG.append(connection, [op_of(1, "k", 1, 5)])
    with pytest.raises(apsw.ConstraintError):
        LOG.append(connection, [op_of(2, "k", 1, 5)])


def test_a_log_is_known_by_its_identity(connection: apsw.Connection) -> None:
    assert LOG.log_id(connection) == "identity"
    assert OpLog("T").log_id(connection) == "identity"
    assert OpLog("other").log_id(connection) is None
    connection.execute("UPDATE kvfs_stores SET format = 2")
    with pytest.raises(DatabaseError, match="format 2"):
        LOG.log_id(connection)
    empty = apsw.Connection(":memory:")
    assert LOG.log_id(empty) is None
    empty.close()


def test_keys_are_told_apart_by_case_and_bytes(connection: apsw.Connection) -> None:
    LOG.append(connection, [op_of(1, "k", 1, 1), op_of(2, "K", 1, 2), op_of(3, "k ", 1, 3)])
    assert [*LOG.keys(connection, "", None)] == ["K", "k", "k "]
    assert LOG.last(connection, "K") == (1, OpType.SET)


@settings(max_examples=100, deadline=None)
@given(logs(), st.lists(st.sampled_from([*KEYS, "never"])))
def test_the_last_ops_of_many_keys_are_those_of_each(
    log: tuple[list[Op], list[int]], asked: list[str]
) -> None:
    connection = apsw.Connection(":memory:")
    LOG.create(connection, "identity")
    LOG.append(connection, log[0])
    each = {key: LOG.facts(connection, key) for key in asked}
    assert LOG.last_facts(connection, asked) == {key: op for key, op in each.items() if op is not None}
    connection.close()
