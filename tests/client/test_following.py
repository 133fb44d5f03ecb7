"""Changes, followed by the client."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest

from kvfs.client import AsyncClient, Client, Retries, Table
from kvfs.errors import ChangeCursorExpired, InvalidParameters
from tests.client.conftest import TABLE
from tests.client.faults import Instead, Lost, Proxy, Reset, answer


def test_changes_come_page_by_page(table: Table) -> None:
    table["a"] = b"1"
    start = table.changes()
    assert start.events == ()
    table.set("a", b"\xff", ttl_s=1000)
    table.persist("a")
    table["other"] = b"1"
    table.delete("a")
    page = table.changes(start.cursor, prefix="a", limit=2, values=True)
    assert [(each.key, each.kind, each.op_number, each.value) for each in page.events] == [
        ("a", "set", 2, b"\xff"),
        ("a", "ttl", 3, b"\xff"),
    ]
    assert page.events[0].expire_s is not None
    assert page.has_more
    rest = table.changes(page.cursor, prefix="a")
    assert [(each.kind, each.value, each.origin) for each in rest.events] == [("delete", None, "api")]
    assert table.changes(rest.cursor, wait_s=1).events == ()
    with pytest.raises(InvalidParameters):
        table.changes("nonsense")
    with pytest.raises(ChangeCursorExpired) as caught:
        table.changes("abc.1")
    assert table.changes(str(caught.value.details["cursor"])).events == ()


def test_what_is_listed_and_then_followed_has_no_gap(table: Table) -> None:
    table["a"] = b"1"
    page = table.list()
    table["b"] = b"2"
    events = table.follow(page.cursor)
    assert next(events).key == "b"
    table["c"] = b"3"
    assert next(events).key == "c"


def test_following_goes_on_after_all_that_goes_wrong(proxy: Proxy, db: str, table: Table) -> None:
    table["other"] = b"1"
    start = table.changes().cursor
    numbers = []
    with Client(proxy.url, retries=Retries(attempts=2, first_pause_s=0.01)) as client:
        events = client.table(db, TABLE).follow(start)
        for fault in (Reset(), Lost(), Lost(passed=80), Instead(answer("502 Bad Gateway", b"no"))):
            # More than one call may fail before it goes on.
            proxy.faults += [fault, fault, fault]
            table.incr("n")
            table.incr("n")
            numbers += [event.op_number for event in islice(events, 2)]
    assert numbers == [*range(1, 9)]


async def test_an_event_loop_follows_as_it_happens(url: str, proxy: Proxy, db: str, table: Table) -> None:
    table["other"] = b"1"
    start = table.changes().cursor
    async with AsyncClient(proxy.url, retries=Retries(attempts=2, first_pause_s=0.01)) as client:
        followed = client.table(db, TABLE).follow(start, values=True)
        proxy.faults += [Reset(), Lost(), Reset()]
        waiting = asyncio.ensure_future(anext(followed))
        async with AsyncClient(url) as other:
            await other.table(db, TABLE).set("k", b"1")
        event = await waiting
    assert (event.key, event.value) == ("k", b"1")
