"""Changed bytes of values and lost ends of logs, which SQLite does not see, are not taken for right."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

import kvfs
from kvfs.blobs import BLOB_MIN_BYTES
from kvfs.config import Config
from kvfs.directory.repair import repair
from kvfs.errors import DatabaseError, FileSystemError
from kvfs.model import FileValue
from tests.engine.place import TABLE, Place, value_of

UNWATCHED = Config(watch=False)


@pytest.fixture(params=[False, True], ids=["table", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database file or a directory, which nobody checks: what is damaged stays so."""
    (tmp_path / "home").mkdir()
    return Place(tmp_path / "home", directory=request.param)


@pytest.fixture
def table(tmp_path: Path) -> Place:
    """A database file."""
    return Place(tmp_path, directory=False)


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    """A directory."""
    (tmp_path / "home").mkdir()
    return Place(tmp_path / "home", directory=True)


def test_a_changed_value_of_the_past_is_an_error_and_the_others_are_read(place: Place) -> None:
    log = f"kvfs_oplog_{'files' if place.directory else TABLE}"
    with place.store() as store:
        for value in (b"first", b"second", b"third"):
            store.set("k", value)
    place.sql(f"UPDATE {log} SET value = 'secund' WHERE op_number = 2")
    with place.store() as store:
        with pytest.raises(DatabaseError, match="op 2 of 'k'"):
            store.snapshot("k", 2)
        with pytest.raises(DatabaseError):
            store.history("k")
        with pytest.raises(DatabaseError):
            store.rollback("k")
        assert value_of(store, "k") == b"third"
        entry = store.snapshot("k", 1).entry
        assert entry is not None
        assert entry.value == b"first"


def test_a_damaged_blob_is_an_error(folder: Place) -> None:
    with folder.store() as store:
        store.set("k", b"x" * BLOB_MIN_BYTES)
        store.set("k", b"y")
    (blob,) = (folder.path / f".kvfs/{TABLE}.blobs").glob("*/*")
    blob.write_bytes(b"z" * BLOB_MIN_BYTES)
    with folder.store() as store:
        with pytest.raises((FileSystemError, OSError)):
            read_whole(store.snapshot("k", 1).entry)
        with pytest.raises(FileSystemError):
            store.rollback("k")
        assert value_of(store, "k") == b"y"


def read_whole(entry: kvfs.Entry | None) -> bytes:
    assert entry is not None
    assert isinstance(entry.value, FileValue)
    with entry.value:
        return entry.value.read()


def test_the_check_of_a_database_finds_a_row_that_is_not_what_its_log_says(table: Place) -> None:
    with table.store() as store:
        for key in ("a", "b", "c"):
            store.set(key, b"value of " + key.encode())

    def problems() -> list[str]:
        with table.store() as store:
            return store.sql.maintenance.check(quick=False, deadline=time.monotonic() + 30)

    assert problems() == []
    content = table.path.read_bytes()
    # The row comes before the op.
    table.path.write_bytes(content.replace(b"value of b", b"valve of b", 1))
    assert problems() == [f"{TABLE}: 'b' is not what its last operation says"]


def copied_while_open(place: Place, home: Path) -> Path:
    """What a copy has that was made while the store was written to."""
    with place.store() as store:
        for value in (b"first", b"second"):
            store.set("k", value)
        shutil.copytree(place.home, home, ignore=shutil.ignore_patterns("*-shm"))
    return home / place.path.name


def test_an_op_log_that_has_lost_its_last_ops_is_refused_until_it_is_repaired(
    folder: Place, tmp_path: Path
) -> None:
    db = copied_while_open(folder, tmp_path / "copy")
    wal = db / f".kvfs/{TABLE}.oplog-wal"
    content = wal.read_bytes()
    wal.write_bytes(content[:-1])
    refused_until_repaired(db, "its last ops are missing")


def test_an_op_log_whose_write_ahead_log_is_gone_is_not_begun_anew(folder: Place, tmp_path: Path) -> None:
    db = copied_while_open(folder, tmp_path / "copy")
    (db / f".kvfs/{TABLE}.oplog-wal").unlink()
    refused_until_repaired(db, "there is no log in it")


def refused_until_repaired(db: Path, reason: str) -> None:
    with pytest.raises(DatabaseError, match=reason), kvfs.open(str(db), TABLE, config=UNWATCHED) as store:
        store.get("k")
    assert (db / TABLE / "k").read_bytes() == b"second"
    repaired = repair(str(db), TABLE)
    assert repaired is not None
    assert reason in repaired.reason
    with kvfs.open(str(db), TABLE, config=UNWATCHED) as store:
        assert value_of(store, "k") == b"second"
        assert store.set("k", b"third").op_number > 2


def test_a_database_that_says_nonsense_of_its_format_is_refused(table: Place) -> None:
    with table.store() as store:
        store.set("k", b"x")
    with closing(table.connect()) as connection:
        connection.execute("UPDATE kvfs_stores SET format = 'x'")
    with pytest.raises(DatabaseError, match="damaged"), table.store() as store:
        store.get("k")
