"""A folder of keys that is there: its files, what kvfs keeps beside them, and what it knows of both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kvfs import sqlite
from kvfs.config import Config
from kvfs.directory import files, recovery
from kvfs.directory.files import Tree
from kvfs.directory.index import IndexLost, Row
from kvfs.directory.looks import Found
from kvfs.directory.names import NoKey
from kvfs.directory.racy import Grain
from kvfs.directory.spelling import Spelling, is_odd
from kvfs.directory.state import Home, open_state
from kvfs.errors import DatabaseError, FileSystemError, from_os_error
from kvfs.store import TooHeavy


@dataclass(slots=True)
class Counts:
    """What happened since the folder was opened, for people; counted without a lock."""

    hits: int = 0
    misses: int = 0
    reconciles: int = 0
    last_rebuild_at_s: float | None = None
    last_rebuild_s: float | None = None


class Folder:
    """An open folder. Looking is for any thread; `begin` is the writer's."""

    def __init__(self, db: str, table: str, config: Config) -> None:
        """Open it, or make it."""
        path = os.path.join(db, table)
        try:
            os.makedirs(path, exist_ok=True)
            self.tree = Tree(path)
        except OSError as exc:
            raise from_os_error(exc, f"open {path}") from exc
        try:
            self.state = open_state(Home.of(db, table, config.state_dir))
        except BaseException:
            self.tree.close()
            raise
        self.synced_seq = -1
        self.counts = Counts()
        # Whether there may be ops that are not in their files: then the writer must begin a batch first.
        self.behind = True
        self._syncing = -1
        try:
            self._syncing = files.opened_for_syncs(self.tree.root)
            device = os.fstat(self.state.temporary).st_dev
            self.grain = Grain(self.state.temporary, apart=device != self.tree.identity[0])
            with self.state.locked():
                if is_odd(self.tree.root, self.state.temporary, path):
                    self.tree.spelling = Spelling()
        except OSError as exc:
            self._close_syncing()
            self.state.close()
            self.tree.close()
            raise from_os_error(exc, f"write to {self.state.home.temporary}") from exc

    def close(self) -> None:
        """Idempotent."""
        self._close_syncing()
        self.state.close()
        self.grain.close()
        self.tree.close()

    def begin(self, *, light: bool) -> None:
        """Take the lock, and finish first what a crash has left, or make an index that is lost anew."""
        try:
            self._begin(light=light)
        except IndexLost as exc:
            self.state.rollback()
            if light:
                raise TooHeavy from exc
            applied = self.state.index.applied_seq
            self.state.renew_index()
            try:
                self._begin(light=False, applied=applied)
            except IndexLost as again:
                raise DatabaseError(
                    "The folder's index cannot be made: its op-log may be damaged, which `kvfs check` tells"
                ) from again

    def sync(self) -> None:
        """Make durable what was put in place. Any thread may. Raises `FileSystemError`, `StorageFull`.

        What failed since the last time shows in an error, but once: see `kvfs.doubt`.
        """
        try:
            files.sync_all(self._syncing)
        except OSError as exc:
            raise from_os_error(exc, "make the files durable") from exc

    def write_anew(self) -> None:
        """Have all files durable that may not be since a sync failed. The writer's; raises `KvfsError`."""
        state = self.state
        self.begin(light=False)
        with self._or_undone("write the folder's files anew"):
            with sqlite.errors("write the files anew"):
                recovery.write_anew(state, self.tree)
            seq = self._commit()
        self.sync()
        self.begin(light=False)
        with self._or_undone("note that the folder's files are durable"):
            state.note_durable(seq)
            self._commit()
        self.synced_seq = seq

    def sight(self, key: str) -> tuple[Found | None, Row | None]:
        """A key's file as it is now (None where there is none), and what is known of it."""
        row = self.state.index.get(key)
        try:
            return self.tree.look(key), row
        except NoKey:
            return None, row
        except OSError as exc:
            raise from_os_error(exc, f"look at {key!r}") from exc

    def new_rules(self) -> str | None:
        """The identity of the rules of what is ignored, where not all is known by them yet."""
        rules = self.tree.rules().identity
        return None if rules == self.state.index.rules() else rules

    def changed(self, key: str) -> bool:
        """Whether a key's file is not what the index knows."""
        found, row = self.sight(key)
        if row is None or found is None:
            return row is not None or found is not None
        return row.signature != found.signature

    def _commit(self) -> int:
        """Commit what changed no file that it does not tell of; the seq of the last op."""
        state = self.state
        seq, _ = state.log.tail(state.connection)
        state.commit_log()
        state.commit_index(seq)
        return seq

    def _close_syncing(self) -> None:
        if self._syncing >= 0:
            os.close(self._syncing)
            self._syncing = -1

    def _begin(self, *, light: bool, applied: int = 0) -> None:
        state = self.state
        state.begin()
        with self._or_undone("recover the folder's files"), sqlite.errors("recover"):
            seq, _ = state.log.tail(state.connection)
            state.check_tail(seq)
            if state.index.applied_seq == seq and not self.behind:
                return
            if light:
                raise TooHeavy
            if state.index.applied_seq < 0:
                recovery.rebuild(state, self.tree, applied=applied)
            else:
                recovery.recover(state, self.tree)
            # Not with what comes next: if that failed, the index would not know of the files put in place.
            state.commit_and_begin()
            self.behind = False

    @contextmanager
    def _or_undone(self, doing: str) -> Iterator[None]:
        """Undo what was begun where this fails; `FileSystemError` where it is the files that fail."""
        try:
            yield
        except (OSError, NoKey) as exc:
            self.state.rollback()
            raise FileSystemError(f"Cannot {doing}: {exc}") from exc
        except BaseException:
            self.state.rollback()
            raise
