"""What pruning takes out of the past, and what it leaves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import nasty
from tests.contract.driver import Driver, Item, Pruned, Was, refused

GAP = "TIME_TRAVEL_GAP"


def numbers(store: Driver, key: str) -> list[int]:
    """The op numbers that are left of a key, the oldest first."""
    told = store.history(key, newest=False, limit=1000)
    left = [op.op_number for op in told.operations]
    assert (told.total, told.oldest) == (len(left), left[0])
    return left


def write(store: Driver, key: str, count: int) -> list[int]:
    """Set a key so many times; the times after each."""
    moments = []
    for number in range(count):
        store.set(key, b"%s %d" % (key.encode(), number + 1))
        moments.append(store.now_ns())
    return moments


# --- the two rules -----------------------------------------------------------------------------------


def test_the_last_operations_of_each_key_stay(store: Driver) -> None:
    for key, count in (("a", 5), ("a/b", 2), ("b", 1), ("c", 9)):
        write(store, key, count)
    assert store.prune(keep_last=2) == Pruned(removed=10, keys=2, complete=True)
    assert [numbers(store, key) for key in ("a", "a/b", "b", "c")] == [[4, 5], [1, 2], [1], [8, 9]]
    assert store.prune(keep_last=2) == Pruned(removed=0, keys=0, complete=True)


def test_what_a_key_was_at_a_time_and_later_stays(store: Driver) -> None:
    moments = write(store, "k", 5)
    store.set("later", b"1")
    assert store.prune(before_ns=moments[2]).removed == 2
    assert numbers(store, "k") == [3, 4, 5]
    assert [store.get_at("k", at_ns).value for at_ns in moments[2:]] == [b"k 3", b"k 4", b"k 5"]
    for at_ns in moments[:2]:
        with refused(GAP):
            store.get_at("k", at_ns)
    assert numbers(store, "later") == [1]


def test_what_either_rule_keeps_stays(store: Driver) -> None:
    first, second = write(store, "a", 6), write(store, "b", 6)
    assert store.prune(before_ns=first[3], keep_last=2).removed == 3
    assert [numbers(store, key) for key in ("a", "b")] == [[4, 5, 6], [*range(1, 7)]]
    assert store.prune(before_ns=second[5], keep_last=2).removed == 5
    assert [numbers(store, key) for key in ("a", "b")] == [[5, 6], [5, 6]]


def test_a_time_to_come_leaves_the_newest_state_of_each_key(store: Driver) -> None:
    write(store, "a", 3)
    write(store, "b", 2)
    store.delete("b")
    assert store.prune(before_ns=store.now_ns() + 10**12).removed == 4
    assert [numbers(store, key) for key in ("a", "b")] == [[3], [3]]
    assert store.get("a").value == b"a 3"


def test_a_time_before_everything_removes_nothing(store: Driver) -> None:
    write(store, "a", 3)
    assert store.prune(before_ns=0) == Pruned(removed=0, keys=0, complete=True)
    assert numbers(store, "a") == [1, 2, 3]


@pytest.mark.parametrize("keep_last", [0, -1, 2**53, True, 1.5, "2"])
def test_what_is_no_number_of_operations_is_refused(store: Driver, keep_last: int) -> None:
    write(store, "a", 3)
    with refused("INVALID_PARAMETERS", "keep_last"):
        store.prune(keep_last=keep_last)
    assert numbers(store, "a") == [1, 2, 3]


def test_without_a_rule_nothing_is_pruned(store: Driver) -> None:
    write(store, "a", 3)
    with refused("INVALID_PARAMETERS", "before, keep_last"):
        store.prune()
    assert numbers(store, "a") == [1, 2, 3]


def test_a_store_without_keys_has_nothing_to_prune(store: Driver) -> None:
    assert store.prune(keep_last=1) == Pruned(removed=0, keys=0, complete=True)
    assert store.all_keys() == []


# --- what is left ------------------------------------------------------------------------------------


def test_the_newest_state_stays_with_all_that_is_told_of_it(store: Driver) -> None:
    write(store, "a", 3)
    store.set("t", b"1", ttl=1000)
    store.expire("t", 2000)
    store.set("gap", b"1")
    store.set("gap", b"2", history=False)
    before = {key: store.get(key) for key in store.all_keys()}
    store.prune(keep_last=1)
    assert {key: store.get(key) for key in store.all_keys()} == before


def test_op_numbers_go_on_also_after_a_deleted_key(store: Driver) -> None:
    write(store, "a", 3)
    store.delete("a")
    store.prune(keep_last=1)
    assert numbers(store, "a") == [4]
    assert store.history("a").operations[0].op_type == "delete"
    assert store.set("a", b"again").op_number == 5
    store.prune(keep_last=1)
    assert store.set("a", b"and again").op_number == 6
    assert numbers(store, "a") == [5, 6]


def test_the_oldest_operation_that_is_left_does_not_say_what_was_before(store: Driver) -> None:
    write(store, "a", 3)
    store.prune(keep_last=2)
    oldest = store.history("a", newest=False).operations[0]
    assert (oldest.op_number, oldest.value, oldest.before) == (2, b"a 2", None)
    assert [op.op_number for op in store.history("a", before=3).operations] == [2]
    assert store.history("a", before=2).operations == []


def test_snapshots_of_what_was_pruned_are_gaps(store: Driver) -> None:
    write(store, "a", 3)
    store.prune(keep_last=1)
    for number in (1, 2):
        with refused(GAP):
            store.snapshot("a", number)
    assert store.snapshot("a", 3) == Was(b"a 3", "text/plain; charset=utf-8")
    with refused("KEY_NOT_FOUND"):
        store.snapshot("a", 4)


def test_reads_of_the_whole_past_name_the_keys_of_which_it_was_pruned(store: Driver) -> None:
    write(store, "a", 2)
    store.set("b", b"1")
    middle = store.now_ns()
    store.set("a", b"new")
    end = store.now_ns()
    store.prune(keep_last=1)
    assert store.list_at(middle).keys == ["b"]
    assert store.list_at(middle).gap_keys == ["a"]
    assert [*store.snapshot_at(middle).keys] == ["b"]
    assert store.snapshot_at(middle).gap_keys == ["a"]
    assert store.diff(middle, end).gap_keys == ["a"]
    assert store.diff(end, store.now_ns()).gap_keys == []
    assert [*store.snapshot_at(end).keys] == ["a", "b"]
    assert store.snapshot_at(end).gap_keys == []


def test_a_rollback_into_what_was_pruned_is_refused_and_changes_nothing(store: Driver) -> None:
    moments = write(store, "a", 4)
    store.set("b", b"1")
    store.prune(keep_last=2)
    with refused(GAP):
        store.rollback("a", 2)
    with refused(GAP) as caught:
        store.rollback_table(moments[1])
    assert caught.value.details["gap_keys"] == ["a"]
    assert store.op_number("a") == 4
    assert store.rollback("a").value == b"a 3"
    assert store.rollback_table(moments[3]).restored == ["a"]
    assert store.get("a").value == b"a 4"


@pytest.mark.parametrize("value", [b"", b"\xff\0", nasty.noise(300_000), nasty.noise(1_500_000)])
def test_values_of_what_is_left_are_exact_whatever_they_are(store: Driver, value: bytes) -> None:
    store.set("a", b"old")
    store.set("a", value)
    moment = store.now_ns()
    store.set("a", value + b"!")
    store.set("b", value)
    store.set("b", b"new")
    store.prune(keep_last=2)
    assert store.get_at("a", moment).value == value
    assert store.snapshot("b", 1).value == value
    store.prune(keep_last=1)
    assert store.get("a").value == value + b"!"
    assert store.rollback_table(store.now_ns()).restored == []
    # What was pruned can be written again.
    store.set("c", value)
    assert store.snapshot("c", 1).value == value


def test_many_operations_of_many_keys_go_in_one_request(store: Driver) -> None:
    keys = [f"k{number:03}" for number in range(700 if not store.directory else 150)]
    for _ in range(3):
        for start in range(0, len(keys), 100):
            store.batch_set([Item(key, "x") for key in keys[start : start + 100]])
    for _ in range(120):
        store.incr("hot")
    assert store.prune(keep_last=1) == Pruned(2 * len(keys) + 119, len(keys) + 1, complete=True)
    assert store.get("hot").value == b"120"
    assert store.list_at(store.now_ns(), limit=10_000).keys == store.all_keys()


def test_only_the_table_that_is_asked_for_is_pruned(store: Driver) -> None:
    other = store.sibling("other")
    write(store, "a", 3)
    write(other, "a", 3)
    store.prune(keep_last=1)
    assert (numbers(store, "a"), numbers(other, "a")) == ([3], [1, 2, 3])
    assert other.prune(keep_last=2).removed == 1
    assert (numbers(store, "a"), numbers(other, "a")) == ([3], [2, 3])


def test_writers_and_readers_lose_nothing_by_a_pruning(store: Driver) -> None:
    for _ in range(20):
        store.batch_set([Item(f"old/{number}", "x") for number in range(30)])
    ended = threading.Event()

    def write_on(me: int) -> int:
        written = 0
        while not ended.is_set() or not written:
            written += 1
            assert store.set(f"new/{me}", b"%d" % written).op_number == written
            assert store.get(f"new/{me}").value == b"%d" % written
        return written

    def prune(_: int) -> int:
        try:
            return sum(store.prune(before_ns=0, keep_last=1).removed for _ in range(5)) + sum(
                store.prune(keep_last=3).removed for _ in range(5)
            )
        finally:
            ended.set()

    with ThreadPoolExecutor(5) as pool:
        pruning = pool.submit(prune, 0)
        counts = [*pool.map(write_on, range(3))]
    assert pruning.result() >= 30 * 17
    for me, count in enumerate(counts):
        assert store.get(f"new/{me}").value == b"%d" % count
        assert numbers(store, f"new/{me}")[-3:] == [*range(max(1, count - 2), count + 1)]
    assert {store.op_number(f"old/{number}") for number in range(30)} == {20}


# --- retention ---------------------------------------------------------------------------------------


def test_a_store_keeps_everything_until_it_is_told_otherwise(store: Driver) -> None:
    store.set("a", b"1")
    assert store.retention() == {"keep_last": None, "max_age_s": None}
    assert store.set_retention(keep_last=5) == {"keep_last": 5, "max_age_s": None}
    assert store.set_retention(max_age_s=60) == {"keep_last": 5, "max_age_s": 60}
    assert store.set_retention(keep_last=None) == {"keep_last": None, "max_age_s": 60}
    assert store.retention() == {"keep_last": None, "max_age_s": 60}
    assert store.set_retention(max_age_s=None) == {"keep_last": None, "max_age_s": None}


def test_each_table_has_its_own_retention(store: Driver) -> None:
    other = store.sibling("other")
    store.set_retention(keep_last=5)
    assert other.set_retention(max_age_s=60) == {"keep_last": None, "max_age_s": 60}
    assert store.retention() == {"keep_last": 5, "max_age_s": None}


@pytest.mark.parametrize("name", ["keep_last", "max_age_s"])
@pytest.mark.parametrize("value", [0, -1, 2**53, False, 1.0, "60", [1]])
def test_what_is_no_retention_is_refused_and_changes_nothing(store: Driver, name: str, value: int) -> None:
    store.set_retention(keep_last=7, max_age_s=70)
    with refused("INVALID_PARAMETERS", name):
        store.set_retention(**{"keep_last": 9, "max_age_s": 90, name: value})
    assert store.retention() == {"keep_last": 7, "max_age_s": 70}


def test_what_followers_may_still_want_stays_whatever_the_retention(store: Driver) -> None:
    write(store, "a", 4)
    store.set_retention(keep_last=1, max_age_s=1)
    write(store, "a", 2)
    store.let_pass(2.5)
    assert numbers(store, "a") == [*range(1, 7)]
