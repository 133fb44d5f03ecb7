"""Values as text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.valuetext import decoded, encoded


@given(st.binary())
def test_a_value_in_json_comes_back_as_it_was(value: bytes) -> None:
    text, encoding = encoded(value)
    assert json.loads(json.dumps(text)) == text
    assert decoded(text, encoding) == value


def test_only_what_is_no_utf_8_is_base64() -> None:
    assert encoded("né\0".encode()) == ("né\0", "utf-8")
    assert encoded(b"\xff") == ("/w==", "base64")


def test_what_is_no_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="padding"):
        decoded("/w", "base64")
