"""Handlers that look after a store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from kvfs.errors import InvalidParameters
from kvfs.handle import Handle
from server import times, wire
from server.body import json_object
from server.exchange import Exchange
from server.reply import Reply


async def maintenance(exchange: Exchange) -> Reply:
    """Do what the body's `op` says."""
    asked = json_object(await exchange.json_body().read())
    op = asked.get("op")
    if not isinstance(op, str) or op not in _OPS:
        raise InvalidParameters(f"op must be one of: {', '.join(_OPS)}")
    began = time.monotonic()
    told = await _OPS[op](exchange, asked)
    duration_ms = round((time.monotonic() - began) * 1000, 3)
    return wire.json_reply({"success": True, "op": op, "duration_ms": duration_ms, **told})


async def _rebuild(exchange: Exchange, _: wire.Json) -> wire.Json:
    with exchange.lease_now() or await exchange.lease() as handle:
        if not handle.directory:
            raise InvalidParameters("rebuild is for directory stores: a table has nothing to rebuild")
        rebuild = partial(handle.rebuild, deadline=exchange.deadline)
        return wire.rebuilt_form(await exchange.bridge.run(rebuild, exchange.deadline))


async def _history_prune(exchange: Exchange, asked: wire.Json) -> wire.Json:
    before = asked.get("before")
    prune = partial(
        Handle.prune,
        before_ns=None if before is None else times.of_json(before, "before"),
        keep_last=asked.get("keep_last"),
        deadline=exchange.deadline,
    )
    with exchange.lease_now() or await exchange.lease() as handle:
        return wire.pruned_form(await exchange.bridge.run(partial(prune, handle), exchange.deadline))


async def _retention(exchange: Exchange, asked: wire.Json) -> wire.Json:
    changes = {name: asked[name] for name in _RETENTION if name in asked}
    change = partial(Handle.set_retention, **changes) if changes else Handle.retention
    with exchange.lease_now() or await exchange.lease() as handle:
        retention = await exchange.bridge.run(
            partial(change, handle, deadline=exchange.deadline), exchange.deadline
        )
    return retention._asdict()


_RETENTION: Final = ("keep_last", "max_age_s")

_OPS: Final[Mapping[str, Callable[[Exchange, wire.Json], Awaitable[wire.Json]]]] = {
    "rebuild": _rebuild,
    "history_prune": _history_prune,
    "retention": _retention,
}
