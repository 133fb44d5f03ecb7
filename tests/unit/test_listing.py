"""Pages against brute force, over the reference store's reader."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvfs.listing import Page, Query, page
from kvfs.model import Entry, Op, OpType, Origin
from kvfs.retention import Standing
from tests import nasty
from tests.reference import LOG_ID, ReferenceReader


def reader_of(keys: list[str], size: int = 1) -> ReferenceReader:
    """A store with these keys."""
    log = [
        Op(
            seq, key, 1, OpType.SET, Origin.API, seq,
            Entry(key, b"x" * size, size, "text/plain", 1, 1, None, 1),
        )
        for seq, key in enumerate(keys, 1)
    ]  # fmt: skip
    return ReferenceReader(log, now_ns=0, known=Standing())


def brute_force(keys: list[str], query: Query) -> list[str]:
    """All keys and common prefixes that all pages together should show."""
    shown: list[str] = []
    for key in sorted(keys, key=str.encode):
        if not key.startswith(query.prefix):
            continue
        at = key.find(query.delimiter, len(query.prefix)) if query.delimiter else -1
        name = key if at < 0 else key[: at + len(query.delimiter)]
        if name not in shown:
            shown.append(name)
    return shown


def shown_on(found: Page) -> list[str]:
    return sorted([*(entry.key for entry in found.entries), *found.prefixes], key=str.encode)


some_keys = st.lists(
    st.one_of(
        st.text("ab/", min_size=1, max_size=7), st.text("a/\U0010ffff", min_size=1, max_size=4), nasty.keys
    ),
    max_size=60,
    unique=True,
)
queries = st.builds(
    Query,
    prefix=st.one_of(st.just(""), st.text("ab/", max_size=3)),
    delimiter=st.sampled_from(["", "/", "a", "//", "b/", "\U0010ffff"]),
    limit=st.integers(1, 20),
    values=st.booleans(),
    total=st.just(True),
)


@settings(max_examples=200, deadline=None)
@given(some_keys, queries)
@example(["\U0010ffffa", "\U0010ffffb"], Query(delimiter="\U0010ffff", limit=1, total=True))
@example([f"a/{number}" for number in range(40)] + ["b"], Query(delimiter="/", limit=2, total=True))
def test_pages_after_each_other_show_everything_once(keys: list[str], query: Query) -> None:
    reader = reader_of(keys)
    expected = brute_force(keys, query)
    after: str | None = None
    found: list[str] = []
    while True:
        one = page(reader, replace(query, after=after))
        assert one.total == len(expected)
        assert one.cursor == (LOG_ID, len(keys))
        assert len(shown_on(one)) <= query.limit
        found += shown_on(one)
        assert one.has_more is (len(found) < len(expected))
        assert one.last == (found[-1] if shown_on(one) else None)
        assert all((entry.value is not None) is query.values for entry in one.entries)
        if not one.has_more:
            break
        after = one.last
    assert found == expected


@settings(max_examples=150, deadline=None)
@given(some_keys, queries, st.integers(0, 70))
def test_an_offset_is_so_many_places_further(keys: list[str], query: Query, offset: int) -> None:
    expected = brute_force(keys, query)
    one = page(reader_of(keys), replace(query, offset=offset))
    assert shown_on(one) == expected[offset : offset + query.limit]
    assert one.has_more is (len(expected) > offset + query.limit)


@settings(max_examples=150, deadline=None)
@given(some_keys, queries, st.text("ab/\U0010ffff", max_size=5))
def test_after_any_text_comes_what_is_beyond_it(keys: list[str], query: Query, after: str) -> None:
    def beyond(name: str) -> bool:
        # A common prefix that `after` lies in was shown before.
        return name.encode() > after.encode() and not (name not in keys and after.startswith(name))

    expected = [name for name in brute_force(keys, query) if beyond(name)]
    one = page(reader_of(keys), replace(query, after=after))
    assert shown_on(one) == expected[: query.limit]


def test_values_end_a_page_before_they_fill_the_memory() -> None:
    keys = [f"k{number}" for number in range(10)]
    large = 5 << 20
    for delimiter in ("", "/"):
        found: list[str] = []
        after: str | None = None
        while True:
            one = page(reader_of(keys, size=large), Query(values=True, after=after, delimiter=delimiter))
            assert 1 <= len(one.entries) <= 6
            found += [entry.key for entry in one.entries]
            if not one.has_more:
                break
            after = one.last
        assert found == keys


def test_one_value_larger_than_a_page_is_a_page() -> None:
    one = page(reader_of(["a", "b"], size=40 << 20), Query(values=True))
    assert [entry.key for entry in one.entries] == ["a"]
    assert one.has_more
