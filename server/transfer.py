"""Handlers of exports and imports: streams of JSON lines of any size, a piece in memory at a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Final

from kvfs.engine import Lease
from kvfs.errors import InvalidParameters, KvfsError
from kvfs.model import OnConflict
from kvfs.transfer.format import parse_header, parse_seal
from server import wire
from server.body import Body
from server.exchange import Exchange
from server.reply import Reply, StreamedReply

CONTENT_TYPE: Final = "application/x-ndjson"

_HEADER_MAX_BYTES: Final = 64 * 1024


async def export(exchange: Exchange) -> Reply:
    """All of a store, in one look."""
    params = exchange.params
    history = bool(params.flag("history"))
    after = params.text("after")
    seal = None if after is None else parse_seal(after.encode())
    lease = exchange.lease_now() or await exchange.lease()
    pieces = lease.handle.export(history=history, after=seal, deadline=exchange.deadline)
    outgoing = _Outgoing(exchange, lease, pieces)
    try:
        # What cannot be exported is told before there is an answer.
        first = await outgoing.next_piece()
    except BaseException:
        outgoing.close()
        raise
    assert first is not None
    return StreamedReply(first, outgoing.next_piece, CONTENT_TYPE, close=outgoing.close)


async def import_(exchange: Exchange) -> Reply:
    """Put an export into a store, block by block as it comes."""
    params = exchange.params
    part = bool(params.flag("part"))
    on_conflict = _on_conflict(params.text("on_conflict"))
    body = exchange.body(limit=sys.maxsize)
    # The request's time is for each piece, and for what is done with it: all may take as long as it is large.
    patience_s = params.timeout_s
    beginning = await _beginning(body, patience_s)
    parse_header(beginning.partition(b"\n")[0])
    target = params.target
    with exchange.lease_now() or await exchange.bridge.lease(
        target.db, target.table, create=target.create, deadline=exchange.deadline
    ) as handle:
        importer = handle.importer(on_conflict)
        piece = beginning
        while piece:
            feed = partial(importer.feed, piece, deadline=time.monotonic() + patience_s)
            await exchange.bridge.run(feed, None, whose=exchange.params.whose)
            piece = await _next(body, patience_s, importer.told.records)
        finish = partial(importer.finish, part=part, deadline=time.monotonic() + patience_s)
        told = await exchange.bridge.run(finish, None, whose=exchange.params.whose)
    return wire.json_reply({"success": True, **asdict(told)})


# --- parts ---------------------------------------------------------------------------------------------


class _Outgoing:
    """An export under way, which keeps its store open."""

    def __init__(self, exchange: Exchange, lease: Lease, pieces: Generator[bytes, None, None]) -> None:
        self._bridge = exchange.bridge
        self._database = exchange.params.whose
        self._lease: Lease | None = lease
        self._pieces = pieces

    async def next_piece(self) -> bytes | None:
        """The next piece; None at the end."""
        return await self._bridge.run(partial(next, self._pieces, None), None, whose=self._database)

    def close(self) -> None:
        """Let go of the look and the store; idempotent."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        # A thread may still be at it where the server is stopping; it ends with the process.
        with suppress(ValueError):
            self._pieces.close()
        lease.release()


async def _beginning(body: Body, patience_s: float) -> bytes:
    """The body's beginning, with the whole first line, so that nothing is made for what is no export."""
    beginning = b""
    while b"\n" not in beginning:
        piece = await body.next_piece(patience_s)
        if not piece or len(beginning) > _HEADER_MAX_BYTES:
            raise InvalidParameters("this is no export: its first line does not say so")
        beginning += piece
    return beginning


async def _next(body: Body, patience_s: float, records: int) -> bytes:
    """The next piece of the body; what goes wrong tells how many records are in."""
    try:
        return await body.next_piece(patience_s)
    except KvfsError as exc:
        exc.details["records"] = records
        raise


def _on_conflict(given: str | None) -> OnConflict:
    try:
        return OnConflict.FAIL if given is None else OnConflict(given)
    except ValueError as exc:
        raise InvalidParameters(f"on_conflict must be one of: {', '.join(OnConflict)}") from exc
