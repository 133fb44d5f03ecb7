"""What a route is made of: parameters, bodies, answers; and the parameters and errors that many share."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from server.access import STRICTEST, Need
from server.errors import JSON
from server.exchange import Exchange
from server.params import TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S, TIMEOUT_MIN_S
from server.reply import Reply
from server.schemas import Schema

BASE: Final = "/api/v1/sqlite"

ANY_TYPE: Final = "*/*"
"""The media type of values: a request may declare any, and the answer is of the one that was stored."""

Handler = Callable[[Exchange], Awaitable[Reply]]


class Kind(enum.StrEnum):
    """What a parameter's text must be."""

    TEXT = "text"
    BYTES = "bytes"
    INTEGER = "integer"
    FLAG = "flag"
    TIMESTAMP = "timestamp"


class Place(enum.StrEnum):
    """Where a parameter stands."""

    QUERY = "query"
    HEADER = "header"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter. `default` is what its absence means, where that is a value."""

    name: str
    kind: Kind
    description: str
    place: Place = Place.QUERY
    required: bool = False
    default: str | int | bool | None = None
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class BodySpec:
    """A request's body: its media type, and its shape where it is JSON."""

    media_type: str
    description: str
    schema: Schema | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """One good answer: its shape where it is JSON, and the headers that say something."""

    description: str
    status: int = 200
    media_type: str | None = JSON
    schema: Schema | None = None
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """What one method does at one path. `errors` are codes of `server.errors.MEANINGS`.

    `need` is what a token must cover: everything, where a route does not say. `shareable`: a signed link can
    stand for it.
    """

    method: str
    path: str
    handler: Handler
    name: str
    tag: str
    summary: str
    params: tuple[Param, ...]
    answers: tuple[Answer, ...]
    errors: tuple[str, ...]
    body: BodySpec | None = None
    at_root: bool = False
    need: Need = STRICTEST
    shareable: bool = False

    @property
    def whole_path(self) -> str:
        """The path from the root."""
        return self.path if self.at_root else BASE + self.path


# --- parameters ----------------------------------------------------------------------------------------

KEY: Final = Param(
    "key",
    Kind.TEXT,
    "The key: 1 to 1024 bytes of UTF-8, percent-encoded. `/` and `%2F` are the same.",
    place=Place.PATH,
    required=True,
)
DB: Final = Param(
    "db",
    Kind.TEXT,
    "The database: a bare name or ./name in the data dir, or an absolute path. An existing directory, with "
    "`table`, is a store of plain files.",
    required=True,
)
TABLE: Final = Param(
    "table", Kind.TEXT, "The KV table, or the folder of a directory store.", default="kv_store"
)
TIMEOUT: Final = Param(
    "timeout",
    Kind.INTEGER,
    "How many seconds the request may take; what is out of bounds is taken as the nearest bound.",
    default=TIMEOUT_DEFAULT_S,
    minimum=TIMEOUT_MIN_S,
    maximum=TIMEOUT_MAX_S,
)
PATH: Final = Param("path", Kind.TEXT, "A JSON path into the value, such as `prefs.theme` or `tags[-1]`.")
AT_TIMESTAMP: Final = Param(
    "at_timestamp",
    Kind.TIMESTAMP,
    "Look at the past: Unix seconds (an integer means the end of that second), or RFC 3339.",
)
REBUILD: Final = Param(
    "rebuild", Kind.FLAG, "Bring the index up to date with the files first (directory stores).", default=False
)
HISTORY: Final = Param(
    "history", Kind.FLAG, "Keep the value in the op-log. Without it the key's past has a gap.", default=True
)
CREATE: Final = Param("create_db_if_missing", Kind.FLAG, "Make the database if it is missing.", default=False)
AUTO_CREATE: Final = Param("auto_create", Kind.FLAG, "An alias of `create_db_if_missing`.", default=False)
TTL: Final = Param("ttl", Kind.INTEGER, "Seconds to live; 0 or none clears an old TTL.", minimum=0)
IF_MATCH_VALUE: Final = Param(
    "if_match", Kind.BYTES, "The whole current value, percent-encoded: the write happens only if it is this."
)
IF_MATCH: Final = Param(
    "If-Match", Kind.TEXT, "Etags of which one must be the current one, or `*`.", place=Place.HEADER
)
IF_NONE_MATCH: Final = Param(
    "If-None-Match", Kind.TEXT, "Etags that must not be the current one, or `*`.", place=Place.HEADER
)
RANGE: Final = Param("Range", Kind.TEXT, "One range of bytes, such as `bytes=0-99`.", place=Place.HEADER)
IF_RANGE: Final = Param("If-Range", Kind.TEXT, "The etag that `Range` is meant for.", place=Place.HEADER)
IDEMPOTENCY_KEY: Final = Param(
    "Idempotency-Key",
    Kind.TEXT,
    "1 to 255 visible ASCII characters: the write happens once, however often it is sent, for 24 hours.",
    place=Place.HEADER,
)

# --- errors --------------------------------------------------------------------------------------------

ALWAYS: Final = (
    "INVALID_PARAMETERS",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "INTERNAL_ERROR",
    "DEADLINE_EXCEEDED",
    "OVERLOADED",
)
"""What any request may be answered with."""
FINDING: Final = (
    "INVALID_DB_PATH",
    "INVALID_SQLITE_HEADER",
    "PATH_IS_DIRECTORY",
    "DATABASE_NOT_FOUND",
    "DATABASE_ERROR",
    "NEWER_FORMAT",
    "FILE_SYSTEM_ERROR",
)
"""What any request may be answered with that names a database."""
