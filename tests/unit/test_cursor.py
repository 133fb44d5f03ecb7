"""Change cursors: the text of a place, and texts that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.cursor import Cursor, parse
from kvfs.errors import InvalidParameters


@given(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.integers(0, 10**18 - 1))
def test_a_cursor_comes_back_from_its_text(log_id: str, seq: int) -> None:
    assert parse(str(Cursor(log_id, seq))) == (log_id, seq)


def test_before_a_log_there_is_one_cursor() -> None:
    assert parse(str(Cursor("", 0))) == ("", 0)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1", ".1", "0", "ab.", "ab.01", "ab.-1", "ab.+1", "ab. 1", "ab.1 ", "ab.1\n", "ab.1.2", "AB.1"]
    + ["xy.1", "ab.٣", "ab.1e3", f"ab.{10**18}", "a" * 65 + ".1", "ab.1\0"],
)
def test_what_no_store_gave_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameters, match="cursor"):
        parse(text)
