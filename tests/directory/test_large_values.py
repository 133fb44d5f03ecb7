"""Large values lie beside the op-log as blobs, and what is too large for it is a gap."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest

from kvfs.blobs import BLOB_MIN_BYTES
from kvfs.errors import FileSystemError, TimeTravelGap
from kvfs.model import FileValue, value_bytes
from tests import nasty
from tests.directory.conftest import UNWATCHED, Folder, whole
from tests.polling import eventually

LARGE = BLOB_MIN_BYTES + 1000
MANY = [f"{number:03}" for number in range(130)]


@pytest.fixture
def small_history(tmp_path: Path) -> Iterator[Folder]:
    """A folder whose history takes values of up to 1000 bytes."""
    folder = Folder(tmp_path / "small", replace(UNWATCHED, history_max_value_bytes=1000))
    yield folder
    folder.close()


def blobs(folder: Folder) -> list[Path]:
    return sorted((folder.home / "site.blobs").glob("*/*"))


def past(folder: Folder, key: str, ts_ns: int) -> bytes:
    return whole(folder.store.get_at(key, ts_ns))


def test_every_version_of_a_large_value_is_kept(folder: Folder) -> None:
    versions = [nasty.noise(LARGE, number) for number in range(3)]
    folder.store.set("k", versions[0])
    folder.write("k", versions[1])
    assert folder.value("k") == versions[1]
    folder.store.set("k", versions[2])
    log = folder.check()
    assert [op.origin for op in log] == ["api", "file", "api"]
    assert [past(folder, "k", op.ts_ns) for op in log] == versions
    assert len(blobs(folder)) == 3


def test_equal_values_share_a_blob(folder: Folder) -> None:
    value = nasty.noise(LARGE, 1)
    folder.store.set("a", value)
    folder.store.set("b", value)
    folder.write("c", value)
    assert folder.value("c") == value
    assert len(blobs(folder)) == 1
    folder.check()


def test_a_small_value_makes_no_blob(folder: Folder) -> None:
    folder.store.set("k", b"1" * (BLOB_MIN_BYTES - 1))
    assert blobs(folder) == []
    folder.check()


def test_a_blob_that_a_crash_left_half_made_is_gone_at_the_next_opening(folder: Folder) -> None:
    value = nasty.noise(LARGE, 1)
    folder.store.set("k", value)
    folder.close()
    left = folder.home / "site.blobs/.new-1"
    left.write_bytes(value[:1000])
    assert folder.value("k") == value
    assert not left.exists()
    folder.check()


def test_a_blob_is_never_the_file_itself(folder: Folder) -> None:
    """Who edits in place would rewrite history."""
    value = nasty.noise(LARGE, 1)
    folder.store.set("k", value)
    written = folder.check()[-1].ts_ns
    with open(folder.root / "k", "r+b") as file:
        file.write(b"edited")
    assert folder.value("k") == b"edited" + value[6:]
    assert past(folder, "k", written) == value


def test_a_missing_blob_is_an_error_and_other_versions_are_read(folder: Folder) -> None:
    first, second = nasty.noise(LARGE, 1), nasty.noise(LARGE, 2)
    folder.store.set("k", first)
    (lost,) = blobs(folder)
    folder.store.set("k", second)
    log = folder.check()
    away = lost.rename(folder.db / "away")
    with pytest.raises((FileSystemError, FileNotFoundError)):
        past(folder, "k", log[0].ts_ns)
    assert past(folder, "k", log[1].ts_ns) == second
    assert folder.value("k") == second
    away.rename(lost)


def test_without_history_a_large_value_leaves_no_blob(folder: Folder) -> None:
    value = nasty.noise(LARGE, 1)
    folder.store.set("k", value, history=False)
    assert folder.value("k") == value
    # It is kept until its file is durable, for a redo after a power cut.
    eventually(lambda: blobs(folder) == [], 15, "the checkpoint lets go of it")
    folder.check()


@pytest.mark.parametrize("size", [1001, 300_000, LARGE])
def test_what_is_too_large_for_the_history_is_a_gap_with_its_hash(small_history: Folder, size: int) -> None:
    store, mine, theirs = small_history.store, nasty.noise(size, 1), nasty.noise(size, 2)
    store.set("k", mine)
    small_history.write("k", theirs)
    assert small_history.value("k") == theirs
    log = small_history.check()
    assert [(op.origin, op.size, op.value, op.flags) for op in log] == [
        ("api", size, None, 1),
        ("file", size, None, 1),
    ]
    for op in log:
        with pytest.raises(TimeTravelGap):
            store.get_at("k", op.ts_ns)
    store.set("k", b"1" * 1000)
    assert whole(store.get_at("k", small_history.check()[-1].ts_ns)) == b"1" * 1000


def test_a_large_value_is_read_from_its_blob_piece_by_piece(folder: Folder) -> None:
    value = nasty.noise(LARGE, 1)
    folder.store.set("k", value)
    folder.store.set("k", b"small")
    entry = folder.store.get_at("k", folder.check()[0].ts_ns)
    assert isinstance(entry.value, FileValue)
    with entry.value as blob:
        assert blob.read(5, 10) == value[5:15]
        assert value_bytes(blob) == value


# --- many of them ----------------------------------------------------------------------------------------


@contextmanager
def few_descriptors(spare: int = 120) -> Iterator[None]:
    """No more than so many files can be opened beside those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(fd) for fd in os.listdir("/proc/self/fd")}
    # What is open beyond the limit stays open.
    limit = next(islice((fd for fd in count() if fd not in taken), spare, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def put_many(folder: Folder, size: int) -> None:
    """Make each of `MANY` a file of so many zeros, which takes no room on the disk."""
    for key in MANY:
        os.truncate(folder.write(key, b""), size)


def test_more_large_values_than_files_can_be_open_are_rolled_back_at_once(folder: Folder) -> None:
    put_many(folder, LARGE)
    folder.store.settle_all()
    then = folder.clock()
    for key in MANY:
        (folder.root / key).unlink()
    with few_descriptors():
        outcome = folder.store.rollback_table(then)
    assert [result.key for result in outcome.results] == MANY
    assert {key: len(value) for key, value in folder.files().items()} == dict.fromkeys(MANY, LARGE)
    folder.check()


def test_more_edited_large_files_than_can_be_open_are_rolled_back_by_name(folder: Folder) -> None:
    put_many(folder, LARGE)
    folder.store.settle_all()
    then = folder.clock()
    put_many(folder, LARGE + 1)
    with few_descriptors():
        outcome = folder.store.rollback_table(then, keys=MANY)
    assert [result.key for result in outcome.results] == MANY
    assert {key: len(value) for key, value in folder.files().items()} == dict.fromkeys(MANY, LARGE)
    assert len(folder.check()) == 3 * len(MANY)


# --- the baseline ----------------------------------------------------------------------------------------


def folder_with_files(tmp_path: Path, *, baseline: bool) -> Folder:
    folder = Folder(tmp_path / "old", replace(UNWATCHED, baseline=baseline))
    folder.write("a", b"1")
    folder.write("d/b", b"2")
    return folder


def test_the_files_of_a_folder_that_is_seen_for_the_first_time_are_its_baseline(tmp_path: Path) -> None:
    folder = folder_with_files(tmp_path, baseline=True)
    folder.store.settle_all()
    assert [(op.key, op.origin, op.value) for op in folder.check()] == [
        ("a", "file", b"1"),
        ("d/b", "file", b"2"),
    ]
    folder.close()


def test_without_a_baseline_the_first_state_is_a_gap_and_what_follows_is_not(tmp_path: Path) -> None:
    folder = folder_with_files(tmp_path, baseline=False)
    assert folder.value("a") == b"1"
    folder.store.settle_all()
    folder.write("a", b"changed")
    folder.write("new", b"3")
    assert (folder.value("a"), folder.value("d/b"), folder.value("new")) == (b"changed", b"2", b"3")
    log = folder.check()
    assert [(op.key, op.op_number, op.value, op.flags) for op in log] == [
        ("a", 1, None, 1),
        ("d/b", 1, None, 1),
        ("a", 2, b"changed", 0),
        ("new", 1, b"3", 0),
    ]
    with pytest.raises(TimeTravelGap):
        folder.store.get_at("d/b", log[-1].ts_ns)
    folder.close()


def test_a_write_to_a_file_without_a_baseline_is_in_the_history(tmp_path: Path) -> None:
    folder = folder_with_files(tmp_path, baseline=False)
    folder.store.set("a", b"mine")
    (folder.root / "d" / "b").unlink()
    assert [(op.op_number, op.origin, op.value) for op in folder.check()] == [
        (1, "file", None),
        (2, "api", b"mine"),
    ]
    folder.close()


# --- files that are durable before they are acknowledged ---------------------------------------------------


def test_with_files_synced_writes_are_as_they_always_are(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "synced", replace(UNWATCHED, sync_files=True))
    store = folder.store
    store.set("a", b"1")
    store.set("a/b", b"2")
    store.set("a", b"3")
    store.incr("n")
    store.delete("a/b")
    store.set("large", nasty.noise(LARGE, 1))
    assert (folder.value("a"), folder.value("n")) == (b"3", b"1")
    assert not os.path.exists(folder.root / "a" / "b")
    folder.check()
    folder.close()
