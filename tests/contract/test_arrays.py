"""push, pop and remove."""

from __future__ import annotations

import json

import pytest

from tests.contract.driver import Driver, refused


def test_a_push_makes_an_array_of_a_missing_key(store: Driver) -> None:
    wrote = store.push("l", '{"a": 1}')
    assert (wrote.length, wrote.op_number) == (1, 1)
    got = store.get("l")
    assert json.loads(got.value) == [{"a": 1}]
    assert got.content_type == "application/json"


def test_pushes_append(store: Driver) -> None:
    assert [store.push("l", node).length for node in ("1", '"two"', "null", "[3]")] == [1, 2, 3, 4]
    assert json.loads(store.get("l").value) == [1, "two", None, [3]]


def test_a_push_at_a_path_makes_the_array(store: Driver) -> None:
    assert store.push("d", "1", path="tags").length == 1
    assert store.push("d", "2", path="$.tags").length == 2
    assert store.push("d", "3", path="deep.er.list").length == 1
    assert json.loads(store.get("d").value) == {"tags": [1, 2], "deep": {"er": {"list": [3]}}}


def test_a_push_onto_what_is_no_array_is_refused(store: Driver) -> None:
    for value in (b'{"a": 1}', b"12", b'"text"', b"null", b"true", b"no json", b"\xff", b""):
        key = f"l{value!r}"
        store.set(key, value)
        with refused("INVALID_PARAMETERS"):
            store.push(key, "1")
        assert store.get(key).value == value
        assert store.op_number(key) == 1


def test_a_push_onto_a_node_that_is_no_array_is_refused(store: Driver) -> None:
    store.set("d", b'{"a": {"b": 1}}')
    for path in ("a", "a.b", "a.b.c"):
        with refused("INVALID_PARAMETERS"):
            store.push("d", "1", path=path)
    assert store.op_number("d") == 1


def test_only_json_is_pushed(store: Driver) -> None:
    for node in ("", "{", "nope", "1 2", "NaN", "'x'"):
        with refused("INVALID_PARAMETERS"):
            store.push("l", node)
    assert store.all_keys() == []


def test_what_is_pushed_keeps_its_exact_text(store: Driver) -> None:
    store.push("l", "1.0")
    store.push("l", "123456789012345678901234567890")
    store.push("l", '"\\u00e9"')
    store.push("l", "1e2")
    assert store.get("l").value == b'[1.0,123456789012345678901234567890,"\\u00e9",1e2]'


def test_a_pop_takes_the_last(store: Driver) -> None:
    store.set("l", b'[1, {"a": 2}, "three"]')
    third = store.pop("l")
    assert (third.popped, third.length, third.op_number) == ("three", 2, 2)
    second = store.pop("l")
    assert (second.popped, second.length) == ({"a": 2}, 1)
    first = store.pop("l")
    assert (first.popped, first.length) == (1, 0)
    assert json.loads(store.get("l").value) == []


def test_a_pop_tells_numbers_exactly(store: Driver) -> None:
    store.set("l", b"[123456789012345678901234567890]")
    assert store.pop("l").popped == 123456789012345678901234567890


def test_a_pop_of_an_empty_array_is_no_op(store: Driver) -> None:
    store.set("l", b"[ ]")
    cursor = store.cursor()
    wrote = store.pop("l")
    assert (wrote.popped, wrote.length) == (None, 0)
    assert store.get("l").value == b"[ ]"
    assert store.cursor() == cursor
    assert store.set("l", b"[]").op_number == 2


def test_a_pop_of_null_is_told_from_an_empty_array_by_its_op(store: Driver) -> None:
    store.set("l", b"[null]")
    wrote = store.pop("l")
    assert (wrote.popped, wrote.length, wrote.op_number) == (None, 0, 2)


def test_a_pop_at_a_path(store: Driver) -> None:
    store.set("d", b'{"tags":["a","b"],"n":1}')
    assert store.pop("d", path="tags").popped == "b"
    assert store.get("d").value == b'{"tags":["a"],"n":1}'
    with refused("INVALID_PARAMETERS"):
        store.pop("d", path="n")
    with refused("KEY_NOT_FOUND"):
        store.pop("d", path="missing")


def test_pop_and_remove_need_a_key(store: Driver) -> None:
    with refused("KEY_NOT_FOUND"):
        store.pop("l")
    with refused("KEY_NOT_FOUND"):
        store.remove("l", index=0)
    with refused("KEY_NOT_FOUND"):
        store.remove("l", node="1")
    assert store.all_keys() == []


@pytest.mark.parametrize("value", [b'{"a": 1}', b"12", b"text", b"\xff", b"null"])
def test_pop_and_remove_need_an_array(store: Driver, value: bytes) -> None:
    store.set("l", value)
    with refused("INVALID_PARAMETERS"):
        store.pop("l")
    with refused("INVALID_PARAMETERS"):
        store.remove("l", index=0)
    with refused("INVALID_PARAMETERS"):
        store.remove("l", node="1")
    assert store.op_number("l") == 1


def test_an_element_is_removed_by_its_index(store: Driver) -> None:
    for index, left in ((0, [2, 3]), (1, [1, 3]), (2, [1, 2]), (-1, [1, 2]), (-2, [1, 3]), (-3, [2, 3])):
        key = f"l{index}"
        store.set(key, b"[1, 2, 3]")
        wrote = store.remove(key, index=index)
        assert (wrote.removed, wrote.length) == (1, 2)
        assert json.loads(store.get(key).value) == left
        assert store.op_number(key) == 2


def test_an_index_out_of_range_is_refused(store: Driver) -> None:
    store.set("l", b"[1, 2, 3]")
    store.set("e", b"[]")
    for index in (3, -4, 100, -100):
        with refused("INVALID_PARAMETERS"):
            store.remove("l", index=index)
    for index in (0, -1):
        with refused("INVALID_PARAMETERS"):
            store.remove("e", index=index)
    assert store.get("l").value == b"[1, 2, 3]"
    assert store.op_number("l") == 1


@pytest.mark.parametrize(
    ("node", "left"),
    [
        ("1", '[true,"1",null,{"a":1,"b":[2]},1]'),
        ("1.0", '[true,"1",null,{"a":1,"b":[2]},1]'),
        ("true", '[1,"1",null,{"a":1,"b":[2]},1]'),
        ('"1"', '[1,true,null,{"a":1,"b":[2]},1]'),
        ("null", '[1,true,"1",{"a":1,"b":[2]},1]'),
        ('{"b": [2.0], "a": 1}', '[1,true,"1",null,1]'),
    ],
)
def test_the_first_equal_element_is_removed(store: Driver, node: str, left: str) -> None:
    store.set("l", b'[1,true,"1",null,{"a":1,"b":[2]},1]')
    wrote = store.remove("l", node=node)
    assert (wrote.removed, wrote.length) == (1, 5)
    assert store.get("l").value == left.encode()


def test_a_value_that_is_not_there_removes_nothing(store: Driver) -> None:
    value = b'[1, true, "x", null, {"a": 2}]'
    store.set("l", value)
    for node in ("2", '"true"', "false", "{}", "[]", '{"a": 1}', "0", '""'):
        wrote = store.remove("l", node=node)
        assert (wrote.removed, wrote.length) == (0, 5), node
    assert store.get("l").value == value
    assert store.op_number("l") == 1


def test_an_element_is_removed_at_a_path(store: Driver) -> None:
    store.set("d", b'{"tags":["a","b","a"],"n":1.0}')
    assert store.remove("d", node='"a"', path="tags").length == 2
    assert store.remove("d", index=-1, path="tags").length == 1
    assert store.get("d").value == b'{"tags":["b"],"n":1.0}'
    with refused("KEY_NOT_FOUND"):
        store.remove("d", index=0, path="missing")


def test_arrays_keep_type_and_ttl(store: Driver) -> None:
    store.set("l", b"[1,2]", ttl=1000, content_type="application/vnd.list+json")
    before = store.get("l")
    store.push("l", "3")
    store.pop("l")
    store.remove("l", index=0)
    after = store.get("l")
    assert before.expire_at is not None
    assert (after.expire_at, after.content_type) == (before.expire_at, before.content_type)
