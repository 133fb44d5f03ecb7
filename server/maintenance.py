"""The handler that looks after a store."""

from __future__ import annotations

import time
from functools import partial

from kvfs.engine import Lease
from kvfs.pending import Pending
from server import sql, upkeep, wire
from server.body import json_object
from server.exchange import Exchange
from server.reply import Reply


async def maintenance(exchange: Exchange) -> Reply:
    """Do what the body's `op` says."""
    body = json_object(await exchange.json_body().read())
    op = upkeep.op_of(body)
    if op.path is not None:
        # The request's token must cover this database too.
        exchange.claim_database(body[op.path])
    began = time.monotonic()
    leased = await _lease(exchange, op)
    asked = upkeep.Asked(body, exchange.engine.paths, exchange.deadline)
    run = exchange.run_sql if op.database else exchange.run
    with leased:
        done = await run(partial(op.begin, leased, asked))
        if isinstance(done, Pending):
            done = await exchange.bridge.done(done, exchange.deadline)
    return wire.json_reply(upkeep.told(asked, time.monotonic() - began, done))


async def _lease(exchange: Exchange, op: upkeep.Op) -> Lease:
    if op.database:
        return await sql.lease(exchange)
    exchange.claim_keys(())
    return exchange.lease_now() or await exchange.lease()
