"""Writes, decided: each function here is pure, and says what a write makes of the entry that it meets.

A decision is a `Change`, or None where nothing is to be done, and the `WriteResult` that the caller gets.
Whatever is wrong raises before there is a decision, so a failed write changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from kvfs import content_types, jsonpath
from kvfs.errors import CasMismatch, InvalidParameters, KeyExpired, KeyNotFound, PayloadTooLarge
from kvfs.model import (
    NS,
    NS_PER_MS,
    UNCONDITIONAL,
    Change,
    Conditions,
    Delete,
    Entry,
    Incr,
    KeyState,
    KeyWrite,
    OpType,
    Pop,
    Push,
    Remove,
    Set,
    SetTtl,
    Value,
    WriteResult,
)

MAX_TTL_S: Final = 100 * 365 * 24 * 3600

_INT64: Final = range(-(2**63), 2**63)

Decision = tuple[Change | None, WriteResult]


class Situation(NamedTuple):
    """What a write meets: the key's state, a way to its value, the time of the op to be, and the limit."""

    state: KeyState
    load: Callable[[], bytes]
    ts_ns: int
    max_value_bytes: int

    @property
    def next_op_number(self) -> int:
        return self.state.last_op_number + 1

    def existing(self) -> Entry:
        """The entry; raises `KeyExpired` or `KeyNotFound` where there is none."""
        if self.state.entry is None:
            raise missing(expired=self.state.expired)
        return self.state.entry


def decide(write: KeyWrite, situation: Situation) -> Decision:
    """What this write does in this situation; its conditions are `check_conditions`'s.

    Raises `KeyNotFound`, `KeyExpired`, `InvalidParameters` or `PayloadTooLarge` as each kind of write has
    them.
    """
    match write:
        case Set(path=None):
            return _set(write, situation)
        case Set():
            return _set_node(write, situation)
        case Delete():
            return _delete(write, situation)
        case Incr():
            return _incr(write, situation)
        case Push():
            return _push(write, situation)
        case Pop():
            return _pop(write, situation)
        case Remove():
            return _remove(write, situation)
        case SetTtl():
            return _set_ttl(write, situation)


def check_conditions(conditions: Conditions, situation: Situation) -> None:
    """Raises `CasMismatch` where a condition does not hold."""
    if conditions is UNCONDITIONAL:
        return
    entry = situation.state.entry
    current = None if entry is None else entry.etag
    if conditions.value is not None:
        if entry is None:
            raise CasMismatch("Key does not exist for CAS", current_etag=None)
        if entry.size != len(conditions.value) or situation.load() != conditions.value:
            raise CasMismatch("Value mismatch for CAS", current_etag=current)
    if conditions.etags is not None and current not in conditions.etags:
        message = "Key does not exist for CAS" if entry is None else "ETag mismatch for CAS"
        raise CasMismatch(message, current_etag=current)
    if conditions.none_of is not None and current in conditions.none_of:
        raise CasMismatch("ETag matches, and must not", current_etag=current)
    if conditions.exists is True and entry is None:
        raise CasMismatch("Key does not exist for CAS", current_etag=None)
    if conditions.exists is False and entry is not None:
        raise CasMismatch("Key exists already", current_etag=current)


def missing(*, expired: bool) -> KeyNotFound | KeyExpired:
    """The error for a key that is not there."""
    return KeyExpired("Key expired") if expired else KeyNotFound("Key not found")


def expiry(ts_ns: int, ttl_s: int) -> int:
    """When a TTL given at this time runs out, in whole milliseconds: rows show it as seconds, exactly."""
    if not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidParameters(f"ttl must be between 1 and {MAX_TTL_S} seconds")
    return -(-(ts_ns + ttl_s * NS) // NS_PER_MS) * NS_PER_MS


def expires_after(ts_ns: int, left_ns: int) -> int:
    """As `expiry`, for what is left of a TTL."""
    return -(-(ts_ns + left_ns) // NS_PER_MS) * NS_PER_MS


def read_node(value: bytes, path: str) -> bytes:
    """The JSON text of one node; `KeyNotFound` where the path leads nowhere, else `InvalidParameters`."""
    with _JsonErrors():
        return jsonpath.get(value, jsonpath.parse(path))


def _set(write: Set, situation: Situation) -> Decision:
    _check_size(len(write.value), situation)
    expire_ns = None if write.ttl_s is None else expiry(situation.ts_ns, write.ttl_s)
    change = Change(OpType.SET, write.value, write.content_type, expire_ns, write.ttl_s, write.history)
    return change, _result(write.key, change, situation)


def _set_node(write: Set, situation: Situation) -> Decision:
    assert write.path is not None
    with _JsonErrors():
        path = jsonpath.parse(write.path)
        document = jsonpath.put(_document(situation), path, _whole(write.value))
    change = _edited(OpType.SET, document, situation, history=write.history, new_type=content_types.JSON)
    if write.ttl_s is not None:
        change = Change(
            OpType.SET,
            document,
            content_type=change.content_type,
            expire_ns=expiry(situation.ts_ns, write.ttl_s),
            ttl_s=write.ttl_s,
            recorded=write.history,
        )
    return change, _result(write.key, change, situation)


def _delete(write: Delete, situation: Situation) -> Decision:
    situation.existing()
    change = Change(OpType.DELETE, None, recorded=write.history)
    return change, WriteResult(write.key, situation.next_op_number)


def _incr(write: Incr, situation: Situation) -> Decision:
    path = _parsed(write.path)
    document = _document(situation)
    with _JsonErrors():
        node = document if path is None or document is None else jsonpath.find(document, path)
        previous = None if node is None or node.strip(_WHITE) == b"null" else _number(node)
        number = _sum(0 if previous is None else previous, write.delta)
        text = str(number).encode() if isinstance(number, int) else repr(number).encode()
        if path is not None:
            edited = jsonpath.put(document, path, text)
        elif document is None:
            edited = text
        else:
            # An editor's trailing newline stays where it is.
            edited = document.replace(document.strip(_WHITE), text)
    new_type = content_types.DIGITS if path is None else content_types.JSON
    change = _edited(write.op_type, edited, situation, history=write.history, new_type=new_type)
    return change, WriteResult(
        write.key,
        situation.next_op_number,
        created=situation.state.entry is None,
        number=number,
        previous=previous,
    )


def _push(write: Push, situation: Situation) -> Decision:
    with _JsonErrors():
        edited, length = jsonpath.array_append(_document(situation), _parsed(write.path) or (), write.node)
    change = _edited(OpType.PUSH, edited, situation, history=write.history, new_type=content_types.JSON)
    created = situation.state.entry is None
    return change, WriteResult(write.key, situation.next_op_number, created=created, length=length)


def _pop(write: Pop, situation: Situation) -> Decision:
    entry = situation.existing()
    with _JsonErrors():
        edited, node, length = jsonpath.array_pop(situation.load(), _parsed(write.path) or ())
    if node is None:
        return None, WriteResult(write.key, entry.op_number, changed=False, length=0)
    change = _edited(OpType.POP, edited, situation, history=write.history, new_type=content_types.JSON)
    return change, WriteResult(write.key, situation.next_op_number, length=length, node=node.decode())


def _remove(write: Remove, situation: Situation) -> Decision:
    entry = situation.existing()
    path = _parsed(write.path) or ()
    with _JsonErrors():
        if write.index is not None:
            edited, length = jsonpath.array_remove_at(situation.load(), path, write.index)
            removed = 1
        else:
            assert write.node is not None
            edited, removed, length = jsonpath.array_remove_equal(situation.load(), path, write.node)
    if not removed:
        return None, WriteResult(write.key, entry.op_number, changed=False, removed=0, length=length)
    change = _edited(OpType.REMOVE, edited, situation, history=write.history, new_type=content_types.JSON)
    return change, WriteResult(write.key, situation.next_op_number, removed=removed, length=length)


def _set_ttl(write: SetTtl, situation: Situation) -> Decision:
    entry = situation.existing()
    if write.ttl_s is None and entry.expire_ns is None:
        return None, WriteResult(write.key, entry.op_number, changed=False)
    expire_ns = None if write.ttl_s is None else expiry(situation.ts_ns, write.ttl_s)
    change = Change(
        OpType.PERSIST if write.ttl_s is None else OpType.EXPIRE_SET,
        situation.load() if entry.value is None else entry.value,
        content_type=entry.content_type,
        expire_ns=expire_ns,
        ttl_s=write.ttl_s,
        recorded=write.history,
        touch=False,
    )
    return change, WriteResult(write.key, situation.next_op_number, expire_ns=expire_ns)


# --- parts -------------------------------------------------------------------------------------------

_WHITE: Final = b" \t\r\n"


class _JsonErrors:
    """Turns what `kvfs.jsonpath` raises into kvfs's own errors."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, jsonpath.NodeNotFound):
            raise KeyNotFound(str(error)) from error
        if isinstance(error, jsonpath.JsonPathError):
            raise InvalidParameters(str(error)) from error


def _parsed(path: str | None) -> jsonpath.Path | None:
    if path is None:
        return None
    with _JsonErrors():
        return jsonpath.parse(path)


def _document(situation: Situation) -> bytes | None:
    return None if situation.state.entry is None else situation.load()


def _whole(value: Value) -> bytes:
    return value if isinstance(value, bytes) else value.read()


def _edited(
    op_type: OpType, document: bytes, situation: Situation, *, history: bool, new_type: str
) -> Change:
    """The change that gives a key this document; type and TTL stay what they are."""
    _check_size(len(document), situation)
    entry = situation.state.entry
    return Change(
        op_type,
        document,
        content_type=new_type if entry is None else entry.content_type,
        expire_ns=None if entry is None else entry.expire_ns,
        recorded=history,
    )


def _result(key: str, change: Change, situation: Situation) -> WriteResult:
    assert change.value is not None
    state = situation.state
    created = state.entry is None
    return WriteResult(key, state.last_op_number + 1, True, created, change.content_type, len(change.value))


def _check_size(size: int, situation: Situation) -> None:
    if size > situation.max_value_bytes:
        raise PayloadTooLarge(f"value is {size} bytes long, the limit is {situation.max_value_bytes}")


def _number(node: bytes) -> int | float:
    number = jsonpath.number(node)
    if number is None:
        raise InvalidParameters("Value at path is not numeric")
    if isinstance(number, int) and number not in _INT64:
        raise InvalidParameters("Value at path is beyond 64 bits")
    return number


def _sum(number: int | float, delta: int) -> int | float:
    try:
        total = number + delta
    except OverflowError:
        total = math.inf
    if (total not in _INT64) if isinstance(total, int) else not math.isfinite(total):
        raise InvalidParameters("The sum is beyond 64 bits")
    return total
