"""What the writer does on a folder in one batch: look at keys' files, log, put files in place."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Final, NamedTuple

import apsw

from kvfs import content_types, disk, sqlite
from kvfs.config import Config
from kvfs.directory import files, recovery
from kvfs.directory.folder import Folder
from kvfs.directory.index import UNTRUSTED, IndexLost, Row
from kvfs.directory.looks import Components, Found, NearLooks, Rights, Signature
from kvfs.directory.names import Hidden, NoKey, key_of, path_of
from kvfs.directory.spelling import Spelling, check_apart
from kvfs.errors import FileSystemError, KvfsError, Overloaded, PathConflict, StorageFull, from_os_error
from kvfs.model import Change, Entry, FileValue, KeyState, Op, OpType, Origin, Value, value_hash
from kvfs.oplog import LogReader, OpLog
from kvfs.store import Log, TooHeavy


class _Seen(NamedTuple):
    """A key's file as it was when it was looked at; `fresh` if others may still have been writing to it."""

    found: Found | None
    sha256: bytes | None
    fresh: bool = False


_NOTHING: Final = _Seen(None, None)


class Batch:
    """One batch on a folder, from when `Folder.begin` has succeeded. The writer's alone."""

    def __init__(self, folder: Folder, config: Config, *, light: bool) -> None:
        self._folder = folder
        self._state = folder.state
        self._config = config
        self._light = light
        self._looks = NearLooks(folder.tree.root, folder.tree.rules())
        if folder.tree.spelling is not None:
            self._looks.spelling = Spelling(brief=True)
        # From before the first look. With a fine clock it matters only for files that others write.
        self._now_ns = folder.grain.now_ns() if folder.grain.coarse else None
        self._prefetched: dict[str, tuple[Row | None, Op | None]] = {}
        self._seen: dict[str, _Seen] = {}
        self._rows: list[tuple[Entry, Found]] = []
        self._marks: list[tuple[str, Signature | None]] = []
        self._rules: str | None = None
        self._final: dict[str, Op] = {}
        self._placing: list[Op] = []
        self._moved: list[Components] = []
        self._made: dict[int, Signature] = {}
        self._own: list[tuple[Entry, str, Signature | None]] = []
        self._snapshots: list[FileValue] = []

    # --- looking ---------------------------------------------------------------------------------------

    def prefetch(self, keys: Sequence[str]) -> None:
        """See `store.Store.prefetch`."""
        rows = self._state.index.own_many(keys)
        with sqlite.errors("read the op-log"):
            ops = self._state.log.last_facts(self._state.connection, keys)
        self._prefetched = {key: (rows.get(key), ops.get(key)) for key in keys}

    def load(self, key: str) -> KeyState:
        """The key's state, with what was done to it behind the server's back."""
        prefetched = self._prefetched.get(key)
        row = self._state.index.own(key) if prefetched is None else prefetched[0]
        looks = self._looks
        blocked = hidden = None
        try:
            if row is not None:
                found = looks.look(key)
                if found is not None and row.signature == found.signature:
                    self._seen[key] = _Seen(found, row.entry.sha256)
                    return KeyState(row.entry, row.entry.op_number)
            self._note_time()
            found = looks.read(key)
        except Hidden as exc:
            found, hidden = None, str(exc)
        except NoKey as exc:
            found, blocked = None, str(exc)
        except OSError as exc:
            raise from_os_error(exc, f"read {key!r}") from exc
        # What the index says of a file that changed is not asked: the log knows.
        if prefetched is None:
            with sqlite.errors("read the op-log"):
                last = self._state.log.facts(self._state.connection, key)
        else:
            last = prefetched[1]
        known = None if last is None else last.entry
        number = 0 if last is None else last.op_number
        if found is not None:
            return self._changed(key, known, number, found)
        self._seen[key] = _NOTHING
        if known is not None:
            gone = Change(OpType.DELETE, None, origin=Origin.FILE)
            return KeyState(known, number, unlogged=gone, blocked=blocked, hidden=hidden)
        expired = last is not None and last.op_type is OpType.EXPIRE
        return KeyState(None, number, expired=expired, blocked=blocked, hidden=hidden)

    def load_value(self, key: str) -> Value:
        """The key's whole value, as it was when it was looked at; `Overloaded` if it is not any more."""
        found = read_file(self._folder, key)
        seen = self._seen[key].found
        if found is None or found.value is None or seen is None or found.signature != seen.signature:
            close_value(None if found is None else found.value)
            raise Overloaded(f"{key!r} is being edited", retry_after_s=1)
        return found.value

    def log(self) -> Log:
        """See `store.Store.log`."""
        return _BatchLog(self._state.log, self._state.connection, self._snapshots)

    def mark(self, path: str, signature: Signature | None) -> None:
        """All that a folder holds was gone through; see `scan.Mark`."""
        self._marks.append((path, signature))

    def follow(self, rules: str) -> None:
        """All that there is was gone through by these rules; see `ignore.Rules.identity`."""
        self._rules = rules

    # --- writing ---------------------------------------------------------------------------------------

    def write(self, ops: Sequence[Op]) -> None:
        """Make the new files, and log the ops."""
        state, tree = self._state, self._folder.tree
        self._final = {op.key: op._replace(entry=op.left) for op in ops}
        self._placing = [op for op in self._final.values() if self._must_place(op)]
        self._folder.counts.reconciles += sum(op.origin is Origin.FILE for op in ops)
        checked: files.Checked = {}
        try:
            if tree.spelling is not None:
                check_apart(path_of(op.key) for op in self._placing if op.entry is not None)
            for op in self._placing:
                if op.entry is None:
                    tree.check_removable(op.key, checked)
                    continue
                assert op.entry.value is not None
                self._moved += tree.make_room(path_of(op.key), state.temporary, checked)
                self._made[op.seq] = files.write_new(
                    state.temporary, str(op.seq), op.entry.value, self._rights(op.key)
                )
                if self._config.sync_files:
                    disk.sync(str(op.seq), dir_fd=state.temporary)
        except NoKey as exc:
            raise PathConflict(str(exc)) from exc
        except OSError as exc:
            raise from_os_error(exc, f"write {op.key!r}") from exc
        try:
            state.log.keep_blobs(ops)
            with sqlite.errors("write the op-log"):
                state.log.append(state.connection, ops)
                state.keep_for_redo(self._placing)
        except OSError as exc:
            raise from_os_error(exc, "keep a large value") from exc

    def forget_index(self) -> None:
        """Know of each key what the log does, and look at its file before that is believed."""
        self._state.index.clear()
        recovery.fill_index(self._state)

    def finish(self) -> None:
        """Put the files in place, and tell the index."""
        folder, state = self._folder, self._state
        try:
            try:
                self._put_in_place()
            except IndexLost:
                # What is not in place yet, recovery puts there.
                state.rollback()
                folder.begin(light=False)
            with sqlite.errors("read the op-log"):
                seq, _ = state.log.tail(state.connection)
            state.commit_index(seq)
        except (OSError, NoKey) as exc:
            # The ops are durable and their files are not in place: the next batch begins with that.
            folder.behind = True
            raise FileSystemError(f"Cannot put a file in place: {exc}", outcome="unknown") from exc
        except KvfsError as exc:
            # So too where the index has no room to learn of them.
            folder.behind = True
            kind = StorageFull if isinstance(exc, StorageFull) else FileSystemError
            raise kind(f"Cannot finish a write: {exc.message}", outcome="unknown") from exc
        finally:
            self.end()

    def rollback(self) -> None:
        """Forget the batch."""
        with suppress(OSError):
            for op in self._final.values():
                files.remove(self._state.temporary, str(op.seq))
        self.end()

    def end(self) -> None:
        """Let go of the locks, and of what was not committed."""
        self._state.rollback()
        for snapshot in self._snapshots:
            snapshot.close()
        self._snapshots = []
        self._looks.close()

    # --- parts -----------------------------------------------------------------------------------------

    def _changed(self, key: str, known: Entry | None, number: int, found: Found) -> KeyState:
        """The state of a key whose file is not what the index knows: edited, or only touched."""
        assert found.value is not None
        size = len(found.value)
        # A state that is not for long keeps no large values.
        kept = not (self._state.ephemeral and self._state.log.is_blob(size))
        recorded = kept and size <= self._config.history_max_value_bytes
        if recorded:
            found = self._snapshot(found)
        assert found.value is not None
        digest = value_hash(found.value)
        self._seen[key] = _Seen(found, digest, fresh=True)
        if known is not None and known.sha256 == digest:
            self._rows.append((known, found))
            close_value(found.value)
            return KeyState(known, number)
        content_type = content_types.of_file(key, found.value)
        if known is not None and content_types.still_true(known.content_type, found.value):
            content_type = known.content_type
        if not recorded and isinstance(found.value, FileValue):
            self._snapshots.append(found.value)
        edit = Change(
            OpType.SET,
            found.value,
            content_type=content_type,
            expire_ns=None if known is None else known.expire_ns,
            recorded=recorded and not (number == 0 and self._without_baseline),
            origin=Origin.FILE,
            sha256=digest,
        )
        return KeyState(known, number, unlogged=edit)

    @property
    def _without_baseline(self) -> bool:
        """Whether what is seen for the first time is not to be copied."""
        return not self._config.baseline and self._state.setting("baseline") == "pending"

    def _snapshot(self, found: Found) -> Found:
        """The same with a value that nobody can change any more."""
        if not isinstance(found.value, FileValue):
            return found
        if self._light:
            found.value.close()
            raise TooHeavy
        copy = upload(self._folder)
        self._snapshots.append(copy)
        try:
            with found.value as live:
                live.copy_to(copy.fd)
        except OSError as exc:
            raise from_os_error(exc, "copy a large value") from exc
        copy.size = found.value.size
        return found._replace(value=copy)

    def _put_in_place(self) -> None:
        folder, index = self._folder, self._state.index
        self._note_moves()
        self._looks.close()  # folders may have been made since
        overtaken = [op for op in self._placing if not self._place(op)]
        index.put_many(self._own)
        if self._config.sync_files:
            for op in self._placing:
                folder.tree.sync_folders_of(op.key)
        placing = {op.key for op in self._placing}
        rows: list[tuple[Entry, Found | None]] = []
        for op in self._final.values():
            if op.key in placing:
                continue
            if op.entry is None:
                index.drop(op.key)
            else:
                rows.append((op.entry, self._seen[op.key].found))
        rows += [row for row in self._rows if row[0].key not in self._final]
        self._put(rows)
        for path, signature in self._marks:
            if signature is not None and not folder.grain.trusted_at_once(signature, self._note_time()):
                # The folder stays known, so that it is looked at again.
                signature = UNTRUSTED
            index.put_folder(path, signature)
        if self._rules is not None:
            index.follow(self._rules)
        if overtaken:
            self._log_overtaken(overtaken)

    def _note_moves(self) -> None:
        """Files that are the own values of folders now lie elsewhere, and their ctime is another."""
        for components in self._moved:
            key = key_of(components)
            row = None if key is None else self._state.index.own(key)
            if row is not None:
                self._state.index.put(row.entry, "/".join(components), None)

    def _must_place(self, op: Op) -> bool:
        """Whether the op's outcome is not what lies in the key's file already."""
        return self._seen.get(op.key, _NOTHING).sha256 != (None if op.entry is None else op.entry.sha256)

    def _rights(self, key: str) -> Rights | None:
        """What a key's file keeps of its rights when it is replaced; None where they are the usual ones."""
        found = self._seen.get(key, _NOTHING).found
        return None if found is None or found.rights == self._folder.grain.rights else found.rights

    def _place(self, op: Op) -> bool:
        """Put the op's file in place, or take it away; False if it was not what we saw before."""
        folder = self._folder
        name, store = str(op.seq), self._state.temporary
        if op.entry is None:
            out = folder.tree.displace(op.key, name, store)
            self._state.index.drop(op.key)
        else:
            out = folder.tree.place(op.key, name, store)
            found = self._placed(op.key)
            # Whoever wrote to it since it is in place must be noticed at the next look.
            ours = found is not None and found.signature.moved(self._made[op.seq])
            self._own.append(self._own_row(op.entry, found if ours else None))
        if self._expected(op.key, out, name):
            files.remove(store, name)
            return True
        return False

    def _expected(self, key: str, out: Signature | None, name: str) -> bool:
        """Whether what came out, and lies at `name` now, is what was looked at."""
        seen = self._seen.get(key, _NOTHING)
        if out is None or seen.found is None:
            return out is None and seen.found is None
        if not out.moved(seen.found.signature):
            return False
        if not seen.fresh:
            return True
        with files.opened(self._state.temporary, name) or FileValue(-1, 0) as displaced:
            return value_hash(displaced) == seen.sha256

    def _placed(self, key: str) -> Found | None:
        """The file that is in place; None where it is hidden by now, which the next look will tell."""
        try:
            return self._looks.look(key)
        except Hidden:
            return None

    def _put(self, rows: list[tuple[Entry, Found | None]]) -> None:
        """Know keys; without its file, or with a racy one, one is looked at again before it is believed."""
        trusted, now_ns = self._folder.grain.trusted, self._note_time()
        self._state.index.put_many(
            (entry, _folder_of(entry.key), None)
            if found is None
            else (entry, found.folder, found.signature if trusted(found.signature, now_ns) else None)
            for entry, found in rows
        )

    def _own_row(self, entry: Entry, found: Found | None) -> tuple[Entry, str, Signature | None]:
        """What to know of a key whose file we have just put in place."""
        if found is None:
            return entry, _folder_of(entry.key), None
        trusted = self._folder.grain.trusted_at_once(found.signature, self._note_time())
        return entry, found.folder, found.signature if trusted else None

    def _note_time(self) -> int:
        """The file system's "now" from before the first look: later changes may not have been seen."""
        if self._now_ns is None:
            self._now_ns = self._folder.grain.now_ns()
        return self._now_ns

    def _log_overtaken(self, ours: list[Op]) -> None:
        """Somebody changed files between our look and our exchange: log what came out, and ours again."""
        state = self._state
        with sqlite.errors("write the op-log"):
            state.connection.execute("BEGIN IMMEDIATE")
            for op in ours:
                displaced = files.opened(state.temporary, str(op.seq))
                with displaced or nullcontext():
                    again = recovery.log_overtaken(
                        state, op, displaced, history_max_bytes=self._config.history_max_value_bytes
                    )
                if again.entry is not None:
                    row = state.index.own(op.key)
                    found = self._placed(op.key)
                    same = row is not None and found is not None and row.signature == found.signature
                    state.index.put(*self._own_row(again.entry, found if same else None))
                files.remove(state.temporary, str(op.seq))
        state.commit_log()


class _BatchLog(LogReader):
    """The log, whose large values are closed with those that the batch has copied."""

    def __init__(self, log: OpLog, connection: apsw.Connection, opened: list[FileValue]) -> None:
        super().__init__(log, connection)
        self._opened = opened

    def op(self, key: str, op_number: int) -> Op | None:
        op = super().op(key, op_number)
        if op is not None and op.entry is not None and isinstance(op.entry.value, FileValue):
            self._opened.append(op.entry.value)
        return op


def _folder_of(key: str) -> str:
    return "/".join(path_of(key)[:-1])


def read_file(folder: Folder, key: str) -> Found | None:
    """The key's file with its value; None where there is none. Raises `PathConflict`."""
    try:
        return folder.tree.read(key)
    except NoKey as exc:
        raise PathConflict(str(exc)) from exc
    except OSError as exc:
        raise from_os_error(exc, f"read {key!r}") from exc


def upload(folder: Folder) -> FileValue:
    """A new nameless file, on the file system of the keys."""
    return files.nameless(f"/proc/self/fd/{folder.state.temporary}")


def close_value(value: Value | None) -> None:
    """Close a value that is a file."""
    if isinstance(value, FileValue):
        value.close()
