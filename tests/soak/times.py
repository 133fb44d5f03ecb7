"""What befalls a server's time: it is stopped for a while, or its clock is set."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving import ServerProcess
from tests.soak.ends import crewed, workers
from tests.soak.faults import Fault, under_load
from tests.soak.trial import Trial

_STEPS_S = (-86_400, -3600, -60, -1, 1, 60, 3600, 86_400, 40_000_000)


def _pause(trial: Trial, pid: int) -> None:
    """Stop a process for a while; whoever asks must wait, and no longer."""
    with trial.load() as load:
        load.goes_on(trial.chance.choice([0, 3, 10]))
        os.kill(pid, signal.SIGSTOP)
        try:
            load.lasts(trial.chance.choice([0.1, 0.5, 1, 3]))
        finally:
            os.kill(pid, signal.SIGCONT)
        load.goes_on(10)
    trial.tally.faults += 1


def pause(trial: Trial) -> None:
    """Stop the server for a while."""
    _pause(trial, trial.server.pid)


def pause_a_worker(trial: Trial) -> None:
    """Stop one worker for a while, whatever it has locked."""
    _pause(trial, trial.chance.choice(workers(trial.server)))


# --- clocks ------------------------------------------------------------------------------------------------


class _Clocked(ServerProcess):
    """A server with a clock of its own, which `step` sets so many seconds from the machine's."""

    def __init__(self, home: Path, library: Path) -> None:
        self._clock = home / "clock"
        super().__init__(
            home,
            variables={
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_NO_CACHE": "1",
                # Time that only goes on does so on any machine; and the times of files are the kernel's.
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
                "PYTHONPATH": str(Path(__file__).with_name("clocked")),
            },
        )
        self.step(0)

    def step(self, seconds: int) -> None:
        fresh = self._clock.with_name("fresh-clock")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._clock)


@contextmanager
def clocked(home: Path) -> Iterator[tuple[Path, ServerProcess]]:
    """With libfaketime between the server and the clock."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("there is no libfaketime (Debian: apt-get install faketime)")
    yield home, _Clocked(home, library)


def set_the_clock(trial: Trial) -> None:
    """Set the clock back and forth."""
    server = trial.server
    assert isinstance(server, _Clocked)
    with trial.load() as load:
        for _ in range(3):
            load.goes_on(trial.chance.choice([2, 10]))
            server.step(trial.chance.choice(_STEPS_S))
            trial.tally.faults += 1
        load.goes_on(5)


FAULTS = (
    Fault("stop", "server stopped for up to 3 s (SIGSTOP)", 50, under_load(pause)),
    Fault("worker-stop", "one of two workers stopped for up to 3 s", 50, under_load(pause_a_worker, crewed)),
    Fault("clock", "clock set back and forth, up to a year", 50, under_load(set_the_clock, clocked)),
)
