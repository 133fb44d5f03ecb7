"""`GET /query`: one SELECT, as a link that can be shared."""

from __future__ import annotations

import base64
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.http.databases import SqlFile
from tests.http.launching import Server, serving
from tests.http.locking import locked
from tests.http.wire import BASE, Answer, refused, target_of

NOT_A_SELECT = "GET /query only accepts read-only SELECT/WITH queries; use POST /db for mutating SQL"
COUNT = "SELECT count(*) AS n FROM t"


@pytest.fixture
def file(server: Server, tmp_path: Path) -> SqlFile:
    file = SqlFile(server, tmp_path / "db" / "file.db")
    file.did("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, 'a'), (2, x'00ff')")
    return file


def test_a_select_is_answered_with_its_columns_and_rows(file: SqlFile) -> None:
    assert file.select("SELECT id, v FROM t ORDER BY id").done() == {
        "columns": ["id", "v"],
        "resultSet": [{"id": 1, "v": "a"}, {"id": 2, "v": {"base64": "AP8="}}],
        "rowCount": 2,
        "truncated": False,
    }


@pytest.mark.parametrize("sql", [COUNT, "SELECT 'ÿ>>>?~' AS n", "WITH x AS (SELECT 1 AS n) SELECT n FROM x"])
def test_sql_may_be_base64_padded_or_not(file: SqlFile, sql: str) -> None:
    plain = file.select(sql).done()
    url_safe = base64.urlsafe_b64encode(sql.encode()).decode()
    for text in (url_safe, url_safe.rstrip("="), base64.b64encode(sql.encode()).decode()):
        assert file.select(text).done() == plain


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (3, 'c')",
        "UPDATE t SET v = 1",
        "DELETE FROM t RETURNING id",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "CREATE TABLE u (a)",
        "DROP TABLE t",
        "PRAGMA table_info(t)",
        "PRAGMA user_version = 3",
        "EXPLAIN SELECT 1",
        "EXPLAIN DELETE FROM t",
        "VACUUM",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "ATTACH ':memory:' AS x",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM t",
        "-- nothing",
        ";",
    ],
)
def test_anything_but_one_select_is_400(file: SqlFile, sql: str) -> None:
    told = ("SELECT * FROM sqlite_schema", "SELECT * FROM pragma_user_version", "SELECT * FROM t")
    before = [file.rows(each) for each in told]
    refused(file.select(sql), 400, "INVALID_PARAMETERS", NOT_A_SELECT)
    assert [file.rows(each) for each in told] == before


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT ?", "Incorrect number of bindings supplied.  The current statement uses 1 and there are 0"
         " supplied.  Current offset is 0"),
        ("SELECT abs(-9223372036854775808)", "integer overflow"),
    ],
)  # fmt: skip
def test_sql_that_sqlite_refuses_is_400_with_its_message(file: SqlFile, sql: str, message: str) -> None:
    refused(file.select(sql), 400, "INVALID_PARAMETERS", message)


def test_sql_is_required_and_the_format_known(file: SqlFile) -> None:
    refused(file.server.ask("GET", target_of(f"{BASE}/query", db=file.path)), 400, "INVALID_PARAMETERS")
    refused(file.select(""), 400, "INVALID_PARAMETERS")
    refused(file.select("SELECT 1", format="xml"), 400, "INVALID_PARAMETERS")


def test_no_database_is_made(server: Server, tmp_path: Path) -> None:
    target = target_of(f"{BASE}/query", db=tmp_path / "no.db", sql="SELECT 1", create_db_if_missing="true")
    refused(server.ask("GET", target), 404, "DATABASE_NOT_FOUND")
    assert [*tmp_path.iterdir()] == []


def test_csv_is_as_rfc_4180_has_it(file: SqlFile) -> None:
    first = "'a,b' AS \"x\"\"y\", 'line\r\nbreak' AS b, 'quote\"' AS c, NULL AS d, x'00ff' AS e, 1.5 AS f"
    answer = file.select(f"SELECT {first} UNION ALL SELECT 2,3,4,5,6,7", format="csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.body == b'"x""y",b,c,d,e,f\r\n"a,b","line\r\nbreak","quote""",,AP8=,1.5\r\n2,3,4,5,6,7\r\n'


def test_truncated_csv_says_so(file: SqlFile) -> None:
    counting = (
        "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 10001) SELECT n FROM c"
    )
    answer = file.select(counting, format="csv")
    assert (answer.headers["X-Truncated"], answer.body.count(b"\r\n")) == ("true", 10_001)
    assert file.select(counting).done()["truncated"] is True


# --- etags ---------------------------------------------------------------------------------------------


def _again(file: SqlFile, first: Answer, sql: str = COUNT, **params: object) -> Answer:
    return file.select(sql, headers=[("If-None-Match", first.headers["ETag"])], **params)


def test_an_answer_that_is_known_is_304_until_something_changes(file: SqlFile) -> None:
    first = file.select(COUNT)
    for _ in range(3):
        again = _again(file, first)
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    file.did("INSERT INTO t (v) VALUES (1)")
    second = _again(file, first)
    assert second.done()["resultSet"] == [{"n": 3}]
    assert _again(file, second).status == 304


def test_a_change_by_a_key_or_another_program_is_seen(file: SqlFile) -> None:
    first = file.select(COUNT)
    file.server.ask("PUT", target_of(f"{BASE}/kv/a", db=file.path), b"1").done()
    second = _again(file, first)
    assert second.status == 200
    with closing(sqlite3.connect(file.path)) as connection:
        connection.execute("INSERT INTO t (v) VALUES (1)")
        connection.commit()
    assert _again(file, second).done()["resultSet"] == [{"n": 3}]


def test_many_changes_by_others_are_each_seen(file: SqlFile) -> None:
    with closing(sqlite3.connect(file.path)) as connection:
        answer = file.select(COUNT)
        for number in range(3, 30):
            connection.execute("INSERT INTO t (v) VALUES (1)")
            connection.commit()
            answer = _again(file, answer)
            assert answer.done()["resultSet"] == [{"n": number}]
            assert _again(file, answer).status == 304


def test_no_etag_outlives_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        file = SqlFile(server, tmp_path / "data" / "a.db")
        file.did("CREATE TABLE t (v)")
        first = file.select(COUNT)
        server.stop()
    with closing(sqlite3.connect(tmp_path / "data" / "a.db")) as connection:
        connection.execute("INSERT INTO t (v) VALUES (1)")
        connection.commit()
    with serving(tmp_path) as server:
        again = _again(SqlFile(server, tmp_path / "data" / "a.db"), first)
        assert again.done()["resultSet"] == [{"n": 1}]
        server.stop()


def test_an_etag_is_of_one_query_in_one_format(file: SqlFile) -> None:
    first = file.select(COUNT)
    assert _again(file, first, "SELECT count(*) AS m FROM t").status == 200
    assert _again(file, first, format="csv").status == 200
    assert file.select("nonsense", headers=[("If-None-Match", "*")]).status == 400


@pytest.mark.parametrize(
    "sql", ["SELECT random()", "SELECT datetime('now')", "SELECT CURRENT_TIMESTAMP", "SELECT v FROM w"]
)
def test_what_changes_by_itself_has_no_etag(file: SqlFile, sql: str) -> None:
    file.did("CREATE VIEW w AS SELECT random() AS v")
    assert "ETag" not in file.select(sql).headers


# --- locks and time ------------------------------------------------------------------------------------


def test_it_is_read_while_another_program_writes(file: SqlFile) -> None:
    with locked(file.path):
        assert file.select(COUNT, timeout=1).done()["resultSet"] == [{"n": 2}]


def test_a_query_that_runs_on_is_ended_at_its_deadline(file: SqlFile) -> None:
    endless = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    for _ in range(3):
        refused(file.select(endless, timeout=1), 503, "DEADLINE_EXCEEDED")
        assert file.select(COUNT).status == 200
