"""What an export tells of a store, from one consistent look at it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from kvfs.errors import ImportConflict, InvalidParameters, Overloaded
from kvfs.model import Entry, FileValue, Op, Value, value_bytes
from kvfs.settling import Settler
from kvfs.store import Reader, Store, Unsettled
from kvfs.transfer.blocks import stream
from kvfs.transfer.format import Header, Record, Seal

_PAGE: Final = 500

Present = Callable[[Sequence[str]], Mapping[str, Entry | None]]
"""Keys' entries as they are now, with their values in memory; None where there is none."""


def export(
    store: Store,
    settler: Settler,
    present: Present,
    *,
    history: bool,
    after: Seal | None,
    deadline: float | None,
) -> Generator[bytes, None, None]:
    """See `kvfs.handle.Handle.export`."""
    if store.directory:
        settler.settle_all(deadline)
    # The log may have the value of what has run out no more: so it must have an op that says so.
    now_ns = settler.reap_all(deadline)
    with ExitStack() as stack:
        reader = settler.enter_look(stack, now_ns, deadline)
        header = header_of(reader, store, history=history, after=after)
        yield from stream(header, records(reader, present, history=history, after=after))


def header_of(reader: Reader, store: Store, *, history: bool, after: Seal | None) -> Header:
    """The first line of an export, which goes on after a seal if one is given.

    Raises `ImportConflict` where it cannot go on from there, `InvalidParameters` for another kind's seal.
    """
    if after is not None and isinstance(after.at, int) != history:
        raise InvalidParameters(
            "after: that seal is of an export " + ("without" if history else "with") + " history"
        )
    log_id = reader.log_id()
    if history and after is not None:
        if after.id != log_id:
            raise ImportConflict("The seal is of another log: export anew, from the beginning")
        if isinstance(after.at, int) and after.at < reader.pruned_seq():
            raise ImportConflict("The log was pruned beyond the seal: export anew, from the beginning")
    export = log_id if history else secrets.token_hex(8) if after is None else after.id
    return Header(export, store.name, store.directory, history, reader.pruned_seq() if history else 0, after)


def records(reader: Reader, present: Present, *, history: bool, after: Seal | None) -> Iterator[Record]:
    """What comes after a seal, or all: ops in the order of their seqs, or entries in byte order.

    Values are in memory, one at a time. A key whose value is only in its file, and was changed since the look
    began, has the value that it has now, or none. Raises `Overloaded` where what is to be read was pruned.
    """
    try:
        if history:
            yield from _ops(
                reader, present, after.at if after is not None and isinstance(after.at, int) else 0
            )
        else:
            yield from _entries(
                reader, present, after.at if after is not None and isinstance(after.at, str) else ""
            )
    except FileNotFoundError as exc:
        raise Overloaded("What is being exported was pruned meanwhile", retry_after_s=1) from exc


def _ops(reader: Reader, present: Present, seq: int) -> Iterator[Op]:
    tail = reader.tail()[0]
    while ops := reader.span(after=seq, through=tail, start="", end=None, limit=_PAGE):
        for op in ops:
            if op.entry is None:
                yield op
            elif op.recorded:
                yield op._replace(entry=op.entry.with_value(_logged_value(reader, op.entry)))
            else:
                yield _gap(reader, present, op, op.entry, tail)
        seq = ops[-1].seq


def _gap(reader: Reader, present: Present, op: Op, entry: Entry, tail: int) -> Op:
    """A gap; with the value that the key has, if it is the last op of its key, and there is one."""
    last = reader.state_at(op.key, tail)
    if last is None or last.op_number != op.op_number:
        return op
    now = _unlogged(reader, present, entry)
    if now is None:
        return op
    kept = now._replace(created_s=entry.created_s, updated_s=entry.updated_s, expire_ns=entry.expire_ns)
    return op._replace(entry=kept._replace(op_number=op.op_number))


def _entries(reader: Reader, present: Present, key: str) -> Iterator[Entry]:
    while entries := reader.page(key, None, limit=_PAGE, after=True):
        for entry in entries:
            op = reader.facts(entry.key, entry.op_number)
            if op is not None and op.recorded and op.entry is not None:
                yield entry.with_value(_logged_value(reader, entry))
            elif (now := _unlogged(reader, present, entry)) is not None:
                yield now
        key = entries[-1].key


def _logged_value(reader: Reader, entry: Entry) -> bytes:
    op = reader.op(entry.key, entry.op_number)
    if op is None or op.entry is None or op.entry.value is None:
        raise FileNotFoundError(entry.key)
    return _in_memory(op.entry.value)


def _unlogged(reader: Reader, present: Present, entry: Entry) -> Entry | None:
    """An entry whose value the log does not have, with that value, or as it is now."""
    try:
        found = reader.page(entry.key, None, limit=1, values=True)
    except Unsettled:
        return present([entry.key])[entry.key]
    if not found or found[0].key != entry.key or found[0].value is None:
        return present([entry.key])[entry.key]
    return found[0].with_value(_in_memory(found[0].value))


def _in_memory(value: Value) -> bytes:
    if isinstance(value, FileValue):
        with value as file:
            return file.read()
    return value_bytes(value)
