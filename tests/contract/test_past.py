"""Reads of the past, and writes that leave none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import nasty
from tests.contract.driver import Driver, Item, StoreError, refused


def gone_at(store: Driver, key: str, at_ns: int) -> bool:
    try:
        store.get_at(key, at_ns)
    except StoreError as error:
        if error.code in ("KEY_NOT_FOUND", "KEY_EXPIRED"):
            return True
        raise
    return False


def test_a_key_is_as_it_was_at_a_time(store: Driver) -> None:
    moments = [store.now_ns()]
    for number in range(5):
        store.set("k", str(number).encode(), content_type=f"text/x{number}")
        moments.append(store.now_ns())
    store.delete("k")
    moments.append(store.now_ns())
    assert gone_at(store, "k", moments[0])
    for number in range(5):
        then = store.get_at("k", moments[number + 1])
        assert (then.value, then.content_type) == (str(number).encode(), f"text/x{number}")
        assert then.etag == str(number + 1)
    assert gone_at(store, "k", moments[6])
    assert gone_at(store, "never", moments[6])


def test_values_of_the_past_are_exact_whatever_they_are(store: Driver) -> None:
    values = [b"", b"\0", b"\xff", nasty.noise(300_000), "é".encode()]
    moments = []
    for value in values:
        store.set("k", value)
        moments.append(store.now_ns())
    store.set("k", b"now")
    assert [store.get_at("k", at_ns).value for at_ns in moments] == values


def test_every_change_has_its_place_in_the_past(store: Driver) -> None:
    moments = []
    changes: list[Callable[[], object]] = [
        lambda: store.set("k", b"[1]"),
        lambda: store.push("k", "2"),
        lambda: store.pop("k"),
        lambda: store.remove("k", index=0),
        lambda: store.set("k", b"7"),
        lambda: store.incr("k"),
        lambda: store.decr("k", 5),
        lambda: store.expire("k", 100),
    ]
    for change in changes:
        change()
        moments.append(store.now_ns())
    past = [store.get_at("k", at_ns).value for at_ns in moments]
    assert past == [b"[1]", b"[1,2]", b"[1]", b"[]", b"7", b"8", b"3", b"3"]


def test_a_list_of_the_past_has_the_keys_that_there_were(store: Driver) -> None:
    store.batch_set([Item("a", "1"), Item("b/c", "1"), Item("b/d", "1")])
    first = store.now_ns()
    store.delete("b/c")
    store.set("z", b"1")
    second = store.now_ns()
    assert store.list_at(0).keys == []
    assert store.list_at(first).keys == ["a", "b/c", "b/d"]
    assert store.list_at(second).keys == ["a", "b/d", "z"]
    assert store.list_at(first, prefix="b/").keys == ["b/c", "b/d"]
    assert store.list_at(first, limit=2).keys == ["a", "b/c"]
    assert store.list_at(first).candidate_truncated is False


def test_without_history_there_is_a_gap_until_the_next_recorded_op(store: Driver) -> None:
    store.set("k", b"1")
    before = store.now_ns()
    assert store.set("k", b"2", history=False).op_number == 2
    assert store.get("k").value == b"2"
    inside = store.now_ns()
    store.set("k", b"3")
    after = store.now_ns()
    assert store.get_at("k", before).value == b"1"
    with refused("TIME_TRAVEL_GAP", "Time-travel chain gap detected for the requested timestamp"):
        store.get_at("k", inside)
    assert store.get_at("k", after).value == b"3"
    past = store.list_at(inside)
    assert (past.keys, past.gap_keys) == ([], ["k"])
    assert store.list_at(after).keys == ["k"]
    assert store.op_number("k") == 3


def test_a_delete_without_history_is_a_gap_too(store: Driver) -> None:
    store.set("k", b"1")
    assert store.delete("k", history=False).op_number == 2
    inside = store.now_ns()
    assert not store.has("k")
    assert store.all_keys() == []
    with refused("TIME_TRAVEL_GAP"):
        store.get_at("k", inside)
    assert store.list_at(inside).gap_keys == ["k"]
    assert store.set("k", b"2").op_number == 3
    assert store.get_at("k", store.now_ns()).value == b"2"


@pytest.mark.parametrize(
    "value", [b"", b"x", b"\xff\0", nasty.noise(300_000)], ids=["empty", "x", "bytes", "large"]
)
def test_what_was_written_without_history_is_read_as_any_other(store: Driver, value: bytes) -> None:
    store.set("k", value, history=False, ttl=100)
    assert store.get("k").value == value
    assert store.list(values=True).items[0].value == value
    assert store.set("k", b"new", if_match_etag="1").op_number == 2


def test_counters_and_batches_may_go_without_history(store: Driver) -> None:
    store.incr("n", history=False)
    store.batch_set([Item("a", "1"), Item("b", "2")], history=False)
    inside = store.now_ns()
    assert store.list_at(inside).gap_keys == ["a", "b", "n"]
    assert store.incr("n").number == 2
    assert store.get("a").value == b"1"


def test_the_past_does_not_change_when_the_present_does(store: Driver) -> None:
    store.set("a/b", b"old")
    then = store.now_ns()
    store.set("a", b"beside")
    store.set("a/b", b"new")
    store.delete("a")
    store.delete("a/b")
    assert store.get_at("a/b", then).value == b"old"
    assert store.list_at(then).keys == ["a/b"]
    assert store.all_keys() == []
