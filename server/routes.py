"""The routes, as data: what is served, with which parameters, answers and errors.

`server.router` finds a request's route in this table; OpenAPI is made from it. A path is a template below
`BASE`, or with `at_root` from the root; `{key}` is the rest of the path, slashes and all. What comes after
it is a suffix, and what stands in its place is a word: both are actions only as literal text, and only for
the methods that have them.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kvfs.listing import LIMIT_DEFAULT, LIMIT_MAX
from server import batch, db, health, kv_read, kv_write, maintenance, schemas
from server.errors import JSON
from server.exchange import Exchange
from server.params import TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S, TIMEOUT_MIN_S
from server.reply import Reply
from server.schemas import Schema

BASE: Final = "/api/v1/sqlite"

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


@dataclass(frozen=True, slots=True)
class Route:
    """What one method does at one path. `errors` are codes of `server.errors.MEANINGS`."""

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

_STORE: Final = (DB, TABLE, TIMEOUT)
_CREATING: Final = (CREATE, AUTO_CREATE)
_CONDITIONAL: Final = (IF_MATCH, IF_NONE_MATCH)

# --- errors --------------------------------------------------------------------------------------------

_ALWAYS: Final = (
    "INVALID_PARAMETERS",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "INTERNAL_ERROR",
    "DEADLINE_EXCEEDED",
    "OVERLOADED",
)
_FINDING: Final = (
    "INVALID_DB_PATH",
    "INVALID_SQLITE_HEADER",
    "PATH_IS_DIRECTORY",
    "DATABASE_NOT_FOUND",
    "DATABASE_ERROR",
    "FILE_SYSTEM_ERROR",
)
_STORE_ERRORS: Final = (*_ALWAYS, *_FINDING, "PATH_CONFLICT", "PAYLOAD_TOO_LARGE")
_MISSING: Final = ("KEY_NOT_FOUND", "KEY_EXPIRED")
_WRITE_ERRORS: Final = (*_STORE_ERRORS, "CAS_MISMATCH", "IDEMPOTENCY_KEY_MISMATCH", "STORAGE_FULL")

# --- answers -------------------------------------------------------------------------------------------

_VALUE_HEADERS: Final = (
    "ETag",
    "Accept-Ranges",
    "X-Created-At",
    "X-Updated-At",
    "X-Expire-At",
    "X-KV-Reference",
    "X-Directory-Mode",
    "X-File-Hash",
)
_ANY_TYPE: Final = "*/*"
_NOT_MODIFIED: Final = Answer(
    "The value is still what If-None-Match names", status=304, media_type=None, headers=_VALUE_HEADERS
)
_REPLAYED: Final = ("Idempotent-Replayed",)

_VALUE_PARAMS: Final = (KEY, *_STORE, PATH, AT_TIMESTAMP, REBUILD, *_CONDITIONAL)
_VALUE_ERRORS: Final = (*_STORE_ERRORS, *_MISSING, "TIME_TRAVEL_GAP", "CAS_MISMATCH")


def _written(description: str, schema: Schema, *headers: str) -> tuple[Answer, ...]:
    return (Answer(description, schema=schema, headers=(*_REPLAYED, *headers)),)


def _on_key(
    action: str, handler: Handler, summary: str, answer: Schema, *params: Param, body: BodySpec | None = None
) -> Route:
    """An action on one key that is there."""
    creating = _CREATING if action in ("incr", "decr", "push") else ()
    missing = () if creating else _MISSING
    return Route(
        "POST",
        f"/kv/{{key}}/{action}",
        handler,
        name=action,
        tag="keys",
        summary=summary,
        params=(KEY, *_STORE, *params, HISTORY, *creating, *_CONDITIONAL, IDEMPOTENCY_KEY),
        body=body,
        answers=_written("Done", answer),
        errors=(*_WRITE_ERRORS, *missing),
    )


# --- the table -----------------------------------------------------------------------------------------

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/kv/{key}",
        kv_read.get_value,
        name="get",
        tag="keys",
        summary="Read a value",
        params=(*_VALUE_PARAMS, RANGE, IF_RANGE),
        answers=(
            Answer(
                "The value; with `path` the JSON text of that node",
                media_type=_ANY_TYPE,
                headers=_VALUE_HEADERS,
            ),
            Answer(
                "A range of the value",
                status=206,
                media_type=_ANY_TYPE,
                headers=(*_VALUE_HEADERS, "Content-Range"),
            ),
            _NOT_MODIFIED,
        ),
        errors=(*_VALUE_ERRORS, "RANGE_NOT_SATISFIABLE"),
    ),
    Route(
        "HEAD",
        "/kv/{key}",
        kv_read.get_value,
        name="exists",
        tag="keys",
        summary="Look whether a key is there; errors have their code in X-Error-Code",
        params=_VALUE_PARAMS,
        answers=(Answer("The key is there", media_type=None, headers=_VALUE_HEADERS), _NOT_MODIFIED),
        errors=_VALUE_ERRORS,
    ),
    Route(
        "GET",
        "/kv/{key}/entry",
        kv_read.get_entry,
        name="entry",
        tag="keys",
        summary="Read a value and its metadata in one",
        params=(KEY, *_STORE, AT_TIMESTAMP, REBUILD),
        answers=(Answer("The entry", schema=schemas.ENTRY),),
        errors=(*_STORE_ERRORS, *_MISSING, "TIME_TRAVEL_GAP"),
    ),
    Route(
        "PUT",
        "/kv/{key}",
        kv_write.put_value,
        name="set",
        tag="keys",
        summary="Store a value",
        params=(
            KEY,
            *_STORE,
            PATH,
            TTL,
            IF_MATCH_VALUE,
            HISTORY,
            *_CREATING,
            *_CONDITIONAL,
            IDEMPOTENCY_KEY,
        ),
        body=BodySpec(_ANY_TYPE, "The value; with `path` the JSON of the new node.", required=False),
        answers=_written("Stored", schemas.SET, "ETag"),
        errors=_WRITE_ERRORS,
    ),
    Route(
        "DELETE",
        "/kv/{key}",
        kv_write.delete_key,
        name="delete",
        tag="keys",
        summary="Remove a key",
        params=(KEY, *_STORE, HISTORY, *_CONDITIONAL, IDEMPOTENCY_KEY),
        answers=_written("Removed", schemas.DELETE),
        errors=(*_WRITE_ERRORS, *_MISSING),
    ),
    _on_key(
        "incr",
        kv_write.incr,
        "Add to a number; a missing one counts from 0",
        schemas.INCR,
        Param("delta", Kind.INTEGER, "What to add: any integer.", default=1),
        PATH,
    ),
    _on_key(
        "decr",
        kv_write.decr,
        "Subtract from a number; a missing one counts from 0",
        schemas.INCR,
        Param("delta", Kind.INTEGER, "What to subtract: any integer.", default=1),
        PATH,
    ),
    _on_key(
        "push",
        kv_write.push,
        "Append to an array; a missing one is made",
        schemas.PUSH,
        PATH,
        body=BodySpec(JSON, "The element to append.", schemas.ANY),
    ),
    _on_key("pop", kv_write.pop, "Take the last element of an array", schemas.POP, PATH),
    _on_key(
        "remove",
        kv_write.remove,
        "Take one element out of an array: by `index`, or the first that equals the body's `value`",
        schemas.REMOVE,
        Param("index", Kind.INTEGER, "Where the element is; a negative number counts from the end."),
        PATH,
        body=BodySpec(JSON, "The element, unless `index` is given.", schemas.REMOVE_BODY, required=False),
    ),
    _on_key(
        "expire",
        kv_write.expire,
        "Give a key a TTL",
        schemas.TTL,
        Param("ttl", Kind.INTEGER, "Seconds to live.", required=True, minimum=1),
    ),
    _on_key("persist", kv_write.persist, "Take a key's TTL away", schemas.TTL),
    Route(
        "GET",
        "/kv",
        kv_read.list_keys,
        name="list",
        tag="keys",
        summary="List keys in byte order",
        params=(
            *_STORE,
            Param("prefix", Kind.TEXT, "Only keys that start so.", default=""),
            Param(
                "limit",
                Kind.INTEGER,
                f"How many; more than {LIMIT_MAX} is taken as {LIMIT_MAX}.",
                default=LIMIT_DEFAULT,
                minimum=1,
            ),
            Param("offset", Kind.INTEGER, "How many to skip; takes `next_cursor`.", default=0, minimum=0),
            Param("after", Kind.TEXT, "Only keys beyond this one; takes `next_after`."),
            Param("delimiter", Kind.TEXT, "Fold keys that have this beyond the prefix into `prefixes`."),
            Param("values", Kind.FLAG, "With values.", default=False),
            Param("total", Kind.FLAG, "With how many there are on all pages together.", default=False),
            AT_TIMESTAMP,
        ),
        answers=(
            Answer(
                "A page of keys; with `at_timestamp` the keys that there were",
                schema={"anyOf": [schemas.PAGE, schemas.PAST_KEYS]},
            ),
        ),
        errors=_STORE_ERRORS,
    ),
    Route(
        "POST",
        "/kv/batch/set",
        batch.batch_set,
        name="batch_set",
        tag="batches",
        summary="Store many values, all or none",
        params=(*_STORE, HISTORY, *_CREATING, IDEMPOTENCY_KEY),
        body=BodySpec(JSON, "The items.", schemas.BATCH_SET_BODY),
        answers=_written("All stored", schemas.BATCH_SET),
        errors=_WRITE_ERRORS,
    ),
    Route(
        "POST",
        "/kv/batch/get",
        batch.batch_get,
        name="batch_get",
        tag="batches",
        summary="Read many values",
        params=_STORE,
        body=BodySpec(JSON, "The keys.", schemas.KEYS_BODY),
        answers=(Answer("An entry for each key, null where there is none", schema=schemas.BATCH_GET),),
        errors=_STORE_ERRORS,
    ),
    Route(
        "POST",
        "/kv/batch/delete",
        batch.batch_delete,
        name="batch_delete",
        tag="batches",
        summary="Remove many keys, all or none; missing ones pass silently",
        params=(*_STORE, HISTORY, IDEMPOTENCY_KEY),
        body=BodySpec(JSON, "The keys.", schemas.KEYS_BODY),
        answers=_written("All removed", schemas.BATCH_DELETE),
        errors=_WRITE_ERRORS,
    ),
    Route(
        "POST",
        "/db/create",
        db.create_database,
        name="create_database",
        tag="databases",
        summary="Make a database; one that is there is left as it is",
        params=(
            Param("path", Kind.TEXT, "As `db`; with a final `/` it is a directory.", required=True),
            Param("init_kv", Kind.FLAG, "Make a KV table.", default=False),
            Param("kv_table", Kind.TEXT, "The KV table to make; implies `init_kv`."),
            TIMEOUT,
        ),
        answers=(Answer("It is there", schema=schemas.DB_CREATED),),
        errors=(*_ALWAYS, *_FINDING, "PATH_CONFLICT", "STORAGE_FULL"),
    ),
    Route(
        "GET",
        "/db/list",
        db.list_databases,
        name="list_databases",
        tag="databases",
        summary="List the databases in the data dir",
        params=(TIMEOUT,),
        answers=(Answer("The databases", schema=schemas.DB_LIST),),
        errors=(*_ALWAYS, "FILE_SYSTEM_ERROR"),
    ),
    Route(
        "DELETE",
        "/db",
        db.delete_database,
        name="delete_database",
        tag="databases",
        summary="Delete a database file and its side files",
        params=(DB, Param("confirm", Kind.TEXT, "Must be `yes`.", required=True), TIMEOUT),
        answers=(Answer("Deleted", schema=schemas.DB_DELETED),),
        errors=(*_ALWAYS, *_FINDING),
    ),
    Route(
        "POST",
        "/maintenance",
        maintenance.maintenance,
        name="maintenance",
        tag="databases",
        summary="Look after a store: `rebuild` makes a folder's index anew from its files",
        params=_STORE,
        body=BodySpec(JSON, "What to do.", schemas.MAINTENANCE_BODY),
        answers=(Answer("Done", schema=schemas.MAINTENANCE),),
        errors=(*_STORE_ERRORS, "STORAGE_FULL"),
    ),
    Route(
        "GET",
        "/health",
        health.health,
        name="health",
        tag="server",
        summary="Whether the server can serve",
        params=(TIMEOUT,),
        answers=(
            Answer("It can", schema=schemas.HEALTH),
            Answer("A store cannot be served", status=503, schema=schemas.HEALTH),
        ),
        errors=_ALWAYS,
    ),
    Route(
        "GET",
        "/health/cache",
        health.cache,
        name="health_cache",
        tag="server",
        summary="What is open, and how it fares",
        params=(TIMEOUT,),
        answers=(Answer("What is open", schema=schemas.CACHE),),
        errors=_ALWAYS,
    ),
)

RESERVED: Final[tuple[tuple[str, str], ...]] = (
    ("GET", "/kv/{key}/history"),
    ("GET", "/kv/{key}/snapshot"),
    ("GET", "/kv/snapshot"),
    ("GET", "/kv/diff"),
    ("POST", "/kv/{key}/rollback"),
    ("POST", "/kv/rollback"),
    ("GET", "/changes"),
    ("GET", "/changes/stream"),
    ("POST", "/db"),
    ("GET", "/query"),
    ("GET", "/history"),
    ("GET", "/history/stats"),
    ("DELETE", "/history"),
)
"""What the API has and this server not yet: no route, and no key either."""
