"""The one bridge between the event loop and the engine, which blocks.

Point reads are done on the loop's own thread: a look-up takes 2 µs, a hop to a thread 50. What may take
long goes to a bounded pool of threads. Writes go to the writer's queue; when another thread has answered
them, they wake the loop once for all that share a commit.

A deadline ends the wait for what has not begun. What has begun is awaited, so that "nothing was
committed" is always true; only work that changes nothing is left to itself, and its result discarded.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Final, Generic, TypeVar

from kvfs.engine import Engine, Lease
from kvfs.errors import DeadlineExceeded
from kvfs.handle import Handle
from kvfs.model import Entry, FileValue, Outcome, Write
from kvfs.pending import Pending
from server.pool import NOBODY, FairPool
from server.sending import Sending

T = TypeVar("T")

# One database alone gets half.
_THREADS: Final = 64
_MAX_WAITING: Final = 2048
_SQL_THREADS: Final = 64
_SQL_MAX_WAITING: Final = 256
_SWEEP_S: Final = 0.1

Discard = Callable[[T], None]
"""Lets go of a result that nobody waits for any more."""


class _Wait(Generic[T]):
    """A coroutine that waits for the engine's work."""

    __slots__ = ("deadline", "discard", "future", "waiter")

    def __init__(
        self,
        future: Future[T] | Pending[T],
        waiter: asyncio.Future[None],
        deadline: float | None,
        discard: Discard[T] | None = None,
    ) -> None:
        self.future = future
        self.waiter = waiter
        self.deadline = deadline
        self.discard = discard

    def give_up(self) -> bool:
        """Wait no longer, if that is allowed."""
        if self.future.cancel():
            return True
        if self.discard is None:
            return False
        self.future.add_done_callback(partial(_discard, self.discard))
        return True


class Bridge:
    """Runs the engine's work for the event loop. All methods but `_done` are the loop's own."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, *, threads: int = _THREADS) -> None:
        self._engine = engine
        self._loop = loop
        self._thread = threading.get_ident()
        self._work = FairPool("kvfs-work", threads, _MAX_WAITING)
        # SQL may take as long as its deadline allows; what else there is to do must not wait for that.
        self._sql = FairPool("kvfs-sql", _SQL_THREADS, _SQL_MAX_WAITING)
        self._opening: dict[tuple[str, str | None], asyncio.Future[None]] = {}
        # Whoever has a deadline. `_sweeping` says that `_sweep` is on its way, as it is when there are any.
        self._waits: dict[_Wait[Any], float] = {}
        self._sweeping = False
        # Appended to by any thread, emptied by the loop's. `_waking` says that `_wake` is on its way.
        self._finished: deque[asyncio.Future[None]] = deque()
        self._waking = False

    def close(self) -> None:
        """Let no more work begin; what has begun goes on."""
        self._work.close()
        self._sql.close()

    # --- stores -------------------------------------------------------------------------------------------

    async def lease(
        self,
        db: str,
        table: str | None,
        *,
        create: bool = False,
        first: Write | None = None,
        deadline: float,
    ) -> Lease:
        """A lease on a store that may have to be opened first; raises as `Engine.lease`.

        Requests for a store that is being opened wait for that on the loop: opening may take long, and
        they would fill the pool.
        """
        name = (db, table)
        opening = self._opening.get(name)
        if opening is not None:
            await asyncio.wait({opening}, timeout=max(0.0, deadline - time.monotonic()))
            if not opening.done():
                raise DeadlineExceeded
            lease = self._engine.lease_now(db, table)
            if lease is not None:
                return lease
        open_it = partial(self._engine.lease, db, table, create=create, first=first, deadline=deadline)
        opened = self._work.submit(open_it, db)
        if name not in self._opening:
            self._opening[name] = self._wait(opened, None).waiter
            self._opening[name].add_done_callback(lambda _: self._opening.pop(name, None))
        return await self._outcome(opened, deadline, discard=_release)

    # --- work ---------------------------------------------------------------------------------------------

    async def run(
        self,
        work: Callable[[], T],
        deadline: float | None,
        *,
        whose: str = NOBODY,
        discard: Discard[T] | None = None,
    ) -> T:
        """The result of work that blocks, done by a thread of the pool; `whose` database it is for.

        With `discard` it changes nothing and needs no lease, so it need not be awaited to its end.
        """
        return await self._outcome(self._work.submit(work, whose), deadline, discard=discard)

    async def run_sql(self, work: Callable[[], T], deadline: float, *, whose: str) -> T:
        """As `run`, for SQL, which ends by itself at the deadline."""
        return await self._outcome(self._sql.submit(work, whose), deadline)

    async def done(self, pending: Pending[T], deadline: float) -> T:
        """The result of what waits in a writer's queue."""
        return await self._outcome(pending, deadline)

    async def send(self, sending: Sending, stretch: range) -> tuple[range, bytes]:
        """As `Sending.send`."""
        return await self.run(partial(sending.send, stretch), None)

    # --- writes -------------------------------------------------------------------------------------------

    async def write(
        self, handle: Handle, write: Write, *, deadline: float, idempotency_key: str | None = None
    ) -> Outcome:
        """The outcome of a write, when it is durable; raises as `Handle.submit`."""
        future = handle.submit(write, deadline=deadline, idempotency_key=idempotency_key)
        return await self._outcome(future, deadline)

    async def write_file(
        self,
        handle: Handle,
        write: Write,
        file: FileValue,
        *,
        deadline: float,
        idempotency_key: str | None = None,
    ) -> Outcome:
        """As `write`, of a large value, which is closed when it is done with.

        The writer reads the file whenever it comes to it, even when nobody waits for the outcome any more;
        so it is the write that closes it.
        """
        try:
            submit = partial(handle.submit, write, deadline=deadline, idempotency_key=idempotency_key)
            # The fingerprint of an idempotent write is a hash of the whole file.
            future = submit() if idempotency_key is None else await self.run(submit, deadline)
        except BaseException:
            file.close()
            raise
        future.add_done_callback(lambda _: file.close())
        return await self._outcome(future, deadline)

    # --- parts --------------------------------------------------------------------------------------------

    def _wait(
        self, future: Future[T] | Pending[T], deadline: float | None, discard: Discard[T] | None = None
    ) -> _Wait[T]:
        """What is woken when the future is done."""
        wait = _Wait(future, self._loop.create_future(), deadline, discard)
        future.add_done_callback(partial(self._done, wait.waiter))
        return wait

    async def _outcome(
        self, future: Future[T] | Pending[T], deadline: float | None, *, discard: Discard[T] | None = None
    ) -> T:
        wait = self._wait(future, deadline, discard)
        if deadline is not None:
            self._waits[wait] = deadline
            self._sweep_soon()
        try:
            await wait.waiter
        except asyncio.CancelledError:
            # The server is stopping. What has not begun need not.
            wait.give_up()
            raise
        finally:
            self._waits.pop(wait, None)
        try:
            return future.result()
        except CancelledError:
            raise DeadlineExceeded from None

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Wake those whose time is over. A timer for each would cost more than a look now and then."""
        self._sweeping = False
        now = time.monotonic()
        for wait in [wait for wait, deadline in self._waits.items() if deadline <= now]:
            if wait.give_up() and not wait.waiter.done():
                wait.waiter.set_exception(DeadlineExceeded())
        if self._waits:
            self._sweep_soon()

    def _done(self, waiter: asyncio.Future[None], _: object) -> None:
        """Called by the thread that finished a future, which may be the loop's own."""
        if threading.get_ident() == self._thread:
            if not waiter.done():
                waiter.set_result(None)
            return
        self._finished.append(waiter)
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                # The loop is closed: nobody waits.
                return

    def _wake(self) -> None:
        # First: a future that is done from now on asks for another wake-up.
        self._waking = False
        finished = self._finished
        while finished:
            waiter = finished.popleft()
            if not waiter.done():
                waiter.set_result(None)


def _release(lease: Lease) -> None:
    lease.release()


def _discard(discard: Discard[T], future: Future[T] | Pending[T]) -> None:
    try:
        result = future.result()
    except Exception:
        return  # there is nothing to let go of
    discard(result)


def close_entry(entry: Entry) -> None:
    """Let go of an entry's value."""
    if isinstance(entry.value, FileValue):
        entry.value.close()
