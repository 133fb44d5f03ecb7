"""A TTL that runs out is logged though nobody asks for its key."""

from __future__ import annotations

import time

import pytest

from kvfs.config import Config
from kvfs.errors import KeyExpired
from tests.clocks import HurriedClock
from tests.engine.place import TABLE, Place, lasting, value_of
from tests.polling import eventually

LOGGED_S = 5.0
CLOSE_S = 10.0


def test_an_expiry_is_logged_within_seconds_and_its_key_is_gone(place: Place) -> None:
    clock = HurriedClock()
    with place.store(clock=clock) as store:
        store.set("short", b"x", ttl_s=60)
        store.set("stays", b"x")
        store.set("longer", b"x", ttl_s=3600)
        file = place.path / TABLE / "short"
        assert file.exists() == place.directory
        clock.hurry(61)
        eventually(lambda: len(place.check()) == 4, LOGGED_S, "the expiry is logged")
        assert not file.exists()
        with pytest.raises(KeyExpired):
            store.get("short")
        assert [*store.keys()] == ["longer", "stays"]
    last = place.check()[-1]
    assert (last.key, last.op_type, last.origin) == ("short", "expire", "api")


def test_an_expiry_in_real_time_is_logged_within_seconds(place: Place) -> None:
    with place.store() as store:
        store.set("k", b"x", ttl_s=1)
        eventually(lambda: len(place.check()) == 2, 1 + LOGGED_S, "the expiry is logged")
        op = place.check()[-1]
        assert op.op_type == "expire"
        assert op.ts_ns <= time.time_ns()


def test_many_that_expire_at_once_are_all_logged(place: Place) -> None:
    clock = HurriedClock()
    with place.store(clock=clock) as store:
        store.set("stays", b"x")
        for begin in range(0, 1200, 100):
            with place.locked():
                pendings = [store.submit(lasting(f"k{i}")) for i in range(begin, begin + 100)]
            for pending in pendings:
                pending.result(20)
        clock.hurry(61)
        eventually(lambda: [*store.keys()] == ["stays"], LOGGED_S, "none is listed")
        eventually(lambda: len(place.check()) == 2401, 2 * LOGGED_S, "the expiries are logged")


def test_what_expired_while_the_store_was_closed_is_logged_when_it_is_open_again(place: Place) -> None:
    clock = HurriedClock()
    with place.store(clock=clock) as store:
        store.set("k", b"x", ttl_s=60)
    clock.hurry(61)
    with place.store(clock=clock):
        eventually(lambda: len(place.check()) == 2, LOGGED_S, "the expiry is logged")


def test_an_idle_store_with_a_ttl_stays_open_until_it_is_over(place: Place) -> None:
    clock = HurriedClock()
    with place.engine(config=Config(idle_close_s=0.1), clock=clock) as engine:
        with engine.lease(place.db, TABLE, create=True) as store:
            store.set("k", b"x", ttl_s=60)
        clock.hurry(61)
        eventually(lambda: not place.open_files(), CLOSE_S, "the idle store's files are closed")
        assert [op.op_type for op in place.check()] == ["set", "expire"]


def test_a_key_that_was_set_again_in_time_does_not_expire(place: Place) -> None:
    clock = HurriedClock()
    with place.store(clock=clock) as store:
        store.set("saved", b"1", ttl_s=60)
        store.set("persisted", b"1", ttl_s=60)
        store.set("other", b"1", ttl_s=60)
        store.set("saved", b"2")
        store.persist("persisted")
        clock.hurry(61)
        eventually(lambda: len(place.check()) == 6, LOGGED_S, "the other's expiry is logged")
        assert (value_of(store, "saved"), value_of(store, "persisted")) == (b"2", b"1")
