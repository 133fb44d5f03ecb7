"""The change feed to many followers: who asks the same of a store shares each read, and each byte.

A `Group` is all who follow one store with the same prefix, with values or without. When the log has grown,
its one task reads on from each place where members are, a page at a time, encodes it once, and hands the same
bytes to all who are there and can take them. Nearly all are at the end of the log: one read for all of them.
A member that takes no more is passed over; when it can take more, it is at a place of its own, and catches
up by pages until it meets the others. So a slow one costs its own delay, and memory for one page.

The loop also answers requests. Writing to a thousand connections takes it a hundredth of a second, as long as
dozens of writes to the store; so deliveries get a share of its time (`Pacer`), and when there is more to tell
than fits into that, each tells of more ops.

All is the event loop's own, but for `StoreFeed.grown` and `ending`, which the engine calls.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from kvfs import feed
from kvfs.cursor import Cursor
from kvfs.errors import ChangeCursorExpired, KvfsError, Overloaded
from kvfs.followers import Ending
from kvfs.handle import Handle
from server import sse, wire
from server.bridge import Bridge
from server.pacer import Pacer

T = TypeVar("T")

_LOG = logging.getLogger("server.feed")

_SLICE_S: Final = 0.002
_LOOK_S: Final = 0.2
_READ_S: Final = 30.0
_RETRY_S: Final = 1.0
_READS_AT_ONCE: Final = 8
_PAGE_EVENTS: Final = 512
_PAGE_BYTES: Final = 96 * 1024
_PAGE_STRIDE: Final = 1 << 13
_RECENT_BYTES: Final = 8 << 20


class End(enum.StrEnum):
    """Why following ends. `LOST`: the place must be sought anew; `GONE`: the client left."""

    SHUTDOWN = "shutdown"
    SLOW_READER = "slow_reader"
    DELETED = "database_deleted"
    LOST = "lost"
    GONE = "gone"


_ENDS: Final = {Ending.DELETED: End.DELETED, Ending.REPLACED: End.LOST}


class Page(NamedTuple):
    """What is told to all who are at one place: how many events, as bytes; `next` is the place after them.

    `at_end`: the log ended there when it was read. `cost_s` is the time of a processor that making it took.
    """

    frame: bytes
    events: int
    next: Cursor
    at_end: bool = False
    cost_s: float = 0.0


class Follower(Protocol):
    """Who follows a store. `cursor` is how far it has come; only `take` moves it."""

    cursor: Cursor

    @property
    def ready(self) -> bool:
        """Whether it takes pages now. Who is not says so when it is, by `Group.stir`."""

    def take(self, page: Page) -> None:
        """Get what comes next."""

    def stalled(self, now_s: float) -> bool:
        """Whether it has taken nothing for too long, at this monotonic time. Asked a few times a second."""

    def ended(self, why: End) -> None:
        """There is nothing more to come."""


class RecentPages:
    """Pages that were told a short time ago, for those who are a little behind: some megabytes of them."""

    def __init__(self) -> None:
        self._pages: OrderedDict[tuple[Handle, feed.ChangesQuery], Page] = OrderedDict()
        self._bytes = 0

    def get(self, asked: tuple[Handle, feed.ChangesQuery]) -> Page | None:
        """The page, of which nobody knows any more whether the log ends there."""
        page = self._pages.get(asked)
        return None if page is None else page._replace(at_end=False, cost_s=0.0)

    def put(self, asked: tuple[Handle, feed.ChangesQuery], page: Page) -> None:
        """Keep a page, and let go of the oldest for it."""
        if asked in self._pages:
            return
        self._pages[asked] = page
        self._bytes += len(page.frame)
        while self._bytes > _RECENT_BYTES:
            self._bytes -= len(self._pages.popitem(last=False)[1].frame)

    def forget(self, handle: Handle) -> None:
        """Let go of all pages of a store."""
        for asked in [each for each in self._pages if each[0] is handle]:
            self._bytes -= len(self._pages.pop(asked).frame)


class Feeds:
    """All who follow anything. `close` ends them."""

    def __init__(self, bridge: Bridge, *, checkpoint_s: float, stall_s: float) -> None:
        """`checkpoint_s`: how often a quiet stream shows that it lives; `stall_s`: how long one may stall."""
        self.bridge = bridge
        self.checkpoint_s = checkpoint_s
        self.stall_s = stall_s
        self.pacer = Pacer()
        self.recent = RecentPages()
        self.closed = False
        self._stores: dict[Handle, StoreFeed] = {}
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}

    @asynccontextmanager
    async def following(
        self, handle: Handle, follower: Follower, *, prefix: str, values: bool
    ) -> AsyncIterator[Group]:
        """Have someone told what changes after its `cursor`, inside; the caller has a lease meanwhile.

        It may take until a read of the store has ended that the last one to leave shared.
        """
        if self.closed:
            raise Overloaded("The server is stopping", retry_after_s=1)
        store = self._stores.get(handle)
        if store is None:
            store = self._stores[handle] = StoreFeed(self, handle)
        group = store.group(prefix, values=values)
        store.admit(follower, group)
        try:
            yield group
        finally:
            await asyncio.shield(self._leave(store, group, follower))

    async def share(self, question: Hashable, work: Callable[[], T]) -> T:
        """What a read of a store comes to: one for all who ask the same question before it begins.

        Who asked later must see what was written meanwhile.
        """
        reading = self._waiting.get(question)
        if reading is None:
            reading = self._waiting[question] = asyncio.ensure_future(self._read(question, work))
        answer: T = await asyncio.shield(reading)
        return answer

    def close(self) -> None:
        """End all; idempotent."""
        self.closed = True
        for store in self._stores.values():
            store.end(End.SHUTDOWN)

    async def _read(self, question: Hashable, work: Callable[[], T]) -> T:
        async with self._reads:
            del self._waiting[question]
            return await self.bridge.run(work, time.monotonic() + _READ_S)

    async def _leave(self, store: StoreFeed, group: Group, follower: Follower) -> None:
        group.leave(follower)
        if group.deserted:
            store.drop(group)
            await group.ended()
        if store.deserted and self._stores.get(store.handle) is store:
            del self._stores[store.handle]
            self.recent.forget(store.handle)
            await store.close()


class StoreFeed:
    """The groups of one store, and who notices for them that its log has grown. Follows it in the engine."""

    def __init__(self, feeds: Feeds, handle: Handle) -> None:
        self.feeds = feeds
        self.handle = handle
        self._groups: dict[tuple[str, bool], Group] = {}
        self._loop = asyncio.get_running_loop()
        self._told = False
        self._ended: End | None = None
        self._unfollow = handle.follow(self)
        self._closed = asyncio.Event()
        self._watch = asyncio.ensure_future(self._look_now_and_then())

    def group(self, prefix: str, *, values: bool) -> Group:
        """Those who ask this."""
        group = self._groups.get((prefix, values))
        if group is None:
            group = self._groups[prefix, values] = Group(self, prefix, values=values)
        return group

    def admit(self, follower: Follower, group: Group) -> None:
        """Let someone in."""
        group.join(follower)
        if self._ended is not None:
            follower.ended(self._ended)

    def drop(self, group: Group) -> None:
        """Forget a group that nobody is in."""
        if self._groups.get(group.question) is group:
            del self._groups[group.question]

    @property
    def deserted(self) -> bool:
        return not self._groups

    async def close(self) -> None:
        """Nobody follows any more; when this returns, nothing of the store is in use."""
        self._unfollow()
        self._closed.set()
        await self._watch

    # --- what the engine tells, in any thread ------------------------------------------------------------

    def grown(self) -> None:
        if not self._told:
            self._told = True
            self._call(self._stir)

    def ending(self, why: Ending) -> None:
        self._call(partial(self.end, _ENDS[why]))

    def _call(self, step: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody follows
            self._loop.call_soon_threadsafe(step)

    # --- what the loop does ------------------------------------------------------------------------------

    def end(self, why: End) -> None:
        """End all who follow, also those who join later: a store that goes must not be held."""
        self._ended = why
        for group in self._groups.values():
            group.end(why)

    def _stir(self) -> None:
        # First: what is committed from now on is told again.
        self._told = False
        for group in self._groups.values():
            group.grown()

    async def _look_now_and_then(self) -> None:
        """Notice what other programs do: what they commit, and that they put another file in place."""
        seen: Cursor | None = None
        while not self._closed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._closed.wait()
                    return
            for group in self._groups.values():
                group.cut_off_stalled()
            try:
                end = await self.feeds.bridge.run(self._look, time.monotonic() + _READ_S)
            except KvfsError as exc:
                _LOG.info("cannot look at a followed store: %s", exc.message)
                continue
            if end is None:
                self.end(End.LOST)
            elif end != seen:
                seen = end
                self._stir()

    def _look(self) -> Cursor | None:
        """The end of the log; None where it is not the one that is followed any more."""
        return None if self.handle.replaced() else self.handle.place().cursor


class Group:
    """All who ask one question of a store, and the task that serves them while there are any."""

    def __init__(self, store: StoreFeed, prefix: str, *, values: bool) -> None:
        self.question = (prefix, values)
        self._feeds = store.feeds
        self._handle = store.handle
        self._members: set[Follower] = set()
        # Members that may have something to take.
        self._due: set[Follower] = set()
        self._grown = False
        self._stirred = asyncio.Event()
        self._task = asyncio.ensure_future(self._serve())

    def join(self, follower: Follower) -> None:
        self._members.add(follower)
        self.stir(follower)

    def leave(self, follower: Follower) -> None:
        self._members.discard(follower)
        self._due.discard(follower)
        self._stirred.set()

    @property
    def deserted(self) -> bool:
        return not self._members

    async def ended(self) -> None:
        """Wait until the task has ended, when nobody is left."""
        await self._task

    def grown(self) -> None:
        """The log may have grown."""
        self._grown = True
        self._stirred.set()

    def stir(self, follower: Follower) -> None:
        """A member can take pages again; others are none of this group's business."""
        if follower in self._members:
            self._due.add(follower)
            self._stirred.set()

    def cut_off_stalled(self) -> None:
        """End those who take nothing."""
        now_s = time.monotonic()
        for follower in [each for each in self._members if each.stalled(now_s)]:
            follower.ended(End.SLOW_READER)

    def end(self, why: End) -> None:
        """End all."""
        for follower in self._members:
            follower.ended(why)

    # --- the task ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        checkpoint_at = time.monotonic() + self._feeds.checkpoint_s
        while self._members:
            places = self._places(self._take_due())
            # First those at the end of the log, who are most; then whoever catches up.
            for place in sorted(places, reverse=True):
                await self._feeds.pacer.turn()
                try:
                    page = await self._page(place)
                except ChangeCursorExpired:
                    for follower in places[place]:
                        follower.ended(End.LOST)
                except KvfsError as exc:
                    _LOG.warning("cannot read changes: %s", exc.message)
                    await asyncio.sleep(_RETRY_S)
                except Exception:
                    _LOG.exception("cannot read changes")
                    await asyncio.sleep(_RETRY_S)
                else:
                    if page.at_end:
                        self._due.difference_update(places[place])
                    await self._deliver(page, place, places[place])
            if time.monotonic() >= checkpoint_at:
                checkpoint_at = time.monotonic() + self._feeds.checkpoint_s
                await self._checkpoint()
            elif not places:
                await self._rest(checkpoint_at)

    async def _rest(self, until_s: float) -> None:
        """Wait until somebody stirs."""
        with suppress(TimeoutError):
            async with asyncio.timeout(until_s - time.monotonic()):
                await self._stirred.wait()
        self._stirred.clear()

    def _take_due(self) -> Iterable[Follower]:
        """Those who may have something to take, and can."""
        if self._grown:
            self._grown = False
            self._due |= self._members
        self._due = {each for each in self._due if each.ready}
        return self._due

    def _places(self, followers: Iterable[Follower]) -> dict[Cursor, list[Follower]]:
        places: dict[Cursor, list[Follower]] = {}
        for follower in followers:
            places.setdefault(follower.cursor, []).append(follower)
        return places

    async def _page(self, place: Cursor) -> Page:
        """The page at a place. A short time ago it may have been read for others."""
        prefix, values = self.question
        query = feed.ChangesQuery(
            place,
            prefix=prefix,
            values=values,
            limit=_PAGE_EVENTS,
            max_bytes=_PAGE_BYTES,
            stride=_PAGE_STRIDE,
        )
        recent, asked = self._feeds.recent, (self._handle, query)
        page = recent.get(asked)
        if page is None:
            page = await self._feeds.share(asked, partial(_read_page, self._handle, query))
            if page.events and len(self._members) > 1:
                recent.put(asked, page)
        return page

    async def _deliver(self, page: Page, place: Cursor, followers: list[Follower]) -> None:
        """Hand a page to those who are still where it begins, without holding up the loop for long."""
        pacer = self._feeds.pacer
        waiting = iter(followers)
        left = len(followers)
        while left:
            with pacer.delivering() as began_s:
                for follower in waiting:
                    left -= 1
                    # Since it was asked it may have left, or taken a checkpoint that fills its buffer.
                    if follower.ready and follower.cursor == place:
                        _hand(page, follower)
                    if time.monotonic() - began_s > _SLICE_S:
                        break
            await asyncio.sleep(0)
        pacer.rest(page.cost_s)

    async def _checkpoint(self) -> None:
        """Tell each how far it has come, so that a quiet connection and its cursor stay fresh."""
        ready = [each for each in self._members if each.ready]
        for place, followers in self._places(ready).items():
            told = Page(sse.event("checkpoint", {"cursor": str(place)}, place), 0, place)
            await self._deliver(told, place, followers)


def _hand(page: Page, follower: Follower) -> None:
    try:
        follower.take(page)
    except Exception:
        # One broken connection must not end the others'.
        _LOG.exception("a follower cannot take what it is told")
        follower.ended(End.LOST)


def _read_page(handle: Handle, query: feed.ChangesQuery) -> Page:
    """Read and encode a page; for a thread."""
    began_s = time.thread_time()
    page = handle.changes(query, deadline=time.monotonic() + _READ_S)
    frames = [
        sse.event("change", wire.event_form(event, handle.table, values=query.values), event.cursor)
        for event in page.events
    ]
    cost_s = time.thread_time() - began_s
    return Page(b"".join(frames), len(frames), page.next, not page.has_more, cost_s)
