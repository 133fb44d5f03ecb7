"""`POST /maintenance` of database files."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.http.databases import SqlFile
from tests.http.launching import Server, serving
from tests.http.locking import locked
from tests.http.shapes import fits
from tests.http.wire import BASE, Answer, refused, target_of

OPS = ["wal_checkpoint_truncate", "quick_check", "integrity_check", "optimize", "vacuum"]


@pytest.fixture
def file(server: Server, tmp_path: Path) -> SqlFile:
    file = SqlFile(server, tmp_path / "db" / "file.db")
    file.did("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    return file


def maintain(file: SqlFile, op: str, *, timeout: int | None = None, **body: object) -> Answer:
    target = target_of(f"{BASE}/maintenance", db=file.path, timeout=timeout)
    return file.server.ask("POST", target, orjson.dumps({"op": op, **{k: str(v) for k, v in body.items()}}))


def key(file: SqlFile, name: str, method: str = "GET", body: bytes | None = None) -> Answer:
    return file.server.ask(method, target_of(f"{BASE}/kv/{name}", db=file.path), body)


def cursor(file: SqlFile) -> str:
    found: str = file.server.ask("GET", target_of(f"{BASE}/kv", db=file.path)).done()["change_cursor"]
    return found


@pytest.mark.parametrize("op", OPS)
def test_an_op_says_what_it_did(file: SqlFile, op: str) -> None:
    answer = maintain(file, op).done()
    fits(answer, {"success": True, "op": op, "duration_ms": float})
    assert file.rows("SELECT v FROM t") == [["a"], ["b"]]


def test_a_checkpoint_empties_the_log(file: SqlFile) -> None:
    assert os.path.getsize(f"{file.path}-wal") > 0
    assert maintain(file, "wal_checkpoint_truncate").done()["frames"] > 0
    assert os.path.getsize(f"{file.path}-wal") == 0


def test_a_vacuum_makes_the_file_smaller(file: SqlFile) -> None:
    file.did("INSERT INTO t (v) SELECT randomblob(1000000)", "DELETE FROM t WHERE id > 2")
    answer = maintain(file, "vacuum").done()
    assert answer["size"] < 100_000 < answer["size_before"]
    assert file.rows("SELECT v FROM t") == [["a"], ["b"]]


def test_a_sound_database_is_told_so(file: SqlFile) -> None:
    for op in ("quick_check", "integrity_check"):
        answer = maintain(file, op).done()
        assert (answer["ok"], answer["problems"]) == (True, [])


def test_damage_is_told_of(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [(b"x" * 1000,)] * 100)
        connection.commit()
    content = bytearray(path.read_bytes())
    content[4096 * 5 : 4096 * 6] = b"\xff" * 4096
    path.write_bytes(content)
    file = SqlFile(server, path)
    for op in ("quick_check", "integrity_check"):
        answer = maintain(file, op).done()
        assert answer["ok"] is False
        assert answer["problems"]
    refused(file.send({"transaction": [{"query": "SELECT * FROM t"}]}), 500, "DATABASE_ERROR")
    refused(file.select("SELECT * FROM t"), 500, "DATABASE_ERROR")


# --- copies ----------------------------------------------------------------------------------------------


def test_a_copy_is_a_whole_database(file: SqlFile) -> None:
    copy = file.path.with_name("copy.db")
    answer = maintain(file, "vacuum_into", dest_path=copy).done()
    assert (answer["dest_path"], answer["size"]) == (str(copy), os.path.getsize(copy))
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT v FROM t").fetchall() == [("a",), ("b",)]
    assert sorted(os.listdir(copy.parent)) == ["copy.db", "file.db", "file.db-shm", "file.db-wal"]


def test_a_copy_overwrites_nothing(file: SqlFile) -> None:
    taken = file.path.with_name("taken.db")
    taken.write_bytes(b"mine")
    for dest in (taken, file.path):
        refused(maintain(file, "vacuum_into", dest_path=dest), 400, "INVALID_PARAMETERS")
    assert taken.read_bytes() == b"mine"
    assert sorted(os.listdir(taken.parent)) == ["file.db", "file.db-shm", "file.db-wal", "taken.db"]


def test_paths_of_copies_obey_the_rules(file: SqlFile, tmp_path: Path) -> None:
    for dest, code in (
        ("../x.db", "INVALID_DB_PATH"), ("a/b.db", "INVALID_DB_PATH"), (":memory:", "INVALID_DB_PATH"),
        ("", "INVALID_DB_PATH"), ("file:x", "INVALID_DB_PATH"), (tmp_path, "PATH_IS_DIRECTORY"),
        (tmp_path / "no" / "x.db", "INVALID_DB_PATH"),
    ):  # fmt: skip
        refused(maintain(file, "vacuum_into", dest_path=dest), 400, code)
    refused(maintain(file, "vacuum_into"), 400, "INVALID_PARAMETERS")
    refused(maintain(file, "restore"), 400, "INVALID_PARAMETERS")


def test_paths_outside_the_data_dir_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        file = SqlFile(server, tmp_path / "data" / "a.db")
        refused(maintain(file, "vacuum_into", dest_path=tmp_path / "x.db"), 400, "INVALID_DB_PATH")
        refused(maintain(file, "restore", src_path=tmp_path / "x.db"), 400, "INVALID_DB_PATH")
        assert maintain(file, "vacuum_into", dest_path="copy").done()["dest_path"].endswith("/data/copy.db")
        server.stop()


# --- restoring -------------------------------------------------------------------------------------------


def test_a_restored_database_is_what_its_backup_was(file: SqlFile) -> None:
    key(file, "a", "PUT", b"old").done()
    backup = file.path.with_name("backup.db")
    maintain(file, "vacuum_into", dest_path=backup).done()
    before = cursor(file)
    key(file, "a", "PUT", b"new").done()
    key(file, "b", "PUT", b"new").done()
    file.did("DROP TABLE t", "CREATE TABLE u (a)")
    etag = file.select("SELECT 1").headers["ETag"]
    answer = maintain(file, "restore", src_path=backup).done()
    assert answer["src_path"] == str(backup)
    assert file.rows("SELECT v FROM t") == [["a"], ["b"]]
    assert file.failed({"query": "SELECT * FROM u"}) == "no such table: u"
    assert key(file, "a").body == b"old"
    refused(key(file, "b"), 404, "KEY_NOT_FOUND")
    assert file.select("SELECT 1", headers=[("If-None-Match", etag)]).status == 200
    gone = file.server.ask("GET", target_of(f"{BASE}/changes", db=file.path, since=before))
    assert refused(gone, 410, "CHANGE_CURSOR_EXPIRED")["reason"] == "database_replaced"
    assert cursor(file).partition(".")[0] != before.partition(".")[0]
    assert key(file, "a", "PUT", b"newer").done()["op_number"] == 2
    assert [name for name in os.listdir(file.path.parent) if name.endswith(".tmp")] == []


def test_a_backup_with_other_pages_and_without_tables_can_be_restored(file: SqlFile) -> None:
    key(file, "a", "PUT", b"1").done()
    backup = file.path.with_name("backup.db")
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("CREATE TABLE other (a)")
        connection.execute("INSERT INTO other VALUES (7)")
        connection.commit()
    maintain(file, "restore", src_path=backup).done()
    assert file.rows("SELECT a FROM other") == [[7]]
    refused(key(file, "a"), 404, "KEY_NOT_FOUND")
    assert key(file, "a", "PUT", b"2").done()["op_number"] == 1


def test_what_is_no_sound_database_is_not_restored(file: SqlFile) -> None:
    home = file.path.parent
    (home / "letter.db").write_bytes(b"Dear reader, " * 1000)
    with closing(sqlite3.connect(home / "utf16.db")) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.execute("CREATE TABLE x (a)")
    with closing(sqlite3.connect(home / "damaged.db")) as connection:
        connection.execute("CREATE TABLE x (a)")
        connection.executemany("INSERT INTO x VALUES (?)", [(b"x" * 1000,)] * 100)
        connection.commit()
    content = bytearray((home / "damaged.db").read_bytes())
    content[4096 * 5 : 4096 * 6] = b"\xff" * 4096
    (home / "damaged.db").write_bytes(content)
    before = sorted(os.listdir(home))
    for name, status, code in (
        ("letter.db", 400, "INVALID_SQLITE_HEADER"), ("utf16.db", 400, "INVALID_PARAMETERS"),
        ("damaged.db", 400, "INVALID_PARAMETERS"), ("missing.db", 404, "DATABASE_NOT_FOUND"),
        ("file.db", 400, "INVALID_PARAMETERS"),
    ):  # fmt: skip
        refused(maintain(file, "restore", src_path=home / name), status, code)
    assert file.rows("SELECT v FROM t") == [["a"], ["b"]]
    assert sorted(os.listdir(home)) == before


def test_readers_see_the_old_contents_or_the_new(file: SqlFile) -> None:
    counting = "SELECT count(*), sum(v) FROM n"
    insert = "INSERT INTO n SELECT ? FROM (WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c"
    fill = f"{insert} WHERE i < 20000) SELECT i FROM c)"
    backups = []
    for value in (1, 2):
        file.did("DROP TABLE IF EXISTS n", "CREATE TABLE n (v)", {"statement": fill, "values": [value]})
        backups.append(file.path.with_name(f"backup{value}.db"))
        maintain(file, "vacuum_into", dest_path=backups[-1]).done()
    seen: set[tuple[Any, ...]] = set()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.add(tuple(file.rows(counting)[0]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(10):
            maintain(file, "restore", src_path=backups[number % 2]).done()
    finally:
        ended.set()
        reader.join()
    assert seen <= {(20_000, 20_000), (20_000, 40_000)}


# --- what does not fit, and what is in the way ----------------------------------------------------------


def test_ops_of_databases_are_not_for_folders(server: Server, tmp_path: Path) -> None:
    for op in [*OPS, "vacuum_into", "restore"]:
        target = target_of(f"{BASE}/maintenance", db=tmp_path, table="things")
        body = {"op": op, "dest_path": "x", "src_path": "x"}
        refused(server.ask("POST", target, orjson.dumps(body)), 400, "PATH_IS_DIRECTORY")


@pytest.mark.parametrize("op", ["wal_checkpoint_truncate", "vacuum", "optimize", "restore"])
def test_a_database_that_stays_locked_is_503(file: SqlFile, op: str) -> None:
    backup = file.path.with_name("backup.db")
    maintain(file, "vacuum_into", dest_path=backup).done()
    with locked(file.path):
        answer = maintain(file, op, timeout=1, src_path=backup)
        assert answer.status in (200, 503), answer
        assert op == "optimize" or answer.status == 503
    assert file.rows("SELECT v FROM t") == [["a"], ["b"]]
    maintain(file, op, src_path=backup).done()
