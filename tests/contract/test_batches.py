"""Batches: one transaction, all or nothing."""

from __future__ import annotations

import pytest

from tests.contract.driver import Driver, Item, StoreError, refused


def test_a_batch_sets_every_item(store: Driver) -> None:
    store.set("b", b"old")
    results = store.batch_set([Item("a", "1"), Item("b", "2"), Item("c/d", "", content_type="text/x")])
    assert [(each.created, each.op_number) for each in results] == [(True, 1), (False, 2), (True, 1)]
    assert [store.get(key).value for key in ("a", "b", "c/d")] == [b"1", b"2", b""]
    assert store.get("c/d").content_type == "text/x"
    assert store.get("a").content_type == "application/json"


def test_a_batch_may_have_100_items_and_no_more(store: Driver) -> None:
    items = [Item(f"k{number:03}", str(number)) for number in range(101)]
    with refused("INVALID_PARAMETERS"):
        store.batch_set(items)
    assert store.all_keys() == []
    assert len(store.batch_set(items[:100])) == 100
    keys = [item.key for item in items]
    with refused("INVALID_PARAMETERS"):
        store.batch_delete(keys)
    assert len(store.all_keys()) == 100
    found = store.batch_get(keys[:100])
    assert [got and got.value for got in found.values()] == [str(number).encode() for number in range(100)]
    assert store.batch_delete(keys[:100]) == 100
    assert store.all_keys() == []


def test_an_empty_batch_does_nothing(store: Driver) -> None:
    assert [*store.batch_set([])] == []
    assert store.batch_get([]) == {}
    assert store.batch_delete([]) == 0
    assert store.all_keys() == []


def test_one_bad_item_sinks_the_whole_batch(store: Driver) -> None:
    store.set("a", b"old")
    cursor = store.cursor()
    bad_items = [
        Item("\0", "x"),
        Item("x" * 1025, "x"),
        Item("", "x"),
        Item("t", "x", ttl=-1),
        Item("t", "x", ttl=10**12),
        Item("t", "x", content_type="no type"),
    ]
    for bad in bad_items:
        with pytest.raises(StoreError, match=r"INVALID_PARAMETERS|PAYLOAD_TOO_LARGE"):
            store.batch_set([Item("a", "new"), bad, Item("z", "new")])
    assert store.all_keys() == ["a"]
    assert store.get("a").value == b"old"
    assert store.cursor() == cursor


def test_conditions_of_a_batch_are_checked_first(store: Driver) -> None:
    store.set("a", b"1")
    store.set("b", b"1")
    cursor = store.cursor()
    with refused("CAS_MISMATCH") as caught:
        store.batch_set(
            [
                Item("new", "x"),
                Item("a", "x", if_match="1"),
                Item("b", "x", if_match="7"),
                Item("a", "x", if_none_match=True),
                Item("missing", "x", if_match="1"),
            ]
        )
    assert caught.value.details["failed"] == ["b", "a", "missing"]
    assert caught.value.details["current_etag"] == "1"
    assert store.all_keys() == ["a", "b"]
    assert [store.get(key).value for key in "ab"] == [b"1", b"1"]
    assert store.cursor() == cursor


def test_a_batch_whose_conditions_hold_is_done(store: Driver) -> None:
    store.set("a", b"1")
    results = store.batch_set([Item("a", "2", if_match="1"), Item("b", "2", if_none_match=True)])
    assert [each.op_number for each in results] == [2, 1]
    assert store.get("a").value == b"2"


def test_the_last_of_two_items_with_one_key_stays(store: Driver) -> None:
    results = store.batch_set([Item("k", "first"), Item("other", "x"), Item("k", "second")])
    assert [(each.op_number, each.created) for each in results] == [(1, True), (1, True), (2, False)]
    assert store.get("k").value == b"second"


def test_conditions_are_about_what_was_before_the_batch(store: Driver) -> None:
    store.batch_set([Item("k", "1", if_none_match=True), Item("k", "2", if_none_match=True)])
    assert store.get("k").value == b"2"
    with refused("CAS_MISMATCH"):
        store.batch_set([Item("k", "3"), Item("k", "4", if_match="3")])
    assert store.get("k").value == b"2"


def test_a_batch_of_gets_tells_what_is_missing(store: Driver) -> None:
    store.set("a", b"1")
    store.set("b/c", b"\xff\0")
    found = store.batch_get(["a", "missing", "b/c", "b"])
    assert {key: got and got.value for key, got in found.items()} == {
        "a": b"1",
        "missing": None,
        "b/c": b"\xff\0",
        "b": None,
    }
    got = found["b/c"]
    assert got is not None
    single = store.get("b/c")
    assert (got.content_type, got.created_at, got.updated_at, got.expire_at) == (
        single.content_type,
        single.created_at,
        single.updated_at,
        None,
    )


def test_a_key_asked_for_twice_is_told_once(store: Driver) -> None:
    store.set("a", b"1")
    assert [*store.batch_get(["a", "a"])] == ["a"]


def test_a_batch_of_deletes_passes_missing_keys_silently(store: Driver) -> None:
    for key in ("a", "b", "b/c"):
        store.set(key, b"x")
    assert store.batch_delete(["a", "missing", "b", "a"]) == 2
    assert store.all_keys() == ["b/c"]
    assert store.set("a", b"x").op_number == 3


def test_a_bad_key_sinks_a_batch_of_deletes(store: Driver) -> None:
    store.set("a", b"x")
    with refused("INVALID_PARAMETERS"):
        store.batch_delete(["a", "b\0"])
    with refused("PAYLOAD_TOO_LARGE"):
        store.batch_delete(["a", "x" * 1025])
    assert store.all_keys() == ["a"]


def test_a_batch_makes_keys_beside_keys_below_them(store: Driver) -> None:
    store.batch_set([Item("a", "1"), Item("a/b", "2"), Item("a/b/c", "3"), Item("a/b/c/d", "4")])
    assert store.all_keys() == ["a", "a/b", "a/b/c", "a/b/c/d"]
    store.batch_set([Item("x/y/z", "1"), Item("x/y", "2"), Item("x", "3")])
    assert store.batch_delete(["a", "a/b/c", "x/y"]) == 3
    assert store.all_keys() == ["a/b", "a/b/c/d", "x", "x/y/z"]
    assert [store.get(key).value for key in store.all_keys()] == [b"2", b"4", b"3", b"1"]


def test_values_of_a_batch_may_be_any_text(store: Driver) -> None:
    texts = ["", "\0", "é😀\r\n", '{"a": 1.0}', "x" * 300_000, "\ufeff"]
    store.batch_set([Item(f"k{number}", text) for number, text in enumerate(texts)])
    assert [store.get(f"k{number}").value for number in range(len(texts))] == [
        text.encode() for text in texts
    ]
