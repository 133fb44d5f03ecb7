"""The bridge between loop and engine: who waits for what, until when, and who lets go of it."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from kvfs.engine import Engine, Lease
from kvfs.errors import DatabaseNotFound, DeadlineExceeded, Overloaded
from kvfs.handle import Handle
from kvfs.model import Delete, FileValue, Outcome, Write
from kvfs.pending import Pending
from server import bridge as bridge_module
from server.bridge import Bridge

OUTCOME = Outcome(())
WRITE: Write = Delete("k")


class FakeLease:
    def __init__(self) -> None:
        self.released = threading.Event()

    def release(self) -> None:
        self.released.set()


class FakeEngine:
    """Opens one store, slowly: when `may_open` is set. Then it is had at once."""

    def __init__(self) -> None:
        self.may_open = threading.Event()
        self.open = False
        self.opened = 0
        self.error: Exception | None = None
        self.leases: list[FakeLease] = []

    def lease_now(self, db: str, table: str | None) -> FakeLease | None:
        return self._lease() if self.open else None

    def lease(
        self,
        db: str,
        table: str | None,
        *,
        create: bool = False,
        first: Write | None = None,
        deadline: float | None = None,
    ) -> FakeLease:
        self.opened += 1
        assert self.may_open.wait(10)
        if self.error is not None:
            raise self.error
        self.open = True
        return self._lease()

    def _lease(self) -> FakeLease:
        self.leases.append(FakeLease())
        return self.leases[-1]


class FakeHandle:
    """Takes writes, which the test answers."""

    def __init__(self) -> None:
        self.submitted: list[Pending[Outcome]] = []

    def submit(
        self, write: Write, *, deadline: float | None = None, idempotency_key: str | None = None
    ) -> Pending[Outcome]:
        self.submitted.append(Pending())
        return self.submitted[-1]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def bridge(engine: FakeEngine) -> AsyncIterator[Bridge]:
    made = Bridge(cast(Engine, engine), asyncio.get_running_loop(), threads=2)
    yield made
    engine.may_open.set()
    made.close()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 it comes about in another thread
            await asyncio.sleep(0.001)


def on_a_thread(act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


async def test_work_is_done_by_another_thread(bridge: Bridge) -> None:
    assert await bridge.run(threading.get_ident, soon()) != threading.get_ident()


async def test_what_work_raises_is_raised(bridge: Bridge) -> None:
    with pytest.raises(ZeroDivisionError):
        await bridge.run(lambda: 1 // 0, soon())


async def test_work_that_found_no_thread_in_time_is_never_done(bridge: Bridge) -> None:
    free = threading.Event()
    done: list[int] = []
    busy = [asyncio.ensure_future(bridge.run(lambda: free.wait(10), soon())) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceeded):
        await bridge.run(lambda: done.append(1), soon(0.05))
    free.set()
    assert await asyncio.gather(*busy) == [True, True]
    await bridge.run(lambda: None, soon())
    assert done == []


async def test_deadlines_have_one_timer_however_many_have_waited(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    call_later, timers = loop.call_later, []

    def counted(delay: float, *rest: Any) -> asyncio.TimerHandle:
        timers.append(rest)
        return call_later(delay, *rest)

    monkeypatch.setattr(loop, "call_later", counted)
    monkeypatch.setattr(bridge_module, "_SWEEP_S", 10)
    for _ in range(100):
        await bridge.run(lambda: None, soon())
    assert len(timers) == 1


async def test_work_that_has_begun_is_awaited_past_its_deadline(bridge: Bridge) -> None:
    def work() -> str:
        time.sleep(0.3)
        return "done"

    assert await bridge.run(work, soon(0.05)) == "done"


async def test_work_that_need_not_end_is_left_and_its_result_discarded(bridge: Bridge) -> None:
    go_on, discarded = threading.Event(), threading.Event()

    def work() -> str:
        go_on.wait(10)
        return "late"

    with pytest.raises(DeadlineExceeded):
        await bridge.run(work, soon(0.05), discard=lambda result: discarded.set())
    go_on.set()
    assert await asyncio.to_thread(discarded.wait, 10)


async def test_all_threads_are_there_before_the_first_request(engine: FakeEngine) -> None:
    before = {*threading.enumerate()}
    made = Bridge(cast(Engine, engine), asyncio.get_running_loop(), threads=2)
    begun = Counter(thread.name.rpartition("_")[0] for thread in {*threading.enumerate()} - before)
    made.close()
    assert begun == {"kvfs-work": 2, "kvfs-sql": bridge_module._SQL_THREADS}


async def test_too_much_work_is_refused_at_once(
    bridge: Bridge, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "_MAX_WAITING", 1)
    small = Bridge(cast(Engine, engine), asyncio.get_running_loop(), threads=1)
    free = threading.Event()
    waiting = [asyncio.ensure_future(small.run(lambda: free.wait(10), soon())) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await small.run(lambda: None, soon())
    free.set()
    await asyncio.gather(*waiting)
    await small.run(lambda: None, soon())
    small.close()
    with pytest.raises(Overloaded):
        await small.run(lambda: None, soon())


# --- writes --------------------------------------------------------------------------------------------


async def write(bridge: Bridge, handle: FakeHandle, deadline: float) -> Outcome:
    return await bridge.write(cast(Handle, handle), WRITE, deadline=deadline)


async def begun(handle: FakeHandle, count: int = 1) -> None:
    await until(lambda: len(handle.submitted) >= count)


async def test_a_write_is_answered_when_it_is_durable(bridge: Bridge) -> None:
    handle = FakeHandle()
    task = asyncio.ensure_future(write(bridge, handle, soon()))
    await begun(handle)
    on_a_thread(lambda: handle.submitted[0].set(OUTCOME, None))
    assert await task is OUTCOME


async def test_a_write_may_be_answered_by_the_loop_itself(bridge: Bridge) -> None:
    handle = FakeHandle()
    task = asyncio.ensure_future(write(bridge, handle, soon()))
    await begun(handle)
    handle.submitted[0].set(OUTCOME, None)
    assert await task is OUTCOME


async def test_a_write_that_nobody_took_in_time_is_cancelled(bridge: Bridge) -> None:
    handle = FakeHandle()
    with pytest.raises(DeadlineExceeded):
        await write(bridge, handle, soon(0.05))
    assert not handle.submitted[0].take()


async def test_a_write_that_was_taken_is_awaited_past_its_deadline(bridge: Bridge) -> None:
    handle = FakeHandle()
    task = asyncio.ensure_future(write(bridge, handle, soon(0.05)))
    await begun(handle)
    assert handle.submitted[0].take()
    await asyncio.sleep(0.3)
    assert not task.done()
    handle.submitted[0].set(OUTCOME, None)
    assert await task is OUTCOME


async def test_a_batch_wakes_the_loop_once(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle()
    tasks = [asyncio.ensure_future(write(bridge, handle, soon())) for _ in range(100)]
    await begun(handle, 100)
    loop = asyncio.get_running_loop()
    wake_ups: list[object] = []

    def call_soon_threadsafe(callback: Callable[..., object], *args: object) -> object:
        wake_ups.append(callback)
        return original(callback, *args)

    original: Any = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", call_soon_threadsafe)

    def answer() -> None:
        for future in handle.submitted:
            future.set(OUTCOME, None)

    on_a_thread(answer)
    assert len(wake_ups) == 1
    assert await asyncio.gather(*tasks) == [OUTCOME] * 100


async def test_a_file_is_closed_when_its_write_is_done(bridge: Bridge) -> None:
    handle, file = FakeHandle(), a_file()
    task = asyncio.ensure_future(
        bridge.write_file(cast(Handle, handle), WRITE, file, deadline=soon(), idempotency_key="i")
    )
    await begun(handle)
    assert file.fd >= 0
    on_a_thread(lambda: handle.submitted[0].set(OUTCOME, None))
    assert await task is OUTCOME
    assert file.fd == -1


async def test_a_file_is_closed_when_its_write_is_not_taken(bridge: Bridge) -> None:
    handle, file = FakeHandle(), a_file()
    with pytest.raises(DeadlineExceeded):
        await bridge.write_file(cast(Handle, handle), WRITE, file, deadline=soon(0.05))
    assert file.fd == -1


async def test_the_writer_can_read_a_file_whose_request_was_given_up(bridge: Bridge) -> None:
    handle, file = FakeHandle(), a_file()
    task = asyncio.ensure_future(bridge.write_file(cast(Handle, handle), WRITE, file, deadline=soon()))
    await begun(handle)
    assert handle.submitted[0].take()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert file.read() == b"value"
    handle.submitted[0].set(OUTCOME, None)
    assert file.fd == -1


def a_file() -> FileValue:
    with tempfile.TemporaryFile() as file:
        file.write(b"value")
        file.flush()
        return FileValue(os.dup(file.fileno()), 5)


# --- leases --------------------------------------------------------------------------------------------


async def lease(bridge: Bridge, deadline: float) -> Lease:
    return await bridge.lease("db", None, deadline=deadline)


async def test_a_store_that_is_being_opened_is_awaited_by_all_and_opened_once(
    bridge: Bridge, engine: FakeEngine
) -> None:
    tasks = [asyncio.ensure_future(lease(bridge, soon())) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert engine.opened == 1
    engine.may_open.set()
    assert len(set(map(id, await asyncio.gather(*tasks)))) == 20
    assert engine.opened == 1


async def test_a_store_that_cannot_be_opened_is_an_error_to_each(bridge: Bridge, engine: FakeEngine) -> None:
    engine.error = DatabaseNotFound("no")
    engine.may_open.set()
    tasks = [asyncio.ensure_future(lease(bridge, soon())) for _ in range(5)]
    for told in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(told, DatabaseNotFound)


async def test_a_lease_that_comes_too_late_is_released(bridge: Bridge, engine: FakeEngine) -> None:
    with pytest.raises(DeadlineExceeded):
        await lease(bridge, soon(0.05))
    with pytest.raises(DeadlineExceeded):
        await lease(bridge, soon(0.05))
    assert engine.opened == 1
    engine.may_open.set()
    await until(lambda: bool(engine.leases))
    assert await asyncio.to_thread(engine.leases[0].released.wait, 10)
