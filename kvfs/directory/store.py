"""The directory store: keys as files in a folder that anybody may edit, types and TTLs in the op-log.

Values always come from the files; so a stale one cannot exist. A write goes this way, a batch at a time:
look at each file, and log first what was done to it behind the server's back; write the new files to
`.kvfs/tmp/`; commit the ops with their values, the point of no return; exchange the files into place,
looking at what comes out; tell the index; answer. `recovery` finishes what a crash leaves of that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Final, NamedTuple

from kvfs import idempotency, pruning, sqlite, verification
from kvfs.checkpoints import Checkpoints
from kvfs.config import Config
from kvfs.directory import backup, files
from kvfs.directory.batch import Batch, close_value, read_file, upload
from kvfs.directory.folder import Folder
from kvfs.directory.index import IndexLost
from kvfs.directory.looker import FolderLooker
from kvfs.directory.looks import Signature
from kvfs.directory.names import Hidden, NoKey
from kvfs.directory.reader import FolderReader
from kvfs.directory.recorder import Recorder, RecorderStatus
from kvfs.directory.recording import Recording
from kvfs.directory.scan import changed_folders, scan
from kvfs.directory.state import Home
from kvfs.directory.survey import survey
from kvfs.doubt import Doubt
from kvfs.errors import FileSystemError, Overloaded, PathConflict, from_os_error
from kvfs.imports import LastImport
from kvfs.model import Entry, FileValue, KeyState, Op, OpType, Value
from kvfs.retention import Standing
from kvfs.sqlite import Space
from kvfs.status import FolderStatus, Survey
from kvfs.store import (
    Cut,
    EmptyReader,
    Log,
    Reader,
    Settle,
    StateChanged,
    Step,
    TooHeavy,
    Unsettled,
    Walk,
)
from kvfs.valueops import missing

_DUE_AT_ONCE: Final = 1000


class DirectoryStore:
    """One folder of keys. Implements `kvfs.store.Volume` and `kvfs.store.Store`.

    A folder that is not there yet is the empty store, and comes into being with its first write.
    """

    def __init__(self, db: str, table: str, config: Config) -> None:
        self.name = table
        self.directory = True
        self.volume = self
        self._db = db
        self._config = config
        self._path = os.path.join(db, table)
        # Guards the step from not being there to being there, which an upload may take too.
        self._opening = threading.Lock()
        self._folder: Folder | None = None
        self.checkpoints: Checkpoints | None = None
        self._watching: _Watching | None = None
        self._recording: Recording | None = None
        # What the writer is at: the writer's alone.
        self._light = False
        self._batch: Batch | None = None
        self.doubt = Doubt(self._path, FileSystemError, marker=Home.of(db, table, config.state_dir).doubt)
        if os.path.isdir(self._path) or Home.of(db, table, config.state_dir).known():
            self._come_into_being()

    # --- reading ---------------------------------------------------------------------------------------

    def get(self, key: str, now_ns: int) -> Entry:
        folder = self._folder
        if folder is None:
            if os.path.isdir(self._path):
                raise Unsettled(key)
            raise missing(expired=False)
        if folder.behind:
            raise Unsettled(key)
        try:
            row = folder.state.index.get(key)
        except IndexLost as exc:
            raise Unsettled(key) from exc
        try:
            found = folder.tree.read(key)
        except Hidden:
            found = None
        except NoKey as exc:
            if row is None:
                raise PathConflict(str(exc)) from exc
            raise Unsettled(key) from exc
        except OSError as exc:
            raise from_os_error(exc, f"read {key!r}") from exc
        if found is None:
            if row is None:
                raise missing(expired=folder.state.last_op_type(key) is OpType.EXPIRE)
            raise Unsettled(key)
        if row is None or row.signature != found.signature:
            close_value(found.value)
            raise Unsettled(key)
        folder.counts.hits += 1
        if row.entry.expired(now_ns):
            close_value(found.value)
            raise missing(expired=True)
        assert found.value is not None
        return row.entry.with_value(found.value)

    def fetch(self, key: str, now_ns: int) -> Entry:
        try:
            return self.get(key, now_ns)
        except Unsettled:
            if self._folder is not None:
                self._folder.counts.misses += 1
            raise

    @contextmanager
    def reading(
        self, now_ns: int, deadline: float | None = None, *, looked: Set[str] = frozenset()
    ) -> Iterator[Reader]:
        folder = self._look()
        if folder is None:
            yield EmptyReader()
            return
        state = folder.state
        if folder.behind:
            raise Unsettled
        try:
            with state.index.reading(now_ns, deadline) as index, state.log_readers.snapshot(deadline) as log:
                yield FolderReader(state.log, log, index, lambda key: read_file(folder, key), looked)
        except IndexLost as exc:
            raise Unsettled from exc

    def scan(self, prefix: str, now_ns: int, *, everything: bool = False) -> Iterator[str] | None:
        folder = self._look()
        if folder is None:
            return None
        if not (everything or folder.behind or _may_have_changed(folder, prefix, now_ns)):
            return None
        return _Restarting(lambda: self._scan(folder, prefix, now_ns, everything=everything))

    def unsettled_among(self, keys: Sequence[str]) -> list[str]:
        folder = self._folder
        try:
            return [] if folder is None else [key for key in keys if folder.behind or _changed(folder, key)]
        except IndexLost:
            return list(keys)

    def upload(self) -> FileValue:
        # A store that is not there yet comes into being when the value is written, not before.
        try:
            return files.nameless(self._db) if self._folder is None else upload(self._folder)
        except OSError as exc:
            raise from_os_error(exc, "keep an upload") from exc

    def copy_to(self, path: str, *, locked: bool) -> None:
        folder = self._look()
        try:
            if folder is None:
                os.makedirs(os.path.join(path, self.name))
            else:
                backup.copy(folder, path, self.name, locked=locked)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise from_os_error(exc, f"copy {self._path}") from exc

    # --- writing: the writer's thread only -------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        return self._batch is None or self._there.state.connection.in_transaction

    def begin(self, *, light: bool) -> None:
        self._light = light
        self.doubt.check()
        if light and self._config.sync_files:
            raise TooHeavy
        if self._folder is None and os.path.isdir(self._path):
            if light:
                raise TooHeavy
            self._come_into_being()
        if self._folder is not None:
            with self.doubt:
                self._folder.begin(light=light)
            self._batch = Batch(self._folder, self._config, light=light)

    @property
    def read_only(self) -> bool:
        return self._folder is not None and self._folder.state.ephemeral

    def check_writable(self) -> None:
        if self.read_only:
            raise FileSystemError(f"The folder {self._path} is read-only")

    def tail(self) -> tuple[int, int]:
        folder = self._folder
        if folder is None:
            return 0, 0
        with sqlite.errors("read the op-log"):
            return folder.state.log.tail(folder.state.connection)

    @contextmanager
    def log(self) -> Iterator[Log]:
        with sqlite.errors("read the op-log"):
            yield EmptyReader() if self._batch is None else self._batch.log()

    def prefetch(self, keys: Sequence[str]) -> None:
        if self._batch is not None:
            self._batch.prefetch(keys)

    def load(self, key: str) -> KeyState:
        return KeyState(None, 0) if self._batch is None else self._batch.load(key)

    def load_value(self, key: str) -> Value:
        assert self._batch is not None
        return self._batch.load_value(key)

    def due(self, now_ns: int, limit: int) -> list[str]:
        folder = self._folder
        try:
            return [] if folder is None else _due(folder, now_ns, limit)
        except IndexLost:
            return []

    def next_expiry(self) -> int | None:
        folder = self._folder
        if folder is None or folder.state.ephemeral:
            return None
        try:
            return 0 if folder.behind else folder.state.index.next_expiry()
        except IndexLost:
            return 0  # what is lost is made anew by whoever comes next

    def create(self) -> None:
        if self._batch is not None:
            return
        if self._light:
            raise TooHeavy
        folder = self._come_into_being()
        try:
            folder.begin(light=False)
        except Overloaded as exc:
            raise StateChanged from exc
        self._batch = Batch(folder, self._config, light=False)
        if self.tail() != (0, 0):
            raise StateChanged  # another program has just made the store

    def write(self, ops: Sequence[Op]) -> None:
        self.create()
        assert self._batch is not None
        with self.doubt:
            self._batch.write(ops)

    def prune(self, walk: Walk, cut: Cut) -> Step:
        if self._batch is None:
            return Step(None)
        state = self._there.state
        cut = cut._replace(horizon=min(cut.horizon, state.durable_seq()))
        with sqlite.errors("prune the op-log"):
            return pruning.step(state.log, state.connection, walk, cut)

    def change_standing(self, change: Callable[[Standing], Standing]) -> Standing:
        self.create()
        state = self._there.state
        with sqlite.errors("note the retention"):
            return state.log.change_standing(state.connection, change)

    def last_import(self) -> LastImport | None:
        if self._batch is None:
            return None
        with sqlite.errors("read how far an import got"):
            return self._there.state.last_import()

    def note_import(self, last: LastImport) -> None:
        self.create()
        with sqlite.errors("note how far an import got"):
            self._there.state.note_import(last)

    def drop_blobs(self, hashes: Set[bytes]) -> int:
        if self._batch is None:
            return 0
        try:
            with sqlite.errors("read the op-log"):
                return self._there.state.drop_blobs(hashes)
        except OSError as exc:
            raise from_os_error(exc, "remove a large value") from exc

    def blobs(self) -> Iterator[bytes]:
        return iter(()) if self._folder is None else self._folder.state.blobs.kept()

    def shrink(self, pages: int) -> Space:
        if self._batch is None:
            return Space()
        with sqlite.errors("give free pages back"):
            return sqlite.give_back(self._there.state.connection, pages)

    def checkpoint(self) -> None:
        if self._folder is not None:
            with self.doubt, self._folder.state.log_readers.borrow() as connection:
                sqlite.checkpoint(connection)

    def commit(self) -> None:
        if self._batch is not None:
            with self.doubt:
                self._there.state.commit_log()

    def finish(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            with self.doubt:
                batch.finish()

    def rollback(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.rollback()

    def recall(self, idempotency_key: str, now_s: int) -> tuple[bytes, bytes] | None:
        if self._batch is None:
            return None
        with sqlite.errors():
            return idempotency.recall(self._there.state.connection, idempotency_key, now_s)

    def remember(self, idempotency_key: str, fingerprint: bytes, answer: bytes, expire_s: int) -> None:
        self.create()
        with sqlite.errors():
            idempotency.remember(self._there.state.connection, idempotency_key, fingerprint, answer, expire_s)

    def forget(self, now_s: int) -> None:
        if self._batch is None:
            return
        with sqlite.errors():
            idempotency.forget(self._there.state.connection, now_s)

    def forget_index(self) -> None:
        if self._batch is not None:
            self._batch.forget_index()

    def baseline_done(self) -> None:
        if self._batch is not None:
            with sqlite.errors("note the baseline"):
                self._there.state.put_setting("baseline", "done")

    def survey(self) -> Survey:
        folder = self._look()
        try:
            return Survey() if folder is None else survey(folder.tree)
        except OSError as exc:
            raise from_os_error(exc, "go through the folder") from exc

    def note_rebuild(self, duration_s: float) -> None:
        if self._folder is not None:
            self._folder.counts.last_rebuild_at_s = time.time()
            self._folder.counts.last_rebuild_s = duration_s

    def watch(self, settle: Settle, catch_up: Callable[[], None]) -> None:
        self._watching = _Watching(settle, catch_up)
        if self._folder is not None:
            self._begin_recording(self._folder)

    # --- being there -----------------------------------------------------------------------------------

    def rest(self) -> None:
        if self._folder is not None:
            self._folder.tree.hot.rest()

    def sync(self) -> int | None:
        folder = self._folder
        if folder is None or folder.state.ephemeral or folder.state.index.applied_seq == folder.synced_seq:
            return None
        self.doubt.look()
        if self.doubt.reason is not None:
            return None
        seq = folder.state.index.applied_seq
        with self.doubt:
            folder.sync()
        return seq

    def synced(self, mark: int) -> None:
        folder = self._there
        folder.state.note_durable(mark)
        folder.synced_seq = max(folder.synced_seq, mark)

    def verify(self) -> None:
        folder = self._folder
        if folder is not None and not folder.state.ephemeral:
            verification.verify(folder.state.home.log)
            folder.write_anew()
        self.doubt.dispel()

    def replaced(self) -> bool:
        try:
            status = os.stat(self._path)
        except OSError:
            return self._folder is not None
        if self._folder is None:
            return self._made_by_another()
        return (status.st_dev, status.st_ino) != self._folder.tree.identity or self._folder.state.replaced()

    @property
    def watching(self) -> bool:
        return self._recording is not None

    def status(self) -> FolderStatus:
        folder, recording = self._folder, self._recording
        if folder is None:
            return FolderStatus(self._path, self.name)
        try:
            keys, folders = folder.state.index.counts()
        except IndexLost:
            keys = folders = 0
        seen = None if recording is None else recording.status()
        counts = folder.counts
        return FolderStatus(
            path=self._path,
            table=self.name,
            readonly=folder.state.ephemeral or self.doubt.reason is not None,
            in_doubt=self.doubt.reason,
            keys=keys,
            folders=folders,
            watcher=_watcher(recording, seen),
            watcher_reason=None if seen is None else seen.reason,
            events=0 if seen is None else seen.events,
            restarts=0 if seen is None else seen.restarts,
            pending=0 if seen is None else seen.pending,
            scans=0 if seen is None else seen.scans,
            last_scan_s=None if seen is None else seen.last_scan_s,
            reconciles=counts.reconciles,
            hits=counts.hits,
            misses=counts.misses,
            last_rebuild_at_s=counts.last_rebuild_at_s,
            last_rebuild_s=counts.last_rebuild_s,
            oplog_bytes=folder.state.log_bytes(),
        )

    def close(self) -> None:
        if self._recording is not None:
            self._recording.close()
        if self.checkpoints is not None:
            self.checkpoints.close()
        if self._folder is not None:
            self._folder.close()

    # --- parts -----------------------------------------------------------------------------------------

    @property
    def _there(self) -> Folder:
        assert self._folder is not None
        return self._folder

    def _look(self) -> Folder | None:
        """What is there, also if another program has made it since."""
        if self._folder is None and os.path.isdir(self._path):
            return self._come_into_being()
        return self._folder

    def _made_by_another(self) -> bool:
        """Whether the folder that is there is not being made by this store, just now."""
        if not self._opening.acquire(blocking=False):
            return False
        try:
            return self._folder is None
        finally:
            self._opening.release()

    def _come_into_being(self) -> Folder:
        with self._opening:
            if self._folder is None:
                self._folder = Folder(self._db, self.name, self._config)
                state = self._folder.state
                self.checkpoints = Checkpoints(state.connection, state.log_readers, self.doubt)
                self.doubt.look()
                self._begin_recording(self._folder)
            return self._folder

    def _begin_recording(self, folder: Folder) -> None:
        watching = self._watching
        if watching is None or self._recording is not None or folder.state.ephemeral:
            return

        def begin() -> Recorder:
            return Recorder(
                FolderLooker(folder),
                watching.settle,
                folder=self._path,
                cookies=folder.state.home.cookies,
                scan_interval_s=self._config.scan_interval_s,
            )

        new = folder.state.index.applied_seq < 0
        try:
            self._recording = Recording(begin, watching.catch_up if new else None, folder.state.home.watch)
        except OSError as exc:
            raise from_os_error(exc, f"watch {self._path}") from exc

    def _scan(self, folder: Folder, prefix: str, now_ns: int, *, everything: bool) -> Iterator[str]:
        tree, index = folder.tree, folder.state.index
        yield from _due(folder, now_ns, _DUE_AT_ONCE)
        rules = folder.new_rules()
        everything = everything or rules is not None
        folders = [""] if everything else changed_folders(tree, index, prefix)
        yield from scan(tree, index, folders, self._mark, everything=everything)
        if rules is not None and self._batch is not None:
            self._batch.follow(rules)

    def _mark(self, path: str, signature: Signature | None) -> None:
        if self._batch is not None:
            self._batch.mark(path, signature)


class _Watching(NamedTuple):
    """What the recorder of a folder calls, as soon as the folder is there."""

    settle: Settle
    catch_up: Callable[[], None]


class _Restarting(Iterator[str]):
    """An iterator that begins anew after it failed, as the batch does that goes through it."""

    def __init__(self, make: Callable[[], Iterator[str]]) -> None:
        self._make = make
        self._inner: Iterator[str] | None = None

    def __next__(self) -> str:
        if self._inner is None:
            self._inner = self._make()
        try:
            return next(self._inner)
        except IndexLost:
            self._inner = None
            raise


def _due(folder: Folder, now_ns: int, limit: int) -> list[str]:
    """Keys whose TTL has run out; where no file can be taken away, they stay as they are."""
    return [] if folder.state.ephemeral else folder.state.index.due(now_ns, limit)


def _may_have_changed(folder: Folder, prefix: str, now_ns: int) -> bool:
    """Whether a scan of a prefix may find anything; ends at the first folder that changed."""
    try:
        if folder.new_rules() is not None or _due(folder, now_ns, 1):
            return True
        return next(changed_folders(folder.tree, folder.state.index, prefix), None) is not None
    except IndexLost:
        return True  # the writer makes the index anew before it goes through this
    except OSError as exc:
        raise from_os_error(exc, "scan the folder") from exc


def _changed(folder: Folder, key: str) -> bool:
    """Whether a key's file is not what is known; not where nobody may look, and who asks for it is told."""
    try:
        return folder.changed(key)
    except FileSystemError:
        return False


def _watcher(recording: Recording | None, seen: RecorderStatus | None) -> str:
    if recording is None:
        return "off"
    if recording.standing_by:
        return "standby"
    return "starting" if seen is None else seen.watcher
