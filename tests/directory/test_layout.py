"""Which file holds what: the keys as everybody else sees them."""

from __future__ import annotations

import os
import stat

import pytest

from kvfs.errors import KeyNotFound
from tests import nasty
from tests.directory.conftest import Folder


def test_a_keys_file_holds_exactly_the_value(folder: Folder) -> None:
    values = {
        "users/alice": b'{"name": "Alice"}\n',
        "users/bob": b"",
        "notes/2024/a b.txt": b"\xff\0",
        "large": nasty.noise(300_000),
        ".env": b"A=1\n",
        "100%": b"x",
    }
    for key, value in values.items():
        folder.store.set(key, value)
    assert folder.files() == values


def test_every_write_is_in_the_file_when_it_is_answered(folder: Folder) -> None:
    file = folder.root / "d" / "k"
    folder.store.set("d/k", b"[1]")
    assert file.read_bytes() == b"[1]"
    folder.store.push("d/k", b"2")
    assert file.read_bytes() == b"[1,2]"
    folder.store.set("d/k", b"3")
    folder.store.incr("d/k")
    assert file.read_bytes() == b"4"
    folder.store.set("d/k", nasty.noise(300_000), history=False)
    assert file.read_bytes() == nasty.noise(300_000)
    folder.store.delete("d/k")
    assert not file.exists()


def test_the_index_knows_of_a_file_that_has_moved_into_its_own_folder(folder: Folder) -> None:
    folder.store.set("a", b"1")
    folder.store.set("a/b", b"2")
    folder.check()
    assert folder.store.get("a").value == b"1"
    folder.check()
    folder.store.set("a/b/c", b"3")
    folder.store.set("a", b"4")
    folder.check()


def test_nothing_of_ours_lies_among_the_keys(folder: Folder) -> None:
    for key in nasty.KEYS:
        folder.store.set(key, b"x", ttl_s=1000)
    for key in nasty.KEYS[::2]:
        folder.store.delete(key)
    assert {path.name for path in folder.db.iterdir()} == {".kvfs", "site"}
    assert {path.name.partition(".")[0] for path in folder.home.iterdir()} == {"site", "tmp"}
    assert len(folder.files()) == len(nasty.KEYS) // 2


def test_names_that_cannot_be_are_escaped(folder: Folder) -> None:
    paths = {
        "..": "%2E.",
        "a//b": "a/%/b",
        ".git/config": "%2Egit/config",
        "notes~": "notes%7E",
        "x%7E": "x%257E",
        "%value": "%25value",
        "n" * 256: f"%long/{'n' * 248}/{'n' * 8}",
    }
    for key in paths:
        folder.store.set(key, key.encode())
    assert folder.files() == {path: key.encode() for key, path in paths.items()}


@pytest.mark.parametrize("value", [b"1", nasty.noise(300_000)], ids=["small", "large"])
def test_a_file_becomes_a_folder_and_keeps_its_value(folder: Folder, value: bytes) -> None:
    folder.store.set("a", value, content_type="text/x", ttl_s=1000)
    before = folder.store.get("a")
    folder.store.set("a/b/c", b"2")
    assert folder.files() == {"a/%value": value, "a/b/c": b"2"}
    assert folder.value("a") == value
    after = folder.store.get("a")
    assert (after.content_type, after.op_number, after.expire_ns) == (
        before.content_type,
        1,
        before.expire_ns,
    )
    folder.store.set("a/b", b"3")
    assert folder.files() == {"a/%value": value, "a/b/%value": b"3", "a/b/c": b"2"}
    assert folder.keys() == ["a", "a/b", "a/b/c"]
    assert folder.ops("a") == [("set", "api")]


def test_a_program_that_holds_the_file_open_goes_on_writing_to_the_keys_value(folder: Folder) -> None:
    folder.store.set("a", b"1")
    with (folder.root / "a").open("ab") as file:
        folder.store.set("a/b", b"2")
        file.write(b"more")
        file.flush()
        assert folder.value("a") == b"1more"


def test_a_key_is_made_in_a_folder_that_was_there(folder: Folder) -> None:
    folder.write("a/b", b"1")
    folder.store.set("a", b"2")
    assert folder.files() == {"a/b": b"1", "a/%value": b"2"}
    folder.store.delete("a")
    assert folder.files() == {"a/b": b"1"}


def test_deletes_take_empty_folders_away(folder: Folder) -> None:
    folder.store.set("a/b/c/d", b"1")
    folder.store.set("a/x", b"1")
    folder.store.delete("a/b/c/d")
    assert [path.name for path in (folder.root / "a").iterdir()] == ["x"]
    folder.store.delete("a/x")
    assert [*folder.root.iterdir()] == []
    assert folder.root.is_dir()
    folder.store.set("n" * 300, b"1")
    folder.store.delete("n" * 300)
    assert [*folder.root.iterdir()] == []


def test_a_delete_leaves_a_folder_in_which_others_have_something(folder: Folder) -> None:
    folder.store.set("a/b", b"1")
    folder.write("a/.git", b"somebody's")
    (folder.root / "a" / "empty").mkdir()
    folder.strangers.add("a/.git")
    folder.store.delete("a/b")
    assert folder.files() == {"a/.git": b"somebody's"}
    assert (folder.root / "a" / "empty").is_dir()


def test_an_expired_key_loses_its_file(folder: Folder) -> None:
    folder.store.set("a/k", b"1", ttl_s=1)
    folder.clock.hurry(1.1)
    reaping = folder.store.reap(deadline=None)
    if reaping is not None:
        reaping.result()
    assert folder.files() == {}
    assert folder.ops("a/k") == [("set", "api"), ("expire", "api")]


def test_a_failed_write_leaves_the_folder_as_it_was(folder: Folder) -> None:
    folder.write("a/b", b"text")
    with pytest.raises(Exception, match="not numeric"):
        folder.store.incr("a/b")
    with pytest.raises(KeyNotFound):
        folder.store.delete("x/y")
    with pytest.raises(KeyNotFound):
        folder.store.pop("a")
    assert folder.files() == {"a/b": b"text"}
    assert [path.name for path in folder.root.iterdir()] == ["a"]


def test_a_folder_that_is_not_there_is_the_empty_store(folder: Folder) -> None:
    assert folder.keys() == []
    with pytest.raises(KeyNotFound):
        folder.store.get("a")
    with pytest.raises(KeyNotFound):
        folder.store.delete("a")
    assert not folder.root.exists()


def test_files_are_made_with_the_rights_that_the_umask_leaves(folder: Folder) -> None:
    umask = os.umask(0o027)
    try:
        folder.store.set("a/k", b"1")
        folder.store.set("a/large", nasty.noise(300_000))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((folder.root / "a/k").stat().st_mode) == 0o640
    assert stat.S_IMODE((folder.root / "a/large").stat().st_mode) == 0o640
    assert stat.S_IMODE((folder.root / "a").stat().st_mode) == 0o750


def test_a_write_keeps_the_rights_that_somebody_gave_a_file(folder: Folder) -> None:
    folder.store.set("secret", b"1")
    (folder.root / "secret").chmod(0o600)
    folder.store.set("script", b"#!/bin/sh\n")
    (folder.root / "script").chmod(0o755)
    folder.store.set("secret", b"2")
    folder.store.set("script", b"#!/bin/sh\nexit\n")
    assert stat.S_IMODE((folder.root / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder.root / "script").stat().st_mode) == 0o755
