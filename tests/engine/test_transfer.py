"""Exports and imports between stores of both kinds, whatever has happened in them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfs.config import Config
from kvfs.errors import InvalidParameters, KvfsError, PayloadTooLarge
from kvfs.handle import Handle
from kvfs.model import INLINE_MAX_BYTES, Entry, FileValue, OnConflict, Op, value_bytes
from kvfs.transfer.blocks import Splitter, stream
from kvfs.transfer.format import Header, Record, header_line, parse_entry, parse_op
from tests.clocks import HurriedClock
from tests.engine.place import TABLE, Place, text

KINDS = [False, True]
KEYS = ["a", "a/b", "b", "%value", "é"]

keys = st.sampled_from(KEYS)
values = st.binary(max_size=3)
ops = st.lists(
    st.one_of(
        st.tuples(
            st.just("set"), keys, st.binary(max_size=3), st.booleans(), st.sampled_from([None, 500, 10**6])
        ),
        st.tuples(st.just("large"), keys, st.booleans()),
        st.tuples(st.just("delete"), keys, st.booleans()),
        st.tuples(st.just("incr"), keys),
        st.tuples(st.just("expire"), keys),
        st.tuples(st.just("persist"), keys),
        st.tuples(st.just("rollback"), keys),
        st.just(("pass",)),
        st.tuples(st.just("prune"), st.integers(1, 3)),
        st.tuples(st.just("outside"), values),
    ),
    max_size=25,
)


def act(store: Handle, place: Place, clock: HurriedClock, op: tuple[Any, ...]) -> None:
    """Do what the op says; what the store refuses is as good."""
    with suppress(KvfsError):
        match op:
            case "set", key, value, history, ttl_s:
                store.set(key, value, history=history, ttl_s=ttl_s)
            case "large", key, history:
                store.set(key, b"large " * 200_000, history=history)
            case "delete", key, history:
                store.delete(key, history=history)
            case "incr", key:
                store.incr(key)
            case "expire", key:
                store.expire(key, 500)
            case "persist", key:
                store.persist(key)
            case "rollback", key:
                store.rollback(key)
            case ("pass",):
                # By far more, or less, than any TTL: how long the test takes makes no difference.
                clock.hurry(1000)
            case "prune", count:
                store.prune(keep_last=count)
            case "outside", value if place.directory:
                (place.path / TABLE).mkdir(exist_ok=True)
                (place.path / TABLE / "b").write_bytes(value)
            case "outside", value:
                store.come_into_being()
                place.sql(f"UPDATE {TABLE} SET value = x'{value.hex()}' WHERE key = 'b'")


def told(data: bytes) -> tuple[Header, list[Record]]:
    """The first line of a stream, and its records."""
    splitter = Splitter()
    lines = [line for block in splitter.feed(data) for line in block.lines]
    splitter.finish()
    assert splitter.header is not None
    parse = parse_op if splitter.header.history else parse_entry
    return splitter.header, [parse(line) for line in lines]


def exported(store: Handle, *, history: bool) -> bytes:
    return b"".join(store.export(history=history))


def all_told(store: Handle) -> dict[str, tuple[Any, ...]]:
    """What a store says of each key's past and present."""
    found = {}
    for key in KEYS:
        with suppress(KvfsError):
            page = store.history(key, limit=1000)
            found[key] = tuple(_compared(each.op) for each in page.operations), _present(store, key)
    return found


def _compared(op: Op) -> Op:
    """An op as tests compare it: with its value in memory."""
    if op.entry is None or op.entry.value is None:
        return op
    return op._replace(entry=op.entry.with_value(value_bytes(op.entry.value)))


def _present(store: Handle, key: str) -> Entry | None:
    entry = store.get_many([key])[key]
    return None if entry is None else entry._replace(sha256=None)


# --- whatever has happened ---------------------------------------------------------------------------


@pytest.mark.parametrize("source_kind", KINDS, ids=["from table", "from directory"])
@pytest.mark.parametrize("target_kind", KINDS, ids=["to table", "to directory"])
@settings(max_examples=12, deadline=None)
@given(done=ops, block_records=st.integers(1, 4), cut=st.integers(0, 30))
def test_whatever_has_happened_is_the_same_in_another_store(
    source_kind: bool, target_kind: bool, done: list[tuple[Any, ...]], block_records: int, cut: int
) -> None:
    """Also where an import was cut off after any block, and the store closed."""
    clock = HurriedClock()
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "one").mkdir()
        (Path(home) / "other").mkdir()
        source, target = (
            Place(Path(home) / "one", directory=source_kind),
            Place(Path(home) / "other", directory=target_kind),
        )
        with source.store(clock=clock) as store:
            for op in done:
                act(store, source, clock, op)
            header, records = told(exported(store, history=True))
            here = all_told(store)
        pieces = [*stream(header, records, block_records=block_records)]
        with target.store(clock=clock) as store, suppress(InvalidParameters):
            store.import_(pieces[: cut % len(pieces)])
        if target.log_file.exists() and not header.pruned_seq:
            # What was pruned of keys that are still to come would be missing.
            target.check()
        with target.store(clock=clock) as store:
            assert store.import_(pieces).complete
            assert told(exported(store, history=True))[1] == records
            assert all_told(store) == here
        target.check()


@pytest.mark.parametrize("directory", KINDS, ids=["table", "directory"])
@settings(max_examples=8, deadline=None)
@given(done=ops)
def test_a_store_comes_back_from_the_other_kind(directory: bool, done: list[tuple[Any, ...]]) -> None:
    clock = HurriedClock()
    with tempfile.TemporaryDirectory() as home:
        places = []
        for number, kind in enumerate((directory, not directory, directory)):
            (Path(home) / str(number)).mkdir()
            places.append(Place(Path(home) / str(number), directory=kind))
        with places[0].store(clock=clock) as store:
            for op in done:
                act(store, places[0], clock, op)
            data, plain = exported(store, history=True), told(exported(store, history=False))[1]
            here = all_told(store)
        for place in places[1:]:
            with place.store(clock=clock) as store:
                store.import_([data])
                assert all_told(store) == here
                assert told(exported(store, history=False))[1] == plain
                data = exported(store, history=True)
            place.check()


# --- one moment --------------------------------------------------------------------------------------


def test_an_export_is_what_there_was_at_its_beginning(place: Place) -> None:
    with place.store() as store:
        for number in range(2500):
            store.set(f"k{number:04}", b"before")
        for history in (False, True):
            pieces = store.export(history=history)
            began = [next(pieces), next(pieces)]
            value = b"%d" % history
            for number in range(0, 2500, 3):
                store.set(f"k{number:04}", value)
            store.delete("k2499")
            records = told(b"".join([*began, *pieces]))[1]
            assert len(records) == (2500 if not history else 2500 + 834 + 1 + 1)
            values = {record.key: record for record in records}
            assert len(values) == 2500
            if not history:
                assert {each.value for each in records if isinstance(each, Entry)} == {b"before"}
            store.set("k2499", b"again")


def test_a_gap_that_is_written_meanwhile_has_its_newer_value(place: Place) -> None:
    with place.store() as store:
        for number in range(1500):
            store.set(f"k{number:04}", b"old", history=False)
        pieces = store.export()
        began = [next(pieces)]
        store.set("k1499", b"newer", history=False)
        store.delete("k1498")
        records = [each for each in told(b"".join([*began, *pieces]))[1] if isinstance(each, Entry)]
        assert {each.value for each in records[:-2]} == {b"old"}
        assert records[-1].value == (b"newer" if place.directory else b"old")
        assert [each.key for each in records[-2:]] == ["k1497" if place.directory else "k1498", "k1499"]


def test_an_export_that_is_not_gone_through_lets_go_of_the_store(place: Place) -> None:
    with place.store() as store:
        store.set("a", b"1")
        pieces = store.export()
        next(pieces)
        pieces.close()
        store.set("a", b"2")
        assert [
            each.value for each in told(exported(store, history=False))[1] if isinstance(each, Entry)
        ] == [b"2"]


# --- limits ------------------------------------------------------------------------------------------


def test_a_value_over_the_limit_is_refused_with_its_line(place: Place) -> None:
    with place.store() as store:
        store.set("a", b"1")
        store.set("b", b"x" * 2000)
        data = [*store.export()]
    with (
        place.store(config=Config(max_value_bytes=1000)) as store,
        pytest.raises(PayloadTooLarge, match="line 3"),
    ):
        store.import_(data, on_conflict=OnConflict.REPLACE)


def test_a_line_without_an_end_is_not_kept(place: Place) -> None:
    with place.store(config=Config(max_value_bytes=1000)) as store:
        importer = store.importer()
        importer.feed(header_line(Header("x", TABLE, directory=False, history=False)))
        for _ in range(10):
            importer.feed(b"x" * 100_000)
        with pytest.raises(InvalidParameters, match="longer"):
            importer.feed(b"x" * 100_000)


def test_large_values_come_over(place: Place, tmp_path: Path) -> None:
    large, odd = b"x" * (3 * INLINE_MAX_BYTES), bytes(range(256)) * 5000
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other", directory=not place.directory)
    with place.store() as store, other.store() as target:
        store.set("large", large)
        store.set("odd", odd)
        store.set("controls", b"\x01" * 100_000)
        data = exported(store, history=True)
        assert len(data) < 2 * (len(large) + len(odd) + 100_000)
        target.import_([data])
        for key, value in (("large", large), ("odd", odd), ("controls", b"\x01" * 100_000)):
            found = target.get(key).value
            assert found is not None
            assert value_bytes(found) == value
            if isinstance(found, FileValue):
                found.close()
    other.check()


def _entries(count: int) -> Iterator[Entry]:
    for number in range(count):
        yield Entry(f"k{number:03}", b"v", 1, "text/plain", 0, 0, None, 0)


def test_an_import_without_history_is_written_beside_others(place: Place) -> None:
    with place.store() as store:
        importer = store.importer(OnConflict.REPLACE)
        header = Header("x", TABLE, directory=False, history=False)
        for piece in stream(header, _entries(500), block_records=50):
            importer.feed(piece)
            store.apply(text("other"))
        assert importer.finish().imported == 500
        assert store.history("other").total == 12
