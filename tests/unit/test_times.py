"""Timestamps: an integer is the end of its second, everything else the instant itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.errors import InvalidParameters
from kvfs.model import NS
from server.times import parse

INT64_MAX = 2**63 - 1


@given(st.integers(-(10**9), 9 * 10**9))
def test_an_integer_is_the_last_nanosecond_of_its_second(second: int) -> None:
    assert parse(str(second), "t") == (second + 1) * NS - 1


@given(st.integers(0, 9 * 10**9), st.integers(0, NS - 1))
def test_a_decimal_is_that_instant(second: int, ns: int) -> None:
    assert parse(f"{second}.{ns:09}", "t") == second * NS + ns


@given(st.integers(0, 9 * 10**9), st.integers(0, NS - 1))
def test_a_decimal_before_the_epoch_is_that_instant_too(second: int, ns: int) -> None:
    assert parse(f"-{second}.{ns:09}", "t") == -(second * NS + ns)


@given(st.datetimes(min_value=datetime(1800, 1, 1), max_value=datetime(2200, 1, 1)), st.integers(-1439, 1439))
def test_rfc_3339_is_that_instant(naive: datetime, offset_minutes: int) -> None:
    at = naive.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    expected = (since.days * 86400 + since.seconds) * NS + since.microseconds * 1000
    assert parse(at.isoformat(), "t") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000.250", 1_700_000_000_250_000_000),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("1.0000000019", 1_000_000_001),
        ("-1.0000000019", -1_000_000_002),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14t22:13:20.5z", 1_700_000_000_500_000_000),
        ("2023-11-14 22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000_000_000),
        ("2023-11-14T21:43:20-00:30", 1_700_000_000_000_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000_000),
    ],
)
def test_known_instants(text: str, expected: int) -> None:
    assert parse(text, "t") == expected


def test_a_plus_sign_that_became_a_space_is_understood() -> None:
    assert parse("2023-11-14T23:13:20 01:00", "t") == parse("2023-11-14T22:13:20Z", "t")


@pytest.mark.parametrize("text", ["99999999999999", "9" * 18, "9999-12-31T23:59:59Z"])
def test_what_is_beyond_64_bits_is_the_end_of_time(text: str) -> None:
    assert parse(text, "t") == INT64_MAX


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1.", ".5", "+1", "1e9", "0x1", "٣", "1,5", "now", "9" * 19, "1.5.5", "--1", "nan",
        "2023-11-14", "2023-11-14T22:13:20", "2023-11-14T22:13Z", "2023-13-14T22:13:20Z",
        "2023-02-30T00:00:00Z", "2023-11-14T24:13:20Z", "2023-11-14T22:13:61Z", "0000-01-01T00:00:00Z",
        "2023-11-14T22:13:20+1:00", "2023-11-14T22:13:20+01:60", "2023-11-14T22:13:20+24:00",
        "2023-11-14T22:13:20.Z", "2023-11-14T22:13:20Zx",
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidParameters, match="at_timestamp"):
        parse(text, "at_timestamp")
