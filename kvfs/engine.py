"""Opens and closes stores: a registry of the open volumes, each with its one writer, and a reaper.

A volume stays open while somebody holds a lease on one of its stores, and a while longer; when too many
are open, the one that was idle longest is closed. A file that was replaced or deleted at its path is
noticed at the next lease.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final

from kvfs import database
from kvfs.checkpoints import Checkpointer
from kvfs.commits import Commits
from kvfs.config import Config
from kvfs.database import Database
from kvfs.errors import (
    DatabaseNotFound,
    DeadlineExceeded,
    KvfsError,
    Overloaded,
    PathIsDirectory,
    StorageFailure,
    Unavailable,
)
from kvfs.followers import Ending
from kvfs.handle import Handle
from kvfs.model import NS, Clock, Write
from kvfs.openers import OPENERS, Opener, make_folder
from kvfs.paths import Kind, Location, Paths, check_table
from kvfs.sql.database import SqlDatabase, rehearse
from kvfs.sql.handle import SqlHandle
from kvfs.sql.interrupts import Interrupter
from kvfs.sql.model import Failure, Item, MakeRows
from kvfs.sql.query_log import QueryLog, query_log_in
from kvfs.status import EngineStatus, Openings, OpenStatus
from kvfs.transaction import check_on_nothing
from kvfs.volumes import TEND_S, OpenVolume
from kvfs.writer import Turn, Writer

_LOG = logging.getLogger("kvfs.engine")

_TICK_S: Final = 1.0
_CHECKPOINT_EVERY_TICKS: Final = 5
_FORGET_EVERY_TICKS: Final = 600
_LEASE_WAIT_S: Final = 10.0
_RETAIN_S: Final = 0.1
_CACHED_NAMES: Final = 10_000
_FAILURES_KEPT: Final = 100


class Lease:
    """A store that stays open until `release`; works as a context manager that yields the handle."""

    __slots__ = ("_engine", "_open", "handle")

    def __init__(self, engine: Engine, opened: OpenVolume, handle: Handle) -> None:
        self._engine = engine
        self._open: OpenVolume | None = opened
        self.handle = handle

    @property
    def sql(self) -> SqlDatabase:
        """SQL on the database file. Raises `PathIsDirectory` for a folder."""
        if self._open is None or self._open.sql is None:
            raise PathIsDirectory("Path is a directory: a database file is needed")
        return self._open.sql

    def release(self) -> None:
        """Let the store be closed; idempotent."""
        opened, self._open = self._open, None
        if opened is not None:
            self._engine._release(opened)

    def __enter__(self) -> Handle:
        return self.handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Engine:
    """All open stores of a process. Any thread may use it; `close` is idempotent.

    `turn` has something called soon by one thread, an event loop's, which then takes the light steps of
    writes; see `kvfs.writer`. That thread must not block on the engine, nor close it. `queries` is where the
    query log lies, unless it is in the data dir.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        config: Config | None = None,
        clock: Clock = time.time_ns,
        openers: Mapping[Kind, Opener] = OPENERS,
        turn: Turn | None = None,
        queries: str | None = None,
    ) -> None:
        self.paths = paths
        self._turn = turn
        self._openers = openers
        self._commits = Commits()
        self._checkpointer = Checkpointer()
        self.config = config or Config()
        self.clock = clock
        self.queries = QueryLog(queries or query_log_in(paths.data_dir))
        self.interrupter = Interrupter(max_temp_bytes=self.config.sql_max_temp_bytes)
        # Guards `_volumes`, `_names`, `_failed`, `_closed` and counters in `OpenVolume`; held for moments.
        self._lock = threading.Lock()
        self._released = threading.Condition(self._lock)
        self._volumes: dict[str, OpenVolume] = {}
        self._names: dict[tuple[str, str | None], tuple[OpenVolume, Handle]] = {}
        self._failed: dict[str, str] = {}
        # One lock a path: opening, closing and deleting a volume never overlap. Taken before `_lock`.
        self._path_locks: dict[str, threading.Lock] = {}
        self._closed = False
        # Where watched folders were taken away: the reaper's alone.
        self._vacant: dict[str, Location] = {}
        self._stop = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="kvfs-reaper", daemon=True)
        self._reaper.start()
        # A thread of its own: expiries must not wait for it.
        self._retainer = threading.Thread(target=self._retain, name="kvfs-retention", daemon=True)
        self._retainer.start()

    # --- leases ------------------------------------------------------------------------------------------

    def lease_now(self, db: str, table: str | None) -> Lease | None:
        """A lease on a store that is open already; None where `lease` must be called, which may take long."""
        with self._lock:
            known = self._names.get((db, table))
            if known is None:
                return None
            opened, handle = known
            opened.users += 1
            opened.used = time.monotonic()
        if opened.volume.replaced():
            self._release(opened)
            return None
        return Lease(self, opened, handle)

    def lease(
        self,
        db: str,
        table: str | None = None,
        *,
        create: bool = False,
        first: Write | None = None,
        deadline: float | None = None,
    ) -> Lease:
        """Open a store, or find it open. `db` is what `Paths` takes; `create` makes a missing database.

        `first` is the write that asks for that: one that is going to fail makes nothing, and its error is
        raised here.
        Raises what `Paths.store` raises, `InvalidSqliteHeader`, `Overloaded` where too many volumes are in
        use, and `DeadlineExceeded` where opening takes longer than until `deadline` (monotonic seconds).
        """
        location = self.paths.store(db, table=table, create=create)
        with self._path_lock(_volume_key(location), deadline):
            if create and first is not None and not os.path.exists(location.path):
                check_on_nothing(first, clock=self.clock, config=self.config)
            return self._lease(db, table, location, create=create, deadline=deadline)

    def open_all(self, stores: Iterable[tuple[str, str]]) -> None:
        """Open these (database, table), as many as there is room for, so that they are watched."""
        for db, table in stores:
            with self._lock:
                if self._closed or len(self._volumes) >= self.config.max_open:
                    return
            try:
                self.lease(db, table).release()
            except KvfsError as exc:
                _LOG.warning("cannot open %s of %s: %s", table, db, exc.message)

    def exists(self, db: str, table: str | None) -> bool:
        """Whether there is a file or a folder where this store is to be; raises as `Paths.store`."""
        try:
            location = self.paths.store(db, table=table)
        except DatabaseNotFound:
            return False
        return location.kind is Kind.TABLE or os.path.isdir(location.folder)

    def status(self) -> EngineStatus:
        """What is open, and what could not be opened."""
        with self._lock:
            volumes = list(self._volumes.values())
            for opened in volumes:
                opened.users += 1
        now, failed = time.monotonic(), self._still_failed()
        try:
            return EngineStatus(
                tuple(
                    OpenStatus(
                        opened.volume.status(), opened.users - 1, opened.writer.queued, now - opened.used
                    )
                    for opened in volumes
                ),
                failed,
                *self._commits.so_far(),
            )
        finally:
            with self._released:
                for opened in volumes:
                    opened.users -= 1
                self._released.notify_all()

    def openings(self) -> Openings:
        """What is open, what could not be opened when it was last asked for, and what is in doubt."""
        failed = self._still_failed().keys() if self._failed else set()
        with self._lock:
            in_doubt = {
                key for key, opened in self._volumes.items() if opened.volume.doubt.reason is not None
            }
            return Openings(failed, set(self._volumes), in_doubt)

    # --- databases as a whole ----------------------------------------------------------------------------

    def create_database(self, path: str, *, kv_table: str | None = None) -> tuple[str, bool]:
        """Make a database file (for a path ending in `/`: a folder of stores), with a KV table if asked.

        (its path, True if it was made). One that is there is left untouched but for a missing KV table.
        """
        if kv_table is not None:
            check_table(kv_table)
        if path.endswith("/"):
            folder = self.paths.folder(path)
            existed = os.path.isdir(folder)
            make_folder(os.path.join(folder, kv_table) if kv_table else folder)
            return folder, not existed
        self.paths.file(path, create=True)
        location = self.paths.store(path, table=kv_table, create=True)
        with self._path_lock(_volume_key(location)):
            made = database.claim(location.path)
            lease = self._lease(path, kv_table, location, create=True, deadline=None)
        with lease as handle:
            if kv_table is not None:
                handle.come_into_being()
        return location.path, made

    def fails_when_new(
        self, db: str, items: Sequence[Item], make_rows: MakeRows, *, deadline: float
    ) -> Failure | None:
        """Why a transaction would fail on a database that is to be made for it; then none should be.

        None where it would not, and where there is a database already.
        """
        if os.path.exists(self.paths.file(db, create=True)):
            return None
        return rehearse(items, make_rows, self.interrupter, config=self.config, deadline=deadline)

    def delete_database(self, db: str) -> tuple[str, int]:
        """Delete a database file and its side files, after everything on it has ended.

        (its path, how many files were removed). Raises `PathIsDirectory` for a folder, `Overloaded` where
        what is under way does not end in time.
        """
        path = self.paths.file(db)
        with self._path_lock(path):
            opened = self._find(path)
            if opened is not None:
                self._retire(opened, Ending.DELETED)
            removed = database.delete(path)
        with suppress(KvfsError):
            self.queries.clear(path)
        return path, removed

    # --- closing -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what is waiting, checkpoint, and close everything."""
        with self._lock:
            self._closed = True
        self._stop.set()
        self._reaper.join()
        self._retainer.join()
        with self._lock:
            volumes = list(self._volumes.values())
            self._volumes.clear()
            self._names.clear()
        for opened in volumes:
            opened.close()
        self._checkpointer.close()
        self.interrupter.close()
        self.queries.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- parts -------------------------------------------------------------------------------------------

    @contextmanager
    def _path_lock(self, key: str, deadline: float | None = None) -> Iterator[None]:
        with self._lock:
            lock = self._path_locks.setdefault(key, threading.Lock())
        wait_s = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not lock.acquire(timeout=wait_s):
            raise DeadlineExceeded
        try:
            yield
        finally:
            lock.release()

    def _lease(
        self, db: str, table: str | None, location: Location, *, create: bool, deadline: float | None
    ) -> Lease:
        """A lease on what is at this location. The path's lock is held."""
        key = _volume_key(location)
        opened = self._find(key) or self._open(key, location, create=create)
        name = location.table.lower() if location.kind is Kind.TABLE else location.table
        handle = opened.handles.get(name)
        if handle is None:
            store = opened.store(location.table)
            sql = None if opened.sql is None else SqlHandle(opened.sql, self.queries)
            handle = Handle(store, opened.writer, config=self.config, clock=self.clock, sql=sql)
            if self.config.watch:
                handle.watch()
            opened.handles[name] = handle
        with self._lock:
            opened.users += 1
            opened.used = time.monotonic()
            # A symlink may come to mean something else; only true paths are remembered.
            if location.literal:
                if len(self._names) >= _CACHED_NAMES:
                    self._names.clear()
                self._names[db, table] = (opened, handle)
        return Lease(self, opened, handle)

    def _find(self, key: str) -> OpenVolume | None:
        """The open volume, if it is still what lies at its path. The path's lock is held."""
        with self._lock:
            opened = self._volumes.get(key)
        if opened is None or not opened.volume.replaced():
            return opened
        self._retire(opened, Ending.REPLACED)
        return None

    def _open(self, key: str, location: Location, *, create: bool) -> OpenVolume:
        """Open a volume. The path's lock is held."""
        self._make_room()
        try:
            got = self._openers[location.kind](location, self.config, create)
        except StorageFailure as exc:
            with self._lock:
                if len(self._failed) < _FAILURES_KEPT:
                    self._failed[key] = exc.message
            raise
        except KvfsError:
            self._mend(key)
            raise
        self._mend(key)
        writer = Writer(
            got.volume,
            clock=self.clock,
            config=self.config,
            commits=self._commits,
            checkpointer=self._checkpointer,
            turn=self._turn,
        )
        sql = None if got.file is None else self._sql(got.file, writer)
        opened = OpenVolume(key, location, got.volume, got.store, writer, sql, used=time.monotonic())
        opened.verify_what_was_in_doubt()
        with self._lock:
            if not self._closed:
                self._volumes[key] = opened
                return opened
        opened.close()
        raise Overloaded("The server is stopping", retry_after_s=1)

    def _sql(self, file: Database, writer: Writer) -> SqlDatabase:
        return SqlDatabase(
            file, writer, self.interrupter, config=self.config, clock=self.clock, record=self.queries.record
        )

    def _mend(self, key: str) -> None:
        """What lies here can be opened, or there is nothing to open any more."""
        if self._failed:
            with self._lock:
                self._failed.pop(key, None)

    def _still_failed(self) -> dict[str, str]:
        """What could not be opened when it was last asked for, and is still there."""
        with self._lock:
            failed = list(self._failed)
        gone = [key for key in failed if not os.path.exists(key)]
        with self._lock:
            for key in gone:
                self._failed.pop(key, None)
            return dict(self._failed)

    def _make_room(self) -> None:
        """Close the volume that was idle longest, if as many are open as may be."""
        with self._lock:
            if len(self._volumes) < self.config.max_open:
                return
            idle = [each for each in self._volumes.values() if each.can_go]
            if not idle:
                raise Overloaded("Too many databases are in use", retry_after_s=1)
            opened = min(idle, key=lambda each: each.used)
            self._forget(opened)
        opened.close()

    def _forget(self, opened: OpenVolume) -> None:
        """Take a volume out of the registry. The engine's lock is held."""
        if self._volumes.get(opened.key) is opened:
            del self._volumes[opened.key]
        self._names = {name: known for name, known in self._names.items() if known[0] is not opened}

    def _retire(self, opened: OpenVolume, why: Ending) -> None:
        """Close a volume as soon as nobody uses it. Raises `Overloaded` where that takes too long."""
        with self._lock:
            self._forget(opened)
        followers = opened.writer.followers
        followers.end(why)
        with self._released:
            if not self._released.wait_for(lambda: not opened.users, _LEASE_WAIT_S):
                self._volumes[opened.key] = opened
                followers.end(None)
                raise Overloaded("The database is in use", retry_after_s=1)
        opened.close()

    def _release(self, opened: OpenVolume) -> None:
        with self._released:
            opened.users -= 1
            opened.used = time.monotonic()
            if not opened.users:
                self._released.notify_all()

    # --- the reaper's thread -----------------------------------------------------------------------------

    def _reap(self) -> None:
        """Log expiries in time, forget old answers, and close what nobody uses."""
        ticks = 0
        while not self._stop.wait(_TICK_S):
            ticks += 1
            with self._lock:
                volumes = list(self._volumes.values())
            for opened in volumes:
                with _tending(opened.key):
                    self._tend(
                        opened,
                        checkpoint=ticks % _CHECKPOINT_EVERY_TICKS == 0,
                        forget=ticks % _FORGET_EVERY_TICKS == 0,
                    )
            for key, location in list(self._vacant.items()):
                with _tending(key):
                    self._follow(key, location)

    def _tend(self, opened: OpenVolume, *, checkpoint: bool, forget: bool) -> None:
        if not opened.volume.watching and opened.volume.replaced():
            # Nothing of it will ever be asked for, and its disk space is taken until it is closed.
            self._close_unused(opened)
            return
        with self._kept_open(opened) as is_open:
            if not is_open:
                return
            if opened.in_doubt():
                return
            if opened.expiring is None or opened.expiring.done():
                for handle in list(opened.handles.values()):
                    opened.expiring = handle.reap(deadline=time.monotonic() + TEND_S) or opened.expiring
            if checkpoint:
                opened.volume.rest()
                if opened.syncing is None or opened.syncing.done():
                    opened.syncing = opened.sync()
            if forget:
                now_s = self.clock() // NS
                opened.submit(lambda batch: batch.forget(now_s))
            pending = any(handle.next_expiry() is not None for handle in list(opened.handles.values()))
        if opened.volume.watching:
            if opened.volume.replaced():
                self._vacant[opened.key] = opened.location
            return
        idle_s = time.monotonic() - opened.used
        if idle_s > self.config.idle_close_s and not pending:
            self._close_unused(opened)

    def _close_unused(self, opened: OpenVolume) -> None:
        """Close a volume, unless somebody is at it."""
        if opened.writer.busy:
            return
        with self._path_lock(opened.key):
            with self._lock:
                if opened.users or self._volumes.get(opened.key) is not opened:
                    return
                self._forget(opened)
            opened.close()

    @contextmanager
    def _kept_open(self, opened: OpenVolume) -> Iterator[bool]:
        """Keep a volume from being closed meanwhile, which counts as no use of it; False if it is closed."""
        with self._lock:
            is_open = self._volumes.get(opened.key) is opened
            opened.users += is_open
        try:
            yield is_open
        finally:
            with self._released:
                opened.users -= is_open
                if not opened.users:
                    self._released.notify_all()

    def _follow(self, key: str, location: Location) -> None:
        """Watch what lies now where a watched folder was taken away, as soon as there is something.

        It is not made again: whoever moves another one there would find it in the way.
        """
        del self._vacant[key]
        try:
            with self._path_lock(key):
                if self._find(key) is not None:
                    return
                if os.path.isdir(location.folder):
                    lease = self._lease(location.path, location.table, location, create=False, deadline=None)
                    lease.release()
                elif os.path.isdir(location.path):
                    self._vacant[key] = location
        except Unavailable:
            self._vacant[key] = location  # there is no room now, or somebody is at it

    # --- the retention's thread ---------------------------------------------------------------------------

    def _retain(self) -> None:
        """Enforce the retention of what is open, each store for a little while at a time."""
        while not self._stop.wait(_TICK_S):
            with self._lock:
                volumes = list(self._volumes.values())
            for opened in volumes:
                with _tending(opened.key), self._kept_open(opened) as is_open:
                    can_write = is_open and opened.volume.doubt.reason is None
                    for handle in list(opened.handles.values()) if can_write else ():
                        handle.retain(time.monotonic() + _RETAIN_S)


@contextmanager
def _tending(key: str) -> Iterator[None]:
    """What fails in a thread of the engine's own is told, and tried again later."""
    try:
        yield
    except Unavailable:
        pass  # somebody else is at it, or it is being closed
    except KvfsError as exc:
        _LOG.warning("cannot tend %s: %s", key, exc.message)
    except Exception:
        _LOG.exception("cannot tend %s", key)


def _volume_key(location: Location) -> str:
    return location.path if location.kind is Kind.TABLE else location.folder + "/"
