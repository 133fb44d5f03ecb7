"""Handlers of the server's own state."""

from __future__ import annotations

import time
from typing import Final

import orjson

from kvfs.sqlite import SQLITE_VERSION
from server import wire
from server.exchange import Exchange, Services
from server.reply import Reply

DEGRADED: Final = b"degraded"
OK: Final = b"ok"


async def health(exchange: Exchange) -> Reply:
    """Whether the server can serve: all that it was asked for could be opened, by every worker."""
    services = exchange.services
    told = await services.peers.ask("health")
    degraded = services.engine.degraded or DEGRADED in told.values()
    return wire.json_reply(
        {
            "status": "degraded" if degraded else "ok",
            "version": services.version,
            "uptime_seconds": int(time.monotonic() - services.started),
            "sqlite_version": SQLITE_VERSION,
        },
        status=503 if degraded else 200,
    )


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
