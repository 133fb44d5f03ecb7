"""Handlers of the server's own state."""

from __future__ import annotations

import time

from kvfs.sqlite import SQLITE_VERSION
from server import wire
from server.exchange import Exchange
from server.reply import Reply


async def health(exchange: Exchange) -> Reply:
    """Whether the server can serve."""
    services = exchange.services
    return wire.json_reply(
        {
            "status": "ok",
            "version": services.version,
            "uptime_seconds": int(time.monotonic() - services.started),
            "sqlite_version": SQLITE_VERSION,
        }
    )
