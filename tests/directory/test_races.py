"""Somebody changes a file in the very moment in which we do: both are in the history.

Each race is run many times, from a barrier: initialise, step, invariant.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from kvfs.errors import KvfsError, NotFound, Overloaded
from tests import nasty
from tests.directory.conftest import Folder

ROUNDS = 120
STEP_S = 30e-6
"""A write takes a millisecond or so; in 40 steps, theirs falls into each part of it."""


def race(number: int, ours: Callable[[], object], theirs: Callable[[], object]) -> KvfsError | None:
    """Both at once, theirs a little later each time; what ours failed with."""
    start = threading.Barrier(2)

    def go(step: Callable[[], object], delay_s: float = 0.0) -> KvfsError | None:
        start.wait(10)
        until = time.perf_counter() + delay_s
        while time.perf_counter() < until:
            os.sched_yield()
        try:
            step()
        except KvfsError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        mine, other = pool.submit(go, ours), pool.submit(go, theirs, number % 40 * STEP_S)
        other.result(20)
        return mine.result(20)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[bytes], Path]:
    """Makes a file beside the store, to be renamed into it."""
    made = 0

    def make(value: bytes) -> Path:
        nonlocal made
        made += 1
        file = tmp_path / f"fresh{made}"
        file.write_bytes(value)
        return file

    return make


def versions(folder: Folder, key: str) -> list[bytes | None]:
    """The values of a key's ops, None for a delete."""
    return [op.value for op in folder.check() if op.key == key]


@pytest.mark.parametrize("size", [1, 300_000], ids=["small", "large"])
def test_a_write_and_a_file_put_over_it(folder: Folder, fresh: Callable[[bytes], Path], size: int) -> None:
    rounds = ROUNDS if size == 1 else 20
    pad = nasty.noise(size)
    for number in range(rounds):
        key = f"d{number % 3}/k{number}"
        folder.store.set(key, b"first" + pad)
        file = fresh(b"theirs" + pad)
        failed = race(
            number,
            partial(folder.store.set, key, b"ours" + pad),
            partial(file.rename, folder.root / key),
        )
        assert failed is None
        assert folder.value(key) in (b"ours" + pad, b"theirs" + pad)
    log = folder.check()
    for number in range(rounds):
        key = f"d{number % 3}/k{number}"
        values = [op.value for op in log if op.key == key]
        assert {b"first" + pad, b"ours" + pad, b"theirs" + pad} == {*values}
        assert values[0] == b"first" + pad


def test_a_write_and_a_deletion(folder: Folder) -> None:
    for number in range(ROUNDS):
        key = f"k{number}"
        folder.store.set(key, b"first")
        file = folder.root / key
        failed = race(number, partial(folder.store.set, key, b"ours"), file.unlink)
        assert failed is None
        if file.exists():
            assert folder.value(key) == b"ours"
        else:
            assert key not in [*folder.keys()]
    folder.store.settle_all()
    log = folder.check()
    for number in range(ROUNDS):
        values = [op.value for op in log if op.key == f"k{number}"]
        assert values[0] == b"first"
        assert b"ours" in values


def test_a_new_key_and_a_new_file(folder: Folder, fresh: Callable[[bytes], Path]) -> None:
    folder.store.set("first", b"1")
    for number in range(ROUNDS):
        key = f"k{number}"
        file = fresh(b"theirs")
        failed = race(
            number,
            partial(folder.store.set, key, b"ours"),
            partial(file.rename, folder.root / key),
        )
        assert failed is None
        assert folder.value(key) in (b"ours", b"theirs")
    log = folder.check()
    for number in range(ROUNDS):
        assert {op.value for op in log if op.key == f"k{number}"} == {b"ours", b"theirs"}


def test_a_delete_and_a_file_put_over_it(folder: Folder, fresh: Callable[[bytes], Path]) -> None:
    for number in range(ROUNDS):
        key = f"k{number}"
        folder.store.set(key, b"first")
        file = fresh(b"theirs")
        failed = race(
            number,
            partial(folder.store.delete, key),
            partial(file.rename, folder.root / key),
        )
        assert failed is None
        present = (folder.root / key).exists()
        assert (key in [*folder.keys()]) is present
        assert not present or folder.value(key) == b"theirs"
    log = folder.check()
    for number in range(ROUNDS):
        values = [op.value for op in log if op.key == f"k{number}"]
        assert b"theirs" in values
        assert None in values


def test_a_swap_and_a_file_put_over_it(folder: Folder, fresh: Callable[[bytes], Path]) -> None:
    for number in range(ROUNDS):
        key = f"k{number}"
        folder.store.set(key, b"first")
        file = fresh(b"theirs")
        race(
            number,
            partial(folder.store.set, key, b"ours", if_match=b"first"),
            partial(file.rename, folder.root / key),
        )
        assert folder.value(key) in (b"ours", b"theirs")
        assert b"theirs" in versions(folder, key)


def test_a_file_that_becomes_a_folder_and_one_put_over_it(
    folder: Folder, fresh: Callable[[bytes], Path]
) -> None:
    for number in range(ROUNDS):
        key = f"k{number}"
        folder.store.set(key, b"first")
        file = fresh(b"theirs")

        def put(file: Path = file, key: str = key) -> None:
            try:
                file.rename(folder.root / key)
            except IsADirectoryError:
                file.rename(folder.root / key / "%value")

        failed = race(number, partial(folder.store.set, f"{key}/below", b"ours"), put)
        assert failed is None
        assert folder.value(key) == b"theirs"
        assert folder.value(f"{key}/below") == b"ours"


def test_a_pruned_folder_and_a_new_file_in_it(folder: Folder, fresh: Callable[[bytes], Path]) -> None:
    for number in range(ROUNDS):
        folder.store.set("d/k", b"first")
        file = fresh(b"theirs")

        def put(file: Path = file) -> None:
            while True:
                try:
                    (folder.root / "d").mkdir(exist_ok=True)
                    file.rename(folder.root / "d" / "new")
                    return
                except (FileExistsError, FileNotFoundError):
                    continue  # the folder was there, and is no more

        assert race(number, partial(folder.store.delete, "d/k"), put) is None
        assert folder.keys() == ["d/new"]
        assert folder.value("d/new") == b"theirs"
        folder.store.delete("d/new")
        assert folder.keys() == []


def test_readers_of_a_file_that_is_replaced_all_the_time_see_whole_versions(folder: Folder) -> None:
    first, second = b"a" * 5000, b"b" * 9000
    folder.store.set("k", first)
    done = threading.Event()

    def replace_it() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            other = folder.db / "fresh"
            other.write_bytes((first, second)[turn % 2])
            os.rename(other, folder.root / "k")

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace_it)
        try:
            seen = set()
            for _ in range(200):
                try:
                    seen.add(folder.value("k"))
                except (Overloaded, NotFound) as error:
                    assert isinstance(error, Overloaded), error  # noqa: PT017
        finally:
            done.set()
        replacing.result(10)
    assert seen <= {first, second}
    folder.store.settle_all()
