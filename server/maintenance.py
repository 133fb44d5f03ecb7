"""Handlers that look after a store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from kvfs.errors import InvalidParameters
from kvfs.handle import Handle
from kvfs.pending import Pending
from kvfs.sql.maintenance import Resized
from server import times, wire
from server.body import json_object
from server.exchange import Exchange
from server.reply import Reply
from server.sql import lease as database_lease


async def maintenance(exchange: Exchange) -> Reply:
    """Do what the body's `op` says."""
    body = json_object(await exchange.json_body().read())
    op = body.get("op")
    if not isinstance(op, str) or op not in _OPS:
        raise InvalidParameters(f"op must be one of: {', '.join(_OPS)}")
    began = time.monotonic()
    told = await _OPS[op](exchange, body)
    duration_ms = round((time.monotonic() - began) * 1000, 3)
    return wire.json_reply({"success": True, "op": op, "duration_ms": duration_ms, **told})


async def _rebuild(exchange: Exchange, _: wire.Json) -> wire.Json:
    exchange.claim_keys(())
    with exchange.lease_now() or await exchange.lease() as handle:
        if not handle.directory:
            raise InvalidParameters("rebuild is for directory stores: a table has nothing to rebuild")
        rebuild = partial(handle.rebuild, deadline=exchange.deadline)
        return wire.rebuilt_form(await exchange.bridge.run(rebuild, exchange.deadline))


async def _history_prune(exchange: Exchange, body: wire.Json) -> wire.Json:
    before = body.get("before")
    prune = partial(
        Handle.prune,
        before_ns=None if before is None else times.of_json(before, "before"),
        keep_last=body.get("keep_last"),
        deadline=exchange.deadline,
    )
    exchange.claim_keys(())
    with exchange.lease_now() or await exchange.lease() as handle:
        return wire.pruned_form(await exchange.bridge.run(partial(prune, handle), exchange.deadline))


async def _retention(exchange: Exchange, body: wire.Json) -> wire.Json:
    changes = {name: body[name] for name in _RETENTION if name in body}
    change = partial(Handle.set_retention, **changes) if changes else Handle.retention
    exchange.claim_keys(())
    with exchange.lease_now() or await exchange.lease() as handle:
        retention = await exchange.bridge.run(
            partial(change, handle, deadline=exchange.deadline), exchange.deadline
        )
    return retention._asdict()


_RETENTION: Final = ("keep_last", "max_age_s")


async def _checkpoint(exchange: Exchange, _: wire.Json) -> wire.Json:
    leased = await database_lease(exchange)
    with leased:
        pending = leased.sql.maintenance.checkpoint(deadline=exchange.deadline)
        done = await exchange.bridge.done(pending, exchange.deadline)
    return {"frames": done.frames}


async def _vacuum(exchange: Exchange, _: wire.Json) -> wire.Json:
    leased = await database_lease(exchange)
    with leased:
        pending = leased.sql.maintenance.vacuum(deadline=exchange.deadline)
        return _resized_form(await exchange.bridge.done(pending, exchange.deadline))


async def _optimize(exchange: Exchange, _: wire.Json) -> wire.Json:
    leased = await database_lease(exchange)
    with leased:
        pending = leased.sql.maintenance.optimize(deadline=exchange.deadline)
        await exchange.bridge.done(pending, exchange.deadline)
    return {}


async def _vacuum_into(exchange: Exchange, body: wire.Json) -> wire.Json:
    dest_path = _path(exchange, body, "dest_path")
    leased = await database_lease(exchange)
    with leased:
        maintenance, paths, deadline = leased.sql.maintenance, exchange.engine.paths, exchange.deadline

        def copy() -> wire.Json:
            path = paths.file(dest_path, create=True)
            return {"dest_path": path, "size": maintenance.copy_into(path, deadline=deadline)}

        return await exchange.bridge.run_sql(copy, deadline)


async def _restore(exchange: Exchange, body: wire.Json) -> wire.Json:
    src_path = _path(exchange, body, "src_path")
    leased = await database_lease(exchange)
    with leased:
        maintenance, paths, deadline = leased.sql.maintenance, exchange.engine.paths, exchange.deadline

        def restore() -> tuple[str, Pending[Resized]]:
            path = paths.file(src_path)
            return path, maintenance.restore(path, deadline=deadline)

        path, pending = await exchange.bridge.run_sql(restore, deadline)
        return {"src_path": path, **_resized_form(await exchange.bridge.done(pending, deadline))}


async def _check(exchange: Exchange, *, quick: bool) -> wire.Json:
    leased = await database_lease(exchange)
    with leased:
        check = partial(leased.sql.maintenance.check, quick=quick, deadline=exchange.deadline)
        problems = await exchange.bridge.run_sql(check, exchange.deadline)
    return {"ok": not problems, "problems": problems}


async def _quick_check(exchange: Exchange, _: wire.Json) -> wire.Json:
    return await _check(exchange, quick=True)


async def _integrity_check(exchange: Exchange, _: wire.Json) -> wire.Json:
    return await _check(exchange, quick=False)


def _path(exchange: Exchange, body: wire.Json, name: str) -> str:
    """The path of another database, which the request's token must cover too."""
    path = body.get(name)
    if not isinstance(path, str):
        raise InvalidParameters(f"{name} is required")
    exchange.claim_database(path)
    return path


def _resized_form(resized: Resized) -> wire.Json:
    return {"size_before": resized.before_bytes, "size": resized.after_bytes}


_OPS: Final[Mapping[str, Callable[[Exchange, wire.Json], Awaitable[wire.Json]]]] = {
    "rebuild": _rebuild,
    "wal_checkpoint_truncate": _checkpoint,
    "vacuum_into": _vacuum_into,
    "quick_check": _quick_check,
    "integrity_check": _integrity_check,
    "optimize": _optimize,
    "vacuum": _vacuum,
    "restore": _restore,
    "history_prune": _history_prune,
    "retention": _retention,
}
