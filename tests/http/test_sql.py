"""`POST /db`: transactions, as tables of cases in fixtures/sql and as what tables cannot say."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import invariants
from tests.http.databases import SqlFile
from tests.http.launching import Server
from tests.http.wire import BASE, refused, target_of

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "sql"
INT_MAX = 2**63 - 1


@pytest.fixture
def file(server: Server, tmp_path: Path) -> SqlFile:
    return SqlFile(server, tmp_path / "db" / "file.db")


def _cases(*names: str) -> list[Any]:
    cases = [case for name in names for case in json.loads((FIXTURES / f"{name}.json").read_text())]
    return [pytest.param(case, id=case["name"].replace(" ", "_")) for case in cases]


@pytest.mark.parametrize("case", _cases("results", "values", "failures"))
def test_a_transaction_is_answered_as_its_case_says(file: SqlFile, case: dict[str, Any]) -> None:
    if "setup" in case:
        file.did(*case["setup"])
    answer = file.send(json.dumps(case["request"]).encode())
    assert answer.done() == case["answer"]
    assert list(answer.done()) == list(case["answer"]) or "reqIdx" in case["answer"]
    if "then" in case:
        question, expected = case["then"]
        assert file.did(question) == [expected]


@pytest.mark.parametrize("case", _cases("malformed"))
def test_a_malformed_request_is_400_and_runs_nothing(file: SqlFile, case: dict[str, Any]) -> None:
    file.did("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    error = refused(file.send(body.encode()), 400, "INVALID_PARAMETERS", case["message"])
    assert error["reqIdx"] == case["reqIdx"]
    assert file.rows("SELECT count(*) FROM t") == [[1]]


def test_integers_are_exact_in_the_text_of_the_answer(file: SqlFile) -> None:
    body = b'{"transaction": [{"query": "SELECT ? AS n", "values": [9223372036854775807]}]}'
    assert b'[{"n":9223372036854775807}]' in file.send(body).body


def test_values_nested_too_deep_beside_an_inexact_number_are_400(file: SqlFile) -> None:
    """Python's parser, which is asked to tell what such a number was, takes no more than some levels."""
    deep = b"[" * 1015 + b"]" * 1015
    body = b'{"transaction": [{"query": "SELECT ?", "values": [1e30, %s]}]}' % deep
    target = target_of(f"{BASE}/db", db=file.path)
    assert refused(file.server.ask("POST", target, body), 400, "INVALID_PARAMETERS")["reqIdx"] == -1


def test_caps_are_400(file: SqlFile) -> None:
    file.did("CREATE TABLE t (a)")
    many = {"transaction": [{"statement": "INSERT INTO t VALUES (1)"}] * 10_001}
    assert refused(file.send(many), 400, "INVALID_PARAMETERS")["reqIdx"] == -1
    batch = {"statement": "INSERT INTO t VALUES (?)", "valuesBatch": [[1]] * 100_001}
    assert refused(file.send({"transaction": [batch]}), 400, "INVALID_PARAMETERS")["reqIdx"] == 0
    batch["valuesBatch"] = [[]] * 100_000
    error = refused(file.send({"transaction": [batch] * 11}), 400, "INVALID_PARAMETERS")
    assert (error["reqIdx"], "1000000 rows" in error["message"]) == (10, True)
    assert file.rows("SELECT count(*) FROM t") == [[0]]


def test_what_is_just_within_the_caps_is_done(file: SqlFile) -> None:
    file.did("CREATE TABLE t (a)")
    body = {"transaction": [{"statement": "INSERT INTO t VALUES (1)"}] * 10_000}
    assert len(file.send(body).done()["results"]) == 10_000
    batch = {"statement": "INSERT INTO t VALUES (?)", "valuesBatch": [[1]] * 100_000}
    (result,) = file.did(batch)
    assert result["rowsUpdatedBatch"] == [1] * 100_000
    assert file.rows("SELECT count(*) FROM t") == [[110_000]]


def test_more_than_10_000_rows_are_truncated_and_say_so(file: SqlFile) -> None:
    counting = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) SELECT n FROM c"
    whole, more = file.did({"query": counting, "values": [10_000]}, {"query": counting, "values": [10_001]})
    assert (len(whole["resultSet"]), "truncated" in whole) == (10_000, False)
    assert (len(more["resultSet"]), more["truncated"]) == (10_000, True)
    assert more["resultSet"][-1] == {"n": 10_000}


def test_a_missing_database_is_made_only_by_a_transaction_that_succeeds(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "new.db"

    def ask(sql: str, **params: object) -> Any:
        body = orjson.dumps({"transaction": [{"statement": sql}]})
        return server.ask("POST", target_of(f"{BASE}/db", db=path, **params), body)

    refused(ask("CREATE TABLE t (a)"), 404, "DATABASE_NOT_FOUND")
    assert ask("CREATE TABLE t (", create_db_if_missing="true").done()["success"] is False
    assert [*tmp_path.iterdir()] == []
    assert ask("CREATE TABLE t (a)", auto_create="true").done() == {
        "results": [{"success": True, "rowsUpdated": 0}]
    }
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    refused(ask("SELECT 1", auto_create="1", create_db_if_missing="0"), 400, "INVALID_PARAMETERS")


def test_a_directory_takes_no_sql(server: Server, tmp_path: Path) -> None:
    body = b'{"transaction": [{"query": "SELECT 1"}]}'
    for table in (None, "things"):
        target = target_of(f"{BASE}/db", db=tmp_path, table=table)
        refused(server.ask("POST", target, body), 400, "PATH_IS_DIRECTORY")


def test_a_file_that_is_no_database_is_told_of(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_bytes(b"Dear reader, " * 1000)
    body = b'{"transaction": [{"query": "SELECT 1"}]}'
    for table in (None, "things"):
        target = target_of(f"{BASE}/db", db=path, table=table)
        refused(server.ask("POST", target, body), 400, "INVALID_SQLITE_HEADER")


def test_kv_tables_are_tables_to_sql(file: SqlFile) -> None:
    value = file.server.ask("PUT", target_of(f"{BASE}/kv/a", db=file.path, table="kv"), b"hello")
    assert value.status == 200
    assert file.rows("SELECT key, value, content_type, op_number FROM kv") == [
        ["a", "hello", "text/plain; charset=utf-8", 1]
    ]
    assert file.rows("SELECT key, op_type FROM kvfs_oplog_kv") == [["a", "set"]]


def test_what_sql_does_to_keys_is_in_their_history_and_told_to_followers(file: SqlFile) -> None:
    def ask(path: str, method: str = "GET", body: bytes | None = None, **params: object) -> Any:
        target = target_of(f"{BASE}{path}", db=file.path, table="kv", **params)
        return file.server.ask(method, target, body).done()

    ask("/kv/a", "PUT", b"1")
    cursor = ask("/changes")["cursor"]
    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(ask, "/changes", since=cursor, wait=20)
        results = file.did(
            "INSERT INTO kv (key, value) VALUES ('b', '2')",
            "UPDATE kv SET value = value + 10",
            "DELETE FROM kv WHERE key = 'a'",
        )
        assert [result["rowsUpdated"] for result in results] == [1, 2, 1]
        assert following.result()["events"]
    events = ask("/changes", since=cursor)["events"]
    assert [(event["key"], event["op"], event["origin"]) for event in events] == [
        ("b", "set", "sql"), ("a", "set", "sql"), ("b", "set", "sql"), ("a", "delete", "sql"),
    ]  # fmt: skip
    assert ask("/kv/b/entry")["value"] == "12"
    assert ask("/kv/b", "PUT", b"3")["op_number"] == 3
    invariants.check_table(file.path)


def test_a_transaction_that_is_undone_leaves_no_op(file: SqlFile) -> None:
    target = target_of(f"{BASE}/kv/a", db=file.path, table="kv")
    file.server.ask("PUT", target, b"1").done()
    file.failed("UPDATE kv SET value = '2'", "SELECT nowhere")
    file.run({"statement": "UPDATE kv SET value = '3'; SELECT nowhere", "noFail": True})
    assert [op.value for op in invariants.check_table(file.path)["kv"]] == [b"1"]


def test_what_sql_makes_and_what_keys_make_is_seen_by_both_at_once(file: SqlFile) -> None:
    target = target_of(f"{BASE}/kv/a", db=file.path, table="kv")
    for number in range(20):
        file.server.ask("PUT", target, str(number).encode()).done()
        assert file.rows("SELECT value FROM kv") == [[str(number)]]
        file.did(
            "CREATE TABLE IF NOT EXISTS t (n)", {"statement": "INSERT INTO t VALUES (?)", "values": [number]}
        )
        assert file.server.ask("GET", target).body == str(number).encode()
    assert file.rows("SELECT count(*) FROM t") == [[20]]
