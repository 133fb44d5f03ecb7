"""`kvfs db`, over a server and straight on the files."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

import kvfs as engine
from tests import invariants
from tests.cli.commands import Ended, Kvfs
from tests.cli.interrupted import ENDLESS
from tests.polling import eventually
from tests.serving import ROOT, ServerProcess

# Each command is a process of its own.
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=["server", "local"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where databases lie that are listed: the data dir of a server, or a folder without one."""
    if request.param == "local":
        return tmp_path
    server: ServerProcess = request.getfixturevalue("server")
    return server.log.parent / "data"


@pytest.fixture
def kvfs(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Kvfs:
    """Commands on databases: `sql.db`, which is not there yet, where no other is named."""
    db = str(tmp_path / "sql.db")
    if folder == tmp_path:
        return Kvfs(("--local",), {"KVFS_DATA_DIR": str(folder), "KVFS_DB": db})
    return Kvfs(variables={"KVFS_URL": request.getfixturevalue("server_url"), "KVFS_DB": db})


def facts(told: Ended) -> dict[str, str]:
    """What a command tells, by the names of the facts."""
    return dict(line.split("\t") for line in told.lines)


def test_databases_are_made_listed_and_deleted(kvfs: Kvfs, folder: Path) -> None:
    path = str(folder / "shop.db")
    assert kvfs("db", "create", path, "--table", "goods").lines == [path]
    assert json.loads(kvfs("db", "create", path, "--json").out) == {
        "path": path, "created": False, "kv_table": None
    }  # fmt: skip
    rows = [line.split("\t") for line in kvfs("db", "list").lines]
    assert [(row[0], row[1], row[4]) for row in rows if row[0] == "shop.db"] == [("shop.db", "table", path)]
    assert kvfs("kv", "set", "tea", "1", "--db", path, "--table", "goods").lines == ["1"]
    refused = kvfs("db", "delete", path)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert kvfs("db", "delete", path, "--yes").lines == [path]
    assert kvfs("db", "delete", path, "--yes").code == 1


def test_a_name_is_one_in_the_servers_data_dir(server: ServerProcess, server_url: str) -> None:
    kvfs = Kvfs(variables={"KVFS_URL": server_url})
    assert kvfs("db", "create", "bare").lines == [str(server.log.parent / "data/bare.db")]


def test_a_folder_is_looked_after(kvfs: Kvfs, tmp_path: Path) -> None:
    (path,) = kvfs("db", "create", f"{tmp_path}/folders/").lines
    kvfs("kv", "set", "a", "1", "--db", path, "--table", "site", "--create")
    told = facts(kvfs("db", "maintenance", "rebuild", "-d", path, "-t", "site"))
    assert (told["op"], told["keys"]) == ("rebuild", "1")
    for arguments in (("nonsense",), ("rebuild", "nonsense"), ("vacuum",)):
        assert kvfs("db", "maintenance", *arguments, "-d", path, "-t", "site").code == 2
    for arguments in (("exec", "SELECT 1"), ("history",)):
        refused = kvfs("db", *arguments, "-d", path)
        assert (refused.code, "PATH_IS_DIRECTORY" in refused.err) == (2, True)
    assert kvfs("db", "delete", path, "--yes").code == 2


def test_a_database_is_looked_after(kvfs: Kvfs, tmp_path: Path) -> None:
    kvfs("db", "exec", "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(100000))", "--create")
    copy = str(tmp_path / "copy.db")
    assert facts(kvfs("db", "maintenance", "vacuum_into", f"dest_path={copy}"))["dest_path"] == copy
    assert kvfs("db", "maintenance", "vacuum_into", f"dest_path={copy}").code == 2
    kvfs("db", "exec", "DELETE FROM t")
    vacuumed = facts(kvfs("db", "maintenance", "vacuum"))
    assert int(vacuumed["size"]) < 100_000 < int(vacuumed["size_before"])
    restored = facts(kvfs("db", "maintenance", "restore", f"src_path={copy}"))
    assert (restored["src_path"], int(restored["size"]) > 100_000) == (copy, True)
    assert kvfs("db", "query", "SELECT count(*) FROM t").lines == ["1"]
    assert facts(kvfs("db", "maintenance", "integrity_check"))["ok"] == "True"
    assert int(facts(kvfs("db", "maintenance", "wal_checkpoint_truncate"))["frames"]) >= 0
    kvfs("kv", "set", "k", "1")
    kvfs("kv", "set", "k", "2")
    assert facts(kvfs("db", "maintenance", "history_prune", "keep_last=1"))["removed"] == "1"
    assert facts(kvfs("db", "maintenance", "retention", "keep_last=7"))["keep_last"] == "7"
    assert kvfs("db", "maintenance", "quick_check", "-d", tmp_path / "none.db").code == 1


def test_sql_is_run_and_answered(kvfs: Kvfs) -> None:
    assert kvfs("db", "exec", "CREATE TABLE t (a, b)").code == 1
    assert kvfs("db", "exec", "CREATE TABLE t (a, b)", "--create").lines == ["0"]
    assert kvfs("db", "exec", "INSERT INTO t VALUES (?, ?), (null, x'ff')", "7", "a\tb").lines == ["2"]
    assert kvfs("db", "query", "SELECT * FROM t").lines == ["7\ta\\tb", "\tbase64:/w=="]
    assert kvfs("db", "query", "SELECT typeof(a) FROM t WHERE a = ?", "7").lines == ["integer"]
    assert kvfs("db", "query", "SELECT ?, ?, ?", "true", "null", "1.5").lines == ["1\t\t1.5"]
    assert [
        json.loads(line) for line in kvfs("db", "query", "-", "--json", stdin=b"SELECT * FROM t").lines
    ] == [
        {"a": 7, "b": "a\tb"},
        {"a": None, "b": "/w==", "b_encoding": "base64"},
    ]
    for arguments in (("query", "DELETE FROM t"), ("exec", "nonsense"), ("query", "SELECT *")):
        refused = kvfs("db", *arguments)
        assert (refused.code, "INVALID_PARAMETERS" in refused.err) == (2, True)
    newest = kvfs("db", "history", "-n", "1").lines[0].split("\t")
    assert newest[4:] == ["no tables specified", "SELECT *"]
    assert facts(kvfs("db", "stats"))["error_entries"] == "2"
    assert kvfs("db", "history", "--clear").code == 0
    assert kvfs("db", "history").lines == []


def test_what_is_not_allowed_is_refused(kvfs: Kvfs, tmp_path: Path) -> None:
    kvfs("kv", "set", "k", "1", "--create")
    for sql in (
        "COMMIT",
        f"ATTACH '{tmp_path}/other.db' AS other",
        "DELETE FROM kvfs_ops",
        "DROP TABLE kv_store",
        "PRAGMA journal_mode = delete",
    ):
        assert kvfs("db", "exec", sql).code == 2
    assert kvfs("db", "exec", "SELECT ?", "9" * 30).code == 2
    assert kvfs("kv", "get", "k").out == b"1"
    assert not (tmp_path / "other.db").exists()


def test_many_rows_are_cut_off_with_a_word(kvfs: Kvfs) -> None:
    kvfs("db", "exec", "CREATE TABLE t (a)", "--create")
    many = kvfs("db", "query", ENDLESS.replace("SELECT count(*) FROM c", "SELECT n FROM c LIMIT 10001"))
    assert (many.code, len(many.out.splitlines())) == (0, 10_000)
    assert "more rows" in many.err


def test_a_transaction_that_fails_makes_no_database(kvfs: Kvfs, tmp_path: Path) -> None:
    assert kvfs("db", "exec", "CREATE TABLE t (a); nonsense", "--create").code == 2
    assert not (tmp_path / "sql.db").exists()


def test_sql_that_takes_too_long_is_ended(kvfs: Kvfs) -> None:
    kvfs("db", "exec", "CREATE TABLE t (a)", "--create")
    for sql in (ENDLESS, f"INSERT INTO t {ENDLESS}"):
        late = kvfs("db", "exec", sql, "--timeout", "1")
        assert (late.code, late.out) == (4, b"")
    assert kvfs("db", "query", "SELECT count(*) FROM t").lines == ["0"]


def test_what_sql_does_to_keys_is_logged(kvfs: Kvfs, tmp_path: Path) -> None:
    kvfs("kv", "set", "tea", "7", "--create")
    assert kvfs("db", "exec", "UPDATE kv_store SET value = value + 1").lines == ["1"]
    rows = [line.split("\t") for line in kvfs("kv", "history", "tea").lines]
    assert [(row[0], row[3], row[5]) for row in rows] == [("2", "sql", "8"), ("1", "api", "7")]
    assert len(invariants.check_table(tmp_path / "sql.db")["kv_store"]) == 2


def test_files_are_worked_on_beside_a_server(over_server: Kvfs, tmp_path: Path) -> None:
    over_server("kv", "set", "tea", "7", "--create")
    on_files = Kvfs(("--local",), over_server.variables)
    on_files("db", "exec", "UPDATE kv_store SET value = 8; CREATE TABLE t (a)")
    over_server("kv", "set", "tea", "9")
    over_server("db", "exec", "INSERT INTO t VALUES (1)")
    on_files("db", "exec", "INSERT INTO kv_store (key, value) VALUES ('pot', 30)")
    assert on_files("db", "query", "SELECT a FROM t").lines == ["1"]
    assert [line.split("\t")[3] for line in over_server("kv", "history", "tea").lines] == [
        "api",
        "sql",
        "api",
    ]
    assert over_server("kv", "get", "pot").out == b"30"
    assert len(invariants.check_table(tmp_path / "app.db")["kv_store"]) == 4


def test_the_history_of_sql_is_that_of_a_server_in_the_same_folder(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        db = str(tmp_path / "data/app.db")
        over_server = Kvfs(variables={"KVFS_URL": f"http://{server.host}:{server.port}", "KVFS_DB": db})
        on_files = Kvfs(("--local",), over_server.variables)
        over_server("db", "exec", "CREATE TABLE t (a)", "--create")
        on_files("db", "exec", "INSERT INTO t VALUES (1)")
        for kvfs in (over_server, on_files):
            ran = [line.split("\t")[5] for line in kvfs("db", "history").lines]
            assert ran == ["INSERT INTO t VALUES (1)", "CREATE TABLE t (a)"]


def test_a_shell_runs_what_is_typed(kvfs: Kvfs) -> None:
    typed = b"CREATE TABLE t (a);\nINSERT INTO t\nVALUES (7); -- not; this\nSELECT a FROM t"
    piped = kvfs("db", "shell", "--create", stdin=typed)
    assert piped.lines == ["7"]
    wrong = kvfs("db", "shell", stdin=b"nonsense;\nDELETE FROM t;\n")
    assert (wrong.code, wrong.out) == (2, b"")
    code, shown = kvfs.at_terminal("db", "shell", asked="kvfs> ", keys=b"nonsense;\nSELECT a\nFROM t;\n\x04")
    assert code == 0
    assert "syntax error" in shown
    assert shown.count("  ...> ") == 1
    assert "7" in shown.splitlines()


@pytest.mark.parametrize(
    ("sql", "locked"),
    [(ENDLESS, False), (f"INSERT INTO t {ENDLESS}", False), ("INSERT INTO t VALUES (1)", True)],
    ids=["reading", "writing", "waiting"],
)
def test_sql_on_files_ends_when_it_is_interrupted(tmp_path: Path, sql: str, locked: bool) -> None:
    """SQLite gives no signal a chance while it runs: another thread must end it."""
    path = str(tmp_path / "sql.db")
    with engine.open(path) as store:
        store.sql.execute("CREATE TABLE t (a)")
    kvfs = Kvfs(("--local",), {"KVFS_DB": path})
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        subprocess.Popen(
            kvfs.command("db", "exec", sql, "--timeout", "200"),
            env=kvfs.environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
        ) as running,
    ):
        if locked:
            other.execute("BEGIN IMMEDIATE")

        def opened() -> bool:
            with suppress(FileNotFoundError):  # one that is closed just now
                return path in map(os.readlink, Path(f"/proc/{running.pid}/fd").iterdir())
            return False

        try:
            eventually(opened, 20, "the database is open")
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=30)
        finally:
            running.kill()
    assert (running.returncode, told) == (130, b"")
    with engine.open(path) as store:
        assert store.sql.query("SELECT count(*) FROM t").rows == ((0,),)


def test_sql_on_files_ends_also_when_it_is_interrupted_as_it_begins(tmp_path: Path) -> None:
    path = str(tmp_path / "sql.db")
    engine.open(path).close()
    program = [sys.executable, "-m", "tests.cli.interrupted", path, "30"]
    subprocess.run(program, cwd=ROOT, check=True, timeout=100)
