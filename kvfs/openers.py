"""How a location becomes a volume with stores: the one place that knows which kinds of stores there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kvfs.config import Config
from kvfs.database import Database
from kvfs.directory.store import DirectoryStore
from kvfs.errors import from_os_error
from kvfs.paths import Kind, Location
from kvfs.store import Store, Volume
from kvfs.table import TableStore


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening a location gives: the volume, and its stores by their tables' names."""

    volume: Volume
    store: Callable[[str], Store]
    file: Database | None = None
    """The volume itself where SQL can be run on it."""


Opener = Callable[[Location, Config, bool], Opened]
"""Opens a location; the last argument says whether to make it where it is missing."""


def _open_database(location: Location, config: Config, create: bool) -> Opened:
    file = Database(location.path, create=create)
    return Opened(file, lambda table: TableStore(file, table), file)


def _open_directory(location: Location, config: Config, create: bool) -> Opened:
    if create:
        make_folder(location.path)
    folder = DirectoryStore(location.path, location.table, config)
    return Opened(folder, lambda table: folder)


OPENERS: Final[Mapping[Kind, Opener]] = {Kind.TABLE: _open_database, Kind.DIRECTORY: _open_directory}


def make_folder(path: str) -> None:
    """Make a folder, and those above it, where it is missing."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as exc:
        raise from_os_error(exc, f"make {path}") from exc
