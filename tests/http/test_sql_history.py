"""`/history`: what SQL ran on a database."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.http.databases import SqlFile
from tests.http.launching import Server, serving
from tests.http.shapes import fits
from tests.http.wire import BASE, Answer, refused, target_of

ENTRY = {
    "id": int, "db": str, "sql": str, "timestamp": int, "timestamp_ms": int, "duration_ms": float,
    "status": str, "rows_affected": int,
}  # fmt: skip
STATISTICS = {
    "db": str, "total_entries": int, "ok_entries": int, "error_entries": int, "avg_duration_ms": float,
    "p95_duration_ms": float, "oldest_timestamp": int, "newest_timestamp": int, "queries_per_hour": float,
}  # fmt: skip


@pytest.fixture
def file(server: Server, tmp_path: Path) -> SqlFile:
    return SqlFile(server, tmp_path / "db" / "file.db")


def ask(file: SqlFile, method: str = "GET", path: str = "", **params: object) -> Answer:
    return file.server.ask(method, target_of(f"{BASE}/history{path}", **{"db": file.path, **params}))


def entries(file: SqlFile, limit: int | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(file, limit=limit).done()["entries"]
    return found


def test_each_item_and_each_select_is_there_newest_first(file: SqlFile) -> None:
    file.did("CREATE TABLE t (a)", {"statement": "INSERT INTO t VALUES (?)", "valuesBatch": [[1], [2], [3]]})
    file.did({"query": "SELECT a FROM t"})
    file.select("SELECT a FROM t WHERE a > 1").done()
    answer = ask(file).done()
    assert (answer["total"], answer["limit"]) == (4, 100)
    fits(answer["entries"], [ENTRY])
    assert [(each["sql"], each["status"], each["rows_affected"]) for each in answer["entries"]] == [
        ("SELECT a FROM t WHERE a > 1", "ok", 2),
        ("SELECT a FROM t", "ok", 3),
        ("INSERT INTO t VALUES (?)", "ok", 3),
        ("CREATE TABLE t (a)", "ok", 0),
    ]
    assert {each["db"] for each in answer["entries"]} == {str(file.path)}
    assert all(abs(each["timestamp"] - time.time()) < 60 for each in answer["entries"])


def test_failures_are_there_and_what_never_ran_is_not(file: SqlFile) -> None:
    file.did("CREATE TABLE t (a)")
    assert ask(file, "DELETE").done()["deleted"] == 1
    file.run("SELECT nowhere", "SELECT 1")
    file.select("SELECT nowhere")
    file.select("DELETE FROM t")
    file.send({"transaction": [{"statement": "SELECT 1"}, {}]})
    found = entries(file)
    assert [(each["sql"], each["status"], each["error"]) for each in found] == [
        ("SELECT nowhere", "error", "no such column: nowhere")
    ] * 2


def test_values_are_not_kept(file: SqlFile) -> None:
    file.did({"query": "SELECT ?", "values": ["a secret"]})
    assert "secret" not in str(entries(file))
    file.did({"query": f"SELECT '{'x' * 20_000}' AS y"})
    assert len(entries(file)[0]["sql"]) == 10_000


def test_entries_of_another_database_are_its_own(file: SqlFile, server: Server, tmp_path: Path) -> None:
    other = SqlFile(server, tmp_path / "db" / "other.db")
    file.did("SELECT 1")
    assert entries(other) == []
    assert ask(other, path="/stats").done()["total_entries"] == 0


def test_a_page_has_at_most_limit_entries(file: SqlFile) -> None:
    file.did(*[f"SELECT {number}" for number in range(150)])
    assert len(entries(file)) == 100
    assert [each["sql"] for each in entries(file, limit=2)] == ["SELECT 149", "SELECT 148"]
    refused(ask(file, limit=-1), 400, "INVALID_PARAMETERS")


def test_statistics_count_and_measure(file: SqlFile) -> None:
    empty = ask(file, path="/stats").done()
    assert (empty["total_entries"], empty["oldest_timestamp"], empty["queries_per_hour"]) == (0, None, 0.0)
    file.did(*["SELECT 1"] * 9)
    file.run("SELECT nowhere")
    found = ask(file, path="/stats").done()
    fits(found, STATISTICS)
    assert (found["total_entries"], found["ok_entries"], found["error_entries"]) == (10, 9, 1)
    assert found["queries_per_hour"] == 10.0
    assert 0 <= found["avg_duration_ms"] <= found["p95_duration_ms"] * 10


def test_one_entry_or_all_can_be_forgotten(file: SqlFile) -> None:
    file.did("SELECT 1", "SELECT 2", "SELECT 3")
    index = entries(file)[1]["id"]
    answer = ask(file, "DELETE", f"/{index}").done()
    assert answer == {"db": str(file.path), "index": index, "deleted": True}
    assert [each["sql"] for each in entries(file)] == ["SELECT 3", "SELECT 1"]
    refused(ask(file, "DELETE", f"/{index}"), 404, "KEY_NOT_FOUND", "History entry not found")
    assert ask(file, "DELETE").done() == {"db": str(file.path), "deleted": 2, "status": "ok"}
    assert ask(file, "DELETE").done()["deleted"] == 0


@pytest.mark.parametrize("index", ["x", "-1", "1.5", "%00", "99999999999999999999999"])
def test_what_is_no_index_is_400(file: SqlFile, index: str) -> None:
    refused(ask(file, "DELETE", f"/{index}"), 400, "INVALID_PARAMETERS")


def test_no_more_than_10_000_entries_are_kept(file: SqlFile) -> None:
    for _ in range(2):
        file.did(*["SELECT 1"] * 6000)
    assert ask(file, limit=0).done()["total"] == 10_000


def test_it_is_there_after_a_restart_and_no_database_to_anybody(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(tmp_path) as server:
            file = SqlFile(server, tmp_path / "data" / "a.db")
            file.did("SELECT 1")
            listed = server.ask("GET", f"{BASE}/db/list").done()["databases"]
            assert [each["name"] for each in listed] == ["a.db"]
            path = tmp_path / "data" / ".kvfs" / "queries.db"
            refused(server.ask("GET", target_of(f"{BASE}/history", db=path)), 400, "INVALID_DB_PATH")
            server.stop()
    with serving(tmp_path) as server:
        assert len(entries(SqlFile(server, tmp_path / "data" / "a.db"))) == 2
        server.stop()


def test_a_damaged_log_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "data" / ".kvfs").mkdir(parents=True)
    (tmp_path / "data" / ".kvfs" / "queries.db").write_bytes(os.urandom(8192))
    with serving(tmp_path) as server:
        file = SqlFile(server, tmp_path / "data" / "a.db")
        file.did("SELECT 1")
        assert len(entries(file)) == 1
        server.stop()


def test_a_missing_database_has_no_history(server: Server, tmp_path: Path) -> None:
    for method, path in (("GET", ""), ("GET", "/stats"), ("DELETE", ""), ("DELETE", "/1")):
        target = target_of(f"{BASE}/history{path}", db=tmp_path / "no.db")
        refused(server.ask(method, target), 404, "DATABASE_NOT_FOUND")
        refused(server.ask(method, target_of(f"{BASE}/history{path}", db=tmp_path)), 400, "PATH_IS_DIRECTORY")


def test_the_history_of_a_database_goes_with_it(file: SqlFile, server: Server) -> None:
    file.did("SELECT 1")
    assert server.ask("DELETE", target_of(f"{BASE}/db", db=file.path, confirm="yes")).status == 200
    assert entries(SqlFile(server, file.path)) == []
