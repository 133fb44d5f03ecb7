"""Many clients at once: nothing is lost, nothing is torn, and nobody sees time run backwards."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.http.stores import Store
from tests.http.wire import Connection, refused, request
from tests.meanwhile import meanwhile

T = TypeVar("T")

CLIENTS = 20


def _at_once(store: Store, number: int, work: Callable[[Connection, int], T]) -> list[T]:
    """What each of so many clients comes to, all of them starting together, each on its connection."""
    start = threading.Barrier(number)

    def client(which: int) -> T:
        with store.server.connect() as connection:
            start.wait(20)
            return work(connection, which)

    with ThreadPoolExecutor(number) as threads:
        return [*threads.map(client, range(number))]


# --- counting and swapping -----------------------------------------------------------------------------


def test_a_thousand_increments_of_twenty_clients_are_exactly_a_thousand(store: Store) -> None:
    def count(connection: Connection, _: int) -> list[int]:
        return [connection.ask("POST", store.target("n", "incr")).done()["value"] for _ in range(50)]

    seen = _at_once(store, CLIENTS, count)
    assert store.get("n") == b"1000"
    assert store.ask("GET", "n").headers["ETag"] == '"1000"'
    # Each number was told to one client, and to each in rising order.
    assert sorted(number for numbers in seen for number in numbers) == [*range(1, 1001)]
    assert all(numbers == sorted(numbers) for numbers in seen)


def test_pushes_of_many_clients_are_all_there_each_in_its_order(store: Store) -> None:
    def push(connection: Connection, which: int) -> None:
        for number in range(10):
            element = json.dumps([which, number]).encode()
            connection.ask("POST", store.target("list", "push"), element).done()

    _at_once(store, CLIENTS, push)
    elements = json.loads(store.get("list"))
    assert len(elements) == 10 * CLIENTS
    for which in range(CLIENTS):
        assert [number for client, number in elements if client == which] == [*range(10)]


def test_one_client_wins_each_round_of_compare_and_swap(store: Store) -> None:
    for round_number in range(10):
        value = str(round_number)
        store.put("k", value.encode())
        etag = store.ask("GET", "k").headers["ETag"]

        def swap(connection: Connection, which: int, value: str = value, etag: str = etag) -> int:
            # Half of them compare the value, half the etag.
            params, headers = ({"if_match": value}, []) if which % 2 else ({}, [("If-Match", etag)])
            body = f"winner {which}".encode()
            answer = connection.ask("PUT", store.target("k", **params), body, headers)
            if answer.status != 200:
                refused(answer, 412, "CAS_MISMATCH")
            return answer.status

        statuses = _at_once(store, CLIENTS, swap)
        assert sorted(statuses) == [200] + [412] * (CLIENTS - 1)
        assert store.get("k") == f"winner {statuses.index(200)}".encode()


def test_one_client_creates_a_key(store: Store) -> None:
    def create(connection: Connection, which: int) -> int:
        headers = [("If-None-Match", "*")]
        return connection.ask("PUT", store.target("k"), str(which).encode(), headers).status

    statuses = _at_once(store, CLIENTS, create)
    assert sorted(statuses) == [200] + [412] * (CLIENTS - 1)
    assert store.get("k") == str(statuses.index(200)).encode()


def test_each_element_is_popped_by_one_client(store: Store) -> None:
    store.put("list", json.dumps([*range(100)]).encode())

    def pop(connection: Connection, _: int) -> list[int]:
        popped = []
        while (answer := connection.ask("POST", store.target("list", "pop")).done())["value"] is not None:
            popped.append(answer["value"])
        return popped

    popped = _at_once(store, 10, pop)
    assert sorted(element for elements in popped for element in elements) == [*range(100)]


def test_a_write_that_is_sent_by_many_under_one_idempotency_key_happens_once(store: Store) -> None:
    def add(connection: Connection, _: int) -> tuple[int, bool]:
        answer = connection.ask("POST", store.target("n", "incr"), None, [("Idempotency-Key", "once")])
        return answer.done()["value"], answer.headers["Idempotent-Replayed"] == "true"

    told = _at_once(store, CLIENTS, add)
    assert {value for value, _ in told} == {1}
    assert [replayed for _, replayed in told].count(False) == 1
    assert store.get("n") == b"1"


# --- reading meanwhile ---------------------------------------------------------------------------------


def test_readers_see_whole_values_and_never_an_older_one(store: Store) -> None:
    """Small values and large ones, which are streamed, in turn."""
    sizes = [10, 5_000, 300_000, 1_000]

    def value(number: int) -> bytes:
        return (f"{number:08}".encode() * (sizes[number % len(sizes)] // 8 + 1))[
            : sizes[number % len(sizes)] + 8
        ]

    store.put("k", value(1))
    checked = []

    def read(stop: threading.Event) -> None:
        last = 0
        with store.server.connect() as connection:
            while not stop.is_set():
                answer = connection.ask("GET", store.target("k"))
                number = int(answer.headers["ETag"].strip('"'))
                assert answer.body == value(number), f"op {number} is torn"
                assert number >= last, f"{number} after {last}"
                last = number
                checked.append(number)

    with meanwhile(read, read):
        for number in range(2, 41):
            assert store.put("k", value(number))["op_number"] == number
            # What is acknowledged is what the next reader sees.
            assert store.ask("HEAD", "k").headers["ETag"] == f'"{number}"'
    assert len(set(checked)) > 5


def test_a_list_never_shows_half_a_batch_and_is_never_older_than_its_cursor(store: Store) -> None:
    """Who lists, and then follows the changes from the list's cursor, misses none of them."""
    keys = [f"k{number}" for number in range(10)]
    seen: set[tuple[str, frozenset[int]]] = set()
    value_at: dict[str, int] = {}

    def put(value: int) -> None:
        items = [{"key": key, "value": str(value)} for key in keys]
        store.ask("POST", None, "batch/set", body=json.dumps({"items": items}).encode()).done()
        value_at[store.ask("GET", limit=1).done()["change_cursor"]] = value

    def look(stop: threading.Event) -> None:
        target = store.target(values="true")
        with store.server.connect() as connection:
            while not stop.is_set():
                answer = connection.ask("GET", target)
                if answer.status == 503:
                    # A folder is looked at key by key, and may change too fast for that.
                    refused(answer, 503, "OVERLOADED")
                    continue
                page = answer.done()
                seen.add((page["change_cursor"], frozenset(int(item["value"]) for item in page["items"])))

    put(0)
    with meanwhile(look, look, look):
        for number in range(1, 80):
            put(number)
    assert len(seen) > 10
    assert [values for _, values in seen if len(values) > 1] == [], "half a batch"
    older = [(value_at[cursor], *values) for cursor, values in seen if min(values) < value_at[cursor]]
    assert older == [], "older than the cursor"


def test_a_table_that_comes_into_being_is_never_an_error_to_its_readers(store: Store) -> None:
    """A key is not there, or it is: there is nothing between."""
    current = [0]

    def read(stop: threading.Event) -> None:
        with store.server.connect() as connection:
            while not stop.is_set():
                table = f"t{current[0]}"
                for target in (store.target("k", table=table), store.target(table=table)):
                    answer = connection.ask("GET", target)
                    assert answer.status in (200, 404), answer

    number = 10 if store.directory else 60
    with meanwhile(read, read):
        for current[0] in range(number):
            # Somebody looks first.
            assert store.ask("HEAD", "k", table=f"t{current[0]}").status == 404
            store.put("k", b"1", table=f"t{current[0]}")


def test_readers_are_not_kept_waiting_by_a_large_upload(store: Store) -> None:
    store.put("k", b"1")
    size = 8 << 20
    with store.server.connect() as upload:
        whole = request("PUT", store.target("large"), b"x" * size)
        upload.send(whole[: size // 2])
        slowest_s = 0.0
        for _ in range(50):
            began = time.monotonic()
            assert store.get("k") == b"1"
            store.put("other", b"1")
            slowest_s = max(slowest_s, time.monotonic() - began)
        upload.send(whole[size // 2 :])
        assert upload.answer().done()["size"] == size
    # The upload is not done before that: who waited for it would wait for ever.
    assert slowest_s < 5
