"""What writes make of the entries they meet: the edges that the contract's suite does not go to."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvfs.errors import CasMismatch, InvalidParameters, KeyExpired, KeyNotFound, KvfsError, PayloadTooLarge
from kvfs.model import (
    NS,
    NS_PER_MS,
    Change,
    Conditions,
    Delete,
    Entry,
    Incr,
    KeyState,
    KeyWrite,
    OpType,
    Pop,
    Push,
    Remove,
    Set,
    SetTtl,
    WriteResult,
)
from kvfs.valueops import MAX_TTL_S, Situation, check_conditions, decide, expiry

NOW_NS = 1_700_000_000 * NS
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
JSON = "application/json"


def meeting(
    value: bytes | None,
    *,
    content_type: str = JSON,
    expire_ns: int | None = None,
    number: int = 4,
    expired: bool = False,
    limit: int = 1 << 20,
    ts_ns: int = NOW_NS,
) -> Situation:
    """A key with this value, or none."""
    if value is None:
        return Situation(KeyState(None, number, expired), never, ts_ns, limit)
    entry = Entry("k", value, len(value), content_type, 1, 2, expire_ns, number)
    return Situation(KeyState(entry, number), lambda: value, ts_ns, limit)


def never() -> bytes:
    raise AssertionError("there is no value to load")


def done(write: KeyWrite, situation: Situation) -> tuple[Change, WriteResult]:
    change, result = decide(write, situation)
    assert change is not None
    assert result.changed
    assert result.op_number == situation.state.last_op_number + 1
    return change, result


def refused(write: KeyWrite, situation: Situation, kind: type[KvfsError] = InvalidParameters) -> str:
    with pytest.raises(kind) as told:
        decide(write, situation)
    return told.value.message


# --- incr --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "delta", "after"),
    [
        (b"0.0", 1, b"1.0"),
        (b"-0.0", 1, b"1.0"),
        (b"0e5", 0, b"0.0"),
        (b"1.5", 1, b"2.5"),
        (b"-1.5", -1, b"-2.5"),
        (b"1.0", -1, b"0.0"),
        (b"1e2", 1, b"101.0"),
        (b"1e300", 1, b"1e+300"),
        (b"1e-400", 1, b"1.0"),
        (b"9223372036854775807.0", 1, b"9.223372036854775808e+18"),
        (b"0.5", INT64_MAX, b"9.223372036854775808e+18"),
        (str(INT64_MAX).encode(), 0, str(INT64_MAX).encode()),
        (str(INT64_MIN).encode(), 0, str(INT64_MIN).encode()),
        (str(INT64_MIN).encode(), INT64_MAX, b"-1"),
        (str(INT64_MAX).encode(), INT64_MIN, b"-1"),
        (str(INT64_MIN).encode(), 2**64 - 1, str(INT64_MAX).encode()),
    ],
)
@pytest.mark.parametrize("path", [None, "n"])
def test_a_sum_is_of_its_numbers_kind(before: bytes, delta: int, after: bytes, path: str | None) -> None:
    whole = before if path is None else b'{"n":' + before + b"}"
    change, result = done(Incr("k", delta, path=path), meeting(whole))
    expected = float(after) if b"." in after or b"e" in after else int(after)
    assert (type(result.number), result.number) == (type(expected), expected)
    assert isinstance(change.value, bytes)
    node = change.value if path is None else change.value.removeprefix(b'{"n":').removesuffix(b"}")
    assert (b"." in node or b"e" in node) == isinstance(expected, float)
    assert float(node) == float(after)


@pytest.mark.parametrize(
    ("before", "delta"),
    [
        (str(INT64_MAX).encode(), 1),
        (str(INT64_MIN).encode(), -1),
        (str(INT64_MAX + 1).encode(), -1),
        (str(INT64_MIN - 1).encode(), 1),
        (b"0", INT64_MAX + 1),
        (b"0", INT64_MIN - 1),
        (b"1.5", 10**400),
        (b"1.5", -(10**400)),
        (b"1e308", int(1.7e308)),
        (b"9" * 5000, 1),
        (b"1e999", 1),
        (None, INT64_MAX + 1),
        (b"null", INT64_MIN - 1),
    ],
)
@pytest.mark.parametrize("path", [None, "n"])
def test_a_sum_beyond_its_limits_is_refused(before: bytes | None, delta: int, path: str | None) -> None:
    whole = before if path is None or before is None else b'{"n":' + before + b"}"
    refused(Incr("k", delta, path=path), meeting(whole))


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b" ",
            b"abc",
            b'"1"',
            b"true",
            b"[1]",
            b"{}",
            b"1 2",
            b"0x10",
            b"1_000",
            b"+1",
            b"01",
            b".5",
            b"1.",
        ),
        *(
            b"inf",
            b"Infinity",
            b"-Infinity",
            b"NaN",
            b"nan",
            b"\xff",
            b"1\0",
            "\u0661".encode(),
            b"\xef\xbb\xbf1",
        ),
        *("\u00a01".encode(), b"\x0b1", b"1\x0c", b"NULL", b"nul"),
    ],
)
def test_what_is_no_json_number_is_not_numeric(value: bytes) -> None:
    assert refused(Incr("k"), meeting(value)) == "Value at path is not numeric"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"1\n", b"2\n"),
        (b" \t9\r\n", b" \t10\r\n"),
        (b"null\n", b"1\n"),
        (b"  null", b"  1"),
        (b"0.0 ", b"1.0 "),
        (b"-0", b"1"),
    ],
)
def test_white_space_around_a_number_is_kept(before: bytes, after: bytes) -> None:
    change, _ = done(Incr("k"), meeting(before, content_type="text/plain"))
    assert change.value == after


@given(st.integers(INT64_MIN, INT64_MAX), st.integers(-(2**64), 2**64))
def test_whole_sums_are_exact_or_refused(before: int, delta: int) -> None:
    situation = meeting(str(before).encode())
    if not INT64_MIN <= before + delta <= INT64_MAX:
        refused(Incr("k", delta), situation)
        return
    change, result = done(Incr("k", delta), situation)
    assert (change.value, result.number, result.previous) == (
        str(before + delta).encode(),
        before + delta,
        before,
    )


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70))
@example(0.0, 0)
@example(-0.0, 0)
def test_a_fraction_stays_a_fraction_that_can_be_counted_on(before: float, delta: int) -> None:
    change, result = done(Incr("k", delta), meeting(repr(before).encode()))
    assert (result.number, result.previous) == (before + delta, before)
    assert isinstance(change.value, bytes)
    again, counted = done(Incr("k", 0), meeting(change.value))
    assert (again.value, counted.number) == (change.value, result.number)


@pytest.mark.parametrize(
    ("value", "path", "after", "created"),
    [
        (None, None, b"1", True),
        (None, "a.n", b'{"a":{"n":1}}', True),
        (b"null", None, b"1", False),
        (b'{"n":null}', "n", b'{"n":1}', False),
        (b"{}", "n", b'{"n":1}', False),
    ],
)
def test_what_is_not_there_counts_from_0(
    value: bytes | None, path: str | None, after: bytes, created: bool
) -> None:
    change, result = done(Incr("k", path=path), meeting(value))
    assert (change.value, result.number, result.previous, result.created) == (after, 1, None, created)
    if value is None:
        assert change.content_type == ("text/plain" if path is None else JSON)


@pytest.mark.parametrize("op_type", [OpType.INCR, OpType.DECR])
def test_incr_keeps_type_and_ttl_and_says_what_it_was(op_type: OpType) -> None:
    situation = meeting(b"7", content_type="a/b", expire_ns=NOW_NS + 5)
    change, _ = done(Incr("k", history=False, op_type=op_type), situation)
    assert change == Change(op_type, b"8", "a/b", NOW_NS + 5, None, recorded=False)


# --- arrays ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "before", "after", "told"),
    [
        (Push("k", b"1"), None, b"[1]", {"length": 1, "created": True}),
        (Push("k", b"1.0"), b"[]", b"[1.0]", {"length": 1, "created": False}),
        (Push("k", b" null "), b" [ 1 ] ", b"[1,null]", {"length": 2}),
        (Push("k", b"1", path="a.b"), b"{}", b'{"a":{"b":[1]}}', {"length": 1}),
        (Push("k", b"12345678901234567890123"), b"[]", b"[12345678901234567890123]", {"length": 1}),
        (Pop("k"), b"[1,2]", b"[1]", {"node": "2", "length": 1}),
        (Pop("k"), b"[null]", b"[]", {"node": "null", "length": 0}),
        (Pop("k", path="a"), b'{"a":[1.0]}', b'{"a":[]}', {"node": "1.0", "length": 0}),
        (Remove("k", index=0), b"[1,2]", b"[2]", {"removed": 1, "length": 1}),
        (Remove("k", index=-1), b"[1,2]", b"[1]", {"removed": 1, "length": 1}),
        (Remove("k", node=b"1"), b"[2,1.0,1]", b"[2,1]", {"removed": 1, "length": 2}),
        (Remove("k", node=b"null"), b"[null,null]", b"[null]", {"removed": 1, "length": 1}),
        (Remove("k", node=b"[]", path="a"), b'{"a":[[]]}', b'{"a":[]}', {"removed": 1, "length": 0}),
    ],
)
def test_arrays_are_edited(
    write: KeyWrite, before: bytes | None, after: bytes, told: dict[str, object]
) -> None:
    change, result = done(write, meeting(before))
    assert change.value == after
    assert {name: getattr(result, name) for name in told} == told


@pytest.mark.parametrize("write", [Pop("k"), Remove("k", node=b"1"), Remove("k", node=b"1", path="a[0]")])
def test_what_takes_nothing_is_no_op(write: KeyWrite) -> None:
    value = b'{"a":[[]]}' if isinstance(write, Remove) and write.path else b"[]"
    change, result = decide(write, meeting(value, number=9))
    assert change is None
    assert (result.changed, result.op_number, result.length, result.node) == (False, 9, 0, None)


@pytest.mark.parametrize("value", [b"{}", b"7", b"null", b'"[]"', b"text", b"", b"\xff"])
@pytest.mark.parametrize("write", [Pop("k"), Remove("k", index=0), Remove("k", node=b"1")])
def test_what_is_no_array_gives_nothing(write: KeyWrite, value: bytes) -> None:
    refused(write, meeting(value))


@pytest.mark.parametrize("index", [-3, 2, 10**30, -(10**30)])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    refused(Remove("k", index=index), meeting(b"[1,2]"))


@pytest.mark.parametrize("node", [b"", b"x", b"1 2", b"\xff", b"[", b"NaN"])
def test_what_is_no_json_is_not_pushed_or_looked_for(node: bytes) -> None:
    refused(Push("k", node), meeting(b"[1]"))
    refused(Remove("k", node=node), meeting(b"[1]"))


@pytest.mark.parametrize("write", [Push("k", b"1"), Pop("k"), Remove("k", index=0), Remove("k", node=b"0")])
def test_arrays_keep_type_and_ttl(write: KeyWrite) -> None:
    change, _ = done(write, meeting(b"[0]", content_type="a/b", expire_ns=NOW_NS + 5))
    assert (change.content_type, change.expire_ns, change.ttl_s, change.touch) == (
        "a/b",
        NOW_NS + 5,
        None,
        True,
    )


# --- keys that are not there -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [Delete("k"), Pop("k"), Remove("k", index=0), Remove("k", node=b"1"), SetTtl("k", 5), SetTtl("k", None)],
)
def test_what_needs_a_key_says_whether_it_ran_out(write: KeyWrite) -> None:
    assert refused(write, meeting(None), KeyNotFound) == "Key not found"
    assert refused(write, meeting(None, expired=True), KeyExpired) == "Key expired"


@pytest.mark.parametrize("write", [Set("k", b"x", "a/b"), Incr("k"), Push("k", b"1")])
def test_what_makes_a_key_goes_on_with_its_numbers(write: KeyWrite) -> None:
    _, result = done(write, meeting(None, number=41, expired=True))
    assert (result.op_number, result.created) == (42, True)


# --- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "value", "size"),
    [
        (Set("k", b"12345", "a/b"), None, 5),
        (Set("k", b"1", JSON, path="a"), b"{}", 7),
        (Incr("k"), b"9999", 5),
        (Push("k", b"1"), b"[1]", 5),
        (Push("k", b"1", path="abc"), None, 11),
    ],
)
def test_what_a_value_becomes_has_a_limit(write: KeyWrite, value: bytes | None, size: int) -> None:
    done(write, meeting(value, limit=size))
    assert f"{size} bytes" in refused(write, meeting(value, limit=size - 1), PayloadTooLarge)


# --- TTLs --------------------------------------------------------------------------------------------


@given(st.integers(0, 2**62), st.integers(1, MAX_TTL_S))
@example(NOW_NS, 1)
@example(NOW_NS + 1, 1)
@example(NOW_NS + NS_PER_MS - 1, 1)
def test_a_ttl_runs_out_at_a_whole_millisecond_and_never_early(ts_ns: int, ttl_s: int) -> None:
    expire_ns = expiry(ts_ns, ttl_s)
    assert expire_ns % NS_PER_MS == 0
    assert 0 <= expire_ns - (ts_ns + ttl_s * NS) < NS_PER_MS
    if ts_ns < 4 * 10**18:
        # Rows keep it as seconds, a REAL: it must come back exactly.
        assert round(expire_ns / NS * 1000) * NS_PER_MS == expire_ns


@pytest.mark.parametrize("ttl_s", [0, -1, MAX_TTL_S + 1, 2**63])
@pytest.mark.parametrize("path", [None, "a"])
def test_a_ttl_that_cannot_be_is_refused(ttl_s: int, path: str | None) -> None:
    refused(Set("k", b"1", JSON, ttl_s=ttl_s, path=path), meeting(b"{}"))
    refused(SetTtl("k", ttl_s), meeting(b"{}"))


def test_a_ttl_is_set_and_taken_away() -> None:
    change, result = done(SetTtl("k", 5), meeting(b"v", content_type="a/b"))
    expire_ns = NOW_NS + 5 * NS
    assert change == Change(OpType.EXPIRE_SET, b"v", "a/b", expire_ns, 5, touch=False)
    assert result.expire_ns == expire_ns
    change, result = done(
        SetTtl("k", None, history=False), meeting(b"v", content_type="a/b", expire_ns=NOW_NS + 1)
    )
    assert change == Change(OpType.PERSIST, b"v", "a/b", recorded=False, touch=False)
    assert result.expire_ns is None


def test_no_ttl_is_taken_away_without_an_op() -> None:
    change, result = decide(SetTtl("k", None), meeting(b"v", number=3))
    assert (change, result.changed, result.op_number) == (None, False, 3)


@pytest.mark.parametrize(
    ("path", "ttl_s", "expire_ns"),
    [(None, None, None), (None, 5, NOW_NS + 5 * NS), ("a", None, NOW_NS + 7), ("a", 5, NOW_NS + 5 * NS)],
)
def test_only_a_write_of_the_whole_value_clears_a_ttl(
    path: str | None, ttl_s: int | None, expire_ns: int | None
) -> None:
    write = Set("k", b"1", JSON, ttl_s=ttl_s, path=path, history=False)
    change, _ = done(write, meeting(b"{}", expire_ns=NOW_NS + 7))
    assert (change.expire_ns, change.ttl_s, change.recorded) == (expire_ns, ttl_s, False)


def test_a_large_value_is_loaded_to_be_given_a_ttl() -> None:
    entry = Entry("k", None, 3, "a/b", 1, 2, None, 4)
    change, _ = done(SetTtl("k", 5), Situation(KeyState(entry, 4), lambda: b"big", NOW_NS, 1))
    assert change.value == b"big"


# --- conditions --------------------------------------------------------------------------------------

VALUES = (None, b"v", b"w", b"", b"vv")
TAGS = (None, (), ("4",), ("3",), ("3", "4"), ("04",))
EXISTS = (None, True, False)


def holds(conditions: Conditions, there: bool) -> bool:
    """Whether they hold of a key with the value `v` and op number 4, or of none."""
    return all((
        conditions.value is None or (there and conditions.value == b"v"),
        conditions.etags is None or (there and "4" in conditions.etags),
        conditions.none_of is None or not (there and "4" in conditions.none_of),
        conditions.exists is None or conditions.exists == there,
    ))  # fmt: skip


@pytest.mark.parametrize("there", [True, False])
def test_all_conditions_that_are_given_must_hold(there: bool) -> None:
    situation = meeting(b"v" if there else None)
    for each in itertools.product(VALUES, TAGS, TAGS, EXISTS):
        conditions = Conditions(*each)
        if holds(conditions, there):
            check_conditions(conditions, situation)
            continue
        with pytest.raises(CasMismatch) as told:
            check_conditions(conditions, situation)
        assert told.value.details == {"current_etag": "4" if there else None}


@pytest.mark.parametrize(
    ("value", "conditions", "message"),
    [
        (b"v", Conditions(value=b"w"), "Value mismatch for CAS"),
        (b"v", Conditions(value=b""), "Value mismatch for CAS"),
        (b"", Conditions(value=b"v"), "Value mismatch for CAS"),
        (None, Conditions(value=b"v"), "Key does not exist for CAS"),
        (None, Conditions(value=b""), "Key does not exist for CAS"),
        (None, Conditions(etags=("4",)), "Key does not exist for CAS"),
        (None, Conditions(exists=True), "Key does not exist for CAS"),
    ],
)
def test_a_condition_that_does_not_hold_says_so(
    value: bytes | None, conditions: Conditions, message: str
) -> None:
    with pytest.raises(CasMismatch) as told:
        check_conditions(conditions, meeting(value))
    assert told.value.message == message


def test_a_value_of_another_size_is_not_loaded_to_be_compared() -> None:
    entry = Entry("k", None, 1 << 30, "a/b", 1, 2, None, 4)
    with pytest.raises(CasMismatch):
        check_conditions(Conditions(value=b"v"), Situation(KeyState(entry, 4), never, NOW_NS, 1))
