"""What runs out below a server and is there again: disk space, descriptors, memory."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.engine.mounting import Disk, mounted
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
        load.goes_on(chance.choice([0, 5, 20]))
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


@contextmanager
def limited(pid: int, what: int, most: int) -> Iterator[None]:
    """A process may have so much of a resource, and no more, as long as this lasts."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


def run_out_of_descriptors(trial: Trial) -> None:
    """Open no more files, and accept no more connections, for a while."""
    server, chance = trial.server, trial.chance
    with trial.load(bears=failing("DATABASE_ERROR", "FILE_SYSTEM_ERROR")) as load:
        load.goes_on(chance.choice([0, 5, 20]))
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


FAULTS = (
    Fault("full-disk", "full disk", 200, under_load(fill_the_disk, small)),
    Fault("descriptors", "out of file descriptors", 50, under_load(run_out_of_descriptors)),
)
