"""A store of a running server, asked over HTTP, and looked at from outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import invariants
from tests.http.wire import BASE, Answer, Connection, Endpoint, Headers, key_path, target_of

TABLE = "things"
_COOKIES = ".cookies"
_CLOCK = "clock"
_SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class State:
    """All that a store shows: its keys with values and op numbers, how long its log is, what lies on disk."""

    items: list[dict[str, Any]]
    cursor: str
    files: dict[str, bytes]


class Store:
    """One store, alone in its folder `home`. As a context manager it is disconnected at the end.

    `strangers` are files that a test puts there and that are no keys.
    """

    def __init__(self, server: Endpoint, home: Path, *, directory: bool) -> None:
        home.mkdir()
        self.server = server
        self.directory = directory
        self.home = home
        self.db = home / ("db" if directory else "file.db")
        self.strangers: set[str] = set()
        self._connection: Connection | None = None
        if directory:
            self.db.mkdir()
        else:
            assert server.ask("POST", target_of(f"{BASE}/db/create", path=self.db)).status == 200

    @property
    def folder(self) -> Path:
        """Where the files of a directory store lie."""
        assert self.directory
        return self.db / TABLE

    def target(self, key: str | None = None, action: str = "", /, **params: object) -> str:
        """The target of a request; the action of no key is one on the whole table."""
        table_path = f"{BASE}/kv/{action}" if action else f"{BASE}/kv"
        path = table_path if key is None else key_path(key, action)
        return target_of(path, **{"db": self.db, "table": TABLE, **params})

    def ask(
        self,
        method: str,
        key: str | None = None,
        action: str = "",
        /,
        *,
        body: bytes | None = None,
        headers: Headers = (),
        **params: object,
    ) -> Answer:
        """One request, on a connection that is kept as long as the server keeps it."""
        if self._connection is None:
            self._connection = self.server.connect()
        answer = self._connection.ask(method, self.target(key, action, **params), body, headers)
        if answer.headers["Connection"] == "close":
            self.disconnect()
        return answer

    def put(self, key: str, value: bytes, *, headers: Headers = (), **params: object) -> Any:
        """Store a value; the answer's JSON."""
        return self.ask("PUT", key, body=value, headers=headers, **params).done()

    def get(self, key: str) -> bytes:
        answer = self.ask("GET", key)
        assert answer.status == 200, answer
        return answer.body

    def state(self) -> State:
        page = self.ask("GET", limit=10_000, values="true").done()
        return State(page["items"], page["change_cursor"], dict(self._files()))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Fails where what is done inside has changed anything."""
        before = self.state()
        yield
        assert self.state() == before

    def check(self) -> None:
        """Fails where the store is not what its log says."""
        if self.directory:
            if (self.db / ".kvfs" / f"{TABLE}.oplog").exists():
                invariants.check_folder(self.db, TABLE, strangers=self.strangers)
        elif self.db.exists():
            invariants.check_table(self.db)

    def log(self) -> list[invariants.Logged]:
        """The op-log, when everything is as it must be."""
        if self.directory:
            return invariants.check_folder(self.db, TABLE, strangers=self.strangers)
        return invariants.check_table(self.db)[TABLE]

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """What lies on disk, by its path; with its content where it is a key's file."""
        for above, folders, names in os.walk(self.home):
            if above.endswith(_COOKIES):
                continue
            for name in names + [name for name in folders if os.path.islink(os.path.join(above, name))]:
                path = Path(above, name)
                key_file = self.directory and self.folder in path.parents
                readable = key_file and path.is_file() and not path.is_symlink()
                # Each process that opens a folder makes the clock anew.
                if not name.endswith(_SIDE_FILES) and name != _CLOCK:
                    yield str(path.relative_to(self.home)), path.read_bytes() if readable else b""
