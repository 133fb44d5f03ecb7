"""File systems that take one name for another, or cannot hold it: no key is mistaken, none is half made."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.errors import KeyNotFound, PathConflict
from kvfs.model import INLINE_MAX_BYTES, BatchSet, Set
from kvfs.paths import Paths
from tests.directory.conftest import TABLE, UNWATCHED, Folder
from tests.directory.mounts import disk, folding, read_only

LARGE = b"x" * (4 * INLINE_MAX_BYTES)
NFC = unicodedata.normalize("NFC", "naïve")
NFD = unicodedata.normalize("NFD", "naïve")


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Folder]:
    """A folder on a file system of our own that folds names, and cannot hold all."""
    with folding(tmp_path / "backing", tmp_path / "mounted") as mount:
        yield from checked(Folder(mount / "db"))


def checked(folder: Folder) -> Iterator[Folder]:
    try:
        yield folder
        folder.store.settle_all()
        folder.close()
        folder.check()
    finally:
        folder.close()


def test_a_key_of_another_spelling_is_not_there(odd: Folder) -> None:
    odd.store.set("Foo", b"1")
    odd.store.set("Dir/k", b"2")
    for key in ("foo", "FOO", "dir/k", "Dir/K"):
        with pytest.raises(KeyNotFound):
            odd.store.get(key)
    assert odd.value("Foo") == b"1"
    assert odd.keys() == ["Dir/k", "Foo"]


def test_a_key_of_another_spelling_cannot_be_written(odd: Folder) -> None:
    odd.store.set("Foo", b"1")
    odd.store.set("Dir/k", b"2")
    before = odd.files()
    for key, other in (
        ("foo", "Foo"),
        ("FOO", "Foo"),
        ("dir/k", "Dir"),
        ("dir/new", "Dir"),
        ("foo/x", "Foo"),
    ):
        with pytest.raises(PathConflict, match=f"cannot tell .* from '{other}'"):
            odd.store.set(key, b"x")
        with pytest.raises(PathConflict):
            odd.store.delete(key)
    assert odd.files() == before
    assert len(odd.check()) == 2


def test_two_spellings_in_one_batch_are_refused(odd: Folder) -> None:
    for one, two in (("Foo", "foo"), ("Dir/a", "dir/b")):
        with pytest.raises(PathConflict, match="cannot tell"):
            odd.store.apply(BatchSet((Set(one, b"1", "a/b"), Set(two, b"2", "a/b"))))
    assert odd.keys() == []
    odd.store.set("Foo", b"1")
    assert odd.keys() == ["Foo"]


def test_a_file_that_is_spelled_anew_is_another_key(odd: Folder) -> None:
    odd.store.set("Foo", b"1")
    os.rename(odd.root / "Foo", odd.root / "between")
    os.rename(odd.root / "between", odd.root / "foo")
    assert odd.keys() == ["foo"]
    with pytest.raises(KeyNotFound):
        odd.store.get("Foo")
    odd.store.set("foo", b"2")
    assert odd.ops("Foo") == [("set", "api"), ("delete", "file")]


def test_writes_of_all_kinds_work(odd: Folder) -> None:
    odd.store.set("a", b"1")
    odd.store.set("a/b", b"2")
    odd.store.set("a", b"3")
    odd.store.set("large", LARGE)
    odd.store.set("large", LARGE + b"1")
    with odd.store.upload() as upload:
        os.write(upload.fd, LARGE)
        upload.size = len(LARGE)
        odd.store.set("uploaded", upload)
    odd.store.delete("a/b")
    odd.write("theirs", b"4")
    assert odd.keys() == ["a", "large", "theirs", "uploaded"]
    assert odd.value("a") == b"3"
    odd.write("theirs", b"5")
    assert odd.value("theirs") == b"5"


def test_the_two_forms_of_a_letter_are_one_name_where_they_are_folded(odd: Folder) -> None:
    odd.store.set(NFC, b"1")
    with pytest.raises(KeyNotFound):
        odd.store.get(NFD)
    with pytest.raises(PathConflict, match="cannot tell"):
        odd.store.set(NFD, b"2")
    assert odd.keys() == [NFC]


@pytest.mark.parametrize("key", ["a:b", "end.", "d:e/k", "d./k"])
def test_a_name_that_cannot_be_held_is_refused_and_nothing_is_left(odd: Folder, key: str) -> None:
    odd.store.set("k", b"1")
    with pytest.raises(PathConflict, match="cannot hold the name"):
        odd.store.set(key, b"x")
    with pytest.raises(KeyNotFound):
        odd.store.get(key)
    assert odd.files() == {"k": b"1"}
    assert odd.keys() == ["k"]
    assert len(odd.check()) == 1


def test_spelling_counts_on_a_read_only_mount(odd: Folder, tmp_path: Path) -> None:
    odd.store.set("Foo", b"1")
    with (
        read_only(odd.db, tmp_path / "ro") as mount,
        Engine(Paths("/", any_absolute=True), config=UNWATCHED) as engine,
        engine.lease(str(mount), TABLE) as store,
    ):
        assert [*store.keys()] == ["Foo"]
        with pytest.raises(KeyNotFound):
            store.get("foo")


def test_usual_file_systems_take_each_name_for_itself(folder: Folder) -> None:
    keys = sorted(["Foo", "foo", "FOO", NFC, NFD, "a:b", "what?", "end.", "end"], key=str.encode)
    for key in keys:
        folder.store.set(key, key.encode())
    assert folder.keys() == keys
    assert all(folder.value(key) == key.encode() for key in keys)


# --- the state elsewhere -------------------------------------------------------------------------------


def test_folders_of_one_name_share_a_state_dir(tmp_path: Path) -> None:
    config = Config(watch=False, state_dir=str(tmp_path / "state"))
    folders = []
    for where in ("one", "two"):
        (tmp_path / where).mkdir()
        folders.append(Folder(tmp_path / where / "db", config))
    try:
        for number, folder in enumerate(folders):
            folder.store.set("k", b"%d" % number)
        assert [folder.value("k") for folder in folders] == [b"0", b"1"]
        assert [folder.store.get("k").op_number for folder in folders] == [1, 1]
        assert all(os.listdir(folder.db) == [TABLE] for folder in folders)
    finally:
        for folder in folders:
            folder.close()
    assert len(os.listdir(tmp_path / "state")) == 2


def test_the_state_may_lie_on_another_file_system(tmp_path: Path) -> None:
    with disk(tmp_path / "image", tmp_path / "disk", mkfs=["mkfs.ext4", "-q", "-F"], mib=16) as mount:
        folder = Folder(tmp_path / "db", Config(watch=False, state_dir=str(mount / "state")))
        try:
            folder.store.set("k", b"1")
            folder.store.set("k", LARGE)
            folder.write("theirs", b"2")
            assert folder.keys() == ["k", "theirs"]
            folder.close()
            assert folder.store.get("k").op_number == 2
            folder.store.delete("k")
            assert folder.files() == {"theirs": b"2"}
            assert not list(folder.home.glob("*.oplog"))
        finally:
            folder.close()
