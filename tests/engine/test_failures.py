"""A disk that is full, damaged, or fails while something is made durable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kvfs.errors import DatabaseError, KvfsError, StorageFull
from kvfs.handle import Handle
from tests import nasty
from tests.engine.mounting import Disk, mounted
from tests.engine.place import TABLE, Place, text, value_of

MIB = 1 << 20
FRAMES_OF_FIRST_SHARED_MEMORY = 4062
"""How much of a write-ahead log fits into the first 32 KiB of shared memory: sqlite.org/walformat.html."""
ROOT = Path(__file__).parents[2]


# --- a full disk ---------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", mib=8) as disk:
        yield disk


@pytest.mark.parametrize("kind", ["table", "directory"])
@pytest.mark.parametrize("size", [1000, 60_000, 300_000])
def test_a_full_disk_says_so_and_loses_nothing(disk: Disk, kind: str, size: int) -> None:
    place = Place(disk.path, directory=kind == "directory")
    old, new = b"o" * size, b"n" * size
    with place.store() as store:
        store.set("old", old)
        disk.fill()
        written = _write_until_full(store, new)
        for key in ("old", "new"):
            with pytest.raises(StorageFull):
                store.set(key, new)
        assert value_of(store, "old") == old
        assert [*store.keys()] == sorted([*written, "old"])
        disk.clear()
        store.set("old", new)
        store.set("new", new)
        assert value_of(store, "old") == value_of(store, "new") == new
    with place.store() as store:
        assert [*store.keys()] == sorted([*written, "old", "new"])
        assert all(value_of(store, key) == new for key in (*written, "old", "new"))
    place.check()


def _write_until_full(store: Handle, value: bytes) -> list[str]:
    """What is left of the pages that are there already takes some writes; their keys."""
    written: list[str] = []
    while True:
        key = f"k{len(written):04}"
        try:
            store.set(key, value)
        except StorageFull:
            return written
        written.append(key)
        assert len(written) < 1000


@pytest.mark.parametrize("kind", ["table", "directory"])
def test_a_write_too_large_for_the_disk_does_not_sink_its_neighbours(disk: Disk, kind: str) -> None:
    place = Place(disk.path, directory=kind == "directory")
    with place.store() as store:
        store.set("k", b"x")
        with place.locked():
            before = store.submit(text("a"))
            large = store.submit(text("large", b"x" * 12 * MIB))
            after = store.submit(text("z"))
        with pytest.raises(StorageFull):
            large.result(20)
        assert before.result(20).result.created
        assert after.result(20).result.created
        assert [*store.keys()] == ["a", "k", "z"]
    place.check()


@pytest.mark.parametrize("kind", ["table", "directory"])
def test_a_store_on_a_full_disk_opens_and_is_read(disk: Disk, kind: str) -> None:
    place = Place(disk.path, directory=kind == "directory")
    with place.store() as store:
        store.set("k", b"x")
    # SQLite needs 32 KiB a database for its shared memory, and a folder has two databases.
    disk.fill(leave=100_000)
    with place.store() as store:
        assert value_of(store, "k") == b"x"
        assert [*store.keys()] == ["k"]
        with pytest.raises(StorageFull):
            store.set("large", b"x" * MIB)
    disk.clear()
    place.check()


@pytest.mark.parametrize("kind", ["table", "directory"])
def test_a_disk_too_full_to_open_a_store_says_so(disk: Disk, kind: str) -> None:
    place = Place(disk.path, directory=kind == "directory")
    with place.store() as store:
        store.set("k", b"x")
    disk.fill()
    with pytest.raises(StorageFull), place.store() as store:
        store.set("large", b"x" * MIB)
    disk.clear()
    with place.store() as store:
        assert value_of(store, "k") == b"x"
    place.check()


def test_a_commit_for_whose_shared_memory_there_is_no_room_is_a_full_disk(disk: Disk) -> None:
    place = Place(disk.path, directory=True)
    wal = Path(f"{place.log_file}-wal")
    with place.store() as store, ExitStack() as stack:
        store.set("k", b"0")
        reader = stack.enter_context(closing(place.connect()))
        # As long as somebody reads what there is, the write-ahead log only grows.
        reader.execute("BEGIN").execute("SELECT * FROM kvfs_stores").fetchall()
        frame_bytes = int(reader.pragma("page_size")) + 24
        while wal.stat().st_size < (FRAMES_OF_FIRST_SHARED_MEMORY - 100) * frame_bytes:
            store.set("k", nasty.noise(10_000))
        for number in range(200):
            # Enough for what is written, and not for 32 KiB more.
            disk.fill(leave=5 * 4096)
            try:
                store.set("k", b"%d" % number)
            except KvfsError as error:
                refused = error
                break
        disk.clear()
        assert isinstance(refused, StorageFull)
        assert refused.details["outcome"] == "unknown"
        assert value_of(store, "k") in (b"%d" % number, b"%d" % (number - 1))
    place.check()


# --- a damaged file ------------------------------------------------------------------------------------


def test_a_damaged_database_is_an_error_and_no_other_value(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=False)
    values = {f"k{i:03}": b"%d " % i * 100 for i in range(500)}
    with place.store() as store:
        for begin in range(0, len(values), 100):
            pendings = [store.submit(text(*item)) for item in [*values.items()][begin : begin + 100]]
            assert all(pending.result(20) for pending in pendings)
    size = place.path.stat().st_size
    with place.path.open("r+b") as file:
        # Not the page sizes and the schema; whole pages, so that none of them can be believed.
        file.seek(size // 4 // 4096 * 4096)
        file.write(b"\xff" * (size // 2))
    damaged = 0
    with place.store() as store:
        for key, value in values.items():
            try:
                assert value_of(store, key) == value
            except DatabaseError:
                damaged += 1
        assert damaged
        with pytest.raises(DatabaseError):
            assert [*store.keys()]
    assert not place.open_files()


def test_a_damaged_op_log_of_a_folder_is_an_error_and_the_files_stay(tmp_path: Path) -> None:
    place = Place(tmp_path, directory=True)
    with place.store() as store:
        store.set("k", b"x")
    with place.log_file.open("r+b") as file:
        file.write(b"This is no database any more. " * 100)
    with pytest.raises(KvfsError) as refused, place.store() as store:
        store.set("k", b"y")
    assert refused.value.code in ("DATABASE_ERROR", "INVALID_SQLITE_HEADER")
    assert (place.path / TABLE / "k").read_bytes() == b"x"
    assert not place.open_files()


@pytest.mark.parametrize("damage", ["gone", "garbage", "half"])
def test_a_damaged_index_of_a_folder_is_made_anew(tmp_path: Path, damage: str) -> None:
    place = Place(tmp_path, directory=True)
    with place.store() as store:
        for i in range(100):
            store.set(f"k{i}", b"x")
        store.expire("k1", 3600)
    index = place.log_file.with_suffix(".index")
    if damage == "gone":
        index.unlink()
    elif damage == "garbage":
        index.write_bytes(b"This is no database any more. " * 100)
    else:
        os.truncate(index, index.stat().st_size // 2)
    with place.store() as store:
        assert len([*store.keys()]) == 100
        assert store.get("k1").expire_ns is not None
        assert value_of(store, "k2") == b"x"
    assert len(place.check()) == 101


# --- a disk that fails at a sync -----------------------------------------------------------------------

# Writes until something fails, then goes on; prints what each write was answered.
_CHILD = """
import json, sys
import kvfs
with kvfs.open(sys.argv[1], sys.argv[2]) as store:
    print(json.dumps(["ready", None, None]), flush=True)
    for i in range(30):
        try:
            store.set(f"k{i:02}", b"%d" % i)
        except kvfs.KvfsError as exc:
            print(json.dumps([f"k{i:02}", exc.code, exc.details.get("outcome")]), flush=True)
        else:
            print(json.dumps([f"k{i:02}", None, None]), flush=True)
"""


@pytest.mark.parametrize("nth", [6, 14, 20, 27])
@pytest.mark.parametrize("syscall", ["fdatasync", "fsync"])
def test_what_was_acknowledged_is_there_when_a_sync_has_failed(place: Place, syscall: str, nth: int) -> None:
    answers = _with_failing(place, f"{syscall}:error=EIO:when={nth}")
    failed = {key: (code, outcome) for key, code, outcome in answers if code is not None}
    if syscall == "fdatasync" and nth > 10:
        # Earlier ones are of the opening.
        assert failed
    for code, outcome in failed.values():
        assert outcome == "unknown" or code in ("DATABASE_ERROR", "FILE_SYSTEM_ERROR")
    acknowledged = {key for key, code, _ in answers if code is None and key != "ready"}
    with place.store() as store:
        keys = {*store.keys()}
        assert acknowledged <= keys
        unknown = {key for key, (_, outcome) in failed.items() if outcome == "unknown"}
        assert keys - acknowledged <= unknown
        for key in keys:
            assert value_of(store, key) == b"%d" % int(key[1:])
        store.set("after", b"x")


@pytest.mark.parametrize("syscall", ["pwrite64", "renameat2", "fsync", "linkat"])
def test_what_was_acknowledged_is_there_when_a_disk_fails_now_and_then(place: Place, syscall: str) -> None:
    answers = _with_failing(place, f"{syscall}:error=EIO:when=40+13")
    acknowledged = {key for key, code, _ in answers if code is None and key != "ready"}
    with place.store() as store:
        keys = {*store.keys()}
        assert acknowledged <= keys
        for key, code, outcome in answers:
            if code is not None and outcome != "unknown":
                assert key not in keys, (key, code)


def _with_failing(place: Place, injected: str) -> list[tuple[str, str | None, str | None]]:
    """What a child's writes were answered while this system call of its failed."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    # strace counts system calls by thread; the writer's are the ones that are meant.
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"inject={injected}"]
    child = [sys.executable, "-c", _CHILD, place.db, TABLE]
    ran = subprocess.run(command + child, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    if "PTRACE" in ran.stderr:
        pytest.skip(f"strace cannot trace here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]
