"""Where a store is, and what else can be done there: lock it, count its commits, see who has it open."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.handle import Handle
from kvfs.model import Set, value_bytes
from kvfs.paths import Paths
from tests import invariants
from tests.programs import connect

TABLE = "things"
_WAL_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24


class Place:
    """A database file or a directory below `home`, for one store; `log_file` is where its op-log lies."""

    def __init__(self, home: Path, *, directory: bool) -> None:
        self.home = home
        self.directory = directory
        self.path = home / ("folders" if directory else "t.db")
        self.db = str(self.path)
        if directory:
            self.path.mkdir()
        self.log_file = self.path / f".kvfs/{TABLE}.oplog" if directory else self.path

    def engine(self, *, config: Config | None = None, clock: Callable[[], int] = time.time_ns) -> Engine:
        return Engine(Paths(str(self.home)), config=replace(config or Config(), watch=False), clock=clock)

    @contextmanager
    def store(
        self, *, config: Config | None = None, clock: Callable[[], int] = time.time_ns
    ) -> Iterator[Handle]:
        """The store in an engine of its own, made if it is not there."""
        engine = self.engine(config=config, clock=clock)
        with engine, engine.lease(self.db, TABLE, create=True) as handle:
            yield handle

    def check(self, *, crashed: bool = False) -> list[invariants.Logged]:
        """The op-log, when everything is as it must be; see `invariants.check_folder`."""
        if self.directory:
            return invariants.check_folder(self.path, TABLE, crashed=crashed)
        return invariants.check_table(self.path).get(TABLE, [])

    def connect(self) -> apsw.Connection:
        """Another program's connection to the database, or to the op-log of a folder."""
        return connect(self.log_file)

    def sql(self, *statements: str) -> None:
        """What another program does to the database."""
        with closing(self.connect()) as connection:
            for statement in statements:
                connection.execute(statement)

    def query(self, sql: str) -> list[Any]:
        """What another program reads in the database."""
        with closing(self.connect()) as connection:
            return connection.execute(sql).fetchall()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else has the write lock of the database with the op-log, from here to the end."""
        with closing(self.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    def commits(self) -> int:
        """How many commits the WAL of the op-log holds (sqlite.org/fileformat2.html#the_write_ahead_log)."""
        wal = Path(f"{self.log_file}-wal").read_bytes()
        salts = wal[16:24]
        page_bytes = int.from_bytes(wal[8:12])
        frames = range(_WAL_HEADER_BYTES, len(wal), _FRAME_HEADER_BYTES + page_bytes)
        # Only the last frame of a commit tells the size of the database.
        return sum(any(wal[at + 4 : at + 8]) and wal[at + 8 : at + 16] == salts for at in frames)

    def open_files(self) -> int:
        """How many files below this process has open, deleted ones included."""
        return open_files(self.db)


def open_files(path: str) -> int:
    """How many files this process has open whose paths begin so, deleted ones included."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(path)
        except FileNotFoundError:
            continue
    return found


def text(key: str, value: bytes = b"x") -> Set:
    """A write of a little text."""
    return Set(key, value, "text/plain")


def lasting(key: str, ttl_s: int = 60) -> Set:
    """A write of a little text with a TTL."""
    return Set(key, b"x", "text/plain", ttl_s)


def value_of(store: Handle, key: str) -> bytes:
    """A key's value, in memory."""
    value = store.get(key).value
    assert value is not None
    return value_bytes(value)
