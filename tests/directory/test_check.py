"""`check` names every difference between files, index and op-log, and no other, and changes nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kvfs
from kvfs.directory.check import Checked, check
from tests import nasty
from tests.directory.conftest import TABLE, UNWATCHED, Folder
from tests.programs import connect
from tests.serving import ROOT

WRITER = """
import sys, os, kvfs
with kvfs.open(sys.argv[1], "site") as store:
    print("open", flush=True)
    for number in range(100000):
        store.set(f"own/{number % 40}", b"%d" % number)
        store.set(f"blob/{number % 3}", os.urandom(1 << 21) if number % 20 == 0 else b"small")
        if number % 10 == 9:
            store.delete(f"own/{number % 40}")
"""


def filled(folder: Folder) -> None:
    """A store with something of each, at rest, closed."""
    store = folder.store
    for key in ("a", "a/b", "..", "x~", "n" * 300, "d/e/f.json"):
        store.set(key, key.encode())
    store.set("ttl", b"x", ttl_s=1000)
    store.set("large", nasty.noise(300_000))
    store.set("huge", nasty.noise(2_000_000))
    store.set("changed", b"1", history=False)
    store.set("gone", b"1")
    store.delete("gone")
    folder.write("outside.md", b"# text")
    store.settle_all()
    folder.close()


def found(folder: Folder, *, full: bool = False) -> list[tuple[str, str | None]]:
    """The kinds of the differences, with their keys."""
    return [(each.kind, each.key) for each in checked(folder, full=full).differences]


def checked(folder: Folder, *, full: bool = False) -> Checked:
    return check(str(folder.db), TABLE, full=full)


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files below a folder: what is in them, and when they and their folders were written to."""
    seen = {}
    for parent, _, names in os.walk(folder):
        for name in [".", *names]:
            path = Path(parent, name)
            data = path.read_bytes() if path.is_file() else b""
            status = path.lstat()
            seen[str(path)] = hashlib.sha256(data).digest(), status.st_mtime_ns
    return seen


@pytest.fixture
def spoilt(folder: Folder) -> Folder:
    """A folder store that a test may spoil: it is not checked at the end."""
    filled(folder)
    spoilt = Folder(folder.db.parent / "spoilt")
    shutil.rmtree(spoilt.db)
    shutil.copytree(folder.db, spoilt.db, symlinks=True)
    with kvfs.open(str(spoilt.db), TABLE, config=UNWATCHED) as store:
        store.settle_all()
    return spoilt


def in_log(folder: Folder, sql: str) -> None:
    run_sql(folder.home / "site.oplog", sql)


def in_index(folder: Folder, sql: str) -> None:
    run_sql(folder.home / "site.index", sql)


def run_sql(path: Path, sql: str) -> None:
    connection = connect(path)
    connection.execute(sql)
    connection.close()


# --- no false alarms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_a_store_at_rest_is_clean(folder: Folder, full: bool) -> None:
    filled(folder)
    found = checked(folder, full=full)
    assert found.clean, found.differences
    assert (found.files, found.keys, found.ops) == (11, 11, 13)
    assert not found.notes


def test_a_store_that_is_open_is_clean(folder: Folder) -> None:
    store = folder.store
    for number in range(20):
        store.set(f"k{number}", b"1")
        assert found(folder, full=True) == []


def test_what_is_written_meanwhile_is_no_difference(folder: Folder) -> None:
    filled(folder)
    program = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder.db) + "/"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    with program:
        try:
            assert program.stdout is not None
            program.stdout.readline()
            ops = 0
            for full in (False, True) * 4:
                found = checked(folder, full=full)
                assert found.clean, found.differences
                assert found.ops >= ops
                ops = found.ops
            assert program.poll() is None
        finally:
            program.kill()
    folder.store.settle_all()


def test_a_key_whose_ttl_has_run_out_is_no_difference(folder: Folder) -> None:
    folder.store.set("k", b"1", ttl_s=1)
    folder.clock.hurry(10)
    assert found(folder) == []


def test_a_touched_file_is_no_difference(folder: Folder) -> None:
    filled(folder)
    os.utime(folder.root / "a/b", (1, 1))
    assert found(folder) == []


def test_what_is_no_key_is_a_note(folder: Folder) -> None:
    filled(folder)
    folder.write("x~", b"1")
    folder.write(".git/config", b"1")
    os.symlink("a", folder.root / "link")
    os.mkfifo(folder.root / "fifo")
    (folder.root / os.fsdecode(b"\xff\x1b[1m")).write_bytes(b"1")
    result = checked(folder)
    assert result.clean
    assert sorted((note.kind, note.path) for note in result.notes) == [
        ("FIFO", "fifo"),
        ("ignored name", None),
        ("name that is not UTF-8", "\\xff\\x1b[1m"),
        ("symlink", "link"),
    ]
    folder.strangers = {"x~", ".git", "link", "fifo", os.fsdecode(b"\xff\x1b[1m")}


# --- nothing is changed ------------------------------------------------------------------------------------


def test_nothing_is_changed_in_a_closed_store(folder: Folder) -> None:
    filled(folder)
    before = everything(folder.db)
    checked(folder, full=True)
    assert everything(folder.db) == before


def test_nothing_is_changed_after_a_crash(folder: Folder) -> None:
    script = (
        "import sys, os, kvfs\n"
        "store = kvfs.open(sys.argv[1], 'site')\n"
        "for n in range(20): store.set(f'k{n}', b'1')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(folder.db) + "/"], cwd=ROOT, check=True)
    assert (folder.home / "site.oplog-wal").stat().st_size > 0
    before = everything(folder.db)
    result = checked(folder, full=True)
    assert everything(folder.db) == before
    assert (result.clean, result.keys) == (True, 20)
    (folder.home / "site.oplog-shm").unlink()
    (folder.home / "site.index-shm").unlink()
    before = everything(folder.db)
    assert checked(folder, full=True).clean
    assert everything(folder.db) == before


def test_nothing_is_made_in_a_folder_never_seen(folder: Folder) -> None:
    folder.write("a", b"1")
    assert found(folder) == [("log-missing", None), ("unrecorded", "a")]
    assert not folder.home.exists()


# --- every difference is named -----------------------------------------------------------------------------


def test_what_was_done_to_files_is_named(spoilt: Folder) -> None:
    spoilt.write("a/b", b"edited")
    spoilt.write("new", b"1")
    spoilt.write("gone", b"back")
    (spoilt.root / "d/e/f.json").unlink()
    (spoilt.root / "large").unlink()
    os.symlink("a", spoilt.root / "large")
    assert found(spoilt) == [
        ("edited", "a/b"),
        ("file-missing", "d/e/f.json"),
        ("unrecorded", "gone"),
        ("file-missing", "large"),
        ("unrecorded", "new"),
    ]


def test_an_edit_that_no_signature_tells_is_named_by_a_full_check(spoilt: Folder) -> None:
    # As a store to a page of a mapped file that was dirty already does, which changes no time.
    path = spoilt.write("a/b", b"A/B")
    status = path.stat()
    in_index(
        spoilt,
        f"UPDATE files SET inode = {status.st_ino}, mtime_ns = {status.st_mtime_ns},"
        f" ctime_ns = {status.st_ctime_ns} WHERE key = 'a/b'",
    )
    assert found(spoilt) == []
    assert found(spoilt, full=True) == [("disguised", "a/b")]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM files WHERE key = 'a'", ("row-missing", "a")),
        ("UPDATE files SET op_number = 9 WHERE key = 'a'", ("row-wrong", "a")),
        ("UPDATE files SET content_type = 'x/y' WHERE key = 'a'", ("row-wrong", "a")),
        ("UPDATE files SET expire_ns = 5 WHERE key = 'ttl'", ("row-wrong", "ttl")),
        ("UPDATE files SET sha256 = zeroblob(32) WHERE key = 'a'", ("row-wrong", "a")),
        (
            "INSERT INTO files SELECT 'gone', folder, inode, size, mtime_ns, ctime_ns, sha256, content_type,"
            " created_s, updated_s, expire_ns, op_number FROM files WHERE key = 'ttl'",
            ("row-extra", "gone"),
        ),
        ("UPDATE meta SET value = 3 WHERE name = 'applied_seq'", ("index-behind", None)),
        ("UPDATE meta SET value = 'other' WHERE name = 'log_id'", ("index-foreign", None)),
        ("DROP TABLE meta", ("index-damaged", None)),
    ],
)
def test_what_is_wrong_with_the_index_is_named(spoilt: Folder, sql: str, expected: tuple[str, str]) -> None:
    in_index(spoilt, sql)
    assert found(spoilt) == [expected]


def test_a_missing_index_is_named(spoilt: Folder) -> None:
    (spoilt.home / "site.index").unlink()
    assert found(spoilt) == [("index-missing", None)]


def test_a_damaged_index_is_named(spoilt: Folder) -> None:
    (spoilt.home / "site.index").write_bytes(nasty.noise(5000))
    assert found(spoilt) == [("index-damaged", None)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM kvfs_oplog_files WHERE seq = 11", {("log-hole", None), ("log-hole", "gone")}),
        ("UPDATE kvfs_oplog_files SET ts_ns = 1 WHERE seq = 5", {("log-disorder", "n" * 300)}),
        ("UPDATE kvfs_oplog_files SET op_number = 3 WHERE seq = 1", {("log-hole", "a"), ("row-wrong", "a")}),
        (
            "DELETE FROM kvfs_oplog_files WHERE seq = 13",
            {("row-extra", "outside.md"), ("unrecorded", "outside.md")},
        ),
    ],
)
def test_what_is_wrong_with_the_log_is_named(
    spoilt: Folder, sql: str, expected: set[tuple[str, str]]
) -> None:
    in_log(spoilt, sql)
    assert set(found(spoilt)) == expected


def test_a_wrong_value_in_the_log_is_named_by_a_full_check(spoilt: Folder) -> None:
    in_log(spoilt, "UPDATE kvfs_oplog_files SET value = 'other' WHERE seq = 1")
    assert found(spoilt) == []
    assert found(spoilt, full=True) == [("value-wrong", "a")]


@pytest.mark.parametrize("full", [False, True])
def test_text_in_the_log_that_is_none_is_named(spoilt: Folder, full: bool) -> None:
    in_log(spoilt, "UPDATE kvfs_oplog_files SET content_type = CAST(x'ff' AS TEXT) WHERE seq = 2")
    in_log(spoilt, "UPDATE kvfs_oplog_files SET value = CAST(x'ff' AS TEXT) WHERE seq = 3")
    wrong_values = [("value-wrong", "..")] if full else []
    assert found(spoilt, full=full) == [("log-damaged", None), ("log-damaged", "a/b"), *wrong_values]


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_a_damaged_log_is_named(spoilt: Folder, size: int) -> None:
    log = spoilt.home / "site.oplog"
    log.write_bytes(log.read_bytes()[:size])
    assert ("log-damaged", None) in found(spoilt)


def only_blob(folder: Folder) -> Path:
    (blob,) = (folder.home / "site.blobs").glob("*/*")
    return blob


def spoil(blob: Path) -> None:
    blob.write_bytes(nasty.noise(2_000_000)[::-1])


def cut(blob: Path) -> None:
    blob.write_bytes(b"short")


@pytest.mark.parametrize(
    ("change", "full", "expected"),
    [
        (Path.unlink, False, [("blob-missing", "huge")]),
        (cut, False, [("blob-wrong", "huge")]),
        (spoil, False, []),
        (spoil, True, [("blob-wrong", "huge")]),
    ],
)
def test_a_damaged_blob_is_named(
    spoilt: Folder, change: Callable[[Path], None], full: bool, expected: list[tuple[str, str]]
) -> None:
    change(only_blob(spoilt))
    assert found(spoilt, full=full) == expected


def test_blobs_and_temporary_files_that_nobody_needs_are_named(spoilt: Folder) -> None:
    extra = spoilt.home / "site.blobs/00" / ("0" * 64)
    extra.parent.mkdir(exist_ok=True)
    extra.write_bytes(b"1")
    (spoilt.home / "site.blobs/.new-1").write_bytes(b"1")
    (spoilt.home / "tmp/site/17").write_bytes(b"1")
    assert found(spoilt) == [("blob-extra", None), ("leftover", None), ("leftover", None)]


@pytest.fixture
def pruned(spoilt: Folder) -> Folder:
    """The same with a pruned log: of x, y and z the first op is gone, and those of others lie before that."""
    for number in range(3):
        for key in ("x", "y", "z"):
            spoilt.store.set(key, b"%d" % number)
    assert spoilt.store.prune(keep_last=2).keys == 3
    spoilt.close()
    return spoilt


def test_what_was_pruned_is_no_difference(pruned: Folder) -> None:
    assert found(pruned, full=True) == []


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("key = 'gone' AND op_number = 2", {("log-hole", None)}),
        ("key = 'a'", {("log-hole", None), ("unrecorded", "a"), ("row-extra", "a")}),
        ("key = 'x' AND op_number = 2", {("log-hole", None)}),
        ("seq = (SELECT max(seq) FROM kvfs_oplog_files)", {("edited", "z"), ("row-wrong", "z")}),
    ],
)
def test_what_is_missing_besides_what_was_pruned_is_named(
    pruned: Folder, where: str, expected: set[tuple[str, str | None]]
) -> None:
    in_log(pruned, f"DELETE FROM kvfs_oplog_files WHERE {where}")
    assert expected <= set(found(pruned))
