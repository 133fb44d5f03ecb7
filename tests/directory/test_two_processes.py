"""Two programs on one store take turns, and neither loses anything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import kvfs
from kvfs.handle import Handle
from tests import invariants
from tests.polling import eventually
from tests.serving import ROOT

TABLE = "shared"
PROCESSES = 3
WRITES = 60

WRITER = """
import sys, kvfs
path, table, me, writes = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
with kvfs.open(path, table) as store:
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(writes):
        store.incr("count")
        store.push("list", b'"%s-%d"' % (me.encode(), number))
        store.set(f"own/{me}/{number}", me.encode())
        if number % 10 == 9:
            store.delete(f"own/{me}/{number - 5}")
        assert store.get(f"own/{me}/{number}").value == me.encode()
"""


@pytest.fixture(params=["table", "directory"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A database file, or a directory; checked at the end."""
    db = tmp_path / "db"
    if request.param == "directory":
        db.mkdir()
    yield db
    if request.param == "directory":
        invariants.check_folder(db, TABLE)
    else:
        invariants.check_table(db)


def writer(db: Path, me: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(db), TABLE, me, str(WRITES)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_programs_that_write_at_the_same_time_lose_nothing(db: Path) -> None:
    with kvfs.open(str(db), TABLE) as store:
        store.set("first", b"1")
    with ExitStack() as stack:
        writers = [stack.enter_context(writer(db, f"w{number}")) for number in range(PROCESSES)]
        for process in writers:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        for process in writers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(50) for process in writers] == [0] * PROCESSES
    with kvfs.open(str(db), TABLE) as store:
        assert store.get("count").value == b"%d" % (PROCESSES * WRITES)
        assert store.get("count").op_number == PROCESSES * WRITES
        assert store.get("list").op_number == PROCESSES * WRITES
        owners = Counter(key.split("/")[1] for key in store.keys("own/"))
        assert owners == {f"w{number}": WRITES - WRITES // 10 for number in range(PROCESSES)}


def test_programs_that_make_a_store_at_the_same_time_all_succeed(db: Path) -> None:
    for round_number in range(10):
        table = TABLE if round_number == 0 else f"{TABLE}{round_number}"
        with ExitStack() as stack:
            stores = [stack.enter_context(kvfs.open(str(db), table)) for _ in range(4)]
            with ThreadPoolExecutor(4) as pool:
                numbers = [*pool.map(lambda store: store.incr("n").number, stores)]
        assert sorted(number or 0 for number in numbers) == [1, 2, 3, 4]


@pytest.fixture
def pair(db: Path) -> Iterator[tuple[Handle, Handle]]:
    """The same store opened twice, as two programs would."""
    with kvfs.open(str(db), TABLE) as one:
        one.set("first", b"1")
        with kvfs.open(str(db), TABLE) as other:
            yield one, other


def test_what_one_writes_the_other_reads_at_once(pair: tuple[Handle, Handle]) -> None:
    one, other = pair
    assert other.get("first").value == b"1"
    for number in range(20):
        one.set("k", b"%d" % number)
        assert other.get("k").value == b"%d" % number
        other.set("l", b"%d" % number)
        assert [*one.keys()] == ["first", "k", "l"]
        assert one.get("l").op_number == number + 1
    other.delete("k")
    assert [*one.keys()] == ["first", "l"]
    assert one.set("k", b"x").op_number == 22


def test_a_store_that_another_program_makes_is_seen(db: Path) -> None:
    with kvfs.open(str(db), TABLE) as one, kvfs.open(str(db), TABLE) as other:
        assert [*one.keys()] == []
        assert [*other.keys()] == []
        one.set("k", b"1")
        assert [*other.keys()] == ["k"]
        assert other.get("k").value == b"1"
        assert other.set("k", b"2").op_number == 2
        assert one.get("k").value == b"2"


def test_a_table_that_another_program_makes_can_be_written_to(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with kvfs.open(path, "one") as one, kvfs.open(path, "two") as other:
        one.set("k", b"1")
        other.set("k", b"1")
        with kvfs.open(path, "three") as third, kvfs.open(path, "three") as again:
            third.set("k", b"1")
            assert again.set("k", b"2").op_number == 2
    invariants.check_table(path)


def test_an_expiry_is_logged_once(pair: tuple[Handle, Handle]) -> None:
    one, other = pair
    one.set("k", b"1", ttl_s=1)
    eventually(lambda: "k" not in set(other.keys()), 3, "the key runs out")
    assert other.set("k", b"2").op_number == 3
    assert one.set("k", b"3").op_number == 4
