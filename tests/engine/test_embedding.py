"""kvfs inside another program."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest

import kvfs
from kvfs.errors import DatabaseNotFound, InvalidDbPath, InvalidParameters, PayloadTooLarge
from kvfs.model import Set
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
