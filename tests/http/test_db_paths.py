"""The `db` parameter: what it may name, what it may not, and that no way leads out of the data dir."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import kvfs
from tests import invariants
from tests.http.launching import Launched, Server, serving
from tests.http.stores import Store
from tests.http.wire import BASE, Answer, Endpoint, refused, target_of

IN_MEMORY = "in-memory databases are not supported"
NOT_ABSOLUTE = "directory-mode: invalid path input: path must be absolute"


class Fenced(NamedTuple):
    """A server that serves its data dir only, and what lies in and beside that."""

    server: Launched
    data: Path
    outside: Path

    @property
    def disallowed(self) -> str:
        return f"absolute database paths outside {self.data} are disallowed"


@pytest.fixture(scope="module")
def fenced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fenced]:
    home = tmp_path_factory.mktemp("fenced")
    data, outside = home / "data", home / "data-outside"
    outside.mkdir()
    for db in ("inner", "victim"):
        with kvfs.open(str(home / f"{db}.db")) as store:
            store.set("k", b"1")
    with serving(home) as server:
        os.rename(home / "inner.db", data / "inner.db")
        os.rename(home / "victim.db", outside / "victim.db")
        (data / "folder").mkdir()
        (outside / "folder").mkdir()
        (data / "link.db").symlink_to(outside / "victim.db")
        (data / "new.db").symlink_to(outside / "not-there-yet.db")
        (data / "linked").symlink_to(outside)
        (data / "alias.db").symlink_to("inner.db")
        os.mkfifo(data / "fifo.db")
        yield Fenced(server, data, outside)
        server.stop()


def _put(server: Endpoint, db: object, **params: object) -> Answer:
    return server.ask("PUT", target_of(f"{BASE}/kv/k", db=db, create_db_if_missing="true", **params), b"1")


def _everywhere(server: Endpoint, db: object, **params: object) -> Iterator[Answer]:
    """The answers of all that takes a `db`, and would make it if it may."""
    params = {"db": db, "create_db_if_missing": "true", **params}
    for method, path, body in (
        ("GET", "/kv/k", None),
        ("GET", "/kv/k/entry", None),
        ("PUT", "/kv/k", b"1"),
        ("DELETE", "/kv/k", None),
        ("POST", "/kv/k/incr", None),
        ("POST", "/kv/k/push", b"1"),
        ("POST", "/kv/batch/set", b'{"items": [{"key": "k", "value": "1"}]}'),
        ("POST", "/kv/batch/get", b'{"keys": ["k"]}'),
        ("POST", "/kv/batch/delete", b'{"keys": ["k"]}'),
        ("GET", "/kv", None),
    ):
        yield server.ask(method, target_of(BASE + path, **params), body)


def _databases(server: Endpoint, db: object) -> Iterator[Answer]:
    """The answers of what makes and deletes databases."""
    yield server.ask("POST", target_of(f"{BASE}/db/create", path=db))
    yield server.ask("DELETE", target_of(f"{BASE}/db", db=db, confirm="yes"))


def _tree(*folders: Path) -> list[str]:
    """Every name below these folders but those of SQLite's side files."""
    names = [str(path) for folder in folders for path in folder.rglob("*")]
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


# --- what is refused -----------------------------------------------------------------------------------


MEMORY = [":memory:", ":MEMORY:", "file:x", "file:///etc/passwd?mode=ro", "FILE:x", "file::memory:"]
RELATIVE = ["a/b", "a\\b", "./a/b", "../x", "..", ".", "./", "./.", "sub/../x", "\\\\host\\x", "././x"]


@pytest.mark.parametrize("db", MEMORY)
def test_databases_in_memory_and_uris_are_refused(fenced: Fenced, db: str) -> None:
    before = _tree(fenced.data, fenced.outside)
    for answer in (*_everywhere(fenced.server, db), *_databases(fenced.server, db)):
        refused(answer, 400, "INVALID_DB_PATH", IN_MEMORY)
    assert _tree(fenced.data, fenced.outside) == before


def test_an_empty_name_is_refused_as_a_database_in_memory(fenced: Fenced) -> None:
    for answer in _everywhere(fenced.server, ""):
        assert IN_MEMORY in refused(answer, 400, "INVALID_DB_PATH")["message"]


@pytest.mark.parametrize("db", RELATIVE)
def test_relative_names_with_separators_are_refused(fenced: Fenced, db: str) -> None:
    before = _tree(fenced.data, fenced.outside)
    for answer in (*_everywhere(fenced.server, db), *_databases(fenced.server, db)):
        refused(answer, 400, "INVALID_DB_PATH")
    assert _tree(fenced.data, fenced.outside) == before


@pytest.mark.parametrize("db", ["x\0", "\0", "inner.db\0.txt", "/tmp/\0"])
def test_nul_in_a_name_is_refused(fenced: Fenced, db: str) -> None:
    before = _tree(fenced.data, fenced.outside)
    for answer in (*_everywhere(fenced.server, db), *_databases(fenced.server, db)):
        refused(answer, 400, "INVALID_DB_PATH")
    assert _tree(fenced.data, fenced.outside) == before


@pytest.mark.parametrize("name", ["victim.db", "not-there.db", "folder", "folder/", ""])
def test_absolute_paths_outside_the_data_dir_are_refused(fenced: Fenced, name: str) -> None:
    before = _tree(fenced.data, fenced.outside)
    for path in (f"{fenced.outside}/{name}", f"{fenced.data}/../data-outside/{name}"):
        answers = (*_everywhere(fenced.server, path, table="t"), *_databases(fenced.server, path))
        for answer in answers:
            refused(answer, 400, "INVALID_DB_PATH", fenced.disallowed)
    assert _tree(fenced.data, fenced.outside) == before


@pytest.mark.parametrize("db", ["/etc/passwd", "/", "//", "/dev/null", "/proc/self/mem", "/nowhere/x.db"])
def test_the_rest_of_the_machine_is_refused_without_a_look_at_it(fenced: Fenced, db: str) -> None:
    for answer in (*_everywhere(fenced.server, db), *_databases(fenced.server, db)):
        refused(answer, 400, "INVALID_DB_PATH", fenced.disallowed)


def test_symlinks_that_lead_out_are_refused_by_every_way(fenced: Fenced) -> None:
    data, outside = fenced.data, fenced.outside
    before, content = _tree(data, outside), (outside / "victim.db").read_bytes()
    for db in (
        "link",
        "link.db",
        "new",
        data / "link.db",
        data / "new.db",
        data / "linked",
        data / "linked/victim.db",
        data / "linked/new.db",
        data / "linked/folder",
        f"{data}/linked/folder/",
        f"{data}/linked/new/",
        f"{data}/folder/../linked/victim.db",
    ):
        for answer in (*_everywhere(fenced.server, db, table="t"), *_databases(fenced.server, db)):
            refused(answer, 400, "INVALID_DB_PATH")
    assert _tree(data, outside) == before
    assert (outside / "victim.db").read_bytes() == content


def test_a_path_that_is_no_file_is_refused_and_not_waited_for(fenced: Fenced) -> None:
    for db in ("fifo", "fifo.db", fenced.data / "fifo.db"):
        for answer in (*_everywhere(fenced.server, db), *_databases(fenced.server, db)):
            refused(answer, 400, "INVALID_DB_PATH")


def test_a_name_that_no_file_can_have_is_refused(fenced: Fenced) -> None:
    for db in ("n" * 300, fenced.data / ("n" * 300), fenced.data / ("n/" * 3000)):
        for answer in (*_everywhere(fenced.server, db), *_databases(fenced.server, db)):
            refused(answer, 400, "INVALID_DB_PATH")


def test_what_kvfs_keeps_for_itself_is_refused(fenced: Fenced) -> None:
    assert _put(fenced.server, fenced.data / "folder", table="own").status == 200
    log = fenced.data / "folder/.kvfs/own.oplog"
    content = invariants.check_folder(fenced.data / "folder", "own")
    for db in (log, f"{log.parent}", f"{log.parent}/"):
        for answer in (*_everywhere(fenced.server, db, table="t"), *_databases(fenced.server, db)):
            refused(answer, 400, "INVALID_DB_PATH")
    assert invariants.check_folder(fenced.data / "folder", "own") == content


def test_a_folder_must_be_named_by_its_absolute_path(fenced: Fenced) -> None:
    before = _tree(fenced.data)
    for db in ("folder", "./folder"):
        for answer in _everywhere(fenced.server, db, table="t"):
            refused(answer, 400, "INVALID_DB_PATH", NOT_ABSOLUTE)
    for db in ("folder/", "new-folder/", "./new-folder/"):
        refused(_put(fenced.server, db, table="t"), 400, "INVALID_DB_PATH", NOT_ABSOLUTE)
    assert _tree(fenced.data) == before


def test_a_folder_without_a_table_is_no_database(fenced: Fenced) -> None:
    for db in (fenced.data / "folder", f"{fenced.data}/folder/", "folder"):
        for answer in _everywhere(fenced.server, db):
            refused(answer, 400, "PATH_IS_DIRECTORY")


def test_a_file_that_is_no_database_is_refused_and_left_alone(server: Server, tmp_path: Path) -> None:
    contents = {
        "text.db": b"dear diary, " * 100,
        "short.db": b"SQLite",
        "almost.db": b"SQLite format 2\0" + b"\0" * 2000,
        "picture.png": b"\x89PNG" + os.urandom(5000),
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        before = path.stat()
        for answer in (*_everywhere(server, path), *_databases(server, path)):
            refused(answer, 400, "INVALID_SQLITE_HEADER")
        assert path.read_bytes() == content
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(os.listdir(tmp_path)) == sorted(contents)


def test_a_missing_database_is_404_and_is_not_made(server: Server, tmp_path: Path) -> None:
    for db in (tmp_path / "none.db", f"{tmp_path}/none/", "surely-not-there"):
        for params in ({}, {"create_db_if_missing": "false"}, {"auto_create": "no"}):
            answers = _everywhere(server, db, **{"create_db_if_missing": None, **params, "table": "t"})
            for answer in answers:
                refused(answer, 404, "DATABASE_NOT_FOUND", "Database file does not exist")
    deleted = server.ask("DELETE", target_of(f"{BASE}/db", db=tmp_path / "none.db", confirm="yes"))
    refused(deleted, 404, "DATABASE_NOT_FOUND")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/kv/k"), ("GET", "/kv"), ("DELETE", "/kv/k"), ("POST", "/kv/k/pop")]
)
def test_what_only_reads_or_removes_makes_no_database(
    server: Server, tmp_path: Path, method: str, path: str
) -> None:
    for db in (tmp_path / "none.db", f"{tmp_path}/none/"):
        target = target_of(BASE + path, db=db, table="t", create_db_if_missing="true")
        refused(server.ask(method, target), 404, "DATABASE_NOT_FOUND")
    assert os.listdir(tmp_path) == []


# --- what is allowed -----------------------------------------------------------------------------------


def test_a_bare_name_is_a_file_in_the_data_dir(fenced: Fenced) -> None:
    for db, name in (
        ("bare", "bare.db"),
        ("./dotted", "dotted.db"),
        ("with.ext", "with.ext"),
        ("with.sqlite3", "with.sqlite3"),
        ("spaced name", "spaced name.db"),
        ("ünïcode", "ünïcode.db"),
        (".hidden", ".hidden.db"),
        ("trailing.", "trailing."),
        ("a%2Fb", "a%2Fb.db"),
    ):
        assert _put(fenced.server, db).status == 200, db
        assert (fenced.data / name).is_file()
        for same in (db, name, f"./{name}", fenced.data / name, f"{fenced.data}//./{name}"):
            target = target_of(f"{BASE}/kv/k", db=same)
            assert fenced.server.ask("GET", target).body == b"1", same


def test_a_symlink_inside_the_data_dir_is_the_same_database(fenced: Fenced) -> None:
    assert _put(fenced.server, "alias", ttl=1000).status == 200
    answer = fenced.server.ask("GET", target_of(f"{BASE}/kv/k", db="inner"))
    assert (answer.body, answer.headers["X-Expire-At"] is None) == (b"1", False)


def test_a_data_dir_behind_a_symlink_can_be_named_by_both_paths(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home/data").symlink_to(tmp_path / "real")
    with serving(tmp_path / "home") as server:
        assert _put(server, "x").status == 200
        for db in (tmp_path / "home/data/x.db", tmp_path / "real/x.db"):
            assert server.ask("GET", target_of(f"{BASE}/kv/k", db=db)).body == b"1"
        outside = server.ask("GET", target_of(f"{BASE}/kv/k", db=tmp_path / "home/x.db"))
        refused(outside, 400, "INVALID_DB_PATH")
        server.stop()


def test_a_path_that_ends_in_a_slash_is_made_as_a_folder(fenced: Fenced) -> None:
    db = f"{fenced.data}/made/deep/"
    assert _put(fenced.server, db, table="t").status == 200
    assert (fenced.data / "made/deep/t/k").read_bytes() == b"1"
    answer = fenced.server.ask("GET", target_of(f"{BASE}/kv/k", db=fenced.data / "made/deep", table="t"))
    assert (answer.body, answer.headers["X-Directory-Mode"]) == (b"1", "true")


def test_any_absolute_path_may_be_allowed(server: Server, tmp_path: Path) -> None:
    assert _put(server, tmp_path / "elsewhere.db").status == 200
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere.db")
    assert server.ask("GET", target_of(f"{BASE}/kv/k", db=tmp_path / "link.db")).body == b"1"
    refused(_put(server, "a/b"), 400, "INVALID_DB_PATH")
    refused(_put(server, ":memory:"), 400, "INVALID_DB_PATH", IN_MEMORY)


@pytest.mark.parametrize(
    "table", ["a" * 64, "_", "Z9", "a-b.c", "select", "a.", "kv_store", "sqlite", "kvfs"]
)
def test_tables_have_names_of_their_own(store: Store, table: str) -> None:
    store.put("k", b"1", table=table)
    store.put("k", b"2", table="other")
    assert store.ask("GET", "k", table=table).body == b"1"
    assert store.ask("GET", table=table).done()["keys"] == ["k"]


def test_the_default_table_is_kv_store(table: Store) -> None:
    db = table.db
    assert _put(table.server, db).status == 200
    assert table.ask("GET", "k", table="kv_store").body == b"1"


def test_a_table_that_is_not_there_yet_is_empty(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        assert store.ask("GET", table="later").done()["keys"] == []
        refused(store.ask("GET", "k", table="later"), 404, "KEY_NOT_FOUND")
        refused(store.ask("DELETE", "k", table="later"), 404, "KEY_NOT_FOUND")
    store.put("k", b"2", table="later")
    assert store.ask("GET", "k", table="later").body == b"2"
