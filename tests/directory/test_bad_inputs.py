"""Whatever lies in a folder, and however it changes under a look: nothing hangs, and no other key is lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from kvfs.errors import FileSystemError, KeyNotFound, KvfsError, NotFound, Overloaded, PathConflict
from kvfs.model import INLINE_MAX_BYTES
from tests.directory.conftest import TABLE, Folder
from tests.meanwhile import meanwhile
from tests.serving import ROOT

LARGE = 4 * INLINE_MAX_BYTES


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# Connections to the index and the log that are kept for the next readers.
KEPT = 10


# --- names -------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8_are_no_keys(folder: Folder) -> None:
    folder.write("k", b"1")
    for name in (b"\xff", b"d\xe9", b"\xed\xa0\x80"):
        (folder.root / os.fsdecode(name)).write_bytes(b"x")
        folder.strangers.add(os.fsdecode(name))
    below = folder.root / os.fsdecode(b"folder\xff")
    below.mkdir()
    (below / "k").write_bytes(b"x")
    folder.strangers.add(below.name)
    assert folder.keys() == ["k"]
    folder.store.set("k", b"2")
    assert folder.keys() == ["k"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "😀" * 63])
def test_the_longest_names_are_keys(folder: Folder, name: str) -> None:
    folder.write(name, b"1")
    folder.write(f"{name}.d"[2:] + f"/{name}", b"2")
    assert folder.value(name) == b"1"
    assert len(folder.keys()) == 2
    folder.store.set(name, b"3")
    folder.store.delete(name)
    assert len(folder.keys()) == 1


@contextmanager
def deep(root: Path, depth: int) -> Iterator[None]:
    """Folders in folders, each with a file, far beyond what one path can name."""
    above = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(depth):
            os.mkdir("deep", dir_fd=above)
            below = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=above)
            os.close(above)
            above = below
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=above))
        yield
    finally:
        os.close(above)
        # Neither shutil nor pathlib can go so deep.
        subprocess.run(["rm", "-rf", str(root / "deep")], check=True)


def test_folders_deeper_than_any_path_are_passed_over(folder: Folder) -> None:
    folder.write("k", b"1")
    with deep(folder.root, 2000):
        keys = folder.keys()
        assert "k" in keys
        assert len(keys) == 1 + 204  # 204 times `deep/` and `file` are 1024 bytes, the longest key
        assert folder.value("deep/" * 204 + "file") == b""
        with pytest.raises(KvfsError):
            folder.store.get("deep/" * 250 + "file")
        folder.store.set("k", b"2")
        assert folder.value("k") == b"2"
    assert folder.keys() == ["k"]


def test_a_folder_of_many_names_is_listed(folder: Folder) -> None:
    for number in range(5_000):
        folder.write(f"{number:05}", b"")
    assert len(list(folder.store.keys())) == 5_000
    (folder.root / "02500").unlink()
    assert len(list(folder.store.keys())) == 4_999


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_folder_of_a_hundred_thousand_names_is_listed(folder: Folder) -> None:
    for number in range(100_000):
        folder.write(f"{number:06}", b"")
    assert len(list(folder.store.keys())) == 100_000


# --- what may not be read ----------------------------------------------------------------------------

LOOK = """
import sys, kvfs
from kvfs.config import Config
from kvfs.listing import Query
with kvfs.open(sys.argv[1], sys.argv[2], config=Config(watch=False)) as store:
    def tell(what):
        try:
            print(what())
        except kvfs.KvfsError as error:
            print(error.code)
    print(*store.keys())
    for action in sys.stdin.read().splitlines():
        if action.startswith("chmod"):
            import os
            _, mode, path = action.split(" ")
            os.chmod(os.path.normpath(os.path.join(sys.argv[1], sys.argv[2], path)), int(mode, 8))
        elif action == "list":
            tell(lambda: " ".join(store.keys()))
        elif action.startswith("get"):
            tell(lambda: store.get(action.split(" ")[1]).value.decode())
        elif action.startswith("set"):
            tell(lambda: store.set(action.split(" ")[1], b"new").op_number)
"""


def humbly(folder: Folder, *actions: str) -> list[str]:
    """What a process is told that may not read all."""
    # Root may read everything, unless it gives that up.
    less = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*less, sys.executable, "-c", LOOK, str(folder.db), TABLE],
        input="\n".join(actions), capture_output=True, text=True, check=False, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_folder_that_nobody_may_read_keeps_no_other_back(folder: Folder) -> None:
    folder.write("d/a", b"1")
    folder.write("k", b"2")
    (folder.root / "d").chmod(0)
    told = humbly(folder, "list", "get k", "get d/a", "set d/a", "set d/b", "set k", "get k", "list")
    assert told == [
        "k", "k", "2", "FILE_SYSTEM_ERROR", "FILE_SYSTEM_ERROR", "FILE_SYSTEM_ERROR", "2", "new", "k"
    ]  # fmt: skip
    (folder.root / "d").chmod(0o755)
    assert folder.keys() == ["d/a", "k"]


def test_a_folder_that_is_made_unreadable_keeps_its_keys(folder: Folder) -> None:
    folder.write("d/a", b"1")
    folder.write("d/e/b", b"1")
    folder.write("k", b"2")
    told = humbly(
        folder, "chmod 000 d", "list", "get d/a", "get d/e/b", "get k", "chmod 755 d", "list", "get d/a"
    )
    everything = "d/a d/e/b k"
    assert told == [
        everything, everything, "FILE_SYSTEM_ERROR", "FILE_SYSTEM_ERROR", "2", everything, "1"
    ]  # fmt: skip
    assert folder.ops("d/a") == [("set", "file")]


def test_a_root_that_nobody_may_read_says_so(folder: Folder) -> None:
    folder.write("k", b"2")
    told = humbly(folder, "chmod 000 .", "get k", "set k", "chmod 755 .", "get k", "list")
    assert told == ["k", "FILE_SYSTEM_ERROR", "FILE_SYSTEM_ERROR", "2", "k"]


# --- what changes under a look -----------------------------------------------------------------------


def changing(change: Callable[[random.Random], None]) -> AbstractContextManager[None]:
    """Somebody changes things all the time."""

    def work(stop: threading.Event) -> None:
        chance = random.Random(1)
        while not stop.is_set():
            change(chance)

    return meanwhile(work)


def test_a_file_that_grows_and_shrinks_under_a_look_is_served(folder: Folder) -> None:
    file = folder.write("k", b"x")
    folder.write("calm", b"1")

    def change(chance: random.Random) -> None:
        if chance.random() < 0.5:
            with file.open("ab") as growing:
                growing.write(b"x" * chance.choice([1, 1000, LARGE]))
        else:
            os.truncate(file, chance.choice([0, 1, 1000]))

    assert folder.keys() != []
    before = open_files()
    with changing(change):
        for _ in range(100):
            with _tolerated():
                assert set(folder.value("k")) <= set(b"x\0")
            with _tolerated():
                assert folder.keys().count("k") == 1
            assert folder.value("calm") == b"1"
    folder.store.settle_all()
    assert folder.value("k") == file.read_bytes()
    assert open_files() <= before + KEPT


@contextmanager
def _tolerated() -> Iterator[None]:
    """Who asks for what changes all the time may be told so."""
    try:
        yield
    except (NotFound, PathConflict) as exc:
        raise AssertionError("it was there all the time") from exc
    except KvfsError as exc:
        if exc.code not in ("OVERLOADED", "FILE_SYSTEM_ERROR"):
            raise


def test_what_takes_a_files_place_under_a_look_is_never_opened(folder: Folder, tmp_path: Path) -> None:
    """A FIFO would hang whoever opens it, a symlink would lead out."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    folder.write("calm", b"1")
    place, spare = folder.root / "k", folder.db / "spare"

    def change(chance: random.Random) -> None:
        kind = chance.randrange(4)
        if kind == 0:
            spare.write_bytes(b"x")
        elif kind == 1:
            os.mkfifo(spare)
        elif kind == 2:
            spare.symlink_to(outside)
        else:
            place.unlink(missing_ok=True)
            return
        os.rename(spare, place)

    assert folder.keys() != []
    before = open_files()
    with changing(change):
        for _ in range(200):
            with suppress(PathConflict, KeyNotFound, FileSystemError, Overloaded):
                assert folder.value("k") in (b"x", b"")
            assert folder.keys().count("calm") == 1
            assert folder.value("calm") == b"1"
    place.unlink(missing_ok=True)
    folder.store.settle_all()
    assert folder.keys() == ["calm"]
    assert open_files() <= before + KEPT


def test_folders_that_come_and_go_under_a_list_keep_no_other_back(folder: Folder) -> None:
    folder.write("calm", b"1")
    place = folder.root / "d"

    def change(chance: random.Random) -> None:
        kind = chance.randrange(3)
        if kind == 0:
            folder.write("d/e/k", b"x")
        elif kind == 1:
            shutil.rmtree(place)
            place.symlink_to(folder.db)
        else:
            place.mkdir()
        if kind:
            place.unlink() if place.is_symlink() else shutil.rmtree(place)
            (folder.root / "d").mkdir(exist_ok=True)

    def safely(chance: random.Random) -> None:
        try:
            change(chance)
        except OSError:
            if place.is_symlink():
                place.unlink()

    assert folder.keys() != []
    before = open_files()
    with changing(safely):
        for _ in range(100):
            assert folder.keys().count("calm") == 1
    shutil.rmtree(place, ignore_errors=True)
    assert folder.keys() == ["calm"]
    assert open_files() <= before + KEPT
