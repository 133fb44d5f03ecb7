"""Disks whose syncs fail: nothing acknowledged is lost, and nothing is written until that is sure."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import nasty
from tests.crash.tracing import traced
from tests.http.launching import Server
from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, Answer, refused
from tests.polling import eventually

SYNCS = ("fsync", "fdatasync", "syncfs")
WITHIN_S = 40.0
CODES = {"table": "DATABASE_ERROR", "directory": "FILE_SYSTEM_ERROR"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose disk these tests let fail; each leaves it as it was."""
    server = Server(tmp_path_factory.mktemp("alone"))
    with server:
        try:
            yield server
        except BaseException:
            server.kill()
            raise


@contextmanager
def failing(server: Server, *calls: str, when: str = "", path: Path | None = None) -> Iterator[None]:
    """These calls of the server fail with EIO, from here to the end."""
    injected = [f"{call}:error=EIO{when}" for call in calls]
    with traced(server.pid, SYNCS, injected, server.log.with_name("trace"), path=path):
        yield


def health(server: Server) -> Any:
    answer = server.ask("GET", f"{BASE}/health")
    told = answer.json()
    assert answer.status == (200 if told["status"] == "ok" else 503)
    return told


def why_read_only(store: Store) -> Any:
    """What the server says of the store's state, None where nothing is wrong with it."""
    told = store.server.ask("GET", f"{BASE}/health/cache").done()
    forms = told["directory_stores" if store.directory else "databases"]
    (form,) = [form for form in forms if Path(form["path"]).is_relative_to(store.home)]
    assert form["readonly"] == (form["in_doubt"] is not None)
    return form["in_doubt"]


def refused_in_doubt(answer: Answer, kind: str) -> None:
    error = refused(answer, 500, CODES[kind])
    assert error["read_only"] is True
    assert "outcome" not in error
    assert "read-only" in error["message"]


def takes_writes(store: Store) -> bool:
    return store.ask("PUT", "probe", body=b"1").status == 200


def all_durable(store: Store) -> bool:
    """Whether the op-log says that the files of all its ops are durable."""
    with closing(sqlite3.connect(store.db / ".kvfs" / f"{TABLE}.oplog")) as log:
        durable = log.execute("SELECT applied_seq FROM kvfs_checkpoint").fetchone()
        return bool(durable == log.execute("SELECT max(seq) FROM kvfs_oplog_files").fetchone())


def comes_to_rest(store: Store) -> None:
    """Wait until the server has nothing left to sync of its own accord."""
    if store.directory:
        eventually(lambda: all_durable(store), WITHIN_S, "all files are durable so far")


def test_a_store_whose_sync_failed_is_read_only_until_it_is_verified(
    alone: Server, tmp_path: Path, kind: str
) -> None:
    with Store(alone, tmp_path / "store", directory=kind == "directory") as store:
        store.put("k", b"acknowledged")
        comes_to_rest(store)
        with failing(alone, *SYNCS):
            error = refused(store.ask("PUT", "k", body=b"lost"), 500, "DATABASE_ERROR")
            assert error["outcome"] == "unknown"
            for method, action, body in (("PUT", "", b"x"), ("DELETE", "", None), ("POST", "incr", None)):
                refused_in_doubt(store.ask(method, "k", action, body=body), kind)
            assert store.get("k") == b"acknowledged"
            assert store.ask("GET").done()["keys"] == ["k"]
            assert health(alone)["read_only_stores"] == 1
            assert health(alone)["status"] == "degraded"
            assert why_read_only(store) is not None
            metrics = alone.ask("GET", "/metrics").body
            assert b"kvfs_read_only_stores 1.0" in metrics
        eventually(lambda: takes_writes(store), WITHIN_S, "it takes writes again")
        assert why_read_only(store) is None
        assert health(alone)["status"] == "ok"
        assert store.get("k") == b"acknowledged"
        assert store.put("k", b"next")["op_number"] == 2
        store.check()


def test_what_was_acknowledged_before_a_failed_sync_survives_a_kill(
    alone: Server, tmp_path: Path, kind: str
) -> None:
    with Store(alone, tmp_path / "store", directory=kind == "directory") as store:
        acknowledged = {f"k{number}": nasty.noise(3000, number) for number in range(20)}
        for key, value in acknowledged.items():
            store.put(key, value)
        comes_to_rest(store)
        with failing(alone, *SYNCS):
            refused(store.ask("PUT", "k0", body=b"lost"), 500, "DATABASE_ERROR")
            alone.kill()
        store.disconnect()
        alone.start()
        # The process that is gone cannot tell whether that was committed; the first read does, for good.
        told = store.get("k0")
        assert told in (acknowledged.pop("k0"), b"lost")
        for key, value in acknowledged.items():
            assert store.get(key) == value
        store.put("more", b"1")
        assert store.get("k0") == told
        store.check()


def test_other_stores_are_written_while_one_is_in_doubt(alone: Server, tmp_path: Path) -> None:
    with (
        Store(alone, tmp_path / "one", directory=False) as one,
        Store(alone, tmp_path / "other", directory=False) as other,
    ):
        one.put("k", b"1")
        other.put("k", b"1")
        with failing(alone, "fdatasync", path=Path(f"{one.db}-wal")):
            refused(one.ask("PUT", "k", body=b"2"), 500, "DATABASE_ERROR")
            refused_in_doubt(one.ask("PUT", "k", body=b"2"), "table")
            assert other.put("k", b"2")["op_number"] == 2
            assert health(alone)["read_only_stores"] == 1
        eventually(lambda: takes_writes(one), WITHIN_S, "it takes writes again")


def test_sql_that_writes_is_refused_in_doubt_and_sql_that_reads_is_not(alone: Server, tmp_path: Path) -> None:
    with Store(alone, tmp_path / "store", directory=False) as store:
        store.put("k", b"1")

        def sql(text: str, kind: str) -> Answer:
            body = b'{"transaction": [{"%s": "%s"}]}' % (kind.encode(), text.encode())
            return alone.ask("POST", f"{BASE}/db?db={store.db}", body)

        with failing(alone, *SYNCS):
            error = refused(sql("CREATE TABLE t (x)", "statement"), 500, "DATABASE_ERROR")
            assert error["outcome"] == "unknown"
            refused_in_doubt(sql("CREATE TABLE t (x)", "statement"), "table")
            assert sql("SELECT 1 AS x", "query").done()["results"][0]["resultSet"] == [{"x": 1}]
        eventually(lambda: takes_writes(store), WITHIN_S, "it takes writes again")
        assert sql("CREATE TABLE t (x)", "statement").done()["results"][0]["success"]


def test_a_checkpoint_whose_sync_fails_leaves_doubt(alone: Server, tmp_path: Path) -> None:
    with Store(alone, tmp_path / "store", directory=False) as store:
        store.put("k", b"1")
        acknowledged = 0
        with failing(alone, "fdatasync", path=store.db):
            while store.ask("PUT", f"large{acknowledged}", body=nasty.noise(200_000, 1)).status == 200:
                acknowledged += 1
                assert acknowledged < 200
            refused_in_doubt(store.ask("PUT", "k", body=b"2"), "table")
        eventually(lambda: takes_writes(store), WITHIN_S, "it takes writes again")
        assert len(store.ask("GET", prefix="large").done()["keys"]) == acknowledged
        store.check()


def test_files_whose_sync_failed_are_written_anew_before_they_count_as_durable(tmp_path: Path) -> None:
    # A server of its own: it is the first sync that fails, whatever store it is of.
    with Server(tmp_path) as server, Store(server, tmp_path / "store", directory=True) as store:
        store.put("plain", b"1")
        (store.folder / "shell").write_bytes(b"#!/bin/sh\n")
        (store.folder / "shell").chmod(0o750)
        assert store.get("shell") == b"#!/bin/sh\n"
        comes_to_rest(store)
        with failing(server, "syncfs", when=":when=1"):
            items = [{"key": key, "value": "new"} for key in ("plain", "shell")]
            store.ask("POST", None, "batch/set", body=json.dumps({"items": items}).encode()).done()
            before = {name: os.stat(store.folder / name) for name in ("plain", "shell")}
            eventually(lambda: why_read_only(store) is not None, WITHIN_S, "the sync of the files has failed")
            (store.folder / "outside").write_bytes(b"of an editor")
            eventually(lambda: why_read_only(store) is None, WITHIN_S, "it is verified")
        after = {name: os.stat(store.folder / name) for name in ("plain", "shell")}
        for name in before:
            assert after[name].st_mtime_ns > before[name].st_mtime_ns
            assert after[name].st_mode == before[name].st_mode
        assert store.get("outside") == b"of an editor"
        assert store.get("shell") == b"new"
        assert store.put("plain", b"2")["op_number"] == 3
        assert store.ask("GET").done()["keys"] == ["outside", "plain", "shell"]
        store.check()
