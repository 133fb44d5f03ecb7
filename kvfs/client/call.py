"""A call: one request to be made, and how to read its answer. Nothing here does I/O."""

from __future__ import annotations

import enum
import io
import json
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Generic, TypeVar
from urllib.parse import quote, urlencode

from kvfs.errors import KvfsError
from kvfs.keys import check_key

T = TypeVar("T")
U = TypeVar("U")

URL_DEFAULT: Final = "http://127.0.0.1:8080"
BASE: Final = "/api/v1/sqlite"
JSON: Final = "application/json"

Body = bytes | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]
"""What a request carries. Bytes and files that can seek can be sent again, iterables only once."""

Params = Mapping[str, str | bytes | int | bool | None]

_WORDS: Final = frozenset({"batch", "diff", "export", "import", "rollback", "snapshot"})
"""What is an action where a key may stand (`/kv/snapshot`)."""
_NORMALISED: Final = frozenset({".", ".."})
"""What a proxy may take for a step in the path."""


class Repeat(enum.Enum):
    """When a call that got no answer may be sent again."""

    SAFELY = enum.auto()
    """Always: doing it twice is doing it once."""
    BY_KEY = enum.auto()
    """Always, for it has an idempotency key, under which the server does it once."""
    UNSENT = enum.auto()
    """Only if the server cannot have begun with it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, with header names in lower case; `body` is empty where it is still to be streamed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON, integers of any size intact."""
        return json.loads(self.body)

    @property
    def replayed(self) -> bool:
        """Whether this is an earlier answer to the same idempotency key."""
        return self.headers.get("idempotent-replayed") == "true"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request; `path` is below `BASE` and encoded already. `parse` makes its result of a good answer.

    `wait_s`: how long the server may be silent before it begins to work. `patient`: the work may take all the
    time there is; what is not patient is tried again when an attempt takes too long.
    """

    method: str
    path: str
    parse: Callable[[Answer], T]
    params: Params = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: Body | None = None
    repeat: Repeat = Repeat.SAFELY
    wait_s: float = 0.0
    patient: bool = False
    recover: Callable[[KvfsError], T] | None = None
    """What an error means instead; raises those that are errors."""

    @property
    def query(self) -> str:
        """The parameters that are given, encoded; values may be any bytes."""
        given = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in self.params.items()
            if value is not None
        }
        return urlencode(given, quote_via=quote)

    @property
    def sent_once(self) -> bool:
        """Whether the body is used up by sending it."""
        body = self.body
        return not (body is None or isinstance(body, bytes) or is_seekable(body))


@dataclass(frozen=True, slots=True)
class Pages(Generic[U, T]):
    """Calls that follow one another: `rest` makes the next one of a result, or None at the end.

    `items` are what a result holds. `endless`: wait for the server when it is away, and go on.
    """

    first: Call[U]
    items: Callable[[U], Iterable[T]]
    rest: Callable[[U], Call[U] | None]
    endless: bool = False


def key_path(key: str, suffix: str = "") -> str:
    """The path of a key, or of an action on it, whatever the key is.

    Raises `InvalidParameters` or `PayloadTooLarge` for what is no key.
    """
    check_key(key)
    if key in _WORDS or key in _NORMALISED:
        return "/kv/" + "".join(f"%{ord(each):02X}" for each in key) + suffix
    return "/kv/" + quote(key, safe="") + suffix


def is_seekable(body: object) -> bool:
    """Whether this is a file that can be read again from where it stands."""
    return isinstance(body, io.IOBase) and body.seekable()
