"""A folder store, and the folder as everybody else sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.handle import Handle
from kvfs.listing import LIMIT_MAX, Query
from kvfs.model import Entry, FileValue
from kvfs.paths import Paths
from tests import invariants
from tests.clocks import HurriedClock

TABLE = "site"
UNWATCHED = Config(watch=False)


class Folder:
    """A folder store in `db`, whose keys are the files below `root`.

    It is not watched, so that each test says when it is looked at. `strangers` are paths below `root` that a
    test put there and that are no keys.
    """

    def __init__(self, db: Path, config: Config = UNWATCHED) -> None:
        self._config = config
        self.db = db
        self.root = db / TABLE
        self.home = db / ".kvfs"
        self.clock = HurriedClock()
        self.strangers: set[str] = set()
        db.mkdir()
        self._engine: Engine | None = None

    @property
    def store(self) -> Handle:
        """The store, leased anew, as a server does for each request."""
        if self._engine is None:
            self._engine = Engine(Paths(str(self.db)), clock=self.clock, config=self._config)
        with self._engine.lease(str(self.db), TABLE, create=True) as handle:
            return handle

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def value(self, key: str) -> bytes:
        return whole(self.store.get(key))

    def keys(self) -> Sequence[str]:
        return [entry.key for entry in self.store.list(Query(limit=LIMIT_MAX)).entries]

    def write(self, path: str, value: bytes) -> Path:
        """What any program does: make the folders, write the file."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(value)
        return file

    def files(self) -> dict[str, bytes]:
        """All files below the folder, with what is in them."""
        found = (Path(parent, name) for parent, _, names in os.walk(self.root) for name in names)
        return {str(file.relative_to(self.root)): file.read_bytes() for file in found}

    def check(self) -> list[invariants.Logged]:
        """The log, when everything is as it must be."""
        return invariants.check_folder(self.db, TABLE, strangers=self.strangers)

    def ops(self, key: str) -> Sequence[tuple[str, str]]:
        """(type, origin) of what happened to a key."""
        return [(op.op_type, op.origin) for op in self.check() if op.key == key]


def whole(entry: Entry) -> bytes:
    """An entry's value, in memory."""
    assert entry.value is not None
    if isinstance(entry.value, FileValue):
        with entry.value:
            return entry.value.read()
    return entry.value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """An empty folder store, checked at the end."""
    folder = Folder(tmp_path / "db")
    try:
        yield folder
        folder.store.settle_all()
        folder.close()
        if folder.home.exists():
            folder.check()
    finally:
        folder.close()
