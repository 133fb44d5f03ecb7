"""What clients are told over HTTP is what a store would tell that does one thing at a time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.contract.driver import Driver
from tests.contract.http_driver import Client, HttpDriver
from tests.crash.tracing import traced
from tests.http.launching import Server
from tests.http.stores import TABLE
from tests.linearizability.checker import check
from tests.linearizability.clients import working
from tests.linearizability.model import Operation
from tests.linearizability.recorder import Recorder
from tests.polling import eventually
from tests.serving import ServerProcess

CLIENTS = 5
EDITORS = 2
OPERATIONS = 400
WITHIN_S = 50.0
ROUNDS = 3
SYNCS = ("fsync", "fdatasync", "syncfs")
FAILING = (("fdatasync", 20, 37), ("fsync", 3, 5), ("syncfs", 1, 2))

main_kind = pytest.mark.parametrize(
    "directory", [pytest.param(False, marks=pytest.mark.soak), True], ids=["table", "directory"]
)
kinds = pytest.mark.parametrize("directory", [False, True], ids=["table", "directory"])
workers = pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])


class Trial:
    """One store of a server, and the history of what was asked of it."""

    def __init__(self, server: ServerProcess, home: Path, *, directory: bool) -> None:
        self.recorder = Recorder()
        self._server = server
        self._db = home / ("db" if directory else "t.db")
        self._directory = directory
        self._failed = threading.Event()
        with closing(Client(server.host, server.port)) as client:
            self._store(client).make()

    @contextmanager
    def connect(self) -> Iterator[Driver]:
        with closing(Client(self._server.host, self._server.port)) as client:
            yield self._store(client)

    def _store(self, client: Client) -> HttpDriver:
        return HttpDriver(client, str(self._db), TABLE, directory=self._directory, check=lambda: None)

    @contextmanager
    def under_load(self, seed: int) -> Iterator[None]:
        folder = self._db / TABLE if self._directory else None
        with working(
            self.recorder, self.connect, clients=CLIENTS, seed=seed, folder=folder, editors=EDITORS
        ) as self._failed:
            yield

    def so_many_more(self, operations: int, within_s: float = WITHIN_S) -> None:
        wanted = len(self.recorder.history) + operations
        eventually(
            lambda: len(self.recorder.history) >= wanted or self._failed.is_set(),
            within_s,
            "clients are answered",
        )

    def unknown(self) -> list[Operation]:
        """What may have happened, and nobody knows."""
        return [operation for operation in [*self.recorder.history] if operation.answer is None]

    def is_explained(self) -> None:
        assert (explanation := check(self.recorder.history)) is None, explanation


@kinds
@workers
def test_what_clients_are_told_can_be_explained(tmp_path: Path, directory: bool, workers: int) -> None:
    with ServerProcess(tmp_path, "--workers", str(workers)) as server:
        trial = Trial(server, tmp_path, directory=directory)
        with trial.under_load(seed=workers):
            trial.so_many_more(OPERATIONS)
    trial.is_explained()


@main_kind
def test_what_clients_are_told_of_a_server_that_is_killed_can_be_explained(
    tmp_path: Path, directory: bool
) -> None:
    chance = random.Random(1)
    server = ServerProcess(tmp_path)
    with server:
        trial = Trial(server, tmp_path, directory=directory)
        with trial.under_load(seed=3):
            for _ in range(ROUNDS):
                trial.so_many_more(chance.randrange(50, 150))
                server.kill()
                server.start()
            trial.so_many_more(200)
    trial.is_explained()


@pytest.mark.soak
@kinds
def test_what_clients_are_told_while_syncs_fail_can_be_explained(tmp_path: Path, directory: bool) -> None:
    failing = [f"{call}:error=EIO:when={first}+{every}" for call, first, every in FAILING]
    with Server(tmp_path) as server:
        trial = Trial(server, tmp_path, directory=directory)
        with trial.under_load(seed=4):
            trial.so_many_more(100)
            with traced(server.pid, SYNCS, failing, tmp_path / "trace"):
                eventually(lambda: len(trial.unknown()) >= CLIENTS, WITHIN_S, "some commits have failed")
            trial.so_many_more(200)
    trial.is_explained()


@pytest.mark.soak
@pytest.mark.timeout(900)
@kinds
@workers
def test_what_clients_are_told_for_long_can_be_explained(
    tmp_path: Path, directory: bool, workers: int
) -> None:
    chance = random.Random(2)
    server = ServerProcess(tmp_path, "--workers", str(workers))
    with server:
        for seed in range(10):
            home = tmp_path / str(seed)
            home.mkdir()
            trial = Trial(server, home, directory=directory)
            with trial.under_load(seed):
                for _ in range(ROUNDS):
                    trial.so_many_more(chance.randrange(100, 2000))
                    time.sleep(chance.random() * 0.1)
                    server.kill()
                    server.start()
                trial.so_many_more(1000)
            trial.is_explained()
