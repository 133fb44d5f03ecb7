"""Handlers of the change feed: page by page with long polling, and as server-sent events."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import orjson
from multidict import istr

from kvfs import cursor, feed
from kvfs.cursor import Cursor
from kvfs.engine import Lease
from kvfs.errors import ChangeCursorExpired, DatabaseNotFound, KvfsError
from kvfs.handle import Handle
from server import sse, wire
from server.errors import JSON
from server.exchange import Exchange
from server.feed import End, Feeds, Group, Page
from server.params import Params
from server.reply import Reply
from server.request import Request

LAST_EVENT_ID: Final = istr("Last-Event-ID")
WAIT_MAX_S: Final = 60

_VACANT_S: Final = 2.0
_VACANT_LOOK_S: Final = 0.1
_REOPEN_S: Final = 30.0


class _Asked(NamedTuple):
    """What a request for changes asks for; no `since`: from now on."""

    since: Cursor | None
    prefix: str
    values: bool
    limit: int
    wait_s: float


async def changes(exchange: Exchange) -> Reply:
    """A page of changes, waited for if it would be empty."""
    asked = exchange.params.once(_asked)
    until_s = time.monotonic() + asked.wait_s
    with exchange.lease_now() or await exchange.lease() as handle:
        if asked.since is None:
            place = await _place(exchange.services.feeds, handle, None)
            return wire.json_reply(wire.no_changes_form(place))
        query = feed.ChangesQuery(asked.since, asked.prefix, asked.limit, asked.values)
        while True:
            told = await exchange.services.feeds.share((handle, query), partial(_read, handle, query))
            query = replace(query, since=told.place.cursor)
            if told.events:
                return _reply(told)
            if told.has_more and time.monotonic() < exchange.deadline:
                continue  # no key of the prefix, so far
            if time.monotonic() >= until_s:
                return _reply(told)
            reached, happened = await _wait(exchange, handle, query, until_s)
            if not happened:
                return wire.json_reply(wire.no_changes_form(feed.Place(reached, told.place.oldest)))
            query = replace(query, since=reached)


async def stream(exchange: Exchange) -> Reply:
    """Changes as server-sent events, for as long as the client listens."""
    asked = exchange.params.once(_asked)
    last = exchange.headers.get(LAST_EVENT_ID)
    since = cursor.parse(last) if last else asked.since
    lease = exchange.lease_now() or await exchange.lease()
    try:
        start = await _start(exchange.services.feeds, lease.handle, since)
    except BaseException:
        lease.release()
        raise
    return StreamReply(exchange, lease, asked, start)


# --- streams -------------------------------------------------------------------------------------------


class _Start(NamedTuple):
    """Where a stream begins, or goes on; with a `reset` the cursor that was asked for leads nowhere."""

    place: feed.Place
    reset: str | None = None

    def frame(self) -> bytes:
        """The event that tells of a reset."""
        if self.reset is None:
            return b""
        return sse.event("reset", {"reason": self.reset, **wire.place_form(self.place)}, self.place.cursor)


class StreamReply(Reply):
    """Server-sent events, until one side ends them; then the connection is closed. It releases the lease.

    A store that is replaced is opened anew, and the stream goes on there after a `reset`.
    """

    def __init__(self, exchange: Exchange, lease: Lease, asked: _Asked, start: _Start) -> None:
        super().__init__(200, b"", sse.CONTENT_TYPE, sse.HEADERS)
        self._exchange = exchange
        self._lease: Lease | None = lease
        self._asked = asked
        self._start = start
        self.keep_alive = False

    @property
    def size(self) -> None:
        """Nobody knows how long it will be."""
        return None

    async def send(self, request: Request) -> None:
        follower = _Streaming(request, self._start.place.cursor, self._exchange.services.feeds.stall_s)
        try:
            request.transport.write(self._head(request))
            if request.method == "HEAD":
                return
            # With no room beyond the kernel's buffer a follower is either up to date or seen to be slow.
            request.transport.set_write_buffer_limits(high=0)
            request.protocol.listener = follower
            follower.write(sse.RETRY + self._ready() + self._start.frame())
            why = await self._follow(follower)
            if why is End.GONE:
                return
            if why is not End.LOST:
                told = sse.event("end", {"reason": why, "cursor": str(follower.cursor)})
                request.transport.write(told)  # raises where the client has left meanwhile
                follower.sent += len(told)
            request.protocol.hang_up()
        finally:
            self.sent = follower.sent
            request.protocol.listener = None
            self._release()

    def _ready(self) -> bytes:
        # A client that is told of a reset must not be taken for one that knows of it, before it is told.
        at = self._start.place.cursor if self._start.reset is None else None
        return sse.event("ready", wire.place_form(self._start.place), at)

    async def _follow(self, follower: _Streaming) -> End:
        """Follow the store, and what takes its place, to the end."""
        feeds = self._exchange.services.feeds
        while True:
            assert self._lease is not None
            if feeds.closed:
                return End.SHUTDOWN
            handle = self._lease.handle
            following = feeds.following(
                handle, follower, prefix=self._asked.prefix, values=self._asked.values
            )
            async with following as group:
                follower.group = group
                why = await follower.end
            if why is not End.LOST:
                return why
            self._release()
            if not await self._exists():
                return End.DELETED
            try:
                self._lease = await self._reopened()
                start = await _start(feeds, self._lease.handle, follower.cursor)
            except DatabaseNotFound:
                return End.DELETED
            except KvfsError:
                return End.LOST  # whoever comes back is told why
            follower.move(start.place.cursor)
            follower.write(start.frame())

    async def _exists(self) -> bool:
        """Whether there is a store in place of what was there, or soon is: replacing one takes a moment."""
        target = self._exchange.params.target
        until_s = time.monotonic() + _VACANT_S
        while not self._exchange.engine.exists(target.db, target.table):
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(_VACANT_LOOK_S)
        return True

    async def _reopened(self) -> Lease:
        target = self._exchange.params.target
        bridge = self._exchange.bridge
        return await bridge.lease(target.db, target.table, deadline=time.monotonic() + _REOPEN_S)

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()


class _Streaming:
    """One connection with a stream. A `server.feed.Follower`, and the connection's listener."""

    def __init__(self, request: Request, start: Cursor, stall_s: float) -> None:
        self.cursor = start
        self.sent = 0
        self.group: Group | None = None
        self._protocol = request.protocol
        self._transport = request.transport
        self._loop = asyncio.get_running_loop()
        self._stall_s = stall_s
        self._left = math.inf
        self._moved_s = 0.0
        self.end: asyncio.Future[End] = self._loop.create_future()

    def write(self, frame: bytes) -> None:
        if frame:
            self._transport.write(frame)
            self.sent += len(frame)

    def move(self, cursor: Cursor) -> None:
        """Go on from there, after the last end."""
        self.cursor = cursor
        self.end = self._loop.create_future()

    # --- as a follower -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return not self._protocol.writing_paused and not self.end.done()

    def take(self, page: Page) -> None:
        self.cursor = page.next
        self.write(page.frame)

    def stalled(self, now_s: float) -> bool:
        left = self._transport.get_write_buffer_size() if self._protocol.writing_paused else 0
        if not left or left != self._left:
            self._left, self._moved_s = left, now_s
        return now_s - self._moved_s > self._stall_s

    def ended(self, why: End) -> None:
        if not self.end.done():
            self.end.set_result(why)

    # --- as the connection's listener --------------------------------------------------------------------

    def drained(self) -> None:
        if self.group is not None and not self.end.done():
            self.group.stir(self)

    def lost(self) -> None:
        self.ended(End.GONE)


# --- long polls ----------------------------------------------------------------------------------------


class _Polling:
    """A request that waits for the first event. A `server.feed.Follower`, and the connection's listener."""

    def __init__(self, start: Cursor) -> None:
        self.cursor = start
        self.happened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def ready(self) -> bool:
        return not self.happened.done()

    def take(self, page: Page) -> None:
        if not page.events:
            self.cursor = page.next
        elif not self.happened.done():
            self.happened.set_result(True)

    def stalled(self, now_s: float) -> bool:
        return False

    def ended(self, why: End) -> None:
        if not self.happened.done():
            self.happened.set_result(False)

    def drained(self) -> None:
        return None

    def lost(self) -> None:
        self.ended(End.GONE)


async def _wait(
    exchange: Exchange, handle: Handle, query: feed.ChangesQuery, until_s: float
) -> tuple[Cursor, bool]:
    """Wait for an event; the place before it, and whether there is one."""
    waiting = _Polling(query.since)
    feeds, protocol = exchange.services.feeds, exchange.request.protocol
    if feeds.closed:
        return query.since, False
    protocol.listener = waiting
    try:
        exchange.request.check_connected()  # a client that has left before is not told of any more
        async with feeds.following(handle, waiting, prefix=query.prefix, values=False):
            with suppress(TimeoutError):
                async with asyncio.timeout(until_s - time.monotonic()):
                    happened = await waiting.happened
                    return waiting.cursor, happened
        return waiting.cursor, False
    finally:
        protocol.listener = None


# --- parts ---------------------------------------------------------------------------------------------


class _Told(NamedTuple):
    """An answer, and where to read on after it."""

    body: bytes
    place: feed.Place
    events: int = 0
    has_more: bool = False


def _asked(params: Params) -> _Asked:
    since = params.text("since")
    limit = params.integer("limit", low=1)
    wait_s = min(params.integer("wait", low=0) or 0, WAIT_MAX_S)
    if params.text("timeout") is not None:
        wait_s = min(wait_s, params.timeout_s)
    return _Asked(
        None if since is None else cursor.parse(since),
        params.text("prefix") or "",
        bool(params.flag("include_values")),
        feed.LIMIT_DEFAULT if limit is None else min(limit, feed.LIMIT_MAX),
        wait_s,
    )


def _read(handle: Handle, query: feed.ChangesQuery) -> _Told:
    page = handle.changes(query, deadline=time.monotonic() + _REOPEN_S)
    body = orjson.dumps(wire.changes_form(page, handle.table, values=query.values))
    return _Told(body, feed.Place(page.next, page.oldest), len(page.events), page.has_more)


async def _place(feeds: Feeds, handle: Handle, since: Cursor | None) -> feed.Place:
    return await feeds.share((handle, since), partial(handle.place, since))


async def _start(feeds: Feeds, handle: Handle, since: Cursor | None) -> _Start:
    """Where a stream that wants to go on from `since` does."""
    try:
        return _Start(await _place(feeds, handle, since))
    except ChangeCursorExpired as exc:
        now, oldest = (cursor.parse(str(exc.details[name])) for name in ("cursor", "oldest_cursor"))
        return _Start(feed.Place(now, oldest), str(exc.details["reason"]))


def _reply(told: _Told) -> Reply:
    return Reply(200, told.body, JSON)
