"""SQL below HTTP: what needs a deadline closer than a request can set one, or a look at threads."""

from __future__ import annotations

import os
import threading
import time

import pytest

from kvfs.engine import Engine
from kvfs.errors import DeadlineExceeded, KvfsError, Overloaded
from kvfs.handle import Handle
from kvfs.sql.interrupts import Interrupter
from kvfs.sql.model import Failure, Item
from tests.engine.place import TABLE, Place, text

_MANY = "WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 60) "


def _soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def _log_id(store: Handle) -> str:
    return store.place().cursor.log_id


def _files(place: Place) -> set[str]:
    """What lies beside the database; the query log comes in its own time."""
    return set(os.listdir(place.home)) - {".kvfs"}


def _fill(engine: Engine, place: Place) -> None:
    with (lease := engine.lease(place.db, create=True)):
        items = [
            Item("CREATE TABLE big (a)"),
            Item(f"INSERT INTO big {_MANY} SELECT randomblob(500000) FROM c"),
        ]
        outcome = lease.sql.write(items, lambda _: pytest.fail("no rows"), deadline=_soon()).result()
        assert isinstance(outcome, list)


def test_a_copy_that_takes_too_long_leaves_nothing(table: Place) -> None:
    with table.engine() as engine:
        _fill(engine, table)
        before = _files(table)
        lease = engine.lease(table.db)
        with lease:
            with pytest.raises(DeadlineExceeded):
                lease.sql.maintenance.copy_into(str(table.home / "copy.db"), deadline=_soon(0.01))
            assert _files(table) == before
            assert lease.sql.maintenance.copy_into(str(table.home / "copy.db"), deadline=_soon()) > 30_000_000


def test_a_restore_that_takes_too_long_changes_nothing(table: Place) -> None:
    with table.engine() as engine:
        _fill(engine, table)
        lease = engine.lease(table.db)
        with lease:
            copy = str(table.home / "copy.db")
            lease.sql.maintenance.copy_into(copy, deadline=_soon())
            lease.handle.apply(text("k"))
            log_id = _log_id(lease.handle)
            before = _files(table)
            with pytest.raises(DeadlineExceeded):
                lease.sql.maintenance.restore(copy, deadline=_soon(0.05)).result()
            assert _files(table) == before
            assert _log_id(lease.handle) == log_id
            lease.sql.maintenance.restore(copy, deadline=_soon()).result()
            assert _log_id(lease.handle) != log_id
            assert [*lease.handle.keys()] == []


def test_jobs_that_run_alone_keep_their_place_among_batches(table: Place) -> None:
    order: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go.wait(20)
        order.append("first")

    with table.engine() as engine, engine.lease(table.db, create=True) as handle:
        handle.apply(text("k"))
        writer = handle._writer
        first = writer.submit_alone(wait)
        assert begun.wait(20)
        write = handle.submit(text("k"))
        write.add_done_callback(lambda _: order.append("batch"))
        last = writer.submit_alone(lambda: order.append("last"))
        assert not write.done()
        go.set()
        for pending in (first, write, last):
            pending.result(20)
    assert order == ["first", "batch", "last"]


def test_a_job_that_runs_alone_and_is_late_never_begins(table: Place) -> None:
    with table.engine() as engine, engine.lease(table.db, create=True) as handle:
        late = handle._writer.submit_alone(lambda: pytest.fail("it ran"), deadline=_soon(-1))
        with pytest.raises(DeadlineExceeded):
            late.result(20)


def test_temporary_files_together_are_bounded(table: Place) -> None:
    """The oldest of those that run long is ended when there is no more room for its sort."""
    interrupter = Interrupter(max_temp_bytes=10_000_000)
    with table.engine() as engine:
        engine.interrupter.close()
        engine.interrupter = interrupter
        lease = engine.lease(table.db, create=True)
        endless = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"
        sort = Item(
            f"{endless} SELECT count(*) FROM (SELECT randomblob(1000) AS r FROM c ORDER BY r)", query=True
        )
        with lease, pytest.raises(Overloaded):
            lease.sql.read([sort], lambda _: pytest.fail("no rows"), deadline=_soon(50))


def test_whoever_drops_a_kv_table_is_told_how_to_empty_it(table: Place) -> None:
    with table.store() as store, table.engine() as engine:
        store.set("k", b"x")
        lease = engine.lease(table.db)
        with lease:
            failure = lease.sql.write(
                [Item(f"DROP TABLE {TABLE}")], lambda _: pytest.fail("no rows"), deadline=_soon()
            ).result()
        assert isinstance(failure, Failure)
        assert failure.message == (
            f"{TABLE} is a KV table: it cannot be dropped or altered; delete its keys instead"
        )
        assert [*store.keys()] == ["k"]


def test_sql_that_is_no_unicode_fails_and_the_query_log_goes_on(table: Place) -> None:
    with table.store() as store:
        with pytest.raises(KvfsError):
            store.sql.query("SELECT '\udc80'")
        assert store.sql.query("SELECT 1").rows == ((1,),)
        entries, _ = store.sql.history()
        assert [entry.error is None for entry in entries] == [True, False]
