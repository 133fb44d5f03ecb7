"""A server for the tests of the client, and a table of it, reached directly or through a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from kvfs.client import Client, Table
from tests.client.faults import Proxy
from tests.contract.client_driver import Clients
from tests.serving import ServerProcess

TABLE = "things"


class MakeTable(Protocol):
    """Makes the table of a test through a client with these options."""

    def __call__(self, **options: object) -> Table: ...


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def url(server: ServerProcess) -> str:
    return f"http://{server.host}:{server.port}"


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture(params=["table", "directory"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store of each kind is to be."""
    if request.param == "table":
        return str(tmp_path / "db")
    (tmp_path / "folder").mkdir()
    return str(tmp_path / "folder")


@pytest.fixture
def table(client: Client, db: str) -> Table:
    """An empty store of each kind."""
    return client.table(db, TABLE, create=True)


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    """A bad way to the server."""
    with Proxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture(params=["blocking", "async"])
def over_proxy(request: pytest.FixtureRequest, proxy: Proxy, db: str) -> Iterator[MakeTable]:
    """Makes the same empty store, reached through the proxy by a client of each kind."""
    made: list[Clients] = []

    def make(**options: object) -> Table:
        made.append(Clients(proxy.url, **options))
        return made[-1].table(db, TABLE, awaited=request.param == "async")

    yield make
    for clients in made:
        clients.close()
