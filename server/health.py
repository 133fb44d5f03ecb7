"""Handlers of the server's own state."""

from __future__ import annotations

import json
import time

import orjson

from kvfs.sqlite import SQLITE_VERSION
from server import wire
from server.exchange import Exchange, Services
from server.reply import Reply


async def health(exchange: Exchange) -> Reply:
    """Whether the server can serve: all that it was asked for could be opened, at last by some worker, and
    takes writes.
    """
    services = exchange.services
    failed, found, in_doubt = services.engine.openings()
    for answer in (await services.peers.ask("openings")).values():
        theirs = json.loads(answer)
        failed, found = failed | set(theirs["failed"]), found | set(theirs["open"])
        in_doubt |= set(theirs["in_doubt"])
    degraded = bool(failed - found or in_doubt)
    return wire.json_reply(
        {
            "status": "degraded" if degraded else "ok",
            "version": services.version,
            "uptime_seconds": int(time.monotonic() - services.started),
            "failed_stores": len(failed - found),
            "read_only_stores": len(in_doubt),
            "sqlite_version": SQLITE_VERSION,
        },
        status=503 if degraded else 200,
    )


def openings(services: Services) -> bytes:
    """What this worker could not open, has open, and doubts, for another one to know."""
    # Not by orjson: paths of folders may be no UTF-8.
    told = services.engine.openings()._asdict()
    return json.dumps({name: [*paths] for name, paths in told.items()}).encode()


async def cache(exchange: Exchange) -> Reply:
    """What is open, and how it fares."""
    services = exchange.services
    own = await cached(services, exchange.deadline)
    if services.peers.number is None:
        return wire.json_reply(own)
    # Not at the top: it takes a tenth of a second to import.
    from server import together

    told = {number: orjson.loads(answer) for number, answer in (await services.peers.ask("cache")).items()}
    return wire.json_reply(together.caches({services.peers.number: own, **told}))


async def cached(services: Services, deadline: float | None) -> wire.Json:
    """What this worker has open."""
    status = await services.bridge.run(services.engine.status, deadline)
    return wire.cache_form(status, services.connections())
