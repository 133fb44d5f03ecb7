"""incr and decr."""

from __future__ import annotations

import json

import pytest

from tests.contract.driver import Driver, refused

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


def test_a_missing_key_counts_from_0(store: Driver) -> None:
    wrote = store.incr("n")
    assert (wrote.number, wrote.previous, wrote.op_number) == (1, None, 1)
    assert store.get("n").value == b"1"
    down = store.decr("m")
    assert (down.number, down.previous) == (-1, None)


def test_a_counter_that_is_made_is_plain_text(store: Driver) -> None:
    store.incr("n", 5)
    assert store.get("n").content_type == "text/plain"
    store.incr("n", 5)
    assert store.get("n").content_type == "text/plain"


def test_a_number_keeps_its_type(store: Driver) -> None:
    store.set("n", b"1", content_type="application/x-count")
    store.incr("n")
    assert store.get("n").content_type == "application/x-count"


@pytest.mark.parametrize(
    ("before", "delta", "after"),
    [
        (b"1", 1, b"2"),
        (b"-3", 1, b"-2"),
        (b"0", 0, b"0"),
        (b"-0", 0, b"0"),
        (b"10", -20, b"-10"),
        (b"9", 1, b"10"),
        (b"100", -1, b"99"),
        (str(INT64_MAX - 1).encode(), 1, str(INT64_MAX).encode()),
        (str(INT64_MIN + 1).encode(), -1, str(INT64_MIN).encode()),
        (b"0", INT64_MAX, str(INT64_MAX).encode()),
    ],
)
def test_a_delta_is_added(store: Driver, before: bytes, delta: int, after: bytes) -> None:
    store.set("n", before)
    wrote = store.incr("n", delta)
    assert (wrote.number, wrote.previous) == (int(after), int(before))
    assert store.get("n").value == after
    back = store.decr("n", delta)
    assert (back.number, back.previous) == (int(before), int(after))


@pytest.mark.parametrize("path", [None, "a.n"])
def test_fractions_count_as_fractions(store: Driver, path: str | None) -> None:
    store.set("n", b"1.5" if path is None else b'{"a": {"n": 1.5}}')
    wrote = store.incr("n", 2, path=path)
    assert (wrote.number, wrote.previous) == (3.5, 1.5)
    assert isinstance(wrote.number, float)
    assert store.decr("n", 4, path=path).number == -0.5
    assert store.incr("n", 1, path=path).number == 0.5


def test_an_exponent_counts_as_a_fraction(store: Driver) -> None:
    store.set("n", b"1e2")
    assert store.incr("n").number == 101.0


@pytest.mark.parametrize("path", [None, "n"])
@pytest.mark.parametrize(
    ("before", "delta"),
    [
        (str(INT64_MAX), 1),
        (str(INT64_MIN), -1),
        ("0", 2**63),
        ("0", 10**40),
        (str(2**63), -1),
        (str(10**30), 1),
        ("1.5", 10**400),
    ],
)
def test_beyond_64_bits_is_refused_and_changes_nothing(
    store: Driver, before: str, delta: int, path: str | None
) -> None:
    value = before.encode() if path is None else b'{"n":%s}' % before.encode()
    store.set("n", value)
    with refused("INVALID_PARAMETERS"):
        store.incr("n", delta, path=path)
    assert store.get("n").value == value
    assert store.op_number("n") == 1


def test_what_is_no_number_is_refused(store: Driver) -> None:
    values = [
        b"", b" ", b"abc", b"1a", b"01", b"+1", b"1.", b".5", b"0x10", b"NaN", b"Infinity", b"1e999",
        b"1_000", b'"1"', b"[1]", b"{}", b"true", b"1 2", b"\xff", b"1\0", "\u0661".encode(),
    ]  # fmt: skip
    for number, value in enumerate(values):
        store.set(f"n{number}", value)
        with refused("INVALID_PARAMETERS", "Value at path is not numeric"):
            store.incr(f"n{number}")
        assert store.get(f"n{number}").value == value
        assert store.op_number(f"n{number}") == 1


@pytest.mark.parametrize("node", ['"1"', "[]", "{}", "true", '""'])
def test_a_node_that_is_no_number_is_refused(store: Driver, node: str) -> None:
    value = b'{"n": %s}' % node.encode()
    store.set("n", value)
    with refused("INVALID_PARAMETERS", "Value at path is not numeric"):
        store.incr("n", path="n")
    assert store.get("n").value == value


def test_null_counts_from_0(store: Driver) -> None:
    store.set("n", b"null")
    wrote = store.incr("n", 3)
    assert (wrote.number, wrote.previous) == (3, None)
    store.set("d", b'{"n": null}')
    wrote = store.decr("d", 3, path="n")
    assert (wrote.number, wrote.previous) == (-3, None)
    assert json.loads(store.get("d").value) == {"n": -3}


@pytest.mark.parametrize(
    ("before", "after"), [(b"41\n", b"42\n"), (b" 41", b" 42"), (b"41\r\n", b"42\r\n"), (b"9\n\n", b"10\n\n")]
)
def test_an_editors_white_space_stays(store: Driver, before: bytes, after: bytes) -> None:
    store.set("n", before)
    store.incr("n")
    assert store.get("n").value == after


def test_a_path_counts_in_a_document(store: Driver) -> None:
    store.set("d", b'{"a":1,"n":{"m":2},"l":[1,2]}')
    assert store.incr("d", path="n.m").number == 3
    assert store.incr("d", 10, path="l[-1]").number == 12
    assert store.incr("d", path="n.new").number == 1
    assert store.incr("d", path="x.y.z").previous is None
    expected = {"a": 1, "n": {"m": 3, "new": 1}, "l": [1, 12], "x": {"y": {"z": 1}}}
    assert json.loads(store.get("d").value) == expected


def test_a_path_in_a_missing_key_makes_a_document(store: Driver) -> None:
    wrote = store.incr("d", 5, path="visits.today")
    assert (wrote.number, wrote.previous) == (5, None)
    got = store.get("d")
    assert json.loads(got.value) == {"visits": {"today": 5}}
    assert got.content_type == "application/json"


def test_a_path_in_what_is_no_json_is_refused(store: Driver) -> None:
    store.set("d", b"text")
    with refused("INVALID_PARAMETERS"):
        store.incr("d", path="n")
    assert store.get("d").value == b"text"


def test_a_counter_keeps_its_ttl(store: Driver) -> None:
    store.set("n", b"1", ttl=1000)
    expire_at = store.get("n").expire_at
    store.incr("n")
    store.decr("n", 5)
    assert expire_at is not None
    assert store.get("n").expire_at == expire_at


def test_a_deleted_counter_starts_again(store: Driver) -> None:
    store.incr("n", 7)
    store.delete("n")
    wrote = store.incr("n")
    assert (wrote.number, wrote.previous, wrote.op_number) == (1, None, 3)
