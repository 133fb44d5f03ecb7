"""Handlers of the past: history, snapshots, differences, and going back."""

from __future__ import annotations

from functools import partial
from typing import Final

from kvfs.errors import InvalidParameters
from kvfs.handle import Handle
from kvfs.model import Rollback
from kvfs.timetravel import HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX
from server import preconditions, wire
from server.body import json_object
from server.exchange import Exchange
from server.params import Params
from server.reply import Reply

_LIMIT_DEFAULT: Final = 100
_LIMIT_MAX: Final = 10_000
_ORDERS: Final = ("asc", "desc")


async def history(exchange: Exchange) -> Reply:
    """A page of a key's operations."""
    params = exchange.params
    limit = params.integer("limit", low=0) or HISTORY_LIMIT_DEFAULT
    order = (params.text("order") or "desc").lower()
    if order not in _ORDERS:
        raise InvalidParameters("order must be asc or desc")
    answer = partial(
        _history_reply,
        key=exchange.key,
        limit=min(limit, HISTORY_LIMIT_MAX),
        before=params.integer("before"),
        after=params.integer("after"),
        newest=order == "desc",
        deadline=exchange.deadline,
    )
    with exchange.lease_now() or await exchange.lease() as handle:
        return await exchange.run(partial(answer, handle))


async def key_snapshot(exchange: Exchange) -> Reply:
    """A key as one of its operations left it."""
    op_number = exchange.params.integer("op_number")
    if op_number is None:
        raise InvalidParameters("op_number is required")
    with exchange.lease_now() or await exchange.lease() as handle:
        answer = partial(_snapshot_reply, handle, exchange.key, op_number, exchange.deadline)
        return await exchange.run(answer)


async def table_snapshot(exchange: Exchange) -> Reply:
    """All keys as they were at a time."""
    params = exchange.params
    ts_ns = _timestamp(params, "timestamp")
    limit = params.integer("limit", low=1)
    answer = partial(
        _table_snapshot_reply,
        exchange=exchange,
        ts_ns=ts_ns,
        prefix=params.text("prefix") or "",
        limit=_LIMIT_DEFAULT if limit is None else min(limit, _LIMIT_MAX),
    )
    with exchange.lease_now() or await exchange.lease() as handle:
        return await exchange.run(partial(answer, handle))


async def diff(exchange: Exchange) -> Reply:
    """What changed between two times."""
    params = exchange.params
    from_ns, to_ns = _timestamp(params, "from"), _timestamp(params, "to")
    listed = params.text("keys")
    keys = None if listed is None else [key for key in listed.split(",") if key]
    exchange.claim_keys(keys or ())
    answer = partial(_diff_reply, exchange=exchange, from_ns=from_ns, to_ns=to_ns, keys=keys)
    with exchange.lease_now() or await exchange.lease() as handle:
        return await exchange.run(partial(answer, handle))


async def rollback_key(exchange: Exchange) -> Reply:
    """Undo a key's last operations, by a new one."""
    steps = exchange.params.integer("steps", low=1) or 1
    answer = partial(
        _rolled_back_reply,
        write=Rollback(exchange.key, steps, preconditions.conditions(exchange.headers)),
        db=exchange.params.db(),
        deadline=exchange.deadline,
        idempotency_key=exchange.idempotency_key,
    )
    with exchange.lease_now() or await exchange.lease() as handle:
        return await exchange.run(partial(answer, handle))


async def rollback_table(exchange: Exchange) -> Reply:
    """Make a table what it was at a time."""
    params = exchange.params
    to_ns = _timestamp(params, "to_timestamp")
    dry_run = bool(params.flag("dry_run"))
    confirmed = params.text("confirm") == "yes"
    if not dry_run and not confirmed:
        raise InvalidParameters("confirm must be exactly yes, unless dry_run is true")
    keys, excluded = _keys(await exchange.json_body().read())
    exchange.claim_keys(keys or ())
    roll_back = partial(
        Handle.rollback_table,
        to_ns=to_ns,
        keys=keys,
        exclude_keys=excluded,
        dry_run=dry_run,
        deadline=exchange.deadline,
        idempotency_key=exchange.idempotency_key,
    )
    with exchange.lease_now() or await exchange.lease() as handle:
        outcome = await exchange.run(partial(roll_back, handle))
    target = params.target
    form = wire.table_rolled_back_form(
        outcome, db=target.db, table=target.table, to_ns=to_ns, dry_run=dry_run, confirmed=confirmed
    )
    return wire.write_reply(form, outcome)


# --- parts ---------------------------------------------------------------------------------------------


def _timestamp(params: Params, name: str) -> int:
    ts_ns = params.timestamp(name)
    if ts_ns is None:
        raise InvalidParameters(f"{name} is required")
    return ts_ns


def _keys(body: bytes) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The `keys` and `exclude_keys` of a body."""
    if not body:
        return None, None
    asked = json_object(body)
    return _strings(asked.get("keys"), "keys"), _strings(asked.get("exclude_keys"), "exclude_keys")


def _strings(value: object, name: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidParameters(f"{name} must be an array of strings")
    return tuple(value)


def _history_reply(
    handle: Handle,
    *,
    key: str,
    limit: int,
    before: int | None,
    after: int | None,
    newest: bool,
    deadline: float,
) -> Reply:
    page = handle.history(key, limit=limit, before=before, after=after, newest=newest, deadline=deadline)
    return wire.json_reply(wire.history_form(key, page))


def _snapshot_reply(handle: Handle, key: str, op_number: int, deadline: float) -> Reply:
    return wire.json_reply(wire.snapshot_form(handle.snapshot(key, op_number, deadline=deadline)))


def _rolled_back_reply(
    handle: Handle, *, write: Rollback, db: str, deadline: float, idempotency_key: str | None
) -> Reply:
    outcome = handle.apply(write, deadline=deadline, idempotency_key=idempotency_key)
    result = outcome.result
    op = None if result.removed else handle.op(write.key, result.op_number)
    form = wire.rolled_back_form(result, op, db=db, steps=write.steps)
    return wire.write_reply(form, outcome, f'ETag: "{result.op_number}"\r\n')


def _table_snapshot_reply(
    handle: Handle, *, exchange: Exchange, ts_ns: int, prefix: str, limit: int
) -> Reply:
    past = handle.snapshot_at(ts_ns, prefix=prefix, limit=limit, deadline=exchange.deadline)
    target = exchange.params.target
    return wire.json_reply(wire.table_snapshot_form(past, db=target.db, table=target.table, ts_ns=ts_ns))


def _diff_reply(
    handle: Handle, *, exchange: Exchange, from_ns: int, to_ns: int, keys: list[str] | None
) -> Reply:
    found = handle.diff(from_ns, to_ns, keys=keys, deadline=exchange.deadline)
    target = exchange.params.target
    return wire.json_reply(
        wire.diff_form(found, db=target.db, table=target.table, from_ns=from_ns, to_ns=to_ns)
    )
