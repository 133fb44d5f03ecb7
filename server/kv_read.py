"""Handlers that read: a value, a value with its metadata, a page of keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from kvfs import content_types, valueops
from kvfs.handle import Handle
from kvfs.listing import LIMIT_DEFAULT, LIMIT_MAX, Query
from kvfs.model import Entry, FileValue, value_bytes
from server import preconditions, wire
from server.bridge import close_entry
from server.exchange import Exchange
from server.params import Params
from server.reply import FileReply, Reply

T = TypeVar("T")

_ON_LOOP_MAX_BYTES: Final = 64 * 1024
_OFFSET_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """The parameters of a read."""

    path: str | None
    at_ns: int | None
    rebuild: bool


def _asked(params: Params) -> _Asked:
    return _Asked(params.json_path("path"), params.timestamp("at_timestamp"), bool(params.flag("rebuild")))


async def get_value(exchange: Exchange) -> Reply:
    """The value itself, or with `path` one node of it."""
    asked = exchange.params.once(_asked)
    with exchange.lease_now() or await exchange.lease() as handle:
        entry = _entry_now(exchange, handle, asked) or await _entry(exchange, handle, asked)
        directory = handle.directory
    if asked.path is not None:
        return await _node_reply(exchange, entry, asked.path, directory=directory)
    return _value_reply(exchange, entry, directory=directory)


async def get_entry(exchange: Exchange) -> Reply:
    """The value and its metadata, in JSON."""
    asked = exchange.params.once(_asked)
    with exchange.lease_now() or await exchange.lease() as handle:
        entry = _entry_now(exchange, handle, asked) or await _entry(exchange, handle, asked)
    if entry.size <= _ON_LOOP_MAX_BYTES and isinstance(entry.value, bytes):
        return wire.json_reply(wire.entry_form(entry))
    return await _off_loop(exchange, entry, lambda: wire.json_reply(wire.entry_form(entry)))


async def list_keys(exchange: Exchange) -> Reply:
    """A page of keys, or with `at_timestamp` the keys that there were."""
    params = exchange.params
    limit = params.integer("limit", low=1)
    limit = LIMIT_DEFAULT if limit is None else min(limit, LIMIT_MAX)
    prefix = params.text("prefix") or ""
    after = params.text("after")
    at_ns = params.timestamp("at_timestamp")
    if at_ns is not None:
        answer = partial(_past_reply, ts_ns=at_ns, prefix=prefix, after=after, limit=limit)
    else:
        query = Query(
            prefix=prefix,
            after=after,
            offset=params.integer("offset", low=0, high=_OFFSET_MAX) or 0,
            limit=limit,
            delimiter=params.text("delimiter") or "",
            values=bool(params.flag("values")),
            total=bool(params.flag("total")),
        )
        answer = partial(_page_reply, query=query)
    with exchange.lease_now() or await exchange.lease() as handle:
        # The lease must outlive the thread's work: so this is awaited to its end.
        return await exchange.run(partial(answer, handle, deadline=exchange.deadline))


# --- parts ---------------------------------------------------------------------------------------------


def _entry_now(exchange: Exchange, handle: Handle, asked: _Asked) -> Entry | None:
    """The key's entry, if it can be had without waiting."""
    if asked.at_ns is not None or asked.rebuild:
        return None
    return handle.get_now(exchange.key)


async def _entry(exchange: Exchange, handle: Handle, asked: _Asked) -> Entry:
    """The key's entry, now or at a time, with its value; the caller closes it."""
    key, deadline = exchange.key, exchange.deadline
    if asked.at_ns is not None:
        past = partial(handle.get_at, key, asked.at_ns, deadline=deadline)
        return await exchange.run(past)
    if asked.rebuild and handle.directory:
        await exchange.run(partial(handle.rebuild, deadline=deadline))
    return await exchange.run(partial(handle.get, key, deadline=deadline))


def _value_reply(exchange: Exchange, entry: Entry, *, directory: bool) -> Reply:
    value = entry.value
    assert value is not None
    reference = isinstance(value, FileValue)
    headers = wire.value_headers(entry, reference=reference, directory=directory)
    try:
        if preconditions.not_modified(exchange.headers, entry.etag):
            close_entry(entry)
            return Reply(304, headers=headers)
        stretch = None
        if exchange.request.method != "HEAD":
            stretch = preconditions.wanted(exchange.headers, entry.etag, len(value))
    except BaseException:
        close_entry(entry)
        raise
    status = 200
    if stretch is not None:
        status = 206
        headers += f"Content-Range: bytes {stretch.start}-{stretch.stop - 1}/{len(value)}\r\n"
    content_type = wire.content_type_header(entry.content_type)
    if isinstance(value, FileValue):
        whole = range(len(value)) if stretch is None else stretch
        return FileReply(status, value, whole, content_type, headers, send=exchange.bridge.send)
    body = value if stretch is None else value[stretch.start : stretch.stop]
    return Reply(status, body, content_type, headers)


async def _node_reply(exchange: Exchange, entry: Entry, path: str, *, directory: bool) -> Reply:
    value = entry.value
    assert value is not None
    headers = wire.value_headers(entry, directory=directory)
    if isinstance(value, bytes) and len(value) <= _ON_LOOP_MAX_BYTES:
        node = valueops.read_node(value, path)
    else:
        node = await _off_loop(exchange, entry, lambda: valueops.read_node(value_bytes(value), path))
    if preconditions.not_modified(exchange.headers, entry.etag):
        return Reply(304, headers=headers)
    return Reply(200, node, content_types.JSON, headers)


async def _off_loop(exchange: Exchange, entry: Entry, work: Callable[[], T]) -> T:
    """The result of long work on an entry, which is closed then."""
    try:
        return await exchange.run(work)
    finally:
        close_entry(entry)


def _page_reply(handle: Handle, *, query: Query, deadline: float) -> Reply:
    page = handle.list(query, deadline=deadline)
    return wire.json_reply(wire.page_form(page, query))


def _past_reply(
    handle: Handle, *, ts_ns: int, prefix: str, after: str | None, limit: int, deadline: float
) -> Reply:
    past = handle.list_at(ts_ns, prefix=prefix, after=after, limit=limit, deadline=deadline)
    return wire.json_reply(wire.past_form(past, ts_ns=ts_ns, prefix=prefix, limit=limit))
