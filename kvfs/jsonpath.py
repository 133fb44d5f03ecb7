r"""Reads and edits one node of a JSON document; what the path does not touch keeps its exact tokens.

The text work is SQLite's: a document becomes JSONB, which keeps key order, escapes and the digits of
every number, and loses only the white space between tokens. What SQLite's functions do by themselves and
must not do here, and what is done about it:

- They take JSON5, and stop at a NUL character. So `json_valid` is asked first, and a NUL is no JSON.
- `json_set` leaves the document as it is, and says nothing, where the path leads through a scalar, a
  null or past the end of an array. So the path is walked first, and what is missing is added in one piece.
- It makes documents nested too deep for SQLite to read again, and no path may have 1000 steps. So depth
  is counted before the edit, and paths are a little shorter than documents are deep.
- Of members with the same name it sees the first, JSON.parse and most others the last. So the shadowed
  ones are dropped before a step goes through such a name; names off the path stay as they are.
- It reads names up to a NUL character only, and takes "a\u0000b" for "a". So a path has no NUL, and where
  a name of the document could be mistaken so, the path is refused.
- `json_each` gives numbers as doubles. So elements are compared here, by their tokens.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from typing import Any, Final

import apsw
import orjson

MAX_DEPTH: Final = 1000
"""Arrays and objects inside each other; SQLite reads no more."""

MAX_STEPS: Final = MAX_DEPTH - 2
"""The steps of a path into a document; SQLite takes 999, one of which an array edit needs."""

_MAX_SAME_NAMES: Final = 100  # each one moves the rest of the document


class JsonPathError(ValueError):
    """The path is no path, or the edit is impossible; the message says where."""


class NotJsonError(JsonPathError):
    """The document or the node is not JSON, or nested deeper than `MAX_DEPTH`."""


class NodeNotFound(LookupError):
    """The path leads nowhere."""


# --- paths -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Name:
    """A dotted step: a member of an object, or, if it is all digits, an element of an array.

    The text has no NUL and no lone surrogate.
    """

    text: str

    def __str__(self) -> str:
        return "." + _SPECIAL.sub(r"\\\g<0>", self.text)

    def position(self, length: int) -> int | None:
        """The place in an array of this length, maybe past its end; None if the step cannot mean one."""
        return int(self.text) if _POSITION.fullmatch(self.text) else None


@dataclass(frozen=True, slots=True)
class Index:
    """A bracketed step: an element of an array; a negative number counts from its end."""

    number: int

    def __str__(self) -> str:
        return f"[{self.number}]"

    def position(self, length: int) -> int | None:
        """The place in an array of this length, maybe past its end; None if it would be before its start."""
        position = self.number + length if self.number < 0 else self.number
        return position if position >= 0 else None


Path = tuple[Name | Index, ...]
"""The way from the whole document, `()`, to a node."""

_STEP: Final = re.compile(r"\[(-?[0-9]{1,9})\]|(?:\A|(?!\A)\.)((?:[^.\[\]\\]|\\[.\[\]\\$])+)(?=[.\[]|\Z)")
_UNSPEAKABLE: Final = re.compile("[\0\ud800-\udfff]")
_ESCAPED: Final = re.compile(r"\\(.)")
_SPECIAL: Final = re.compile(r"[.\[\]\\]")
_POSITION: Final = re.compile(r"[0-9]{1,9}")


def parse(path: str) -> Path:
    r"""The steps of `prefs.theme`, `tags.0`, `tags[-1]` or `$.prefs`; `$` alone is the whole document.

    A backslash makes `.`, `[`, `]`, `\` and `$` part of a name. `$` is special only at the start, alone or
    before `.` or `[`, so `$ref` is a name. Raises `JsonPathError` for anything else.
    """
    if not path or _UNSPEAKABLE.search(path):
        raise JsonPathError("A path must be Unicode text without NUL, and not empty; the whole document is $")
    steps: list[Name | Index] = []
    at = 1 if path[0] == "$" and path[1:2] in ("", ".", "[") else 0
    while at < len(path):
        step = _STEP.match(path, at)
        if not step:
            raise JsonPathError(
                f"Not a path: {path!r}, from character {at + 1}: steps are .name or [number] (9 digits);"
                r" in a name, \. \[ \] \\ stand for . [ ] \ "
            )
        steps.append(Index(int(step[1])) if step[1] else Name(_ESCAPED.sub(r"\1", step[2])))
        at = step.end()
    return tuple(steps)


def _show(path: Path) -> str:
    return "$" + "".join(map(str, path))


# --- SQLite ------------------------------------------------------------------------------------------

_IS_VALID: Final = "SELECT json_valid(?1)"
_TO_JSONB: Final = "SELECT CASE WHEN json_valid(?1) THEN jsonb(?1) END"
_LOOK: Final = "SELECT json_type(?1, ?2), json_array_length(?1, ?2)"
# The names from ?3 up to ?3 and U+0001 are ?3 itself, and those that SQLite's paths take for it.
_SAME_NAMES: Final = "SELECT count(*), total(key = ?3) FROM json_each(?1, ?2) WHERE key >= ?3 AND key < ?4"
_READ: Final = "SELECT ?1 -> ?2"
_SET: Final = "SELECT json_set(?1, ?2, json(?3))"
_REMOVE: Final = "SELECT json_remove(?1, ?2)"

_KINDS: Final = {
    "array": "an array",
    "false": "a boolean",
    "integer": "a number",
    "null": "null",
    "object": "an object",
    "real": "a number",
    "text": "a string",
    "true": "a boolean",
}


class _Sqlite(threading.local):
    """One in-memory connection a thread: it holds no data, only SQLite's functions."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")


_sqlite: Final = _Sqlite()


def _ask(sql: str, *bindings: str | bytes) -> Any:
    """The value that a SELECT gives, or the tuple of them."""
    return _sqlite.connection.execute(sql, bindings).get


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a path leads, or how far: the node there, and the steps that lead nowhere from it."""

    document: bytes  # JSONB
    sql: str  # SQLite's path to the node
    kind: str  # what json_type calls it
    length: int  # of an array
    path: Path
    rest: Path

    def __str__(self) -> str:
        length = f" of {self.length}" if self.kind == "array" else ""
        return f"{_show(self.path)} is {_KINDS[self.kind]}{length}"

    def read(self) -> bytes:
        """The node's JSON text."""
        text: str = _ask(_READ, self.document, self.sql)
        return text.encode()

    def set(self, sql: str, node: bytes) -> bytes:
        """The document's text with a node put in at SQLite's path."""
        text: str = _ask(_SET, self.document, sql, node.decode())
        return text.encode()

    def remove(self, index: int) -> bytes:
        """The document's text without one element of the array that the node is."""
        text: str = _ask(_REMOVE, self.document, f"{self.sql}[{index}]")
        return text.encode()


def _locate(document: bytes, path: Path) -> _Place:
    """As far as the path leads in this document.

    Raises `NotJsonError`, and `JsonPathError` for more than `MAX_STEPS` and for a name that cannot be told
    from others.
    """
    if len(path) > MAX_STEPS:
        raise JsonPathError(f"The path has {len(path)} steps; {MAX_STEPS} are the most")
    text = _text(document)
    blob: bytes | None = None if text is None else _ask(_TO_JSONB, text)
    if blob is None:
        problem = f"nested deeper than {MAX_DEPTH} levels" if is_json(document) else "not JSON"
        raise NotJsonError(f"The document is {problem}")
    sql = "$"
    kind, length = _ask(_LOOK, blob, sql)
    for taken, step in enumerate(path):
        child = None
        if kind == "object" and isinstance(step, Name):
            child = _member(sql, step)
            blob = _without_shadowed(blob, sql, step, document)
        elif kind == "array" and (position := step.position(length)) is not None:
            child = f"{sql}[{position}]"
        child_kind, child_length = _ask(_LOOK, blob, child) if child else (None, None)
        if child is None or child_kind is None:
            return _Place(blob, sql, kind, length, path[:taken], path[taken:])
        sql, kind, length = child, child_kind, child_length
    return _Place(blob, sql, kind, length, path, ())


def _without_shadowed(blob: bytes, sql: str, step: Name, document: bytes) -> bytes:
    """The JSONB document, where the object at `sql` has this name at most once: the last of them.

    `document` is its text: where the name stands there once, and no escape can hide another, SQLite need
    not go through the object's members.
    """
    quoted = orjson.dumps(step.text)
    hidden = b"\\u" in document or (b"/" in quoted and b"\\/" in document)
    if not hidden and document.count(quoted) <= 1:
        return blob
    copies, exact = _ask(_SAME_NAMES, blob, sql, step.text, step.text + "\x01")
    if exact < copies:
        raise JsonPathError(
            f"An object has a name that differs from {step.text!r} only after a NUL character"
        )
    if copies > _MAX_SAME_NAMES:
        raise JsonPathError(f"An object has the name {step.text!r} {copies} times")
    if copies > 1:
        # Each removal takes away what is then the first.
        blob = _ask(f"SELECT jsonb_remove(?1{', ?2' * (copies - 1)})", blob, _member(sql, step))
    return blob


def _member(sql: str, step: Name) -> str:
    return f"{sql}.{orjson.dumps(step.text).decode()}"


# --- JSON --------------------------------------------------------------------------------------------

_SMALL_BYTES: Final = 64 * 1024

_WHITE: Final = b" \t\r\n"
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS: Final = re.compile(_STRING, re.DOTALL)
_BRACKETS: Final = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_LEVELS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one up, one down
_FIRST_BYTES: Final = frozenset(bytes([byte]) for byte in b'{["-0123456789tfn')
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def starts_as_json(beginning: bytes) -> bool:
    """Whether JSON can begin so: with one of few bytes, after white space; white space alone is none."""
    return beginning.lstrip(_WHITE)[:1] in _FIRST_BYTES


def is_json(document: bytes) -> bool:
    """Whether this is JSON as RFC 8259 has it, UTF-8 without a byte order mark, nested however deep."""
    if not starts_as_json(document):
        return False
    if len(document) <= _SMALL_BYTES:  # SQLite is faster with the large ones: it builds no objects
        try:
            orjson.loads(document)
            return True
        except orjson.JSONDecodeError:
            pass  # it also refuses lone surrogates, numbers too large for a double, and 1024 levels
    text = _text(document)
    return text is not None and (_ask(_IS_VALID, text) == 1 or _is_deep_json(document))


def number(node: bytes) -> int | float | None:
    """The number that this text is, white space around it allowed, or None.

    Whole numbers are exact ints; with a fraction or an exponent they are floats, and None if too large for
    one. Raises `JsonPathError` for a whole number with more digits than Python makes an int of (4300).
    """
    token = _NUMBER.fullmatch(node.strip(_WHITE))
    if not token:
        return None
    if token[1] or token[2]:
        value = float(token[0])
        return value if abs(value) != float("inf") else None
    try:
        return int(token[0])
    except ValueError as error:
        raise JsonPathError(f"A number of {len(token[0])} digits is too long") from error


def _text(document: bytes) -> str | None:
    """The text of what might be JSON, None if it cannot be."""
    try:
        return None if b"\0" in document else document.decode()
    except UnicodeDecodeError:
        return None


def _is_deep_json(document: bytes) -> bool:
    """Whether UTF-8 text is JSON nested deeper than `MAX_DEPTH`.

    It is cut into pieces that SQLite can check: an array or object at each 1000th level becomes a piece of
    its own, and a 0 in the piece around it.
    """
    if document.lstrip(_WHITE)[:1] not in (b"[", b"{"):
        return False
    levels = memoryview(_STRINGS.sub(b"", document).translate(_LEVELS, _NO_BRACKETS)).cast("b")
    if sum(levels) or max(accumulate(levels), default=0) <= MAX_DEPTH:
        return False
    pieces: list[list[bytes]] = [[]]
    depth = start = 0
    for token in _BRACKETS.finditer(document):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth % MAX_DEPTH == 0:
                pieces[-1].append(document[start : token.start()])
                pieces.append([])
                start = token.start()
        elif token[0] in (b"]", b"}"):
            if depth == 0:
                return False
            if depth % MAX_DEPTH == 0:
                piece = b"".join(pieces.pop()) + document[start : token.end()]
                if not _ask(_IS_VALID, piece.decode()):
                    return False
                pieces[-1].append(b" 0 ")
                start = token.end()
            depth -= 1
    return bool(_ask(_IS_VALID, (b"".join(pieces[0]) + document[start:]).decode()))


def _check_node(node: bytes, levels: int) -> None:
    """Raises `NotJsonError` unless this is JSON, and not too deep with so many levels around it."""
    if not is_json(node):
        raise NotJsonError("The node is not JSON")
    if levels + node.count(b"[") + node.count(b"{") <= MAX_DEPTH:
        return
    if levels > MAX_DEPTH or not _ask(_IS_VALID, "[" * levels + node.decode() + "]" * levels):
        raise NotJsonError(f"The document would be nested deeper than {MAX_DEPTH} levels")


# --- nodes -------------------------------------------------------------------------------------------


def get(document: bytes, path: Path) -> bytes:
    """The JSON text of a node.

    Raises `NodeNotFound` where the path leads nowhere, `NotJsonError` where the document is not JSON.
    """
    node = find(document, path)
    if node is None:
        raise _nowhere(path)
    return node


def find(document: bytes, path: Path) -> bytes | None:
    """The JSON text of a node, None where the path leads nowhere; raises `NotJsonError`."""
    place = _locate(document, path)
    if place.rest:
        return None
    return place.read() if path else document


def put(document: bytes | None, path: Path, node: bytes) -> bytes:
    """The document (None: there is none yet) with this node put in; for the whole document, the node.

    What is missing or null on the way is made: objects, and an array for `[0]`. The index that equals an
    array's length appends. Raises `NotJsonError` where document or node is not JSON or the result would be
    too deep, and `JsonPathError` where the path leads through anything else or past the end of an array.
    """
    _check_node(node, len(path))
    if not path:
        return node
    if document is None:
        return _wrapped(path, 0, node)
    return _put(_locate(document, path), node)


def _put(place: _Place, node: bytes) -> bytes:
    """Replaces the node at a place, or adds what its path lacks."""
    if not place.rest:
        return place.set(place.sql, node)
    path, taken, step = place.path + place.rest, len(place.path), place.rest[0]
    if place.kind == "null":
        return place.set(place.sql, _wrapped(path, taken, node))
    if place.kind == "object" and isinstance(step, Name):
        return place.set(_member(place.sql, step), _wrapped(path, taken + 1, node))
    if place.kind == "array" and step.position(place.length) == place.length:
        return place.set(f"{place.sql}[#]", _wrapped(path, taken + 1, node))
    raise JsonPathError(f"{place}; nothing can be put at {step} of it")


def _wrapped(path: Path, taken: int, node: bytes) -> bytes:
    """What the steps of a path make around a node, where nothing is after those taken."""
    openers: list[bytes] = []
    closers: list[bytes] = []
    for depth, step in enumerate(path[taken:], taken):
        if isinstance(step, Index) and step.number != 0:
            raise JsonPathError(f"There is nothing at {_show(path[:depth])}: a new array starts with [0]")
        openers.append(b"{" + orjson.dumps(step.text) + b":" if isinstance(step, Name) else b"[")
        closers.append(b"}" if isinstance(step, Name) else b"]")
    return b"".join([*openers, node, *reversed(closers)])


def _nowhere(path: Path) -> NodeNotFound:
    return NodeNotFound(f"There is nothing at {_show(path)}")


# --- arrays ------------------------------------------------------------------------------------------

# Up to 15 digits tell doubles apart as they tell numbers; what matches might not, or orjson refuse it.
_SUBTLE: Final = re.compile(rb"[0-9.]{16}|[eE][+-]?[0-9]{3}|\\u[dD][89a-fA-F]")


def array_append(document: bytes | None, path: Path, node: bytes) -> tuple[bytes, int]:
    """The document (None: there is none yet) with this node at the end of an array, and the new length.

    A missing array is made, as by `put`; where something else is, null too, it is a `JsonPathError`.
    Raises `NotJsonError` as `put` does.
    """
    _check_node(node, len(path) + 1)
    if document is None:
        return _wrapped(path, 0, b"[" + node + b"]"), 1
    place = _locate(document, path)
    if place.rest:
        return _put(place, b"[" + node + b"]"), 1
    _check_array(place)
    return place.set(f"{place.sql}[#]", node), place.length + 1


def array_pop(document: bytes, path: Path) -> tuple[bytes, bytes | None, int]:
    """The document without the last element of an array, that element, and the new length.

    An empty array stays, and the element is None. Raises `NodeNotFound` where the path leads nowhere,
    `JsonPathError` where it leads to no array, `NotJsonError`.
    """
    place = _array(document, path)
    if not place.length:
        return document, None, 0
    popped: str = _ask(_READ, place.document, f"{place.sql}[{place.length - 1}]")
    return place.remove(place.length - 1), popped.encode(), place.length - 1


def array_remove_at(document: bytes, path: Path, index: int) -> tuple[bytes, int]:
    """The document without an element of an array, and the new length; a negative index is from the end.

    Raises `NodeNotFound` where the path leads nowhere, `JsonPathError` where it leads to no array or the
    array has no such element, `NotJsonError`.
    """
    place = _array(document, path)
    if not -place.length <= index < place.length:
        raise JsonPathError(f"{place}; index {index} is out of range")
    return place.remove(index % place.length), place.length - 1


def array_remove_equal(document: bytes, path: Path, node: bytes) -> tuple[bytes, int, int]:
    """The document without the first element equal to this node, how many were removed (0, 1), the length.

    Values are compared: numbers exactly at any size, and 1 is 1.0 but not true; strings by what their
    escapes mean; objects by their members in any order, the last of each name. Raises `NodeNotFound` where
    the path leads nowhere, `JsonPathError` where it leads to no array, `NotJsonError`.
    """
    _check_node(node, 0)
    place = _array(document, path)
    elements = place.read()
    exact = bool(_SUBTLE.search(elements) or _SUBTLE.search(node))
    wanted = _value(node, exact=exact)
    for index, element in enumerate(_value(elements, exact=exact)):
        if _equal(element, wanted):
            return place.remove(index), 1, place.length - 1
    return document, 0, place.length


def _array(document: bytes, path: Path) -> _Place:
    place = _locate(document, path)
    if place.rest:
        raise _nowhere(path)
    _check_array(place)
    return place


def _check_array(place: _Place) -> None:
    if place.kind != "array":
        raise JsonPathError(f"{place}, not an array")


def _value(node: bytes, *, exact: bool) -> Any:
    if not exact:
        return orjson.loads(node)
    try:
        return json.loads(node, parse_int=_exact, parse_float=_exact)
    except RecursionError as error:  # some hundred levels, less what the caller's stack takes
        raise JsonPathError("The array is nested too deep to compare its numbers exactly") from error


def _exact(token: str) -> Decimal | tuple[str]:
    try:
        return Decimal(token)
    except InvalidOperation:  # an exponent of 19 digits: equal only to itself, and to no string
        return (token,)


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal as JSON has it. Python's == takes true for 1, and recurses."""
    pending = [(one, other)]
    while pending:
        a, b = pending.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            pending.extend((a[name], b[name]) for name in a)
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            pending.extend(zip(a, b, strict=True))
        elif isinstance(a, bool) is not isinstance(b, bool) or a != b:
            return False
    return True
