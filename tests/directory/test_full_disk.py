"""The disk is full to the last pages: wherever a write fails, its answer is true."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvfs.errors import KvfsError, StorageFull
from kvfs.model import Incr, Outcome, Set
from kvfs.pending import Pending
from tests import nasty
from tests.directory.conftest import TABLE, Folder, whole
from tests.engine.mounting import Disk, mounted

PAGE_BYTES = 4096
WAIT_S = 20.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small file system."""
    with mounted(tmp_path / "disk", mib=3) as disk:
        yield disk


def is_unknown(error: KvfsError) -> bool:
    return error.details.get("outcome") == "unknown"


def test_a_write_that_failed_changed_nothing_unless_nobody_can_know(disk: Disk) -> None:
    folder = Folder(disk.path / "db")
    expected: dict[str, bytes] = {}
    failures = 0
    for pages in range(30):
        disk.fill(leave=pages * PAGE_BYTES)
        unknown: set[str] = set()
        for number in range(8):
            key, value = f"{pages}/{number}", nasty.noise(700 + 300 * number, seed=pages)
            try:
                folder.store.set(key, value)
                expected[key] = value
            except StorageFull as error:
                failures += 1
                if is_unknown(error):
                    unknown.add(key)
        disk.clear()
        keys = folder.keys()
        found = {key: whole(folder.store.get(key)) for key in keys}
        assert len(unknown) <= 1
        assert {key: value for key, value in found.items() if key not in unknown} == expected
        for key in keys:
            folder.store.delete(key)
        expected.clear()
    assert failures > 30
    folder.close()
    folder.check()


def test_writes_that_share_a_failed_commit_are_not_done_twice(disk: Disk) -> None:
    folder = Folder(disk.path / "db")
    store = folder.store
    for pages in range(40):
        key = f"n{pages}"
        store.set(key, b"0")
        disk.fill(leave=pages * PAGE_BYTES)
        with _locked(folder):
            waiting = [store.submit(write) for _ in range(4) for write in (Incr(key), text(f"p{pages}"))]
        answers = [_answer(pending) for pending in waiting][::2]
        disk.clear()
        done = sum(isinstance(answer, Outcome) for answer in answers)
        maybe = sum(isinstance(answer, KvfsError) and is_unknown(answer) for answer in answers)
        assert done <= int(whole(store.get(key))) <= done + maybe
    folder.close()
    folder.check()


@contextmanager
def _locked(folder: Folder) -> Iterator[None]:
    """Another program writes to the folder all the while."""
    fd = os.open(folder.home / f"{TABLE}.lock", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def text(key: str) -> Set:
    """A write that takes some room."""
    return Set(key, nasty.noise(1500), "text/plain")


def _answer(pending: Pending[Outcome]) -> Outcome | KvfsError:
    try:
        return pending.result(WAIT_S)
    except KvfsError as error:
        return error
