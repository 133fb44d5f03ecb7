"""The directory store: keys as files in a folder that anybody may edit, types and TTLs in the op-log.

Values always come from the files; so a stale one cannot exist. A write goes this way, a batch at a time:
look at each file, and log first what was done to it behind the server's back; write the new files to
`.kvfs/tmp/`; commit the ops with their values, the point of no return; exchange the files into place,
looking at what comes out; tell the index; answer. `recovery` finishes what a crash leaves of that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Final, NamedTuple

from kvfs import content_types, idempotency, sqlite
from kvfs.directory import files, recovery
from kvfs.directory.files import Found, NoKey, Rights, Signature, Tree
from kvfs.directory.index import IndexReader, Row
from kvfs.directory.names import path_of
from kvfs.directory.racy import Grain
from kvfs.directory.reader import FolderReader
from kvfs.directory.scan import changed_folders, scan
from kvfs.directory.state import State, clear
from kvfs.errors import FileSystemError, KvfsError, Overloaded, PathConflict, StorageFull, from_os_error
from kvfs.model import Change, Entry, FileValue, KeyState, Op, OpType, Origin, Value
from kvfs.oplog import value_hash
from kvfs.store import EmptyReader, Reader, StateChanged, TooHeavy, Unsettled
from kvfs.valueops import missing


class _Seen(NamedTuple):
    """A key's file as the writer saw it in this batch."""

    found: Found | None
    sha256: bytes | None


_NOTHING: Final = _Seen(None, None)
_DUE_AT_ONCE: Final = 1000


class DirectoryStore:
    """One folder of keys. Implements `kvfs.store.Volume` and `kvfs.store.Store`.

    A folder that is not there yet is the empty store, and comes into being with its first write.
    """

    def __init__(self, db: str, table: str) -> None:
        self.name = table
        self.directory = True
        self.volume = self
        self._db = db
        self._folder = os.path.join(db, table)
        # Guards the step from not being there to being there, which an upload may take too.
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        # The batch, from `begin` to its end: the writer's alone.
        self._begun = self._light = False
        self._seen: dict[str, _Seen] = {}
        self._rows: list[tuple[Entry, Found]] = []
        self._marks: list[tuple[str, Signature | None]] = []
        self._final: dict[str, Op] = {}
        self._snapshots: list[FileValue] = []
        if os.path.isdir(self._folder) or os.path.exists(os.path.join(db, ".kvfs", f"{table}.oplog")):
            self._come_into_being()

    # --- reading ---------------------------------------------------------------------------------------

    def get(self, key: str, now_ns: int) -> Entry:
        opened = self._opened
        if opened is None:
            if os.path.isdir(self._folder):
                raise Unsettled(key)
            raise missing(expired=False)
        row = opened.state.index.get(key)
        try:
            found = opened.tree.read(key)
        except NoKey as exc:
            if row is None:
                raise PathConflict(str(exc)) from exc
            raise Unsettled(key) from exc
        except OSError as exc:
            raise from_os_error(exc, f"read {key!r}") from exc
        if found is None:
            if row is None:
                raise missing(expired=opened.state.last_op_type(key) is OpType.EXPIRE)
            raise Unsettled(key)
        if row is None or row.signature != found.signature:
            _close(found.value)
            raise Unsettled(key)
        if row.entry.expired(now_ns):
            _close(found.value)
            raise missing(expired=True)
        assert found.value is not None
        return row.entry.with_value(found.value)

    def fetch(self, key: str, now_ns: int) -> Entry:
        return self.get(key, now_ns)

    @contextmanager
    def reading(self, now_ns: int, deadline: float | None = None) -> Iterator[Reader]:
        opened = self._look()
        if opened is None:
            yield EmptyReader()
            return
        state = opened.state
        with state.index.readers.snapshot(deadline) as index, state.log_readers.snapshot(deadline) as log:
            yield FolderReader(state.log, log, IndexReader(index, now_ns), self.read_file)

    def log_id(self) -> str:
        return "" if self._opened is None else self._opened.state.log_id

    def scan(self, prefix: str, now_ns: int, *, everything: bool = False) -> Iterator[str] | None:
        opened = self._look()
        if opened is None:
            return None
        tree, index = opened.tree, opened.state.index
        try:
            folders = [""] if everything else changed_folders(tree, index, prefix)
        except OSError as exc:
            raise from_os_error(exc, "scan the folder") from exc
        due = index.due(now_ns, _DUE_AT_ONCE)
        if not folders and not due:
            return None
        return chain(due, scan(tree, index, folders, self._mark, everything=everything))

    def unsettled_among(self, keys: Sequence[str]) -> list[str]:
        opened = self._opened
        return [] if opened is None else [key for key in keys if opened.changed(key)]

    def upload(self) -> FileValue:
        # A store that is not there yet comes into being when the value is written, not before.
        folder = self._db if self._opened is None else f"/proc/self/fd/{self._opened.state.temporary}"
        try:
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise from_os_error(exc, "keep an upload") from exc
        return FileValue(fd, 0)

    # --- writing: the writer's thread only -------------------------------------------------------------

    def begin(self, *, light: bool) -> None:
        self._light = light
        if self._opened is None and os.path.isdir(self._folder):
            if light:
                raise TooHeavy
            self._come_into_being()
        if self._opened is not None:
            self._opened.begin(light=light)
            self._begun = True

    def tail(self) -> tuple[int, int]:
        opened = self._opened
        if opened is None:
            return 0, 0
        with sqlite.errors("read the op-log"):
            return opened.state.log.tail(opened.state.connection)

    def load(self, key: str) -> KeyState:
        opened = self._opened
        if opened is None:
            self._seen[key] = _NOTHING
            return KeyState(None, 0)
        row = opened.state.index.own(key)
        blocked = None
        try:
            found = opened.tree.look(key)
            if row is not None and found is not None and row.signature == found.signature:
                self._seen[key] = _Seen(found, row.entry.sha256)
                return KeyState(row.entry, row.entry.op_number)
            found = opened.tree.read(key)
        except NoKey as exc:
            found, blocked = None, str(exc)
        except OSError as exc:
            raise from_os_error(exc, f"read {key!r}") from exc
        if found is None:
            self._seen[key] = _NOTHING
            if row is not None:
                gone = Change(OpType.DELETE, None, origin=Origin.FILE)
                return KeyState(row.entry, row.entry.op_number, unlogged=gone, blocked=blocked)
            number, op_type = self._last(key)
            return KeyState(None, number, expired=op_type is OpType.EXPIRE, blocked=blocked)
        return self._changed(key, row, self._snapshot(found))

    def read_file(self, key: str) -> Found | None:
        """The key's file with its value; None where there is none. Raises `PathConflict`."""
        try:
            return self._there.tree.read(key)
        except NoKey as exc:
            raise PathConflict(str(exc)) from exc
        except OSError as exc:
            raise from_os_error(exc, f"read {key!r}") from exc

    def load_value(self, key: str) -> Value:
        found = self.read_file(key)
        seen = self._seen[key].found
        if found is None or found.value is None or seen is None or found.signature != seen.signature:
            _close(None if found is None else found.value)
            raise Overloaded(f"{key!r} is being edited", retry_after_s=1)
        return found.value

    def due(self, now_ns: int, limit: int) -> list[str]:
        return [] if self._opened is None else self._opened.state.index.due(now_ns, limit)

    def next_expiry(self) -> int | None:
        return None if self._opened is None else self._opened.state.index.next_expiry()

    def create(self) -> None:
        if self._begun:
            return
        if self._light:
            raise TooHeavy
        opened = self._come_into_being()
        try:
            opened.begin(light=False)
        except Overloaded as exc:
            raise StateChanged from exc
        self._begun = True
        if self.tail() != (0, 0):
            raise StateChanged  # another program has just made the store

    def write(self, ops: Sequence[Op]) -> None:
        self.create()
        opened = self._there
        state = opened.state
        self._final = {op.key: op for op in ops}
        try:
            for op in self._final.values():
                if self._must_place(op) and op.entry is not None and op.entry.value is not None:
                    opened.tree.make_room(path_of(op.key), state.temporary)
                    files.write_new(
                        state.temporary, str(op.seq), op.entry.value, self._rights(opened, op.key)
                    )
        except NoKey as exc:
            raise PathConflict(str(exc)) from exc
        except OSError as exc:
            raise from_os_error(exc, f"write {op.key!r}") from exc
        with sqlite.errors("write the op-log"):
            state.log.append(state.connection, ops)
            state.keep_for_redo([op for op in self._final.values() if self._must_place(op)])

    def commit(self) -> None:
        if self._begun:
            self._there.state.commit_log()

    def finish(self) -> None:
        if not self._begun:
            self._end()
            return
        opened = self._there
        try:
            overtaken = [
                op for op in self._final.values() if self._must_place(op) and not self._place(opened, op)
            ]
            for op in self._final.values():
                if not self._must_place(op):
                    self._know(opened, op)
            for entry, found in self._rows:
                if entry.key not in self._final:
                    opened.put(entry, found)
            for path, signature in self._marks:
                opened.state.index.put_folder(path, opened.grain.trusted(signature))
            if overtaken:
                self._log_overtaken(opened, overtaken)
            with sqlite.errors("read the op-log"):
                seq, _ = opened.state.log.tail(opened.state.connection)
            opened.state.commit_index(seq)
        except (OSError, NoKey) as exc:
            # The ops are durable and their files are not in place: the next batch begins with that.
            raise FileSystemError(f"Cannot put a file in place: {exc}", outcome="unknown") from exc
        except KvfsError as exc:
            # So too where the index has no room to learn of them.
            kind = StorageFull if isinstance(exc, StorageFull) else FileSystemError
            raise kind(f"Cannot finish a write: {exc.message}", outcome="unknown") from exc
        finally:
            self._end()

    def rollback(self) -> None:
        if self._begun:
            with suppress(OSError):
                for op in self._final.values():
                    files.remove(self._there.state.temporary, str(op.seq))
        self._end()

    def recall(self, idempotency_key: str, now_s: int) -> tuple[bytes, bytes] | None:
        if not self._begun:
            return None
        with sqlite.errors():
            return idempotency.recall(self._there.state.connection, idempotency_key, now_s)

    def remember(self, idempotency_key: str, fingerprint: bytes, answer: bytes, expire_s: int) -> None:
        self.create()
        with sqlite.errors():
            idempotency.remember(self._there.state.connection, idempotency_key, fingerprint, answer, expire_s)

    def forget(self, now_s: int) -> None:
        if not self._begun:
            return
        with sqlite.errors():
            idempotency.forget(self._there.state.connection, now_s)

    # --- being there -----------------------------------------------------------------------------------

    def sync(self) -> int | None:
        opened = self._opened
        if opened is None or opened.state.index.applied_seq == opened.synced_seq:
            return None
        seq = opened.state.index.applied_seq
        try:
            files.sync_file_system(opened.tree.root)
        except OSError as exc:
            raise from_os_error(exc, "make the files durable") from exc
        return seq

    def synced(self, mark: int) -> None:
        opened = self._there
        opened.state.note_durable(mark)
        opened.synced_seq = mark

    def replaced(self) -> bool:
        try:
            status = os.stat(self._folder)
        except OSError:
            return self._opened is not None
        return self._opened is None or (status.st_dev, status.st_ino) != self._opened.tree.identity

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    # --- parts -----------------------------------------------------------------------------------------

    @property
    def _there(self) -> _Opened:
        assert self._opened is not None
        return self._opened

    def _look(self) -> _Opened | None:
        """What is there, also if another program has made it since."""
        if self._opened is None and os.path.isdir(self._folder):
            return self._come_into_being()
        return self._opened

    def _come_into_being(self) -> _Opened:
        with self._opening:
            if self._opened is None:
                try:
                    os.makedirs(self._folder, exist_ok=True)
                    self._opened = _Opened(self._db, self.name, Tree(self._folder))
                except OSError as exc:
                    raise from_os_error(exc, f"open {self._folder}") from exc
            return self._opened

    def _mark(self, path: str, signature: Signature | None) -> None:
        self._marks.append((path, signature))

    def _last(self, key: str) -> tuple[int, OpType | None]:
        state = self._there.state
        with sqlite.errors("read the op-log"):
            return state.log.last(state.connection, key)

    def _changed(self, key: str, row: Row | None, found: Found) -> KeyState:
        """The state of a key whose file is not what the index knows: edited, or only touched."""
        assert found.value is not None
        digest = value_hash(found.value)
        self._seen[key] = _Seen(found, digest)
        before = None if row is None else row.entry
        if before is not None and before.sha256 == digest:
            self._rows.append((before, found))
            return KeyState(before, before.op_number)
        content_type = content_types.of_file(key, found.value)
        if before is not None and content_types.still_true(before.content_type, found.value):
            content_type = before.content_type
        edit = Change(
            OpType.SET,
            found.value,
            content_type=content_type,
            expire_ns=None if before is None else before.expire_ns,
            origin=Origin.FILE,
        )
        number = self._last(key)[0] if before is None else before.op_number
        return KeyState(before, number, unlogged=edit)

    def _snapshot(self, found: Found) -> Found:
        """The same with a value that nobody can change any more."""
        if not isinstance(found.value, FileValue):
            return found
        if self._light:
            _close(found.value)
            raise TooHeavy
        copy = self.upload()
        self._snapshots.append(copy)
        try:
            with found.value as live:
                files.copy(live, copy.fd)
        except OSError as exc:
            raise from_os_error(exc, "copy a large value") from exc
        copy.size = found.value.size
        return found._replace(value=copy)

    def _must_place(self, op: Op) -> bool:
        """Whether the op's outcome is not what lies in the key's file already."""
        seen = self._seen[op.key]
        return seen.sha256 != (None if op.entry is None else op.entry.sha256)

    def _rights(self, opened: _Opened, key: str) -> Rights | None:
        """What a key's file keeps of its rights when it is replaced; None where they are the usual ones."""
        found = self._seen[key].found
        return None if found is None or found.rights == opened.grain.rights else found.rights

    def _place(self, opened: _Opened, op: Op) -> bool:
        """Put the op's file in place, or take it away; False if it was not what we saw before."""
        name, store = str(op.seq), opened.state.temporary
        if op.entry is None:
            out = opened.tree.displace(op.key, name, store)
            opened.state.index.drop(op.key)
        else:
            ours = files.signature_of(store, name)
            out = opened.tree.place(op.key, name, store)
            found = opened.tree.look(op.key)
            # Whoever wrote to it since it is in place must be noticed at the next look.
            known = found if found is not None and found.signature.moved(ours) else None
            opened.put(op.entry, known)
        expected = self._seen[op.key].found
        if (out is None) == (expected is None) and (
            out is None or expected is None or out.moved(expected.signature)
        ):
            files.remove(store, name)
            return True
        return False

    def _know(self, opened: _Opened, op: Op) -> None:
        """Tell the index of an op whose outcome is in the key's file."""
        if op.entry is None:
            opened.state.index.drop(op.key)
        else:
            opened.put(op.entry, self._seen[op.key].found)

    def _log_overtaken(self, opened: _Opened, ours: list[Op]) -> None:
        """Somebody changed files between our look and our exchange: log what came out, and ours again."""
        state = opened.state
        with sqlite.errors("write the op-log"):
            state.connection.execute("BEGIN IMMEDIATE")
            seq, ts_ns = state.log.tail(state.connection)
            for op in ours:
                displaced = files.read_whole(state.temporary, str(op.seq))
                theirs = None
                if displaced is not None:
                    theirs = Entry(
                        op.key,
                        displaced,
                        len(displaced),
                        content_types.of_file(op.key, displaced),
                        created_s=ts_ns // 10**9 if op.entry is None else op.entry.created_s,
                        updated_s=ts_ns // 10**9,
                        expire_ns=None,
                        op_number=op.op_number + 1,
                        sha256=value_hash(displaced),
                    )
                again = None if op.entry is None else op.entry._replace(op_number=op.op_number + 2)
                outside = op._replace(
                    seq=seq + 1,
                    op_number=op.op_number + 1,
                    op_type=OpType.DELETE if theirs is None else OpType.SET,
                    origin=Origin.FILE,
                    entry=theirs,
                    ts_ns=ts_ns,
                    recorded=True,
                    ttl_s=None,
                )
                repeated = op._replace(seq=seq + 2, op_number=op.op_number + 2, entry=again, ts_ns=ts_ns)
                state.log.append(state.connection, [outside, repeated])
                seq += 2
                if again is not None:
                    known = state.index.own(op.key)
                    found = opened.tree.look(op.key)
                    same = known is not None and found is not None and known.signature == found.signature
                    opened.put(again, found if same else None)
                files.remove(state.temporary, str(op.seq))
        state.commit_log()

    def _end(self) -> None:
        """Let go of the locks, of what was not committed, and of all that belongs to the batch."""
        if self._begun:
            self._there.state.rollback()
            self._begun = False
        for snapshot in self._snapshots:
            snapshot.close()
        self._seen, self._rows, self._marks, self._final, self._snapshots = {}, [], [], {}, []


class _Opened:
    """What is there once the store is: its state beside the folder, the folder's files, their grain."""

    def __init__(self, db: str, table: str, tree: Tree) -> None:
        self.tree = tree
        self.synced_seq = -1
        try:
            self.state = State(db, table)
        except BaseException:
            tree.close()
            raise
        self.grain = Grain(self.state.temporary)

    def close(self) -> None:
        """Idempotent."""
        self.state.close()
        self.grain.close()
        self.tree.close()

    def begin(self, *, light: bool) -> None:
        """Take the lock, and finish first what a crash has left."""
        state = self.state
        state.begin()
        try:
            with sqlite.errors("recover"):
                seq, _ = state.log.tail(state.connection)
                if light and state.index.applied_seq < seq:
                    raise TooHeavy
                if state.index.applied_seq < 0:
                    clear(state.temporary)
                    recovery.rebuild(state, self.tree)
                elif state.index.applied_seq < seq:
                    clear(state.temporary)
                    recovery.recover(state, self.tree)
        except (OSError, NoKey) as exc:
            state.rollback()
            raise FileSystemError(f"Cannot recover the folder's files: {exc}") from exc
        except BaseException:
            state.rollback()
            raise

    def put(self, entry: Entry, found: Found | None) -> None:
        """Know a key; without its file, or with a racy one, it is looked at again before it is believed."""
        folder = "/".join(path_of(entry.key)[:-1]) if found is None else found.folder
        signature = None if found is None else self.grain.trusted(found.signature)
        self.state.index.put(entry, folder, signature)

    def changed(self, key: str) -> bool:
        """Whether a key's file is not what the index knows."""
        row = self.state.index.get(key)
        try:
            found = self.tree.look(key)
        except NoKey:
            return row is not None
        except OSError as exc:
            raise from_os_error(exc, f"look at {key!r}") from exc
        if row is None or found is None:
            return row is not None or found is not None
        return row.signature != found.signature


def _close(value: Value | None) -> None:
    if isinstance(value, FileValue):
        value.close()
