"""Lists of keys."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import nasty
from tests.contract.driver import Driver, Item, Page

SOME = ["a", "a/1", "a/2", "a/b/1", "a/b/2", "b", "b-c", "b/", "b//", "b/x", "c/d/e/f", "z"]


def fill(store: Driver, keys: list[str]) -> None:
    for start in range(0, len(keys), 100):
        store.batch_set([Item(key, key) for key in keys[start : start + 100]])


def ordered(keys: list[str]) -> list[str]:
    return sorted(set(keys), key=str.encode)


def folded(keys: list[str], prefix: str, delimiter: str) -> list[str]:
    """What a list should show, keys and common prefixes in one: brute force."""
    shown = []
    for key in ordered(keys):
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        shown.append(key if at < 0 else key[: at + len(delimiter)])
    return list(dict.fromkeys(shown))


def shown(page: Page) -> list[str]:
    return sorted([*page.keys, *page.prefixes], key=str.encode)


def test_an_empty_store_has_an_empty_list(store: Driver) -> None:
    page = store.list(total=True, delimiter="/", values=True)
    assert (page.keys, page.prefixes, page.total) == ([], [], 0)
    assert (page.has_more, page.next_cursor, page.next_after) == (False, None, None)


def test_keys_are_in_the_order_of_their_bytes(store: Driver) -> None:
    keys = [
        "\U0001f600",
        "\ufffd",
        "é",
        "z",
        "Z",
        "a",
        "a/b",
        "a.b",
        "a0",
        "\x01",
        "\ue000",
        "\ud7ff",
        "10",
        "9",
    ]
    fill(store, keys)
    assert store.all_keys() == sorted(keys, key=str.encode)


def test_items_tell_what_is_known_without_the_value(store: Driver) -> None:
    store.set("k", b"12345", content_type="text/x", ttl=100)
    store.set("k", b"123456", content_type="text/x", ttl=100)
    item = store.list().items[0]
    got = store.get("k")
    assert (item.key, item.size, item.content_type, item.op_number) == ("k", 6, "text/x", 2)
    assert (item.created_at, item.updated_at, item.expire_at) == (
        got.created_at,
        got.updated_at,
        got.expire_at,
    )
    assert item.value is None


def test_values_come_with_the_items_if_asked_for(store: Driver) -> None:
    values = {"a": b"text", "b": b"\xff\0", "c": b"", "d": nasty.noise(300_000), "e/f": b"x"}
    for key, value in values.items():
        store.set(key, value)
    page = store.list(values=True)
    assert {item.key: item.value for item in page.items} == values
    page = store.list(values=True, delimiter="/")
    assert {item.key: item.value for item in page.items} == {key: values[key] for key in "abcd"}
    assert page.prefixes == ["e/"]


def test_a_prefix_narrows_the_list(store: Driver) -> None:
    fill(store, SOME)
    for prefix in ("", "a", "a/", "a/b/", "b", "b/", "b//", "c/d", "nothing", "zz", "\U0010ffff"):
        expected = [key for key in ordered(SOME) if key.startswith(prefix)]
        page = store.list(prefix=prefix, total=True)
        assert (page.keys, page.total) == (expected, len(expected)), prefix


def test_a_prefix_may_end_at_the_last_character_there_is(store: Driver) -> None:
    keys = [
        "\U0010ffff",
        "\U0010ffff\U0010ffff",
        "\ud7ff",
        "\ud7ffx",
        "\ue000",
        "a\U0010ffff",
        "a\U0010ffffx",
        "b",
    ]
    fill(store, keys)
    for prefix in ("\U0010ffff", "\ud7ff", "a\U0010ffff", "a"):
        assert store.list(prefix=prefix).keys == [key for key in ordered(keys) if key.startswith(prefix)]


def test_pages_by_cursor_give_every_key_once(store: Driver) -> None:
    fill(store, SOME)
    keys: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = store.list(limit=5, offset=cursor)
        assert page.has_more is (page.next_cursor is not None) is (page.next_after is not None)
        assert len(page.keys) <= 5
        keys += page.keys
        cursor = page.next_cursor
    assert keys == ordered(SOME)


def test_pages_by_the_last_key_give_every_key_once(store: Driver) -> None:
    fill(store, SOME)
    keys: list[str] = []
    after: str | None = None
    while True:
        page = store.list(limit=5, after=after, prefix="a")
        keys += page.keys
        after = page.next_after
        if after is None:
            break
    assert keys == [key for key in ordered(SOME) if key.startswith("a")]


def test_there_is_more_only_where_there_is_more(store: Driver) -> None:
    fill(store, SOME)
    for limit in (1, 2, 3, 11, 12, 13, 10_000):
        page = store.list(limit=limit, total=True)
        assert page.keys == ordered(SOME)[:limit]
        assert page.has_more is (limit < len(SOME))
        assert page.total == len(SOME)


def test_the_limit_is_100_unless_said_otherwise(store: Driver) -> None:
    keys = [f"k{number:03}" for number in range(150)]
    fill(store, keys)
    page = store.list(total=True)
    assert (page.keys, page.has_more, page.total) == (keys[:100], True, 150)
    assert store.list(limit=10_000).keys == keys


def test_an_offset_skips(store: Driver) -> None:
    fill(store, SOME)
    for offset in (0, 1, 5, 11, 12, 100, 2**40):
        assert store.list(offset=offset).keys == ordered(SOME)[offset:]
        assert store.list(offset=offset, limit=2).keys == ordered(SOME)[offset : offset + 2]


def test_after_need_not_be_a_key(store: Driver) -> None:
    fill(store, SOME)
    for after in ("", "A", "a", "a/b", "a/b/1", "a/zz", "b/x", "z", "zz"):
        expected = [key for key in ordered(SOME) if key.encode() > after.encode()]
        assert store.list(after=after).keys == expected, after
        in_a = [key for key in expected if key.startswith("a/")]
        assert store.list(after=after, prefix="a/").keys == in_a, after


def test_after_stays_right_when_keys_come_and_go(store: Driver) -> None:
    fill(store, ["b", "d", "f", "h"])
    page = store.list(limit=2)
    assert page.next_after == "d"
    store.delete("d")
    store.set("a", b"x")
    store.set("e", b"x")
    assert store.list(limit=2, after=page.next_after).keys == ["e", "f"]


def test_a_delimiter_folds_deeper_levels(store: Driver) -> None:
    fill(store, SOME)
    page = store.list(delimiter="/", total=True)
    assert (page.keys, page.prefixes) == (["a", "b", "b-c", "z"], ["a/", "b/", "c/"])
    assert page.total == 7
    page = store.list(delimiter="/", prefix="a/")
    assert (page.keys, page.prefixes) == (["a/1", "a/2"], ["a/b/"])
    page = store.list(delimiter="/", prefix="a")
    assert (page.keys, page.prefixes) == (["a"], ["a/"])
    page = store.list(delimiter="/", prefix="c/d")
    assert (page.keys, page.prefixes) == ([], ["c/d/"])


@pytest.mark.parametrize("delimiter", ["/", "b", "//", "-", "é", "no such"])
def test_a_delimiter_may_be_any_text(store: Driver, delimiter: str) -> None:
    keys = [*SOME, "éa", "aéb", "a/é/é"]
    fill(store, keys)
    for prefix in ("", "a", "a/", "b/"):
        page = store.list(delimiter=delimiter, prefix=prefix, total=True)
        expected = folded(keys, prefix, delimiter)
        assert shown(page) == expected, prefix
        assert page.total == len(expected)
        assert all(key in keys for key in page.keys)
        assert all(common.endswith(delimiter) for common in page.prefixes)


def test_folded_pages_give_everything_once(store: Driver) -> None:
    fill(store, SOME)
    for limit in (1, 2, 3):
        for prefix in ("", "a", "a/", "b"):
            folded_pages_give_everything_once(store, limit, prefix)


def folded_pages_give_everything_once(store: Driver, limit: int, prefix: str) -> None:
    expected = folded(SOME, prefix, "/")
    by_after: list[str] = []
    after: str | None = None
    while True:
        page = store.list(limit=limit, after=after, prefix=prefix, delimiter="/")
        by_after += shown(page)
        assert page.has_more is (len(by_after) < len(expected))
        after = page.next_after
        if after is None:
            break
    assert by_after == expected
    by_cursor: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = store.list(limit=limit, offset=cursor, prefix=prefix, delimiter="/", total=True)
        assert page.total == len(expected)
        by_cursor += shown(page)
        cursor = page.next_cursor
    assert by_cursor == expected


def test_a_folded_page_beyond_a_key_inside_a_fold_begins_after_it(store: Driver) -> None:
    fill(store, SOME)
    assert shown(store.list(delimiter="/", after="a/2")) == ["b", "b-c", "b/", "c/", "z"]
    assert shown(store.list(delimiter="/", after="a/")) == ["b", "b-c", "b/", "c/", "z"]
    assert shown(store.list(delimiter="/", after="a")) == ["a/", "b", "b-c", "b/", "c/", "z"]
    assert shown(store.list(delimiter="/", prefix="a/", after="a/b/1")) == []
    assert shown(store.list(delimiter="/", prefix="b", after="a")) == ["b", "b-c", "b/"]


def test_a_long_run_of_folded_keys_counts_as_one(store: Driver) -> None:
    keys = [f"logs/{number:03}" for number in range(250)] + ["a", "logs", "z"]
    fill(store, keys)
    page = store.list(delimiter="/", limit=3, total=True)
    assert (page.keys, page.prefixes, page.total) == (["a", "logs"], ["logs/"], 4)
    assert page.has_more is True
    assert store.list(delimiter="/", offset=3).keys == ["z"]


def test_the_list_follows_writes_at_once(store: Driver) -> None:
    cursors = {store.cursor()}
    for key in ("b", "a", "c/d"):
        store.set(key, b"x")
        assert key in store.all_keys()
        cursors.add(store.cursor())
    store.delete("a")
    assert store.all_keys() == ["b", "c/d"]
    cursors.add(store.cursor())
    assert len(cursors) == 5


_few_keys = st.lists(
    st.one_of(nasty.keys, st.text("ab/", min_size=1, max_size=6)), min_size=1, max_size=12, unique=True
)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=_few_keys,
    prefix=st.text("ab/%.", max_size=3),
    delimiter=st.sampled_from(["", "/", "a", "b/", "//"]),
    limit=st.integers(1, 4),
)
@example(keys=["a/", "a//", "a/b", "a"], prefix="a", delimiter="/", limit=1)
def test_any_list_is_what_brute_force_makes_of_it(
    store: Driver, keys: list[str], prefix: str, delimiter: str, limit: int
) -> None:
    fill(store, keys)
    expected = folded(keys, prefix, delimiter)
    found: list[str] = []
    after: str | None = None
    while True:
        page = store.list(prefix=prefix, delimiter=delimiter, limit=limit, after=after, total=True)
        assert page.total == len(expected)
        assert shown(store.list(prefix=prefix, delimiter=delimiter, limit=limit, offset=len(found))) == shown(
            page
        )
        found += shown(page)
        after = page.next_after
        if after is None:
            break
    assert found == expected
    store.batch_delete(keys)
