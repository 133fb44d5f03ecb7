"""A write-ahead log begins anew when it is long, whoever is in the way, and without holding up commits."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Final

from kvfs import sqlite
from kvfs.checkpoints import Checkpoints
from kvfs.doubt import Doubt
from kvfs.errors import DatabaseError
from kvfs.handle import Handle
from tests.engine.place import Place, text

MIB: Final = 1 << 20
VALUE: Final = b"x" * 8000


def write(store: Handle, size: int) -> None:
    """Write so many bytes, to few keys."""
    for number in range(size // len(VALUE) // 20 + 1):
        store.set_many([text(f"k{key}", VALUE + b"%d" % number) for key in range(20)])


def log_bytes(file: Path) -> int:
    return os.path.getsize(f"{file}-wal")


def generation(file: Path) -> bytes:
    """What is another when a log begins anew: the salts (sqlite.org/fileformat2.html#the_write_ahead_log)."""
    return Path(f"{file}-wal").read_bytes()[16:24]


def test_a_log_does_not_grow_with_what_is_written(place: Place) -> None:
    with place.store() as store:
        write(store, 40 * MIB)
        assert 8 * MIB <= log_bytes(place.log_file) < 20 * MIB


def test_a_log_begins_anew_when_who_reads_an_old_state_has_ended(place: Place) -> None:
    with place.store() as store:
        write(store, MIB)
        with closing(place.connect()) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            before = generation(place.log_file)
            write(store, 12 * MIB)
            assert generation(place.log_file) == before
        write(store, 12 * MIB)
        assert generation(place.log_file) != before


def test_a_commit_copies_a_log_that_nobody_else_copies(tmp_path: Path) -> None:
    path = str(tmp_path / "t.db")
    readers = sqlite.ReadPool(path)
    with closing(sqlite.connect(path, create=True)) as connection, closing(readers):
        connection.execute("CREATE TABLE t (a)")
        checkpoints = Checkpoints(connection, readers, Doubt(path, DatabaseError))
        due = 0
        for _ in range(10_000):
            connection.execute("INSERT INTO t VALUES (?)", (VALUE,))
            due += checkpoints.take_due()
        assert due == 1
        assert log_bytes(Path(path)) < 40 * MIB


def test_nothing_is_copied_once_it_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "t.db")
    readers = sqlite.ReadPool(path)
    with closing(sqlite.connect(path, create=True)) as connection, closing(readers):
        checkpoints = Checkpoints(connection, readers, Doubt(path, DatabaseError))
        connection.execute("CREATE TABLE t (a)")
        checkpoints.copy()
        size = os.path.getsize(path)
        connection.execute("INSERT INTO t VALUES (?)", (VALUE,))
        checkpoints.close()
        checkpoints.copy()
        assert os.path.getsize(path) == size
