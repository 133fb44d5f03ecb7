"""Databases as a whole: found by many names, made, deleted, closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvfs.errors import (
    DatabaseNotFound,
    InvalidDbPath,
    InvalidParameters,
    InvalidSqliteHeader,
    KvfsError,
    Overloaded,
    PathIsDirectory,
)
from kvfs.model import Incr
from tests.engine.place import TABLE, Place


def test_a_store_that_is_open_is_found_without_waiting(place: Place) -> None:
    with place.engine() as engine:
        assert engine.lease_now(place.db, TABLE) is None
        with engine.lease(place.db, TABLE, create=True) as handle:
            handle.set("k", b"1")
        found = engine.lease_now(place.db, TABLE)
        assert found is not None
        with found as handle:
            assert handle.get("k").value == b"1"
        assert engine.lease_now(place.db, "another") is None
        assert engine.lease_now(place.db + "x", TABLE) is None


def test_a_path_in_other_words_is_the_same_database(table: Place) -> None:
    with table.engine() as engine:
        names = ("t", "./t", "t.db", f"{table.home}/./t.db", f"{table.home}//t.db", f"{table.home}/x/../t.db")
        for number, name in enumerate(names, 1):
            with engine.lease(name, TABLE, create=True) as handle:
                assert handle.incr("n").number == number


def test_a_symlink_may_come_to_mean_another_database(table: Place) -> None:
    link = table.home / "link.db"
    with table.engine() as engine:
        for name in ("one", "two", "one"):
            with engine.lease(f"{name}.db", create=True) as handle:
                handle.set("k", name.encode())
            link.unlink(missing_ok=True)
            link.symlink_to(table.home / f"{name}.db")
            with engine.lease("link.db") as handle:
                assert handle.get("k").value == name.encode()


def test_a_database_is_created_once(table: Place) -> None:
    with table.engine() as engine:
        assert engine.create_database("new.db", kv_table="notes")[1] is True
        with engine.lease("new.db", "notes") as handle:
            assert [*handle.keys()] == []
            handle.set("k", b"1")
        assert engine.create_database("new.db", kv_table="notes")[1] is False
        assert engine.create_database("new.db")[1] is False
        with engine.lease("new.db", "notes") as handle:
            assert handle.get("k").value == b"1"


def test_a_directory_of_stores_is_created_once(table: Place) -> None:
    with table.engine() as engine:
        path = str(table.home / "made") + "/"
        assert engine.create_database(path, kv_table="notes") == (path.rstrip("/"), True)
        assert (table.home / "made" / "notes").is_dir()
        assert engine.create_database(path)[1] is False
        with engine.lease(path, "notes") as handle:
            assert [*handle.keys()] == []


def test_a_deleted_database_is_gone_with_its_side_files(table: Place) -> None:
    with table.engine() as engine:
        with engine.lease(table.db, TABLE, create=True) as handle:
            handle.set("k", b"1")
        path, removed = engine.delete_database("t.db")
        assert path == table.db
        assert removed >= 1
        assert [*table.home.glob("t.db*")] == []
        with pytest.raises(DatabaseNotFound):
            engine.delete_database("t.db")
        with engine.lease(table.db, TABLE, create=True) as handle:
            assert handle.set("k", b"2").op_number == 1


def test_only_a_database_file_is_deleted(table: Place) -> None:
    (table.home / "notes.txt").write_bytes(b"not a database, and longer than a header would be\n" * 10)
    (table.home / "dir").mkdir()
    with table.engine() as engine:
        with pytest.raises(InvalidSqliteHeader):
            engine.delete_database("notes.txt")
        with pytest.raises(PathIsDirectory):
            engine.delete_database(str(table.home / "dir"))
        with pytest.raises(InvalidDbPath):
            engine.delete_database("/etc/passwd")
    assert (table.home / "notes.txt").exists()


def test_a_database_in_another_encoding_is_refused(table: Place) -> None:
    table.sql("PRAGMA encoding = 'UTF-16'", "CREATE TABLE t (a)")
    with table.engine() as engine, pytest.raises(InvalidParameters, match="UTF-8"):
        engine.lease(table.db)


def test_closing_waits_for_the_writes_that_are_queued(place: Place) -> None:
    engine = place.engine()
    with engine.lease(place.db, TABLE, create=True) as handle:
        handle.set("k", b"1")
        waiting = [handle.submit(Incr("n")) for _ in range(300)]
    engine.close()
    assert [pending.result(0).result.number for pending in waiting] == [*range(1, 301)]


def test_an_engine_that_is_closed_refuses(place: Place) -> None:
    engine = place.engine()
    with engine.lease(place.db, TABLE, create=True) as handle:
        handle.set("k", b"1")
    engine.close()
    engine.close()
    with pytest.raises(Overloaded):
        handle.set("k", b"2")
    with pytest.raises(Overloaded):
        engine.lease(place.db, TABLE)
    assert engine.lease_now(place.db, TABLE) is None


def test_a_file_is_no_directory_and_a_directory_no_file(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=False)
    (tmp_path / "file").write_bytes(b"")
    with place.engine() as engine:
        for db in (f"{tmp_path}/file/", f"{tmp_path}/file/below.db", f"{tmp_path}/file/below/"):
            with pytest.raises(KvfsError):
                engine.lease(db, "t", create=True)
        with pytest.raises(PathIsDirectory):
            engine.lease(str(tmp_path), create=True)
    assert (tmp_path / "file").read_bytes() == b""
