"""What fails below the server: full disks, locks of other programs, damaged files, no more descriptors, time.

Each failure says so in its own code, changes nothing, and is over as soon as its cause is.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import kvfs
from tests import nasty
from tests.crash.tracing import traced
from tests.http.launching import Launched, Server, serving
from tests.http.locking import locked
from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, Connection, Endpoint, refused, request, target_of
from tests.limits import limited
from tests.polling import eventually

DEADLINE = "Request deadline exceeded before commit"
ANY_PATH = "--allow-any-absolute-db-path"
MIB = 1 << 20


@contextmanager
def _connections(server: Endpoint, number: int) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(server.connect()) for _ in range(number)]


# --- a full disk ---------------------------------------------------------------------------------------


class Disk(NamedTuple):
    """A small file system with a server of its own."""

    path: Path
    server: Launched

    @contextmanager
    def store(self, kind: str) -> Iterator[Store]:
        """An empty store there, checked at the end and gone then."""
        home = self.path / "store"
        try:
            with Store(self.server, home, directory=kind == "directory") as store:
                yield store
            store.check()
            if kind == "table":
                target = target_of(f"{BASE}/db", db=store.db, confirm="yes")
                assert self.server.ask("DELETE", target).status == 200
        finally:
            (self.path / "filler").unlink(missing_ok=True)
            shutil.rmtree(home)

    def fill(self, *, leave: int) -> None:
        status = os.statvfs(self.path)
        with (self.path / "filler").open("wb") as filler:
            filler.write(b"\0" * (status.f_bavail * status.f_frsize - leave))

    def clear(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    home = tmp_path_factory.mktemp("disk")
    path = home / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.strip()}")
    try:
        with serving(home, ANY_PATH) as server:
            yield Disk(path, server)
            server.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("kind", ["table", "directory"])
@pytest.mark.parametrize("size", [100_000, 700_000])
def test_a_full_disk_is_507_and_nothing_is_lost(disk: Disk, kind: str, size: int) -> None:
    first, second = nasty.noise(size, 1), nasty.noise(size, 2)
    with disk.store(kind) as store:
        store.put("old", first)
        disk.fill(leave=size // 2)
        with store.unchanged():
            refused(store.ask("PUT", "new", body=second), 507, "STORAGE_FULL")
            refused(store.ask("PUT", "old", body=second), 507, "STORAGE_FULL")
            assert store.get("old") == first
        disk.clear()
        store.put("old", second)
        store.put("new", second)
        assert (store.get("old"), store.get("new")) == (second, second)


@pytest.mark.parametrize("kind", ["table", "directory"])
def test_a_disk_without_a_free_byte_is_507_sooner_or_later_for_small_writes_too(
    disk: Disk, kind: str
) -> None:
    with disk.store(kind) as store:
        store.put("k", b"0")
        disk.fill(leave=0)
        written = 0
        # What is left of the pages that are there already takes some writes.
        while (answer := store.ask("POST", "k", "incr")).status == 200:
            written += 1
            assert written < 10_000
        refused(answer, 507, "STORAGE_FULL")
        with store.unchanged():
            refused(store.ask("POST", "k", "incr"), 507, "STORAGE_FULL")
            assert store.get("k") == str(written).encode()
        disk.clear()
        assert store.ask("POST", "k", "incr").done()["value"] == written + 1


# --- locks of other programs ---------------------------------------------------------------------------


def test_a_database_that_stays_locked_is_503_when_the_time_is_over(table: Store) -> None:
    table.put("k", b"1")
    writes = (("PUT", "", b"2"), ("DELETE", "", None), ("POST", "incr", None))
    with table.unchanged(), _connections(table.server, len(writes)) as connections:
        with locked(table.db):
            began = time.monotonic()
            for connection, (method, action, body) in zip(connections, writes, strict=True):
                connection.send(request(method, table.target("k", action, timeout=1), body))
            answers = [connection.answer() for connection in connections]
            assert 0.9 < time.monotonic() - began < 6
            assert table.get("k") == b"1"
            assert table.ask("GET").done()["keys"] == ["k"]
        # Those that were still in the queue have another code than those that waited for the lock.
        assert "OVERLOADED" in {answer.json()["code"] for answer in answers}
        for answer in answers:
            if answer.json()["code"] == "OVERLOADED":
                refused(answer, 503, "OVERLOADED")
                assert int(answer.headers["Retry-After"]) >= 1
            else:
                refused(answer, 503, "DEADLINE_EXCEEDED", DEADLINE)
    assert table.put("k", b"2", timeout=5)["op_number"] == 2


def test_a_write_waits_for_a_lock_and_succeeds(table: Store) -> None:
    table.put("k", b"1")
    with table.server.connect() as connection:
        with locked(table.db):
            connection.send(request("PUT", table.target("k", timeout=20), b"2"))
            # Whoever only reads is not kept waiting.
            assert table.get("k") == b"1"
            assert connection.silent()
        assert connection.answer().done()["op_number"] == 2


def test_a_database_that_is_locked_when_it_is_opened_is_503_in_time(server: Server, tmp_path: Path) -> None:
    """No database of ours yet: to become one, it needs the lock."""
    with ExitStack() as locks, _connections(server, 4) as connections:
        targets = []
        for how in ("IMMEDIATE", "EXCLUSIVE"):
            db = tmp_path / f"{how}.db"
            with closing(sqlite3.connect(db)) as foreign:
                foreign.execute("CREATE TABLE t (x)")
            locks.enter_context(locked(db, f"BEGIN {how}"))
            target = target_of(f"{BASE}/kv/k", db=db, timeout=1)
            targets += [("GET", target, None), ("PUT", target, b"1")]
        began = time.monotonic()
        for connection, (method, target, body) in zip(connections, targets, strict=True):
            connection.send(request(method, target, body))
        # Others are served meanwhile.
        assert server.ask("GET", f"{BASE}/health").status == 200
        for connection in connections:
            # Both codes are true: it stayed locked, and the time is over.
            answer = connection.answer()
            refused(answer, 503, "OVERLOADED" if "Retry-After" in answer.headers else "DEADLINE_EXCEEDED")
        assert time.monotonic() - began < 6
    for db in tmp_path.glob("*.db"):
        with closing(sqlite3.connect(db)) as foreign:
            assert [*foreign.execute("SELECT name FROM sqlite_schema")] == [("t",)]
        answer = server.ask("GET", target_of(f"{BASE}/kv/k", db=db, timeout=10))
        refused(answer, 404, "KEY_NOT_FOUND")


def test_a_full_queue_is_503_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "home", "--max-queue", "1", ANY_PATH) as server:
        with (
            Store(server, tmp_path / "store", directory=False) as store,
            server.connect() as one,
            server.connect() as other,
        ):
            store.put("k", b"0")
            with locked(store.db):
                for connection in (one, other):
                    connection.send(request("POST", store.target("k", "incr", timeout=20)))
                began = time.monotonic()
                eventually(lambda: not (one.silent() and other.silent()), 5, "one of them is refused")
                assert time.monotonic() - began < 5
                refused_one, waiting = (other, one) if one.silent() else (one, other)
                answer = refused_one.answer()
                refused(answer, 503, "OVERLOADED")
                assert int(answer.headers["Retry-After"]) >= 1
                assert store.get("k") == b"0"
            assert waiting.answer().done()["value"] == 1
            assert refused_one.ask("POST", store.target("k", "incr")).done()["value"] == 2
        server.stop()


# --- time ----------------------------------------------------------------------------------------------


def test_a_body_that_comes_too_slowly_is_503_and_leaves_nothing(
    server: Server, table: Store, folder: Store
) -> None:
    bodies = [(100_000, 1), (MIB, 1), (MIB, 0), (MIB, -7)]
    table.put("k", b"1")
    folder.put("k", b"1")
    with (
        table.unchanged(),
        folder.unchanged(),
        server.nothing_left_open(),
        _connections(server, 2 * len(bodies)) as connections,
    ):
        began = time.monotonic()
        for connection, (store, (size, timeout)) in zip(
            connections, itertools.product((table, folder), bodies), strict=True
        ):
            connection.send(request("PUT", store.target("k", timeout=timeout), b"x" * size)[: size // 2])
        for connection in connections:
            refused(connection.answer(), 503, "DEADLINE_EXCEEDED", DEADLINE)
        assert 0.9 < time.monotonic() - began < 6


# --- damage --------------------------------------------------------------------------------------------


def _damage(path: Path) -> None:
    """Overwrite all but the header that tells a database from other files."""
    content = bytearray(path.read_bytes())
    content[100:] = nasty.noise(len(content) - 100)
    path.write_bytes(content)


def test_a_damaged_database_is_500_and_others_are_served(
    server: Server, table: Store, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.db"
    connection = sqlite3.connect(damaged)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("CREATE TABLE kv_store (key TEXT PRIMARY KEY, value)")
    connection.executemany("INSERT INTO kv_store VALUES (?, ?)", [(f"k{n}", "v" * 500) for n in range(100)])
    connection.commit()
    connection.close()
    _damage(damaged)
    content = damaged.read_bytes()
    table.put("k", b"1")
    for method, path, body in (
        ("GET", "/kv/k1", None),
        ("PUT", "/kv/k1", b"1"),
        ("DELETE", "/kv/k1", None),
        ("POST", "/kv/k1/incr", None),
        ("POST", "/kv/batch/get", b'{"keys": ["k1"]}'),
        ("GET", "/kv", None),
    ):
        answer = server.ask(method, target_of(BASE + path, db=damaged), body)
        refused(answer, 500, "DATABASE_ERROR")
        assert table.get("k") == b"1"
    table.put("k", b"2")
    degraded = server.ask("GET", f"{BASE}/health")
    assert (degraded.status, degraded.json()["status"]) == (503, "degraded")
    assert damaged.read_bytes() == content
    damaged.unlink()
    assert server.ask("GET", f"{BASE}/health").done()["status"] == "ok"


def test_a_damaged_page_is_500_for_what_needs_it(server: Server, tmp_path: Path) -> None:
    """The database opens, and only reading or writing comes upon the damage."""
    db = tmp_path / "file.db"
    with kvfs.open(str(db), TABLE) as handle:
        for number in range(50):
            handle.set(f"k{number}", nasty.noise(900, number))
    content = bytearray(db.read_bytes())
    content[8 * 1024 :] = b"\xff" * (len(content) - 8 * 1024)
    db.write_bytes(content)
    answers = [server.ask("GET", target_of(f"{BASE}/kv/k{n}", db=db, table=TABLE)) for n in range(50)]
    damaged = [answer for answer in answers if answer.status != 200]
    assert damaged
    for answer in damaged:
        refused(answer, 500, "DATABASE_ERROR")
    put = server.ask("PUT", target_of(f"{BASE}/kv/k1", db=db, table=TABLE), b"new")
    refused(put, 500, "DATABASE_ERROR")
    db.unlink()
    assert server.ask("GET", f"{BASE}/health").status == 200


@pytest.mark.parametrize("how", ["damaged", "no database"])
def test_a_damaged_op_log_is_500_and_the_files_stay(
    server: Server, folder: Store, tmp_path: Path, how: str
) -> None:
    other = tmp_path / "db"
    (other / ".kvfs").mkdir(parents=True)
    (other / TABLE).mkdir()
    (other / TABLE / "k").write_bytes(b"1")
    folder.put("k", b"1")
    folder.disconnect()
    with sqlite3.connect(folder.db / ".kvfs" / f"{TABLE}.oplog") as source:
        copy = sqlite3.connect(other / ".kvfs" / f"{TABLE}.oplog")
        source.backup(copy)
        copy.close()
    source.close()
    log = other / ".kvfs" / f"{TABLE}.oplog"
    if how == "damaged":
        _damage(log)
    else:
        log.write_bytes(nasty.noise(4096))
    for method, body in (("GET", None), ("PUT", b"2")):
        answer = server.ask(method, target_of(f"{BASE}/kv/k", db=other, table=TABLE), body)
        refused(answer, 500, "DATABASE_ERROR")
    assert (other / TABLE / "k").read_bytes() == b"1"
    assert folder.get("k") == b"1"
    shutil.rmtree(other)


def test_a_store_that_the_server_may_not_write_beside_is_never_written(tmp_path: Path) -> None:
    """On a read-only file system, since permissions alone would not keep out root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    for db in (disk / "file.db", f"{disk}/db/"):
        with kvfs.open(str(db), TABLE) as handle:
            handle.set("k", b"1")
    bind = ["mount", "--bind", str(disk), str(disk)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        with serving(tmp_path / "home", ANY_PATH) as server:
            for name, code in (("file.db", "DATABASE_ERROR"), ("db", "FILE_SYSTEM_ERROR")):
                target = target_of(f"{BASE}/kv/k", db=disk / name, table=TABLE)
                refused(server.ask("PUT", target, b"2"), 500, code)
            got = server.ask("GET", target_of(f"{BASE}/kv/k", db=disk / "db", table=TABLE))
            assert (got.status, got.body, got.headers["ETag"]) == (200, b"1", '"1"')
            server.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_file_system_that_refuses_is_500(tmp_path: Path) -> None:
    """No descriptors are left: nothing can be opened, nor the folder of a file that is still open."""
    # Not watched: whoever looks at the folder as well may have the connection that a read needs.
    with serving(tmp_path / "home", ANY_PATH, "--no-watch") as server:
        with Store(server, tmp_path / "store", directory=True) as store:
            store.put("in/k", b"1")
            with store.unchanged(), limited(server.pid, resource.RLIMIT_NOFILE, 4):
                for method, action, body in (
                    ("GET", "", None),
                    ("GET", "entry", None),
                    ("PUT", "", b"2"),
                    ("POST", "incr", None),
                    # The last: the server closes the connection then, and could take no other.
                    ("PUT", "", b"2" * MIB),
                ):
                    refused(store.ask(method, "in/k", action, body=body), 500, "FILE_SYSTEM_ERROR")
            assert store.put("in/k", b"2")["op_number"] == 2
        server.stop()
        store.check()


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_database_that_could_not_be_opened_once_is_not_read_only_from_then_on(
    tmp_path: Path, failing: int
) -> None:
    """SQLite opens a file for reading where it cannot be opened for writing, whatever the reason."""
    path = tmp_path / "data/t.db"
    path.parent.mkdir()
    with kvfs.open(str(path)) as table:
        table.set("k", b"1")
    put = target_of(f"{BASE}/kv/k", db="t")
    with serving(tmp_path) as server:
        with traced(
            server.pid, ["openat"], [f"openat:error=EIO:when={failing}"], tmp_path / "trace", path=path
        ):
            server.ask("PUT", put, b"2")
        assert server.ask("PUT", put, b"3").status == 200
        assert server.ask("GET", put).body == b"3"
        server.stop()
