"""The command line over a server, and straight on the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Kvfs
from tests.serving import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def over_server(server: ServerProcess, tmp_path: Path) -> Kvfs:
    """Commands over the server, on a table that is not there yet."""
    url = f"http://{server.host}:{server.port}"
    return Kvfs(variables={"KVFS_URL": url, "KVFS_DB": str(tmp_path / "app.db")})


@pytest.fixture
def on_files(tmp_path: Path) -> Kvfs:
    """Commands straight on the files of an empty folder."""
    (tmp_path / "data").mkdir()
    return Kvfs(("--local",), {"KVFS_DB": str(tmp_path / "data"), "KVFS_TABLE": "site"})


@pytest.fixture(params=["server", "local"])
def kvfs(request: pytest.FixtureRequest) -> Kvfs:
    """Commands on an empty store: a table over a server, and a folder without one."""
    kvfs: Kvfs = request.getfixturevalue({"server": "over_server", "local": "on_files"}[request.param])
    return kvfs


@pytest.fixture
def server_url(server: ServerProcess) -> str:
    return f"http://{server.host}:{server.port}"
