"""What is a key, and what comes after a prefix."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvfs.errors import InvalidParameters, PayloadTooLarge
from kvfs.keys import KEY_MAX_BYTES, check_key, successor
from tests import nasty

MAX = "\U0010ffff"

# The ends of UTF-8's lengths, and both sides of the surrogates.
EDGES = "\x00\x01\x7e\x7f\x80\u07ff\u0800\ud7fe\ud7ff\ue000\uffff\U00010000\U0010fffe\U0010ffff/a"

texts = st.text(st.sampled_from(EDGES) | st.characters(exclude_categories=["Cs"]), max_size=5)


@pytest.mark.parametrize("key", nasty.KEYS)
def test_any_text_is_a_key(key: str) -> None:
    assert check_key(key) is key


@pytest.mark.parametrize("key", ["", "\0", "a\0b", "é\0", "\ud800", "a\udfff", "a/\udc80"])
def test_what_is_empty_or_has_nul_or_no_utf_8_is_no_key(key: str) -> None:
    with pytest.raises(InvalidParameters):
        check_key(key)


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
def test_a_key_is_as_long_as_its_bytes(character: str) -> None:
    fitting = character * (KEY_MAX_BYTES // len(character.encode()))
    assert check_key(fitting) == fitting
    with pytest.raises(PayloadTooLarge, match=f"{len((fitting + character).encode())} bytes"):
        check_key(fitting + character)


@pytest.mark.parametrize(
    ("prefix", "after"),
    [
        ("a", "b"),
        ("a/", "a0"),
        ("ab", "ac"),
        ("\x7f", "\x80"),
        ("a\u07ff", "a\u0800"),
        ("\ud7ff", "\ue000"),
        ("\uffff", "\U00010000"),
        ("a" + MAX, "b"),
        ("\ud7ff" + MAX * 3, "\ue000"),
        (MAX, None),
        (MAX * 5, None),
        ("", None),
    ],
)
def test_the_successor_of_a_prefix(prefix: str, after: str | None) -> None:
    assert successor(prefix) == after


@given(texts, texts)
@example("a", "")
@example("\ud7ff", MAX * 5)
def test_a_successor_is_above_everything_with_the_prefix(prefix: str, rest: str) -> None:
    after = successor(prefix)
    assert after is None or (prefix + rest).encode() < after.encode()


@given(texts, texts)
@example("\ud7ff", "\ue000")
@example("a" + MAX, "b")
@example(MAX, MAX)
@example("\x7f", "\x80")
def test_nothing_below_a_successor_is_above_everything_with_the_prefix(prefix: str, other: str) -> None:
    after = successor(prefix)
    beyond = other.encode() >= prefix.encode() and not other.startswith(prefix)
    assert beyond == (after is not None and other.encode() >= after.encode())
