"""Handlers that look after a store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from kvfs.errors import InvalidParameters
from server import wire
from server.body import json_object
from server.exchange import Exchange
from server.reply import Reply


async def maintenance(exchange: Exchange) -> Reply:
    """Do what the body's `op` says."""
    op = json_object(await exchange.json_body().read()).get("op")
    if not isinstance(op, str) or op not in _OPS:
        raise InvalidParameters(f"op must be one of: {', '.join(_OPS)}")
    began = time.monotonic()
    told = await _OPS[op](exchange)
    duration_ms = round((time.monotonic() - began) * 1000, 3)
    return wire.json_reply({"success": True, "op": op, "duration_ms": duration_ms, **told})


async def _rebuild(exchange: Exchange) -> wire.Json:
    exchange.claim_keys(())
    with exchange.lease_now() or await exchange.lease() as handle:
        if not handle.directory:
            raise InvalidParameters("rebuild is for directory stores: a table has nothing to rebuild")
        rebuild = partial(handle.rebuild, deadline=exchange.deadline)
        return wire.rebuilt_form(await exchange.bridge.run(rebuild, exchange.deadline))


_OPS: Final[Mapping[str, Callable[[Exchange], Awaitable[wire.Json]]]] = {"rebuild": _rebuild}
