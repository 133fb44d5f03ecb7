"""A real server in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.polling import eventually

ROOT = Path(__file__).resolve().parents[1]
START_S = 60.0
_URL = re.compile(r"http://([0-9.]+):([0-9]+)")


class ServerProcess:
    """`kvfs serve` on a free port, from `start` to `stop` or `kill`; may be started again.

    It has few stores open at once: each folder that is watched takes one of the few inotify instances that a
    user may have (`fs.inotify.max_user_instances`), and many servers run at once here.

    As a context manager it is started and stopped. What it says is kept in `log`. `variables` are added to
    its environment.
    """

    def __init__(self, home: Path, *options: str, variables: Mapping[str, str] | None = None) -> None:
        self.log = home / "server.log"
        self.host = ""
        self.port = 0
        self._command = [
            sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(home / "data"),
            "--allow-any-absolute-db-path", "--max-open", "12", *options,
        ]  # fmt: skip
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until it listens."""
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**os.environ, **(self._variables or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._process = process

        def listens() -> bool:
            assert process.poll() is None, self.log.read_text()
            return _URL.search(self.log.read_text()) is not None

        try:
            eventually(listens, START_S, "the server listens")
        except BaseException:
            self.kill()
            raise
        match = _URL.search(self.log.read_text())
        assert match is not None
        self.host, self.port = match[1], int(match[2])

    def stop(self) -> None:
        """Ask it to end; fails if it complains, or does not end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        assert code == 0, self.log.read_text()

    def kill(self) -> None:
        """End it without asking."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
