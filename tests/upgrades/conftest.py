"""Stores of every format that was ever written."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.paths import Paths
from tests import invariants
from tests.clocks import HandClock
from tests.upgrades.making import STORES, TABLE

ARCHIVES = sorted(STORES.glob("*.tar.xz"))
NAMES = ("app.db", "folder")
UNTOLD = ("-shm", ".lock")
"""How the names end of what says nothing of a store, and may come to lie beside it."""


@dataclass(frozen=True)
class Written:
    """Stores that some version wrote, in the folder `home`, and what it said is in them."""

    home: Path
    golden: dict[str, Any]
    clock: HandClock

    def engine(self) -> Engine:
        config = Config(watch=False, retention_grace_s=0)
        return Engine(Paths(str(self.home)), clock=self.clock, config=config)

    def contents(self, name: str) -> dict[str, Any]:
        """What is in a store."""
        contents: dict[str, Any] = self.golden["stores"][name]
        return contents

    def log_of(self, name: str) -> Path:
        """The database that has the op-log of a store."""
        return self.home / name if name == "app.db" else self.home / name / f".kvfs/{TABLE}.oplog"

    def check(self, name: str) -> list[invariants.Logged]:
        """The log, when everything is as it must be."""
        if name == "app.db":
            return invariants.check_table(self.home / name)[TABLE]
        return invariants.check_folder(self.home / name, TABLE)

    def files(self) -> dict[str, bytes]:
        """All that lies there and says something."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in sorted(self.home.rglob("*"))
            if path.is_file() and not path.name.endswith(UNTOLD)
        }


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def archive(request: pytest.FixtureRequest) -> Path:
    """The stores of each format."""
    archive: Path = request.param
    return archive


def _unpacked(archive: Path, home: Path, which: str) -> Written:
    with tarfile.open(archive) as tar:
        tar.extractall(home, filter="data")
    golden = json.loads(archive.with_name(archive.name.replace(".tar.xz", ".json")).read_text())
    return Written(home / which, golden, HandClock(golden["written_at_ns"]))


@pytest.fixture(params=["closed", "running"])
def either(archive: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Written:
    """Them, as a program left them, and as a copy found them while it ran."""
    return _unpacked(archive, tmp_path, request.param)


@pytest.fixture(params=["closed", pytest.param("running", marks=pytest.mark.soak)])
def written(archive: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Written:
    """As `either`, for what makes less of the difference."""
    return _unpacked(archive, tmp_path, request.param)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """A table, and a folder."""
    name: str = request.param
    return name
