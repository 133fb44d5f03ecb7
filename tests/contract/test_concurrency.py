"""Many clients at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.contract.driver import Driver, Item, StoreError

THREADS = 20


def all_at_once(work: Callable[[int], object], threads: int = THREADS) -> list[object]:
    with ThreadPoolExecutor(threads) as pool:
        return [*pool.map(work, range(threads))]


def test_twenty_clients_count_to_exactly_a_thousand(store: Driver) -> None:
    def count(_: int) -> list[int | float | None]:
        return [store.incr("n").number for _ in range(50)]

    seen = all_at_once(count)
    numbers = [number for each in seen if isinstance(each, list) for number in each]
    assert sorted(numbers) == [*range(1, 1001)]
    assert store.get("n").value == b"1000"
    assert store.op_number("n") == 1000


def test_counters_in_one_document_do_not_lose_each_other(store: Driver) -> None:
    all_at_once(lambda me: [store.incr("d", path=f"c{me % 4}") for _ in range(5)])
    assert json.loads(store.get("d").value) == {f"c{each}": 25 for each in range(4)}


def test_only_one_of_many_creates(store: Driver) -> None:
    def create(me: int) -> bool:
        try:
            return store.set("a/b", str(me).encode(), if_none_match=True).created is True
        except StoreError as error:
            assert error.code == "CAS_MISMATCH"  # noqa: PT017
            return False

    winners = [me for me, won in enumerate(all_at_once(create)) if won]
    assert len(winners) == 1
    assert store.get("a/b").value == str(winners[0]).encode()
    assert store.op_number("a/b") == 1


def test_swaps_by_etag_lose_no_update(store: Driver) -> None:
    store.set("l", b"")

    def append(me: int) -> None:
        done = 0
        while done < 3:
            got = store.get("l")
            try:
                store.set("l", got.value + b"%d " % me, if_match_etag=got.etag)
                done += 1
            except StoreError as error:
                assert error.code == "CAS_MISMATCH"  # noqa: PT017

    all_at_once(append, threads=6)
    assert sorted(store.get("l").value.split()) == sorted(b"%d" % me for me in range(6) for _ in range(3))
    assert store.op_number("l") == 19


def test_pushes_and_pops_share_out_every_element(store: Driver) -> None:
    all_at_once(lambda me: [store.push("l", str(me * 10 + n)) for n in range(10)])
    assert len(json.loads(store.get("l").value)) == 200
    popped = all_at_once(lambda me: [store.pop("l").popped for _ in range(10)])
    elements = [element for each in popped if isinstance(each, list) for element in each]
    assert sorted(elements) == [*range(200)]
    assert store.get("l").value == b"[]"


def test_writers_of_their_own_keys_do_not_meet(store: Driver) -> None:
    def write(me: int) -> None:
        for n in range(5):
            store.set(f"w{me}/{n}", b"%d" % me)
            assert store.get(f"w{me}/{n}").value == b"%d" % me
        store.delete(f"w{me}/0")

    all_at_once(write)
    expected = sorted(f"w{me}/{n}" for me in range(THREADS) for n in range(1, 5))
    assert store.list(limit=10_000).keys == sorted(expected, key=str.encode)


def test_keys_beside_keys_below_them_are_made_at_once(store: Driver) -> None:
    keys = ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/e"]

    def write(me: int) -> None:
        for key in keys[me % 5 :] + keys[: me % 5]:
            store.set(key, key.encode())

    all_at_once(write, threads=10)
    assert store.all_keys() == keys
    assert [store.get(key).value for key in keys] == [key.encode() for key in keys]
    assert [store.op_number(key) for key in keys] == [10] * 5


def test_readers_see_whole_batches_only(store: Driver) -> None:
    store.batch_set([Item("a", "0"), Item("b", "0")])

    def work(me: int) -> list[bool]:
        if me == 0:
            for n in range(1, 30):
                store.batch_set([Item("a", str(n)), Item("b", str(n))])
            return []
        seen = []
        for _ in range(20):
            page = store.list(values=not store.directory)
            seen.append(len({item.op_number for item in page.items}) == 1)
        return seen

    results = all_at_once(work, threads=4)
    assert all(all(each) for each in results if isinstance(each, list))
