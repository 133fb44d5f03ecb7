"""Faults that end a server: kills, of all of it or of a worker, and power cuts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.powercut import Disk, RebootedServer, disk
from tests.serving import ServerProcess
from tests.soak.faults import Fault, plain, under_load
from tests.soak.trial import Trial, failing

WORKERS = 2


def kill(trial: Trial) -> None:
    """Kill the server as it writes."""
    with trial.load() as load:
        load.goes_on(trial.chance.choice([0, 3, 10, 30, 60]))
        load.ends()
        trial.server.kill()
    trial.tally.faults += 1


# --- one of several workers --------------------------------------------------------------------------------


@contextmanager
def crewed(home: Path) -> Iterator[tuple[Path, ServerProcess]]:
    """A server of several processes."""
    yield home, ServerProcess(home, "--workers", str(WORKERS))


def workers(server: ServerProcess) -> list[int]:
    """The processes of the workers that there are."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def kill_a_worker(trial: Trial) -> None:
    """Kill a worker as it writes; the others go on."""
    with trial.load(bears=failing()) as load:
        load.goes_on(trial.chance.choice([0, 5, 20]))
        os.kill(trial.chance.choice(workers(trial.server)), signal.SIGKILL)
        load.goes_on(20)
    trial.tally.faults += 1


# --- power -------------------------------------------------------------------------------------------------

_DISK_MIB = 256


class _Powered(RebootedServer):
    """A server on a disk whose power may be cut: what starts it switches the power on again."""

    def __init__(self, home: Path, place: Disk) -> None:
        super().__init__(home)
        self.place = place
        self.is_off = False

    def cut(self) -> None:
        self.is_off = True
        self.place.cut()

    def start(self) -> None:
        if self.is_off:
            self.place.restore()
            self.is_off = False
        super().start()


@contextmanager
def powered(home: Path) -> Iterator[tuple[Path, ServerProcess]]:
    """On a disk of its own."""
    with disk(home / "disk", mib=_DISK_MIB) as place:
        yield place.path, _Powered(home, place)


def cut_the_power(trial: Trial) -> None:
    """Cut the power; who still writes may see it fail, or the server is dead before."""
    server = trial.server
    assert isinstance(server, _Powered)
    sees_it = trial.chance.random() < 0.5
    with trial.load() as load:
        load.goes_on(trial.chance.choice([0, 3, 10, 30]))
        load.ends()
        if sees_it:
            trial.doubt(True)
            server.cut()
            server.kill()
        else:
            server.kill()
            server.cut()
    trial.doubt(False)
    trial.tally.faults += 1


FAULTS = (
    Fault("kill", "`kill -9` of the server", 500, under_load(kill, plain), rounds_each=10),
    Fault("worker-kill", "`kill -9` of one of two workers", 50, under_load(kill_a_worker, crewed)),
    Fault("power-cut", "power cut", 200, under_load(cut_the_power, powered), rounds_each=10),
)
