"""Servers that ask for a token, as the client and the command line meet them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvfs.client import Client
from kvfs.errors import Unauthorized
from tests.cli.commands import Kvfs
from tests.serving import ServerProcess

TOKEN = "a-token-that-covers-everything-0123456789"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a token."""
    with ServerProcess(tmp_path_factory.mktemp("guarded"), "--token", TOKEN) as server:
        yield f"http://{server.host}:{server.port}"


def test_a_token_is_shown_to_the_server(guarded: str, tmp_path: Path) -> None:
    db = str(tmp_path / "db")
    with Client(guarded, token=TOKEN) as client:
        assert client.table(db, create=True).incr("n").number == 1
    for token in (None, "wrong"):
        with Client(guarded, token=token) as client, pytest.raises(Unauthorized):
            client.table(db).get("n")


def test_the_command_line_ends_with_4_without_the_token(guarded: str, tmp_path: Path) -> None:
    kvfs = Kvfs(variables={"KVFS_URL": guarded, "KVFS_DB": str(tmp_path / "db"), "KVFS_TOKEN": TOKEN})
    assert kvfs("kv", "incr", "n", "--create").lines == ["1"]
    refused = kvfs("kv", "incr", "n", "--token", "wrong")
    assert (refused.code, refused.out) == (4, b"")
    assert "UNAUTHORIZED" in refused.err
