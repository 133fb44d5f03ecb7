"""Server processes: the ones that tests share, and ones that a test starts and ends as it likes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from tests.http.wire import Endpoint
from tests.polling import eventually
from tests.serving import ROOT, START_S, ServerProcess

_DATABASES = (".db", "-wal", "-shm", ".oplog", ".index")
_URL = re.compile(r"listening on http://\[?([0-9a-f.:]+?)\]?:([0-9]+), ")


class Server(ServerProcess, Endpoint):
    """A server that runs as long as tests need it."""

    def __init__(self, home: Path, *options: str) -> None:
        super().__init__(home, *options)
        self.data_dir = home / "data"
        self.started_s = 0.0
        """When it was started, in monotonic seconds."""

    def __enter__(self) -> Server:
        self.started_s = time.monotonic()
        self.start()
        return self

    @contextmanager
    def nothing_left_open(self) -> Iterator[None]:
        """Fails where what is done inside leaves a file or a connection open that was not before."""
        before = _passing(self.pid)
        yield
        left: Counter[str] = Counter()

        def closed() -> bool:
            nonlocal left
            left = _passing(self.pid) - before
            return not left

        try:
            eventually(closed, 5, "all is closed that was opened")
        except AssertionError as exc:
            raise AssertionError(f"left open: {[*left.elements()]}") from exc


class Launched(Endpoint):
    """`kvfs` with any arguments, in the folder `home`: what it says, and how it ends. Killed at the end."""

    def __init__(self, home: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        home.mkdir(exist_ok=True)
        self._out, self._err = home / "stdout", home / "stderr"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KVFS_")}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server", *arguments],
                cwd=home,
                env={**inherited, "PYTHONPATH": str(ROOT), **(variables or {})},
                stdout=out,
                stderr=err,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def out(self) -> str:
        return self._out.read_text(errors="surrogateescape")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="surrogateescape")

    def listening(self) -> Launched:
        """Itself, when it listens."""

        def listens() -> bool:
            assert self._process.poll() is None, self.out + self.err
            return _URL.search(self.out) is not None

        eventually(listens, START_S, "the server listens")
        match = _URL.search(self.out)
        assert match is not None
        self.host, self.port = match[1], int(match[2])
        return self

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def running(self) -> bool:
        return self._process.poll() is None

    def code(self, within_s: float = START_S) -> int:
        """Its exit code, which must come in time."""
        return self._process.wait(within_s)

    def stop(self) -> None:
        """End it in good order."""
        self.send(signal.SIGTERM)
        assert self.code() == 0, self.out + self.err

    def __enter__(self) -> Launched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


def serving(home: Path, *options: str, variables: Mapping[str, str] | None = None) -> Launched:
    """`kvfs serve` on a free port with its data in `home`/data, when it listens."""
    arguments = ("serve", "--port", "0", "--data-dir", str(home / "data"), *options)
    return Launched(home, *arguments, variables=variables).listening()


def _passing(pid: int) -> Counter[str]:
    """What a process has open, but for databases and watches: of these it may keep as many as it likes."""
    folder = f"/proc/{pid}/fd"
    found: Counter[str] = Counter()
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            target = os.readlink(f"{folder}/{name}")
            if not target.endswith(_DATABASES) and not target.startswith("anon_inode:"):
                found[target] += 1
    return found
