"""Folders that cannot be written to, whole or in part: what can be served is, and no write is half done."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from kvfs.engine import Engine
from kvfs.errors import FileSystemError, KeyExpired, KeyNotFound, KvfsError
from kvfs.handle import Handle
from kvfs.listing import Query
from kvfs.model import INLINE_MAX_BYTES
from kvfs.paths import Paths
from tests.clocks import HurriedClock
from tests.directory.conftest import TABLE, UNWATCHED, Folder, whole
from tests.directory.mounts import read_only
from tests.serving import ROOT

LARGE = b"x" * (4 * INLINE_MAX_BYTES)


@contextmanager
def opened(db: Path, clock: HurriedClock | None = None) -> Iterator[Handle]:
    with (
        Engine(Paths("/", any_absolute=True), clock=clock or HurriedClock(), config=UNWATCHED) as engine,
        engine.lease(str(db), TABLE) as handle,
    ):
        yield handle


def keys(store: Handle) -> list[str]:
    return [entry.key for entry in store.list(Query()).entries]


def refuses_to_write(store: Handle, key: str, reason: str) -> None:
    requests: list[Callable[[], object]] = [
        lambda: store.set(key, b"x"),
        lambda: store.set("new", b"x"),
        lambda: store.set("new/below", b"x"),
        lambda: store.delete(key),
        lambda: store.expire(key, 10),
        lambda: store.incr("number"),
    ]
    for request in requests:
        with pytest.raises(FileSystemError, match=reason):
            request()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; empty again when all is closed."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


# --- on a read-only mount ----------------------------------------------------------------------------


def test_a_read_only_mount_is_served(folder: Folder, tmp_path: Path, temporary: Path) -> None:
    folder.store.set("k", b"1")
    folder.store.set("k", b"2")
    folder.write("d/theirs", b"3")
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount) as store:
        assert keys(store) == ["d/theirs", "k"]
        assert whole(store.get("k")) == b"2"
        assert whole(store.get("d/theirs")) == b"3"
        with pytest.raises(KeyNotFound):
            store.get("nothing")
    assert list(temporary.iterdir()) == []


def test_a_read_only_mount_shows_each_edit_of_those_who_may_write(
    folder: Folder, tmp_path: Path, temporary: Path
) -> None:
    folder.write("k", b"0")
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount) as store:
        for turn in range(20):
            value = b"%d" % turn
            folder.write("k", value)
            folder.write(f"new/{turn:02}", value)
            assert whole(store.get("k")) == value
            assert keys(store)[-1] == f"new/{turn:02}"
        (folder.root / "k").unlink()
        assert "k" not in keys(store)
        with pytest.raises(KeyNotFound):
            store.get("k")
        folder.write("large", LARGE)
        assert whole(store.get("large")) == LARGE
        folder.write("large", LARGE + b"1")
        assert "large" in keys(store)
        assert whole(store.get("large")) == LARGE + b"1"
    assert list(temporary.iterdir()) == []


def test_a_read_only_mount_refuses_writes(folder: Folder, tmp_path: Path, temporary: Path) -> None:
    folder.store.set("k", b"1")
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount) as store:
        refuses_to_write(store, "k", "read-only")
        with store.upload() as upload:
            os.write(upload.fd, LARGE)
            upload.size = len(LARGE)
            with pytest.raises(FileSystemError, match="read-only"):
                store.set("large", upload)
        assert whole(store.get("k")) == b"1"
        assert keys(store) == ["k"]
    assert list(temporary.iterdir()) == []
    assert folder.files() == {"k": b"1"}


def test_a_read_only_mount_knows_the_history_and_numbers_edits_after_it(
    folder: Folder, tmp_path: Path
) -> None:
    clock = folder.clock
    folder.store.set("k", b'{"a":1}', content_type="application/json")
    before_ns = clock()
    folder.store.set("k", b'{"a":2}', content_type="application/json")
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount) as store:
        entry = store.get("k")
        assert (entry.op_number, entry.content_type) == (2, "application/json")
        assert whole(store.get_at("k", before_ns)) == b'{"a":1}'
        folder.write("k", b'{"a":3}')
        assert store.get("k").op_number == 3
        assert whole(store.get_at("k", before_ns)) == b'{"a":1}'


def test_a_read_only_mount_tells_what_a_rollback_would_do(folder: Folder, tmp_path: Path) -> None:
    folder.store.set("k", b"1")
    folder.store.set("runs out", b"1", ttl_s=5)
    then = folder.clock()
    folder.store.set("runs out", b"2", ttl_s=5)
    clock = HurriedClock()
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount, clock) as store:
        folder.write("k", b"2")
        folder.write("new", b"1")
        clock.hurry(10)
        told = store.rollback_table(then, dry_run=True)
        assert [(each.key, each.removed) for each in told.results] == [("k", 0), ("new", 1), ("runs out", 0)]
        with pytest.raises(FileSystemError, match="read-only"):
            store.rollback_table(then)
        assert keys(store) == ["k", "new"]
    assert folder.files() == {"k": b"2", "new": b"1", "runs out": b"2"}


def test_what_was_closed_is_known_on_a_read_only_mount(folder: Folder, tmp_path: Path) -> None:
    for _ in range(3):
        folder.store.set("k", b"1")
    folder.close()
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount) as store:
        assert store.get("k").op_number == 3


def test_what_a_killed_server_wrote_is_known_on_a_read_only_mount(folder: Folder, tmp_path: Path) -> None:
    write = f"import os, kvfs; s = kvfs.open({str(folder.db)!r}, {TABLE!r}); s.set('k', b'1'); os._exit(0)"
    subprocess.run([sys.executable, "-c", write], check=True, cwd=ROOT, timeout=30)
    (folder.home / f"{TABLE}.oplog-shm").unlink(missing_ok=True)
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount) as store:
        assert store.get("k").op_number == 1


def test_a_ttl_runs_out_on_a_read_only_mount(folder: Folder, tmp_path: Path) -> None:
    folder.store.set("k", b"1", ttl_s=5)
    folder.store.set("stays", b"1")
    clock = HurriedClock()
    with read_only(folder.db, tmp_path / "ro") as mount, opened(mount, clock) as store:
        assert keys(store) == ["k", "stays"]
        clock.hurry(10)
        with pytest.raises(KeyExpired):
            store.get("k")
        folder.write("another", b"1")
        assert keys(store) == ["another", "stays"]
        assert (mount / TABLE / "k").exists()


def test_a_folder_that_was_never_opened_is_served_read_only(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "db" / TABLE / "d").mkdir(parents=True)
    (tmp_path / "db" / TABLE / "d" / "k").write_bytes(b"1")
    with read_only(tmp_path / "db", tmp_path / "ro") as mount, opened(mount) as store:
        assert keys(store) == ["d/k"]
    assert list(temporary.iterdir()) == []
    assert [path.name for path in (tmp_path / "db").iterdir()] == [TABLE]


# --- without the rights -------------------------------------------------------------------------------

NOBODY = 65534

AS_NOBODY = """
import sys, kvfs
from kvfs.config import Config
db, table, writes = sys.argv[1:]
with kvfs.open(db, table, create=False, config=Config(watch=False)) as store:
    print(*store.keys())
    for line in writes.split(";"):
        action, key = line.split(" ")
        try:
            print(action, key, {
                "get": lambda: bytes(store.get(key).value).decode(),
                "set": lambda: store.set(key, b"x").op_number,
                "delete": lambda: store.delete(key).op_number,
            }[action]())
        except kvfs.KvfsError as error:
            print(action, key, error.code, error.message)
    print(*store.keys())
"""


def as_nobody(folder: Folder, requests: str) -> list[str]:
    """Lines of what somebody without rights is told."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    # The folders that tests get are for their user alone.
    reach = folder.db
    while (reach := reach.parent) != reach.parent and reach.stat().st_uid == 0:
        reach.chmod(reach.stat().st_mode | 0o011)
    program = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c"]
    done = subprocess.run(
        [*program, AS_NOBODY, str(folder.db), TABLE, requests],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_who_may_not_write_is_served(folder: Folder, tmp_path: Path) -> None:
    folder.store.set("k", b"1")
    folder.write("secret", b"2").chmod(0)
    folder.close()
    before = sorted(os.listdir(folder.home))
    lines = as_nobody(folder, "get k;set k;set new;delete k;get secret;get k")
    assert lines[0] == lines[-1] == "k"
    assert lines[1] == lines[6] == "get k 1"
    for line in lines[2:5]:
        assert "FILE_SYSTEM_ERROR" in line
        assert "read-only" in line
    assert lines[5].startswith("get secret FILE_SYSTEM_ERROR")
    assert sorted(os.listdir(folder.home)) == before


def test_a_log_that_one_may_not_write_to_makes_the_folder_read_only(folder: Folder) -> None:
    folder.store.set("k", b"1")
    folder.close()
    for place in (folder.root, folder.home, folder.home / "tmp", folder.home / "tmp" / TABLE):
        place.chmod(0o777)
    (folder.home / f"{TABLE}.lock").chmod(0o666)
    lines = as_nobody(folder, "get k;set k")
    assert lines[1] == "get k 1"
    assert "FILE_SYSTEM_ERROR" in lines[2]
    assert "read-only" in lines[2]


def test_a_sticky_folder_keeps_files_of_others(folder: Folder) -> None:
    folder.store.set("k", b"1")
    folder.close()
    for place in (folder.root, folder.home, folder.home / "tmp", folder.home / "tmp" / TABLE):
        place.chmod(0o777)
    for file in folder.home.glob(f"{TABLE}.*"):
        file.chmod(0o666)
    folder.root.chmod(0o1777)
    lines = as_nobody(folder, "set k;delete k;set mine;set mine;delete mine;get k")
    assert "sticky" in lines[1]
    assert "sticky" in lines[2]
    assert lines[3:7] == ["set mine 1", "set mine 2", "delete mine 3", "get k 1"]


# --- in part -----------------------------------------------------------------------------------------


@contextmanager
def attribute(path: Path, letter: str) -> Iterator[None]:
    """What chattr(1) gives a file, for a while."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a file immutable")
    done = subprocess.run(["chattr", f"+{letter}", str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"chattr cannot do that here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{letter}", str(path)], check=True)


def changes_nothing(folder: Folder, request: Callable[[], object], reason: str) -> None:
    """The request fails before anything is committed, and the store goes on."""
    folder.store.settle_all()
    before, ops = folder.files(), len(folder.check())
    with pytest.raises(FileSystemError, match=reason) as caught:
        request()
    assert caught.value.details.get("outcome") is None
    assert folder.files() == before
    assert len(folder.check()) == ops
    folder.store.set("elsewhere", b"%d" % ops)
    assert folder.value("elsewhere") == b"%d" % ops


@pytest.mark.parametrize("letter", ["i", "a"])
def test_an_immutable_file_stays(folder: Folder, letter: str) -> None:
    folder.store.set("d/k", b"1")
    folder.store.set("d/other", b"1")
    with attribute(folder.root / "d" / "k", letter):
        changes_nothing(folder, lambda: folder.store.set("d/k", b"2"), "immutable")
        changes_nothing(folder, lambda: folder.store.delete("d/k"), "immutable")
        changes_nothing(folder, lambda: folder.store.set("d/k/below", b"2"), "not permitted")
        assert folder.value("d/k") == b"1"
        folder.store.set("d/other", b"2")
    folder.store.set("d/k", b"2")
    assert folder.ops("d/k") == [("set", "api"), ("set", "api")]


def test_an_immutable_own_value_stays(folder: Folder) -> None:
    folder.store.set("d", b"1")
    folder.store.set("d/k", b"1")
    with attribute(folder.root / "d" / "%value", "i"):
        changes_nothing(folder, lambda: folder.store.set("d", b"2"), "immutable")
        changes_nothing(folder, lambda: folder.store.delete("d"), "immutable")
        folder.store.set("d/k", b"2")


def test_an_immutable_folder_stays(folder: Folder) -> None:
    folder.store.set("d/k", b"1")
    with attribute(folder.root / "d", "i"):
        for key in ("d/k", "d/new", "d/e/f"):
            changes_nothing(folder, partial(folder.store.set, key, b"2"), "denied|not permitted")
        changes_nothing(folder, lambda: folder.store.delete("d/k"), "denied")
        assert folder.value("d/k") == b"1"


def test_a_folder_that_can_only_be_added_to_keeps_what_it_has(folder: Folder) -> None:
    folder.store.set("d/k", b"1")
    with attribute(folder.root / "d", "a"):
        changes_nothing(folder, lambda: folder.store.set("d/k", b"2"), "only be added to")
        changes_nothing(folder, lambda: folder.store.delete("d/k"), "only be added to")
    folder.store.delete("d/k")


def test_a_table_on_a_read_only_mount_beside_a_writable_state_refuses_writes(folder: Folder) -> None:
    folder.store.set("k", b"1")
    folder.close()
    real = folder.root.rename(folder.db / "real")
    with read_only(real, folder.root):
        (folder.db / "real" / "new").write_bytes(b"2")
        assert folder.keys() == ["k", "new"]
        requests: list[Callable[[], object]] = [
            lambda: folder.store.set("k", b"2"),
            lambda: folder.store.delete("k"),
        ]
        for request in requests:
            with pytest.raises(FileSystemError, match="read-only"):
                request()
        assert folder.value("k") == b"1"
        folder.close()
    folder.root.rmdir()
    real.rename(folder.root)
    assert folder.ops("k") == [("set", "api")]


def test_a_read_only_folder_inside_keeps_no_other_back(folder: Folder, tmp_path: Path) -> None:
    folder.store.set("k", b"1")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "theirs").write_bytes(b"1")
    with read_only(inside, folder.root / "d"):
        assert folder.keys() == ["d/theirs", "k"]
        requests: list[Callable[[], object]] = [
            lambda: folder.store.set("d/theirs", b"2"),
            lambda: folder.store.delete("d/theirs"),
        ]
        for request in requests:
            with pytest.raises(KvfsError, match="read-only"):
                request()
        folder.store.set("k", b"2")
        assert folder.value("d/theirs") == b"1"
    (folder.root / "d").rmdir()
