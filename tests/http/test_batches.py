"""The JSON of batches: every field of the contract, all or nothing."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests import nasty
from tests.http.shapes import OK, fits
from tests.http.stores import Store
from tests.http.wire import Answer, Headers, refused

SET = {**OK, "count": int, "results": [{"key": str, "created": bool, "op_number": int}]}
GOT = {
    "value": str, "encoding": str, "content_type": str, "created_at": int, "updated_at": int,
    "expire_at": int | None,
}  # fmt: skip


def _set(store: Store, *items: dict[str, Any], headers: Headers = (), **params: Any) -> Answer:
    body = json.dumps({"items": items}).encode()
    return store.ask("POST", None, "batch/set", body=body, headers=headers, **params)


def _get(store: Store, *keys: str) -> Any:
    answer = store.ask("POST", None, "batch/get", body=json.dumps({"keys": keys}).encode()).done()
    fits(answer, {**OK, "count": int, "results": dict})
    return answer


def _delete(store: Store, *keys: str, **params: Any) -> Any:
    body = json.dumps({"keys": keys}).encode()
    answer = store.ask("POST", None, "batch/delete", body=body, **params).done()
    fits(answer, {**OK, "deleted": int})
    return answer


def test_a_batch_set_tells_of_each_item_in_order(store: Store) -> None:
    store.put("b", b"1")
    answer = _set(
        store, {"key": "c", "value": "1"}, {"key": "b", "value": "2"}, {"key": "a/é", "value": ""}
    ).done()
    fits(answer, {**SET, "count": 3})
    told = [(result["key"], result["created"], result["op_number"]) for result in answer["results"]]
    assert told == [("c", True, 1), ("b", False, 2), ("a/é", True, 1)]
    assert (store.get("c"), store.get("b"), store.get("a/é")) == (b"1", b"2", b"")


def test_an_empty_batch_does_nothing(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        fits(_set(store).done(), {**SET, "count": 0, "results": []})
        fits(_get(store), {**OK, "count": 0, "results": {}})
        fits(_delete(store), {**OK, "deleted": 0})


def test_a_key_that_is_set_twice_has_two_ops(store: Store) -> None:
    answer = _set(store, {"key": "k", "value": "1"}, {"key": "k", "value": "2"}).done()
    told = [(result["created"], result["op_number"]) for result in answer["results"]]
    assert (told, store.get("k")) == ([(True, 1), (False, 2)], b"2")


def test_items_have_types_ttls_and_bytes(store: Store) -> None:
    value = nasty.noise(1000)
    _set(
        store,
        {"key": "typed", "value": "x", "content_type": "image/svg+xml", "ttl": 100},
        {"key": "json", "value": "{}", "content_type": "application/json"},
        {"key": "untrue", "value": "text", "content_type": "application/json"},
        {"key": "none", "value": "[1]"},
        {"key": "bytes", "value": base64.b64encode(value).decode(), "encoding": "base64"},
        {"key": "unset", "value": "x", "ttl": None, "content_type": None, "if_match": None},
        {"key": "zero", "value": "x", "ttl": 0},
    )
    types = {
        item["key"]: (item["content_type"], item["expire_at"]) for item in store.ask("GET").done()["items"]
    }
    assert types["typed"][0] == "image/svg+xml"
    assert types["typed"][1] > 1_700_000_000
    assert (types["json"][0], types["none"][0]) == ("application/json", "application/json")
    assert types["untrue"] == ("text/plain; charset=utf-8", None)
    assert types["unset"] == types["zero"] == ("text/plain; charset=utf-8", None)
    assert store.get("bytes") == value


def test_a_batch_get_has_an_entry_or_null_for_each_key(store: Store) -> None:
    store.put("text", "tëxt".encode(), ttl=100)
    store.put("bytes", b"\xff\x00", headers=[("Content-Type", "image/png")])
    answer = _get(store, "bytes", "missing", "text", "bytes")
    assert answer["count"] == 2
    assert answer["results"].keys() == {"bytes", "missing", "text"}
    assert answer["results"]["missing"] is None
    shape = {**GOT, "value": "tëxt", "encoding": "utf-8", "content_type": "text/plain; charset=utf-8"}
    fits(answer["results"]["text"], {**shape, "expire_at": int})
    fits(
        answer["results"]["bytes"],
        {**GOT, "value": "/wA=", "encoding": "base64", "content_type": "image/png", "expire_at": None},
    )
    entry = store.ask("GET", "text", "entry").done()
    for name in GOT:
        assert answer["results"]["text"][name] == entry[name]


def test_a_batch_get_reads_large_values(store: Store) -> None:
    for number in range(3):
        store.put(f"k{number}", b"x" * 400_000 + str(number).encode())
    results = _get(store, "k0", "k1", "k2")["results"]
    assert [results[f"k{number}"]["value"][-1] for number in range(3)] == ["0", "1", "2"]
    assert {len(got["value"]) for got in results.values()} == {400_001}


def test_a_batch_get_of_more_than_fits_in_memory_is_413(folder: Store) -> None:
    keys = [f"k{number}" for number in range(4)]
    folder.put("one more", b"1")
    for key in keys:
        (folder.folder / key).write_bytes(b"x" * (16 << 20))
    keys.append("one more")
    body = json.dumps({"keys": keys}).encode()
    refused(folder.ask("POST", None, "batch/get", body=body), 413, "PAYLOAD_TOO_LARGE")


def test_a_batch_delete_counts_what_was_there(store: Store) -> None:
    for key in ("a", "b", "c/d"):
        store.put(key, b"1")
    assert _delete(store, "a", "missing", "c/d", "a")["deleted"] == 2
    assert store.ask("GET").done()["keys"] == ["b"]
    with store.unchanged():
        assert _delete(store, "a", "missing")["deleted"] == 0


def test_the_conditions_of_all_items_are_checked_before_the_first_is_set(store: Store) -> None:
    store.put("a", b"1")
    store.put("b", b"1")
    store.put("b", b"2")
    with store.unchanged():
        answer = _set(
            store,
            {"key": "new", "value": "x"},
            {"key": "a", "value": "x", "if_match": "1"},
            {"key": "b", "value": "x", "if_match": "1"},
            {"key": "missing", "value": "x", "if_match": "1"},
            {"key": "b", "value": "x", "if_none_match": "*"},
        )
        error = refused(answer, 412, "CAS_MISMATCH")
        assert error["failed"] == ["b", "missing", "b"]
        assert error["current_etag"] == "2"
    held = _set(
        store,
        {"key": "a", "value": "x", "if_match": "1"},
        {"key": "b", "value": "x", "if_match": '"2"'},
        {"key": "missing", "value": "x", "if_none_match": "*"},
        {"key": "a", "value": "y", "if_match": "*"},
    )
    assert [result["op_number"] for result in held.done()["results"]] == [2, 3, 1, 3]
    with store.unchanged():
        answer = _set(store, {"key": "a", "value": "z"}, {"key": "none", "value": "z", "if_match": "*"})
        assert refused(answer, 412, "CAS_MISMATCH")["failed"] == ["none"]


@pytest.mark.parametrize("last", [{"ttl": 10**12}, {"key": "a\0"}, {"value": 1}, {"content_type": "bad"}])
def test_one_bad_item_undoes_all(store: Store, last: dict[str, Any]) -> None:
    store.put("a", b"1")
    items = [{"key": f"k{number}", "value": "x"} for number in range(50)]
    with store.unchanged():
        answer = _set(store, {"key": "a", "value": "x"}, *items, {"key": "last", "value": "x", **last})
        refused(answer, 400, "INVALID_PARAMETERS")


def test_a_batch_without_history_leaves_a_gap(store: Store) -> None:
    _set(store, {"key": "a", "value": "1"}, history="false")
    store.put("b", b"1")
    _delete(store, "b", history="false")
    past = store.ask("GET", at_timestamp="9999999999").done()
    assert (past["keys"], past["gap_keys"]) == ([], ["a", "b"])


def test_a_batch_makes_a_database_only_if_it_is_asked_to(store: Store) -> None:
    store.put("k", b"1")
    other = f"{store.home}/other/" if store.directory else str(store.home / "other.db")
    with store.unchanged():
        refused(_set(store, {"key": "k", "value": "1"}, db=other), 404, "DATABASE_NOT_FOUND")
        demanding = {"key": "k", "value": "1", "if_match": "1"}
        answer = _set(store, {"key": "l", "value": ""}, demanding, db=other, create_db_if_missing="yes")
        assert refused(answer, 412, "CAS_MISMATCH")["failed"] == ["k"]
    made = _set(store, {"key": "k", "value": "made"}, db=other, create_db_if_missing="yes")
    assert made.done()["count"] == 1
    assert store.ask("GET", "k", db=other).body == b"made"


def test_the_most_items_can_be_set(store: Store) -> None:
    items = [{"key": f"k{number}", "value": "x"} for number in range(100)]
    assert _set(store, *items).done()["count"] == 100
    assert _get(store, *(item["key"] for item in items))["count"] == 100
    assert _delete(store, *(item["key"] for item in items))["deleted"] == 100
