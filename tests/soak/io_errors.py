"""System calls of a running server that fail, now and then, by `strace -e inject`."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.soak.faults import Fault, under_load
from tests.soak.trial import Trial, failing

CALLS = (
    "fdatasync", "fsync", "syncfs", "pwrite64", "pread64",
    "openat", "mkdirat", "renameat2", "linkat", "unlinkat",
)  # fmt: skip

_TOLD = ("DATABASE_ERROR", "FILE_SYSTEM_ERROR", "STORAGE_FULL", "OVERLOADED")


@contextmanager
def injected(pid: int, expression: str, trace: Path) -> Iterator[None]:
    """A process's system calls fail as strace is told to, as long as this lasts; `trace` says which did."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    call = expression.partition(":")[0]
    command = ["strace", "-f", "-p", str(pid), "-o", str(trace), "-e", f"trace={call}"]
    with subprocess.Popen(
        [*command, "-e", f"inject={expression}"], stderr=subprocess.PIPE, text=True
    ) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"cannot trace a process here: {said.strip()}")
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate()


def failing_call(call: str) -> Fault:
    """Rounds in which calls fail, with EIO or for want of space."""

    def befall(trial: Trial) -> None:
        chance, trace = trial.chance, trial.server.log.with_name("trace")
        error = chance.choice(["EIO", "EIO", "ENOSPC"])
        when = f"{chance.choice([1, 1, 2, 5])}+{chance.choice([1, 2, 5, 13])}"
        bears = failing(*_TOLD)
        with trial.load(bears) as load:
            load.goes_on(chance.choice([0, 3, 10]))
            with injected(trial.server.pid, f"{call}:error={error}:when={when}", trace):
                load.lasts(chance.uniform(0.2, 0.6))
                trial.checkpoint(bears)
            load.goes_on(5)
        trial.tally.faults += trace.read_text().count("(INJECTED)")

    return Fault(f"io-{call}", f"I/O errors in `{call}`", 20, under_load(befall))


FAULTS = tuple(map(failing_call, CALLS))
