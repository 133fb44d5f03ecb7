"""Compares a folder's files, its index and its op-log, and names every difference. It changes nothing.

Programs may write meanwhile: what looks different without the lock is looked at again under it, some keys
at a time, and only what is different then is one. Kinds of differences, besides those of `audit`:

    edited, unrecorded, file-missing, unreadable    a file is not what its key's last op says
    disguised      it is not, though its signature is the index's; only `full` finds that
    row-missing, row-extra, row-wrong               the index is not what the op-log says
    index-missing, index-damaged, index-foreign, index-behind
    log-missing, log-damaged
    leftover       a temporary file that nobody is at work on
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import apsw

from kvfs import sqlite
from kvfs.blobs import Blobs
from kvfs.directory import audit
from kvfs.directory.audit import Difference
from kvfs.directory.files import Tree
from kvfs.directory.index import VERSION, IndexReader, Row
from kvfs.directory.looks import Signature
from kvfs.directory.names import NoKey, path_of
from kvfs.directory.state import LOG_NAME, NO_LOG, Home, held
from kvfs.directory.survey import IGNORED, IGNORED_BY_RULE, UNREADABLE, shown_path, walk
from kvfs.errors import KvfsError, Overloaded, from_os_error
from kvfs.model import Entry, FileValue, Op, value_hash
from kvfs.oplog import OpLog
from kvfs.sqlite import fetch

_ATTEMPTS: Final = 5
_KEYS_UNDER_LOCK: Final = 200
_PAGE: Final = 1000
_OURS: Final = frozenset({"clock"})
_EVER: Final = -1
"""A time at which no TTL has run out."""


class Note(NamedTuple):
    """Something in the folder that is no key, which is no difference. `path` can be shown as it is."""

    kind: str
    path: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found."""

    folder: str
    table: str
    full: bool
    differences: tuple[Difference, ...]
    notes: tuple[Note, ...]
    files: int
    keys: int
    ops: int

    @property
    def clean(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


def check(db: str, table: str, *, state_dir: str | None = None, full: bool = False) -> Checked:
    """Compare all that there is of the folder `<db>/<table>`; with `full`, hash all values too.

    Raises `DatabaseError`, `FileSystemError`, and `Overloaded` where other programs are never done.
    """
    for _ in range(_ATTEMPTS):
        # A program that begins to write just now disturbs what is read without locks.
        with suppress(sqlite.Disturbed), ExitStack() as stack:
            try:
                return _Check(stack, db, table, state_dir, full=full).run()
            except OSError as exc:
                raise from_os_error(exc, f"check {os.path.join(db, table)}") from exc
    raise Overloaded("Programs open and close the folder all the time", retry_after_s=1)


class _File(NamedTuple):
    """A key's file as it was seen: its signature, or None with the kind of difference that makes and why."""

    signature: Signature | None
    kind: str = "file-missing"
    reason: str = "there is no file"


_NOTHING: Final = _File(None)


class _Check:
    """One check. What it opens, `stack` closes."""

    def __init__(self, stack: ExitStack, db: str, table: str, state_dir: str | None, *, full: bool) -> None:
        self._stack = stack
        self._db = db
        self._table = table
        self._full = full
        self._home = Home.of(db, table, state_dir)
        self._blobs = Blobs(self._home.blobs)
        self._log = OpLog(LOG_NAME, self._blobs)
        self._differences: list[Difference] = []
        self._notes: list[Note] = []
        self._tree: Tree | None = None
        # Open where there is one that can be believed.
        self._log_at: apsw.Connection | None = None
        self._index_at: apsw.Connection | None = None

    def run(self) -> Checked:
        folder = os.path.join(self._db, self._table)
        if os.path.isdir(folder):
            self._tree = Tree(folder)
            self._stack.callback(self._tree.close)
        self._open_log()
        self._open_index()
        files, keys, suspects = self._compare_all()
        for start in range(0, len(suspects), _KEYS_UNDER_LOCK):
            with held(self._home, shared=True):
                for key in suspects[start : start + _KEYS_UNDER_LOCK]:
                    self._differences += self._compare_again(key)
        ops = self._check_log()
        with held(self._home, shared=True):
            self._check_index_is_up_to_date()
            self._check_temporary()
        return Checked(
            self._db, self._table, self._full, tuple(self._differences), tuple(self._notes), files, keys, ops
        )

    # --- opening ---------------------------------------------------------------------------------------

    def _open_log(self) -> None:
        if not os.path.exists(self._home.log):
            self._found("log-missing", self._home.log, "there is no op-log")
            return
        self._log_at = self._whole(self._home.log, "log-damaged")
        if self._log_at is not None and self._log.log_id(self._log_at) is None:
            self._found("log-damaged", self._home.log, NO_LOG)
            self._log_at = None

    def _open_index(self) -> None:
        path = self._home.index
        if not os.path.exists(path):
            if self._log_at is not None:
                self._found("index-missing", path, "there is no index")
            return
        index = self._whole(path, "index-damaged")
        if index is None:
            return
        try:
            meta = dict(fetch(index, "SELECT name, value FROM meta"))
        except apsw.Error as exc:
            self._found("index-damaged", path, str(exc))
            return
        log_id = None if self._log_at is None else self._log.log_id(self._log_at)
        if meta.get("version") != VERSION or meta.get("log_id") != log_id:
            self._found("index-foreign", path, "it is of another version of kvfs, or of another op-log")
            return
        self._index_at = index

    def _whole(self, path: str, damaged: str) -> apsw.Connection | None:
        """A connection to a database that is not damaged, else None and a difference."""
        try:
            connection = self._stack.enter_context(sqlite.untouched(path))
            found = audit.damage(connection)
        except KvfsError as exc:
            if not sqlite.is_damage(exc):
                raise
            found = exc.message
        if found is None:
            return connection
        self._found(damaged, path, found)
        return None

    # --- keys ------------------------------------------------------------------------------------------

    def _compare_all(self) -> tuple[int, int, list[str]]:
        """How many files and keys there are, and which keys look different, in byte order."""
        seen = self._stack.enter_context(_Seen())
        if self._tree is not None:
            ignored: Counter[str] = Counter()
            for sight in walk(self._tree):
                if sight.key is not None and sight.signature is not None:
                    seen.add(sight.key, sight.signature)
                elif sight.reason in (IGNORED, IGNORED_BY_RULE):
                    ignored[sight.reason] += 1
                elif sight.reason == UNREADABLE:
                    detail = "what is in this folder cannot be compared"
                    self._differences.append(Difference("unreadable", None, shown_path(sight.path), detail))
                elif sight.reason is not None:
                    self._notes.append(Note(sight.reason, shown_path(sight.path), "is no key"))
            for reason, count in ignored.items():
                self._notes.append(Note(reason, None, f"{count} files and folders"))
        keys = 0
        suspects: list[str] = []
        streams = heapq.merge(
            ((_order(key), 0, _File(signature)) for key, signature in seen),
            ((_order(op.key), 1, op) for op in self._heads()),
            ((_order(row.entry.key), 2, row) for row in self._rows()),
            key=itemgetter(0),
        )
        for order, group in groupby(streams, key=itemgetter(0)):
            known: dict[int, Any] = {which: what for _, which, what in group}
            key = order.decode()
            op: Op | None = known.get(1)
            keys += op is not None and op.entry is not None
            if any(True for _ in self._compare(key, known.get(0, _NOTHING), op, known.get(2))):
                suspects.append(key)
        return seen.count, keys, suspects

    def _heads(self) -> Iterator[Op]:
        if self._log_at is None:
            return
        try:
            yield from self._log.heads(self._log_at)
        except audit.UNREADABLE as exc:
            # Each key that comes after is looked at by itself.
            self._found("log-damaged", self._home.log, str(exc))

    def _rows(self) -> Iterator[Row]:
        if self._index_at is None:
            return
        reader = IndexReader(self._index_at, _EVER)
        try:
            page = reader.page("", None, limit=_PAGE, offset=0, after=True)
            while page:
                yield from page
                page = reader.page(page[-1].entry.key, None, limit=_PAGE, offset=0, after=True)
        except audit.UNREADABLE as exc:
            self._found("index-damaged", self._home.index, str(exc))

    def _compare_again(self, key: str) -> list[Difference]:
        """What is different at a key, under the lock."""
        row = None
        try:
            if self._index_at is not None:
                found = IndexReader(self._index_at, _EVER).page(key, None, limit=1, offset=0, after=False)
                row = found[0] if found and found[0].entry.key == key else None
            op = None if self._log_at is None else self._log.facts(self._log_at, key)
        except audit.UNREADABLE as exc:
            return [Difference("log-damaged", key, None, f"it cannot be read: {exc}")]
        return list(self._compare(key, self._look(key), op, row))

    def _compare(self, key: str, file: _File, op: Op | None, row: Row | None) -> Iterator[Difference]:
        path = shown_path("/".join(path_of(key)))
        entry = None if op is None else op.entry
        if self._log_at is not None:
            if file.signature is not None:
                yield from self._compare_content(key, path, file.signature, op, row)
            elif entry is not None:
                yield Difference(file.kind, key, path, file.reason)
        elif file.signature is not None:
            yield Difference("unrecorded", key, path, "the file has no op")
        if self._index_at is not None:
            yield from _compare_row(key, path, entry, row)

    def _compare_content(
        self, key: str, path: str, signature: Signature, op: Op | None, row: Row | None
    ) -> Iterator[Difference]:
        """Whether a file is what its key's last op says."""
        if op is None or op.entry is None:
            detail = "the file has no op" if op is None else f"the file is there after its {op.op_type}"
            yield Difference("unrecorded", key, path, detail)
            return
        trusted = row is not None and row.signature == signature and row.entry.sha256 == op.entry.sha256
        if trusted and not self._full:
            return
        try:
            digest = self._hash(key)
        except OSError as exc:
            yield Difference("unreadable", key, path, exc.strerror or str(exc))
            return
        except NoKey as exc:
            yield Difference("file-missing", key, path, str(exc))
            return
        if digest != op.entry.sha256:
            if trusted:
                yield Difference("disguised", key, path, "the file differs from its last op, unnoticeably")
            else:
                yield Difference("edited", key, path, f"the file differs from op {op.op_number}, its last")

    def _look(self, key: str) -> _File:
        if self._tree is None:
            return _NOTHING
        try:
            found = self._tree.look(key)
        except NoKey as exc:
            return _File(None, reason=str(exc))
        except OSError as exc:
            return _File(None, "unreadable", exc.strerror or str(exc))
        return _NOTHING if found is None else _File(found.signature)

    def _hash(self, key: str) -> bytes | None:
        """The hash of a key's file; None where there is none any more."""
        assert self._tree is not None
        found = self._tree.read(key)
        if found is None or found.value is None:
            return None
        if isinstance(found.value, FileValue):
            with found.value as large:
                return value_hash(large)
        return value_hash(found.value)

    # --- the log, the index and what lies beside as a whole ----------------------------------------------

    def _check_log(self) -> int:
        """Look whether the log is in order; how many ops it has."""
        if self._log_at is None:
            return 0
        try:
            # Extended one by one: what was found before something cannot be read stays found.
            self._differences.extend(audit.order(self._log, self._log_at))
            if self._full:
                self._differences.extend(audit.values(self._log, self._log_at))
            self._check_blobs(self._log_at)
        except audit.UNREADABLE as exc:
            self._found("log-damaged", self._home.log, str(exc))
        rows = fetch(self._log_at, f"SELECT count(*) FROM {self._log.table}")
        return int(rows[0][0])

    def _check_blobs(self, log_at: apsw.Connection) -> None:
        suspects = [*audit.blobs(self._log, log_at, self._blobs, self._db, full=self._full)]
        if suspects:
            with held(self._home, shared=True):
                there = [*audit.blobs(self._log, log_at, self._blobs, self._db, full=False)]
            # What is in a blob never changes.
            spoilt = [each for each in suspects if each.kind == "blob-wrong" and each not in there]
            self._differences += [each for each in there if each in suspects] + spoilt

    def _check_index_is_up_to_date(self) -> None:
        if self._index_at is None or self._log_at is None:
            return
        applied = fetch(self._index_at, "SELECT value FROM meta WHERE name = 'applied_seq'")[0][0]
        seq, _ = self._log.tail(self._log_at)
        if applied < seq:
            detail = f"it has the ops up to seq {max(0, applied)}, and the op-log those up to {seq}"
            self._found("index-behind", self._home.index, detail)

    def _check_temporary(self) -> None:
        with suppress(FileNotFoundError):
            for name in sorted(set(os.listdir(self._home.temporary)) - _OURS):
                path = os.path.join(self._home.temporary, name)
                self._found("leftover", path, "a temporary file of a write that has ended")

    # --- parts -----------------------------------------------------------------------------------------

    def _found(self, kind: str, path: str, detail: str) -> None:
        self._differences.append(Difference(kind, None, shown_path(os.path.relpath(path, self._db)), detail))


class _Seen:
    """The files that were seen, to be had in byte order of their keys; on the disk where they are many."""

    def __init__(self) -> None:
        self.count = 0
        # An empty name is a temporary database, in memory as far as that fits.
        self._connection = apsw.Connection("")
        self._connection.execute("CREATE TABLE seen (key TEXT PRIMARY KEY, i, s, m, c) WITHOUT ROWID; BEGIN")

    def __enter__(self) -> _Seen:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connection.close()

    def add(self, key: str, signature: Signature) -> None:
        self._connection.execute("INSERT OR REPLACE INTO seen VALUES (?,?,?,?,?)", (key, *signature))
        self.count += 1

    def __iter__(self) -> Iterator[tuple[str, Signature]]:
        for key, *signature in self._connection.execute("SELECT * FROM seen ORDER BY key"):
            yield key, Signature(*signature)


def _compare_row(key: str, path: str, entry: Entry | None, row: Row | None) -> Iterator[Difference]:
    """Whether the index knows of a key what its last op says."""
    if row is None:
        if entry is not None:
            yield Difference("row-missing", key, path, "the index does not know it")
    elif entry is None:
        yield Difference("row-extra", key, path, "the index knows it, and the op-log says it is not there")
    else:
        wrong = [
            name
            for name, logged, known in zip(Entry._fields, entry, row.entry, strict=True)
            if logged != known
        ]
        if wrong:
            yield Difference(
                "row-wrong", key, path, f"the index has another {', '.join(wrong)} than the op-log"
            )


def _order(key: str) -> bytes:
    """What keys are ordered by."""
    return key.encode()
