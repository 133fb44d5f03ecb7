"""A rebuild makes the index anew from the files, loses no past, and says what it found."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import kvfs
from kvfs.errors import InvalidParameters
from kvfs.listing import Query
from tests import invariants, nasty
from tests.directory.conftest import Folder
from tests.programs import connect
from tests.serving import ROOT

WRITER = """
import sys, kvfs
with kvfs.open(sys.argv[1], "site") as store:
    print("open", flush=True)
    for number in range(int(sys.argv[2])):
        store.incr("count")
        store.set(f"own/{number % 40}", b"%d" % number)
"""


def filled(folder: Folder) -> None:
    store = folder.store
    for key in ("a", "a/b", "..", "x~", "n" * 300, "d/e/f.json"):
        store.set(key, key.encode())
    store.set("typed", b"x", content_type="image/png")
    store.set("ttl", b"x", ttl_s=1000)
    store.set("large", nasty.noise(300_000))
    store.set("gone", b"1")
    store.delete("gone")
    store.settle_all()


def test_of_an_unchanged_folder_records_nothing(folder: Folder) -> None:
    filled(folder)
    before = folder.check()
    entries = folder.store.list(Query(values=True)).entries
    rebuilt = folder.store.rebuild()
    assert (rebuilt.changed, rebuilt.recorded) == (0, 0)
    assert rebuilt.keys == rebuilt.survey.files == 9
    assert folder.check() == before
    assert folder.store.list(Query(values=True)).entries == entries


def test_records_each_change_once(folder: Folder) -> None:
    filled(folder)
    folder.write("a/%value", b"edited")
    folder.write("new/one", b"1")
    (folder.root / "d/e/f.json").unlink()
    rebuilt = folder.store.rebuild()
    assert (rebuilt.changed, rebuilt.recorded) == (3, 3)
    assert folder.ops("a") == [("set", "api"), ("set", "file")]
    assert folder.ops("d/e/f.json") == [("set", "api"), ("delete", "file")]
    assert folder.ops("new/one") == [("set", "file")]
    assert folder.store.rebuild().recorded == 0


def test_finds_what_the_index_says_wrongly(folder: Folder) -> None:
    filled(folder)
    folder.close()
    index = connect(folder.home / "site.index")
    with index:
        index.execute("UPDATE files SET sha256 = zeroblob(32), op_number = 77 WHERE key = 'a'")
        index.execute("DELETE FROM files WHERE key = 'typed'")
        index.execute(
            "INSERT INTO files SELECT 'ghost', folder, inode, size, mtime_ns, ctime_ns, sha256, content_type,"
            " created_s, updated_s, expire_ns, op_number FROM files WHERE key = 'ttl'"
        )
    index.close()
    assert folder.store.rebuild().recorded == 0
    folder.check()
    assert folder.store.get("a").op_number == 1
    assert folder.store.get("typed").content_type == "image/png"


def test_keeps_op_numbers_types_and_ttls(folder: Folder) -> None:
    filled(folder)
    before = folder.store.get("ttl")
    folder.store.rebuild()
    assert folder.store.get("ttl").expire_ns == before.expire_ns
    assert folder.store.set("gone", b"2").op_number == 3
    assert folder.store.set("typed", b"y").op_number == 2


def test_tells_what_is_no_key_and_why(folder: Folder) -> None:
    folder.write("key", b"1")
    folder.write("x~", b"1")
    folder.write(".git/objects/1", b"1")
    folder.write("%", b"1")
    os.symlink("key", folder.root / "link")
    os.mkfifo(folder.root / "fifo")
    (folder.root / os.fsdecode(b"\xff.txt")).write_bytes(b"1")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder.root / "socket"))
    survey = folder.store.rebuild().survey
    assert survey.files == 1
    assert survey.ignored == {
        "ignored name": 2,
        "name that no key has": 1,
        "symlink": 1,
        "FIFO": 1,
        "socket": 1,
        "name that is not UTF-8": 1,
    }
    assert survey.examples["name that is not UTF-8"] == ("\\xff.txt",)
    folder.strangers = {"x~", ".git", "%", "link", "fifo", "socket", os.fsdecode(b"\xff.txt")}


def test_tells_how_far_it_is(folder: Folder) -> None:
    for number in range(2500):
        folder.write(f"{number % 10}/{number}", b"%d" % number)
    told: list[tuple[int, int]] = []
    folder.store.rebuild(lambda done, total: told.append((done, total)))
    assert told[0] == (0, 2500)
    assert told[-1] == (2500, 2500)
    assert told == sorted(told)
    assert len(told) > 3


def test_of_a_folder_never_seen_is_its_first_opening(folder: Folder) -> None:
    folder.write("a", b"1")
    rebuilt = folder.store.rebuild()
    assert (rebuilt.keys, rebuilt.recorded) == (1, 1)


def test_of_a_table_is_refused(tmp_path: Path) -> None:
    with kvfs.open(str(tmp_path / "x.db")) as store, pytest.raises(InvalidParameters):
        store.rebuild()


def test_beside_a_writing_program_loses_nothing_and_makes_no_op_twice(tmp_path: Path) -> None:
    db = tmp_path / "db"
    (db / "site/outside").mkdir(parents=True)
    for number in range(300):
        (db / f"site/outside/{number}").write_bytes(b"%d" % number)
    writes = 150
    program = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(db) + "/", str(writes)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    with program:
        assert program.stdout is not None
        program.stdout.readline()
        with kvfs.open(str(db) + "/", "site") as store:
            store.settle_all()
            rounds = 0
            while program.poll() is None or rounds < 2:
                for number in range(rounds % 50, 300, 50):
                    (db / "new").write_bytes(b"again %d" % rounds)
                    (db / "new").rename(db / f"site/outside/{number}")
                store.rebuild()
                rounds += 1
            store.settle_all()
    assert program.returncode == 0
    log = invariants.check_folder(db, "site")
    assert Counter(op.origin for op in log if op.key.startswith(("count", "own/"))) == {"api": 2 * writes}
    edits = Counter(op.key for op in log if op.key.startswith("outside/"))
    assert sum(edits.values()) == 300 + 6 * rounds


def test_passes_over_what_the_folders_own_rules_ignore(folder: Folder) -> None:
    folder.write(".kvfsignore", b"*.tmp\nbuild/\n")
    folder.write("a.tmp", b"1")
    folder.write("build/out/1", b"1")
    folder.write("key", b"1")
    survey = folder.store.rebuild().survey
    assert (survey.files, survey.ignored) == (1, {"ignored by .kvfsignore": 2, "ignored name": 1})
    folder.strangers = {".kvfsignore", "a.tmp", "build"}
