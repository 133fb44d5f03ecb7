"""`kvfs` as a process of its own, told where to work by its environment."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from tests.serving import ROOT

WAIT_S = 60.0
COMMAND = [sys.executable, "-m", "server"]


@dataclass(frozen=True)
class Ended:
    """What a command said, and its exit code."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said, line by line; it must have gone well."""
        assert self.code == 0, self
        assert self.err == "", self
        return self.out.decode().splitlines()


@dataclass(frozen=True)
class Kvfs:
    """Runs `kvfs` with these arguments for every command on a store, and these variables."""

    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KVFS_") and name not in ("VISUAL", "EDITOR", "COLUMNS", "NO_COLOR")
        }
        return {**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm", **self.variables}

    def command(self, *arguments: object) -> list[str]:
        return [*COMMAND, *map(str, arguments), *self.arguments]

    def __call__(self, *arguments: object, stdin: bytes = b"", **variables: str) -> Ended:
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            env={**self.environment, **variables},
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode())

    def at_terminal(
        self, *arguments: object, keys: bytes = b"", columns: int = 80, **variables: str
    ) -> tuple[int, str]:
        """(exit code, what was on the screen) of a command at a terminal where these keys are pressed."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            # In a session that the terminal controls: so Ctrl-C is a signal.
            ["setsid", "--ctty", *self.command(*arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**self.environment, **variables},
        )
        os.close(theirs)
        try:
            os.write(ours, keys)
            shown = _screen(ours)
            return process.wait(WAIT_S), shown.decode().replace("\r\n", "\n")
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def _screen(fd: int) -> bytes:
    """All that is shown until the other side is closed."""
    shown = b""
    deadline = time.monotonic() + WAIT_S
    with suppress(OSError):
        while time.monotonic() < deadline:
            if select.select([fd], [], [], 0.1)[0]:
                chunk = os.read(fd, 65536)
                if not chunk:
                    break
                shown += chunk
    return shown
