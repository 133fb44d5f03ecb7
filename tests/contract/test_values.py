"""What is stored comes back: every kind of key, every kind of value, its type and its times."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import nasty
from tests.clocks import NS
from tests.contract.driver import Driver, refused

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
FORM = "application/x-www-form-urlencoded"

on_one_store = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# --- keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["as listed", "backwards", "by bytes"])
def test_keys_of_every_kind_live_side_by_side(store: Driver, order: str) -> None:
    orders = {
        "as listed": nasty.KEYS,
        "backwards": nasty.KEYS[::-1],
        "by bytes": sorted(nasty.KEYS, key=str.encode),
    }
    for number, key in enumerate(orders[order]):
        assert store.set(key, str(number).encode()).created is True, key
    for number, key in enumerate(orders[order]):
        assert store.get(key).value == str(number).encode(), key
    assert store.all_keys() == sorted(nasty.KEYS, key=str.encode)
    for key in orders[order][::2]:
        store.delete(key)
    assert store.all_keys() == sorted(orders[order][1::2], key=str.encode)
    for number, key in enumerate(orders[order]):
        assert store.has(key) is bool(number % 2), key


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("/" * 1024, id="slashes", marks=pytest.mark.soak),
        pytest.param("a" + "/b" * 511, id="letters"),
    ],
)
def test_a_key_may_be_as_deep_as_it_can_be_long(store: Driver, key: str) -> None:
    store.set(key, b"deep")
    store.set("a", b"shallow")
    assert store.get(key).value == b"deep"
    store.delete(key)
    assert not store.has(key)
    assert store.get("a").value == b"shallow"


def test_deep_keys_are_listed(store: Driver) -> None:
    keys = ["x/" * 200, "../" * 100, "a"]
    for key in keys:
        store.set(key, b"x")
    assert store.all_keys() == sorted(keys, key=str.encode)
    assert store.list(delimiter="/").prefixes == ["../", "x/"]


@on_one_store
@given(st.dictionaries(nasty.keys, nasty.values, min_size=1, max_size=6))
def test_any_keys_keep_their_values_apart(store: Driver, entries: dict[str, bytes]) -> None:
    for key, value in entries.items():
        store.set(key, value)
    assert {key: store.get(key).value for key in entries} == entries
    assert store.all_keys() == sorted(entries, key=str.encode)
    for key in entries:
        store.delete(key)
        assert not store.has(key)
    assert store.all_keys() == []


@pytest.mark.parametrize("first", ["a", "a/b"])
def test_a_key_and_keys_below_it_go_independently(store: Driver, first: str) -> None:
    for key in (first, "a" if first == "a/b" else "a/b"):
        store.set(key, key.encode())
    store.delete("a")
    assert store.all_keys() == ["a/b"]
    assert store.set("a", b"again").created is True
    store.delete("a/b")
    assert store.get("a").value == b"again"
    assert store.all_keys() == ["a"]


def test_a_key_is_not_one_that_merely_looks_like_it(store: Driver) -> None:
    store.set("a/b", b"1")
    for other in ("a", "a/", "a/b/", "A/b", "a//b", "/a/b", "a/b ", "a%2Fb", "a/%value", "a/b/%value"):
        assert store.why_missing(other) == "KEY_NOT_FOUND", other


@pytest.mark.parametrize("key", ["a\0b", "\0"])
def test_nul_is_in_no_key(store: Driver, key: str) -> None:
    with refused("INVALID_PARAMETERS"):
        store.set(key, b"x")
    with refused("INVALID_PARAMETERS"):
        store.get(key)
    assert store.all_keys() == []


def test_a_key_has_1024_bytes_at_most(store: Driver) -> None:
    for key in ("x" * 1025, "é" * 513):
        with refused("PAYLOAD_TOO_LARGE"):
            store.set(key, b"x")
        with refused("PAYLOAD_TOO_LARGE"):
            store.get(key)
    assert store.all_keys() == []


# --- values ------------------------------------------------------------------------------------------

VALUES = {
    "empty": b"",
    "NUL": b"\0",
    "text with NUL": b"a\0b",
    "text": "Grüße, 😀\r\n".encode(),
    "no UTF-8": b"\xff\xfe\xc3",
    "half a character": "é".encode()[:1],
    "a byte order mark": b"\xef\xbb\xbf{}",
    "JSON with spaces": b' { "a" : 1.0 , "b":[ ] } \n',
    "digits": b"007",
    "all bytes": bytes(range(256)),
    "the inline limit": nasty.noise(256 * 1024),
    "over the inline limit": nasty.noise(256 * 1024 + 1),
    "300 KiB of text": b"line\n" * 60 * 1024,
    "2 MiB": nasty.noise(2 << 20),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_value_comes_back_byte_for_byte(store: Driver, value: bytes) -> None:
    wrote = store.set("dir/key", value)
    assert wrote.size == len(value)
    assert store.get("dir/key").value == value
    assert store.list(values=True).items[0].value == value
    assert store.list().items[0].size == len(value)
    got = store.batch_get(["dir/key"])["dir/key"]
    assert got is not None
    assert got.value == value


def test_a_value_is_replaced_whole_whatever_its_size(store: Driver) -> None:
    for size in (10, 300 * 1024, 0, 2 << 20, 5, 300 * 1024):
        value = nasty.noise(size, seed=size)
        store.set("k", value)
        assert store.get("k").value == value


def test_the_present_state_is_that_of_the_last_write(store: Driver) -> None:
    for number in range(20):
        store.set("k", str(number).encode())
        assert store.get("k").value == str(number).encode()
    assert store.op_number("k") == 20


# --- types -------------------------------------------------------------------------------------------

TYPES = [
    (None, b'{"a": 1}', JSON),
    (None, b"12", JSON),
    (None, b"plain", TEXT),
    (None, b"", TEXT),
    (None, b"a\0b", TEXT),
    (None, b"\xff", BYTES),
    (JSON, b'{"a": 1}', JSON),
    (JSON, b"not json", TEXT),
    (JSON, b"", TEXT),
    (JSON, b"\xff", BYTES),
    (JSON, b"{'a': 1}", TEXT),
    (JSON, b'{"a": NaN}', TEXT),
    ("application/json; charset=utf-8", b"[1]", "application/json; charset=utf-8"),
    ("application/json; charset=utf-8", b"[1", TEXT),
    (FORM, b"a=b", TEXT),
    (FORM, b'{"a": 1}', JSON),
    (FORM, b"\xff", BYTES),
    ("text/plain", b'{"a": 1}', "text/plain"),
    ("image/png", b"\x89PNG", "image/png"),
    ("image/png", b'{"a": 1}', "image/png"),
    ("application/vnd.api+json", b"no json at all", "application/vnd.api+json"),
]


def test_a_type_is_kept_if_it_is_true(store: Driver) -> None:
    for declared, value, kept in TYPES:
        assert store.set("k.bin", value, content_type=declared).content_type == kept, (declared, value)
        assert store.get("k.bin").content_type == kept
        assert store.list().items[0].content_type == kept
        got = store.batch_get(["k.bin"])["k.bin"]
        assert got is not None
        assert got.content_type == kept


def test_a_large_value_is_typed_as_a_small_one(store: Driver) -> None:
    text, document = b"x" * 300_000, b'["' + b"x" * 300_000 + b'"]'
    assert store.set("text", text, content_type=JSON).content_type == TEXT
    assert store.set("document", document, content_type=JSON).content_type == JSON
    assert store.set("document", document).content_type == JSON
    assert store.set("bytes", nasty.noise(300_000), content_type=FORM).content_type == BYTES


def test_each_write_decides_the_type_anew(store: Driver) -> None:
    store.set("k", b"x", content_type="image/png")
    store.set("k", b"x")
    assert store.get("k").content_type == TEXT


# --- times -------------------------------------------------------------------------------------------


def test_a_new_key_is_created_and_updated_now(store: Driver) -> None:
    before = store.now_ns() // NS
    store.set("k", b"1")
    got = store.get("k")
    assert before <= got.created_at <= store.now_ns() // NS
    assert got.updated_at == got.created_at
    assert got.expire_at is None


def test_an_update_keeps_the_time_of_creation_and_a_delete_does_not(store: Driver) -> None:
    for key, value in (("k", b"1"), ("n", b"1"), ("l", b"[1]"), ("gone", b"1")):
        store.set(key, value)
    first = store.get("k")
    store.delete("gone")
    store.let_pass(1.1)
    store.set("k", b"2")
    store.incr("n")
    store.push("l", "2")
    for key in "knl":
        got = store.get(key)
        assert got.created_at <= first.created_at + 1
        assert got.updated_at > got.created_at, key
    assert store.set("gone", b"2").created is True
    again = store.get("gone")
    assert again.created_at > first.created_at
    assert again.updated_at == again.created_at


# --- op numbers --------------------------------------------------------------------------------------


def test_op_numbers_count_from_1_for_each_key(store: Driver) -> None:
    assert [store.set("a", b"x").op_number for _ in range(3)] == [1, 2, 3]
    assert store.set("b", b"x").op_number == 1
    assert store.set("a", b"x").op_number == 4


def test_op_numbers_go_on_after_a_delete(store: Driver) -> None:
    assert store.set("k", b"1").op_number == 1
    assert store.delete("k").op_number == 2
    again = store.set("k", b"2")
    assert (again.op_number, again.created) == (3, True)
    assert store.op_number("k") == 3


def test_every_kind_of_change_has_an_op_number(store: Driver) -> None:
    numbers = [
        store.set("k", b"[]").op_number,
        store.push("k", "1").op_number,
        store.push("k", "2").op_number,
        store.pop("k").op_number,
        store.expire("k", 100).op_number,
        store.persist("k").op_number,
    ]
    store.remove("k", index=0)
    numbers += [store.op_number("k"), store.set("k", b"5").op_number]
    numbers += [store.incr("k").op_number, store.decr("k").op_number, store.delete("k").op_number]
    assert numbers == [*range(1, 12)]


def test_a_write_of_the_same_value_is_an_op(store: Driver) -> None:
    store.set("k", b"x")
    assert store.set("k", b"x").op_number == 2


def test_what_fails_has_no_op(store: Driver) -> None:
    store.set("k", b"text")
    cursor = store.cursor()
    with refused("INVALID_PARAMETERS"):
        store.incr("k")
    with refused("INVALID_PARAMETERS"):
        store.push("k", "1")
    with refused("INVALID_PARAMETERS"):
        store.set("k", b"1", path="a.b")
    with refused("KEY_NOT_FOUND"):
        store.delete("other")
    with refused("KEY_NOT_FOUND"):
        store.pop("other")
    assert store.cursor() == cursor
    assert store.get("k").value == b"text"
    assert store.all_keys() == ["k"]
    assert store.set("k", b"x").op_number == 2


# --- deletes -----------------------------------------------------------------------------------------


def test_a_deleted_key_is_gone(store: Driver) -> None:
    store.set("a/b", b"1")
    store.delete("a/b")
    assert store.why_missing("a/b") == "KEY_NOT_FOUND"
    assert store.all_keys() == []
    with refused("KEY_NOT_FOUND"):
        store.delete("a/b")


def test_a_key_never_seen_is_not_found(store: Driver) -> None:
    assert store.why_missing("k") == "KEY_NOT_FOUND"
    with refused("KEY_NOT_FOUND"):
        store.delete("k")


def test_a_delete_can_ask_for_an_etag(store: Driver) -> None:
    store.set("k", b"1")
    store.set("k", b"2")
    with refused("CAS_MISMATCH") as caught:
        store.delete("k", if_match_etag="1")
    assert caught.value.details["current_etag"] == "2"
    assert store.delete("k", if_match_etag="2").op_number == 3
