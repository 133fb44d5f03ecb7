"""Reads wait for nobody, and end in time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvfs.errors import DeadlineExceeded
from kvfs.handle import Handle
from kvfs.listing import Query
from kvfs.model import BatchSet, FileValue
from tests import nasty
from tests.engine.place import Place, text

WAIT_S = 20.0
AT_ONCE_S = 1.0


def test_reads_go_on_while_another_program_writes(place: Place) -> None:
    with place.store() as store:
        store.set("a/k", b"1", ttl_s=1000)
        store.set("large", b"x" * 400_000)
        assert [*store.keys()] == ["a/k", "large"]
        with place.locked():
            began = time.monotonic()
            assert store.get("a/k").value == b"1"
            assert [*store.keys()] == ["a/k", "large"]
            assert store.list(Query(prefix="a/", delimiter="/", total=True, values=True)).total == 1
            assert store.get_many(["a/k", "large", "missing"])["large"] is not None
            assert store.get_at("a/k", time.time_ns()).value == b"1"
            assert store.list_at(time.time_ns()).keys == ("a/k", "large")
            assert time.monotonic() - began < AT_ONCE_S


def test_reads_of_the_past_change_nothing(place: Place) -> None:
    with place.store() as store:
        store.set("k", b"1")
        assert [*store.keys()] == ["k"]
        before = place.commits()
        for _ in range(10):
            assert store.get_at("k", time.time_ns()).value == b"1"
            assert store.list_at(time.time_ns()).keys == ("k",)
        assert place.commits() - before <= 1  # a checkpoint, at the most


def test_a_long_read_ends_at_its_deadline(place: Place) -> None:
    with place.store() as store:
        keys = [f"k{number:05}" for number in range(5000)]
        waiting = [
            store.submit(BatchSet(tuple(text(key) for key in keys[start : start + 100])))
            for start in range(0, len(keys), 100)
        ]
        for pending in waiting:
            pending.result(WAIT_S)
        query = Query(total=True, limit=5000)
        assert store.list(query, deadline=time.monotonic() + WAIT_S).total == 5000
        with pytest.raises(DeadlineExceeded):
            _ = [store.list(query, deadline=time.monotonic() - 1) for _ in range(50)]
        assert store.list(query, deadline=time.monotonic() + WAIT_S).total == 5000


def test_a_large_value_is_read_whole_while_it_is_replaced(place: Place) -> None:
    """However a read falls among the writes, it gives one of the values, and its own metadata."""
    values = [nasty.noise(300_000, seed=seed) for seed in range(3)]
    with place.store() as store:
        store.set("k", values[0])
        done = threading.Event()

        def read() -> int:
            count = 0
            while not done.is_set():
                entry = store.get("k")
                value = entry.value
                if isinstance(value, FileValue):
                    with value:
                        value = value.read()
                assert value == values[(entry.op_number - 1) % 3]
                count += 1
            return count

        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(read) for _ in range(2)]
            try:
                for number in range(1, 40):
                    store.set("k", values[number % 3])
            finally:
                done.set()
            assert all(each.result(WAIT_S) > 0 for each in reading)


def test_a_store_that_comes_into_being_is_read_as_it_is(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        with Place(tmp_path / str(number), directory=False).store() as store:
            done = threading.Event()

            def read(store: Handle = store, done: threading.Event = done) -> None:
                while not done.is_set():
                    found = store.get_many(["k"])["k"]
                    assert found is None or found.value == b"1"
                    assert [*store.keys()] in ([], ["k"])

            with ThreadPoolExecutor(2) as pool:
                reading = [pool.submit(read) for _ in range(2)]
                try:
                    store.set("k", b"1")
                finally:
                    done.set()
                for each in reading:
                    each.result(WAIT_S)


def test_a_key_that_comes_and_goes_is_read_as_it_is(place: Place) -> None:
    with place.store() as store:
        store.set("first", b"1")
        value = nasty.noise(300_000)
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                found = store.get_many(["a/k"])["a/k"]
                assert found is None or found.value == value

        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(read) for _ in range(2)]
            try:
                for _ in range(30):
                    store.set("a/k", value)
                    store.delete("a/k")
            finally:
                done.set()
            for each in reading:
                each.result(WAIT_S)
