"""What one commit makes durable: writes in their order, each for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvfs.errors import CasMismatch, DatabaseError, InvalidParameters, KeyNotFound, KvfsError, PathConflict
from kvfs.handle import Handle
from kvfs.model import BatchDelete, BatchSet, Conditions, Delete, Incr, Outcome, Push, Set, Write
from kvfs.pending import Pending
from tests import nasty
from tests.engine.place import TABLE, Place, text

WAIT_S = 20.0


def queued(place: Place, store: Handle, writes: list[Write]) -> list[Pending[Outcome]]:
    """Writes that wait together, because another program has the lock."""
    with place.locked():
        return [store.submit(write) for write in writes]


def answer(pending: Pending[Outcome]) -> Outcome | KvfsError:
    try:
        return pending.result(WAIT_S)
    except KvfsError as error:
        return error


def test_writes_are_done_in_the_order_in_which_they_came(place: Place) -> None:
    with place.store() as store:
        store.set("first", b"x")
        writes: list[Write] = [text(f"k{number % 7}", b"%d" % number) for number in range(50)]
        for pending in queued(place, store, writes):
            pending.result(WAIT_S)
        assert store.get("k0").value == b"49"
    assert [op.value for op in place.check()[1:]] == [b"%d" % number for number in range(50)]


def test_each_write_sees_what_those_before_it_did(place: Place) -> None:
    with place.store() as store:
        store.set("n", b"0")
        numbers = [each.result(WAIT_S).result.number for each in queued(place, store, [Incr("n")] * 100)]
        assert numbers == [*range(1, 101)]
        writes: list[Write] = [
            Set("k", b"1", "text/plain", conditions=Conditions(exists=False)),
            Set("k", b"2", "text/plain", conditions=Conditions(value=b"1")),
            Set("k", b"3", "text/plain", conditions=Conditions(etags=("2",))),
            Delete("k"),
            Set("k", b"4", "text/plain", conditions=Conditions(exists=False)),
        ]
        numbers = [each.result(WAIT_S).result.op_number for each in queued(place, store, writes)]
        assert numbers == [1, 2, 3, 4, 5]
        assert store.get("k").value == b"4"


def test_a_transaction_that_sqlite_undoes_after_an_error_is_begun_again(place: Place) -> None:
    """As it does when the disk cannot be read: without a transaction each row would be committed at once."""

    def undone(_: object) -> None:
        volume = store._store.volume
        connection = volume._there.state.connection if place.directory else volume.connection  # type: ignore[attr-defined]
        connection.execute("ROLLBACK")
        raise DatabaseError("disk I/O error")

    with place.store() as store:
        store.set("n", b"0")
        with place.locked():
            counted = [store.submit(Incr("n")) for _ in range(3)]
            failing = store._writer.submit(undone)
            counted += [store.submit(Incr("n")) for _ in range(3)]
        with pytest.raises(DatabaseError, match="disk I/O error"):
            failing.result(WAIT_S)
        assert [each.result(WAIT_S).result.number for each in counted] == [1, 2, 3, 4, 5, 6]
        assert store.get("n").value == b"6"
    assert [op.value for op in place.check()] == [b"%d" % number for number in range(7)]


def test_a_bad_write_does_not_sink_its_neighbours(place: Place) -> None:
    with place.store() as store:
        store.set("text", b"text")
        writes: list[Write] = [
            text("a", b"1"),
            Incr("text"),
            Set("a", b"2", "text/plain", conditions=Conditions(value=b"nope")),
            text("b", b"1"),
            Delete("missing"),
            BatchSet((text("a", b"3"), Set("c", b"1", "a/b", conditions=Conditions(exists=True)))),
            Push("text", b"1"),
            BatchDelete(("b", "missing")),
            Incr("a"),
        ]
        kinds = [type(answer(pending)) for pending in queued(place, store, writes)]
        refused = [InvalidParameters, CasMismatch, KeyNotFound, CasMismatch, InvalidParameters]
        assert [kind for kind in kinds if kind is not Outcome] == refused
        assert [*store.keys()] == ["a", "text"]
        assert store.get("a").value == b"2"
    ops = [(op.key, op.op_type) for op in place.check()]
    assert ops == [("text", "set"), ("a", "set"), ("b", "set"), ("b", "delete"), ("a", "incr")]


def test_a_key_that_is_no_file_does_not_sink_its_neighbours(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    with place.store() as store:
        store.set("first", b"1")
        (place.path / TABLE / "z").symlink_to("/")
        writes: list[Write] = [text(key) for key in ("a", "z", "z/below", "b")]
        kinds = [type(answer(pending)) for pending in queued(place, store, writes)]
        assert kinds == [Outcome, PathConflict, PathConflict, Outcome]
        assert [*store.keys()] == ["a", "b", "first"]


def test_writes_to_two_tables_of_a_file_are_committed_together(table: Place) -> None:
    with table.engine() as engine:
        one = engine.lease(table.db, TABLE, create=True)
        other = engine.lease(table.db, "other", create=True)
        with one, other:
            stores = [one.handle, other.handle]
            for store in stores:
                store.set("n", b"0")
            before = table.commits()
            with table.locked():
                waiting = [stores[number % 2].submit(Incr("n")) for number in range(100)]
            numbers = [pending.result(WAIT_S).result.number for pending in waiting]
            assert numbers == [number // 2 + 1 for number in range(100)]
            assert table.commits() - before <= 3


def test_a_failed_write_to_one_table_does_not_sink_those_to_another(table: Place) -> None:
    with table.engine() as engine:
        one = engine.lease(table.db, TABLE, create=True)
        other = engine.lease(table.db, "other", create=True)
        with one, other:
            one.handle.set("first", b"1")
            table.sql("CREATE TABLE other (id)")
            with table.locked():
                waiting = [store.submit(text("k")) for store in (one.handle, other.handle, one.handle)]
            assert [type(answer(pending)) for pending in waiting] == [Outcome, InvalidParameters, Outcome]
            assert one.handle.get("k").op_number == 2


def test_large_values_that_wait_together_are_all_written(place: Place) -> None:
    with place.store() as store:
        store.set("first", b"1")
        value = nasty.noise(4 << 20)
        writes: list[Write] = [text(f"k{number}", value) for number in range(12)]
        for pending in queued(place, store, writes):
            assert pending.result(WAIT_S).result.op_number == 1
        assert len([*store.keys()]) == 13
