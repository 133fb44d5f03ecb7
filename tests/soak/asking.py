"""A client that asks for everything there is, on keys of its own, and knows the right answers."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from itertools import count
from typing import Any

from tests.contract.driver import Item, StoreError
from tests.contract.http_driver import Client, HttpDriver
from tests.crash.aftermath import TABLE
from tests.crash.load import Misread

OWN = "asked/"


class Asker:
    """Small sequences of requests, each of which must be answered as the one before it says.

    Writes go through `store`, and reads through `reads`, which may be another worker's connection.
    """

    def __init__(self, name: str, store: HttpDriver, reads: HttpDriver, *, seed: int) -> None:
        self._prefix = f"{OWN}{name}/"
        self._store = store
        self._reads = reads
        self._seed = seed
        self._chance = random.Random(f"{seed}-{name}")
        self._acts = (
            self._go_back, self._look_back, self._use_an_array, self._use_a_document, self._expire,
            self._swap_values, self._repeat, self._list, self._batch, self._compare,
        )  # fmt: skip

    def ask_until(self, ending: threading.Event, pause_s: float) -> None:
        """Ask on until then, with pauses between sequences."""
        for number in count():
            if ending.is_set():
                return
            key = f"{self._prefix}{self._chance.randrange(20)}"
            self._chance.choice(self._acts)(key, f"{self._seed}-{number}")
            ending.wait(pause_s)

    def _is(self, got: object, wanted: object, what: str) -> None:
        if got != wanted:
            raise Misread(f"{what} is {got!r}, and not {wanted!r}", stale=False)

    def _reads_as(self, key: str, value: bytes) -> None:
        got = self._reads.get(key).value
        if got != value:
            raise Misread(f"{key!r} is {got[:40]!r}, and not {value[:40]!r}", stale=True)

    def _go_back(self, key: str, fresh: str) -> None:
        self._store.set(key, fresh.encode())
        self._store.set(key, b"regretted")
        undone = self._store.rollback(key)
        self._is(undone.value, fresh.encode(), "a rollback's value")
        self._reads_as(key, fresh.encode())

    def _look_back(self, key: str, fresh: str) -> None:
        first = self._store.set(key, fresh.encode()).op_number or 0
        self._store.set(key, b"later")
        self._is(self._reads.snapshot(key, first).value, fresh.encode(), "a snapshot")
        told = self._reads.history(key, limit=2).operations
        self._is(
            [(op.op_number, op.value) for op in told], [(first + 1, b"later"), (first, fresh.encode())], key
        )

    def _use_an_array(self, key: str, fresh: str) -> None:
        self._store.set(key, b"[]", content_type="application/json")
        for _ in range(2):
            self._store.push(key, json.dumps(fresh))
        self._is(self._store.remove(key, index=0).removed, 1, "what was removed")
        self._is(self._store.pop(key).popped, fresh, "what was popped")
        self._reads_as(key, b"[]")

    def _use_a_document(self, key: str, fresh: str) -> None:
        self._store.set(key, b'{"a": {"n": 1}}', content_type="application/json")
        self._store.set(key, json.dumps(fresh).encode(), path="$.a.name")
        self._is(self._store.incr(key, 5, path="$.a.n").number, 6, "a number in a document")
        self._is(json.loads(self._reads.get_node(key, "$.a")), {"n": 6, "name": fresh}, "a node")

    def _expire(self, key: str, fresh: str) -> None:
        self._store.set(key, fresh.encode(), ttl=1000)
        self._is(self._reads.get(key).expire_at is None, False, "whether a TTL is missing")
        self._store.persist(key)
        self._is(self._reads.get(key).expire_at, None, "a TTL that was taken away")

    def _swap_values(self, key: str, fresh: str) -> None:
        self._store.set(key, b"old")
        self._store.set(key, fresh.encode(), if_match=b"old")
        try:
            self._store.set(key, b"wrong", if_match=b"old")
        except StoreError as error:
            self._is(error.code, "CAS_MISMATCH", "a refusal")
        else:
            raise Misread(f"{key!r} was swapped against its value", stale=False)
        self._reads_as(key, fresh.encode())

    def _repeat(self, key: str, fresh: str) -> None:
        once = f"{self._prefix}{fresh}"
        first = self._store.set(key, fresh.encode(), idempotency_key=once)
        again = self._reads.set(key, fresh.encode(), idempotency_key=once)
        self._is((again.op_number, again.replayed), (first.op_number, True), "a repeated request")

    def _list(self, key: str, fresh: str) -> None:
        self._store.set(key, fresh.encode())
        page = self._reads.list(prefix=key, limit=1, values=True)
        self._is([item.value for item in page.items], [fresh.encode()], "a list's value")
        self._store.delete(key)
        self._is(key in self._reads.list(prefix=self._prefix).keys, False, "whether a deleted key is listed")

    def _batch(self, key: str, fresh: str) -> None:
        names = [f"{key}-{number}" for number in range(5)]
        self._store.batch_set([Item(name, fresh) for name in names])
        got = self._reads.batch_get(names)
        self._is([each and each.value for each in got.values()], [fresh.encode()] * 5, "a batch")
        self._is(self._store.batch_delete(names), 5, "how many were deleted")

    def _compare(self, key: str, fresh: str) -> None:
        self._store.set(key, b"before")
        at_ns = self._store.now_ns()
        self._store.set(key, fresh.encode())
        later_ns = self._store.now_ns()
        changed = self._reads.diff(at_ns, later_ns, keys=[key]).keys
        self._is(changed, {key: (b"before", fresh.encode())}, "a difference")


class Follower:
    """Follows the changes of a store: each op once, and those of a key in order."""

    def __init__(self, client: Client, db: str) -> None:
        self._client = client
        self._params: Mapping[str, str] = {"db": db, "table": TABLE}
        self._last: dict[str, int] = {}
        self.seen = 0

    def follow_until(self, ending: threading.Event) -> None:
        """Follow until then."""
        cursor = self._page({})["cursor"]
        while not ending.is_set():
            page = self._page({"since": cursor, "wait": "1", "limit": "1000"})
            for event in page["events"]:
                key, number = event["key"], event["op_number"]
                if number != self._last.setdefault(key, number - 1) + 1:
                    message = f"{key!r}: change {number} was told after {self._last[key]}"
                    raise Misread(message, stale=False)
                self._last[key] = number
            self.seen += len(page["events"])
            cursor = page["next_cursor"]

    def _page(self, params: Mapping[str, str]) -> Any:
        return self._client.request("GET", "/changes", {**self._params, **params}).json()
