"""A shell in a terminal of tmux: what is typed there, and what is to be seen."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.polling import eventually

WAIT_S = 20.0
_ENDED = re.compile(r"code=(\d+)\r\n")


class Screen:
    """A shell in a terminal of 24 lines, which is recorded; everything in it is ended at the end.

    There is no job control: a program that is stopped stays in the foreground.
    """

    def __init__(self, home: Path, env: Mapping[str, str], *, columns: int = 80) -> None:
        # Not below `home`: the path of a socket has 107 bytes at most.
        self._sockets = tempfile.TemporaryDirectory(prefix="tmux-")
        self._tmux = ("tmux", "-f", "/dev/null", "-S", f"{self._sockets.name}/socket")
        self._record = home / "terminal"
        self._record.touch()
        self._begun = 0
        setup = home / "setup.sh"
        # Ctrl-C must not end the list of commands that is typed.
        setup.write_text("set +m; trap : INT; PS1='$ '\n")
        shell = shlex.join(["env", f"ENV={setup}", "sh", "-i"])
        size = ("-x", str(columns), "-y", "24")
        self._environment = {**env, "TMPDIR": str(home)}
        self._ask("new-session", "-d", *size, "-c", str(home), shell)
        self._ask("pipe-pane", f"exec cat >> {shlex.quote(str(self._record))}")

    @property
    def shown(self) -> str:
        """All that was written to the terminal since the last command began."""
        return self._record.read_bytes().decode(errors="replace")[self._begun :]

    def lines(self, *, coloured: bool = False, joined: bool = False) -> list[str]:
        """What is to be seen, line by line; `joined`: what is too long for one line is one all the same."""
        options = [*(["-e"] if coloured else []), *(["-J"] if joined else [])]
        return [line.rstrip() for line in self._ask("capture-pane", "-p", *options).strip().splitlines()]

    def begin(self, command: str) -> None:
        """Type a command, on a screen that is empty then."""
        self._begun += len(self.shown)
        self.write(f"clear; {command}; echo code=$?")

    def write(self, line: str) -> None:
        """Type a line."""
        # At the end of an argument, a semicolon would end the command of tmux.
        self._ask("send-keys", "-l", line.removesuffix(";") + "\\;" if line.endswith(";") else line)
        self.press("Enter")

    def shows(self, pattern: str) -> None:
        """Wait until this has been shown since the last command began."""
        eventually(lambda: re.search(pattern, self.shown) is not None, WAIT_S, f"{pattern!r} is shown")

    def press(self, key: str) -> None:
        """Press a key, as tmux calls it: `C-c`."""
        self._ask("send-keys", key)

    def ended(self) -> bool:
        """Whether the last command has ended."""
        return _ENDED.search(self.shown) is not None

    def code(self) -> int:
        """Wait for the end of the last command: its exit code."""
        eventually(self.ended, WAIT_S, "the command ends")
        (code,) = _ENDED.findall(self.shown)
        return int(code)

    def run(self, command: str) -> int:
        """The exit code of a command."""
        self.begin(command)
        return self.code()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask("kill-server")
        self._sockets.cleanup()

    def _ask(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
        )
        return done.stdout
