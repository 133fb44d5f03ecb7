"""The change feed of real stores: what is told, to whom, and what becomes of cursors."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from functools import partial

import pytest

from kvfs.cursor import Cursor, parse
from kvfs.errors import ChangeCursorExpired, DatabaseNotFound, KeyNotFound
from kvfs.feed import ChangesQuery, Event, Kind, Omitted, changes
from kvfs.followers import Ending
from kvfs.handle import Handle
from kvfs.listing import Query as ListQuery
from kvfs.model import INLINE_MAX_BYTES
from tests.engine.place import TABLE, Place
from tests.polling import eventually

WAIT_S = 10.0
NOWHERE = Cursor("", 0)


class Told:
    """A follower that remembers what it was told, and releases its lease when the volume goes."""

    def __init__(self) -> None:
        self.growths = 0
        self.endings: list[Ending] = []
        self.gone = threading.Event()

    def grown(self) -> None:
        self.growths += 1

    def ending(self, why: Ending) -> None:
        self.endings.append(why)
        self.gone.set()


def all_events(store: Handle, since: Cursor = NOWHERE, *, values: bool = False) -> list[Event]:
    found: list[Event] = []
    query = ChangesQuery(since, values=values, limit=3)
    while True:
        told = store.changes(query)
        found += told.events
        if not told.has_more:
            return found
        query = replace(query, since=told.next)


def test_every_change_is_told_in_order_with_its_value(place: Place) -> None:
    with place.store() as store:
        store.set("a", b"1")
        store.incr("a")
        store.expire("a", 60)
        store.persist("a")
        store.set("b/c", b"\xff\0")
        store.delete("a")
        store.rollback("a", 1)
        store.rollback("b/c", 1)
        told = all_events(store, values=True)
    assert [(each.op.key, each.op.op_number, each.kind, each.value) for each in told] == [
        ("a", 1, Kind.SET, b"1"),
        ("a", 2, Kind.SET, b"2"),
        ("a", 3, Kind.TTL, b"2"),
        ("a", 4, Kind.TTL, b"2"),
        ("b/c", 1, Kind.SET, b"\xff\0"),
        ("a", 5, Kind.DELETE, None),
        ("a", 6, Kind.SET, b"2"),
        ("b/c", 2, Kind.DELETE, None),
    ]


def test_values_that_the_log_has_not_come_from_the_store(place: Place) -> None:
    with place.store() as store:
        store.set("old", b"1", history=False)
        store.set("old", b"2")
        store.set("now", b"3", history=False)
        store.set("large", b"x" * (INLINE_MAX_BYTES + 1))
        told = all_events(store, values=True)
    assert [(each.op.key, each.value, each.omitted) for each in told] == [
        ("old", None, Omitted.SUPERSEDED),
        ("old", b"2", None),
        ("now", b"3", None),
        ("large", None, Omitted.TOO_LARGE),
    ]


def test_a_list_names_the_place_from_which_its_changes_are_told(place: Place) -> None:
    with place.store() as store:
        store.set("a", b"1")
        cursor = store.list(ListQuery()).cursor
        store.set("b", b"1")
        assert [event.op.key for event in all_events(store, cursor)] == ["b"]
        assert store.place().cursor == all_events(store)[-1].cursor


def test_a_cursor_from_before_a_store_is_there_leads_to_its_first_op(place: Place) -> None:
    with place.engine() as engine:
        if not place.directory:
            engine.create_database(place.db)
        with engine.lease(place.db, TABLE) as store:
            cursor = store.place().cursor
            assert store.changes(ChangesQuery(cursor)).events == ()
            assert parse(str(cursor)) == cursor
        with engine.lease(place.db, TABLE, create=True) as store:
            store.set("k", b"1")
            assert [event.op.key for event in all_events(store, cursor)] == ["k"]


def test_a_cursor_of_another_store_is_refused(place: Place) -> None:
    with place.engine() as engine, engine.lease(place.db, "another", create=True) as store:
        store.set("k", b"1")
        cursor = store.place().cursor
    with place.store() as store:
        store.set("k", b"1")
        with pytest.raises(ChangeCursorExpired) as caught:
            store.changes(ChangesQuery(cursor))
    assert caught.value.details["reason"] == "database_replaced"


def test_followers_are_told_of_commits_until_they_go(place: Place) -> None:
    told = Told()
    with place.store() as store:
        unfollow = store.follow(told)
        assert told.growths == 0
        store.set("k", b"1")
        eventually(lambda: told.growths > 0, WAIT_S, "the follower is told")
        unfollow()
        unfollow()
        before = told.growths
        store.set("k", b"2")
        store.set("k", b"3")
        assert told.growths == before
        assert told.endings == []


def test_what_a_follower_reads_when_it_is_told_is_there(place: Place) -> None:
    class Reading(Told):
        def grown(self) -> None:
            seen.append(store.place().cursor.seq)
            super().grown()

    def shows(seq: int) -> bool:
        return seen[-1:] == [seq]

    seen: list[int] = []
    with place.store() as store:
        told = Reading()
        store.follow(told)
        for seq in range(1, 6):
            store.set("k", b"1")
            eventually(partial(shows, seq), WAIT_S, "the op shows")


def test_a_look_that_is_taken_while_something_is_written_shows_nothing_that_its_log_lacks(
    place: Place,
) -> None:
    with place.store() as store:
        store.set("k", b"1")
        with store._store.reading(0) as reader:
            assert reader.last_seq() == 1
            store.set("k", b"2")
            assert reader.tail()[0] == 1
            assert [event.op.seq for event in changes(reader, ChangesQuery(NOWHERE)).events] == [1]


def test_deleting_a_database_tells_those_who_follow_it_and_waits_for_them(table: Place) -> None:
    told = Told()
    with table.engine() as engine:
        lease = engine.lease(table.db, TABLE, create=True)
        lease.handle.set("k", b"1")
        lease.handle.follow(told)
        deleting = threading.Thread(target=engine.delete_database, args=(table.db,))
        deleting.start()
        assert told.gone.wait(WAIT_S)
        assert os.path.exists(table.db)
        late = Told()
        lease.handle.follow(late)
        assert late.endings == [Ending.DELETED]
        lease.release()
        deleting.join(WAIT_S)
        assert not os.path.exists(table.db)
        assert told.endings == [Ending.DELETED]
        with pytest.raises(DatabaseNotFound):
            engine.lease(table.db, TABLE)


def test_a_replaced_store_tells_those_who_follow_it(place: Place) -> None:
    told = Told()
    elsewhere = place.home / "elsewhere"
    with place.engine() as engine:
        with engine.lease(place.db, TABLE, create=True) as store:
            store.set("k", b"1")
        lease = engine.lease(place.db, TABLE)
        lease.handle.follow(told)
        shutil.move(place.path / TABLE if place.directory else place.path, elsewhere)
        assert lease.handle.replaced()
        assert not engine.exists(place.db, TABLE)

        def ask() -> None:
            with engine.lease(place.db, TABLE, create=True) as anew:
                assert [*anew.keys()] == []

        asking = threading.Thread(target=ask)
        asking.start()
        assert told.gone.wait(WAIT_S)
        lease.release()
        asking.join(WAIT_S)
        assert engine.exists(place.db, TABLE)
        assert told.endings == [Ending.REPLACED]


def test_what_another_engine_commits_is_told_from_the_same_place(place: Place) -> None:
    with place.store() as mine, place.store() as other:
        mine.set("k", b"1")
        cursor = mine.place().cursor
        other.set("k", b"2")
        with pytest.raises(KeyNotFound):
            other.delete("x")
        told = all_events(mine, cursor, values=True)
        assert [(event.op.key, event.op.op_number, event.value) for event in told] == [("k", 2, b"2")]
