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
