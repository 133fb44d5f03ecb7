"""Pruning as the disk and the engine see it: space, blobs, retention in the background, deadlines."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from kvfs.config import Config
from kvfs.errors import DeadlineExceeded, Overloaded, TimeTravelGap
from kvfs.handle import Handle
from kvfs.model import KEEP_EVERYTHING, BatchSet, FileValue, Retention, Set
from tests import nasty
from tests.clocks import HurriedClock
from tests.engine.place import TABLE, Place, text
from tests.polling import eventually

WAIT_S = 20.0
AT_ONCE = Config(retention_grace_s=0)
LARGE_BYTES = 1_500_000
KEYS, TIMES, SIZE_BYTES = 20, 40, 5000


def fill(store: Handle, *, keys: int, times: int, size: int = 10) -> None:
    """Set so many keys so often."""
    for time_number in range(times):
        value = nasty.noise(size - 4) + b"%04d" % time_number
        for start in range(0, keys, 100):
            names = [f"k{number:04}" for number in range(start, min(start + 100, keys))]
            store.apply(BatchSet(tuple(text(name, value) for name in names)))
    # This removes nothing, and makes a folder's files durable: until then their ops may not go.
    store.prune(before_ns=0)


def left_of(store: Handle, key: str) -> list[int]:
    """The op numbers that the log has of a key."""
    told = store.history(key, limit=1000, newest=False)
    return [operation.op.op_number for operation in told.operations]


def set_large(store: Handle, key: str, value: bytes) -> None:
    with store.upload() as file:
        os.pwrite(file.fd, value, 0)
        file.size = len(value)
        store.set(key, file)


def blobs_in(place: Place) -> set[str]:
    return {path.name for path in place.log_file.parent.glob("*.blobs/*/*")}


def filled_size(place: Place) -> int:
    """Fill the store; what the file with its log takes then."""
    with place.store() as store:
        fill(store, keys=KEYS, times=TIMES, size=SIZE_BYTES)
    return place.log_file.stat().st_size


# --- space -------------------------------------------------------------------------------------------


def test_a_pruned_log_gives_its_space_back(place: Place) -> None:
    before = filled_size(place)
    with place.store() as store:
        pruned = store.prune(keep_last=2)
        after = place.log_file.stat().st_size
        assert pruned.removed == KEYS * (TIMES - 2)
        assert after < before / 4
        assert pruned.freed_bytes == before - after
        assert pruned.free_bytes == 0
        assert store.get("k0007").size == SIZE_BYTES
    assert place.log_file.stat().st_size <= after


def test_a_file_that_cannot_shrink_fills_its_free_space_again(place: Place) -> None:
    place.log_file.parent.mkdir(exist_ok=True)
    place.sql("CREATE TABLE mine (a)", "INSERT INTO mine VALUES (1)")
    before = filled_size(place)
    with place.store() as store:
        pruned = store.prune(keep_last=2)
        assert pruned.freed_bytes == 0
        assert pruned.free_bytes > before / 2
        fill(store, keys=KEYS, times=TIMES // 2, size=SIZE_BYTES)
    assert place.log_file.stat().st_size <= before


def test_values_that_nothing_names_any_more_are_removed(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    values = [nasty.noise(LARGE_BYTES + number) for number in range(3)]
    with place.store() as store:
        for value in values:
            set_large(store, "a", value)
        set_large(store, "b", values[0])
        store.set("b", b"small")
        assert len(blobs_in(place)) == 3
        pruned = store.prune(keep_last=1)
        assert (pruned.removed, len(blobs_in(place))) == (3, 1)
        assert pruned.freed_bytes >= len(values[0]) + len(values[1])
        entry = store.get("a")
        assert isinstance(entry.value, FileValue)
        with entry.value as file:
            assert file.read() == values[2]
    place.check()


def test_a_value_that_another_key_names_stays(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    value = nasty.noise(LARGE_BYTES)
    with place.store() as store:
        set_large(store, "a", value)
        set_large(store, "b", value)
        store.set("a", b"small")
        assert store.prune(keep_last=1).removed == 1
        assert len(blobs_in(place)) == 1
        store.set("b", b"small")
        assert store.prune(keep_last=1).removed == 1
        assert blobs_in(place) == set()
    place.check()


def test_values_that_a_crash_has_left_are_cleared(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    with place.store() as store:
        set_large(store, "a", nasty.noise(LARGE_BYTES))
    left = place.log_file.parent / "things.blobs/00" / ("0" * 64)
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x" * 1000)
    with place.store() as store:
        assert store.prune(keep_last=1).freed_bytes >= 1000
    assert not left.exists()
    assert len(blobs_in(place)) == 1
    place.check()


def test_a_large_value_that_is_pruned_while_it_is_read_is_whole_or_a_gap(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    value = nasty.noise(LARGE_BYTES)
    ended = threading.Event()
    with place.store() as store:

        def read(number: int) -> int:
            gaps = 0
            while not ended.is_set():
                try:
                    op = store.snapshot("a", number)
                except TimeTravelGap:
                    gaps += 1
                    continue
                assert op.entry is not None
                assert isinstance(op.entry.value, FileValue)
                with op.entry.value as file:
                    assert file.read() == value + b"%d" % number
            return gaps

        for number in range(1, 9):
            set_large(store, "a", value + b"%d" % number)
        with ThreadPoolExecutor(4) as pool:
            reading = [pool.submit(read, number) for number in range(1, 5)]
            try:
                for keep_last in range(8, 3, -1):
                    store.prune(keep_last=keep_last)
            finally:
                ended.set()
        assert all(each.result() >= 0 for each in reading)
    place.check()


# --- deadlines and locks -----------------------------------------------------------------------------


def test_a_pruning_that_has_not_begun_in_time_has_done_nothing(place: Place) -> None:
    with place.store() as store:
        fill(store, keys=1, times=5)
        with pytest.raises(DeadlineExceeded):
            store.prune(keep_last=1, deadline=time.monotonic() - 1)
        with place.locked(), pytest.raises((DeadlineExceeded, Overloaded)):
            store.prune(keep_last=1, deadline=time.monotonic() + 0.2)
        assert left_of(store, "k0000") == [1, 2, 3, 4, 5]


def test_what_is_cut_off_by_its_deadline_says_so_and_can_be_gone_on_with(place: Place) -> None:
    with place.store() as store:
        for _ in range(100):
            store.set_many([text("hot")] * 100)
        removed = rounds = 0
        budget_s = 0.005
        while True:
            try:
                pruned = store.prune(keep_last=1, deadline=time.monotonic() + budget_s)
            except DeadlineExceeded:
                budget_s *= 2
                continue
            rounds += 1
            removed += pruned.removed
            assert pruned.stopped_by in (None, "DEADLINE_EXCEEDED")
            if pruned.stopped_by is None:
                break
        assert removed == 9999
        assert rounds > 1


# --- retention ---------------------------------------------------------------------------------------


def test_retention_by_count_is_enforced_in_the_background(place: Place) -> None:
    with place.store(config=AT_ONCE) as store:
        fill(store, keys=30, times=10)
        store.set_retention(keep_last=3)
        eventually(lambda: left_of(store, "k0000") == [8, 9, 10], WAIT_S, "the first pass")
        eventually(lambda: left_of(store, "k0029") == [8, 9, 10], WAIT_S, "the first pass")
        fill(store, keys=30, times=2)
        eventually(lambda: left_of(store, "k0029") == [10, 11, 12], WAIT_S, "what came later")


def test_retention_by_age_keeps_what_was_within_it(place: Place) -> None:
    clock = HurriedClock()
    with place.store(config=AT_ONCE, clock=clock) as store:
        fill(store, keys=2, times=3)
        store.set("k0001", b"last")
        store.set_retention(max_age_s=3600)
        clock.hurry(3000)
        within = clock()
        fill(store, keys=1, times=2)
        clock.hurry(3000)
        eventually(lambda: left_of(store, "k0001") == [4], WAIT_S, "what is old is pruned")
        eventually(lambda: left_of(store, "k0000") == [3, 4, 5], WAIT_S, "what is old is pruned")
        assert store.get_at("k0000", within).op_number == 3
        clock.hurry(3000)
        eventually(lambda: left_of(store, "k0000") == [5], WAIT_S, "what has become old is pruned too")
        with pytest.raises(TimeTravelGap):
            store.get_at("k0000", within)


def test_what_either_rule_of_a_retention_keeps_stays(place: Place) -> None:
    clock = HurriedClock()
    with place.store(config=AT_ONCE, clock=clock) as store:
        store.set_retention(keep_last=4, max_age_s=1000)
        fill(store, keys=2, times=6)
        clock.hurry(2000)
        fill(store, keys=1, times=2)
        eventually(lambda: left_of(store, "k0001") == [3, 4, 5, 6], WAIT_S, "the older ones of the second")
        eventually(lambda: left_of(store, "k0000") == [5, 6, 7, 8], WAIT_S, "the older ones of the first")
        # New ops push out old ones at once, and those that are as new stay.
        fill(store, keys=1, times=8)
        eventually(lambda: left_of(store, "k0000")[0] == 6, WAIT_S, "only the last of the old ones stays")
        assert left_of(store, "k0000") == [*range(6, 17)]


def test_retention_leaves_what_is_younger_than_the_grace(place: Place) -> None:
    clock = HurriedClock()
    with place.store(config=Config(retention_grace_s=100), clock=clock) as store:
        store.set_retention(keep_last=1)
        fill(store, keys=1, times=4)
        clock.hurry(60)
        fill(store, keys=1, times=2)
        clock.hurry(60)
        eventually(lambda: left_of(store, "k0000") == [4, 5, 6], WAIT_S, "all before the last old one")


def test_retention_is_enforced_also_after_the_store_was_closed(place: Place) -> None:
    clock = HurriedClock()
    with place.store(config=AT_ONCE, clock=clock) as store:
        store.set_retention(max_age_s=50)
        fill(store, keys=3, times=4)
    clock.hurry(100)
    for expected in ([4], [6]):
        with place.store(config=AT_ONCE, clock=clock) as store:
            assert store.retention() == Retention(max_age_s=50)
            eventually(lambda left=expected: left_of(store, "k0002") == left, WAIT_S, "it is enforced")  # type: ignore[misc]
            fill(store, keys=3, times=2)
            clock.hurry(100)


def test_without_retention_nothing_is_ever_pruned(place: Place) -> None:
    clock = HurriedClock()
    with place.store(config=AT_ONCE, clock=clock) as store:
        store.set_retention(keep_last=1)
        fill(store, keys=1, times=2)
        eventually(lambda: left_of(store, "k0000") == [2], WAIT_S, "it is enforced")
        store.set_retention(keep_last=None)
        assert store.retention() == KEEP_EVERYTHING
        fill(store, keys=1, times=3)
        clock.hurry(10**6)
        store.retain(time.monotonic() + 1)
        assert left_of(store, "k0000") == [2, 3, 4, 5]


def test_enforcing_a_retention_looks_again_only_at_what_came_since(place: Place) -> None:
    clock = HurriedClock()
    with place.store(config=AT_ONCE, clock=clock) as store:
        fill(store, keys=50, times=2)
        store.set_retention(keep_last=1)
        eventually(lambda: left_of(store, "k0049") == [2], WAIT_S, "the first pass")
        store.retain(time.monotonic() + WAIT_S)
        commits = place.commits()
        for _ in range(5):
            store.retain(time.monotonic() + 1)
        assert place.commits() == commits
        fill(store, keys=20, times=1)
        clock.hurry(1)
        eventually(lambda: left_of(store, "k0019") == [3], WAIT_S, "what came since")


def test_retention_gives_space_back_too(place: Place) -> None:
    before = filled_size(place)
    with place.store(config=AT_ONCE) as store:
        store.set_retention(keep_last=1)
        eventually(lambda: place.log_file.stat().st_size < before / 2, WAIT_S, "the file shrinks")


def test_a_log_of_before_there_was_pruning_can_be_pruned(place: Place) -> None:
    with place.store() as store:
        fill(store, keys=3, times=4)
    place.sql("DROP TABLE IF EXISTS kvfs_retention")
    with place.store() as store:
        assert store.retention() == KEEP_EVERYTHING
        assert store.prune(keep_last=2).removed == 6
        assert store.set_retention(keep_last=2) == Retention(keep_last=2)
        assert left_of(store, "k0000") == [3, 4]


def test_sets_of_many_sizes_are_pruned_whatever_they_take(place: Place) -> None:
    with place.store() as store:
        for size in (0, 10, 5_000, 200_000, 1 << 20, 900_000, 7):
            store.set_many([Set("k", b"x" * size, "text/plain")])
        pruned = store.prune(keep_last=1)
        assert (pruned.removed, pruned.keys, pruned.pruned_seq) == (6, 1, 6)
        assert left_of(store, "k") == [7]


def test_a_retention_that_another_process_changes_is_not_enforced_any_more(table: Place) -> None:
    clock = HurriedClock()
    engine = table.engine(config=Config(retention_grace_s=100), clock=clock)
    with engine, engine.lease(table.db, TABLE, create=True) as store, closing(table.connect()) as another:
        store.set_retention(keep_last=1)
        fill(store, keys=1, times=6)
        another.execute("BEGIN IMMEDIATE")
        # All has become old at once; the step that is to remove it waits for the lock.
        clock.hurry(200)
        eventually(lambda: engine.status().open[0].queued > 0, WAIT_S, "it waits")
        another.execute("UPDATE kvfs_retention SET keep_last = 4")
        another.execute("COMMIT")
        eventually(lambda: left_of(store, "k0000") != [*range(1, 7)], WAIT_S, "the new one is enforced")
        assert left_of(store, "k0000") == [3, 4, 5, 6]
