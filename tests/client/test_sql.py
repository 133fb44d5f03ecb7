"""SQL through the client."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvfs.client import Client, Database, Query, Statement, TransactionFailed
from kvfs.client.records import Affected, Rows, Undone
from kvfs.errors import InvalidParameters, SqlError


@pytest.fixture
def database(client: Client, tmp_path: Path) -> Database:
    """A database with an empty table `t` of `a` and `b`."""
    database = client.database(str(tmp_path / "sql.db"), create=True)
    database.execute("CREATE TABLE t (a, b)")
    return database


def test_values_go_in_and_out_as_they_are(database: Database) -> None:
    row = (2**63 - 1, b"\xff\0")
    assert database.execute("INSERT INTO t VALUES (?, ?)", row) == 1
    assert database.execute("INSERT INTO t VALUES (:a, :b)", {"a": None, "b": 1.5}) == 1
    asked = "SELECT a, b, 'text' AS text FROM t ORDER BY rowid"
    expected = Rows(("a", "b", "text"), ((*row, "text"), (None, 1.5, "text")))
    assert database.query(asked) == expected
    assert database.select(asked) == expected
    assert database.query("SELECT b FROM t WHERE a IS ?", [None]).rows == ((1.5,),)


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    results = database.transaction(
        [
            Statement("INSERT INTO t VALUES (?, ?)", batch=[(1, "x"), (2, "y")]),
            Statement("INSERT INTO nothing VALUES (1)", no_fail=True),
            Query("UPDATE t SET b = b || '!' RETURNING b"),
        ]
    )
    inserted, failed, updated = results
    assert inserted == Affected(2, (1, 1))
    assert isinstance(failed, Undone)
    assert "nothing" in failed.error
    assert updated == Rows(("b",), (("x!",), ("y!",)))
    with pytest.raises(TransactionFailed, match="nothing") as caught:
        database.transaction([Statement("DELETE FROM t"), Statement("DELETE FROM nothing")])
    assert caught.value.index == 1
    assert isinstance(caught.value, SqlError)
    assert database.select("SELECT count(*) FROM t").rows == ((2,),)


def test_a_select_cannot_write(database: Database) -> None:
    for sql in ("DELETE FROM t", "SELECT 1; SELECT 2", "nonsense"):
        with pytest.raises(InvalidParameters):
            database.select(sql)


def test_what_ran_is_told(database: Database) -> None:
    database.execute("INSERT INTO t VALUES (1, 2)")
    with pytest.raises(TransactionFailed):
        database.execute("nonsense")
    log = database.sql_history(limit=2)
    assert log.total == 3
    assert [(each.sql, each.rows_affected, each.error is None) for each in log.entries] == [
        ("nonsense", 0, False),
        ("INSERT INTO t VALUES (1, 2)", 1, True),
    ]
    assert database.sql_stats()["error_entries"] == 1
    assert database.clear_sql_history() == 3


def test_a_database_is_looked_after(database: Database, tmp_path: Path) -> None:
    assert database.maintain("quick_check")["ok"] is True
    database.maintain("vacuum_into", dest_path=str(tmp_path / "copy.db"))
    assert (tmp_path / "copy.db").exists()
    with pytest.raises(InvalidParameters):
        database.maintain("nonsense")
