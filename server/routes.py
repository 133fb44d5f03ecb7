"""The routes, as data: what is served, with which parameters, answers and errors.

`server.router` finds a request's route in this table; OpenAPI is made from it. A path is a template below
`BASE`, or with `at_root` from the root; `{key}` is the rest of the path, slashes and all. What comes after
it is a suffix, and what stands in its place is a word: both are actions only as literal text, and only for
the methods that have them.
"""

from __future__ import annotations

from typing import Final

from kvfs import feed
from kvfs.listing import LIMIT_DEFAULT, LIMIT_MAX
from server import (
    batch,
    changes,
    db,
    kv_read,
    kv_write,
    maintenance,
    schemas,
    sse,
    time_travel,
)
from server.access import (
    READ_CLAIMED,
    READ_KEY,
    READ_PREFIX,
    READ_SERVER,
    WRITE_CLAIMED,
    WRITE_DATABASE,
    WRITE_KEY,
    Need,
    Scope,
)
from server.errors import JSON
from server.route import (
    ALWAYS,
    ANY_TYPE,
    AT_TIMESTAMP,
    AUTO_CREATE,
    CREATE,
    DB,
    FINDING,
    HISTORY,
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_MATCH_VALUE,
    IF_NONE_MATCH,
    IF_RANGE,
    KEY,
    PATH,
    RANGE,
    REBUILD,
    TABLE,
    TIMEOUT,
    TTL,
    Answer,
    BodySpec,
    Handler,
    Kind,
    Param,
    Place,
    Route,
)
from server.schemas import Schema
from server.server_routes import SERVER_ROUTES
from server.sql_routes import SQL_ROUTES
from server.transfer_routes import TRANSFER_ROUTES

_STORE: Final = (DB, TABLE, TIMEOUT)
_CREATING: Final = (CREATE, AUTO_CREATE)
_FOLLOWING: Final = (
    Param("since", Kind.TEXT, "A cursor: only what changed after it. Without it: from now on."),
    Param("prefix", Kind.TEXT, "Only keys that start so.", default=""),
    Param("include_values", Kind.FLAG, "With values, up to 256 KiB each.", default=False),
)
_CONDITIONAL: Final = (IF_MATCH, IF_NONE_MATCH)

# --- errors --------------------------------------------------------------------------------------------

_STORE_ERRORS: Final = (*ALWAYS, *FINDING, "PATH_CONFLICT", "PAYLOAD_TOO_LARGE")
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
    "Content-Security-Policy",
)
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
        need=WRITE_KEY,
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
        need=READ_KEY,
        shareable=True,
        summary="Read a value",
        params=(*_VALUE_PARAMS, RANGE, IF_RANGE),
        answers=(
            Answer(
                "The value; with `path` the JSON text of that node",
                media_type=ANY_TYPE,
                headers=_VALUE_HEADERS,
            ),
            Answer(
                "A range of the value",
                status=206,
                media_type=ANY_TYPE,
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
        need=READ_KEY,
        shareable=True,
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
        need=READ_KEY,
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
        need=WRITE_KEY,
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
        body=BodySpec(ANY_TYPE, "The value; with `path` the JSON of the new node.", required=False),
        answers=_written("Stored", schemas.SET, "ETag"),
        errors=_WRITE_ERRORS,
    ),
    Route(
        "DELETE",
        "/kv/{key}",
        kv_write.delete_key,
        name="delete",
        tag="keys",
        need=WRITE_KEY,
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
        need=READ_PREFIX,
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
        need=WRITE_CLAIMED,
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
        need=READ_CLAIMED,
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
        need=WRITE_CLAIMED,
        summary="Remove many keys, all or none; missing ones pass silently",
        params=(*_STORE, HISTORY, IDEMPOTENCY_KEY),
        body=BodySpec(JSON, "The keys.", schemas.KEYS_BODY),
        answers=_written("All removed", schemas.BATCH_DELETE),
        errors=_WRITE_ERRORS,
    ),
    Route(
        "GET",
        "/kv/{key}/history",
        time_travel.history,
        name="key_history",
        tag="time travel",
        need=READ_KEY,
        summary="A key's operations, page by page",
        params=(
            KEY,
            *_STORE,
            Param(
                "limit",
                Kind.INTEGER,
                "The most operations of a page; 0 means the default, more than 1000 means 1000.",
                default=50,
                minimum=0,
            ),
            Param("before", Kind.INTEGER, "Only operations before this one: the last seen, going back."),
            Param("after", Kind.INTEGER, "Only operations after this one: the last seen, with `order=asc`."),
            Param("order", Kind.TEXT, "`desc`, the newest first, or `asc`.", default="desc"),
        ),
        answers=(Answer("The operations", schema=schemas.HISTORY),),
        errors=(*_STORE_ERRORS, "KEY_NOT_FOUND"),
    ),
    Route(
        "GET",
        "/kv/{key}/snapshot",
        time_travel.key_snapshot,
        name="key_snapshot",
        tag="time travel",
        need=READ_KEY,
        summary="A key as one of its operations left it",
        params=(
            KEY,
            *_STORE,
            Param("op_number", Kind.INTEGER, "The operation.", required=True),
        ),
        answers=(Answer("The key then", schema=schemas.KEY_SNAPSHOT),),
        errors=(*_STORE_ERRORS, "KEY_NOT_FOUND", "TIME_TRAVEL_GAP"),
    ),
    Route(
        "GET",
        "/kv/snapshot",
        time_travel.table_snapshot,
        name="table_snapshot",
        tag="time travel",
        need=READ_PREFIX,
        summary="All keys as they were at a time",
        params=(
            *_STORE,
            Param("timestamp", Kind.TIMESTAMP, "The time.", required=True),
            Param("limit", Kind.INTEGER, "The most keys to show.", default=100, minimum=1),
            Param("prefix", Kind.TEXT, "Only keys that start with this."),
        ),
        answers=(Answer("The keys then", schema=schemas.TABLE_SNAPSHOT),),
        errors=_STORE_ERRORS,
    ),
    Route(
        "GET",
        "/kv/diff",
        time_travel.diff,
        name="diff",
        tag="time travel",
        need=READ_CLAIMED,
        summary="What changed between two times",
        params=(
            *_STORE,
            Param("from", Kind.TIMESTAMP, "The earlier time.", required=True),
            Param("to", Kind.TIMESTAMP, "The later time.", required=True),
            Param("keys", Kind.TEXT, "Only these keys, separated by commas."),
        ),
        answers=(Answer("The differences", schema=schemas.DIFF),),
        errors=_STORE_ERRORS,
    ),
    Route(
        "POST",
        "/kv/{key}/rollback",
        time_travel.rollback_key,
        name="rollback_key",
        tag="time travel",
        need=WRITE_KEY,
        summary="Undo a key's last operations, by a new one",
        params=(
            KEY,
            *_STORE,
            Param("steps", Kind.INTEGER, "How many operations to undo.", default=1, minimum=1),
            *_CONDITIONAL,
            IDEMPOTENCY_KEY,
        ),
        answers=_written("Undone", schemas.ROLLED_BACK),
        errors=(*_WRITE_ERRORS, "KEY_NOT_FOUND", "TIME_TRAVEL_GAP"),
    ),
    Route(
        "POST",
        "/kv/rollback",
        time_travel.rollback_table,
        name="rollback_table",
        tag="time travel",
        need=WRITE_CLAIMED,
        summary="Make a table what it was at a time, all or nothing",
        params=(
            *_STORE,
            Param("to_timestamp", Kind.TIMESTAMP, "The time.", required=True),
            Param("dry_run", Kind.FLAG, "Only tell what would be done.", default=False),
            Param("confirm", Kind.TEXT, "Must be `yes`, unless `dry_run` is true."),
            IDEMPOTENCY_KEY,
        ),
        body=BodySpec(JSON, "Which keys to roll back, or which not.", schemas.ROLLBACK_BODY, required=False),
        answers=_written("Done", schemas.TABLE_ROLLED_BACK),
        errors=(*_WRITE_ERRORS, "TIME_TRAVEL_GAP"),
    ),
    Route(
        "GET",
        "/changes",
        changes.changes,
        name="changes",
        tag="changes",
        need=READ_PREFIX,
        summary="What changed after a cursor, in order; waits for it if asked to",
        params=(
            *_STORE,
            *_FOLLOWING,
            Param(
                "limit",
                Kind.INTEGER,
                f"The most events of a page; more than {feed.LIMIT_MAX} means {feed.LIMIT_MAX}.",
                default=feed.LIMIT_DEFAULT,
                minimum=1,
            ),
            Param(
                "wait",
                Kind.INTEGER,
                f"How many seconds to wait while there is no event; more than {changes.WAIT_MAX_S} means "
                f"{changes.WAIT_MAX_S}.",
                default=0,
                minimum=0,
            ),
        ),
        answers=(Answer("The events; without `since` none, and the present cursor", schema=schemas.CHANGES),),
        errors=(*_STORE_ERRORS, "CHANGE_CURSOR_EXPIRED"),
    ),
    Route(
        "GET",
        "/changes/stream",
        changes.stream,
        name="changes_stream",
        tag="changes",
        need=READ_PREFIX,
        summary="What changes, as server-sent events: `ready`, `change`, `checkpoint`, `reset`, `end`",
        params=(
            *_STORE,
            *_FOLLOWING,
            Param(
                "Last-Event-ID",
                Kind.TEXT,
                "The cursor to go on from, instead of `since`: what an EventSource sends by itself.",
                place=Place.HEADER,
            ),
        ),
        answers=(Answer("The stream; it has no end", media_type=sse.CONTENT_TYPE),),
        errors=_STORE_ERRORS,
    ),
    Route(
        "POST",
        "/db/create",
        db.create_database,
        name="create_database",
        tag="databases",
        need=Need(Scope.DATABASE, writes=True, database="path"),
        summary="Make a database; one that is there is left as it is",
        params=(
            Param("path", Kind.TEXT, "As `db`; with a final `/` it is a directory.", required=True),
            Param("init_kv", Kind.FLAG, "Make a KV table.", default=False),
            Param("kv_table", Kind.TEXT, "The KV table to make; implies `init_kv`."),
            TIMEOUT,
        ),
        answers=(Answer("It is there", schema=schemas.DB_CREATED),),
        errors=(*ALWAYS, *FINDING, "PATH_CONFLICT", "STORAGE_FULL"),
    ),
    Route(
        "GET",
        "/db/list",
        db.list_databases,
        name="list_databases",
        tag="databases",
        need=READ_SERVER,
        summary="List the databases in the data dir",
        params=(TIMEOUT,),
        answers=(Answer("The databases", schema=schemas.DB_LIST),),
        errors=(*ALWAYS, "FILE_SYSTEM_ERROR"),
    ),
    Route(
        "DELETE",
        "/db",
        db.delete_database,
        name="delete_database",
        tag="databases",
        need=WRITE_DATABASE,
        summary="Delete a database file and its side files",
        params=(DB, Param("confirm", Kind.TEXT, "Must be `yes`.", required=True), TIMEOUT),
        answers=(Answer("Deleted", schema=schemas.DB_DELETED),),
        errors=(*ALWAYS, *FINDING),
    ),
    *TRANSFER_ROUTES,
    *SQL_ROUTES,
    Route(
        "POST",
        "/maintenance",
        maintenance.maintenance,
        name="maintenance",
        tag="databases",
        need=WRITE_CLAIMED,
        summary="Check, shrink, copy or restore a database; prune a history; rebuild a folder's index",
        params=_STORE,
        body=BodySpec(JSON, "What to do.", schemas.MAINTENANCE_BODY),
        answers=(Answer("Done", schema=schemas.MAINTENANCE),),
        errors=(*_STORE_ERRORS, "STORAGE_FULL"),
    ),
    *SERVER_ROUTES,
)
