"""The routes of SQL and of the history of SQL; `routes` has all."""

from __future__ import annotations

from typing import Final

from kvfs.sql.query_log import MAX_ENTRIES
from server import queries, schemas, sql
from server.access import READ_DATABASE, WRITE_DATABASE
from server.errors import JSON
from server.route import (
    ALWAYS,
    AUTO_CREATE,
    CREATE,
    DB,
    FINDING,
    IF_NONE_MATCH,
    TIMEOUT,
    Answer,
    BodySpec,
    Kind,
    Param,
    Place,
    Route,
)

SQL_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        "/db",
        sql.transaction,
        name="transaction",
        tag="sql",
        need=WRITE_DATABASE,
        summary="Run SQL in one transaction, all or nothing",
        params=(DB, CREATE, AUTO_CREATE, TIMEOUT),
        body=BodySpec(JSON, "The transaction.", schemas.TRANSACTION_BODY),
        answers=(
            Answer(
                "A result for each item; or, with `success` false, why the transaction was undone",
                schema={"anyOf": [schemas.TRANSACTION, schemas.TRANSACTION_FAILED]},
            ),
        ),
        errors=(*ALWAYS, *FINDING, "PAYLOAD_TOO_LARGE", "STORAGE_FULL"),
    ),
    Route(
        "GET",
        "/query",
        sql.select,
        name="query",
        tag="sql",
        need=READ_DATABASE,
        shareable=True,
        summary="Run one SELECT",
        params=(
            DB,
            Param("sql", Kind.TEXT, "The SELECT, or the URL-safe base64 of it.", required=True),
            Param("format", Kind.TEXT, "`json` or `csv`.", default="json"),
            IF_NONE_MATCH,
            TIMEOUT,
        ),
        answers=(
            Answer("The rows", schema=schemas.SELECTED, headers=("ETag",)),
            Answer("The rows, as CSV", media_type="text/csv", headers=("ETag", "X-Truncated")),
            Answer(
                "Nothing has changed since If-None-Match was", status=304, media_type=None, headers=("ETag",)
            ),
        ),
        errors=(*ALWAYS, *FINDING, "CAS_MISMATCH", "STORAGE_FULL"),
    ),
    Route(
        "GET",
        "/history",
        queries.entries,
        name="queries",
        tag="sql",
        need=READ_DATABASE,
        summary="The SQL that ran on a database, newest first",
        params=(
            DB,
            Param(
                "limit",
                Kind.INTEGER,
                f"How many; {MAX_ENTRIES} at most.",
                default=queries.LIMIT_DEFAULT,
                minimum=0,
            ),
            TIMEOUT,
        ),
        answers=(Answer("The entries", schema=schemas.QUERIES),),
        errors=(*ALWAYS, *FINDING),
    ),
    Route(
        "GET",
        "/history/stats",
        queries.statistics,
        name="query_statistics",
        tag="sql",
        need=READ_DATABASE,
        summary="What the SQL that ran on a database comes to",
        params=(DB, TIMEOUT),
        answers=(Answer("The statistics", schema=schemas.QUERY_STATISTICS),),
        errors=(*ALWAYS, *FINDING),
    ),
    Route(
        "DELETE",
        "/history",
        queries.clear,
        name="clear_queries",
        tag="sql",
        need=WRITE_DATABASE,
        summary="Forget the SQL that ran on a database",
        params=(DB, TIMEOUT),
        answers=(Answer("Forgotten", schema=schemas.QUERIES_CLEARED),),
        errors=(*ALWAYS, *FINDING),
    ),
    Route(
        "DELETE",
        "/history/{index}",
        queries.delete,
        name="delete_query",
        tag="sql",
        need=WRITE_DATABASE,
        summary="Forget one entry of the history of SQL",
        params=(
            Param("index", Kind.INTEGER, "The entry's id.", place=Place.PATH, required=True, minimum=0),
            DB,
            TIMEOUT,
        ),
        answers=(Answer("Forgotten", schema=schemas.QUERY_DELETED),),
        errors=(*ALWAYS, *FINDING, "KEY_NOT_FOUND"),
    ),
)
