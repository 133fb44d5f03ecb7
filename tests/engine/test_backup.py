"""Copies of databases while they are in use."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

import kvfs
from kvfs import KvfsError
from kvfs.backup import backup
from kvfs.config import Config
from kvfs.directory.check import check
from kvfs.errors import DatabaseNotFound, InvalidParameters
from kvfs.handle import Handle
from tests import invariants
from tests.engine.place import TABLE, Place, value_of
from tests.meanwhile import meanwhile
from tests.polling import eventually
from tests.programs import connect

WRITERS = 3


def copied(place: Place, to: Path) -> list[invariants.Logged]:
    """The op-log of a copy, when everything is as it must be."""
    if place.directory:
        checked = check(str(to), TABLE, full=True)
        assert checked.clean, checked.differences
        return invariants.check_folder(to, TABLE)
    return invariants.check_table(to)[TABLE]


def content(to: Path) -> dict[str, bytes]:
    """What the keys of a copy are."""
    with kvfs.open(str(to), TABLE, config=Config(watch=False)) as store:
        keys = [*store.keys()]
        return {key: value_of(store, key) for key in keys}


def writing(store: Handle, *, history: bool) -> AbstractContextManager[None]:
    """Writers, each of which gives its keys rising numbers, one after the other."""

    def write(name: str, stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.set(f"{name}/{number % 5}", b"%d" % number, history=history)
            if number % 31 == 0:
                store.set(f"{name}/large", b"%d " % number * 60_000)

    return meanwhile(*(partial(write, f"w{each}") for each in range(WRITERS)))


@pytest.mark.parametrize("history", [True, False], ids=["recorded", "gaps"])
def test_a_copy_under_writes_is_what_there_was_at_one_moment(
    place: Place, tmp_path: Path, history: bool
) -> None:
    with place.store() as store, writing(store, history=history):
        eventually(lambda: len([*store.keys()]) > 10, 20, "there is something to copy")
        for number in range(2):
            to = tmp_path / f"copy{number}"
            assert backup(place.db, str(to)) == str(to)
            log = copied(place, to)
            assert [op.seq for op in log] == [*range(1, len(log) + 1)]
            found = content(to)
            for name in (f"w{each}" for each in range(WRITERS)):
                numbers = sorted(int(value) for key, value in found.items() if key[:-1] == f"{name}/")
                # The last five that a writer wrote: none before the last is missing.
                assert numbers == [*range(numbers[-1] - len(numbers) + 1, numbers[-1] + 1)]


def test_a_copy_has_the_past_and_everything_of_a_file(place: Place, tmp_path: Path) -> None:
    with place.store() as store:
        store.set("a", b"1")
        store.set("a", b"2")
        store.set("a/b", b"x" * 2_000_000)
        store.set("a/b", b"y" * 2_000_000)
        store.set("gap", b"g", history=False)
        store.set("gone", b"1")
        store.delete("gone")
        if place.directory:
            script = place.path / TABLE / "gap"
            script.chmod(0o750)
            os.utime(script, (1_000_000_000, 1_000_000_000))
        backup(place.db, str(tmp_path / "copy"))
        keys = [op.key for op in copied(place, tmp_path / "copy")]
        assert keys == ["a", "a", "a/b", "a/b", "gap", "gone", "gone"]
    if place.directory:
        copy = tmp_path / "copy" / TABLE
        assert (copy / "gap").stat().st_mode & 0o777 == 0o750
        assert (copy / "gap").stat().st_mtime == 1_000_000_000


def test_the_rules_of_what_is_ignored_are_copied_and_what_is_ignored_is_not(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    with place.store() as store:
        store.set("a", b"1")
    (place.path / TABLE / ".kvfsignore").write_text("*.tmp\n")
    (place.path / TABLE / "x.tmp").write_text("not copied")
    (place.path / TABLE / ".git").mkdir()
    backup(place.db, str(tmp_path / "copy"))
    assert sorted(path.name for path in (tmp_path / "copy" / TABLE).iterdir()) == [".kvfsignore", "a"]
    assert check(str(tmp_path / "copy"), TABLE, full=True).clean


def test_an_edit_that_nobody_has_seen_is_in_the_copy_and_in_its_log(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    with place.store() as store:
        store.set("a", b"1")
    (place.path / TABLE / "a").write_bytes(b"edited")
    (place.path / TABLE / "new").write_bytes(b"new")
    backup(place.db, str(tmp_path / "copy"))
    assert [(op.key, op.origin) for op in copied(place, tmp_path / "copy")] == [
        ("a", "api"), ("a", "file"), ("new", "file")
    ]  # fmt: skip


def test_all_folders_are_copied_or_the_one_that_is_named(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    for table in ("one", "two"):
        engine = place.engine()
        with engine, engine.lease(place.db, table, create=True) as store:
            store.set("k", table.encode())
    backup(place.db, str(tmp_path / "all"))
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [".kvfs", "one", "two"]
    backup(place.db, str(tmp_path / "some"), table="two")
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == [".kvfs", "two"]


def test_nothing_is_overwritten_and_nothing_is_left_of_what_fails(place: Place, tmp_path: Path) -> None:
    with place.store() as store:
        store.set("a", b"1")
    taken = tmp_path / "taken"
    taken.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    for source, to, error in (
        (place.db, taken, InvalidParameters),
        (place.db, link, InvalidParameters),
        (place.db, place.db, InvalidParameters),
        (str(tmp_path / "none"), tmp_path / "to", DatabaseNotFound),
        (place.db, tmp_path / "no" / "such" / "folder", KvfsError),
        (str(taken), tmp_path / "to", KvfsError),
    ):
        with pytest.raises(error):
            backup(source, str(to))
    assert taken.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == before


def test_a_database_of_somebody_else_is_copied_with_all_its_tables(tmp_path: Path) -> None:
    with connect(tmp_path / "own.db") as connection:
        connection.execute("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)")
    connection.close()
    backup(str(tmp_path / "own.db"), str(tmp_path / "copy.db"))
    copy = connect(tmp_path / "copy.db")
    assert copy.execute("SELECT a FROM t").fetchall() == [(1,), (2,)]
    copy.close()
