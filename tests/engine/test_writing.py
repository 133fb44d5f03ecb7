"""The writer: what shares a commit, what comes too late, what is refused."""

from __future__ import annotations

import time

import apsw
import pytest

from kvfs.config import Config
from kvfs.errors import DatabaseError, DeadlineExceeded, KeyNotFound, Overloaded, Unavailable
from kvfs.model import Outcome
from kvfs.pending import Pending
from tests import nasty
from tests.clocks import HandClock
from tests.engine.place import TABLE, Place, text, value_of
from tests.polling import eventually

SOON_S = 0.3
AT_ONCE_S = 1.0
WAIT_S = 20.0


def soon(seconds: float = SOON_S) -> float:
    return time.monotonic() + seconds


# --- group commit --------------------------------------------------------------------------------------


def test_writes_that_wait_together_share_a_commit(place: Place) -> None:
    with place.store() as store:
        store.set("first", b"x")
        before = place.commits()
        with place.locked():
            pendings = [store.submit(text(f"k{i}")) for i in range(200)]
        assert [pending.result(WAIT_S).result.op_number for pending in pendings] == [1] * 200
        # What was taken before the others came, the others, and perhaps a checkpoint.
        assert place.commits() - before <= 3
    assert len(place.check()) == 201


def test_writes_of_one_key_in_one_commit_see_each_other(place: Place) -> None:
    with place.store() as store:
        store.set("n", b"0")
        with place.locked():
            pendings = [store.submit(text("n", b"%d" % i)) for i in range(1, 6)]
        assert [pending.result(WAIT_S).result.op_number for pending in pendings] == [2, 3, 4, 5, 6]
    assert [op.value for op in place.check()] == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_one_write_after_another_is_a_commit_each(place: Place) -> None:
    with place.store() as store:
        store.set("first", b"x")
        before = place.commits()
        for i in range(10):
            store.set(f"k{i}", b"x")
        assert 10 <= place.commits() - before <= 11


# --- deadlines, cancelling, the queue ------------------------------------------------------------------


def test_a_write_that_is_taken_after_its_deadline_changes_nothing(place: Place) -> None:
    with place.store() as store:
        store.set("k", b"old")
        with pytest.raises(DeadlineExceeded):
            store.submit(text("k", b"new"), deadline=soon(-1)).result(WAIT_S)
        assert value_of(store, "k") == b"old"
    assert len(place.check()) == 1


def test_while_the_database_is_locked_writes_end_by_their_deadline(place: Place) -> None:
    with place.store() as store:
        store.set("k0", b"old")
        with place.locked():
            began = time.monotonic()
            pendings = [store.submit(text(f"k{i % 3}", b"new"), deadline=soon()) for i in range(50)]
            for pending in pendings:
                with pytest.raises(Unavailable) as refused:
                    pending.result(WAIT_S)
                assert refused.value.code in ("OVERLOADED", "DEADLINE_EXCEEDED")
            assert SOON_S <= time.monotonic() - began < SOON_S + AT_ONCE_S
            assert value_of(store, "k0") == b"old"
        store.set("k1", b"after")
        assert [*store.keys()] == ["k0", "k1"]
    assert [op.value for op in place.check()] == [b"old", b"after"]


def test_a_write_ends_by_its_deadline_also_when_others_in_its_batch_can_wait(place: Place) -> None:
    with place.store() as store:
        store.set("k", b"old")
        with place.locked():
            # While the writer waits for the lock with this one, the next two gather to one batch.
            first = store.submit(text("first"), deadline=soon(0.1))
            patient = store.submit(text("patient"))
            hurried = store.submit(text("hurried"), deadline=soon(2 * SOON_S))
            with pytest.raises(Unavailable):
                first.result(WAIT_S)
            with pytest.raises(Unavailable):
                hurried.result(2 * SOON_S + AT_ONCE_S)
            assert not patient.done()
        assert patient.result(WAIT_S).result.created
        assert [*store.keys()] == ["k", "patient"]


def test_cancelled_writes_never_happen(place: Place) -> None:
    with place.store() as store:
        store.set("k", b"x")
        with place.locked():
            waiting = store.submit(text("waiting"))
            # One that is taken with the write before it cannot be cancelled any more.
            others = [(f"k{i}", store.submit(text(f"k{i}"))) for i in range(100)]
            cancelled = {key for key, pending in others if pending.cancel()}
            last = store.submit(text("last"))
            while not last.cancel():
                last = store.submit(text("last one"))
        waiting.result(WAIT_S)
        store.set("after", b"x")
        written = {key for key, _ in others} - cancelled
        assert {*store.keys()} - {"last"} == {"k", "waiting", "after"} | written


def test_a_write_that_is_waited_for_is_cancelled_at_its_deadline(place: Place) -> None:
    with place.store() as store:
        store.set("k", b"x")
        with place.locked():
            patient = store.submit(text("patient"))
            with pytest.raises(Unavailable):
                store.apply(text("hurried"), deadline=soon())
        patient.result(WAIT_S)
        store.set("after", b"x")
        assert [*store.keys()] == ["after", "k", "patient"]


def test_a_full_queue_refuses_at_once(place: Place) -> None:
    with place.store(config=Config(max_queue=3)) as store:
        store.set("k", b"x")
        with place.locked():
            pendings = [store.submit(text(f"k{i}")) for i in range(3)]
            began = time.monotonic()
            with pytest.raises(Overloaded):
                store.submit(text("one too many"))
            assert time.monotonic() - began < AT_ONCE_S
        for pending in pendings:
            pending.result(WAIT_S)
        store.set("after", b"x")
        assert [*store.keys()] == ["after", "k", "k0", "k1", "k2"]


def test_cancelled_writes_leave_their_places_in_the_queue(table: Place) -> None:
    with table.store(config=Config(max_queue=3)) as store:
        store.set("k", b"x")
        with table.locked():
            for pending in [store.submit(text(f"k{i}")) for i in range(3)]:
                pending.cancel()

        def submitted() -> bool:
            try:
                pendings = [store.submit(text(f"after{i}")) for i in range(3)]
            except Overloaded:
                return False
            return all(pending.result(WAIT_S) for pending in pendings)

        eventually(submitted, WAIT_S, "three places in the queue")


# --- what SQLite refuses -------------------------------------------------------------------------------

REFUSE_BAD = f"CREATE INDEX mine ON {TABLE} (iif(key = 'bad', json(key), NULL))"
"""An index of a user's own, for which there can be no row of this key."""


def test_a_write_that_an_index_refuses_does_not_sink_its_neighbours(table: Place) -> None:
    with table.store() as store:
        store.set("k", b"x")
        table.sql(REFUSE_BAD)
        with table.locked():
            before = [store.submit(text(f"a{i}")) for i in range(5)]
            bad = store.submit(text("bad"))
            after = [store.submit(text(f"b{i}")) for i in range(5)]
        with pytest.raises(DatabaseError):
            bad.result(WAIT_S)
        assert all(pending.result(WAIT_S).result.created for pending in before + after)
        with pytest.raises(KeyNotFound):
            store.get("bad")
        with pytest.raises(DatabaseError):
            store.set("bad", b"x")
        assert len([*store.keys()]) == 11


def test_a_write_that_was_told_it_is_too_late_is_not_tried_again_with_its_neighbours(table: Place) -> None:
    with table.store() as store:
        store.set("k", b"x")
        table.sql(REFUSE_BAD)
        with table.locked():
            first = store.submit(text("first"), deadline=soon(0.1))
            batch: list[Pending[Outcome]] = [
                store.submit(text("hurried"), deadline=soon()),
                store.submit(text("bad")),
                store.submit(text("good")),
            ]
            with pytest.raises(Unavailable):
                first.result(WAIT_S)
            deadline = soon(SOON_S + AT_ONCE_S)
            eventually(
                lambda: batch[0].done() or time.monotonic() > deadline, WAIT_S, "the hurried one's deadline"
            )
        assert batch[2].result(WAIT_S).result.created
        with pytest.raises(DatabaseError):
            batch[1].result(WAIT_S)
        with pytest.raises(Unavailable):
            batch[0].result(WAIT_S)
        assert [*store.keys()] == ["good", "k"]


# --- the clock -----------------------------------------------------------------------------------------


def test_when_the_clock_steps_back_the_times_of_ops_do_not(place: Place) -> None:
    clock = HandClock()
    began_ns = clock.ns
    with place.store(clock=clock) as store:
        store.set("a", b"1")
        clock.move(-100)
        store.set("a", b"2")
        store.set("b", b"1")
        assert value_of(store, "a") == b"2"
        clock.move(200)
        store.set("a", b"3")
    times = [op.ts_ns for op in place.check()]
    assert times == [began_ns, began_ns, began_ns, clock.ns]


def test_after_a_restart_with_a_clock_that_is_behind_the_times_of_ops_go_on(place: Place) -> None:
    clock = HandClock()
    began_ns = clock.ns
    with place.store(clock=clock) as store:
        store.set("a", b"1")
    clock.move(-3600)
    with place.store(clock=clock) as store:
        store.set("a", b"2")
    assert [op.ts_ns for op in place.check()] == [began_ns, began_ns]


# --- memory --------------------------------------------------------------------------------------------


def test_a_large_value_leaves_no_copies_of_itself_in_memory(table: Place) -> None:
    size = 16 << 20
    with table.store() as store:
        store.set("k", b"x")
        before = apsw.memory_used()
        store.set("large", nasty.noise(size))
        store.get("large")
        # Page caches keep a part of it.
        assert apsw.memory_used() - before < size
