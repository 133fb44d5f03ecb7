"""Databases as a whole: made, listed, and deleted while others use them."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import nasty
from tests.http.launching import Server, serving
from tests.http.shapes import OK, fits
from tests.http.stores import Store
from tests.http.wire import BASE, Answer, Endpoint, refused, request, target_of
from tests.polling import eventually

CREATED = {**OK, "status": "ok", "path": str, "created": bool}
LISTED = {
    "databases": [{"name": str, "path": str, "kind": str, "modified": int, "valid": bool}],
    "count": int,
}
DELETED = {"deleted": True, "path": str, "files_removed": int}


def _create(server: Endpoint, path: object, **params: object) -> Answer:
    return server.ask("POST", target_of(f"{BASE}/db/create", **{"path": path, **params}))


def _delete(server: Endpoint, db: object, confirm: str | None = "yes") -> Answer:
    return server.ask("DELETE", target_of(f"{BASE}/db", db=db, confirm=confirm))


def _kv(server: Endpoint, method: str, db: object, body: bytes | None = None, **params: object) -> Answer:
    return server.ask(method, target_of(f"{BASE}/kv/k", db=db, **params), body)


def _tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- making --------------------------------------------------------------------------------------------


def test_a_database_is_made_once_and_left_as_it_is_then(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    answer = _create(server, path).done()
    fits(answer, {**CREATED, "path": str(path), "created": True})
    assert "kv_table" not in answer
    assert path.is_file()
    assert _kv(server, "PUT", path, b"1").status == 200
    fits(_create(server, path).done(), {**CREATED, "path": str(path), "created": False})
    assert _kv(server, "GET", path).body == b"1"


def test_a_bare_name_is_made_in_the_data_dir(server: Server) -> None:
    for name, file in (
        ("made-bare", "made-bare.db"),
        ("./made-dotted", "made-dotted.db"),
        ("made.sqlite", "made.sqlite"),
    ):
        fits(_create(server, name).done(), {**CREATED, "path": str(server.data_dir / file), "created": True})
        fits(_create(server, file).done(), {**CREATED, "created": False})
        assert (server.data_dir / file).is_file()
        assert _kv(server, "PUT", name, b"1").status == 200


@pytest.mark.parametrize(
    ("params", "table"),
    [
        ({"init_kv": "true"}, "kv_store"),
        ({"kv_table": "mine"}, "mine"),
        ({"kv_table": "mine", "init_kv": "1"}, "mine"),
    ],
)
def test_a_kv_table_is_made_with_it(
    server: Server, tmp_path: Path, params: dict[str, str], table: str
) -> None:
    path = tmp_path / "new.db"
    fits(_create(server, path, **params).done(), {**CREATED, "created": True, "kv_table": table})
    assert table in _tables(path)
    # It is an ordinary table, with the contract's columns.
    with closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    assert columns == ["key", "value", "content_type", "created_at", "updated_at", "expire_at", "op_number"]
    fits(_create(server, path, **params).done(), {**CREATED, "created": False, "kv_table": table})
    assert _kv(server, "GET", path, table=table).status == 404


def test_a_database_without_a_kv_table_has_none_until_the_first_write(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    _create(server, path)
    _kv(server, "GET", path)
    assert "kv_store" not in _tables(path)
    _kv(server, "PUT", path, b"1")
    assert "kv_store" in _tables(path)


def test_a_foreign_database_is_left_alone(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE kv_store (a, b)")
        connection.execute("INSERT INTO kv_store VALUES (1, 2)")
    fits(_create(server, path).done(), {**CREATED, "created": False})
    refused(_create(server, path, init_kv="true"), 400, "INVALID_PARAMETERS")
    refused(_kv(server, "PUT", path, b"1"), 400, "INVALID_PARAMETERS")
    fits(_create(server, path, kv_table="other").done(), {**CREATED, "created": False, "kv_table": "other"})
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM kv_store").fetchall() == [(1, 2)]


@pytest.mark.parametrize("params", [{}, {"init_kv": "true"}, {"kv_table": "mine"}])
def test_a_path_that_ends_in_a_slash_is_made_as_a_folder(
    server: Server, tmp_path: Path, params: dict[str, str]
) -> None:
    path = tmp_path / "made/deep"
    answer = _create(server, f"{path}/", **params).done()
    fits(answer, {**CREATED, "created": True})
    assert answer["path"].rstrip("/") == str(path)
    table = params.get("kv_table", "kv_store" if params else None)
    assert answer.get("kv_table") == table
    assert path.is_dir()
    assert _names(path) == ([] if table is None else [table])
    fits(_create(server, f"{path}/", **params).done(), {**CREATED, "created": False})
    assert _kv(server, "PUT", path, b"1", table="mine").status == 200
    assert (path / "mine/k").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "INVALID_PARAMETERS"),
        ({"path": ""}, "INVALID_DB_PATH"),
        ({"path": "a/b"}, "INVALID_DB_PATH"),
        ({"path": "relative/"}, "INVALID_DB_PATH"),
        ({"path": ":memory:"}, "INVALID_DB_PATH"),
        ({"path": "x\0"}, "INVALID_DB_PATH"),
        ({"path": "ok-name", "kv_table": "sqlite_x"}, "INVALID_PARAMETERS"),
        ({"path": "ok-name", "kv_table": "kvfs_x"}, "INVALID_PARAMETERS"),
        ({"path": "ok-name", "kv_table": ""}, "INVALID_PARAMETERS"),
        ({"path": "ok-name", "kv_table": "../x"}, "INVALID_PARAMETERS"),
        ({"path": "ok-name", "init_kv": "maybe"}, "INVALID_PARAMETERS"),
    ],
)
def test_what_cannot_be_made_is_400_and_makes_nothing(
    server: Server, params: dict[str, str], code: str
) -> None:
    before = _names(server.data_dir)
    refused(server.ask("POST", target_of(f"{BASE}/db/create", **params)), 400, code)
    assert _names(server.data_dir) == before


def test_a_folder_where_a_file_is_meant_is_refused_and_the_other_way_round(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    refused(_create(server, tmp_path / "folder"), 400, "PATH_IS_DIRECTORY")
    _create(server, tmp_path / "file.db")
    answer = _create(server, f"{tmp_path}/file.db/")
    refused(answer, 400, "INVALID_DB_PATH")
    assert _names(tmp_path / "folder") == []


def test_a_database_is_made_once_by_many_at_once(server: Server, tmp_path: Path) -> None:
    answers: list[Answer] = []

    def create() -> None:
        answers.append(_create(server, tmp_path / "new.db", init_kv="true"))

    threads = [threading.Thread(target=create) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.done()["created"] for answer in answers) == [False] * 9 + [True]


# --- listing -------------------------------------------------------------------------------------------


def test_a_list_says_what_is_in_the_data_dir(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server:
        _list(server, tmp_path / "home/data", tmp_path / "outside.db")
        server.stop()


def _list(server: Endpoint, data: Path, outside: Path) -> None:
    fits(server.ask("GET", f"{BASE}/db/list").done(), {**LISTED, "databases": [], "count": 0})
    before_s = int(time.time())
    _kv(server, "PUT", "b-used", b"x" * 5000, create_db_if_missing="yes")
    _create(server, "a-empty")
    _create(server, f"{data}/folder/")
    _kv(server, "PUT", data / "folder", b"1", table="t")
    (data / "broken.db").write_bytes(b"no database at all" * 100)
    (data / "notes.txt").write_bytes(b"text")
    (data / ".hidden.db").write_bytes(b"")
    _make_foreign(outside)
    (data / "link-out.db").symlink_to(outside)
    (data / "link-in.db").symlink_to("b-used.db")
    (data / "dangling.db").symlink_to("nothing")
    os.mkfifo(data / "fifo.db")
    listed = server.ask("GET", f"{BASE}/db/list").done()
    fits(listed, LISTED)
    databases = {each["name"]: each for each in listed["databases"]}
    assert [*databases] == ["a-empty.db", "b-used.db", "broken.db", "folder", "link-in.db"]
    assert listed["count"] == 5
    kinds = {name: (each["kind"], each["valid"]) for name, each in databases.items()}
    assert kinds == {
        "a-empty.db": ("table", True),
        "b-used.db": ("table", True),
        "broken.db": ("table", False),
        "folder": ("directory", True),
        "link-in.db": ("table", True),
    }
    assert databases["b-used.db"]["path"] == str(data / "b-used.db")
    assert databases["b-used.db"]["size"] == (data / "b-used.db").stat().st_size
    assert before_s <= databases["b-used.db"]["modified"] <= time.time()
    # Each path that it names can be asked for.
    for name, each in databases.items():
        answer = _kv(server, "GET", each["path"], table="t" if name == "folder" else None)
        assert answer.status == (400 if name == "broken.db" else 200 if name != "a-empty.db" else 404), answer


def _make_foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")


def test_a_database_of_other_programs_is_listed_whatever_its_name(server: Server) -> None:
    _make_foreign(server.data_dir / "app.dat")
    _make_foreign(server.data_dir / "no-extension")
    valid = {each["name"]: each["valid"] for each in server.ask("GET", f"{BASE}/db/list").done()["databases"]}
    assert valid["app.dat"] is valid["no-extension"] is True


def test_listing_does_not_disturb_what_is_open(server: Server) -> None:
    """A database that is opened and closed behind SQLite's back loses its locks, and then its log."""
    _kv(server, "PUT", "listed", b"0", create_db_if_missing="yes")
    for number in range(20):
        server.ask("GET", f"{BASE}/db/list").done()
        assert _kv(server, "PUT", "listed", str(number).encode()).status == 200
        with closing(sqlite3.connect(server.data_dir / "listed.db")) as other:
            assert other.execute("SELECT value FROM kv_store").fetchall() == [(str(number),)]
    assert _kv(server, "GET", "listed").body == b"19"


# --- deleting ------------------------------------------------------------------------------------------


def test_a_database_is_deleted_with_its_side_files(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    _create(server, path)
    for _ in range(3):
        _kv(server, "PUT", path, b"x" * 10_000)
    answer = _delete(server, path).done()
    fits(answer, {**DELETED, "path": str(path)})
    assert answer["files_removed"] >= 1
    assert _names(tmp_path) == []
    refused(_kv(server, "GET", path), 404, "DATABASE_NOT_FOUND")
    refused(_delete(server, path), 404, "DATABASE_NOT_FOUND")


def test_a_deleted_database_can_be_made_again_and_is_new(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "db.db"
    for round_number in range(3):
        assert _create(server, path, init_kv="yes").done()["created"] is True
        put = _kv(server, "PUT", path, str(round_number).encode()).done()
        assert (put["created"], put["op_number"]) == (True, 1)
        assert _kv(server, "GET", path).body == str(round_number).encode()
        assert _delete(server, path).done()["deleted"] is True
        assert _names(tmp_path) == []


def test_a_database_that_is_not_open_is_deleted_too(server: Server, tmp_path: Path) -> None:
    _make_foreign(tmp_path / "foreign.db")
    (tmp_path / "foreign.db-journal").write_bytes(b"")
    _delete(server, tmp_path / "foreign.db").done()
    assert _names(tmp_path) == []


@pytest.mark.parametrize("confirm", [None, "", "no", "true", "1", "YES", "Yes", "yes "])
def test_deleting_must_be_confirmed(table: Store, confirm: str | None) -> None:
    table.put("k", b"1")
    with table.unchanged():
        error = refused(_delete(table.server, table.db, confirm), 400, "INVALID_PARAMETERS")
        assert "confirm" in error["message"]


def test_a_folder_is_never_deleted(folder: Store) -> None:
    folder.put("k", b"1")
    with folder.unchanged():
        for db in (folder.db, f"{folder.db}/", folder.folder):
            refused(_delete(folder.server, db), 400, "PATH_IS_DIRECTORY")


def test_what_is_no_database_is_not_deleted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "diary.db").write_bytes(b"dear diary" * 100)
    refused(_delete(server, tmp_path / "diary.db"), 400, "INVALID_SQLITE_HEADER")
    refused(_delete(server, "a/b"), 400, "INVALID_DB_PATH")
    answer = server.ask("DELETE", f"{BASE}/db?confirm=yes")
    refused(answer, 400, "INVALID_PARAMETERS")
    assert _names(tmp_path) == ["diary.db"]


def test_deleting_waits_for_what_is_under_way(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    _create(server, path)
    value = nasty.noise(1 << 20)
    with server.connect() as upload, server.connect() as deleting:
        whole = request("PUT", target_of(f"{BASE}/kv/k", db=path), value)
        upload.send(whole[:600_000])
        # The upload has begun: it waits for the rest of its body.
        eventually(lambda: _kv(server, "GET", path).status == 404, 5, "the database is open")
        deleting.send(request("DELETE", target_of(f"{BASE}/db", db=path, confirm="yes")))
        assert server.ask("GET", f"{BASE}/health").status == 200
        upload.send(whole[600_000:])
        put = upload.answer()
        # Whichever came first, the answer is the truth.
        assert put.status == 200 or put.json()["code"] in ("DATABASE_NOT_FOUND", "OVERLOADED"), put
        fits(deleting.answer().done(), {**DELETED, "path": str(path)})
    assert _names(tmp_path) == []


def test_a_database_is_deleted_and_made_again_under_fire(server: Server, tmp_path: Path) -> None:
    """Every answer is a good one or says that there is no database; what is acknowledged is there."""
    path = tmp_path / "busy.db"
    stop = threading.Event()
    seen: list[Answer] = []
    wrong: list[str] = []

    def use(method: str, body: bytes | None) -> None:
        with server.connect() as connection:
            while not stop.is_set():
                answer = connection.ask(method, target_of(f"{BASE}/kv/k", db=path), body)
                seen.append(answer)
                if answer.status not in (200, 404, 503):
                    wrong.append(f"{method}: {answer.status} {answer.body.decode()}")

    users = [
        threading.Thread(target=use, args=args) for args in (("PUT", b"1"), ("GET", None), ("PUT", b"2"))
    ]
    for user in users:
        user.start()
    try:
        for _ in range(8):
            assert _create(server, path).done()["created"] is True
            eventually(lambda: _kv(server, "GET", path).status == 200, 5, "somebody has written")
            fits(_delete(server, path).done(), DELETED)
    finally:
        stop.set()
        for user in users:
            user.join()
    assert wrong == []
    assert {answer.status for answer in seen} >= {200, 404}
    assert _names(tmp_path) == []
    _create(server, path)
    put: Any = _kv(server, "PUT", path, b"3").done()
    assert put["op_number"] == 1


def test_a_file_that_is_replaced_behind_the_server_is_noticed(table: Store, tmp_path: Path) -> None:
    """With its side files, which belong to it: SQLite would play an old log into the new file."""
    table.put("k", b"first")
    with Store(table.server, tmp_path / "other", directory=False) as other:
        other.put("k", b"second")
        replacement = tmp_path / "copy.db"
        with closing(sqlite3.connect(other.db)) as source, closing(sqlite3.connect(replacement)) as copy:
            source.backup(copy)
    for suffix in ("-wal", "-shm"):
        Path(f"{table.db}{suffix}").unlink()
    os.replace(replacement, table.db)
    assert table.get("k") == b"second"
    assert table.put("k", b"third")["op_number"] == 2
