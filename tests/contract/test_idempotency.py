"""A write with an idempotency key happens once."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests import nasty
from tests.contract.driver import Driver, Item, Wrote, refused

Write = Callable[[Driver, str | None], object]

WRITES: dict[str, Write] = {
    "set": lambda store, once: store.set("k", b"new", idempotency_key=once),
    "set of a large value": lambda store, once: store.set("k", nasty.noise(300_000), idempotency_key=once),
    "set at a path": lambda store, once: store.set("d", b"1", path="a", idempotency_key=once),
    "delete": lambda store, once: store.delete("k", idempotency_key=once),
    "incr": lambda store, once: store.incr("n", 5, idempotency_key=once),
    "push": lambda store, once: store.push("l", '"x"', idempotency_key=once),
    "pop": lambda store, once: store.pop("l", idempotency_key=once),
    "expire": lambda store, once: store.expire("k", 100, idempotency_key=once),
    "batch set": lambda store, once: store.batch_set([Item("k", "1"), Item("b", "2")], idempotency_key=once),
    "batch delete": lambda store, once: store.batch_delete(["k", "n", "missing"], idempotency_key=once),
}


def filled(store: Driver) -> None:
    store.set("k", b"old")
    store.set("n", b"1")
    store.set("l", b'["a","b"]')


def answered(result: object) -> object:
    """An answer without the mark that it was told before."""
    if isinstance(result, Wrote):
        return Wrote(**{**vars(result), "replayed": False})
    return [answered(each) for each in result] if isinstance(result, list) else result


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_repeated_write_answers_the_same_and_happens_once(store: Driver, write: Write) -> None:
    filled(store)
    first = write(store, "once")
    before = {item.key: (item.op_number, item.value) for item in store.list(values=True).items}
    cursor = store.cursor()
    again = write(store, "once")
    assert answered(again) == answered(first)
    if isinstance(first, Wrote) and isinstance(again, Wrote):
        assert (first.replayed, again.replayed) == (False, True)
    assert {item.key: (item.op_number, item.value) for item in store.list(values=True).items} == before
    assert store.cursor() == cursor


def test_a_replay_tells_what_was_then_not_what_is(store: Driver) -> None:
    assert store.incr("n", idempotency_key="once").number == 1
    store.incr("n")
    replay = store.incr("n", idempotency_key="once")
    assert (replay.number, replay.op_number, replay.replayed) == (1, 1, True)
    assert store.get("n").value == b"2"


def test_other_idempotency_keys_are_other_writes(store: Driver) -> None:
    assert [store.incr("n", idempotency_key=once).number for once in "abca"] == [1, 2, 3, 1]


DIFFERENT: dict[str, Write] = {
    "another value": lambda store, once: store.set("k", b"other", idempotency_key=once),
    "another key": lambda store, once: store.set("k2", b"value", idempotency_key=once),
    "another type": lambda store, once: store.set("k", b"value", content_type="a/b", idempotency_key=once),
    "another ttl": lambda store, once: store.set("k", b"value", ttl=5, idempotency_key=once),
    "another path": lambda store, once: store.set("k", b"1", path="a", idempotency_key=once),
    "another condition": lambda store, once: store.set("k", b"value", if_match=b"x", idempotency_key=once),
    "no history": lambda store, once: store.set("k", b"value", history=False, idempotency_key=once),
    "another verb": lambda store, once: store.delete("k", idempotency_key=once),
    "a batch": lambda store, once: store.batch_set([Item("k", "value")], idempotency_key=once),
}


@pytest.mark.parametrize("write", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_the_key_of_another_write_is_refused(store: Driver, write: Write) -> None:
    store.set("k", b"value", idempotency_key="once")
    cursor = store.cursor()
    with refused("IDEMPOTENCY_KEY_MISMATCH"):
        write(store, "once")
    assert store.get("k").value == b"value"
    assert store.all_keys() == ["k"]
    assert store.cursor() == cursor
    assert store.set("k", b"value", idempotency_key="once").replayed is True


def test_large_values_are_told_apart_by_their_content(store: Driver) -> None:
    store.set("k", nasty.noise(300_000, seed=1), idempotency_key="once")
    with refused("IDEMPOTENCY_KEY_MISMATCH"):
        store.set("k", nasty.noise(300_000, seed=2), idempotency_key="once")


def test_a_write_that_failed_may_be_tried_again_under_its_key(store: Driver) -> None:
    with refused("CAS_MISMATCH"):
        store.set("k", b"new", if_match=b"old", idempotency_key="once")
    store.set("k", b"old")
    assert store.set("k", b"new", if_match=b"old", idempotency_key="once").replayed is False
    assert store.set("k", b"new", if_match=b"old", idempotency_key="once").replayed is True
    assert store.get("k").value == b"new"


def test_what_a_repeat_would_find_changed_does_not_matter(store: Driver) -> None:
    store.set("k", b"1", if_none_match=True, idempotency_key="create")
    assert store.set("k", b"1", if_none_match=True, idempotency_key="create").replayed is True
    store.delete("k", idempotency_key="delete")
    assert store.delete("k", idempotency_key="delete").replayed is True


def test_a_write_that_changes_nothing_is_remembered_too(store: Driver) -> None:
    store.set("l", b"[]")
    assert store.pop("l", idempotency_key="once").popped is None
    store.push("l", "1")
    replay = store.pop("l", idempotency_key="once")
    assert (replay.popped, replay.replayed) == (None, True)
    assert json.loads(store.get("l").value) == [1]


def test_the_key_counts_for_all_tables_of_a_database_file(store: Driver) -> None:
    other = store.sibling("others")
    store.set("k", b"value", idempotency_key="once")
    if store.directory:
        assert other.set("k", b"value", idempotency_key="once").replayed is False
        assert other.all_keys() == ["k"]
    else:
        with refused("IDEMPOTENCY_KEY_MISMATCH"):
            other.set("k", b"value", idempotency_key="once")
        assert other.all_keys() == []


def test_tables_are_stores_of_their_own(store: Driver) -> None:
    other = store.sibling("others")
    store.set("k", b"1")
    store.set("k", b"2")
    assert not other.has("k")
    assert other.set("k", b"3").op_number == 1
    assert store.get("k").value == b"2"
    other.delete("k")
    assert store.all_keys() == ["k"]
