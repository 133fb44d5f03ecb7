"""`kvfs db`, against a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Kvfs

# Each command is a process of its own.
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def kvfs(server_url: str) -> Kvfs:
    return Kvfs(variables={"KVFS_URL": server_url})


def test_databases_are_made_listed_and_deleted(kvfs: Kvfs) -> None:
    (path,) = kvfs("db", "create", "shop", "--table", "goods").lines
    assert path.endswith("/shop.db")
    assert json.loads(kvfs("db", "create", "shop", "--json").out) == {
        "path": path, "created": False, "kv_table": None
    }  # fmt: skip
    rows = [line.split("\t") for line in kvfs("db", "list").lines]
    assert [(row[0], row[1], row[4]) for row in rows if row[0] == "shop.db"] == [("shop.db", "table", path)]
    assert kvfs("kv", "set", "tea", "1", "--db", "shop", "--table", "goods").lines == ["1"]
    refused = kvfs("db", "delete", "shop")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert kvfs("db", "delete", "shop", "--yes").lines == [path]
    assert kvfs("db", "delete", "shop", "--yes").code == 1


def test_a_folder_is_looked_after(kvfs: Kvfs, tmp_path: Path) -> None:
    (path,) = kvfs("db", "create", f"{tmp_path}/folders/").lines
    kvfs("kv", "set", "a", "1", "--db", path, "--table", "site", "--create")
    told = dict(
        line.split("\t") for line in kvfs("db", "maintenance", "rebuild", "-d", path, "-t", "site").lines
    )
    assert (told["op"], told["keys"]) == ("rebuild", "1")
    assert kvfs("db", "maintenance", "nonsense", "-d", path, "-t", "site").code == 2
    assert kvfs("db", "maintenance", "rebuild", "nonsense", "-d", path).code == 2


def test_sql_is_run_and_answered(kvfs: Kvfs, tmp_path: Path) -> None:
    sql = Kvfs(variables={**kvfs.variables, "KVFS_DB": str(tmp_path / "sql.db")})
    assert sql("db", "exec", "CREATE TABLE t (a, b)").code == 1
    assert sql("db", "exec", "CREATE TABLE t (a, b)", "--create").lines == ["0"]
    assert sql("db", "exec", "INSERT INTO t VALUES (?, ?), (null, x'ff')", "7", "a\tb").lines == ["2"]
    assert sql("db", "query", "SELECT * FROM t").lines == ["7\ta\\tb", "\tbase64:/w=="]
    assert sql("db", "query", "SELECT typeof(a) FROM t WHERE a = ?", "7").lines == ["integer"]
    assert [
        json.loads(line) for line in sql("db", "query", "-", "--json", stdin=b"SELECT * FROM t").lines
    ] == [
        {"a": 7, "b": "a\tb"},
        {"a": None, "b": "/w==", "b_encoding": "base64"},
    ]
    for arguments in (("query", "DELETE FROM t"), ("exec", "nonsense"), ("query", "SELECT *")):
        assert sql("db", *arguments).code == 2
    newest = sql("db", "history", "-n", "1").lines[0].split("\t")
    assert newest[4:] == ["no tables specified", "SELECT *"]
    assert dict(line.split("\t") for line in sql("db", "stats").lines)["error_entries"] == "2"
    assert sql("db", "history", "--clear").code == 0
    assert sql("db", "history").lines == []


def test_a_shell_runs_what_is_typed(kvfs: Kvfs, tmp_path: Path) -> None:
    sql = Kvfs(variables={**kvfs.variables, "KVFS_DB": str(tmp_path / "sql.db")})
    typed = b"CREATE TABLE t (a);\nINSERT INTO t\nVALUES (7); -- not; this\nSELECT a FROM t"
    piped = sql("db", "shell", "--create", stdin=typed)
    assert piped.lines == ["7"]
    wrong = sql("db", "shell", stdin=b"nonsense;\nDELETE FROM t;\n")
    assert (wrong.code, wrong.out) == (2, b"")
    code, shown = sql.at_terminal("db", "shell", asked="kvfs> ", keys=b"nonsense;\nSELECT a\nFROM t;\n\x04")
    assert code == 0
    assert "syntax error" in shown
    assert shown.count("  ...> ") == 1
    assert "7" in shown.splitlines()
