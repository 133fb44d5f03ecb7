"""Servers of one folder store, clients that write to it, and the folder and its op-log as others see them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvfs.directory.names import is_ignored, key_of
from tests import invariants
from tests.contract.http_driver import Client, HttpDriver
from tests.crash.load import Acknowledged, Writer, write_until
from tests.crash.targets import HttpTarget
from tests.polling import eventually
from tests.programs import connect
from tests.serving import ServerProcess

TABLE = "site"
WITHIN_S = 100.0
PAGE = 10_000


class Folder:
    """The folder store `home`/data/db, as anybody sees it who does not ask a server."""

    def __init__(self, home: Path) -> None:
        self.db = home / "data/db"
        self.root = self.db / TABLE
        self.spare = home / "spare"
        self.root.mkdir(parents=True)
        self.spare.mkdir(parents=True)

    def write(self, path: str, value: bytes) -> None:
        """Write into the file, and make the folders above it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(value)

    def replace(self, path: str, value: bytes) -> None:
        """Have a whole file there, in one step."""
        file, fresh = self.root / path, self.spare / "fresh"
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(value)
        fresh.rename(file)

    def values(self) -> dict[str, bytes]:
        """What the files say."""
        found = {}
        for above, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if not is_ignored(name)]
            for name in names:
                file = Path(above, name)
                key = key_of(file.relative_to(self.root).parts)
                assert key is not None
                found[key] = file.read_bytes()
        return found

    def logged(self) -> dict[str, bytes]:
        """The hash of each key's value by its last op."""
        connection = connect(self.db / f".kvfs/{TABLE}.oplog")
        try:
            connection.set_busy_timeout(5000)
            rows = connection.execute(
                "SELECT key, value_hash, max(op_number) FROM kvfs_oplog_files GROUP BY 1"
            )
            return {key: digest for key, digest, _ in rows if digest is not None}
        finally:
            connection.close()

    def is_recorded(self) -> bool:
        """Whether the log says of each key what its file says."""
        return self.logged() == {key: invariants.hashed(value) for key, value in self.values().items()}

    def gets_recorded(self) -> None:
        """Wait until all that was edited is in the log."""
        eventually(self.is_recorded, WITHIN_S, "what was edited is in the log")

    def check(self) -> list[invariants.Logged]:
        """The log, when everything is as it must be."""
        return invariants.check_folder(self.db, TABLE)

    @property
    def index(self) -> Path:
        return self.db / f".kvfs/{TABLE}.index"

    def lose_index(self) -> None:
        """Delete the index."""
        for file in (self.db / ".kvfs").glob(f"{TABLE}.index*"):
            file.unlink(missing_ok=True)

    def delete(self) -> None:
        """Take the folder away, with all that belongs to it."""
        shutil.rmtree(self.db)


class Server(ServerProcess):
    """A server, and a client of its own, which asks for the folder store."""

    def __init__(self, home: Path, folder: Folder, *options: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        super().__init__(home, "--scan-interval", "1", *options)
        self.folder = folder
        self._client: Client | None = None

    def start(self) -> None:
        super().start()
        self._client = Client(self.host, self.port)

    def stop(self) -> None:
        self._let_go()
        super().stop()

    def kill(self) -> None:
        self._let_go()
        super().kill()

    def pause(self) -> None:
        """Nothing of it runs from here on, until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    @property
    def is_up(self) -> bool:
        return self._client is not None

    @property
    def store(self) -> HttpDriver:
        assert self._client is not None
        db = str(self.folder.db)
        return HttpDriver(self._client, db, TABLE, directory=True, check=lambda: None)

    def rebuild(self) -> dict[str, Any]:
        """Have the index made anew; what is told of it."""
        assert self._client is not None
        params = {"db": str(self.folder.db), "table": TABLE}
        told: dict[str, Any] = self._client.request(
            "POST", "/maintenance", params, b'{"op": "rebuild"}'
        ).json()
        return told

    def listed(self) -> dict[str, bytes]:
        """All keys with their values, as a list tells them."""
        found: dict[str, bytes] = {}
        after: str | None = None
        while True:
            page = self.store.list(limit=PAGE, after=after, values=True)
            found.update((item.key, item.value or b"") for item in page.items)
            if not page.has_more:
                return found
            after = page.next_after

    def watcher(self) -> str:
        """How the watcher of the folder fares; empty where it is not open."""
        assert self._client is not None
        stores = self._client.request("GET", "/health/cache", {}).json()["directory_stores"]
        return next((each["watcher"] for each in stores if each["path"] == str(self.folder.root)), "")

    def is_watching(self) -> bool:
        return self.watcher() == "watching"

    def watches(self) -> None:
        """Wait until outside edits raise events."""
        eventually(self.is_watching, WITHIN_S, "the folder is watched")

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _let_go(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


@dataclass(frozen=True)
class Load:
    """Writing clients. `ending` says that servers are about to end: then they may fail, and not before."""

    acknowledged: Acknowledged
    ending: threading.Event
    failures: list[BaseException]

    def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait for something that happens under the load, or for a failure."""
        eventually(lambda: bool(self.failures) or happened(), WITHIN_S, what)

    def until_more(self, writes: int) -> None:
        """Wait for more acknowledged writes."""
        wanted = len(self.acknowledged.acks) + writes
        self.until(lambda: len(self.acknowledged.acks) >= wanted, "writes are acknowledged")


@contextmanager
def load(acknowledged: Acknowledged, seed: int, *servers: Server, name: str = "w") -> Iterator[Load]:
    """Two clients of each server write as long as this lasts, to keys that begin so. None may fail."""
    under_way = Load(acknowledged, threading.Event(), [])
    stop = threading.Event()

    def write(server: Server, me: int) -> None:
        try:
            writer = Writer(HttpTarget(server.store), f"{name}{me}", seed, acknowledged)
            write_until(stop.is_set, writer)
        except BaseException as error:
            if not under_way.ending.is_set():
                under_way.failures.append(error)

    threads = [
        threading.Thread(target=write, args=(server, me)) for me, server in enumerate([*servers, *servers])
    ]
    for thread in threads:
        thread.start()
    try:
        yield under_way
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for failure in under_way.failures:
        raise failure
