"""A damaged op-log is set aside; what can be read of it is kept, and nothing of the rest is guessed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

import kvfs
from kvfs.directory.audit import Difference
from kvfs.directory.check import check
from kvfs.directory.repair import Repaired, repair
from kvfs.engine import Engine
from kvfs.errors import DatabaseError, KvfsError, TimeTravelGap
from kvfs.paths import Paths
from tests import invariants, nasty
from tests.directory.conftest import TABLE, UNWATCHED, Folder
from tests.invariants import Logged
from tests.programs import connect
from tests.serving import ROOT

REPAIR = "import sys; from kvfs.directory.repair import repair; repair(sys.argv[1], 'site')"
PAGE = 1024
KEYS = 60


@pytest.fixture
def spoilt(tmp_path: Path) -> Iterator[Folder]:
    """A folder store with a past, closed, for a test to spoil; clean after it was rebuilt."""
    folder = Folder(tmp_path / "db")
    store = folder.store
    for number in range(KEYS * 3):
        store.set(f"k{number % KEYS}", nasty.noise(200) + b"%d" % number, content_type="text/x")
    store.set("large", nasty.noise(2_000_000))
    store.set("gone", b"1")
    store.delete("gone")
    folder.close()
    yield folder
    folder.close()


def log_of(folder: Folder) -> list[Logged]:
    connection = connect(folder.home / "site.oplog", flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return invariants._log(connection, "files")
    finally:
        connection.close()


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def overwrite(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(nasty.noise(length))


def rebuilt(folder: Folder) -> Repaired | None:
    """What a repair said; afterwards the index is made anew, and everything is as it must be."""
    files = folder.files()
    said = repair(str(folder.db), TABLE)
    folder.store.rebuild()
    folder.close()
    assert folder.files() == files
    assert differences(folder) == ()
    return said


def differences(folder: Folder) -> tuple[Difference, ...]:
    return check(str(folder.db), TABLE, full=True).differences


def empty(log: Path) -> None:
    cut(log, 0)


def cut_in_half(log: Path) -> None:
    cut(log, log.stat().st_size // 2)


def spoil_the_header(log: Path) -> None:
    overwrite(log, 0, 100)


def spoil_the_first_page(log: Path) -> None:
    overwrite(log, 0, PAGE)


def spoil_pages_in_the_middle(log: Path) -> None:
    overwrite(log, log.stat().st_size // PAGE // 2 * PAGE, 3 * PAGE)


def spoil_the_last_page(log: Path) -> None:
    overwrite(log, log.stat().st_size - PAGE, PAGE)


def fill_with_noise(log: Path) -> None:
    overwrite(log, 0, log.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "kept_at_least"),
    [
        (empty, 0),
        (cut_in_half, 40),
        (spoil_the_header, 183),
        (spoil_the_first_page, 183),
        (spoil_pages_in_the_middle, 170),
        (spoil_the_last_page, 175),
        (fill_with_noise, 0),
    ],
)
def test_what_can_be_read_of_a_damaged_log_is_kept(
    spoilt: Folder, damage: Callable[[Path], None], kept_at_least: int
) -> None:
    before = {op.seq: op for op in log_of(spoilt)}
    assert len(before) == 183
    log = spoilt.home / "site.oplog"
    damage(log)
    damaged = log.read_bytes()
    said = rebuilt(spoilt)
    assert said is not None
    assert Path(said.set_aside).read_bytes() == damaged
    assert said.kept >= kept_at_least
    after = {op.seq: op for op in log_of(spoilt)}
    assert sum(after.get(seq) == op for seq, op in before.items()) == said.kept
    # No number is used twice: each op is the one it was, or is newer than all that were known.
    numbers = {(op.key, op.op_number): op for op in before.values()}
    for op in after.values():
        was = numbers.get((op.key, op.op_number))
        assert was is None or was == op or op.flags == invariants.GAP or op.key == "gone"
    assert not [name for name in os.listdir(spoilt.home) if name.endswith((".new", ".reading"))]
    for number in range(KEYS):
        assert spoilt.store.set(f"k{number}", b"next").op_number >= 4


def test_a_whole_log_is_left_alone(spoilt: Folder) -> None:
    before = sorted((path.name, path.read_bytes()) for path in spoilt.home.glob("site.*") if path.is_file())
    assert repair(str(spoilt.db), TABLE) is None
    assert before == sorted(
        (path.name, path.read_bytes()) for path in spoilt.home.glob("site.*") if path.is_file()
    )


def test_a_value_or_a_time_that_changed_on_the_disk_is_not_kept(spoilt: Folder) -> None:
    before = log_of(spoilt)
    connection = connect(spoilt.home / "site.oplog")
    connection.execute("UPDATE kvfs_oplog_files SET value = value || 'x' WHERE seq = 10")
    connection.execute("UPDATE kvfs_oplog_files SET ts_ns = ts_ns + 1000000000000 WHERE seq = 20")
    connection.execute("UPDATE kvfs_oplog_files SET ts_ns = 1 WHERE seq = 30")
    connection.execute("UPDATE kvfs_oplog_files SET content_type = CAST(x'ff' AS TEXT) WHERE seq = 40")
    connection.close()
    said = rebuilt(spoilt)
    assert said is not None
    assert (said.kept, said.gaps, said.lost) == (179, 4, ())
    after = log_of(spoilt)
    changed = [is_now.seq for was, is_now in zip(before, after, strict=False) if was != is_now]
    assert changed == [10, 20, 30, 40]
    for seq in changed:
        was, is_now = before[seq - 1], after[seq - 1]
        assert (was.key, was.op_number) == (is_now.key, is_now.op_number)
        assert is_now.flags == invariants.GAP


def test_a_second_repair_keeps_what_the_first_one_kept(spoilt: Folder) -> None:
    spoil_pages_in_the_middle(spoilt.home / "site.oplog")
    first = rebuilt(spoilt)
    kept = log_of(spoilt)
    spoil_the_header(spoilt.home / "site.oplog")
    second = rebuilt(spoilt)
    assert first is not None
    assert second is not None
    assert second.set_aside != first.set_aside
    assert second.kept == len(kept)
    assert log_of(spoilt)[: len(kept)] == kept


def test_a_folder_without_a_log_has_nothing_to_repair(folder: Folder) -> None:
    folder.write("a", b"1")
    assert repair(str(folder.db), TABLE) is None
    assert not folder.home.exists()


def test_a_log_that_lost_its_last_ops_is_repaired(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "db")
    store = folder.store
    for number in range(50):
        store.set(f"k{number % 10}", b"%d" % number)
    crashed = tmp_path / "crashed"
    shutil.copytree(folder.db, crashed)
    folder.close()
    wal = crashed / ".kvfs/site.oplog-wal"
    cut(wal, wal.stat().st_size // 2)
    folder.db, folder.root, folder.home = crashed, crashed / TABLE, crashed / ".kvfs"
    said = rebuilt(folder)
    assert said is not None
    assert "last ops are missing" in said.reason
    assert 0 < said.kept < 50
    assert Path(said.set_aside + "-wal").exists()
    for number in range(10):
        assert folder.store.set(f"k{number}", b"x").op_number >= 6
    folder.close()


def test_the_past_is_told_where_it_is_known_and_not_guessed_where_it_is_lost(spoilt: Folder) -> None:
    before = log_of(spoilt)
    spoil_pages_in_the_middle(spoilt.home / "site.oplog")
    rebuilt(spoilt)
    after = {op.seq: op for op in log_of(spoilt)}
    told = unknown = 0
    for op in before:
        if op.op_type == "delete" or op.key == "large":
            continue
        try:
            entry = spoilt.store.get_at(op.key, op.ts_ns)
        except TimeTravelGap:
            unknown += 1
            continue
        except KvfsError:
            assert op.key == "gone"
            continue
        if after.get(op.seq) == op:
            told += 1
            assert entry.value == op.value
        else:
            raise AssertionError(f"{op.key!r} was said to be {entry}, and its op is lost")
    assert told > 150
    assert unknown > 0


def test_the_values_of_files_are_in_the_new_log(spoilt: Folder) -> None:
    fill_with_noise(spoilt.home / "site.oplog")
    rebuilt(spoilt)
    last = {op.key: op for op in log_of(spoilt)}
    for number in range(KEYS):
        op = last[f"k{number}"]
        assert (op.op_number, op.origin, op.flags) == (4, "file", 0)
        assert op.value == (spoilt.root / f"k{number}").read_bytes()


def test_a_server_opens_no_new_log_where_a_repair_was_cut_off(spoilt: Folder) -> None:
    log = spoilt.home / "site.oplog"
    before = log_of(spoilt)
    spoil_pages_in_the_middle(log)
    log.rename(spoilt.home / "site.oplog.damaged-20200101T000000Z")
    with pytest.raises(DatabaseError, match="kvfs rebuild"):
        kvfs.open(str(spoilt.db), TABLE, config=UNWATCHED)
    assert not log.exists()
    said = rebuilt(spoilt)
    assert said is not None
    assert said.kept >= 170
    after = log_of(spoilt)
    assert sum(op in after for op in before) == said.kept


def test_a_repair_that_was_cut_off_between_its_renames_is_finished(spoilt: Folder) -> None:
    log = spoilt.home / "site.oplog"
    spoil_the_header(log)
    said = repair(str(spoilt.db), TABLE)
    assert said is not None
    # As it was before the second rename, with a write-ahead log that is the damaged log's.
    log.rename(spoilt.home / "site.oplog.new")
    (spoilt.home / "site.oplog-wal").write_bytes(nasty.noise(5000))
    again = rebuilt(spoilt)
    assert again is not None
    assert (again.set_aside, again.kept) == (said.set_aside, said.kept)
    assert Path(said.set_aside + "-wal").stat().st_size == 5000


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
def test_a_repair_that_is_killed_at_any_step_is_done_by_the_next_one(spoilt: Folder, tmp_path: Path) -> None:
    spoil_pages_in_the_middle(spoilt.home / "site.oplog")
    source, trace = tmp_path / "source", tmp_path / "trace"
    spoilt.db.rename(source)
    files = None
    kept = set()
    kills = 0
    for call in ("rename", "fsync"):
        for number in range(1, 20):
            shutil.rmtree(spoilt.db, ignore_errors=True)
            shutil.copytree(source, spoilt.db)
            files = files or spoilt.files()
            command = ["strace", "-f", "-o", str(trace), "-e", f"trace={call}"]
            command += ["-e", f"inject={call}:signal=KILL:when={number}", sys.executable, "-c", REPAIR]
            killed = subprocess.run([*command, str(spoilt.db)], cwd=ROOT, capture_output=True, text=True)
            if "ptrace" in killed.stderr:
                pytest.skip(f"cannot trace a process here: {killed.stderr}")
            if killed.returncode == 0:
                break
            kills += 1
            # Whatever a server finds then, it begins nothing anew.
            with suppress(DatabaseError), kvfs.open(str(spoilt.db), TABLE, config=UNWATCHED) as store:
                store.get("k1")
            said = repair(str(spoilt.db), TABLE)
            spoilt.store.rebuild()
            spoilt.close()
            assert spoilt.files() == files
            assert differences(spoilt) == ()
            assert len(list(spoilt.home.glob("site.oplog.damaged-*"))) == 1
            if said is not None:
                kept.add(said.kept)
    assert kills > 5
    assert len(kept) == 1


def test_a_store_that_is_open_goes_over_to_the_new_log(tmp_path: Path) -> None:
    db = tmp_path / "db"
    db.mkdir()
    with Engine(Paths(str(db)), config=UNWATCHED) as engine:
        with engine.lease(str(db), TABLE, create=True) as store:
            for number in range(200):
                store.set(f"k{number}", nasty.noise(200))
        log = db / ".kvfs/site.oplog"
        connection = connect(log)
        connection.pragma("wal_checkpoint", "truncate")
        connection.close()
        spoil_pages_in_the_middle(log)
        assert repair(str(db), TABLE) is not None
        with engine.lease(str(db), TABLE) as store:
            store.set("new", b"1")
            store.rebuild()
            assert store.get("k7").size == 200
    assert check(str(db), TABLE, full=True).clean
    aside = next((db / ".kvfs").glob("site.oplog.damaged-*"))
    assert b"new" in log.read_bytes()
    assert aside.exists()


def test_what_waits_to_be_written_to_a_log_that_was_replaced_fails_and_changes_nothing(
    tmp_path: Path,
) -> None:
    db = tmp_path / "db"
    db.mkdir()
    with kvfs.open(str(db), TABLE, config=UNWATCHED) as store:
        store.set("k", b"1")
        log = db / ".kvfs/site.oplog"
        log.rename(tmp_path / "elsewhere")
        with pytest.raises(DatabaseError, match="replaced"):
            store.set("k", b"2")
        assert (db / TABLE / "k").read_bytes() == b"1"
        (tmp_path / "elsewhere").rename(log)
        store.set("k", b"3")
    assert check(str(db), TABLE, full=True).clean


def test_a_rollback_to_before_a_key_was_there_is_kept(spoilt: Folder) -> None:
    spoilt.store.set("undone", b"1")
    spoilt.store.rollback("undone")
    spoilt.close()
    before = log_of(spoilt)
    spoil_pages_in_the_middle(spoilt.home / "site.oplog")
    rebuilt(spoilt)
    assert before[-1].op_type == "rollback"
    assert before[-1] in log_of(spoilt)
    assert "undone" not in [*spoilt.store.keys()]


# --- pruned logs -------------------------------------------------------------------------------------


def pruned(folder: Folder) -> int:
    """Prune a folder's log, and close it; up to which seq."""
    told = folder.store.prune(keep_last=2)
    folder.store.set_retention(max_age_s=1000)
    folder.close()
    return told.pruned_seq


def test_a_repair_keeps_what_is_left_after_pruning_and_knows_it_for_pruned(spoilt: Folder) -> None:
    pruned_seq = pruned(spoilt)
    left = log_of(spoilt)
    assert pruned_seq
    spoil_the_header(spoilt.home / "site.oplog")
    said = rebuilt(spoilt)
    assert said is not None
    assert (said.kept, said.gaps, said.lost) == (len(left), 0, ())
    assert log_of(spoilt) == left
    assert spoilt.store.retention().max_age_s == 1000
    with pytest.raises(TimeTravelGap):
        spoilt.store.snapshot("k0", 1)


def test_what_is_lost_of_a_pruned_log_is_told_of(spoilt: Folder) -> None:
    pruned(spoilt)
    left = {op.seq: op for op in log_of(spoilt)}
    spoil_pages_in_the_middle(spoilt.home / "site.oplog")
    said = rebuilt(spoilt)
    assert said is not None
    assert said.kept < len(left)
    # What was pruned did not come back, and none of it is taken for lost.
    repaired = [op for op in log_of(spoilt) if op.seq <= max(left)]
    assert {op.seq for op in repaired} <= left.keys()
    assert {seq for first, last in said.lost for seq in range(first, last + 1)} <= left.keys()
    assert all(op == left[op.seq] for op in repaired if op.value_hash != bytes(32))


def test_the_first_page_of_a_log_that_cannot_shrink_is_repaired_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "db")
    log = folder.home / "site.oplog"
    folder.home.mkdir()
    connection = connect(log)
    for statement in (f"PRAGMA page_size = {PAGE}", "CREATE TABLE t (c)", "DROP TABLE t"):
        connection.execute(statement)
    assert connection.pragma("auto_vacuum") == 0
    connection.close()
    for number in range(KEYS):
        folder.store.set(f"k{number % 7}", b"%d" % number)
    folder.close()
    spoil_the_first_page(log)
    said = rebuilt(folder)
    assert said is not None
    assert (said.kept, said.gaps, said.lost) == (KEYS, 0, ())
    folder.close()
