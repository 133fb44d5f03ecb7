"""The check of stores finds what is wrong with one: else it would be no check."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import kvfs
from tests import invariants, nasty
from tests.programs import connect

TABLE = "t"


def fill(path: Path) -> None:
    """A few ops of every kind."""
    with kvfs.open(str(path), TABLE) as store:
        store.set("a", b"1", ttl_s=1000)
        store.set("a", b"2")
        store.set("b/c", nasty.noise(50))
        store.set("gone", b"1")
        store.delete("gone")
        store.set("undone", b"1")
        store.rollback("undone")
        store.set("gap", b"1", history=False)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A database in good order."""
    fill(tmp_path / "db")
    invariants.check_table(tmp_path / "db")
    return tmp_path / "db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a folder store in good order."""
    (tmp_path / "db").mkdir()
    fill(tmp_path / "db")
    invariants.check_folder(tmp_path / "db", TABLE)
    return tmp_path / "db"


def execute(path: Path, statement: str) -> None:
    with closing(connect(path)) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.execute(statement)


LOG = f"kvfs_oplog_{TABLE}"


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE {TABLE} SET value = 'x' WHERE key = 'a'",
        f"UPDATE {TABLE} SET content_type = 'x/y' WHERE key = 'a'",
        f"UPDATE {TABLE} SET op_number = 1 WHERE key = 'a'",
        f"UPDATE {TABLE} SET expire_at = 1e10 WHERE key = 'a'",
        f"UPDATE {TABLE} SET created_at = 0 WHERE key = 'a'",
        f"UPDATE {TABLE} SET value = 'x' WHERE key = 'gap'",
        f"DELETE FROM {TABLE} WHERE key = 'a'",
        f"INSERT INTO {TABLE} (key, value, op_number) VALUES ('gone', 'x', 2)",
        f"INSERT INTO {TABLE} (key, value) VALUES ('new', 'x')",
        f"DELETE FROM {LOG} WHERE seq = 1",
        f"DELETE FROM {LOG} WHERE seq = 6",
        f"UPDATE {LOG} SET op_number = 5 WHERE seq = 2",
        f"UPDATE {LOG} SET ts_ns = 1 WHERE seq = 3",
        f"UPDATE {LOG} SET value = 'x' WHERE seq = 1",
        f"UPDATE {LOG} SET value = NULL WHERE seq = 1",
        f"UPDATE {LOG} SET value = '1' WHERE flags = 1",
        f"UPDATE {LOG} SET content_type = 'x/y' WHERE op_type = 'delete'",
        f"UPDATE {LOG} SET origin = 'nobody' WHERE seq = 1",
    ],
)
def test_a_table_that_is_not_what_its_log_says_is_dirty(table: Path, damage: str) -> None:
    execute(table, damage)
    with pytest.raises(AssertionError):
        invariants.check_table(table)


def edit(root: Path) -> None:
    (root / "a").write_bytes(b"x")


def remove(root: Path) -> None:
    (root / "a").unlink()


def add(root: Path) -> None:
    (root / "b" / "new").write_bytes(b"x")


def add_what_is_no_key(root: Path) -> None:
    (root / ".kvfs-left").write_bytes(b"x")


def add_a_symlink(root: Path) -> None:
    (root / "link").symlink_to("a")


def add_a_second_file(root: Path) -> None:
    (root / "a").rename(root / "x")
    (root / "a").mkdir()
    (root / "x").rename(root / "a" / "%value")
    (root / "%61").write_bytes(b"2")


def touch(root: Path) -> None:
    os.utime(root / "a", ns=(1, 1))


def leave_a_temporary_file(root: Path) -> None:
    (root.parent / ".kvfs" / "tmp" / TABLE / "7").write_bytes(b"x")


@pytest.mark.parametrize(
    "damage",
    [edit, remove, add, add_what_is_no_key, add_a_symlink, add_a_second_file, touch, leave_a_temporary_file],
)
def test_a_folder_that_is_not_what_its_log_says_is_dirty(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder / TABLE)
    with pytest.raises(AssertionError):
        invariants.check_folder(folder, TABLE)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE files SET sha256 = x'00' WHERE key = 'a'",
        "UPDATE files SET op_number = 9 WHERE key = 'a'",
        "UPDATE files SET content_type = 'x/y' WHERE key = 'a'",
        "DELETE FROM files WHERE key = 'a'",
        "UPDATE meta SET value = 3 WHERE name = 'applied_seq'",
    ],
)
def test_an_index_that_is_not_what_the_log_says_is_dirty(folder: Path, damage: str) -> None:
    execute(folder / ".kvfs" / f"{TABLE}.index", damage)
    with pytest.raises(AssertionError):
        invariants.check_folder(folder, TABLE)


def test_what_a_test_put_there_itself_is_no_dirt(folder: Path) -> None:
    (folder / TABLE / "link").symlink_to("/")
    (folder / TABLE / "x~").write_bytes(b"")
    invariants.check_folder(folder, TABLE, strangers={"link", "x~"})
