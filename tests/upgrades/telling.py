"""All that a store holds, as JSON: what it is now, and what it ever was."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from kvfs.errors import KvfsError
from kvfs.handle import Handle
from kvfs.listing import LIMIT_MAX, Query
from kvfs.model import Entry, FileValue, Op, Value
from kvfs.timetravel import HISTORY_LIMIT_MAX

_SHOWN_BYTES = 200


def told(store: Handle, keys: list[str]) -> dict[str, Any]:
    """The listed keys, and of each of `keys` how it is read and all its ops, the oldest first."""
    return {
        "listed": [entry.key for entry in store.list(Query(limit=LIMIT_MAX)).entries],
        "read": {key: _read(store, key) for key in keys},
        "ops": {key: ops(store, key) for key in keys},
        "retention": [*store.retention()],
    }


def ops(store: Handle, key: str) -> list[dict[str, Any]]:
    """The ops of a key, the oldest first, with their values."""
    history = store.history(key, limit=HISTORY_LIMIT_MAX, newest=False)
    return [_op(store.op(key, each.op.op_number) or each.op) for each in history.operations]


def _read(store: Handle, key: str) -> dict[str, Any] | str:
    try:
        return _entry(store.get(key))
    except KvfsError as error:
        return error.code


def _op(op: Op) -> dict[str, Any]:
    return {
        "seq": op.seq,
        "op_number": op.op_number,
        "op_type": str(op.op_type),
        "origin": str(op.origin),
        "ts_ns": op.ts_ns,
        "ttl_s": op.ttl_s,
        "recorded": op.recorded,
        "entry": None if op.entry is None else _entry(op.entry),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "content_type": entry.content_type,
        "size": entry.size,
        "created_s": entry.created_s,
        "updated_s": entry.updated_s,
        "expire_ns": entry.expire_ns,
        "op_number": entry.op_number,
        "value": None if entry.value is None else _value(entry.value),
    }


def _value(value: Value) -> str:
    """In base64, or where it is long by its hash."""
    if isinstance(value, FileValue):
        with value:
            value = value.read()
    if len(value) > _SHOWN_BYTES:
        return f"sha256 {hashlib.sha256(value).hexdigest()}"
    return base64.b64encode(value).decode()
