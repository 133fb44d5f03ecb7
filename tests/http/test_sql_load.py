"""SQL under load and under failures: many at once, beside keys, with locks, full disks and damage below."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import pytest

from tests.engine.mounting import Disk, mounted
from tests.http.databases import SqlFile
from tests.http.launching import Server, serving
from tests.http.locking import locked
from tests.http.wire import BASE, Answer, refused, request, target_of

ENDLESS = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
ANY_PATH = "--allow-any-absolute-db-path"


@pytest.fixture
def file(server: Server, tmp_path: Path) -> SqlFile:
    file = SqlFile(server, tmp_path / "db" / "file.db")
    file.did("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    return file


def put(file: SqlFile, key: str, value: bytes, **params: object) -> Answer:
    return file.server.ask("PUT", target_of(f"{BASE}/kv/{key}", db=file.path, **params), value)


def test_64_transactions_at_once_are_all_done_and_right(file: SqlFile) -> None:
    file.did("CREATE TABLE account (name PRIMARY KEY, money CHECK (money >= 0))")
    file.did("INSERT INTO account VALUES ('a', 1000), ('b', 1000)")

    def transfer(number: int) -> int:
        amount = number % 7
        outcome = file.run(
            {"statement": "UPDATE account SET money = money - ? WHERE name = 'a'", "values": [amount]},
            {"statement": "UPDATE account SET money = money + ? WHERE name = 'b'", "values": [amount]},
            {"statement": "INSERT INTO t (v) VALUES (?)", "values": [number]},
            {"query": "SELECT sum(money) AS total FROM account"},
        )
        assert outcome["results"][3]["resultSet"] == [{"total": 2000}]
        return amount

    with ThreadPoolExecutor(64) as threads:
        moved = sum(threads.map(transfer, range(64)))
    assert file.rows("SELECT money FROM account ORDER BY name") == [[1000 - moved], [1000 + moved]]
    assert sorted(file.rows("SELECT v FROM t")) == [[number] for number in range(64)]


def test_keys_and_sql_that_are_written_at_once_all_come_through(file: SqlFile) -> None:
    def write(number: int) -> None:
        if number % 2:
            put(file, f"k{number % 10}", b"%d" % number, table="kv").done()
        else:
            file.did({"statement": "INSERT INTO t (v) VALUES (?)", "values": [number]})

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(400)))
    assert file.rows("SELECT count(*) FROM t") == [[200]]
    assert file.rows("SELECT count(*), max(seq) FROM kvfs_oplog_kv") == [[200, 200]]


def test_writes_take_turns_and_none_waits_for_all_others(file: SqlFile) -> None:
    """While many transactions wait, a key that is written comes after those before it, not after them all."""
    put(file, "k", b"0").done()
    stopped = False

    def insert(_: int) -> None:
        while not stopped:
            file.did("INSERT INTO t (v) VALUES (1)")

    with ThreadPoolExecutor(9) as threads:
        inserting = [threads.submit(insert, number) for number in range(8)]
        try:
            for number in range(50):
                assert put(file, "k", b"%d" % number, timeout=5).status == 200
        finally:
            stopped = True
        for each in inserting:
            each.result()


def test_reads_run_beside_a_write_that_takes_long(file: SqlFile) -> None:
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(
            file.send, {"transaction": [{"statement": f"INSERT INTO t (v) {ENDLESS}"}]}, timeout=2
        )
        while not slow.done():
            assert file.rows("SELECT count(*) FROM t") == [[0]]
        refused(slow.result(), 503, "DEADLINE_EXCEEDED")
    file.did("INSERT INTO t (v) VALUES (1)")
    assert file.rows("SELECT count(*) FROM t") == [[1]]


def test_queries_that_run_on_leave_others_alone(file: SqlFile) -> None:
    with ThreadPoolExecutor(8) as threads:
        slow = [threads.submit(file.select, ENDLESS, timeout=2) for _ in range(8)]
        answered = 0
        while not all(each.done() for each in slow):
            assert file.select("SELECT 1", timeout=5).status == 200
            assert put(file, "k", b"1").status == 200
            answered += 1
        for each in slow:
            refused(each.result(), 503, "DEADLINE_EXCEEDED")
    assert answered > 5


def test_too_many_at_once_are_told_so(tmp_path: Path) -> None:
    with serving(tmp_path) as server, ExitStack() as stack:
        file = SqlFile(server, tmp_path / "data" / "a.db")
        connections = [stack.enter_context(server.connect()) for _ in range(200)]
        for connection in connections:
            connection.send(request("GET", target_of(f"{BASE}/query", db=file.path, sql=ENDLESS, timeout=4)))
        codes = {connection.answer().json()["code"] for connection in connections}
        assert codes == {"DEADLINE_EXCEEDED", "OVERLOADED"}
        assert file.select("SELECT 1").status == 200
        server.stop()


# --- what fails below -------------------------------------------------------------------------------------


def test_a_database_that_stays_locked_is_503_and_unchanged(file: SqlFile) -> None:
    insert = {"transaction": [{"statement": "INSERT INTO t (v) VALUES (1)"}]}
    with locked(file.path):
        answer = file.send(insert, timeout=1)
        assert answer.json()["code"] in ("OVERLOADED", "DEADLINE_EXCEEDED")
        assert answer.status == 503
        assert file.rows("SELECT count(*) FROM t") == [[0]]
    assert file.send(insert).done()["results"][0]["rowsUpdated"] == 1


def test_a_transaction_waits_for_a_lock_and_succeeds(file: SqlFile) -> None:
    with ThreadPoolExecutor(1) as threads:
        with locked(file.path):
            waiting = threads.submit(file.did, "INSERT INTO t (v) VALUES (1)")
            assert file.rows("SELECT count(*) FROM t") == [[0]]
        assert waiting.result()[0]["rowsUpdated"] == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", mib=8) as disk:
        yield disk


def test_a_full_disk_is_507_and_nothing_is_lost(disk: Disk, tmp_path: Path) -> None:
    with serving(tmp_path, ANY_PATH) as server:
        file = SqlFile(server, disk.path / "a.db")
        file.did("CREATE TABLE t (v)", "INSERT INTO t VALUES ('kept')")
        disk.fill(leave=200_000)
        large = {"statement": "INSERT INTO t VALUES (randomblob(1000000))", "noFail": True}
        refused(file.send({"transaction": [large]}), 507, "STORAGE_FULL")
        assert file.rows("SELECT v FROM t") == [["kept"]]
        copy = orjson.dumps({"op": "vacuum_into", "dest_path": str(disk.path / "copy.db")})
        disk.clear()
        file.did("INSERT INTO t VALUES (randomblob(3000000))")
        disk.fill(leave=200_000)
        answer = server.ask("POST", target_of(f"{BASE}/maintenance", db=file.path), copy)
        refused(answer, 507, "STORAGE_FULL")
        assert {name for name in os.listdir(disk.path) if not name.startswith("a.db")} == {"filler"}
        disk.clear()
        file.did("INSERT INTO t VALUES ('more')")
        server.stop()


def test_a_database_that_cannot_be_written_is_read_and_says_so(disk: Disk, tmp_path: Path) -> None:
    with closing(sqlite3.connect(disk.path / "a.db")) as connection:
        connection.execute("CREATE TABLE t (v)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    with serving(tmp_path, ANY_PATH) as server:
        with disk.readonly():
            body = b'{"transaction": [{"query": "SELECT v FROM t"}]}'
            target = target_of(f"{BASE}/db", db=disk.path / "a.db")
            assert server.ask("POST", target, body).done()["results"][0]["resultSet"] == [{"v": 1}]
            write = b'{"transaction": [{"statement": "DELETE FROM t"}]}'
            refused(server.ask("POST", target, write), 500, "DATABASE_ERROR")
        server.stop()


def test_a_write_that_is_cut_off_leaves_its_connection_usable(file: SqlFile) -> None:
    for _ in range(3):
        began = time.monotonic()
        endless = {"statement": f"INSERT INTO t (v) {ENDLESS}", "noFail": True}
        refused(file.send({"transaction": [endless]}, timeout=1), 503, "DEADLINE_EXCEEDED")
        assert time.monotonic() - began < 10
        file.did("INSERT INTO t (v) VALUES (1)")
    assert file.rows("SELECT count(*) FROM t") == [[3]]
