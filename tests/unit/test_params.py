"""The query string: what a parameter says, however it is escaped, and what is refused."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.errors import InvalidParameters
from server.params import Params, Target, decode_path

TEXTS = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(TEXTS, TEXTS)
def test_text_comes_through_either_way_of_escaping(prefix: str, after: str) -> None:
    params = Params(f"prefix={quote(prefix, safe='')}&after={quote_plus(after)}")
    assert (params.text("prefix"), params.text("after")) == (prefix, after)


@given(st.binary())
def test_a_value_to_compare_comes_through_as_bytes(value: bytes) -> None:
    assert Params(f"if_match={quote(value, safe='')}").raw("if_match") == value


@given(st.binary())
def test_bytes_that_nobody_escaped_come_through_too(value: bytes) -> None:
    sent = value.translate(None, b"%+&=").decode(errors="surrogateescape")
    assert Params(f"if_match={sent}").raw("if_match") == value.translate(None, b"%+&=")


@given(st.text())
def test_any_query_can_be_parsed(query: str) -> None:
    Params(query.encode(errors="replace").decode())


def test_plus_and_percent_20_are_spaces() -> None:
    params = Params("prefix=a+b%20c%2Bd")
    assert params.text("prefix") == "a b c+d"


def test_what_is_no_escape_stays_as_it_is() -> None:
    assert Params("prefix=100%25%zz%2&x").text("prefix") == "100%%zz%2"


def test_names_may_be_escaped_too() -> None:
    assert Params("if%5Fmatch=x").raw("if_match") == b"x"


def test_a_name_without_a_value_is_empty() -> None:
    params = Params("if_match&prefix=")
    assert (params.raw("if_match"), params.text("prefix"), params.text("after")) == (b"", "", None)


def test_a_parameter_may_be_given_twice_if_it_says_the_same() -> None:
    assert Params("db=a%2Eb&db=a.b").db() == "a.b"


def test_a_parameter_that_contradicts_itself_is_refused_by_name() -> None:
    params = Params("limit=1&limit=2&db=x")
    assert params.db() == "x"
    with pytest.raises(InvalidParameters, match="limit is given twice"):
        params.integer("limit")


def test_an_unknown_parameter_never_matters() -> None:
    params = Params("%ff=%ff&other=1&other=2&db=x")
    assert params.target == Target("x", None, create=False)


@pytest.mark.parametrize("query", ["prefix=%ff", "prefix=%ed%a0%80", "prefix=a%00b"])
def test_text_must_be_utf_8_without_nul(query: str) -> None:
    with pytest.raises(InvalidParameters, match="prefix"):
        Params(query).text("prefix")


@given(st.integers(-(10**40), 10**40))
def test_integers_of_any_size_are_exact(number: int) -> None:
    assert Params(f"delta={number}").integer("delta") == number


@pytest.mark.parametrize(
    "text",
    ["", "-", "+5", "%2B5", "1.0", "1e3", "0x10", " 1", "1_000", "٣", "²", "--1", "1-", "NaN", "9" * 1001],
)
def test_what_is_no_decimal_integer_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidParameters, match="delta must be a decimal integer"):
        Params(f"delta={text}").integer("delta")


def test_an_integer_out_of_bounds_is_refused_by_name() -> None:
    with pytest.raises(InvalidParameters, match="limit must be 1 or more"):
        Params("limit=0").integer("limit", low=1)
    with pytest.raises(InvalidParameters, match="offset must be 9 or less"):
        Params("offset=10").integer("offset", high=9)


@pytest.mark.parametrize("word", ["true", "TRUE", "True", "1", "yes", "Yes", "%79es"])
def test_words_for_true(word: str) -> None:
    assert Params(f"total={word}").flag("total") is True


@pytest.mark.parametrize("word", ["false", "FALSE", "0", "no", "nO"])
def test_words_for_false(word: str) -> None:
    assert Params(f"total={word}").flag("total") is False


@pytest.mark.parametrize("word", ["", "2", "on", "y", "t", "01", "true+", "%00"])
def test_other_words_are_refused_by_name(word: str) -> None:
    with pytest.raises(InvalidParameters, match="total must be true"):
        Params(f"total={word}").flag("total")


@pytest.mark.parametrize(
    ("query", "timeout_s"),
    [("", 30), ("timeout=5", 5), ("timeout=0", 1), ("timeout=-9", 1), ("timeout=9999999999999", 300)],
)
def test_the_timeout_is_clamped(query: str, timeout_s: int) -> None:
    assert Params(query).timeout_s == timeout_s


def test_db_is_required() -> None:
    with pytest.raises(InvalidParameters, match="db is required"):
        _ = Params("table=t").target


@pytest.mark.parametrize("db", ["", "%00", "a%00b"])
def test_what_db_may_be_is_for_the_engine_to_say(db: str) -> None:
    assert Params(f"db={db}").db() == db.replace("%00", "\0")


@pytest.mark.parametrize(
    ("query", "create"),
    [
        ("db=x", False),
        ("db=x&create_db_if_missing=true", True),
        ("db=x&auto_create=1", True),
        ("db=x&auto_create=yes&create_db_if_missing=true", True),
        ("db=x&auto_create=0&create_db_if_missing=no", False),
    ],
)
def test_creation_has_two_names(query: str, create: bool) -> None:
    assert Params(query).target.create is create


def test_the_two_names_must_not_differ() -> None:
    with pytest.raises(InvalidParameters) as caught:
        _ = Params("db=x&auto_create=no&create_db_if_missing=true").target
    assert caught.value.message == "conflicting flags: create_db_if_missing and auto_create must match"


def test_history_is_kept_unless_it_is_refused() -> None:
    assert [Params(query).history for query in ("", "history=true", "history=no")] == [True, True, False]


def test_what_is_made_of_the_parameters_is_made_once() -> None:
    params = Params("limit=5")
    made: list[int | None] = []

    def make(given: Params) -> tuple[int | None]:
        made.append(given.integer("limit"))
        return (made[-1],)

    assert params.once(make) is params.once(make)
    assert made == [5]


@given(TEXTS)
def test_a_key_comes_through_escaped_or_not(key: str) -> None:
    assert decode_path(quote(key, safe="")) == key
    assert decode_path("".join(f"%{byte:02x}" for byte in key.encode())) == key


def test_plus_is_itself_in_a_path() -> None:
    assert decode_path("a+b%2Bc%20d%zz") == "a+b+c d%zz"


@pytest.mark.parametrize("raw", ["%ff", "%c3", "%ed%a0%80", "\udcff"])
def test_a_key_that_is_no_utf_8_is_refused(raw: str) -> None:
    with pytest.raises(InvalidParameters, match="UTF-8"):
        decode_path(raw)
