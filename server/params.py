"""The query string, parsed once, and its parameters, typed.

`+` and `%20` are spaces; what is no percent-escape stays as it is; escapes give bytes, which are UTF-8
without NUL except where a value is meant (`if_match`). A parameter that is given twice must say the same
both times: else it is contradictory, and asking for it raises. Unknown parameters are never asked for, so
they never matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from kvfs import jsonpath
from kvfs.errors import InvalidParameters
from server import times

T = TypeVar("T")

TIMEOUT_MIN_S: Final = 1
TIMEOUT_MAX_S: Final = 300
TIMEOUT_DEFAULT_S: Final = 30

_MAX_DIGITS: Final = 1000
_TRUE: Final = frozenset({"true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no"})


@dataclass(frozen=True, slots=True)
class Target:
    """Which store a request means, and whether it may be made."""

    db: str
    table: str | None
    create: bool


class Params:
    """The parameters of a query string.

    Each method raises `InvalidParameters`, naming the parameter, for what is malformed. Nothing changes
    after parsing, so one object can serve every request with the same query.
    """

    __slots__ = ("_contradicted", "_given", "_made", "_target", "_timeout_s")

    def __init__(self, query: str) -> None:
        self._given, self._contradicted = _parse(query)
        self._target: Target | None = None
        self._timeout_s: int | None = None
        self._made: dict[Callable[[Params], Any], Any] = {}

    def once(self, make: Callable[[Params], T]) -> T:
        """What `make` makes of the parameters: asked for by every request, made for the first."""
        made: T | None = self._made.get(make)
        if made is None:
            made = self._made[make] = make(self)
        return made

    # --- what every request has ---------------------------------------------------------------------------

    @property
    def timeout_s(self) -> int:
        """How long the request may take."""
        if self._timeout_s is None:
            timeout_s = self.integer("timeout")
            if timeout_s is None:
                timeout_s = TIMEOUT_DEFAULT_S
            self._timeout_s = max(TIMEOUT_MIN_S, min(timeout_s, TIMEOUT_MAX_S))
        return self._timeout_s

    @property
    def target(self) -> Target:
        """The store that `db` and `table` name, and `create_db_if_missing`."""
        if self._target is None:
            self._target = Target(self.db(), self.text("table"), self._create())
        return self._target

    @property
    def whose(self) -> str:
        """What tells requests for one database from those for others: `db` as it is given, right or wrong."""
        return str(self._given.get("db", ""))

    def db(self, name: str = "db") -> str:
        """A database path; what is allowed is for `kvfs.paths` to say."""
        db = self._text(name)
        if db is None:
            raise InvalidParameters(f"{name} is required")
        return db

    @property
    def history(self) -> bool:
        """Whether the log is to keep the value of a write."""
        history = self.flag("history")
        return history is None or history

    def _create(self) -> bool:
        create = self.flag("create_db_if_missing")
        alias = self.flag("auto_create")
        if create is not None and alias is not None and create != alias:
            raise InvalidParameters("conflicting flags: create_db_if_missing and auto_create must match")
        return bool(create or alias)

    def everything(self) -> dict[str, bytes]:
        """All that is given, known or not, by its name."""
        names = [name for name in self._given if name]
        return {name: self.raw(name) or b"" for name in names}

    # --- by type ------------------------------------------------------------------------------------------

    def raw(self, name: str) -> bytes | None:
        """The bytes of a parameter, None where it is not given."""
        if self._contradicted and name in self._contradicted:
            raise InvalidParameters(f"{name} is given twice, with different values")
        given = self._given.get(name)
        return None if given is None else _bytes(given)

    def text(self, name: str) -> str | None:
        """UTF-8 without NUL, None where it is not given."""
        text = self._text(name)
        if text is not None and "\0" in text:
            raise InvalidParameters(f"{name} must not contain NUL")
        return text

    def integer(self, name: str, *, low: int | None = None, high: int | None = None) -> int | None:
        """A decimal integer, from `low` to `high`, None where it is not given."""
        text = self._text(name)
        if text is None:
            return None
        digits = text[1:] if text[:1] == "-" else text
        if not (digits.isdigit() and digits.isascii()) or len(digits) > _MAX_DIGITS:
            raise InvalidParameters(f"{name} must be a decimal integer")
        number = int(text)
        if low is not None and number < low:
            raise InvalidParameters(f"{name} must be {low} or more")
        if high is not None and number > high:
            raise InvalidParameters(f"{name} must be {high} or less")
        return number

    def flag(self, name: str) -> bool | None:
        """true, false, 1, 0, yes or no, in any case; None where it is not given."""
        text = self._text(name)
        if text is None:
            return None
        word = text.lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise InvalidParameters(f"{name} must be true, false, 1, 0, yes or no")

    def timestamp(self, name: str) -> int | None:
        """An instant in Unix nanoseconds, None where it is not given."""
        text = self._text(name)
        return None if text is None else times.parse(text, name)

    def json_path(self, name: str) -> str | None:
        """A path into JSON, None where it is not given."""
        text = self.text(name)
        if text is not None:
            try:
                jsonpath.parse(text)
            except jsonpath.JsonPathError as exc:
                raise InvalidParameters(str(exc)) from exc
        return text

    def _text(self, name: str) -> str | None:
        given = self._given.get(name)
        if given is None:
            return None
        if self._contradicted and name in self._contradicted:
            raise InvalidParameters(f"{name} is given twice, with different values")
        if given.isascii() and "%" not in given and "+" not in given:
            return given
        try:
            return _bytes(given).decode()
        except UnicodeDecodeError as exc:
            raise InvalidParameters(f"{name} must be UTF-8") from exc


def decode_path(raw: str) -> str:
    """A percent-encoded piece of a path as text; raises `InvalidParameters` where that is not UTF-8."""
    if "%" not in raw and raw.isascii():
        return raw
    try:
        return unquote_to_bytes(raw.encode(errors="surrogateescape")).decode()
    except UnicodeDecodeError as exc:
        raise InvalidParameters("the key must be UTF-8") from exc


def _parse(query: str) -> tuple[dict[str, str], frozenset[str]]:
    """Names with their values as they were sent, and the names that were given different values."""
    given: dict[str, str] = {}
    contradicted: set[str] = set()
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if "%" in name or "+" in name or not name.isascii():
            name = _bytes(name).decode(errors="replace")
        known = given.setdefault(name, value)
        if known is not value and _bytes(known) != _bytes(value):
            contradicted.add(name)
    return given, frozenset(contradicted)


def _bytes(sent: str) -> bytes:
    """What was sent, unescaped; aiohttp hands on bytes that are no UTF-8 as surrogates."""
    return unquote_to_bytes(sent.replace("+", " ").encode(errors="surrogateescape"))
