"""The servers and stores that the tests of HTTP share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.launching import Server
from tests.http.stores import Store

MAX_VALUE_BYTES = 300_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as it is by default."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes no value over MAX_VALUE_BYTES."""
    with Server(tmp_path_factory.mktemp("limited"), "--max-value-bytes", str(MAX_VALUE_BYTES)) as running:
        yield running


@pytest.fixture(params=["table", "directory"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store."""
    kind: str = request.param
    return kind


@pytest.fixture
def store(server: Server, tmp_path: Path, kind: str) -> Iterator[Store]:
    """An empty store of each kind, checked at the end."""
    yield from _checked(Store(server, tmp_path / "store", directory=kind == "directory"))


@pytest.fixture
def limited_store(limited: Server, tmp_path: Path, kind: str) -> Iterator[Store]:
    """An empty store of each kind, of the server with a limit."""
    yield from _checked(Store(limited, tmp_path / "store", directory=kind == "directory"))


@pytest.fixture
def table(server: Server, tmp_path: Path) -> Iterator[Store]:
    """An empty table."""
    yield from _checked(Store(server, tmp_path / "table", directory=False))


@pytest.fixture
def folder(server: Server, tmp_path: Path) -> Iterator[Store]:
    """An empty folder of files."""
    yield from _checked(Store(server, tmp_path / "folder", directory=True))


def _checked(store: Store) -> Iterator[Store]:
    yield store
    store.disconnect()
    store.check()
