"""Handlers that write one key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from multidict import istr

from kvfs import content_types, jsonpath
from kvfs.errors import InvalidParameters
from kvfs.handle import Handle
from kvfs.model import (
    Conditions,
    Delete,
    Incr,
    KeyWrite,
    OpType,
    Outcome,
    Pop,
    Push,
    Remove,
    Set,
    SetTtl,
    Value,
)
from kvfs.valueops import MAX_TTL_S
from server import preconditions, wire
from server.body import INVALID_JSON, Body
from server.exchange import Exchange
from server.params import Params
from server.reply import Reply

CONTENT_TYPE: Final = istr("Content-Type")

_ON_LOOP_MAX_BYTES: Final = 64 * 1024
_VALUE_PATH: Final = jsonpath.parse("value")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The parameters of a write, in part those of some writes only. `if_match` is a value."""

    path: str | None
    ttl_s: int | None
    if_match: bytes | None
    history: bool


def _asked(params: Params) -> _Asked:
    return _Asked(
        params.json_path("path"),
        params.integer("ttl", low=0, high=MAX_TTL_S),
        params.raw("if_match"),
        params.history,
    )


async def put_value(exchange: Exchange) -> Reply:
    """Store a value, or with `path` one node of a JSON document."""
    asked = exchange.params.once(_asked)
    headers = exchange.headers
    conditions = preconditions.conditions(headers, value=asked.if_match)
    idempotency_key = exchange.idempotency_key
    declared = headers.get(CONTENT_TYPE) or None
    body = exchange.value_body()
    value = body.arrived()
    if value is None:
        value = await body.small()
    # Of a large value this is not the type yet; but what is declared is checked before anything is made.
    content_type = await _classified(exchange, declared, b"" if value is None else value)
    write = Set(
        exchange.key,
        b"" if value is None else value,
        content_type,
        asked.ttl_s or None,
        None if value is None else asked.path,
        conditions,
        asked.history,
    )
    with exchange.lease_now() or await exchange.lease_to_write(write) as handle:
        if value is None:
            outcome = await _put_large(exchange, handle, body, declared, conditions)
        else:
            outcome = await exchange.bridge.write(
                handle, write, deadline=exchange.deadline, idempotency_key=idempotency_key
            )
    result = outcome.result
    return wire.write_reply(wire.set_form(result), outcome, f'ETag: "{result.op_number}"\r\n')


async def _put_large(
    exchange: Exchange, handle: Handle, body: Body, declared: str | None, conditions: Conditions
) -> Outcome:
    asked = exchange.params.once(_asked)
    file = await exchange.run(handle.upload)
    try:
        await body.spill(file)
        content_type = await _classified(exchange, declared, file)
    except BaseException:
        file.close()
        raise
    write = Set(exchange.key, file, content_type, asked.ttl_s or None, asked.path, conditions, asked.history)
    return await exchange.bridge.write_file(
        handle, write, file, deadline=exchange.deadline, idempotency_key=exchange.idempotency_key
    )


async def delete_key(exchange: Exchange) -> Reply:
    """Remove a key."""
    conditions = preconditions.conditions(exchange.headers)
    outcome = await _apply(exchange, Delete(exchange.key, conditions, exchange.params.history))
    return wire.write_reply(wire.delete_form(outcome.result), outcome)


async def incr(exchange: Exchange) -> Reply:
    """Add to a number."""
    return await _add(exchange, 1)


async def decr(exchange: Exchange) -> Reply:
    """Subtract from a number."""
    return await _add(exchange, -1)


async def push(exchange: Exchange) -> Reply:
    """Append the body to an array."""
    asked = exchange.params.once(_asked)
    conditions = preconditions.conditions(exchange.headers)
    node = await exchange.value_body().read()
    write = Push(exchange.key, node, asked.path, asked.history, conditions)
    outcome = await _apply(exchange, write, may_create=True)
    return wire.write_reply(wire.push_form(outcome.result), outcome)


async def pop(exchange: Exchange) -> Reply:
    """Take the last element of an array."""
    asked = exchange.params.once(_asked)
    conditions = preconditions.conditions(exchange.headers)
    outcome = await _apply(exchange, Pop(exchange.key, asked.path, asked.history, conditions))
    return wire.write_reply(wire.pop_form(outcome.result), outcome)


async def remove(exchange: Exchange) -> Reply:
    """Take one element out of an array."""
    asked = exchange.params.once(_asked)
    conditions = preconditions.conditions(exchange.headers)
    index = exchange.params.integer("index")
    node = _wanted_node(await exchange.value_body().read())
    if (index is None) == (node is None):
        raise InvalidParameters('give either the index parameter or a body {"value": …}, and not both')
    write = Remove(exchange.key, index, node, asked.path, asked.history, conditions)
    outcome = await _apply(exchange, write)
    return wire.write_reply(wire.remove_form(outcome.result), outcome)


async def expire(exchange: Exchange) -> Reply:
    """Give a key a TTL."""
    ttl_s = exchange.params.integer("ttl", low=1)
    if ttl_s is None:
        raise InvalidParameters("ttl is required")
    return await _set_ttl(exchange, ttl_s)


async def persist(exchange: Exchange) -> Reply:
    """Take a key's TTL away."""
    return await _set_ttl(exchange, None)


# --- parts ---------------------------------------------------------------------------------------------


async def _apply(exchange: Exchange, write: KeyWrite, *, may_create: bool = False) -> Outcome:
    idempotency_key = exchange.idempotency_key
    with exchange.lease_now() or await (
        exchange.lease_to_write(write) if may_create else exchange.lease()
    ) as handle:
        return await exchange.bridge.write(
            handle, write, deadline=exchange.deadline, idempotency_key=idempotency_key
        )


async def _add(exchange: Exchange, sign: int) -> Reply:
    asked = exchange.params.once(_asked)
    delta = exchange.params.integer("delta")
    write = Incr(
        exchange.key,
        sign if delta is None else sign * delta,
        asked.path,
        asked.history,
        OpType.INCR if sign > 0 else OpType.DECR,
        preconditions.conditions(exchange.headers),
    )
    outcome = await _apply(exchange, write, may_create=True)
    return wire.write_reply(wire.incr_form(outcome.result), outcome)


async def _set_ttl(exchange: Exchange, ttl_s: int | None) -> Reply:
    conditions = preconditions.conditions(exchange.headers)
    outcome = await _apply(exchange, SetTtl(exchange.key, ttl_s, exchange.params.history, conditions))
    return wire.write_reply(wire.ttl_form(outcome.result), outcome)


async def _classified(exchange: Exchange, declared: str | None, value: Value) -> str:
    if len(value) <= _ON_LOOP_MAX_BYTES:
        return content_types.classify(declared, value)
    classify = partial(content_types.classify, declared, value)
    return await exchange.run(classify)


def _wanted_node(body: bytes) -> bytes | None:
    """The exact JSON text of `value` in the body; None where there is none."""
    if not body:
        return None
    try:
        if not body.lstrip().startswith(b"{"):
            raise InvalidParameters(f"{INVALID_JSON}: it must be an object")
        return jsonpath.find(body, _VALUE_PATH)
    except jsonpath.JsonPathError as exc:
        raise InvalidParameters(INVALID_JSON) from exc
