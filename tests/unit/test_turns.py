"""A writer that takes its light steps in an event loop's turns does what one with its own thread does."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kvfs
from kvfs.handle import Handle
from kvfs.model import INLINE_MAX_BYTES, Set
from kvfs.paths import Paths


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(params=["table", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "table":
        return str(tmp_path / "t.db")
    (tmp_path / "dir").mkdir()
    return str(tmp_path / "dir")


def write_a_little_of_everything(store: Handle) -> None:
    pendings = [store.submit(Set(f"k{i % 7}", b"%d" % i, "text/plain")) for i in range(100)]
    assert all(pending.result(20).result.op_number for pending in pendings)
    large = b"x" * (INLINE_MAX_BYTES + 1)
    store.set("large", large)
    store.expire("large", 60)  # needs the large value again
    assert store.incr("n", 5).number == 5
    with pytest.raises(kvfs.KvfsError, match="nothing can be put"):
        store.incr("k0", path="a.b")
    assert store.delete("k0").changed


def test_writes_are_answered_in_turns(place: str) -> None:
    with running_loop() as loop:
        engine = kvfs.Engine(Paths("/", any_absolute=True), turn=loop.call_soon_threadsafe)
        with engine, engine.lease(place, "t", create=True) as store:
            write_a_little_of_everything(store)
            assert [*store.keys()] == ["k1", "k2", "k3", "k4", "k5", "k6", "large", "n"]


def test_when_the_loop_has_ended_the_writer_goes_on_by_itself(place: str) -> None:
    with running_loop() as loop:
        engine = kvfs.Engine(Paths("/", any_absolute=True), turn=loop.call_soon_threadsafe)
    with engine, engine.lease(place, "t", create=True) as store:
        write_a_little_of_everything(store)
        assert len([*store.keys()]) == 8
