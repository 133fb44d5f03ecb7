"""The stores that the contract's tests run over: all of them, those behind a client in the long run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.paths import Kind, Paths
from kvfs.retention import Standing
from tests import invariants
from tests.clocks import HurriedClock
from tests.contract.client_driver import ClientDriver, Clients
from tests.contract.driver import Driver
from tests.contract.engine_driver import EngineDriver
from tests.contract.http_driver import Client, HttpDriver
from tests.reference import Reference
from tests.serving import ServerProcess

STORES = (
    "reference",
    "table",
    "directory",
    "table-http",
    # What HTTP does with folders has tests of its own; and the same once more by other code of ours.
    pytest.param("directory-http", marks=pytest.mark.soak),
    pytest.param("table-client", marks=pytest.mark.soak),
    pytest.param("directory-async-client", marks=pytest.mark.soak),
)
TABLE = "things"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests."""
    with ServerProcess(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def clients(server: ServerProcess) -> Iterator[Clients]:
    """A client of each kind for all tests."""
    clients = Clients(f"http://{server.host}:{server.port}")
    yield clients
    clients.close()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """An empty store, checked at the end."""
    kind: str = request.param
    if kind.endswith("-http"):
        server: ServerProcess = request.getfixturevalue("server")
        client = Client(server.host, server.port)
        directory = kind.startswith("directory")
        over_http = HttpDriver(
            client, str(tmp_path / "db"), TABLE, directory=directory, check=_check(tmp_path, directory)
        )
        try:
            over_http.make()
            yield over_http
            over_http.close()
        finally:
            client.close()
        return
    if kind.endswith("-client"):
        directory = kind.startswith("directory")
        through_client = ClientDriver(
            request.getfixturevalue("clients"),
            str(tmp_path / "db"),
            TABLE,
            awaited="async" in kind,
            directory=directory,
            check=_check(tmp_path, directory),
        )
        through_client.make()
        yield through_client
        through_client.close()
        return
    driver = _engine_driver(kind, tmp_path)
    yield driver
    driver.close()


def _engine_driver(kind: str, home: Path) -> EngineDriver:
    clock = HurriedClock()
    paths = Paths(str(home))
    db = str(home / "db")
    if kind == "reference":
        reference = Reference()
        engine = Engine(paths, clock=clock, openers={Kind.TABLE: reference.open})
        check: Callable[[], None] = lambda: _check_reference(reference)  # noqa: E731
        return EngineDriver(engine, db, TABLE, clock=clock, directory=False, check=check)
    directory = kind == "directory"
    if directory:
        os.mkdir(db)
    engine = Engine(paths, clock=clock, config=Config(watch=False))
    return EngineDriver(engine, db, TABLE, clock=clock, directory=directory, check=_check(home, directory))


def _check(home: Path, directory: bool) -> Callable[[], None]:
    def check() -> None:
        if not directory:
            invariants.check_table(home / "db")
            return
        for log in (home / "db").glob(".kvfs/*.oplog"):
            invariants.check_folder(home / "db", log.stem)

    return check


def _check_reference(reference: Reference) -> None:
    for volume in reference.volumes.values():
        for name, ops in volume.committed.logs.items():
            standing = volume.committed.standings.get(name, Standing())
            invariants.check_ops(ops, pruned_seq=standing.pruned_seq)
