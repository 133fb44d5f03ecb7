"""Keys that run out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.clocks import NS
from tests.contract.driver import Driver, Item, StoreError, refused
from tests.polling import eventually

EXPIRY_LOGGED_S = 6.0
"""The contract has 5 s; one more for a busy machine."""


def test_a_ttl_counts_from_now(store: Driver) -> None:
    before = store.now_ns()
    store.set("k", b"x", ttl=100)
    expire_at = store.get("k").expire_at
    assert expire_at is not None
    assert before // NS + 100 <= expire_at <= store.now_ns() // NS + 101
    assert store.list().items[0].expire_at == expire_at
    got = store.batch_get(["k"])["k"]
    assert got is not None
    assert got.expire_at == expire_at


@pytest.mark.parametrize("ttl", [None, 0])
def test_a_write_without_ttl_clears_an_old_one(store: Driver, ttl: int | None) -> None:
    store.set("k", b"x", ttl=100)
    store.set("k", b"x", ttl=ttl)
    assert store.get("k").expire_at is None


def test_a_write_with_a_ttl_replaces_an_old_one(store: Driver) -> None:
    store.set("k", b"x", ttl=100)
    first = store.get("k").expire_at
    store.set("k", b"x", ttl=1000)
    second = store.get("k").expire_at
    assert first is not None
    assert second is not None
    assert second >= first + 900


def test_a_path_write_keeps_the_ttl_unless_it_has_its_own(store: Driver) -> None:
    store.set("k", b"{}", ttl=100)
    first = store.get("k").expire_at
    store.set("k", b"1", path="a")
    assert store.get("k").expire_at == first
    store.set("k", b"2", path="a", ttl=1000)
    second = store.get("k").expire_at
    assert first is not None
    assert second is not None
    assert second >= first + 900
    store.set("k", b"3", path="a", ttl=0)
    assert store.get("k").expire_at == second


@pytest.mark.parametrize("ttl", [-1, -100, 10**12])
def test_a_ttl_that_cannot_be_is_refused(store: Driver, ttl: int) -> None:
    store.set("k", b"x")
    with refused("INVALID_PARAMETERS"):
        store.set("k", b"y", ttl=ttl)
    with refused("INVALID_PARAMETERS"):
        store.expire("k", ttl)
    assert store.get("k").value == b"x"
    assert store.op_number("k") == 1


def test_expire_gives_a_ttl_and_leaves_the_rest(store: Driver) -> None:
    store.set("k", b"x", content_type="image/png")
    before = store.get("k")
    store.let_pass(1.1)
    wrote = store.expire("k", 100)
    after = store.get("k")
    assert wrote.op_number == 2
    assert wrote.expire_at == after.expire_at is not None
    assert (after.value, after.content_type) == (before.value, before.content_type)
    assert (after.created_at, after.updated_at) == (before.created_at, before.updated_at)
    assert after.etag == "2"
    assert store.expire("k", 1000).op_number == 3


def test_persist_takes_the_ttl_away(store: Driver) -> None:
    store.set("k", b"x", ttl=100)
    wrote = store.persist("k")
    assert (wrote.expire_at, wrote.op_number) == (None, 2)
    after = store.get("k")
    assert (after.value, after.expire_at) == (b"x", None)


def test_persist_without_a_ttl_is_no_op(store: Driver) -> None:
    store.set("k", b"x")
    cursor = store.cursor()
    wrote = store.persist("k")
    assert (wrote.expire_at, wrote.op_number) == (None, 1)
    assert store.cursor() == cursor
    assert store.set("k", b"x").op_number == 2


def test_expire_and_persist_need_a_key(store: Driver) -> None:
    with refused("KEY_NOT_FOUND"):
        store.expire("k", 100)
    with refused("KEY_NOT_FOUND"):
        store.persist("k")


def test_expire_needs_a_second_at_least(store: Driver) -> None:
    store.set("k", b"x")
    with refused("INVALID_PARAMETERS"):
        store.expire("k", 0)
    assert store.op_number("k") == 1


def test_a_large_value_gets_a_ttl_and_loses_it(store: Driver) -> None:
    value = b"line\n" * 80_000
    store.set("k", value)
    store.expire("k", 100)
    assert store.get("k").value == value
    store.persist("k")
    assert store.get("k").value == value
    assert store.op_number("k") == 3


def test_what_has_run_out_is_gone_for_every_read(store: Driver) -> None:
    store.batch_set([Item("a/k", "1", ttl=1), Item("a/l", "2", ttl=1000), Item("b", "3")])
    assert store.has("a/k")
    alive_ns = store.now_ns()
    store.let_pass(1.01)
    assert store.why_missing("a/k") == "KEY_EXPIRED"
    page = store.list(total=True)
    assert (page.keys, page.total) == (["a/l", "b"], 2)
    assert store.list(prefix="a/", delimiter="/").keys == ["a/l"]
    assert store.batch_get(["a/k"]) == {"a/k": None}
    with refused("KEY_EXPIRED"):
        store.get_node("a/k", "x")
    dead_ns = store.now_ns()
    for _ in range(2):
        assert store.get_at("a/k", alive_ns).value == b"1"
        assert store.list_at(alive_ns).keys == ["a/k", "a/l", "b"]
        assert store.list_at(dead_ns).keys == ["a/l", "b"]
        with pytest.raises(StoreError, match=r"KEY_(NOT_FOUND|EXPIRED)"):
            store.get_at("a/k", dead_ns)
        store.set("a/k", b"again")


def test_what_has_run_out_is_gone_for_every_write(store: Driver) -> None:
    for key in "acdefghij":
        store.set(key, b"[5]" if key == "c" else b"5", ttl=1)
    store.set("b", b"[5]", ttl=1)
    store.set("k", b'{"old": 1}', ttl=1)
    store.let_pass(1.01)
    fails: list[Callable[[], object]] = [
        lambda: store.pop("c"),
        lambda: store.delete("d"),
        lambda: store.expire("e", 10),
        lambda: store.persist("f"),
        lambda: store.remove("c", index=0),
    ]
    for write in fails:
        with refused("KEY_EXPIRED"):
            write()
    with refused("CAS_MISMATCH", "Key does not exist for CAS") as caught:
        store.set("h", b"new", if_match=b"5")
    assert caught.value.details["current_etag"] is None
    assert store.batch_delete(["i", "j"]) == 0
    assert store.all_keys() == []
    # An expiry is an op before the next one.
    counted = store.incr("a")
    assert (counted.previous, counted.op_number) == (None, 3)
    assert store.push("b", "1").length == 1
    made = store.set("g", b"new", if_none_match=True)
    assert (made.created, made.op_number) == (True, 3)
    store.set("k", b"2", path="new")
    assert json.loads(store.get("k").value) == {"new": 2}
    assert [store.get(key).value for key in "abg"] == [b"1", b"[1]", b"new"]
    assert store.all_keys() == ["a", "b", "g", "k"]
    assert all(store.get(key).expire_at is None for key in "abgk")


def test_an_expiry_is_logged_in_time_without_anybody_asking(store: Driver) -> None:
    store.set("kept", b"x")
    store.set("k", b"x", ttl=1)
    cursor = store.cursor()
    store.let_pass(1.01)
    eventually(lambda: store.cursor() != cursor, EXPIRY_LOGGED_S, "the expiry is in the log")
    assert store.why_missing("k") == "KEY_EXPIRED"
    assert store.set("k", b"y").op_number == 3
    assert store.op_number("kept") == 1
