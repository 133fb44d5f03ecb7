"""Handlers of the query log: what SQL ran on a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from kvfs.errors import InvalidParameters, KeyNotFound
from kvfs.sql.query_log import MAX_ENTRIES, QueryLog
from server import query_forms, wire
from server.exchange import Exchange
from server.reply import Reply

T = TypeVar("T")

LIMIT_DEFAULT: Final = 100

_ID_MAX: Final = (1 << 63) - 1


async def entries(exchange: Exchange) -> Reply:
    """The newest queries."""
    limit = exchange.params.integer("limit", low=0)
    limit = LIMIT_DEFAULT if limit is None else min(limit, MAX_ENTRIES)
    db, (found, total) = await _ask(exchange, lambda log, db: log.entries(db, limit))
    answer = {"entries": [query_forms.logged(db, entry) for entry in found], "total": total, "limit": limit}
    return wire.json_reply(answer)


async def statistics(exchange: Exchange) -> Reply:
    """What the queries come to."""
    db, found = await _ask(exchange, lambda log, db: log.statistics(db))
    return wire.json_reply(query_forms.statistics(db, found))


async def clear(exchange: Exchange) -> Reply:
    """Forget all queries."""
    db, deleted = await _ask(exchange, lambda log, db: log.clear(db))
    return wire.json_reply({"db": db, "deleted": deleted, "status": "ok"})


async def delete(exchange: Exchange) -> Reply:
    """Forget one query."""
    index = exchange.key
    if not (index.isascii() and index.isdigit()) or int(index[:20]) > _ID_MAX:
        raise InvalidParameters("Invalid index")
    db, deleted = await _ask(exchange, lambda log, db: log.delete(db, int(index)))
    if not deleted:
        raise KeyNotFound("History entry not found")
    return wire.json_reply({"db": db, "index": int(index), "deleted": True})


async def _ask(exchange: Exchange, ask: Callable[[QueryLog, str], T]) -> tuple[str, T]:
    """The database's real path, and what the log says of it."""
    engine, db = exchange.engine, exchange.params.db()
    # What ran in another worker a moment ago is to be there too.
    await exchange.services.peers.ask("flush")

    def work() -> tuple[str, T]:
        path = engine.paths.file(db)
        return path, ask(engine.queries, path)

    return await exchange.run(work)
