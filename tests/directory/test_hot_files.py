"""Files that were read lately stay open: nobody may notice, but for the descriptors."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from pathlib import Path

import pytest

from kvfs.directory import hot
from kvfs.directory.hot import HotFiles
from kvfs.directory.looks import Signature
from kvfs.errors import KeyNotFound, PathConflict
from tests.directory.conftest import Folder
from tests.engine.place import open_files
from tests.polling import eventually


def test_a_file_that_was_read_is_not_opened_again(folder: Folder) -> None:
    for key in ("k", "a/b", "a"):
        folder.store.set(key, b"1")
        folder.store.get(key)
    before = _held(folder)
    assert before == Counter({"k": 1, "a/b": 1, "a/%value": 1})
    for key in ("k", "a/b", "a"):
        assert folder.store.get(key).value == b"1"
    assert _held(folder) == before


def test_what_others_do_to_a_file_that_is_open_is_seen(folder: Folder) -> None:
    folder.store.set("k", b"1")
    file = folder.root / "k"
    for value in (b"2", b"3"):
        folder.store.get("k")
        file.write_bytes(value)
        assert folder.store.get("k").value == value
        folder.store.get("k")
        fresh = folder.db / "fresh"
        fresh.write_bytes(value + b"!")
        os.rename(fresh, file)
        assert folder.store.get("k").value == value + b"!"
    file.unlink()
    with pytest.raises(KeyNotFound):
        folder.store.get("k")


def test_a_file_that_is_open_is_no_key_behind_a_symlink(folder: Folder) -> None:
    folder.store.set("a/k", b"1")
    folder.store.get("a/k")
    os.rename(folder.root / "a", folder.db / "aside")
    (folder.root / "a").symlink_to(folder.db / "aside")
    folder.strangers.add("a")
    with pytest.raises(PathConflict):
        folder.store.get("a/k")


def test_what_a_program_writes_through_a_mapping_is_read(folder: Folder) -> None:
    """Its signature may be the same for as long as the page is dirty: no value can be kept in memory."""
    folder.store.set("k", b"0")
    with (folder.root / "k").open("r+b") as file, mmap.mmap(file.fileno(), 1) as mapped:
        for value in (b"1", b"2", b"3"):
            mapped[0:1] = value
            assert folder.store.get("k").value == value


def test_files_that_are_not_read_any_more_are_closed(folder: Folder) -> None:
    folder.store.set("k", b"1")
    folder.store.get("k")
    assert _held(folder) == {"k": 1}
    eventually(lambda: not _held(folder), 60, "the file is closed")
    assert folder.store.get("k").value == b"1"


def test_one_read_in_each_round_keeps_a_file_open(tmp_path: Path) -> None:
    files, signature = HotFiles(), Signature(1, 2, 3, 4)
    files.give("k", os.open(tmp_path, os.O_RDONLY), signature)
    for _ in range(3):
        files.rest()
        fd = files.take("k", signature)
        assert fd is not None
        files.give("k", fd, signature)
    files.rest()
    assert open_files(str(tmp_path)) == 1
    files.rest()
    assert not open_files(str(tmp_path))


def test_a_process_keeps_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "_MOST", HotFiles._held + 2)
    one, other = HotFiles(), HotFiles()
    signature = Signature(1, 2, 3, 4)
    for number, files in enumerate((one, other, one, other)):
        path = tmp_path / str(number)
        path.touch()
        files.give(path.name, os.open(path, os.O_RDONLY), signature)
    assert open_files(str(tmp_path)) == 2
    one.close()
    late = tmp_path / "late"
    late.touch()
    one.give("late", os.open(late, os.O_RDONLY), signature)
    assert open_files(str(tmp_path)) == 1
    assert other.take("1", Signature(0, 0, 0, 0)) is None
    assert not open_files(str(tmp_path))
    other.close()


def _held(folder: Folder) -> Counter[str]:
    """The keys' files that this process has open, by their paths in the folder."""
    held: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
        if path.is_file() and path.is_relative_to(folder.root):
            held[str(path.relative_to(folder.root))] += 1
    return held
