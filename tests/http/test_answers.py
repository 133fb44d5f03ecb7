"""The JSON of every answer about one key: the fields of the contract, with their types and values."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.http.shapes import OK, fits
from tests.http.stores import Store
from tests.http.wire import Headers, refused

SET = {"status": "ok", **OK, "key": str, "created": bool, "op_number": int, "content_type": str, "size": int}
DELETE = {"status": "ok", **OK, "key": str, "deleted": True, "op_number": int}
ADD = {**OK, "key": str, "value": int | float, "previous": int | float | None, "op_number": int}
PUSH = {**OK, "key": str, "length": int, "op_number": int}
POP = {**OK, "key": str, "length": int, "op_number": int}
REMOVE = {**OK, "key": str, "removed": int, "length": int}
TTL = {**OK, "key": str, "etag": str, "expire_at": int | None, "op_number": int}
ENTRY = {
    "key": str, "value": str, "encoding": str, "content_type": str, "size": int, "etag": str,
    "op_number": int, "created_at": int, "updated_at": int, "expire_at": int | None,
}  # fmt: skip


def _did(
    store: Store, action: str, body: bytes | None = None, headers: Headers = (), **params: object
) -> Any:
    return store.ask("POST", "k", action, body=body, headers=headers, **params).done()


def test_a_put_tells_what_it_made(store: Store) -> None:
    first, second = store.put("k", b"{}"), store.put("k", "tëxt".encode())
    fits(
        first,
        {**SET, "key": "k", "created": True, "op_number": 1, "content_type": "application/json", "size": 2},
    )
    fits(
        second,
        {**SET, "created": False, "op_number": 2, "content_type": "text/plain; charset=utf-8", "size": 5},
    )
    store.ask("DELETE", "k")
    fits(store.put("k", b""), {**SET, "created": True, "op_number": 4, "size": 0})


def test_a_put_of_a_node_tells_of_the_document(store: Store) -> None:
    fits(
        store.put("k", b"1", path="a.b"),
        {**SET, "created": True, "content_type": "application/json", "size": 13},
    )
    fits(store.put("k", b'"x"', path="a.c"), {**SET, "created": False, "op_number": 2})
    assert json.loads(store.get("k")) == {"a": {"b": 1, "c": "x"}}


def test_a_delete_tells_its_op(store: Store) -> None:
    store.put("k", b"1")
    fits(store.ask("DELETE", "k").done(), {**DELETE, "key": "k", "op_number": 2})


@pytest.mark.parametrize(("action", "sign"), [("incr", 1), ("decr", -1)])
def test_counting_tells_the_number_and_the_one_before(store: Store, action: str, sign: int) -> None:
    fits(_did(store, action), {**ADD, "key": "k", "value": sign, "previous": None, "op_number": 1})
    fits(_did(store, action, delta=41), {**ADD, "value": 42 * sign, "previous": sign, "op_number": 2})
    fits(_did(store, action, delta=-42), {**ADD, "value": 0, "previous": 42 * sign})
    fits(_did(store, action, delta=0), {**ADD, "value": 0, "previous": 0, "op_number": 4})
    assert store.ask("GET", "k").headers["Content-Type"].startswith("text/plain")
    store.put("k", b'{"a": 1.5, "n": null}')
    fits(_did(store, action, path="a"), {**ADD, "value": 1.5 + sign, "previous": 1.5})
    fits(_did(store, action, path="n"), {**ADD, "value": sign, "previous": None})
    fits(_did(store, action, path="new"), {**ADD, "value": sign, "previous": None})


def test_integers_keep_all_their_64_bits(store: Store) -> None:
    fits(_did(store, "incr", delta=2**63 - 1), {**ADD, "value": 2**63 - 1})
    assert store.get("k") == b"9223372036854775807"
    fits(_did(store, "decr", delta=2**63 - 1), {**ADD, "value": 0, "previous": 2**63 - 1})
    fits(_did(store, "incr", delta=-(2**63)), {**ADD, "value": -(2**63)})


def test_arrays_tell_their_length_and_what_came_out(store: Store) -> None:
    fits(_did(store, "push", b'{"a": 1.0}'), {**PUSH, "key": "k", "length": 1, "op_number": 1})
    fits(_did(store, "push", b'"x"'), {**PUSH, "length": 2})
    fits(_did(store, "push", b"12345678901234567890123"), {**PUSH, "length": 3, "op_number": 3})
    popped = store.ask("POST", "k", "pop")
    assert b'"value":12345678901234567890123,' in popped.body
    fits(popped.done(), {**POP, "key": "k", "length": 2, "op_number": 4})
    fits(_did(store, "pop"), {**POP, "value": "x", "length": 1, "op_number": 5})
    fits(_did(store, "pop"), {**POP, "value": {"a": 1.0}, "length": 0, "op_number": 6})
    with store.unchanged():
        fits(_did(store, "pop"), {**OK, "key": "k", "value": None, "popped": False, "length": 0})
    store.put("k", b"[1, null, 2, 1]")
    fits(_did(store, "pop"), {**POP, "value": 1, "length": 3})
    store.put("k", b"[1, null]")
    answer = _did(store, "pop")
    fits(answer, {**POP, "value": None, "length": 1})
    assert answer.get("popped", True) is True


def test_a_removal_tells_whether_there_was_one(store: Store) -> None:
    store.put("k", b'[1, "a", null, {"x": [1]}, 1, 2]')
    fits(_did(store, "remove", b'{"value": 1}'), {**REMOVE, "key": "k", "removed": 1, "length": 5})
    fits(_did(store, "remove", b'{"value": {"x": [1]}}'), {**REMOVE, "removed": 1, "length": 4})
    fits(_did(store, "remove", b'{"value": null}'), {**REMOVE, "removed": 1, "length": 3})
    fits(_did(store, "remove", index=-1), {**REMOVE, "removed": 1, "length": 2})
    fits(_did(store, "remove", index=0), {**REMOVE, "removed": 1, "length": 1})
    assert json.loads(store.get("k")) == [1]
    with store.unchanged():
        fits(_did(store, "remove", b'{"value": "not there"}'), {**REMOVE, "removed": 0, "length": 1})


def test_a_ttl_tells_when_it_runs_out(store: Store) -> None:
    store.put("k", b"1")
    before = time.time()
    answer = _did(store, "expire", ttl=100)
    fits(answer, {**TTL, "key": "k", "etag": "2", "expire_at": int, "op_number": 2})
    assert int(before) + 100 <= answer["expire_at"] <= time.time() + 101
    assert store.ask("GET", "k").headers["X-Expire-At"] == str(answer["expire_at"])
    fits(_did(store, "persist"), {**TTL, "etag": "3", "expire_at": None, "op_number": 3})
    with store.unchanged():
        fits(_did(store, "persist"), {**TTL, "etag": "3", "expire_at": None, "op_number": 3})


@pytest.mark.parametrize(("value", "encoding"), [(b"", "utf-8"), (b"text", "utf-8"), (b"\xff", "base64")])
def test_an_entry_has_value_and_metadata_in_one(store: Store, value: bytes, encoding: str) -> None:
    store.put("k", b"before")
    store.put("k", value, headers=[("Content-Type", "a/b")], ttl=50)
    entry = store.ask("GET", "k", "entry").done()
    shape = {**ENTRY, "key": "k", "encoding": encoding, "content_type": "a/b", "size": len(value)}
    fits(entry, {**shape, "etag": "2", "op_number": 2, "expire_at": int})
    headers = store.ask("GET", "k").headers
    assert str(entry["created_at"]) == headers["X-Created-At"]
    assert str(entry["updated_at"]) == headers["X-Updated-At"]
    assert str(entry["expire_at"]) == headers["X-Expire-At"]
    assert f'"{entry["etag"]}"' == headers["ETag"]
    store.ask("POST", "k", "persist")
    fits(store.ask("GET", "k", "entry").done(), {**ENTRY, "expire_at": None})


def test_an_entry_of_a_large_value_has_all_of_it(store: Store) -> None:
    value = "é" * 400_000
    store.put("k", value.encode())
    entry = store.ask("GET", "k", "entry").done()
    fits(entry, {**ENTRY, "value": value, "encoding": "utf-8", "size": 800_000})


def test_a_repeated_write_answers_the_same_and_says_so(store: Store) -> None:
    store.put("array", b"[1, 2, 3]")
    store.put("gone", b"1")
    for number, (method, key, action, body, params) in enumerate(
        (
            ("PUT", "k", "", b"1", {"ttl": 1000}),
            ("POST", "k", "incr", None, {"delta": 5}),
            ("POST", "k", "decr", None, {}),
            ("POST", "array", "push", b"4", {}),
            ("POST", "array", "pop", None, {}),
            ("POST", "array", "remove", b'{"value": 2}', {}),
            ("POST", "k", "expire", None, {"ttl": 500}),
            ("POST", "k", "persist", None, {}),
            ("DELETE", "gone", "", None, {}),
            ("POST", None, "batch/set", b'{"items": [{"key": "b", "value": "1"}]}', {}),
            ("POST", None, "batch/delete", b'{"keys": ["b", "none"]}', {}),
        )
    ):
        once = [("Idempotency-Key", f"once-{number}")]
        first = store.ask(method, key, action, body=body, headers=once, **params)
        assert first.headers["Idempotent-Replayed"] is None
        with store.unchanged():
            again = store.ask(method, key, action, body=body, headers=once, **params)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.done() == first.done()
        assert again.headers["ETag"] == first.headers["ETag"]


def test_a_large_write_is_repeated_by_its_content(store: Store) -> None:
    once = [("Idempotency-Key", "once")]
    assert store.put("k", b"x" * 500_000, headers=once)["op_number"] == 1
    with store.unchanged():
        assert store.put("k", b"x" * 500_000, headers=once)["op_number"] == 1
        other = store.ask("PUT", "k", body=b"x" * 499_999 + b"y", headers=once)
        refused(other, 422, "IDEMPOTENCY_KEY_MISMATCH")


def test_a_write_that_failed_may_be_tried_again_under_its_key(store: Store) -> None:
    once = [("Idempotency-Key", "once")]
    refused(store.ask("DELETE", "k", headers=once), 404, "KEY_NOT_FOUND")
    store.put("k", b"1")
    answer = store.ask("DELETE", "k", headers=once)
    assert answer.done()["op_number"] == 2
    assert answer.headers["Idempotent-Replayed"] is None
