"""Compare-and-swap by value and by etag: what holds is written, what does not changes nothing."""

from __future__ import annotations

import pytest

from tests import nasty
from tests.contract.driver import Driver, refused


def test_a_value_that_matches_is_swapped(store: Driver) -> None:
    store.set("k", b"old")
    assert store.set("k", b"new", if_match=b"old").op_number == 2
    assert store.get("k").value == b"new"


@pytest.mark.parametrize("expected", [b"", b"ol", b"old ", b"older", b"\xff"])
def test_a_value_that_does_not_match_is_left_alone(store: Driver, expected: bytes) -> None:
    store.set("k", b"old", ttl=100)
    before, cursor = store.get("k"), store.cursor()
    with refused("CAS_MISMATCH", "Value mismatch for CAS") as caught:
        store.set("k", b"new", if_match=expected)
    assert caught.value.details["current_etag"] == "1"
    assert store.get("k") == before
    assert store.cursor() == cursor
    assert store.set("k", b"new").op_number == 2


@pytest.mark.parametrize("value", [b"", b"\0", b"a\0b", b"\xff\xfe", b"a b&c=d%", "é\n".encode()])
def test_values_are_compared_byte_for_byte(store: Driver, value: bytes) -> None:
    store.set("k", value)
    assert store.set("k", b"new", if_match=value).op_number == 2
    with refused("CAS_MISMATCH"):
        store.set("k", value, if_match=value)


def test_the_empty_value_is_compared_too(store: Driver) -> None:
    store.set("k", b"something")
    with refused("CAS_MISMATCH"):
        store.set("k", b"new", if_match=b"")
    store.set("k", b"")
    store.set("k", b"new", if_match=b"")
    assert store.get("k").value == b"new"


@pytest.mark.parametrize("value", [b"", b"x"])
def test_a_missing_key_has_no_value_to_match(store: Driver, value: bytes) -> None:
    with refused("CAS_MISMATCH", "Key does not exist for CAS") as caught:
        store.set("k", b"new", if_match=value)
    assert caught.value.details["current_etag"] is None
    assert store.all_keys() == []
    store.set("k", b"x")
    store.delete("k")
    with refused("CAS_MISMATCH", "Key does not exist for CAS"):
        store.set("k", b"new", if_match=value)
    assert store.set("k", b"new").op_number == 3


def test_an_etag_that_matches_is_swapped(store: Driver) -> None:
    store.set("k", b"old")
    etag = store.get("k").etag
    assert etag == "1"
    store.set("k", b"new", if_match_etag=etag)
    with refused("CAS_MISMATCH") as caught:
        store.set("k", b"newer", if_match_etag=etag)
    assert caught.value.details["current_etag"] == "2"
    assert store.get("k").value == b"new"


def test_an_etag_changes_with_every_op_even_of_the_same_value(store: Driver) -> None:
    store.set("k", b"x")
    store.set("k", b"x")
    store.expire("k", 100)
    with refused("CAS_MISMATCH"):
        store.set("k", b"y", if_match_etag="2")
    store.set("k", b"y", if_match_etag="3")


def test_a_missing_key_matches_no_etag(store: Driver) -> None:
    with refused("CAS_MISMATCH") as caught:
        store.set("k", b"x", if_match_etag="1")
    assert caught.value.details["current_etag"] is None
    assert store.all_keys() == []


def test_if_none_match_creates_and_never_replaces(store: Driver) -> None:
    assert store.set("k", b"1", if_none_match=True).created is True
    cursor = store.cursor()
    with refused("CAS_MISMATCH") as caught:
        store.set("k", b"2", if_none_match=True)
    assert caught.value.details["current_etag"] == "1"
    assert store.get("k").value == b"1"
    assert store.cursor() == cursor
    store.delete("k")
    assert store.set("k", b"3", if_none_match=True).op_number == 3


def test_all_conditions_must_hold(store: Driver) -> None:
    store.set("k", b"old")
    with refused("CAS_MISMATCH"):
        store.set("k", b"new", if_match=b"old", if_match_etag="7")
    with refused("CAS_MISMATCH"):
        store.set("k", b"new", if_match=b"other", if_match_etag="1")
    assert store.set("k", b"new", if_match=b"old", if_match_etag="1").op_number == 2


def test_conditions_hold_for_path_writes_too(store: Driver) -> None:
    store.set("k", b'{"a": 1}')
    with refused("CAS_MISMATCH"):
        store.set("k", b"2", path="a", if_match_etag="9")
    with refused("CAS_MISMATCH"):
        store.set("k", b"2", path="a", if_match=b"1")
    store.set("k", b"2", path="a", if_match=b'{"a": 1}')
    assert store.get_node("k", "a") == b"2"


def test_large_values_are_compared_whole(store: Driver) -> None:
    value = nasty.noise(2000)
    store.set("k", value)
    with refused("CAS_MISMATCH"):
        store.set("k", b"x", if_match=value[:-1] + b"!")
    store.set("k", b"x", if_match=value)
    large = nasty.noise(300_000)
    store.set("k", large)
    with refused("CAS_MISMATCH"):
        store.set("k", b"x", if_match=b"y")
    assert store.set("k", b"x", if_match_etag=store.get("k").etag).op_number == 4
