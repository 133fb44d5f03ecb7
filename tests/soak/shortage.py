"""What runs out below a server and is there again: disk space, descriptors, memory."""

from __future__ import annotations

import http.client
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.contract.driver import StoreError
from tests.contract.http_driver import Client
from tests.crash.clients import store_of
from tests.engine.mounting import Disk, mounted
from tests.limits import limited, no_more_memory
from tests.serving import ServerProcess
from tests.soak.faults import Fault, under_load
from tests.soak.trial import Trial, failing

_DISK_MIB = 96
_PAGE_BYTES = 4096
_MIB = 1 << 20


# --- disk space --------------------------------------------------------------------------------------------


@contextmanager
def small(home: Path) -> Iterator[tuple[Path, ServerProcess]]:
    """On a small disk."""
    with mounted(home / "disk", mib=_DISK_MIB) as disk:
        yield disk.path, ServerProcess(home)


def fill_the_disk(trial: Trial) -> None:
    """Leave some pages of the disk, or none, for a while, in which the server may be killed."""
    disk, chance = Disk(trial.stores), trial.chance
    with trial.load(bears=failing("STORAGE_FULL")) as load:
        load.goes_on(chance.choice([0, 3, 10]))
        disk.fill(leave=chance.choice([0, 1, 2, 5, 20, 100]) * _PAGE_BYTES)
        load.lasts(chance.uniform(0.1, 0.4))
        if chance.random() < 0.3:
            load.ends()
            trial.server.kill()
        disk.clear()
        if trial.server.is_running:
            load.goes_on(5)
    trial.tally.faults += 1


# --- descriptors and memory --------------------------------------------------------------------------------


def run_out_of_descriptors(trial: Trial) -> None:
    """Open no more files, and accept no more connections, for a while."""
    server, chance = trial.server, trial.chance
    with trial.load(bears=failing("DATABASE_ERROR", "FILE_SYSTEM_ERROR")) as load:
        load.goes_on(chance.choice([0, 3, 10]))
        highest = max(map(int, os.listdir(f"/proc/{server.pid}/fd")))
        with (
            limited(server.pid, resource.RLIMIT_NOFILE, highest - chance.choice([-2, 0, 5, 20])),
            _knocking(server, chance.choice([0, 5])),
        ):
            load.lasts(chance.uniform(0.1, 0.4))
        load.goes_on(5)
    trial.tally.faults += 1


@contextmanager
def _knocking(server: ServerProcess, times: int) -> Iterator[None]:
    """Connections that wait to be accepted."""
    with ExitStack() as stack:
        for _ in range(times):
            stack.enter_context(socket.create_connection((server.host, server.port)))
        yield


def _size_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def run_out_of_memory(trial: Trial) -> None:
    """Ask for more than there is memory for, in one request after the other; then there is again.

    The server may end: what makes JSON crashes where there is no memory for it.
    """
    server, chance = trial.server, trial.chance
    # An internal error has changed nothing, as any other one.
    with trial.load(bears=failing("OVERLOADED", "INTERNAL_ERROR", "DATABASE_ERROR")) as load:
        load.goes_on(chance.choice([0, 3, 10]))
        with no_more_memory(server.pid, but_bytes=chance.choice([0, 1, 4]) * _MIB):
            _ask_for_much(trial)
        load.goes_on(5, if_it_lives=True)
    trial.tally.faults += 1


def _ask_for_much(trial: Trial) -> None:
    """Requests that take many MiB each; whatever the answers are, they come."""
    client = Client(trial.server.host, trial.server.port)
    try:
        for directory, record in trial.records.items():
            store = store_of(client, trial.stores, directory)
            keys = record.written()
            asks: list[Callable[[], object]] = [
                partial(store.list, values=True),
                partial(store.batch_get, keys[:100]),
                *(partial(store.history, key, limit=1000) for key in keys[:5]),
            ]
            trial.chance.shuffle(asks)
            for ask in asks:
                record.requests += 1
                with suppress(StoreError, http.client.HTTPException, ConnectionError):
                    ask()
    finally:
        client.close()


FAULTS = (
    Fault("full-disk", "full disk", 200, under_load(fill_the_disk, small), rounds_each=10),
    Fault("descriptors", "out of file descriptors", 50, under_load(run_out_of_descriptors)),
    Fault("memory", "no memory for requests", 50, under_load(run_out_of_memory)),
)
