"""Tables for terminals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cli.output import escaped
from server.cli.tables import fit, lines, share, width


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    rows = [["日本", "1"], ["tea", "200"]]
    assert lines(["key", "op"], rows, 80) == ["key   op", "日本  1", "tea   200"]


def test_wide_columns_yield_to_narrow_ones() -> None:
    rows = [["k" * 50, "7", "v" * 30]]
    assert lines(["key", "op", "value"], rows, 30) == [
        "key           op  value",
        "kkkkkkkkkkk…  7   vvvvvvvvvvv…",
    ]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(1, 200))
def test_columns_share_the_room_there_is(wanted: list[int], room: int) -> None:
    given = share(wanted, room)
    assert all(1 <= got <= asked for got, asked in zip(given, wanted, strict=True))
    assert sum(given) == min(sum(wanted), max(room, len(wanted)))
    # Only the widest ones yielded, and all about as far.
    widest = max(given)
    assert all(got == asked or got >= widest - 1 for got, asked in zip(given, wanted, strict=True))


@given(st.text(max_size=30), st.integers(1, 40))
def test_a_text_takes_just_its_room(text: str, room: int) -> None:
    assert width(fit(text, room)) == room


@pytest.mark.parametrize(
    ("text", "cells"), [("abc", 3), ("日本", 4), ("é", 1), ("e\u0301", 1), ("\u200b", 0), ("\uff46", 2)]
)
def test_cells_are_counted_as_terminals_do(text: str, cells: int) -> None:
    assert width(text) == cells


@given(st.text())
def test_what_is_escaped_moves_no_cursor_and_is_not_ambiguous(text: str) -> None:
    shown = escaped(text)
    assert not any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 for each in shown)
    if all(ord(each) < 0x100 for each in text):
        assert shown.encode("latin-1").decode("unicode_escape") == text
