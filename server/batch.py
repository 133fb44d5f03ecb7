"""Handlers of the batches: many keys, all or nothing."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from typing import Any, Final

from kvfs import content_types
from kvfs.config import MIB
from kvfs.errors import InvalidParameters
from kvfs.handle import Handle
from kvfs.keys import check_key
from kvfs.model import UNCONDITIONAL, BatchDelete, BatchSet, Conditions, Set
from server import wire
from server.body import INVALID_JSON, json_object
from server.exchange import Exchange
from server.reply import Reply

_ON_LOOP_MAX_BYTES: Final = 64 * 1024
_VALUES_MAX_BYTES: Final = 64 * MIB


async def batch_set(exchange: Exchange) -> Reply:
    """Store many values."""
    history, idempotency_key = exchange.params.history, exchange.idempotency_key
    most = exchange.services.config.max_batch_items
    body = await exchange.json_body().read()
    read = partial(_sets, body, most=most, history=history)
    if len(body) <= _ON_LOOP_MAX_BYTES:
        sets = read()
    else:
        sets = await exchange.run(read)
    exchange.claim_keys([each.key for each in sets])
    write = BatchSet(sets)
    with exchange.lease_now() or await exchange.lease_to_write(write) as handle:
        outcome = await exchange.bridge.write(
            handle, write, deadline=exchange.deadline, idempotency_key=idempotency_key
        )
    return wire.write_reply(wire.batch_set_form(outcome), outcome)


async def batch_get(exchange: Exchange) -> Reply:
    """Read many values."""
    keys = _keys(await exchange.json_body().read(), most=exchange.services.config.max_batch_items)
    for key in keys:
        check_key(key)
    exchange.claim_keys(keys)
    with exchange.lease_now() or await exchange.lease() as handle:
        read = partial(_batch_get_reply, handle, keys, deadline=exchange.deadline)
        return await exchange.run(read)


async def batch_delete(exchange: Exchange) -> Reply:
    """Remove many keys."""
    history, idempotency_key = exchange.params.history, exchange.idempotency_key
    keys = _keys(await exchange.json_body().read(), most=exchange.services.config.max_batch_items)
    exchange.claim_keys(keys)
    with exchange.lease_now() or await exchange.lease() as handle:
        outcome = await exchange.bridge.write(
            handle, BatchDelete(keys, history), deadline=exchange.deadline, idempotency_key=idempotency_key
        )
    return wire.write_reply(wire.batch_delete_form(outcome), outcome)


# --- parts ---------------------------------------------------------------------------------------------


def _batch_get_reply(handle: Handle, keys: tuple[str, ...], *, deadline: float) -> Reply:
    return wire.json_reply(
        wire.batch_get_form(handle.get_many(keys, max_bytes=_VALUES_MAX_BYTES, deadline=deadline))
    )


def _sets(body: bytes, *, most: int, history: bool) -> tuple[Set, ...]:
    return tuple(_set(item, history=history) for item in _list(body, "items", most=most))


def _keys(body: bytes, *, most: int) -> tuple[str, ...]:
    keys = _list(body, "keys", most=most)
    if not all(isinstance(key, str) for key in keys):
        raise InvalidParameters(f"{INVALID_JSON}: keys must be strings")
    return tuple(keys)


def _list(body: bytes, name: str, *, most: int) -> list[Any]:
    items = json_object(body).get(name)
    if not isinstance(items, list):
        raise InvalidParameters(f"{INVALID_JSON}: {name} must be an array")
    if len(items) > most:
        raise InvalidParameters(f"{name}: a batch has at most {most} items")
    return items


def _set(item: Any, *, history: bool) -> Set:
    if not isinstance(item, dict):
        raise InvalidParameters(f"{INVALID_JSON}: each item must be an object")
    key = _string(item, "key")
    if key is None:
        raise InvalidParameters(f"{INVALID_JSON}: each item needs a key")
    value = _value(item)
    return Set(
        key,
        value,
        content_types.classify(_string(item, "content_type"), value),
        ttl_s=_ttl(item),
        conditions=_conditions(item),
        history=history,
    )


def _value(item: dict[str, Any]) -> bytes:
    """The value: text, or with `"encoding": "base64"` bytes, as answers have them."""
    text = _string(item, "value")
    if text is None:
        raise InvalidParameters(f"{INVALID_JSON}: each item needs a value, which is a string")
    encoding = _string(item, "encoding")
    if encoding in (None, "utf-8"):
        return text.encode()
    if encoding != "base64":
        raise InvalidParameters(f"{INVALID_JSON}: encoding must be utf-8 or base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidParameters(f"{INVALID_JSON}: value is not base64") from exc


def _ttl(item: dict[str, Any]) -> int | None:
    ttl_s = item.get("ttl")
    if ttl_s is None:
        return None
    if not isinstance(ttl_s, int) or isinstance(ttl_s, bool) or ttl_s < 0:
        raise InvalidParameters("ttl must be a whole number of seconds, 0 or more")
    return ttl_s or None


def _conditions(item: dict[str, Any]) -> Conditions:
    if_match = _string(item, "if_match")
    if_none_match = _string(item, "if_none_match")
    if if_none_match not in (None, "*"):
        raise InvalidParameters('if_none_match must be "*"')
    if if_match is None:
        return UNCONDITIONAL if if_none_match is None else Conditions(exists=False)
    if if_none_match is not None:
        raise InvalidParameters("if_match and if_none_match contradict each other")
    if if_match == "*":
        return Conditions(exists=True)
    # An etag as answers have it, or as the header has it, quoted.
    return Conditions(etags=(if_match.removeprefix('"').removesuffix('"'),))


def _string(item: dict[str, Any], name: str) -> str | None:
    value = item.get(name)
    if value is None or isinstance(value, str):
        return value
    raise InvalidParameters(f"{INVALID_JSON}: {name} must be a string")
