"""`kvfs.jsonpath`: paths, reads and edits, and that what is not touched keeps its exact tokens.

The properties compare it with a model that edits trees of tokens: a scalar is its text, an array a list,
an object an `Obj` of (name token, node) pairs, so the last digit and the last escape count.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvfs import jsonpath
from kvfs.jsonpath import (
    MAX_DEPTH,
    MAX_STEPS,
    Index,
    JsonPathError,
    Name,
    NodeNotFound,
    NotJsonError,
    Path,
    parse,
)

# --- the model ---------------------------------------------------------------------------------------


class Impossible(Exception):
    pass


@dataclass
class Obj:
    members: list[tuple[str, Any]]

    def places(self, name: str) -> list[int]:
        """Where this name is; impossible where SQLite could take another one for it."""
        names = [json.loads(token) for token, _ in self.members]
        if any(other.startswith(name + "\0") for other in names):
            raise Impossible
        return [place for place, other in enumerate(names) if other == name]


MISSING = object()


def text_of(node: Any) -> str:
    if isinstance(node, Obj):
        return "{" + ",".join(f"{token}:{text_of(value)}" for token, value in node.members) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(text_of, node)) + "]"
    assert isinstance(node, str)
    return node


def position(step: Name | Index, length: int) -> int | None:
    if isinstance(step, Index):
        at = step.number + length if step.number < 0 else step.number
        return at if at >= 0 else None
    return int(step.text) if step.text in ("0", "1", "2") else None


def model_find(node: Any, path: Path) -> Any:
    for step in path:
        if isinstance(node, Obj) and isinstance(step, Name) and node.places(step.text):
            node = node.members[node.places(step.text)[-1]][1]
        elif isinstance(node, list) and (position(step, len(node)) or 0) < len(node):
            at = position(step, len(node))
            if at is None:
                return MISSING
            node = node[at]
        else:
            return MISSING
    return node


def model_put(node: Any, path: Path, new: Any) -> Any:
    """The node with another put in; shadowed members of the names on the way are gone."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    if node is MISSING or node == "null":
        if isinstance(step, Name):
            return Obj([(orjson.dumps(step.text).decode(), model_put(MISSING, rest, new))])
        if step.number == 0:
            return [model_put(MISSING, rest, new)]
    if isinstance(node, Obj) and isinstance(step, Name):
        places = node.places(step.text)
        old = node.members[places[-1]][1] if places else MISSING
        token = node.members[places[-1]][0] if places else orjson.dumps(step.text).decode()
        member = (token, model_put(old, rest, new))
        if not places:
            return Obj([*node.members, member])
        before = [pair for place, pair in enumerate(node.members[: places[-1]]) if place not in places]
        return Obj([*before, member, *node.members[places[-1] + 1 :]])
    if isinstance(node, list):
        at = position(step, len(node))
        if at is not None and at <= len(node):
            old = node[at] if at < len(node) else MISSING
            return [*node[:at], model_put(old, rest, new), *node[at + 1 :]]
    raise Impossible


NAMES = ["a", "b", "0", "1", "a.b", 'q"', "\\", "/", "é", "[", "$", "", "\n", "😀", "\\u0061"]
SPELLINGS = [
    '"\\u0061"',
    '"\\/"',
    '"\\u002f"',
    '"\\u00e9"',
    '"\\ud83d\\ude00"',
    '"\\u000a"',
    '"\\ud800"',
    '"b\\u0000"',
]
TOKENS = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1.0",
    "1e5",
    "1E+05",
    "-0.0e-0",
    "123456789012345678901234567890",
]
TOKENS += [
    "1e999",
    "0.1000000000000000055",
    '"\\u0041\\/"',
    '"\\u0000"',
    '"\\uDfff x"',
    '"é😀\u2028\x7f"',
    '""',
]

name_tokens = st.sampled_from([json.dumps(n, ensure_ascii=False) for n in NAMES] + SPELLINGS)
scalars = st.sampled_from(TOKENS) | st.text(max_size=5).map(json.dumps) | st.integers().map(str)
nodes: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(name_tokens, inner), max_size=5).map(Obj),
    max_leaves=12,
)
steps = st.sampled_from(NAMES).map(Name) | st.integers(-3, 3).map(Index)
any_paths: st.SearchStrategy[Path] = st.lists(steps, max_size=4).map(tuple)
whites = st.sampled_from(["", " ", "\n\t", "\r\n  "])


@st.composite
def situations(draw: st.DrawFn) -> tuple[Any, Path]:
    """A document and a path, which mostly leads somewhere in it."""
    document = draw(nodes)
    path: list[Name | Index] = []
    node = document
    while draw(st.integers(0, 4)):
        if isinstance(node, Obj) and node.members:
            token, node = draw(st.sampled_from(node.members))
            if json.loads(token) in ("\ud800", "b\0"):
                break
            path.append(Name(json.loads(token)))
        elif isinstance(node, list) and node:
            at = draw(st.integers(-len(node), len(node) - 1))
            path.append(Name(str(at)) if 0 <= at < 3 and draw(st.booleans()) else Index(at))
            node = node[at]
        else:
            break
    return document, tuple(path) + draw(st.just(()) | any_paths)


def found_at(node: Any, path: Path) -> Any:
    """What the model finds, in a property that says nothing of paths that lead nowhere."""
    try:
        found = model_find(node, path)
    except Impossible:
        found = MISSING
    assume(found is not MISSING)
    return found


def spaced(node: Any, white: str) -> bytes:
    """The document with white space between its tokens."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\[\]{},:"]+', text_of(node))
    return (white + white.join(tokens) + white).encode()


def minified(document: bytes) -> str:
    strings_or_white = r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+'
    return re.sub(strings_or_white, lambda found: found[1] or "", document.decode())


# --- properties --------------------------------------------------------------------------------------


@given(situations(), whites)
def test_get_gives_the_exact_tokens_of_the_node_that_the_model_finds(
    case: tuple[Any, Path], white: str
) -> None:
    node, path = case
    document = spaced(node, white)
    try:
        found = model_find(node, path)
    except Impossible:
        with pytest.raises(JsonPathError, match="NUL"):
            jsonpath.find(document, path)
        return
    if found is MISSING:
        assert jsonpath.find(document, path) is None
        with pytest.raises(NodeNotFound):
            jsonpath.get(document, path)
    else:
        assert minified(jsonpath.get(document, path)) == text_of(found)


@given(situations(), whites, nodes)
def test_put_changes_what_the_model_changes_and_keeps_every_other_token(
    case: tuple[Any, Path], white: str, new: Any
) -> None:
    node, path = case
    try:
        expected = model_put(node, path, new)
    except Impossible:
        with pytest.raises(JsonPathError):
            jsonpath.put(spaced(node, white), path, spaced(new, white))
    else:
        edited = jsonpath.put(spaced(node, white), path, spaced(new, white))
        assert minified(edited) == text_of(expected)
        assert minified(jsonpath.get(edited, path)) == text_of(new)


@given(any_paths, nodes)
def test_put_into_no_document_makes_what_it_makes_of_null(path: Path, new: Any) -> None:
    try:
        expected = model_put(MISSING, path, new)
    except Impossible:
        with pytest.raises(JsonPathError):
            jsonpath.put(None, path, text_of(new).encode())
    else:
        assert minified(jsonpath.put(None, path, text_of(new).encode())) == text_of(expected)


@given(situations(), whites, nodes)
def test_append_then_pop_gives_the_element_and_the_array_back(
    case: tuple[Any, Path], white: str, new: Any
) -> None:
    node, path = case
    found = found_at(node, path)
    document = spaced(node, white)
    if not isinstance(found, list):
        with pytest.raises(JsonPathError):
            jsonpath.array_append(document, path, b"1")
        with pytest.raises(JsonPathError):
            jsonpath.array_pop(document, path)
        return
    appended, length = jsonpath.array_append(document, path, spaced(new, white))
    assert length == len(found) + 1
    assert minified(appended) == text_of(model_put(node, path, [*found, new]))
    popped, element, length = jsonpath.array_pop(appended, path)
    assert element is not None
    assert (minified(element), length) == (text_of(new), len(found))
    assert minified(popped) == text_of(model_put(node, path, found))


@given(situations(), st.lists(nodes, max_size=4), st.integers(-5, 5))
def test_remove_at_takes_out_one_element_and_nothing_else(
    case: tuple[Any, Path], found: list[Any], index: int
) -> None:
    node, path = case
    found_at(node, path)
    node = model_put(node, path, found)
    document = text_of(node).encode()
    if not -len(found) <= index < len(found):
        with pytest.raises(JsonPathError, match="out of range"):
            jsonpath.array_remove_at(document, path, index)
        return
    kept = [element for place, element in enumerate(found) if place != index % len(found)]
    edited, length = jsonpath.array_remove_at(document, path, index)
    assert (minified(edited), length) == (text_of(model_put(node, path, kept)), len(kept))


@given(st.lists(nodes, max_size=6), nodes)
def test_remove_equal_takes_out_the_first_element_that_reads_the_same(elements: list[Any], new: Any) -> None:
    elements = [*elements, new]
    document = text_of(elements).encode()
    edited, removed, length = jsonpath.array_remove_equal(document, (), text_of(new).encode())
    assert (removed, length) == (1, len(elements) - 1)
    gone = next(
        place
        for place in range(len(elements))
        if minified(edited) == text_of(elements[:place] + elements[place + 1 :])
    )
    assert json.loads(text_of(elements[gone])) == json.loads(text_of(new))
    assert all(text_of(element) != text_of(new) for element in elements[:gone])


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
names = st.text(characters, min_size=1).map(Name)
indexes = st.integers(-(10**9) + 1, 10**9 - 1).map(Index)


@given(st.lists(names | indexes, min_size=1))
def test_a_path_written_out_reads_back_as_its_steps(path: list[Name | Index]) -> None:
    written = ""
    for step in path:
        if isinstance(step, Index):
            written += f"[{step.number}]"
        else:
            written += "." + re.sub(r"[.\[\]\\$]", r"\\\g<0>", step.text)
    assert parse("$" + written) == tuple(path)
    if isinstance(path[0], Name):
        assert parse(written[1:]) == tuple(path)


def refuse(constant: str) -> Any:
    raise ValueError(constant)


def python_says(text: bytes) -> bool:
    try:
        json.loads(text.decode(), parse_constant=refuse, parse_int=str, parse_float=str)
        return True
    except ValueError:
        return False


@given(nodes, st.data())
def test_is_json_agrees_with_pythons_parser_also_about_almost_json(node: Any, data: st.DataObject) -> None:
    text = bytearray(spaced(node, data.draw(whites)))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 1))] = data.draw(
            st.sampled_from(
                [b"", *(bytes([byte]) for byte in b"[]{},:\"'\\ \t\n\x00\x0b\x1f0123.-+eE/*_ntxNI\xc3\xff")]
            )
        )
    assert jsonpath.is_json(bytes(text)) == python_says(bytes(text))


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[0-9]+|[^ ]')


def pushdown_says(text: str) -> bool:
    """Whether a document of brackets, strings and digits is JSON, by a stack machine."""
    stack: list[str] = []
    due = "value"
    for token in _TOKEN.findall(text):
        if due in ("value", "value or ]") and ((token[0] == '"' and len(token) > 1) or token.isdigit()):
            due = "comma"
        elif due in ("value", "value or ]") and token in ("[", "{"):
            stack.append(token)
            due = "value or ]" if token == "[" else "name or }"
        elif due in ("name", "name or }") and token[0] == '"' and len(token) > 1:
            due = "colon"
        elif due == "colon" and token == ":":
            due = "value"
        elif due == "comma" and token == "," and stack:
            due = "value" if stack[-1] == "[" else "name"
        elif token in ("]", "}") and due in ("comma", f"value or {token}", f"name or {token}"):
            if not stack or stack.pop() + token not in ("[]", "{}"):
                return False
            due = "comma"
        else:
            return False
    return due == "comma" and not stack


@settings(deadline=None)
@given(st.data())
def test_is_json_agrees_with_a_stack_machine_about_deep_and_almost_deep_json(data: st.DataObject) -> None:
    motif = data.draw(
        st.lists(st.sampled_from(["[", '{"]":', "[1,", '{"a":{},"b":', "[[], "]), min_size=1, max_size=4)
    )
    depth = data.draw(st.sampled_from([1000, 1001, 1024, 1025, 1999, 2000, 2001, 3500]))
    openers = [motif[level % len(motif)] for level in range(depth)]
    closers = [',"z":[]}' if opener[0] == "{" else "]" for opener in reversed(openers)]
    text = "".join([*openers, data.draw(st.sampled_from(["", "1", '"["', "{}"])), *closers])
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(list('[]{}",: 1') + [""]))
            + text[at + data.draw(st.integers(0, 1)) :]
        )
    assert jsonpath.is_json(text.encode()) == pushdown_says(text)


# --- paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("prefs.theme", (Name("prefs"), Name("theme"))),
        ("tags.0", (Name("tags"), Name("0"))),
        ("tags[0]", (Name("tags"), Index(0))),
        ("tags[-1]", (Name("tags"), Index(-1))),
        ("[2][0].x", (Index(2), Index(0), Name("x"))),
        ("$", ()),
        ("$.a", (Name("a"),)),
        ("$[0]", (Index(0),)),
        ("$ref", (Name("$ref"),)),
        (r"\$", (Name("$"),)),
        ("a.$", (Name("a"), Name("$"))),
        (r"a\.b", (Name("a.b"),)),
        (r"a\\b\[0\]", (Name(r"a\b[0]"),)),
        ('"quoted" name', (Name('"quoted" name'),)),
        ("é.😀", (Name("é"), Name("😀"))),
    ],
)
def test_a_path_is_read_as_its_steps(path: str, steps: Path) -> None:
    assert parse(path) == steps


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        ".a",
        "a.",
        "a..b",
        "$.",
        "$..a",
        "[x]",
        "[]",
        "[",
        "[0",
        "a]",
        "[0]a",
        "a.[0]",
        "[1.5]",
        "[--1]",
        "[+1]",
    ]
    + ["a\\", "a\\x", "[ 0]", "[1234567890]", "[" + "9" * 100_000 + "]", "[٣]", "a\n[0", "\ud800", "a\0"],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(JsonPathError):
        parse(path)


def test_digits_after_a_dot_are_an_index_in_an_array_and_a_name_in_an_object() -> None:
    assert jsonpath.get(b'{"a":["x"],"b":{"0":"y"}}', parse("a.0")) == b'"x"'
    assert jsonpath.get(b'{"a":["x"],"b":{"0":"y"}}', parse("b.0")) == b'"y"'
    assert jsonpath.put(b"{}", parse("a.0"), b"1") == b'{"a":{"0":1}}'
    assert jsonpath.put(b"[]", parse("0"), b"1") == b"[1]"
    assert jsonpath.find(b"[1]", parse("9" * 5000)) is None
    assert jsonpath.find(b"[1]", parse("\u0660")) is None


# --- what is JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b" ",
        b"{a:1}",
        b"[1,]",
        b"'x'",
        b"0x10",
        b"+1",
        b".5",
        b"5.",
        b"01",
        b"NaN",
        b"Infinity",
        b"1\x00",
        b"1 2",
    ]
    + [
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"a\nb"',
        b'"\\x41"',
        b"[1]\x0b",
        b"// c\n1",
        b"[1}",
        b"tru",
    ],
)
def test_what_only_looks_like_json_is_refused_everywhere(document: bytes) -> None:
    assert not jsonpath.is_json(document)
    with pytest.raises(NotJsonError):
        jsonpath.get(document, ())
    with pytest.raises(NotJsonError):
        jsonpath.put(b"{}", (Name("a"),), document)
    with pytest.raises(NotJsonError):
        jsonpath.put(document, (Name("a"),), b"1")
    with pytest.raises(NotJsonError):
        jsonpath.array_remove_equal(b"[]", (), document)


@pytest.mark.parametrize(
    "document",
    [b'"\\ud800"', b"1e999", b"7" * 5000, b" [1]\r\n", b'"\\u0000"', b'"\x7f"', b'{"a":1,"a":2}', b"-0"],
)
def test_what_other_parsers_refuse_and_rfc_8259_does_not_is_json(document: bytes) -> None:
    assert jsonpath.is_json(document)
    assert jsonpath.get(document, ()) == document


def test_a_million_nested_brackets_are_json_and_half_of_them_are_not() -> None:
    half = 500_000
    assert jsonpath.is_json(b"[" * half + b"]" * half)
    assert jsonpath.is_json(b'{"[":' * half + b"1" + b"}" * half)
    assert not jsonpath.is_json(b"[" * half)
    assert not jsonpath.is_json(b"[" * half + b"]" * (half - 1) + b"}")


@pytest.mark.parametrize(
    "document",
    [
        "[]" + "]" * 1500 + "[" * 2600 + "]" * 1100,
        "[" * 999 + "1[[]]" + "]" * 999,
        "[" * 999 + '"a"[[]]' + "]" * 999,
        "[" * 999 + "{[[]]:1}" + "]" * 999,
        "[" * 1500 + '"' + "]" * 1500,
        "[" * 1500 + "\\" + "]" * 1500,
        "[" * 1500 + "]" * 1500 + "[]",
    ],
)
def test_deep_brackets_that_only_balance_are_not_json(document: str) -> None:
    assert not jsonpath.is_json(document.encode())


@pytest.mark.parametrize(("opener", "closer"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_path_into_json_deeper_than_the_limit_is_refused(opener: bytes, closer: bytes) -> None:
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        document = opener * depth + b"1" + closer * depth
        assert jsonpath.is_json(document)
        if depth == MAX_DEPTH:
            assert jsonpath.find(document, (Name("nowhere"),)) is None
        else:
            with pytest.raises(NotJsonError, match="deeper than 1000"):
                jsonpath.find(document, (Name("nowhere"),))


def test_the_deepest_document_can_be_read_and_edited_as_far_down_as_paths_reach() -> None:
    path = (Index(0),) * MAX_STEPS
    document = b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH
    assert jsonpath.get(document, path) == b"[[1]]"
    assert jsonpath.put(document, path, b"[[2]]") == document.replace(b"1", b"2")
    assert jsonpath.array_append(document, path, b"[2]") == (document.replace(b"[1]", b"[1],[2]"), 2)
    assert jsonpath.array_pop(document, path) == (document.replace(b"[1]", b""), b"[1]", 0)
    assert jsonpath.array_remove_equal(document, path, b"[1.0]") == (document.replace(b"[1]", b""), 1, 0)
    with pytest.raises(JsonPathError, match="999 steps"):
        jsonpath.find(document, (*path, Index(0)))


def test_no_edit_makes_a_document_deeper_than_the_limit() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert jsonpath.put(None, (), deepest) == deepest
    assert jsonpath.put(None, (Name("a"),) * MAX_DEPTH, b"1").count(b"{") == MAX_DEPTH
    for edit in (
        lambda: jsonpath.put(b"{}", (Name("a"),), deepest),
        lambda: jsonpath.put(None, (Name("a"),) * (MAX_DEPTH + 1), b"1"),
        lambda: jsonpath.put(b"{}", (Name("a"),) * 1_000_000, b"1"),
        lambda: jsonpath.array_append(b"[]", (), deepest),
        lambda: jsonpath.array_append(None, (Name("a"),) * MAX_DEPTH, b"1"),
        lambda: jsonpath.put(None, (), b"[" + deepest + b"]"),
    ):
        with pytest.raises(NotJsonError, match="deeper than 1000"):
            edit()
    # Brackets in strings count for nothing.
    assert jsonpath.put(b"{}", (Name("a"),), b'"' + b"[" * 2000 + b'"') == b'{"a":"' + b"[" * 2000 + b'"}'


# --- reading and writing -----------------------------------------------------------------------------


def test_a_path_that_leads_nowhere_is_named_in_the_error() -> None:
    with pytest.raises(NodeNotFound, match=re.escape(r"$.a\.b[3]")):
        jsonpath.get(b'{"a.b":[1]}', parse(r"a\.b[3]"))
    assert jsonpath.find(b'{"a":1}', parse("a.b")) is None
    assert jsonpath.find(b'{"a":1}', parse("[0]")) is None
    assert jsonpath.find(b"[1]", parse("[-2]")) is None


@pytest.mark.parametrize(
    ("document", "path", "place"),
    [
        (b'{"a":"x"}', "a.b", r"\$\.a is a string"),
        (b'{"a":{"b":1e5}}', "a.b.c", r"\$\.a\.b is a number"),
        (b'{"a":true}', "a[0]", r"\$\.a is a boolean"),
        (b'{"a":{}}', "a[0]", r"\$\.a is an object"),
        (b'{"a":[1]}', "a.b", r"\$\.a is an array of 1"),
        (b'{"a":[1]}', "a[2]", r"\$\.a is an array of 1"),
        (b'{"a":[1]}', "a[-2]", r"\$\.a is an array of 1"),
        (b'{"a":[]}', "a[-1]", r"\$\.a is an array of 0"),
        (b'{"a":null}', "a[1]", r"nothing at \$\.a"),
        (b"{}", "a.b[1].c", r"nothing at \$\.a\.b"),
        (b"1", "a", r"\$ is a number"),
    ],
)
def test_a_write_that_is_impossible_says_where(document: bytes, path: str, place: str) -> None:
    with pytest.raises(JsonPathError, match=place):
        jsonpath.put(document, parse(path), b"1")


def test_null_on_the_way_is_replaced_and_null_at_the_end_too() -> None:
    assert jsonpath.put(b'{"a":null}', parse("a.b[0].c"), b"1") == b'{"a":{"b":[{"c":1}]}}'
    assert jsonpath.put(b"null", parse("a"), b"1") == b'{"a":1}'
    assert jsonpath.put(b'{"a":null}', parse("a"), b"1") == b'{"a":1}'


def test_of_members_with_the_same_name_the_last_is_read_and_alone_survives_a_write_through_it() -> None:
    document = b'{"b":0,"a":1,"x":2,"\\u0061":{"k":3},"b":4}'
    assert jsonpath.get(document, parse("a.k")) == b"3"
    assert jsonpath.put(document, parse("a.k"), b"5") == b'{"b":0,"x":2,"\\u0061":{"k":5},"b":4}'
    assert jsonpath.put(document, parse("x"), b"6") == document.replace(b"2", b"6")
    assert jsonpath.get(b'{"/":1,"\\/":2}', parse("/")) == b"2"
    with pytest.raises(JsonPathError, match="200 times"):
        jsonpath.get(b"{" + b",".join([b'"a":1'] * 200) + b"}", parse("a"))


def test_a_name_that_sqlite_takes_for_another_is_refused_not_edited() -> None:
    document = b'{"a\\u0000b":1,"a":2,"x\\u0000":3}'
    with pytest.raises(JsonPathError, match="NUL"):
        jsonpath.put(document, parse("a"), b"5")
    with pytest.raises(JsonPathError, match="NUL"):
        jsonpath.find(document, parse("x"))
    assert jsonpath.put(document, parse("b"), b"5") == document.replace(b"}", b',"b":5}')


# --- arrays ------------------------------------------------------------------------------------------


def test_append_makes_the_array_that_is_missing_but_not_of_null() -> None:
    assert jsonpath.array_append(None, (), b"1.0") == (b"[1.0]", 1)
    assert jsonpath.array_append(None, parse("a.b"), b"1.0") == (b'{"a":{"b":[1.0]}}', 1)
    assert jsonpath.array_append(b'{"x":1}', parse("a.b"), b"2") == (b'{"x":1,"a":{"b":[2]}}', 1)
    with pytest.raises(JsonPathError, match=r"\$\.a is null, not an array"):
        jsonpath.array_append(b'{"a":null}', parse("a"), b"1")


def test_pop_of_an_empty_array_changes_nothing_and_of_a_null_element_gives_null() -> None:
    assert jsonpath.array_pop(b'{"a": [ ]}', parse("a")) == (b'{"a": [ ]}', None, 0)
    assert jsonpath.array_pop(b"[1,null]", ()) == (b"[1]", b"null", 1)
    with pytest.raises(NodeNotFound):
        jsonpath.array_pop(b"{}", parse("a"))
    with pytest.raises(JsonPathError, match="is an object, not an array"):
        jsonpath.array_pop(b"{}", ())


@pytest.mark.parametrize(
    ("element", "node", "equal"),
    [
        ("1", "1.0", True),
        ("1", "true", False),
        ("0", "false", False),
        ("[1]", "[true]", False),
        ("100", "1e2", True),
        ("0", "-0.0", True),
        ("null", "false", False),
        ("9007199254740993", "9007199254740992", False),
        ("9007199254740993", "9007199254740993.0", True),
        ("123456789012345678901234567890", "123456789012345678901234567891", False),
        ("123456789012345678901234567890", "1.2345678901234567890123456789e29", True),
        ("9999999999999999e0", "1e16", False),
        ("1e999", "1e998", False),
        ("1e999", "10e998", True),
        ("1e99999999999999999999", "1e99999999999999999999", True),
        ("1e99999999999999999999", '"1e99999999999999999999"', False),
        ("7" * 5000, "7" * 5000 + ".0", True),
        ("1234567890123456789", '"1234567890123456789"', False),
        ('"A/"', '"\\u0041\\/"', True),
        ('"😀"', '"\\ud83d\\ude00"', True),
        ('"\\ud800"', '"\\ud801"', False),
        ('"\\ud800"', '"\\uD800"', True),
        ('{"a":1,"b":[2]}', '{ "b" : [2.0], "a" : 1 }', True),
        ('{"a":1}', '{"a":1,"b":1}', False),
        ('{"a":1,"b":1}', '{"a":1}', False),
        ('{"a":0,"a":1}', '{"a":1}', True),
        ("[]", "{}", False),
        ("[1,2]", "[2,1]", False),
    ],
)
def test_remove_equal_compares_values_not_spellings(element: str, node: str, equal: bool) -> None:
    document = f'["other",{element}]'.encode()
    expected = (b'["other"]', 1, 1) if equal else (document, 0, 2)
    assert jsonpath.array_remove_equal(document, (), node.encode()) == expected


def test_remove_equal_of_large_numbers_at_great_depth_is_exact_or_refused() -> None:
    nested = b"[" * 990 + b"12345678901234567890" + b"]" * 990
    result: object
    try:
        result = jsonpath.array_remove_equal(b"[" + nested + b"]", (), nested)
    except JsonPathError as error:  # it depends on Python's parser
        result = str(error)
    assert result in ((b"[]", 1, 0), "The array is nested too deep to compare its numbers exactly")


# --- numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (b" 12\n", 12),
        (b"-0", 0),
        (b"1.0", 1.0),
        (b"1e5", 100000.0),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_a_number_is_an_int_if_it_is_written_as_one(node: bytes, value: float) -> None:
    number = jsonpath.number(node)
    assert number == value
    assert type(number) is type(value)


@pytest.mark.parametrize(
    "node",
    [
        b"",
        b"1e999",
        b"-1e999",
        b'"1"',
        b"true",
        b"null",
        b"+1",
        b"01",
        b"1.",
        b".5",
        b"1_0",
        b"0x1",
        b"NaN",
        b"1 2",
    ]
    + [b"inf", b"\xc2\xa01", b"\x0b1", "٣".encode(), b"[1]", b"1\x00"],
)
def test_what_is_no_number_is_none(node: bytes) -> None:
    assert jsonpath.number(node) is None


def test_a_number_too_long_for_python_is_refused_not_waited_for() -> None:
    with pytest.raises(JsonPathError, match="digits"):
        jsonpath.number(b"7" * 1_000_000)


# --- size and threads --------------------------------------------------------------------------------


def test_a_large_array_is_edited_in_its_middle_and_at_its_end() -> None:
    elements = [b"%d.0" % number for number in range(100_000)]
    document = b'{"a":[' + b",".join(elements) + b"]}"
    assert jsonpath.get(document, parse("a[-1]")) == b"99999.0"
    assert jsonpath.array_append(document, parse("a"), b"x".join([b'"', b'"']))[1] == 100_001
    assert jsonpath.array_pop(document, parse("a"))[1:] == (b"99999.0", 99_999)
    edited, removed, length = jsonpath.array_remove_equal(document, parse("a"), b"50000")
    assert (removed, length) == (1, 99_999)
    assert edited == document.replace(b",50000.0,", b",")


def test_each_thread_has_sqlite_to_itself() -> None:
    results: list[bytes] = []

    def edit(number: int) -> None:
        document = b"{}"
        for step in range(200):
            document = jsonpath.put(document, (Name(f"{number}"), Name(f"{step}")), b"1.0")
        results.append(document)

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(json.loads(document).popitem()[1]) for document in results) == [200] * 4
