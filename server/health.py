"""Handlers of the server's own state."""

from __future__ import annotations

import time

from kvfs.sqlite import SQLITE_VERSION
from server import wire
from server.exchange import Exchange
from server.reply import Reply


async def health(exchange: Exchange) -> Reply:
    """Whether the server can serve: all that it was asked for could be opened."""
    services = exchange.services
    degraded = services.engine.degraded
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
    status = await exchange.bridge.run(exchange.engine.status, exchange.deadline)
    return wire.json_reply(wire.cache_form(status, exchange.services.connections()))
