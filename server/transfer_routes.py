"""The routes of exports and imports; `server.routes` has them in its table."""

from __future__ import annotations

from typing import Final

from server import schemas, transfer
from server.access import Need, Scope
from server.route import (
    ALWAYS,
    AUTO_CREATE,
    CREATE,
    DB,
    FINDING,
    TABLE,
    TIMEOUT,
    Answer,
    BodySpec,
    Kind,
    Param,
    Route,
)

_READ: Final = Need(Scope.TABLE)
_WRITE: Final = Need(Scope.TABLE, writes=True)
_STORE: Final = (DB, TABLE, TIMEOUT)
_STREAM: Final = "A stream of JSON lines: docs/backup.md has the format."

TRANSFER_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/kv/export",
        transfer.export,
        name="export",
        tag="transfer",
        summary="All keys of a table or folder, or their whole history, as one stream",
        params=(
            *_STORE,
            Param("history", Kind.FLAG, "Every operation, instead of what the keys are now.", default=False),
            Param(
                "after",
                Kind.TEXT,
                "Go on after this seal, the last whole one that came: its JSON as it stands.",
            ),
        ),
        answers=(Answer(_STREAM, media_type=transfer.CONTENT_TYPE, schema=schemas.STRING),),
        errors=(*ALWAYS, *FINDING, "IMPORT_CONFLICT"),
        need=_READ,
    ),
    Route(
        "POST",
        "/kv/import",
        transfer.import_,
        name="import",
        tag="transfer",
        summary="Put an export into a table or folder; one that was cut off goes on where it stopped",
        params=(
            *_STORE,
            Param(
                "on_conflict",
                Kind.TEXT,
                "What to do with keys that are there, unless it is a history: `fail`, `skip` or `replace`.",
                default="fail",
            ),
            Param(
                "part", Kind.FLAG, "The stream may end after any block; the rest comes later.", default=False
            ),
            CREATE,
            AUTO_CREATE,
        ),
        body=BodySpec(
            transfer.CONTENT_TYPE,
            "An export, or a part of one. It may have any size.",
            schema=schemas.STRING,
        ),
        answers=(Answer("It is in", schema=schemas.IMPORTED),),
        errors=(*ALWAYS, *FINDING, "PATH_CONFLICT", "PAYLOAD_TOO_LARGE", "STORAGE_FULL", "IMPORT_CONFLICT"),
        need=_WRITE,
    ),
)
