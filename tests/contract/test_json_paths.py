"""Reads and writes of one node of a JSON document."""

from __future__ import annotations

import json

import pytest

from tests.contract.driver import Driver, refused

DOCUMENT = (
    b'{"prefs":{"theme":"dark","size":1.0},"tags":["a","b"],"big":123456789012345678901234567890,"a.b":1}'
)


def test_a_path_reads_a_node(store: Driver) -> None:
    store.set("d", DOCUMENT)
    nodes = {
        "prefs.theme": b'"dark"',
        "$.prefs.theme": b'"dark"',
        "prefs.size": b"1.0",
        "prefs": b'{"theme":"dark","size":1.0}',
        "tags.0": b'"a"',
        "tags[0]": b'"a"',
        "tags[-1]": b'"b"',
        "$.tags[1]": b'"b"',
        "big": b"123456789012345678901234567890",
        r"a\.b": b"1",
        "$": DOCUMENT,
    }
    assert {path: store.get_node("d", path) for path in nodes} == nodes


def test_a_path_that_leads_nowhere_is_not_found(store: Driver) -> None:
    store.set("d", DOCUMENT)
    for path in ("x", "prefs.x", "tags[2]", "tags.2", "tags[-3]", "prefs.theme.x", "a.b"):
        with refused("KEY_NOT_FOUND"):
            store.get_node("d", path)


def test_what_is_no_path_is_refused(store: Driver) -> None:
    store.set("d", DOCUMENT)
    for path in (".", "a..b", "a.", "[", "tags[x]", "tags[]"):
        with refused("INVALID_PARAMETERS"):
            store.get_node("d", path)
        with refused("INVALID_PARAMETERS"):
            store.set("d", b"1", path=path)
    assert store.get("d").value == DOCUMENT


@pytest.mark.parametrize("value", [b"text", b"\xff", b"", b"{", b"{'a': 1}"])
def test_a_path_into_what_is_no_json_is_refused(store: Driver, value: bytes) -> None:
    store.set("d", value)
    with refused("INVALID_PARAMETERS"):
        store.get_node("d", "a")
    with refused("INVALID_PARAMETERS"):
        store.set("d", b"1", path="a")
    assert store.get("d").value == value


def test_a_path_into_a_missing_key(store: Driver) -> None:
    with refused("KEY_NOT_FOUND"):
        store.get_node("d", "a")
    wrote = store.set("d", b'"x"', path="a.b")
    assert (wrote.created, wrote.op_number) == (True, 1)
    got = store.get("d")
    assert json.loads(got.value) == {"a": {"b": "x"}}
    assert got.content_type == "application/json"


@pytest.mark.parametrize(
    ("path", "node", "after"),
    [
        ("prefs.theme", b'"light"', DOCUMENT.replace(b'"dark"', b'"light"')),
        ("prefs.size", b"2.50", DOCUMENT.replace(b"1.0", b"2.50")),
        ("tags[0]", b"[1]", DOCUMENT.replace(b'["a"', b"[[1]")),
        ("tags[2]", b'"c"', DOCUMENT.replace(b'"b"]', b'"b","c"]')),
        ("tags.1", b"null", DOCUMENT.replace(b'"b"', b"null")),
        ("new", b"1e3", DOCUMENT[:-1] + b',"new":1e3}'),
        ("n.e.w", b"true", DOCUMENT[:-1] + b',"n":{"e":{"w":true}}}'),
        (r"a\.b", b"98765432109876543210", DOCUMENT[:-2] + b"98765432109876543210}"),
    ],
)
def test_a_path_write_keeps_all_other_tokens(store: Driver, path: str, node: bytes, after: bytes) -> None:
    store.set("d", DOCUMENT)
    assert store.set("d", node, path=path).op_number == 2
    assert store.get("d").value == after
    assert store.get_node("d", path) == node


def test_white_space_between_tokens_may_go_and_nothing_else(store: Driver) -> None:
    store.set("d", b'{ "a" : [ 1.0, 1E2 ] ,\n "b" : "x  y" }')
    store.set("d", b"1", path="c")
    assert store.get("d").value == b'{"a":[1.0,1E2],"b":"x  y","c":1}'


@pytest.mark.parametrize("path", ["tags[5]", "prefs.theme.x", "tags.x", "big.x"])
def test_a_path_through_something_else_is_refused(store: Driver, path: str) -> None:
    store.set("d", DOCUMENT)
    with refused("INVALID_PARAMETERS"):
        store.set("d", b"1", path=path)
    assert store.get("d").value == DOCUMENT


@pytest.mark.parametrize("node", [b"", b"nope", b"{", b"\xff"])
def test_only_json_is_put_at_a_path(store: Driver, node: bytes) -> None:
    store.set("d", DOCUMENT)
    with refused("INVALID_PARAMETERS"):
        store.set("d", node, path="a")
    assert store.get("d").value == DOCUMENT


def test_a_path_write_keeps_the_documents_type(store: Driver) -> None:
    store.set("d", b"{}", content_type="application/vnd.api+json")
    store.set("d", b"1", path="a")
    assert store.get("d").content_type == "application/vnd.api+json"


def test_json_too_deep_for_paths_is_stored_like_any_bytes(store: Driver) -> None:
    deep = b"[" * 1100 + b"]" * 1100
    store.set("d", deep)
    got = store.get("d")
    assert (got.value, got.content_type) == (deep, "application/json")
    with refused("INVALID_PARAMETERS"):
        store.get_node("d", "[0]")
    with refused("INVALID_PARAMETERS"):
        store.push("d", "1")
    assert store.get("d").value == deep


def test_a_path_reaches_into_large_documents(store: Driver) -> None:
    store.set("d", b'{"fill":"' + b"x" * 400_000 + b'","n":1.50}')
    assert store.get_node("d", "n") == b"1.50"
    assert store.set("d", b"2.0", path="n").size == 400_000 + len('{"fill":"","n":2.0}')
    assert store.get_node("d", "n") == b"2.0"
    assert store.incr("d", path="count").number == 1
