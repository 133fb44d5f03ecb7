"""Errors at HTTP: the one table from code to status, and the answer that every error gets.

What only a server can find wrong joins the tree of `kvfs.errors`:

    KvfsError
    ├── BadRequest
    │   ├── MethodNotAllowed        METHOD_NOT_ALLOWED
    │   └── RangeNotSatisfiable     RANGE_NOT_SATISFIABLE
    ├── NotFound
    │   └── RouteNotFound           ROUTE_NOT_FOUND
    └── InternalError           INTERNAL_ERROR
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import orjson

from kvfs.errors import BadRequest, KvfsError, NotFound
from server.reply import Reply

JSON: Final = "application/json"

_RETRY_AFTER_S: Final = 1


class MethodNotAllowed(BadRequest):
    """The path is known, and has not this method; `allow` are those that it has."""

    code = "METHOD_NOT_ALLOWED"

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__("Method not allowed", allow=list(allow))
        self.allow = allow


class RangeNotSatisfiable(BadRequest):
    """The range begins beyond the end of the value; `size` is where that is."""

    code = "RANGE_NOT_SATISFIABLE"

    def __init__(self, size: int) -> None:
        super().__init__("The range lies beyond the end of the value", size=size)
        self.size = size


class RouteNotFound(NotFound):
    """There is nothing at this path."""

    code = "ROUTE_NOT_FOUND"

    def __init__(self, message: str = "Route not found", **details: object) -> None:
        super().__init__(message, **details)


class InternalError(KvfsError):
    """What nobody foresaw; the log has it under the request's id."""

    code = "INTERNAL_ERROR"

    def __init__(self) -> None:
        super().__init__("Internal error")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means at HTTP, and what a caller can do about it."""

    status: int
    resolution: str


_BAD_PATH = "Use a bare name or ./name, or an absolute path inside the data directory."
_RETRY = "Nothing was committed. Try again after the time that Retry-After names."

MEANINGS: Final[Mapping[str, Meaning]] = MappingProxyType(
    {
        "INVALID_DB_PATH": Meaning(400, _BAD_PATH),
        "INVALID_PARAMETERS": Meaning(400, "Correct the parameter or the body that the message names."),
        "INVALID_SQLITE_HEADER": Meaning(
            400, "Name a SQLite database, or a path where there is no file yet."
        ),
        "PATH_IS_DIRECTORY": Meaning(
            400, "Name a database file, or add the table parameter for a folder store."
        ),
        "UNAUTHORIZED": Meaning(401, "Send a valid token: Authorization: Bearer <token>."),
        "FORBIDDEN": Meaning(403, "Use a token that covers this database and this method."),
        "KEY_NOT_FOUND": Meaning(404, "Check the key, and the db and table parameters."),
        "KEY_EXPIRED": Meaning(404, "The key's TTL has run out. Store a new value if it is needed."),
        "DATABASE_NOT_FOUND": Meaning(
            404, "Check the path, or create the database with create_db_if_missing=true."
        ),
        "ROUTE_NOT_FOUND": Meaning(404, "Check the path against /api/v1/sqlite/openapi.json."),
        "METHOD_NOT_ALLOWED": Meaning(405, "Use one of the methods that the Allow header names."),
        "PATH_CONFLICT": Meaning(409, "Move away what the message names, or use another key."),
        "TIME_TRAVEL_GAP": Meaning(
            409, "Ask for another time: this one was written with history=false, or pruned."
        ),
        "CHANGE_CURSOR_EXPIRED": Meaning(
            410, "List the keys anew, and follow the changes from the new cursor."
        ),
        "IMPORT_CONFLICT": Meaning(
            409, "Import into an empty table or folder, or export anew, as the message says."
        ),
        "CAS_MISMATCH": Meaning(412, "Read the key again, and repeat the write on what it is now."),
        "PAYLOAD_TOO_LARGE": Meaning(413, "Send less, or start the server with higher limits."),
        "RANGE_NOT_SATISFIABLE": Meaning(
            416, "Ask for a range inside the value; Content-Range names its size."
        ),
        "IDEMPOTENCY_KEY_MISMATCH": Meaning(422, "Use a new Idempotency-Key for each different write."),
        "INTERNAL_ERROR": Meaning(500, "Look for the request_id in the server's log."),
        "DATABASE_ERROR": Meaning(500, "Look at the server's log; the database may be damaged or read-only."),
        "NEWER_FORMAT": Meaning(500, "Use the kvfs that wrote it, or a newer one; nothing was changed."),
        "FILE_SYSTEM_ERROR": Meaning(
            500, "Check the permissions and the health of the server's file system."
        ),
        "DEADLINE_EXCEEDED": Meaning(
            503, "Nothing was committed. Try again, with a longer timeout if need be."
        ),
        "OVERLOADED": Meaning(503, _RETRY),
        "STORAGE_FULL": Meaning(507, "Free space on the server's disk."),
    }
)


def error_reply(error: KvfsError, request_id: str) -> Reply:
    """The answer to a request that failed so."""
    meaning = MEANINGS[error.code]
    details = dict(error.details)
    headers = f"X-Error-Code: {error.code}\r\n"
    retry_after_s = details.pop("retry_after_s", _RETRY_AFTER_S)
    if error.code == "UNAUTHORIZED":
        headers += "WWW-Authenticate: Bearer\r\n"
    if error.code == "OVERLOADED":
        headers += f"Retry-After: {retry_after_s}\r\n"
    if isinstance(error, MethodNotAllowed):
        headers += f"Allow: {', '.join(error.allow)}\r\n"
    if isinstance(error, RangeNotSatisfiable):
        headers += f"Content-Range: bytes */{error.size}\r\n"
    body = error_form(error.code, error.message, request_id, details)
    return Reply(meaning.status, _dumps(body), JSON, headers)


def error_form(code: str, message: str, request_id: str, details: Mapping[str, object]) -> dict[str, object]:
    """The body of an error's answer."""
    meaning = MEANINGS[code]
    return {
        **details,
        "statusCode": meaning.status,
        "error": HTTPStatus(meaning.status).phrase,
        "message": message,
        "code": code,
        "resolution": meaning.resolution,
        "request_id": request_id,
    }


def _dumps(body: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(body, default=str)
    except orjson.JSONEncodeError:
        # A file name that is no UTF-8 has come into a message; that must not hide the error.
        return orjson.dumps({name: _printable(value) for name, value in body.items()}, default=str)


def _printable(value: object) -> object:
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
