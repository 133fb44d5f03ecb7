"""A database that another process deletes: nothing is acknowledged that is lost, nothing old is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NoReturn

import apsw
import pytest

from kvfs.engine import Engine
from kvfs.errors import DatabaseNotFound, KvfsError, Overloaded
from kvfs.model import Incr
from kvfs.sql.model import Item
from tests.engine.place import TABLE, Place, open_files, text
from tests.polling import eventually

ROUNDS = 30

Pair = tuple[Engine, Engine]


def _no_rows(columns: Sequence[str]) -> NoReturn:
    pytest.fail("no rows")


def _written(connection: apsw.Connection) -> int:
    """How many writes a database has seen."""
    ((writes,),) = connection.execute(f"SELECT coalesce(max(op_number), 0) FROM {TABLE}").fetchall()
    assert isinstance(writes, int)
    return writes


@pytest.fixture
def pair(table: Place) -> Iterator[Pair]:
    """Two engines that know nothing of each other."""
    with table.engine() as one, table.engine() as other:
        with one.lease(table.db, TABLE, create=True) as handle:
            handle.set("k", b"old")
        yield one, other


def test_a_write_that_finds_its_file_gone_is_refused(pair: Pair, table: Place) -> None:
    one, other = pair
    with other.lease(table.db, TABLE) as handle:
        assert handle.get("k").value == b"old"
        one.delete_database(table.db)
        with pytest.raises(Overloaded, match="deleted"):
            handle.apply(text("k", b"lost"), deadline=time.monotonic() + 5)
    with pytest.raises(DatabaseNotFound):
        other.lease(table.db, TABLE)


def test_a_new_database_that_is_deleted_leaves_nothing_behind(table: Place) -> None:
    one, other = table.engine(), table.engine()
    with one, other, one.lease(table.db, TABLE, create=True) as handle:
        other.delete_database(table.db)
        with pytest.raises(Overloaded, match="deleted"):
            handle.apply(text("k", b"lost"), deadline=time.monotonic() + 5)
        assert [path.name for path in table.home.glob("t.db*")] == []


def test_a_write_never_goes_to_the_file_that_was_there_before(pair: Pair, table: Place) -> None:
    one, other = pair
    with other.lease(table.db, TABLE) as before:
        one.delete_database(table.db)
        one.create_database(table.db, kv_table=TABLE)
        with pytest.raises(Overloaded):
            before.apply(text("k", b"lost"), deadline=time.monotonic() + 5)
    with other.lease(table.db, TABLE) as handle:
        assert [*handle.keys()] == []
        assert handle.set("k", b"new").op_number == 1
    with one.lease(table.db, TABLE) as handle:
        assert handle.get("k").value == b"new"


def test_sql_that_writes_finds_out_as_well(pair: Pair, table: Place) -> None:
    one, other = pair
    items = [Item("CREATE TABLE IF NOT EXISTS mine (x)")]
    lease = other.lease(table.db, TABLE)
    with lease:
        lease.sql.write(items, _no_rows, deadline=time.monotonic() + 5).result()
        one.delete_database(table.db)
        with pytest.raises(Overloaded, match="deleted"):
            lease.sql.write(items, _no_rows, deadline=time.monotonic() + 5).wait(None)


def test_what_is_under_way_elsewhere_is_waited_for(pair: Pair, table: Place) -> None:
    one, _ = pair
    with table.locked():
        deleting = threading.Thread(target=one.delete_database, args=(table.db,))
        deleting.start()
        deleting.join(0.2)
        assert deleting.is_alive()
        assert table.path.exists()
    deleting.join(10)
    assert not table.path.exists()


def test_a_deleted_file_is_let_go_of_though_a_key_of_it_was_to_run_out(pair: Pair, table: Place) -> None:
    one, other = pair
    with other.lease(table.db, TABLE) as handle:
        handle.set("timed", b"1", ttl_s=1000)
    one.delete_database(table.db)
    eventually(lambda: open_files(table.db) == 0, 10, "nobody has the deleted file open")


def test_nothing_acknowledged_is_lost_while_a_database_comes_and_goes(pair: Pair, table: Place) -> None:
    """Each acknowledged write is in one of the databases, as it was when it had been deleted."""
    one, other = pair
    one.delete_database(table.db)
    stop = threading.Event()
    acknowledged = 0

    def write() -> None:
        nonlocal acknowledged
        while not stop.is_set():
            try:
                with other.lease(table.db, TABLE) as handle:
                    handle.apply(Incr("n"), deadline=time.monotonic() + 5)
                    acknowledged += 1
            except KvfsError:
                continue

    def goes_on(writes: int) -> None:
        wanted = acknowledged + writes
        eventually(lambda: acknowledged >= wanted, 10, "writes go on")

    writer = threading.Thread(target=write)
    writer.start()
    counted = 0
    try:
        for _ in range(ROUNDS):
            one.create_database(table.db, kv_table=TABLE)
            with closing(table.connect()) as looking:
                _written(looking)
                goes_on(3)
                one.delete_database(table.db)
                # The file has no name any more, and can be read for as long as it is open.
                counted += _written(looking)
    finally:
        stop.set()
        writer.join()
    assert acknowledged == counted
