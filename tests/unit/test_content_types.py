"""Which content type a value gets, small or in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvfs.content_types import BYTES, JSON, TEXT, classify, detect, is_text, of_file, still_true
from kvfs.errors import InvalidParameters
from kvfs.model import FileValue
from tests import nasty

FORM = "application/x-www-form-urlencoded"
LARGE = 2_500_000
DEEP = b"[" * 2000 + b"]" * 2000

TYPED = [
    (b"{}", JSON),
    (b' \r\n\t{"a": [1, 2.5e3, null]} ', JSON),
    (b"null", JSON),
    (b"7", JSON),
    (b'"text"', JSON),
    (b'"\\ud800"', JSON),
    (b"1e999", JSON),
    (DEEP, JSON),
    (b"", TEXT),
    (b"hello", TEXT),
    (b"{", TEXT),
    (b"{} {}", TEXT),
    (b"NaN", TEXT),
    (b"[1,]", TEXT),
    (b"{a: 1}", TEXT),
    (b"01", TEXT),
    (b"\xef\xbb\xbf{}", TEXT),
    (b"\0", TEXT),
    (b"{}\0", TEXT),
    ("é😀".encode(), TEXT),
    (b"\xff", BYTES),
    (b'"\xff"', BYTES),
    (b"\xed\xa0\x80", BYTES),
    (b"\xc3", BYTES),
    (b"\xf4\x90\x80\x80", BYTES),
]


@contextmanager
def in_a_file(value: bytes, size: int | None = None) -> Iterator[FileValue]:
    with tempfile.TemporaryFile() as file:
        file.write(value)
        file.flush()
        with FileValue(os.dup(file.fileno()), len(value) if size is None else size) as made:
            yield made


@pytest.mark.parametrize(("value", "content_type"), TYPED)
@pytest.mark.parametrize(
    "declared", [None, FORM, FORM.upper(), FORM + "; charset=utf-8", JSON, "Application/JSON"]
)
def test_what_declares_nothing_is_typed_by_its_bytes(
    declared: str | None, value: bytes, content_type: str
) -> None:
    if content_type == JSON and declared == "Application/JSON":
        content_type = declared  # it is true, and kept as it was said
    assert classify(declared, value) == content_type
    with in_a_file(value) as file:
        assert classify(declared, file) == content_type


@given(nasty.values | st.binary(max_size=8) | st.text('[]{}":,0-.e \n\\u', max_size=8).map(str.encode))
@example(b" " * 70 + b"[]")
@example(b" " * 64)
def test_a_value_is_typed_alike_in_memory_and_in_a_file(value: bytes) -> None:
    with in_a_file(value) as file:
        assert detect(file) == detect(value) == classify(None, value) == classify(JSON, value)
        assert is_text(file) == is_text(value)


@pytest.mark.parametrize(
    "declared",
    [
        "text/plain",
        "image/png",
        "text/html; charset=utf-8",
        "application/ld+json",
        "text/json",
        "x/y",
        "A/B;c=d",
    ],
)
@pytest.mark.parametrize("value", [b"{}", b"hello", b"\xff", b""])
def test_any_other_type_is_kept_whatever_the_value(declared: str, value: bytes) -> None:
    assert classify(declared, value) == declared


@pytest.mark.parametrize(
    "declared", [JSON + "; charset=utf-8", JSON + ";charset=UTF-8", "APPLICATION/json ; a=b"]
)
def test_json_may_have_parameters_if_it_is_json(declared: str) -> None:
    assert classify(declared, b"[1]") == declared
    assert classify(declared, b"[1") == TEXT
    assert classify(declared, b"\xff") == BYTES


@pytest.mark.parametrize(
    "declared",
    [
        *(
            "",
            "text",
            "/",
            "text/",
            "/plain",
            " text/plain",
            "te xt/plain",
            "text/plain\n",
            "text/plain\r\nX-Evil: 1",
        ),
        *(
            "text/plain\nX: y",
            "a/b\0",
            "a/b\t",
            "text/é",
            "é/plain",
            "a/b\x7f",
            "a/b\u2028c",
            "a/" + "b" * 254,
        ),
        *(JSON + "\r\nSet-Cookie: a=b", JSON + "\n", FORM + "\r\nA: b"),
    ],
)
@pytest.mark.parametrize("value", [b"{}", b"x"])
def test_what_cannot_stand_in_a_header_is_refused(declared: str, value: bytes) -> None:
    with pytest.raises(InvalidParameters):
        classify(declared, value)


@given(st.text())
def test_what_is_kept_can_stand_in_a_header(declared: str) -> None:
    try:
        kept = classify(declared, b"x")
    except InvalidParameters:
        return
    assert kept.isascii()
    assert kept.isprintable()


def test_a_type_has_255_characters_at_most() -> None:
    assert classify("a/" + "b" * 253, b"") == "a/" + "b" * 253


# --- large values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b'["' + b"x" * LARGE + b'"]', JSON),
        (b" " * LARGE + b"1", JSON),
        (b"[" + b"1," * (LARGE // 2) + b"1]", JSON),
        (b"x" * LARGE, TEXT),
        (b"[" + b"x" * LARGE, TEXT),
        # Characters that lie across the ends of what is read at once.
        (b"x" * ((1 << 20) - 1) + "é".encode() + b"x" * LARGE, TEXT),
        (b"x" + "😀".encode() * (LARGE // 4), TEXT),
        (b"x" * LARGE + b"\xc3", BYTES),
        (b"x" * LARGE + b"\xff", BYTES),
        (b'"' + b"x" * LARGE + b'\xff"', BYTES),
        (b"\xff" + b"x" * LARGE, BYTES),
        (b" " * LARGE, TEXT),
    ],
    ids=str,
)
def test_a_large_value_is_typed_by_all_of_it(value: bytes, content_type: str) -> None:
    with in_a_file(value) as file:
        assert detect(file) == content_type
        assert classify(JSON, file) == content_type
        assert still_true(JSON, file) == (content_type == JSON)


def test_only_the_value_counts_of_a_file_that_is_longer() -> None:
    with in_a_file(b"[1]\xff garbage", size=3) as file:
        assert detect(file) == JSON
    with in_a_file(b"text\xff", size=4) as file:
        assert detect(file) == TEXT
    with in_a_file(b"[1]", size=0) as file:
        assert detect(file) == TEXT


def test_a_file_that_has_shrunk_is_typed_by_what_is_left() -> None:
    for value, content_type in ((b"[1]", JSON), (b"text", TEXT), (b"\xff", BYTES), (b"", TEXT)):
        with in_a_file(value, size=1000) as file:
            assert detect(file) == content_type


# --- files, and types that were given before ---------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "content_type"),
    [
        ("a.json", b"{}", JSON),
        ("a.json", b"{", TEXT),
        ("a.json", b"\xff", BYTES),
        ("a.JSON", b"7", JSON),
        ("a.txt", b"{}", TEXT),
        ("a.txt", b"\xff", TEXT),
        ("A.TXT", b"", TEXT),
        ("a.md", b"# a", "text/markdown; charset=utf-8"),
        ("a.yaml", b"a: 1", "application/yaml"),
        ("a.yml", b"a: 1", "application/yaml"),
        ("a.csv", b"1", "text/csv; charset=utf-8"),
        ("a.png", b"{}", "image/png"),
        ("a.html", b"", "text/html"),
        ("deep/er/a.png", b"", "image/png"),
        ("a.json.txt", b"", TEXT),
        ("a.b/c", b"{}", JSON),
        ("a.png/c", b"text", TEXT),
        (".json", b"text", TEXT),
        (".png", b"\xff", BYTES),
        ("x/.png", b"\xff", BYTES),
        ("a.", b"text", TEXT),
        ("a", b"[]", JSON),
        ("a.unheard-of", b"[]", JSON),
        ("a/", b"[]", JSON),
        ("", b"", TEXT),
    ],
)
def test_a_file_nobody_wrote_here_is_typed_by_its_extension(
    key: str, value: bytes, content_type: str
) -> None:
    assert of_file(key, value) == content_type
    with in_a_file(value) as file:
        assert of_file(key, file) == content_type


@pytest.mark.parametrize(
    ("content_type", "value", "true"),
    [
        (JSON, b"{}", True),
        (JSON, b"{", False),
        (JSON + "; charset=utf-8", b"{", False),
        ("Application/JSON", b"{", False),
        (TEXT, b"\xff", True),
        ("image/png", b"{}", True),
        ("application/ld+json", b"{", True),
    ],
)
def test_only_json_can_become_untrue(content_type: str, value: bytes, true: bool) -> None:
    assert still_true(content_type, value) is true
