"""A program at a terminal of its own, and the hands at its keys."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

CTRL_C = b"\x03"
WAIT_S = 20.0
_PRESS_AGAIN_S = 2.0


class Terminal:
    """A running program whose standard files are a terminal of 24 lines; killed at the end if need be."""

    def __init__(self, *command: str, cwd: Path, env: Mapping[str, str], columns: int = 80) -> None:
        self._fd, theirs = pty.openpty()
        self._shown = b""
        self._closed = False
        termios.tcsetwinsize(theirs, (24, columns))
        try:
            self._process = subprocess.Popen(
                # In a session that the terminal controls: emacs opens /dev/tty.
                ["setsid", "--ctty", *command],
                cwd=cwd,
                env={**env, "TERM": "vt100"},
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
            )
        finally:
            os.close(theirs)

    def shows(self, text: bytes) -> None:
        """Wait until this has been on the screen."""

        def shown() -> bool:
            assert self._process.poll() is None, self._shown
            return text in self._shown

        self._until(shown, f"{text!r} is shown")

    def press(self, keys: bytes) -> None:
        assert os.write(self._fd, keys) == len(keys)

    def interrupt(self) -> None:
        """Press Ctrl-C until the program ends: Python may miss one that comes just before it reads."""
        pressed_s = float("-inf")

        def ended() -> bool:
            nonlocal pressed_s
            if self._process.poll() is not None:
                return True
            if time.monotonic() - pressed_s > _PRESS_AGAIN_S:
                self.press(CTRL_C)
                pressed_s = time.monotonic()
            return False

        self._until(ended, "the program ends")

    def ended(self) -> None:
        """Wait for the program to end well."""
        assert self.code() == 0, self._shown

    def code(self) -> int:
        """Wait for the program to end: its exit code."""
        self._until(lambda: self._process.poll() is not None, "the program ends")
        self._until(lambda: self._closed, "all that it wrote is shown")
        return self._process.returncode

    @property
    def screen(self) -> str:
        """All that was shown so far."""
        return self._shown.decode().replace("\r\n", "\n")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def _until(self, happened: Callable[[], bool], what: str) -> None:
        """Go on reading, for a program whose screen nobody reads stands still."""
        deadline = time.monotonic() + WAIT_S
        while not happened():
            assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}: {self._shown!r}"
            if select.select([self._fd], [], [], 0.01)[0]:
                try:
                    self._shown += os.read(self._fd, 65536)
                except OSError:
                    self._closed = True
                    time.sleep(0.01)  # it has closed its side, and is about to end
