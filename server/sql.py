"""Handlers of SQL: transactions, and SELECTs that can be shared as links."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from functools import partial
from typing import Final

from kvfs.engine import Lease
from kvfs.errors import InvalidParameters, NotASelect, Overloaded
from kvfs.model import INLINE_MAX_BYTES
from kvfs.sql.database import Shown, SqlDatabase
from kvfs.sql.model import Failure, Item, MakeRows, Result
from kvfs.sql.session import NeedsWriting
from server import preconditions, sql_wire
from server.errors import JSON
from server.exchange import Exchange
from server.reply import Reply

NOT_A_SELECT: Final = "GET /query only accepts read-only SELECT/WITH queries; use POST /db for mutating SQL"

_CSV: Final = "text/csv; charset=utf-8"
_FORMATS: Final = frozenset({"json", "csv"})
_CONTROL: Final = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
_URL_SAFE: Final = str.maketrans("+/", "-_")


async def transaction(exchange: Exchange) -> Reply:
    """Run a transaction."""
    body = await exchange.json_body().read()
    if len(body) > INLINE_MAX_BYTES:
        asked = await exchange.run_sql(partial(sql_wire.asked, body))
    else:
        asked = sql_wire.asked(body)
    with exchange.services.answers.budget() as budget:
        rows = sql_wire.json_rows(budget, as_list=asked.as_list)
        outcome = await _outcome(exchange, asked.items, rows)
        return Reply(200, sql_wire.transaction_form(outcome, as_list=asked.as_list), JSON)


async def select(exchange: Exchange) -> Reply:
    """Run one SELECT. Where its answer stays the same with the database, it has an ETag."""
    params = exchange.params
    sql = _sql(params.text("sql"))
    form = (params.text("format") or "json").lower()
    if form not in _FORMATS:
        raise InvalidParameters("format must be json or csv")
    leased = await lease(exchange)
    with leased:
        version = _version(leased.sql)
        etag = None if version is None else f"{version}-{zlib.crc32(f'{form} {sql}'.encode()):x}"
        if etag is not None and _knows(exchange, etag):
            return Reply(304, headers=f'ETag: "{etag}"\r\n')
        with exchange.services.answers.budget() as budget:
            rows = sql_wire.csv_rows(budget) if form == "csv" else sql_wire.json_rows(budget, as_list=False)
            work = partial(leased.sql.select, sql, rows, deadline=exchange.deadline)
            try:
                shown = await exchange.run_sql(work)
            except NotASelect as exc:
                raise InvalidParameters(NOT_A_SELECT) from exc
            return _shown(shown, form, etag)


async def lease(exchange: Exchange, *, create: bool = False) -> Lease:
    """The database that the request means, whatever table it names."""
    db = exchange.params.target.db
    exchange.claim_database(db)
    found = exchange.engine.lease_now(db, None)
    if found is None:
        found = await exchange.bridge.lease(db, None, create=create, deadline=exchange.deadline)
    return found


async def _outcome(exchange: Exchange, items: list[Item], rows: MakeRows) -> list[Result] | Failure:
    """What comes of a transaction, on a database that it makes if the request asks for that."""
    target = exchange.params.target
    if target.create:
        engine, deadline = exchange.engine, exchange.deadline
        work = partial(engine.fails_when_new, target.db, items, rows, deadline=deadline)
        failure = await exchange.run_sql(work)
        if failure is not None:
            return failure
    leased = await lease(exchange, create=target.create)
    with leased:
        return await _run(exchange, leased.sql, items, rows)


async def _run(
    exchange: Exchange, sql: SqlDatabase, items: list[Item], rows: MakeRows
) -> list[Result] | Failure:
    """Side by side with others if it only reads, else in the writer's turn."""
    deadline = exchange.deadline
    if not sql.known_to_write(items):
        try:
            return await exchange.run_sql(partial(sql.read, items, rows, deadline=deadline))
        except NeedsWriting:
            pass
    return await exchange.bridge.done(sql.write(items, rows, deadline=deadline), deadline)


def _sql(given: str | None) -> str:
    """The SQL that the parameter is the base64 of, or is itself.

    Some words are base64 too; what they would decode to is no text.
    """
    if not given:
        raise InvalidParameters("sql is required")
    try:
        padded = given.translate(_URL_SAFE) + "=" * (-len(given) % 4)
        decoded = base64.b64decode(padded, b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return given
    return given if _CONTROL.search(decoded) else decoded


def _version(sql: SqlDatabase) -> str | None:
    try:
        return sql.version(deadline=None)
    except Overloaded:
        return None  # somebody has it locked for the moment; whoever reads it will wait


def _knows(exchange: Exchange, etag: str) -> bool:
    """Whether the reader has this version. `*` is none: only the query itself tells whether it can be run."""
    headers = exchange.headers
    if headers.get(preconditions.IF_NONE_MATCH, "*").strip() == "*":
        return False
    return preconditions.not_modified(headers, etag)


def _shown(shown: Shown, form: str, etag: str | None) -> Reply:
    headers = f'ETag: "{etag}"\r\n' if etag is not None and shown.lasting else ""
    if form == "json":
        return Reply(200, sql_wire.selected_form(shown.selected), JSON, headers)
    headers += "X-Content-Type-Options: nosniff\r\n"
    if shown.selected.truncated:
        headers += "X-Truncated: true\r\n"
    return Reply(200, sql_wire.selected_csv(shown.selected), _CSV, headers)
