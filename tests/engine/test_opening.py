"""What is opened, found open, closed, refused, and noticed when others change it."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

import kvfs
from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.errors import (
    DatabaseError,
    DatabaseNotFound,
    InvalidParameters,
    InvalidSqliteHeader,
    KeyNotFound,
    KvfsError,
    Overloaded,
    PathIsDirectory,
)
from kvfs.paths import Paths
from tests import invariants
from tests.clocks import HurriedClock
from tests.engine.mounting import Disk, mounted
from tests.engine.place import TABLE, Place, open_files, value_of
from tests.polling import eventually
from tests.programs import connect

CLOSE_S = 10.0
WAIT_S = 20.0


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_open(engine: Engine, db: str) -> bool:
    """Whether the engine has the store open and would lend it."""
    lease = engine.lease_now(db, TABLE)
    if lease is not None:
        lease.release()
    return lease is not None


# --- kvfs.open -----------------------------------------------------------------------------------------


def test_the_example_in_the_packages_docstring_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kvfs.__doc__ is not None
    lines = kvfs.__doc__.splitlines(keepends=True)
    example = textwrap.dedent("".join(line for line in lines if line.startswith("    ")))
    assert example
    exec(compile(example, "kvfs.__doc__", "exec"), {"kvfs": kvfs})
    with kvfs.open("app.db", create=False) as store:
        assert value_of(store, "user:1") == b'{"name": "Ada"}'
    invariants.check_table(tmp_path / "app.db")


def test_a_closed_store_has_no_file_open_and_closing_it_again_is_nothing(place: Place) -> None:
    store = kvfs.open(place.db, TABLE)
    store.set("k", b"x")
    assert place.open_files()
    store.close()
    assert not place.open_files()
    store.close()


def test_opening_without_create_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatabaseNotFound):
        kvfs.open(str(tmp_path / "t.db"), create=False)
    assert not [*tmp_path.iterdir()]


# --- closing -------------------------------------------------------------------------------------------


def test_a_store_that_nobody_uses_is_closed_and_opens_again(place: Place) -> None:
    with place.engine(config=Config(idle_close_s=0.1)) as engine:
        with engine.lease(place.db, TABLE, create=True) as store:
            store.set("k", b"x")
        assert place.open_files()
        eventually(lambda: not place.open_files(), CLOSE_S, "the idle store's files are closed")
        assert not is_open(engine, place.db)
        with engine.lease(place.db, TABLE) as store:
            assert value_of(store, "k") == b"x"
            store.set("k", b"y")


def test_a_store_that_somebody_uses_stays_open(place: Place) -> None:
    with place.engine(config=Config(idle_close_s=0.1)) as engine:
        other = place.home / "other.db"
        with engine.lease(place.db, TABLE, create=True) as store:
            store.set("k", b"x")
            with engine.lease(str(other), TABLE, create=True) as idle:
                idle.set("k", b"x")
            eventually(lambda: not open_files(str(other)), CLOSE_S, "the idle store's files are closed")
            store.set("k", b"y")
            assert value_of(store, "k") == b"y"


def test_when_too_many_are_open_the_one_that_was_idle_longest_is_closed(tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / name) for name in ("a.db", "b.db", "c.db"))
    with Engine(Paths(str(tmp_path)), config=Config(max_open=2)) as engine:
        for db in (a, b, a):
            with engine.lease(db, TABLE, create=True) as store:
                store.set("k", db.encode())
        with engine.lease(c, TABLE, create=True) as store:
            assert open_files(a)
            assert not open_files(b)
            assert not is_open(engine, b)
            store.set("k", c.encode())
        for db in (a, b, c):
            with engine.lease(db, TABLE) as store:
                assert value_of(store, "k") == db.encode()


def test_when_all_that_may_be_open_are_in_use_another_is_refused(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a.db"), str(tmp_path / "b.db")
    with Engine(Paths(str(tmp_path)), config=Config(max_open=1)) as engine:
        with engine.lease(a, TABLE, create=True) as store:
            with pytest.raises(Overloaded):
                engine.lease(b, TABLE, create=True)
            store.set("k", b"x")
        with engine.lease(b, TABLE, create=True) as store:
            store.set("k", b"x")


def test_a_folder_that_is_made_again_while_too_many_are_open_is_followed_when_there_is_room(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "folder" / TABLE
    folder.mkdir(parents=True)
    a, b = str(tmp_path / "a.db"), str(tmp_path / "b.db")
    with Engine(Paths(str(tmp_path)), config=Config(max_open=2)) as engine, engine.lease(a, create=True):
        engine.lease(str(folder.parent), TABLE).release()
        folder.rename(tmp_path / "away")
        eventually(lambda: len(engine.status().open) == 1, CLOSE_S, "the folder that is gone is closed")
        with engine.lease(b, TABLE, create=True) as store:
            folder.mkdir()
            for key in ("one turn of the engine", "another turn"):
                store.set(key, b"x", ttl_s=1)
                eventually(partial(has_expired, b, key), CLOSE_S, "its expiry is logged")
            assert not is_open(engine, str(folder.parent))
        eventually(lambda: is_open(engine, str(folder.parent)), CLOSE_S, "the folder is followed")


def has_expired(db: str, key: str) -> bool:
    """Whether the expiry is logged, without asking the engine."""
    return any((op.key, op.op_type) == (key, "expire") for op in invariants.check_table(db)[TABLE])


# --- what lies at the path changes ---------------------------------------------------------------------


def other_store(place: Place, value: bytes) -> Path:
    """A database, or a folder, with one key, that nobody has open."""
    other = Place(place.home / "other", directory=place.directory)
    with other.store() as store:
        store.set("k", value)
    return other.path / TABLE if place.directory else other.path


@pytest.fixture
def changing(place: Place) -> Iterator[tuple[Place, Engine, Path]]:
    """A place with a store that an engine has open, and what of it others may exchange."""
    (place.home / "other").mkdir()
    with place.engine() as engine:
        with engine.lease(place.db, TABLE, create=True) as store:
            store.set("k", b"old")
            store.set("gone", b"x")
        yield place, engine, place.path / TABLE if place.directory else place.path


def test_what_was_put_in_its_place_is_noticed(changing: tuple[Place, Engine, Path]) -> None:
    place, engine, target = changing
    new = other_store(place, b"new")
    if place.directory:
        shutil.rmtree(target)
    new.rename(target)
    assert not is_open(engine, place.db)
    with engine.lease(place.db, TABLE) as store:
        assert [*store.keys()] == ["k"]
        assert value_of(store, "k") == b"new"
        store.set("k", b"newer")
        assert value_of(store, "k") == b"newer"


def test_what_was_deleted_is_not_there(changing: tuple[Place, Engine, Path]) -> None:
    place, engine, target = changing
    if place.directory:
        shutil.rmtree(target)
    else:
        target.unlink()
        with pytest.raises(DatabaseNotFound):
            engine.lease(place.db, TABLE)
    assert not is_open(engine, place.db)
    with engine.lease(place.db, TABLE, create=True) as store:
        assert not [*store.keys()]
        with pytest.raises(KeyNotFound):
            store.get("k")
        store.set("k", b"new")
        assert [*store.keys()] == ["k"]


def test_a_deleted_database_that_is_in_use_is_not_written_to_by_who_comes_next(table: Place) -> None:
    with table.engine() as engine:
        lease = engine.lease(table.db, TABLE, create=True)
        lease.handle.set("k", b"old")
        table.path.unlink()
        timer = threading.Timer(0.2, lease.release)
        timer.start()
        with engine.lease(table.db, TABLE, create=True) as store:
            assert not [*store.keys()]
            store.set("k", b"new")
        timer.join()


# --- tables that are not what they seem ----------------------------------------------------------------


def test_names_that_differ_only_in_case_are_one_table(table: Place) -> None:
    with table.engine() as engine:
        with engine.lease(table.db, "things", create=True) as store:
            store.set("k", b"1")
        with engine.lease(table.db, "Things", create=True) as store:
            assert value_of(store, "k") == b"1"
            store.set("k", b"2")
        with engine.lease(table.db, "THINGS") as store, engine.lease(table.db, "things") as same:
            assert store is same
            assert store.incr("k").op_number == 3
    assert len(table.check()) == 3


FOREIGN = {
    "table": f"CREATE TABLE {TABLE} (a INTEGER, b TEXT)",
    "table that looks like ours": f"CREATE TABLE {TABLE} (key TEXT PRIMARY KEY, value BLOB)",
    "view": f"CREATE VIEW {TABLE} AS SELECT 1 AS key, 2 AS value",
    "index": f"CREATE TABLE t (a); CREATE INDEX {TABLE} ON t (a)",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_table_is_refused_and_stays_as_it_is(table: Place, what: str) -> None:
    table.sql(FOREIGN[what])
    before = _dump(table.path)
    with table.engine() as engine, engine.lease(table.db, TABLE, create=True) as store:
        for write in (
            lambda: store.set("k", b"x"),
            lambda: store.delete("k"),
            lambda: store.incr("k"),
            store.come_into_being,
        ):
            with pytest.raises(InvalidParameters):
                write()
        with engine.lease(table.db, "ours", create=True) as ours:
            ours.set("k", b"x")
    assert before <= _dump(table.path)


@pytest.mark.parametrize(
    "what",
    [
        "table",
        "table that looks like ours",
        "view",
    ],
)
def test_a_foreign_table_is_not_read_as_keys(table: Place, what: str) -> None:
    table.sql(FOREIGN[what])
    with table.store() as store:
        with pytest.raises((InvalidParameters, KeyNotFound)):
            store.get("k")
        with suppress(InvalidParameters):
            assert not [*store.keys()]


def _dump(path: Path) -> set[str]:
    with closing(connect(path)) as connection:
        return {str(row) for row in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")}


def test_a_table_that_another_program_dropped_reads_as_empty_and_the_next_write_makes_it(
    table: Place,
) -> None:
    with table.store() as store:
        store.set("k", b"1")
        store.set("other", b"1")
        table.sql(f"DROP TABLE {TABLE}")
        with pytest.raises(KeyNotFound):
            store.get("k")
        assert not [*store.keys()]
        store.set("k", b"2")
        assert value_of(store, "k") == b"2"
        store.set("other", b"2")
        store.set("new", b"1")
        assert [*store.keys()] == ["k", "new", "other"]
    assert [op.op_number for op in table.check()] == [1, 1, 2, 2, 3, 3, 1]


def test_rows_that_plain_sql_inserted_are_keys(table: Place) -> None:
    with table.store() as store:
        store.set("a", b"1")
        table.sql(
            f"INSERT INTO {TABLE} (key, value) VALUES ('text', 'some text'), ('blob', x'00ff'), ('int', 42)"
        )
        assert value_of(store, "text") == b"some text"
        assert value_of(store, "blob") == b"\x00\xff"
        assert value_of(store, "int") == b"42"
        assert [*store.keys()] == ["a", "blob", "int", "text"]
        assert store.incr("int").number == 43
        assert store.set("text", b"ours").op_number == 2
        store.delete("blob")
        assert [*store.keys()] == ["a", "int", "text"]


# --- files that are no stores --------------------------------------------------------------------------


def test_what_is_no_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "t.db"
    file.write_bytes(b"This is no database. " * 500)
    with Engine(Paths(str(tmp_path))) as engine:
        for create in (False, True):
            with pytest.raises(InvalidSqliteHeader):
                engine.lease(str(file), TABLE, create=create)
        with pytest.raises(InvalidSqliteHeader):
            engine.delete_database(str(file))
    assert files_of(tmp_path) == {"t.db": b"This is no database. " * 500}


def test_an_empty_file_is_an_empty_database(table: Place) -> None:
    table.path.touch()
    with table.store() as store:
        assert not [*store.keys()]
        store.set("k", b"x")


def test_a_directory_needs_a_table(tmp_path: Path) -> None:
    with Engine(Paths(str(tmp_path))) as engine:
        for db in (str(tmp_path), str(tmp_path) + "/"):
            with pytest.raises(PathIsDirectory):
                engine.lease(db, create=True)
        with pytest.raises(PathIsDirectory):
            engine.delete_database(str(tmp_path))
    assert not [*tmp_path.iterdir()]


def test_a_log_of_a_newer_format_is_not_touched(place: Place) -> None:
    with place.store() as store:
        store.set("k", b"x")
    place.sql("UPDATE kvfs_stores SET format = 99", "PRAGMA wal_checkpoint(TRUNCATE)")
    before = files_of(place.path if place.directory else place.home)
    with pytest.raises(DatabaseError, match="newer"), place.store() as store:
        store.set("k", b"y")
    after = files_of(place.path if place.directory else place.home)
    assert {name: after.get(name) for name in before} == before
    place.sql("UPDATE kvfs_stores SET format = 1")


# --- what cannot be written ----------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", mib=8) as disk:
        yield disk


def test_a_database_file_that_is_read_only_is_read_and_not_written(table: Place) -> None:
    with table.store() as store:
        store.set("k", b"x")
    with _immutable(table.path), table.engine() as engine, engine.lease(table.db, TABLE) as store:
        assert value_of(store, "k") == b"x"
        assert [*store.keys()] == ["k"]
        with pytest.raises(DatabaseError):
            store.set("k", b"y")
        assert value_of(store, "k") == b"x"
    with table.store() as store:
        store.set("k", b"y")


def test_a_read_only_database_tells_what_a_rollback_would_do(table: Place) -> None:
    clock = HurriedClock()
    with table.store(clock=clock) as store:
        store.set("k", b"1")
        store.set("runs out", b"1", ttl_s=5)
        then = clock()
        store.set("k", b"2")
        store.set("new", b"1")
        store.set("runs out", b"2", ttl_s=5)
    clock.hurry(10)
    with _immutable(table.path), table.engine(clock=clock) as engine, engine.lease(table.db, TABLE) as store:
        told = store.rollback_table(then, dry_run=True)
        assert [(each.key, each.removed) for each in told.results] == [("k", 0), ("new", 1), ("runs out", 0)]
        with pytest.raises(DatabaseError, match="read-only"):
            store.rollback_table(then)
        assert [*store.keys()] == ["k", "new"]
    assert len(table.check()) == 5


@contextmanager
def _immutable(path: Path) -> Iterator[None]:
    """Not even root can write to the file, from here to the end."""
    # For root the permission bits mean nothing.
    try:
        subprocess.run(["chattr", "+i", str(path)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"cannot make a file immutable here: {exc}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)


def test_a_folder_on_a_read_only_disk_is_refused_and_stays_as_it_is(disk: Disk) -> None:
    place = Place(disk.path, directory=True)
    with place.store() as store:
        store.set("k", b"x")
    with disk.readonly(), place.engine() as engine:
        with pytest.raises(KvfsError) as refused, engine.lease(place.db, TABLE) as store:
            store.set("k", b"y")
        assert refused.value.code in ("DATABASE_ERROR", "FILE_SYSTEM_ERROR")
    with place.store() as store:
        assert value_of(store, "k") == b"x"
        store.set("k", b"y")
    place.check()


# --- deleting ------------------------------------------------------------------------------------------


def test_deleting_a_database_waits_until_nobody_uses_it(table: Place) -> None:
    with table.engine() as engine:
        lease = engine.lease(table.db, TABLE, create=True)
        lease.handle.set("k", b"x")
        deleting = threading.Thread(target=engine.delete_database, args=(table.db,))
        deleting.start()
        eventually(lambda: not is_open(engine, table.db), WAIT_S, "the deletion begins")
        lease.handle.set("k", b"y")
        assert deleting.is_alive()
        assert table.path.exists()
        lease.release()
        deleting.join(WAIT_S)
        assert not deleting.is_alive()
        assert not [*table.home.iterdir()]
        assert not table.open_files()
        with engine.lease(table.db, TABLE, create=True) as store:
            assert not [*store.keys()]


def test_deleting_a_database_removes_what_a_crash_left_beside_it(table: Place) -> None:
    with table.store() as store:
        store.set("k", b"x")
        copies = {path.name: path.read_bytes() for path in table.home.iterdir()}
    assert set(copies) > {"t.db", "t.db-wal"}
    for name, content in copies.items():
        if not name.endswith("-shm"):
            (table.home / name).write_bytes(content)
    with table.engine() as engine:
        assert engine.delete_database(table.db)[0] == table.db
    assert not [*table.home.iterdir()]
