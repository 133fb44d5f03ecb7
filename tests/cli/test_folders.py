"""`kvfs rebuild` and `kvfs check`, as people and scripts run them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import kvfs
from tests import nasty
from tests.programs import connect
from tests.serving import ROOT, ServerProcess


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`kvfs` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "server", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A directory with a folder that has an op-log, and one that has none."""
    db = tmp_path / "db"
    (db / "other").mkdir(parents=True)
    (db / "other/x").write_bytes(b"1")
    with kvfs.open(str(db), "site") as store:
        for number in range(20):
            store.set(f"k{number}", nasty.noise(300))
    return db


def test_rebuild_says_what_it_found(db: Path) -> None:
    (db / "site/k3").write_bytes(b"edited")
    (db / "site/new").write_bytes(b"1")
    os.symlink("new", db / "site/link")
    done = run("rebuild", db)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("site: 21 files, 21 keys, 2 changed, 2 ops recorded, in ")
    assert second == "  no key: 1 of symlink: link"


def test_rebuild_speaks_json(db: Path) -> None:
    (db / "site/k3").write_bytes(b"edited")
    done = run("rebuild", db, "--json")
    found = json.loads(done.stdout)
    assert found.pop("duration_s") > 0
    assert found == {
        "folder": str(db), "table": "site", "files": 20, "keys": 20, "changed": 1, "recorded": 1,
        "ignored": {}, "examples": {}, "repaired": None,
    }  # fmt: skip


def test_rebuild_shows_its_progress_on_a_terminal(db: Path) -> None:
    for number in range(3000):
        (db / f"site/n{number}").write_bytes(b"%d" % number)
    above, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "server", "rebuild", str(db), "site"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(above, 10_000):
                shown += chunk
        except OSError:
            pass  # the other end is closed
        os.close(above)
        assert process.wait() == 0
    assert b"3020/3020" in shown
    assert b"files/s" in shown


def test_rebuild_makes_the_log_of_a_folder_that_is_named(db: Path) -> None:
    assert run("rebuild", db, "other").returncode == 0
    with kvfs.open(str(db), "other") as store:
        assert store.get("x").op_number == 1


def test_rebuild_repairs_a_damaged_log(db: Path) -> None:
    log = db / ".kvfs/site.oplog"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    assert run("check", db).returncode == 1
    done = run("rebuild", db)
    assert done.returncode == 0, done.stderr
    aside = next((db / ".kvfs").glob("site.oplog.damaged-*"))
    assert str(aside) in done.stdout
    assert "site: kept " in done.stdout
    assert run("check", db, "--full").returncode == 0


def test_rebuild_and_check_work_beside_a_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        db = tmp_path / "data/db"
        (db / "site").mkdir(parents=True)
        (db / "site/k").write_bytes(b"1")
        url = f"http://{server.host}:{server.port}/api/v1/sqlite/kv/k?db={db}&table=site"
        assert subprocess.run(["curl", "-sf", url], capture_output=True, check=True).stdout == b"1"
        assert run("rebuild", db).returncode == 0
        assert run("check", db, "--full").returncode == 0
        log = db / ".kvfs/site.oplog"
        # What is in the write-ahead log would be read from there.
        connection = connect(log)
        connection.pragma("wal_checkpoint", "truncate")
        connection.close()
        with log.open("r+b") as file:
            file.seek(1024)
            file.write(nasty.noise(4096))
        assert run("rebuild", db).returncode == 0
        assert list((db / ".kvfs").glob("site.oplog.damaged-*"))
        put = ["curl", "-sf", "-X", "PUT", url, "--data-binary", "2"]
        subprocess.run(put, capture_output=True, check=True)
        assert subprocess.run(["curl", "-sf", url], capture_output=True, check=True).stdout == b"2"
        assert run("check", db, "--full").returncode == 0


def test_check_of_what_is_clean_ends_with_0(db: Path) -> None:
    done = run("check", db)
    assert (done.returncode, done.stdout) == (0, "site: 20 files, 20 keys, 20 ops: no differences\n")


def test_check_names_differences_and_ends_with_1(db: Path) -> None:
    (db / "site/k3").write_bytes(b"edited")
    done = run("check", db)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "site: edited: 'k3' k3: the file differs from op 1, its last",
        "site: 20 files, 20 keys, 20 ops: 1 difference",
    ]


def test_check_speaks_json(db: Path) -> None:
    (db / "site/k3").write_bytes(b"edited")
    os.mkfifo(db / "site/fifo")
    done = run("check", db, "--json", "--full")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "folder": str(db), "table": "site", "full": True, "files": 20, "keys": 20, "ops": 20, "clean": False,
        "differences": [
            {"kind": "edited", "key": "k3", "path": "k3", "detail": "the file differs from op 1, its last"}
        ],
        "notes": [{"kind": "FIFO", "path": "fifo", "detail": "is no key"}],
    }  # fmt: skip


@pytest.mark.parametrize("command", ["rebuild", "check"])
def test_what_is_not_there_is_a_usage_error(db: Path, command: str) -> None:
    for arguments, told in (
        ([db / "nowhere"], "is no directory"),
        ([db, "nothing"], "there is no folder nothing"),
        ([db, "../db"], "table must be"),
        ([db / "other"], "it has no folders"),
        ([], "Missing argument"),
    ):
        done = run(command, *arguments)
        assert done.returncode == 2, done
        assert told in done.stderr
    assert not (db / "other/.kvfs").exists()


@pytest.mark.parametrize("command", ["rebuild", "check"])
def test_a_directory_without_logs_names_its_folders(tmp_path: Path, command: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    done = run(command, tmp_path)
    assert done.returncode == 2
    assert "name one of its folders: one, two" in done.stderr


def test_the_state_can_lie_elsewhere(tmp_path: Path) -> None:
    db, state = tmp_path / "db", tmp_path / "state"
    (db / "site").mkdir(parents=True)
    (db / "site/k").write_bytes(b"1")
    assert run("rebuild", db, "site", "--state-dir", state).returncode == 0
    assert run("check", db, "--state-dir", state, "--full").returncode == 0
    assert not (db / ".kvfs/site.oplog").exists()
