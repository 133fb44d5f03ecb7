"""What can go wrong, as one tree: catch `KvfsError` for all of it.

    KvfsError
    ├── BadRequest              the caller's fault, before anything was looked up
    │   ├── InvalidDbPath           INVALID_DB_PATH
    │   ├── InvalidParameters       INVALID_PARAMETERS
    │   │   └── SqlError                INVALID_PARAMETERS
    │   │       ├── NotASelect              INVALID_PARAMETERS
    │   │       └── TransactionFailed       INVALID_PARAMETERS
    │   ├── InvalidSqliteHeader     INVALID_SQLITE_HEADER
    │   ├── PathIsDirectory         PATH_IS_DIRECTORY
    │   ├── PayloadTooLarge         PAYLOAD_TOO_LARGE
    │   ├── Unauthorized            UNAUTHORIZED        only a server says this, and the next
    │   └── Forbidden               FORBIDDEN
    ├── NotFound
    │   ├── KeyNotFound             KEY_NOT_FOUND
    │   ├── KeyExpired              KEY_EXPIRED
    │   └── DatabaseNotFound        DATABASE_NOT_FOUND
    ├── Conflict
    │   ├── PathConflict            PATH_CONFLICT
    │   ├── TimeTravelGap           TIME_TRAVEL_GAP
    │   ├── CasMismatch             CAS_MISMATCH
    │   ├── ChangeCursorExpired     CHANGE_CURSOR_EXPIRED
    │   ├── IdempotencyKeyMismatch  IDEMPOTENCY_KEY_MISMATCH
    │   └── ImportConflict          IMPORT_CONFLICT
    ├── Unavailable             nothing was committed; the same request may work later
    │   ├── DeadlineExceeded        DEADLINE_EXCEEDED
    │   └── Overloaded              OVERLOADED
    └── StorageFailure          what lies below failed
        ├── DatabaseError           DATABASE_ERROR
        │   └── NewerFormat             NEWER_FORMAT
        ├── FileSystemError         FILE_SYSTEM_ERROR
        └── StorageFull             STORAGE_FULL

A code is stable and for programs; a message is for people. `details` are further facts for programs
(`current_etag`, `failed`, `outcome`), each of a type that JSON has.
"""

from __future__ import annotations

import errno


class KvfsError(Exception):
    """The root of kvfs's errors: a stable `code`, a `message` for people, `details` for programs."""

    code: str = "INTERNAL_ERROR"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class BadRequest(KvfsError):
    """The request itself is wrong; repeating it cannot help."""


class InvalidDbPath(BadRequest):
    """The path of the database is not allowed."""

    code = "INVALID_DB_PATH"


class InvalidParameters(BadRequest):
    """A parameter or a body is missing, malformed or contradictory."""

    code = "INVALID_PARAMETERS"


class SqlError(InvalidParameters):
    """SQL that SQLite refuses, or that kvfs does not allow; `batch_index` is which of a batch's values."""

    def __init__(self, message: str, *, batch_index: int | None = None) -> None:
        super().__init__(message)
        self.batch_index = batch_index


class NotASelect(SqlError):
    """SQL that is not one SELECT, where nothing else is allowed."""

    def __init__(self) -> None:
        super().__init__("only SELECT is allowed")


class TransactionFailed(SqlError):
    """The SQL of one item failed, and all of the transaction is undone; `index` is which, from 0.

    -1 is a failure that no single item is to blame for.
    """

    def __init__(self, message: str, *, index: int, batch_index: int | None = None) -> None:
        super().__init__(message, batch_index=batch_index)
        self.index = index


class InvalidSqliteHeader(BadRequest):
    """The file exists and is not a SQLite database."""

    code = "INVALID_SQLITE_HEADER"


class PathIsDirectory(BadRequest):
    """A directory where a `.db` file is needed."""

    code = "PATH_IS_DIRECTORY"


class PayloadTooLarge(BadRequest):
    """A body, a key or a value is over its limit."""

    code = "PAYLOAD_TOO_LARGE"


class Unauthorized(BadRequest):
    """A token is configured, and the request has none or a wrong one."""

    code = "UNAUTHORIZED"


class Forbidden(BadRequest):
    """The token does not cover this."""

    code = "FORBIDDEN"


class NotFound(KvfsError):
    """What was asked for is not there."""


class KeyNotFound(NotFound):
    """No such key, operation or history entry."""

    code = "KEY_NOT_FOUND"


class KeyExpired(NotFound):
    """The key was there, and its TTL has run out."""

    code = "KEY_EXPIRED"


class DatabaseNotFound(NotFound):
    """No such file or directory, and creation was not asked for."""

    code = "DATABASE_NOT_FOUND"


class Conflict(KvfsError):
    """The request is right and the state of things does not allow it."""


class PathConflict(Conflict):
    """The key's file name is taken by something that is no key."""

    code = "PATH_CONFLICT"


class TimeTravelGap(Conflict):
    """The past that was asked for was not recorded, or is pruned."""

    code = "TIME_TRAVEL_GAP"


class CasMismatch(Conflict):
    """A compare-and-swap or a conditional header failed; `current_etag` is None where there is no key."""

    code = "CAS_MISMATCH"


class ChangeCursorExpired(Conflict):
    """The change feed cannot be followed from this cursor; with `reason`, `oldest_cursor` and `cursor`."""

    code = "CHANGE_CURSOR_EXPIRED"


class IdempotencyKeyMismatch(Conflict):
    """The idempotency key was used for a different request."""

    code = "IDEMPOTENCY_KEY_MISMATCH"


class ImportConflict(Conflict):
    """An import does not go with what the store holds, or an export cannot go on from there."""

    code = "IMPORT_CONFLICT"


class Unavailable(KvfsError):
    """Nothing was committed; the same request may succeed later."""


class DeadlineExceeded(Unavailable):
    """The request's time ran out before anything was committed."""

    code = "DEADLINE_EXCEEDED"

    def __init__(self, message: str = "Request deadline exceeded before commit", **details: object) -> None:
        super().__init__(message, **details)


class Overloaded(Unavailable):
    """The queue is full, or the database stays locked."""

    code = "OVERLOADED"


class StorageFailure(KvfsError):
    """SQLite, the file system or the disk failed. `outcome="unknown"` where a commit may have happened."""


class DatabaseError(StorageFailure):
    """SQLite failed."""

    code = "DATABASE_ERROR"


class NewerFormat(DatabaseError):
    """What is there was written by a newer kvfs, in a format that this one does not know."""

    code = "NEWER_FORMAT"


class FileSystemError(StorageFailure):
    """The file system failed."""

    code = "FILE_SYSTEM_ERROR"


class StorageFull(StorageFailure):
    """The disk, or a quota on it, is full."""

    code = "STORAGE_FULL"


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def from_os_error(error: OSError, doing: str) -> StorageFailure:
    """The `StorageFailure` for an OSError, told apart by errno; `doing` says what was tried ("write k")."""
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return StorageFull(f"Cannot {doing}: {reason}")
    return FileSystemError(f"Cannot {doing}: {reason}", errno=errno.errorcode.get(error.errno or 0, "EIO"))
