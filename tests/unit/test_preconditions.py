"""Conditional headers and ranges, as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from kvfs.errors import CasMismatch, InvalidParameters
from kvfs.model import UNCONDITIONAL, Conditions
from server.errors import RangeNotSatisfiable
from server.preconditions import conditions, not_modified, wanted

TAGS = st.lists(
    st.tuples(st.booleans(), st.text(alphabet=st.characters(min_codepoint=0x23, max_codepoint=0x7E))),
    min_size=1,
)


def headers(*lines: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(lines))


def listed(tags: list[tuple[bool, str]]) -> str:
    return ", ".join(("W/" if weak else "") + f'"{tag}"' for weak, tag in tags)


def test_no_header_is_no_condition() -> None:
    assert conditions(headers()) is UNCONDITIONAL
    assert conditions(headers(), value=b"") == Conditions(value=b"")


@given(TAGS)
def test_if_match_compares_strongly(tags: list[tuple[bool, str]]) -> None:
    strong = tuple(tag for weak, tag in tags if not weak)
    assert conditions(headers(("If-Match", listed(tags)))) == Conditions(etags=strong)


@given(TAGS)
def test_if_none_match_compares_weakly(tags: list[tuple[bool, str]]) -> None:
    every = tuple(tag for _, tag in tags)
    assert conditions(headers(("if-none-match", listed(tags)))) == Conditions(none_of=every)
    for _, tag in tags:
        assert not_modified(headers(("If-None-Match", listed(tags))), tag)
    assert not not_modified(headers(("If-None-Match", listed(tags))), "another\tone")


def test_a_star_asks_whether_there_is_a_key() -> None:
    assert conditions(headers(("If-Match", "*"))) == Conditions(exists=True)
    assert conditions(headers(("If-None-Match", " * "))) == Conditions(exists=False)
    assert not_modified(headers(("If-None-Match", "*")), "1")


def test_a_header_on_several_lines_is_one_list() -> None:
    lines = headers(("If-Match", '"1"'), ("If-Match", '"2" ,W/"3"'))
    assert conditions(lines) == Conditions(etags=("1", "2"))


def test_all_conditions_together_must_hold() -> None:
    both = headers(("If-Match", '"1", "2"'), ("If-None-Match", '"2"'))
    assert conditions(both, value=b"x") == Conditions(value=b"x", etags=("1", "2"), none_of=("2",))


def test_there_is_and_there_is_not_contradict_each_other() -> None:
    with pytest.raises(InvalidParameters, match="contradict"):
        conditions(headers(("If-Match", "*"), ("If-None-Match", "*")))


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize(
    "text", ["", "7", '"7', '7"', '"7" "8"', '"7", 8', '"7", *', 'w/"7"', '"a b"', '"a"b"']
)
def test_a_malformed_list_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidParameters, match=name):
        conditions(headers((name, text)))
    with pytest.raises(InvalidParameters, match=name):
        not_modified(headers((name, text)), "7")


def test_a_list_may_have_empty_elements() -> None:
    assert conditions(headers(("If-Match", ', "1",, "2" ,'))) == Conditions(etags=("1", "2"))


def test_a_read_may_demand_a_version() -> None:
    assert not not_modified(headers(("If-Match", '"7"')), "7")
    assert not not_modified(headers(("If-Match", "*")), "7")
    for tags in ('"8"', 'W/"7"'):
        with pytest.raises(CasMismatch) as caught:
            not_modified(headers(("If-Match", tags)), "7")
        assert caught.value.details == {"current_etag": "7"}


@given(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_a_range_is_that_stretch_of_the_value(size: int, first: int, length: int) -> None:
    value = range(size)
    if first < size:
        expected = value[first : first + length + 1]
        assert wanted(headers(("Range", f"bytes={first}-{first + length}")), "1", size) == expected
        assert wanted(headers(("Range", f"bytes={first}-")), "1", size) == value[first:]
    else:
        with pytest.raises(RangeNotSatisfiable) as caught:
            wanted(headers(("Range", f"bytes={first}-")), "1", size)
        assert caught.value.size == size


@given(st.integers(1, 1000), st.integers(1, 2000))
def test_a_suffix_range_is_the_end_of_the_value(size: int, length: int) -> None:
    assert wanted(headers(("Range", f"bytes=-{length}")), "1", size) == range(size)[-length:]


@pytest.mark.parametrize(
    ("text", "size"), [("bytes=-0", 5), ("bytes=0-", 0), ("bytes=-1", 0), ("bytes=5-9", 5)]
)
def test_a_range_beyond_the_end_cannot_be_satisfied(text: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable):
        wanted(headers(("Range", text)), "1", size)


@pytest.mark.parametrize(
    "text",
    [
        "", "bytes", "bytes=", "bytes=-", "bytes=3-2", "bytes=0-1,3-4", "bytes=a-b", "lines=0-1", "bytes=1",
        "bytes=+1-2", "bytes=0x1-2", "bytes=٣-", "bytes=" + "9" * 20 + "-",
    ],
)  # fmt: skip
def test_what_is_not_one_range_is_ignored(text: str) -> None:
    assert wanted(headers(("Range", text)), "1", 10) is None


def test_a_range_of_another_version_is_ignored() -> None:
    for if_range, expected in (
        ('"1"', range(2, 5)),
        ('"2"', None),
        ('W/"1"', None),
        ("Sat, 21 Nov 2026", None),
    ):
        lines = headers(("Range", "bytes=2-4"), ("If-Range", if_range))
        assert wanted(lines, "1", 10) == expected


@given(st.text())
def test_any_header_is_answered_or_refused(text: str) -> None:
    for name in ("If-Match", "If-None-Match"):
        try:
            conditions(headers((name, text)))
        except InvalidParameters:
            continue
    try:
        wanted(headers(("Range", text)), "1", 10)
    except RangeNotSatisfiable:
        return
