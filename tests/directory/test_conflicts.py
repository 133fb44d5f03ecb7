"""Something that is no key in the place of one: it is named, and neither followed nor changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvfs.errors import PathConflict
from kvfs.model import BatchSet, Set
from tests.directory.conftest import TABLE, Folder
from tests.serving import ROOT

SECRET = b"not for keys"


def symlink_to_a_file(place: Path, outside: Path) -> None:
    (outside / "file").write_bytes(SECRET)
    place.symlink_to(outside / "file")


def symlink_to_a_folder(place: Path, outside: Path) -> None:
    place.symlink_to(outside)


def symlink_to_nothing(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "nothing")


def symlink_to_itself(place: Path, outside: Path) -> None:
    place.symlink_to(place)


def fifo(place: Path, outside: Path) -> None:
    os.mkfifo(place)


def unix_socket(place: Path, outside: Path) -> None:
    # A socket's path must be short.
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.open(".", os.O_PATH)
        try:
            os.chdir(place.parent)
            listening.bind(place.name)
        finally:
            os.fchdir(before)
            os.close(before)


def device(place: Path, outside: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(place, 0o020666, os.makedev(1, 3))


OBSTACLES = [
    symlink_to_a_file,
    symlink_to_a_folder,
    symlink_to_nothing,
    symlink_to_itself,
    fifo,
    unix_socket,
    device,
]

Obstacle = Callable[[Path], None]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that must stay as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b").write_bytes(SECRET)
    return outside


@pytest.fixture(params=OBSTACLES, ids=lambda obstacle: obstacle.__name__)
def obstacle(request: pytest.FixtureRequest, outside: Path) -> Obstacle:
    make: Callable[[Path, Path], None] = request.param

    def put(place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        make(place, outside)

    return put


def state_of(place: Path, outside: Path) -> tuple[object, ...]:
    status = os.lstat(place)
    target = os.readlink(place) if place.is_symlink() else None
    inside = {file.name: file.read_bytes() for file in outside.iterdir()}
    return status.st_ino, status.st_mode, status.st_mtime_ns, target, inside


def refuses_everything(folder: Folder, key: str) -> None:
    store = folder.store
    requests: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.set(key, b"x"),
        lambda: store.set(key, b"x", if_match=b"x"),
        lambda: store.set(key, b"1", path="a"),
        lambda: store.delete(key),
        lambda: store.incr(key),
        lambda: store.push(key, b"1"),
        lambda: store.pop(key),
        lambda: store.expire(key, 10),
        lambda: store.persist(key),
        lambda: store.apply(BatchSet((Set("other", b"x", "a/b"), Set(key, b"x", "a/b")))),
        lambda: store.delete_many(["mine", key]),
    ]
    for request in requests:
        with pytest.raises(PathConflict):
            request()


def test_it_is_named_and_left_alone(folder: Folder, outside: Path, obstacle: Obstacle) -> None:
    folder.store.set("mine", b"1")
    place = folder.root / "d" / "k"
    obstacle(place)
    folder.strangers.add("d/k")
    before = state_of(place, outside)
    refuses_everything(folder, "d/k")
    with pytest.raises(PathConflict, match="'d/k' is taken by a"):
        folder.store.get("d/k")
    assert state_of(place, outside) == before
    assert folder.keys() == ["mine"]
    assert folder.store.get_many(["d/k", "mine"])["d/k"] is None
    assert len(folder.check()) == 1


def test_a_key_whose_file_it_replaced_is_gone(folder: Folder, outside: Path, obstacle: Obstacle) -> None:
    folder.store.set("mine", b"1")
    folder.store.set("k", b"1")
    place = folder.root / "k"
    place.unlink()
    obstacle(place)
    folder.strangers.add("k")
    before = state_of(place, outside)
    assert folder.keys() == ["mine"]
    refuses_everything(folder, "k")
    assert folder.keys() == ["mine"]
    assert state_of(place, outside) == before
    assert folder.ops("k") == [("set", "api"), ("delete", "file")]
    place.unlink()
    folder.strangers.clear()
    assert folder.store.set("k", b"2").op_number == 3


def test_nothing_is_reached_through_it(folder: Folder, outside: Path, obstacle: Obstacle) -> None:
    place = folder.root / "d"
    folder.store.set("mine", b"1")
    obstacle(place)
    folder.strangers.add("d")
    before = state_of(place, outside)
    for key in ("d/b", "d/new", "d/x/y"):
        refuses_everything(folder, key)
    assert folder.keys() == ["mine"]
    assert state_of(place, outside) == before


def test_keys_below_a_folder_that_it_replaced_are_gone(
    folder: Folder, outside: Path, obstacle: Obstacle
) -> None:
    folder.store.set("mine", b"1")
    folder.store.set("d/b", b"1")
    folder.store.set("d/e/f", b"1")
    place = folder.root / "d"
    place.rename(folder.db / "moved")
    obstacle(place)
    folder.strangers.add("d")
    before = state_of(place, outside)
    assert folder.keys() == ["mine"]
    refuses_everything(folder, "d/b")
    assert state_of(place, outside) == before
    assert folder.ops("d/e/f") == [("set", "api"), ("delete", "file")]


def test_it_may_lie_in_the_place_of_a_keys_own_value(
    folder: Folder, outside: Path, obstacle: Obstacle
) -> None:
    folder.store.set("mine", b"1")
    folder.store.set("a/b", b"1")
    place = folder.root / "a" / "%value"
    obstacle(place)
    folder.strangers.add("a/%value")
    before = state_of(place, outside)
    refuses_everything(folder, "a")
    assert folder.keys() == ["a/b", "mine"]
    folder.store.set("a/b", b"2")
    assert state_of(place, outside) == before


def test_a_folder_in_the_place_of_a_keys_own_value_is_a_conflict(folder: Folder) -> None:
    folder.store.set("mine", b"1")
    folder.write("a/%value/x", b"theirs")
    folder.strangers |= {"a/%value", "a/%value/x"}
    with pytest.raises(PathConflict):
        folder.store.set("a", b"1")
    assert folder.keys() == ["mine"]
    assert folder.files()["a/%value/x"] == b"theirs"


def test_reading_a_fifo_does_not_hang(folder: Folder) -> None:
    folder.store.set("k", b"1")
    (folder.root / "k").unlink()
    os.mkfifo(folder.root / "k")
    folder.strangers.add("k")
    folder.store.settle_all()
    with pytest.raises(PathConflict):
        folder.store.get("k")


LOOK = """
import sys, kvfs
with kvfs.open(sys.argv[1], sys.argv[2]) as store:
    print(store.get("k").value.decode())
    try:
        store.get("secret")
    except kvfs.KvfsError as error:
        print(error.code)
"""


def test_a_file_that_nobody_may_read_keeps_no_other_back(folder: Folder) -> None:
    folder.write("secret", b"x").chmod(0)
    folder.write("k", b"1")
    # Root may read everything, unless it gives that up.
    humbly = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*humbly, sys.executable, "-c", LOOK, str(folder.db), TABLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT)
    assert done.stdout.split() == ["1", "FILE_SYSTEM_ERROR"]
    (folder.root / "secret").chmod(0o600)
    assert folder.value("secret") == b"x"
