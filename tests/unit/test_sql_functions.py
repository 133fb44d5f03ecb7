"""kvfs's own text functions give what SQLite's give."""

from __future__ import annotations

from contextlib import suppress

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.sql import functions
from kvfs.sqlite import SqlValue

_TEXTS = st.text(st.sampled_from("ab \0é€🙂"), max_size=12) | st.text(max_size=5)
_VALUES = (
    st.none()
    | _TEXTS
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | _TEXTS.map(str.encode)
)
_MAX = 1000


def _both() -> tuple[apsw.Connection, apsw.Connection]:
    theirs, ours = apsw.Connection(""), apsw.Connection("")
    functions.register(ours, max_length=_MAX)
    return theirs, ours


THEIRS, OURS = _both()


@given(st.sampled_from(["instr", "trim", "ltrim", "rtrim"]), _VALUES, _VALUES)
def test_two_arguments(name: str, one: SqlValue, two: SqlValue) -> None:
    sql = f"SELECT hex(x), typeof(x) FROM (SELECT {name}(?, ?) AS x)"
    assert OURS.execute(sql, (one, two)).fetchall() == THEIRS.execute(sql, (one, two)).fetchall()


@given(_VALUES, _VALUES, _VALUES)
def test_replace(one: SqlValue, two: SqlValue, three: SqlValue) -> None:
    sql = "SELECT hex(x), typeof(x) FROM (SELECT replace(?, ?, ?) AS x)"
    bindings = (one, two, three)
    assert OURS.execute(sql, bindings).fetchall() == THEIRS.execute(sql, bindings).fetchall()


@pytest.mark.parametrize(
    "sql", ["instr(?, ?)", "trim(?, ?)", "replace(?, ?, 'x')", "ltrim(?, ?)", "rtrim(?, ?)"]
)
def test_what_would_take_long_is_quick_or_refused(sql: str) -> None:
    for value, other in (("a" * 2_000_000, "b" * 999_999 + "a"), (b"a" * 2_000_000, b"a" * 999_999 + b"b")):
        with suppress(apsw.TooBigError):
            OURS.execute(f"SELECT {sql}", (value, other)).fetchall()


def test_what_would_be_too_long_is_refused_before_it_is_made() -> None:
    with pytest.raises(apsw.TooBigError):
        OURS.execute("SELECT replace(?, 'a', ?)", ("a" * 100_000, "b" * 1_000_000))
