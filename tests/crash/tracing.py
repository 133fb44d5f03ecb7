"""Kills and errors at chosen system calls, by `strace -e inject`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.serving import ROOT

CHANGING = (
    "openat", "mkdir", "mkdirat", "write", "pwrite64", "ftruncate", "copy_file_range", "fchmod", "fchown",
    "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
    "fsync", "fdatasync", "syncfs", "flock",
)  # fmt: skip
"""System calls that change something, or hand out what something is changed by."""

_CALL = re.compile(r"^(\d+) +(\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Ran:
    """What came of a run: what it told, how it ended, and the calls of the thread that made most of each."""

    told: list[dict[str, Any]]
    code: int
    calls: Counter[str]

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def done(self) -> bool:
        return any("done" in fact for fact in self.told)

    @property
    def values(self) -> dict[str, str] | None:
        """The digests of all values as they were read right after a failed act."""
        return next((fact["values"] for fact in self.told if "values" in fact), None)

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [fact for fact in self.told if "failed" in fact]


class Stepper:
    """Runs `tests.crash.steps`, traced for one phase."""

    def __init__(self, process: subprocess.Popen[str], home: Path) -> None:
        self._process = process
        self._trace = home / "trace"

    def run(self, db: Path, phase: str, act: str, *injected: str, go_on: bool = False) -> Ran:
        """Go through the steps; `injected` are strace's expressions, from where the phase begins."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{db} {phase} {act} {'on' if go_on else 'end'}\n")
        self._process.stdin.flush()
        told: list[dict[str, Any]] = []
        pid: int = self._told_until("stopped", told)
        with traced(pid, CHANGING, injected, self._trace):
            os.kill(pid, signal.SIGCONT)
            code: int = self._told_until("ended", told)
        calls: Counter[str] = Counter()
        for (_, call), times in Counter(_CALL.findall(self._trace.read_text())).items():
            calls[call] = max(calls[call], times)
        return Ran(told, code, calls)

    def _told_until(self, awaited: str, told: list[dict[str, Any]]) -> Any:
        """What the awaited fact says; what is told before it goes to `told`."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            fact = json.loads(line)
            if awaited in fact:
                return fact[awaited]
            told.append(fact)
        raise AssertionError(f"the steps ended before they told what is {awaited}")


@contextmanager
def traced(
    pid: int, calls: Sequence[str], injected: Sequence[str], trace: Path, *, path: Path | None = None
) -> Iterator[None]:
    """Trace these calls of a process, with what `injected` says (strace's expressions), until the end.

    With `path` only calls on that file. Skips the test where that cannot be done; then the process is killed.
    """
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    wanted = ",".join(f"?{call}" for call in calls)
    command = ["strace", "-f", "-p", str(pid), "-o", str(trace), "-e", f"trace={wanted}"]
    if path is not None:
        command += ["-P", str(path)]
    for expression in injected:
        command += ["-e", f"inject=?{expression}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        while "Requested path" in said:  # strace tells what a symlink on the way means
            said = strace.stderr.readline()
        if "attached" not in said:
            os.kill(pid, signal.SIGKILL)
            pytest.skip(f"cannot trace a process here: {said.strip()}")
        try:
            yield
        finally:
            strace.terminate()


@contextmanager
def stepper(home: Path) -> Iterator[Stepper]:
    """The steps, ready to be run; skips the test where there is no strace."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.steps"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Stepper(process, home)
        finally:
            process.kill()
