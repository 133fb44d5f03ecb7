"""kvfs inside another program."""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvfs
from kvfs.errors import (
    DatabaseNotFound,
    DeadlineExceeded,
    InvalidDbPath,
    InvalidParameters,
    NotASelect,
    PathIsDirectory,
    PayloadTooLarge,
    SqlError,
    TransactionFailed,
)
from kvfs.model import Set
from kvfs.sql.model import BatchChanged, Changed, Failed, Item
from tests import nasty


@pytest.fixture(params=["table", "directory", "new directory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What `kvfs.open` takes."""
    path = tmp_path / "db"
    if request.param == "directory":
        path.mkdir()
    return str(path) + ("/" if request.param == "new directory" else "")


def test_a_store_does_all_that_a_server_does(path: str) -> None:
    with kvfs.open(path, "t") as store:
        assert store.set("a", b"[1]").created is True
        assert store.push("a", b"2").length == 2
        assert store.pop("a").node == "2"
        assert store.remove("a", node=b"1").removed == 1
        assert store.incr("n", 5).number == 5
        assert store.incr("n", -7).previous == 5
        assert store.set("d", b"1", path="x.y").size == len('{"x":{"y":1}}')
        assert store.expire("d", 100).expire_ns is not None
        assert store.persist("d").expire_ns is None
        assert [result.op_number for result in store.set_many([Set("s", b"1", "text/plain")])] == [1]
        assert [*store.keys()] == ["a", "d", "n", "s"]
        assert [*store.keys("d")] == ["d"]
        assert store.delete_many(["a", "missing", "s"]) == 2
        assert store.delete("n").op_number == 3
        assert store.get_many(["a", "d"])["a"] is None
    with kvfs.open(path, "t", create=False) as store:
        assert [*store.keys()] == ["d"]


def test_what_a_handle_returns_is_public() -> None:
    methods = [each for _, each in inspect.getmembers(kvfs.Handle, inspect.isfunction)]
    named = {
        name
        for method in methods
        if not method.__name__.startswith("_")
        for name in re.findall(r"\b[A-Z]\w+", str(inspect.signature(method).return_annotation))
    }
    assert named - {"Callable", "Generator", "Iterator", "None"} <= set(kvfs.__all__)


def test_without_create_nothing_is_made(path: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    if os.path.isdir(path):
        with kvfs.open(path, "t", create=False) as store:
            assert [*store.keys()] == []
    else:
        with pytest.raises(DatabaseNotFound):
            kvfs.open(path, "t", create=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_limits_can_be_set(path: str) -> None:
    with kvfs.open(path, "t", config=kvfs.Config(max_value_bytes=10, max_batch_items=2)) as store:
        store.set("k", b"x" * 10)
        with pytest.raises(PayloadTooLarge):
            store.set("k", b"x" * 11)
        store.set("l", b"[1234567]")
        with pytest.raises(PayloadTooLarge):
            store.push("l", b"1")
        store.set("n", b"9999999999")
        with pytest.raises(PayloadTooLarge):
            store.incr("n")
        with pytest.raises(InvalidParameters):
            store.set_many([Set(key, b"", "text/plain") for key in "abc"])
        assert store.get("n").value == b"9999999999"


def test_a_value_of_exactly_the_limit_fits(path: str) -> None:
    with kvfs.open(path, "t") as store:
        value = nasty.noise(16 << 20)
        store.set("k", value)
        with pytest.raises(PayloadTooLarge):
            store.set("k", value + b"x")
        assert store.get_many(["k"])["k"].value == value  # type: ignore[union-attr]


@pytest.mark.parametrize("table", ["", "1a", "a b", "sqlite_x", "kvfs_x", "a/b", "x" * 65, "é", "a'b"])
def test_bad_table_names_are_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(InvalidParameters):
        kvfs.open(str(tmp_path / "db"), table)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["", ":memory:", "file:x.db", "a\0b"])
def test_bad_paths_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidDbPath):
        kvfs.open(name)
    assert [*tmp_path.iterdir()] == []


def test_programs_in_one_process_may_open_a_store_twice(path: str) -> None:
    with kvfs.open(path, "t") as one:
        one.set("k", b"1")
        with kvfs.open(path, "t") as other:
            assert other.set("k", b"2").op_number == 2
            assert one.get("k").value == b"2"
        assert one.set("k", b"3").op_number == 3


# --- SQL -----------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[kvfs.Handle]:
    """A store in a database with an empty table `t` of `a`, which is unique, and `b`."""
    with kvfs.open(str(tmp_path / "app.db")) as store:
        store.sql.execute("CREATE TABLE t (a UNIQUE, b)")
        yield store


def test_sql_gives_rows_as_they_are(store: kvfs.Handle) -> None:
    row = (2**63 - 1, b"\xff\0")
    assert store.sql.execute("INSERT INTO t VALUES (?, ?)", row) == 1
    assert store.sql.execute("INSERT INTO t VALUES (:a, :b)", {"a": None, "b": 1.5}) == 1
    asked = "SELECT a, b, 'text' AS b FROM t ORDER BY rowid"
    expected = kvfs.QueryRows(("a", "b", "b"), ((*row, "text"), (None, 1.5, "text")), truncated=False)
    assert store.sql.query(asked) == store.sql.select(asked) == expected
    assert store.sql.query("DELETE FROM t WHERE a IS ? RETURNING b", [None]).rows == ((1.5,),)


def test_a_transaction_is_all_or_nothing(store: kvfs.Handle) -> None:
    insert = "INSERT INTO t VALUES (?, ?)"
    answers = store.sql.transaction(
        [
            Item(insert, batch=[(1, "x"), (2, "y")]),
            Item(insert, (1, "z"), no_fail=True),
            Item("UPDATE t SET b = b || '!'"),
            Item("SELECT b FROM t ORDER BY a", query=True),
        ]
    )
    assert answers == [
        BatchChanged([1, 1]),
        Failed("UNIQUE constraint failed: t.a"),
        Changed(2),
        kvfs.QueryRows(("b",), (("x!",), ("y!",)), truncated=False),
    ]
    with pytest.raises(TransactionFailed) as caught:
        store.sql.transaction([Item("DELETE FROM t"), Item(insert, batch=[(7, 7), (7, 8)])])
    assert (caught.value.index, caught.value.batch_index) == (1, 1)
    assert store.sql.query("SELECT count(*) FROM t").rows == ((2,),)


def test_sql_of_a_program_is_held_to_the_same_rules(store: kvfs.Handle) -> None:
    store.set("k", b"1")
    with pytest.raises(NotASelect):
        store.sql.select("DELETE FROM t")
    for sql in ("COMMIT", "VACUUM", "DELETE FROM kvfs_ops", "DROP TABLE kv_store"):
        with pytest.raises(TransactionFailed):
            store.sql.execute(sql)
    assert store.sql.execute("UPDATE kv_store SET value = 2") == 1
    assert [each.op.origin for each in store.history("k").operations] == ["sql", "api"]


@pytest.mark.parametrize(
    ("items", "index"),
    [
        ([], -1),
        ([Item("SELECT 1")] * 10_001, -1),
        ([Item("SELECT 1"), Item("SELECT ?", [1 << 63])], 1),
        ([Item("SELECT ?", [[]])], 0),  # type: ignore[list-item]
        ([Item("SELECT :a", {"a": -(1 << 63) - 1})], 0),
        ([Item("SELECT ?", batch=[[1]], query=True)], 0),
        ([Item("SELECT ?", [1], batch=[[1]])], 0),
        ([Item("SELECT ?", batch=[[1]] * 100_001)], 0),
        ([Item("SELECT ?", batch=[[1]] * 100_000)] * 11, 10),
    ],
)
def test_what_cannot_be_run_is_refused_as_a_whole(store: kvfs.Handle, items: list[Item], index: int) -> None:
    with pytest.raises(InvalidParameters) as caught:
        store.sql.transaction([*items])
    assert caught.value.details["reqIdx"] == index
    assert store.sql.history()[1] == 1


def test_sql_is_undone_at_its_deadline(store: kvfs.Handle) -> None:
    endless = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*), 1 FROM c"
    for run in (store.sql.select, store.sql.query, store.sql.execute):
        with pytest.raises(DeadlineExceeded):
            run(endless, deadline=time.monotonic() + 0.1)
    with pytest.raises(DeadlineExceeded):
        store.sql.execute(f"INSERT INTO t {endless}", deadline=time.monotonic() + 0.1)
    assert store.sql.query("SELECT * FROM t").rows == ()


def test_a_result_has_bounds(store: kvfs.Handle) -> None:
    numbers = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 10001) "
    many = store.sql.select(f"{numbers} SELECT n FROM c")
    assert (len(many.rows), many.truncated) == (10_000, True)
    for run in (store.sql.select, store.sql.query):
        with pytest.raises(SqlError, match="page by page"):
            run(f"{numbers} SELECT randomblob(10000) FROM c")


def test_what_ran_is_kept_beside_the_database(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    (tmp_path / "link.db").symlink_to(path)
    for name in (path, tmp_path / "link.db"):
        with kvfs.open(str(name)) as store:
            store.sql.query("SELECT ?", [7])
            with pytest.raises(TransactionFailed):
                store.sql.execute("nonsense")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".kvfs", "app.db", "link.db"]
    with kvfs.open(str(path), create=False) as store:
        entries, total = store.sql.history(limit=3)
        assert [each.sql for each in entries] == ["nonsense", "SELECT ?", "nonsense"]
        assert (total, store.sql.statistics().errors) == (4, 2)
        assert store.sql.clear_history() == 4
        assert store.sql.history() == ([], 0)


def test_a_folder_takes_no_sql(tmp_path: Path) -> None:
    with kvfs.open(f"{tmp_path}/folders/", "t") as store, pytest.raises(PathIsDirectory):
        store.sql.select("SELECT 1")


def test_a_program_looks_after_its_database(store: kvfs.Handle, tmp_path: Path) -> None:
    soon = time.monotonic() + 30
    copy = str(tmp_path / "copy.db")
    assert store.sql.maintenance.check(quick=False, deadline=soon) == []
    assert store.sql.maintenance.copy_into(copy, deadline=soon) > 0
    with kvfs.open(copy, create=False) as other:
        assert other.sql.query("SELECT count(*) FROM t").rows == ((0,),)
