"""The JSON of lists: every field of the contract, page after page."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.http.shapes import fits
from tests.http.stores import Store
from tests.http.wire import refused

ITEM = {
    "key": str, "size": int, "content_type": str, "created_at": int, "updated_at": int,
    "expire_at": int | None, "op_number": int,
}  # fmt: skip
PAGE = {
    "keys": [str], "items": [ITEM], "count": int, "limit": int, "offset": int, "prefix": str,
    "has_more": bool, "next_cursor": str | None, "next_after": str | None, "change_cursor": str,
}  # fmt: skip
PAST = {"keys": [str], "has_gaps": bool, "gap_keys": [str], "candidate_truncated": bool, "at_timestamp": int}


def _list(store: Store, **params: Any) -> Any:
    page = store.ask("GET", **params).done()
    fits(page, PAGE)
    assert page["keys"] == [item["key"] for item in page["items"]]
    assert page["count"] == len(page["keys"]) + len(page.get("prefixes", []))
    assert page["has_more"] is (page["next_cursor"] is not None) is (page["next_after"] is not None)
    return page


def _fill(store: Store, *keys: str) -> None:
    items = [{"key": key, "value": key} for key in keys]
    for first in range(0, len(items), 100):
        body = json.dumps({"items": items[first : first + 100]}).encode()
        assert store.ask("POST", None, "batch/set", body=body).status == 200


def test_an_empty_list_has_every_field(store: Store) -> None:
    shape = {"keys": [], "items": [], "count": 0, "limit": 100, "offset": 0, "prefix": "", "has_more": False}
    page = _list(store)
    fits(page, {**PAGE, **shape, "next_cursor": None, "next_after": None})
    assert page["keys"] == page["items"] == []
    assert "prefixes" not in page
    assert "total" not in page


def test_items_say_what_heads_say(store: Store) -> None:
    store.put("a", b"12", ttl=1000)
    store.put("b", b"\xff" * 300_000)
    store.put("b", b"\xff" * 300_001, headers=[("Content-Type", "image/png")])
    for item in _list(store)["items"]:
        head = store.ask("HEAD", item["key"]).headers
        assert str(item["size"]) == head["Content-Length"]
        assert item["content_type"] == head["Content-Type"]
        assert str(item["created_at"]) == head["X-Created-At"]
        assert str(item["updated_at"]) == head["X-Updated-At"]
        assert f'"{item["op_number"]}"' == head["ETag"]
        expire_at = head["X-Expire-At"]
        assert item["expire_at"] == (None if expire_at is None else int(expire_at))


def test_values_come_only_where_they_are_asked_for(store: Store) -> None:
    store.put("a", b"text")
    store.put("b", b"\xff")
    assert all("value" not in item for item in _list(store)["items"])
    assert all("value" not in item for item in _list(store, values="no")["items"])
    shown = [(item["value"], item["encoding"]) for item in _list(store, values="yes")["items"]]
    assert shown == [("text", "utf-8"), ("/w==", "base64")]


def test_keys_come_in_the_order_of_their_bytes(store: Store) -> None:
    keys = ["B", "a", "a/b", "a-b", "a b", "é", "z", "\U0001f600", "\uffee", "A", "aa", "10", "9"]
    _fill(store, *keys)
    assert _list(store)["keys"] == sorted(keys, key=str.encode)


def test_pages_by_offset_and_by_key_are_the_same_list(store: Store) -> None:
    keys = [f"k{number:03}" for number in range(25)]
    _fill(store, *keys)
    for way in ("offset", "after"):
        found: list[str] = []
        params: dict[str, str] = {}
        while True:
            page = _list(store, limit=10, **params)
            fits(page, {**PAGE, "limit": 10, "offset": int(params.get("offset", 0))})
            found += page["keys"]
            if not page["has_more"]:
                break
            params = {way: page["next_cursor" if way == "offset" else "next_after"]}
            assert page["next_after"] == page["keys"][-1]
            assert page["next_cursor"] == str(len(found)) or way == "after"
        assert found == keys
    assert _list(store, offset=25)["keys"] == []
    assert _list(store, offset=10**15)["keys"] == []
    assert _list(store, limit=25)["has_more"] is False


def test_a_limit_over_the_greatest_is_taken_as_that(store: Store) -> None:
    _fill(store, "a")
    for limit in (10_000, 10_001, 10**30):
        fits(_list(store, limit=limit), {**PAGE, "limit": 10_000, "keys": ["a"]})


@pytest.mark.parametrize("prefix", ["a", "a/", "", "b", "A", "%", "é", "a_"])
def test_a_prefix_is_literal_and_told_back(store: Store, prefix: str) -> None:
    keys = ["a", "a/b", "a_c", "ab", "b", "%", "%x", "éa", "A1"]
    _fill(store, *keys)
    page = _list(store, prefix=prefix)
    assert page["prefix"] == prefix
    assert page["keys"] == sorted((key for key in keys if key.startswith(prefix)), key=str.encode)


def test_a_delimiter_folds_what_is_deeper(store: Store) -> None:
    _fill(store, "a", "a/1", "a/2/x", "b/1", "c", "d//1", "/e")
    page = _list(store, delimiter="/", total="true")
    fits(page, {**PAGE, "prefixes": [str], "total": 6})
    assert page["keys"] == ["a", "c"]
    assert page["prefixes"] == ["/", "a/", "b/", "d/"]
    page = _list(store, delimiter="/", prefix="a/")
    assert (page["keys"], page["prefixes"]) == (["a/1"], ["a/2/"])
    found: list[str] = []
    params: dict[str, str] = {}
    while True:
        page = _list(store, delimiter="/", limit=1, **params)
        assert page["count"] == 1
        found += page["keys"] + page["prefixes"]
        if not page["has_more"]:
            break
        params = {"after": page["next_after"]}
    assert found == ["/", "a", "a/", "b/", "c", "d/"]


def test_a_total_counts_all_pages(store: Store) -> None:
    _fill(store, *(f"k{number}" for number in range(30)), "other")
    fits(_list(store, total="true", limit=5), {**PAGE, "total": 31, "count": 5})
    fits(_list(store, total="1", prefix="k", limit=5), {**PAGE, "total": 30})
    assert "total" not in _list(store, total="false")


def test_a_change_cursor_moves_with_every_change_and_with_nothing_else(store: Store) -> None:
    _fill(store, "a")
    first = _list(store)["change_cursor"]
    assert _list(store, prefix="x", limit=1)["change_cursor"] == first
    store.get("a")
    assert _list(store)["change_cursor"] == first
    seen = {first}
    for method, action, body in (
        ("PUT", "", b"2"),
        ("POST", "incr", None),
        ("POST", "persist", None),
        ("DELETE", "", None),
    ):
        changed = action != "persist"
        store.ask(method, "a", action, body=body)
        cursor = _list(store)["change_cursor"]
        assert (cursor not in seen) is changed
        seen.add(cursor)


def test_a_list_of_the_past_has_its_own_fields(store: Store) -> None:
    _fill(store, "a", "b", "c/1")
    store.ask("DELETE", "b")
    then = f"{time.time():.9f}"
    _fill(store, "d")
    store.put("a", b"2", history="false")
    past = store.ask("GET", at_timestamp=then).done()
    fits(past, {**PAST, "has_gaps": False, "gap_keys": [], "candidate_truncated": False})
    assert past["keys"] == ["a", "c/1"]
    assert past["at_timestamp"] == int(float(then))
    # The offset means nothing there.
    assert store.ask("GET", at_timestamp=then, offset=1).done()["keys"] == ["a", "c/1"]
    assert store.ask("GET", at_timestamp=then, prefix="c").done()["keys"] == ["c/1"]
    now = store.ask("GET", at_timestamp=f"{time.time():.9f}").done()
    fits(now, {**PAST, "has_gaps": True})
    assert (now["keys"], now["gap_keys"]) == (["c/1", "d"], ["a"])
    fits(store.ask("GET", at_timestamp=0).done(), {**PAST, "keys": [], "has_gaps": False, "at_timestamp": 0})


@pytest.mark.parametrize("form", ["seconds", "decimal", "rfc", "rfc with offset"])
def test_the_past_is_named_in_every_form_of_time(store: Store, form: str) -> None:
    _fill(store, "a")
    now = time.time()
    named = {
        "seconds": str(int(now) + 1),
        "decimal": f"{now:.3f}",
        "rfc": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now + 1)) + ".000Z",
        "rfc with offset": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now + 7201)) + "+02:00",
    }[form]
    answer = store.ask("GET", at_timestamp=named)
    fits(answer.done(), {**PAST, "keys": ["a"]})
    before = {"seconds": "1500000000", "decimal": "1500000000.5", "rfc": "2017-07-14T02:40:00Z"}
    assert store.ask("GET", at_timestamp=before.get(form, "2017-07-14T04:40:00+02:00")).done()["keys"] == []


def test_a_head_of_a_list_has_no_body(store: Store) -> None:
    _fill(store, "a")
    with store.server.connect() as connection:
        size = len(connection.ask("GET", store.target()).body)
        head = connection.ask("HEAD", store.target())
        assert (head.status, head.headers["Content-Length"]) == (200, str(size))
        refused(connection.ask("GET", store.target("missing")), 404, "KEY_NOT_FOUND")
