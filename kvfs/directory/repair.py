"""Repairs a damaged op-log: what can be read of it goes into a new one, and it is itself set aside.

The new log is made under another name, and is durable before the damaged one is renamed to
`<table>.oplog.damaged-<UTC time>`, with its side files; then the new one takes its place. A crash leaves
one of three: the damaged log in its place (the next repair begins again), no log beside the one set aside
(no server opens that; the next repair finishes it), or the new log.

What is kept keeps its seq, op number, times and value. What is lost must not be guessed, and no op number
may be used twice. So there is a gap, a `set` by `file` whose hash is zeros, wherever an op is known to be
missing: the index of the log still has its key and number, a later op has a higher number than the next,
or the folder's index knows a higher number. It stands at a seq that was lost. Other lost seqs stay holes,
which the setting `lost` tells of; but up to where ops were pruned, what nothing is known of is taken for
pruned too: reads before it are refused in either case. The new log has an identity of its own; so the index
is made anew, and no change cursor of the old log is valid in the new one.
"""

from __future__ import annotations

import os
import shutil
import time
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple

import apsw
import orjson

from kvfs import disk, retention, sqlite
from kvfs.blobs import Blobs
from kvfs.directory import audit
from kvfs.directory.audit import UNREADABLE
from kvfs.directory.state import ASIDE, LOG_NAME, NO_LOG, Home, held, make_log, new_log_id
from kvfs.errors import KvfsError, from_os_error
from kvfs.model import NS, OpType, Origin, value_hash
from kvfs.oplog import BLOB, GAP, OpLog
from kvfs.sqlite import fetch, stored_value

_ROW_MIN_BYTES: Final = 40
_TS_NS: Final = 5
_UNKNOWN_HASH: Final = bytes(32)
_UNKNOWN_TYPE: Final = "application/octet-stream"
_HEADER_BYTES: Final = 100
# What the second page of a shrinkable database begins with: a map, which says that the third is the root of a
# table (sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages). In others it is a table itself.
_MAP_OF_A_ROOT: Final = b"\1"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did: why, where the damaged log is now, how many ops were kept, and which seqs were lost.

    `gaps` ops stand for lost ones of which the key and the number are known.
    """

    reason: str
    set_aside: str
    kept: int
    gaps: int
    lost: tuple[tuple[int, int], ...]


def repair(db: str, table: str, state_dir: str | None = None) -> Repaired | None:
    """Repair the op-log of the folder `<db>/<table>`; None where nothing is wrong with it.

    A server that has the folder open goes over to the new log with its next request. Raises `Overloaded`
    where other programs write all the time, `DatabaseError`, `FileSystemError`, `StorageFull`.
    """
    home = Home.of(db, table, state_dir)
    if not home.known():
        return None
    try:
        with held(home, shared=False), sqlite.errors("repair the op-log"):
            return _Repair(home).run()
    except OSError as exc:
        raise from_os_error(exc, f"repair {home.log}") from exc


class _Facts(NamedTuple):
    """What the folder's index knows of a key."""

    key: str
    size: int
    content_type: str
    created_s: int
    updated_s: int
    expire_ns: int | None
    op_number: int


class _Repair:
    """One repair, under the store's lock."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._log = OpLog(LOG_NAME, Blobs(home.blobs))
        self._new = f"{home.log}.new"
        # Copies to read from: opening the damaged log itself would change it.
        self._copies = f"{home.log}.reading"

    def run(self) -> Repaired | None:
        shutil.rmtree(self._copies, ignore_errors=True)
        if not os.path.exists(self._home.log):
            return self._finish()
        _remove(self._new)
        reason = self._damage()
        if reason is None:
            return None
        try:
            kept, gaps, lost = self._salvage(self._home.log)
        except BaseException:
            # Most of all where the disk is full.
            _remove(self._new)
            shutil.rmtree(self._copies, ignore_errors=True)
            raise
        aside = self._free_name()
        os.rename(self._home.log, aside)
        self._put_new_in_place(aside)
        return Repaired(reason, aside, kept, gaps, lost)

    def _finish(self) -> Repaired:
        """End a repair that was cut off after it had set the damaged log aside."""
        aside = self._home.set_aside()[-1]
        if not os.path.exists(self._new):
            self._salvage(aside)
        self._put_new_in_place(aside)
        with closing(sqlite.connect(self._home.log)) as connection:
            table = self._log.table
            gaps = f"SELECT count(*), total(flags & {GAP} AND value_hash = ?) FROM {table}"
            (ops, gapped) = fetch(connection, gaps, (_UNKNOWN_HASH,))[0]
            lost = audit.lost(connection) or []
        return Repaired("a repair was cut off", aside, ops - int(gapped), int(gapped), tuple(lost))

    def _put_new_in_place(self, aside: str) -> None:
        """The damaged log is set aside: what belongs to it goes after it, and the new one takes its place."""
        for suffix in sqlite.SIDE_FILES:
            with suppress(FileNotFoundError):
                os.rename(self._home.log + suffix, aside + suffix)
        # A write-ahead log must never come to lie beside another log.
        disk.sync(self._home.path)
        os.rename(self._new, self._home.log)
        disk.sync(self._home.path)

    def _free_name(self) -> str:
        path = self._home.log + ASIDE + time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        tries = 0
        while os.path.exists(name := f"{path}.{tries}" if tries else path):
            tries += 1
        return name

    # --- what is wrong ---------------------------------------------------------------------------------

    def _damage(self) -> str | None:
        """What is wrong with the log, if anything."""
        if not os.path.getsize(self._home.log) and os.path.exists(self._home.index):
            return "it is empty"
        try:
            with sqlite.untouched(self._home.log) as connection:
                # First: what a newer kvfs has written, this one cannot call damaged.
                log_id = self._log.log_id(connection)
                damage = audit.damage(connection)
                if damage is not None:
                    return damage
                tail = 0
                if log_id is None and os.path.exists(self._home.index):
                    return NO_LOG
                if log_id is not None:
                    tail = self._log.tail(connection)[0]
                    # SQLite does not see a changed byte of a row.
                    for row in connection.execute(f"SELECT * FROM {self._log.table}"):
                        if not _is_sound(row):
                            return f"seq {row[0]}: no op is like this, or its value is not"
                    for each in audit.order(self._log, connection):
                        if each.kind == "log-disorder":
                            return each.detail
        except KvfsError as exc:
            if not sqlite.is_damage(exc):
                raise
            return exc.message
        except UNREADABLE as exc:
            return str(exc)
        applied = self._applied(log_id)
        if applied > tail:
            return f"its last ops are missing: the index has those up to seq {applied}, and it up to {tail}"
        return None

    def _applied(self, log_id: str | None) -> int:
        """Up to which seq the folder's index has the ops; of any log, where that cannot be read."""
        with suppress(KvfsError, *UNREADABLE), sqlite.untouched(self._home.index) as index:
            meta = dict(fetch(index, "SELECT name, value FROM meta"))
            if log_id is None or meta.get("log_id") == log_id:
                return int(meta["applied_seq"])
        return 0

    # --- keeping what can be read ------------------------------------------------------------------------

    def _salvage(self, source: str) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        """Make the new log, durable; how many ops were kept, how many gaps made, and which seqs were lost."""
        _remove(self._new)
        lost = _Lost()
        missing: list[tuple[int, str, int]] = []
        checkpoint = None
        with closing(sqlite.connect(self._new, create=True, shrinkable=True, synchronous="OFF")) as new:
            with new:
                make_log(self._log, new, new_log_id())
                new.execute("UPDATE kvfs_settings SET value = 'done' WHERE name = 'baseline'")
            new.pragma("wal_checkpoint", "truncate")
            with new:
                old = self._opened(source)
                if old is not None:
                    with closing(old):
                        self._keep_rows(old, new, lost)
                        missing = [op for op in self._indexed(old) if lost.has(op[0])]
                        checkpoint = _copy_rest(old, new)
                kept = int(fetch(new, f"SELECT count(*) FROM {self._log.table}")[0][0])
                gaps = self._fill(new, lost, missing)
                stretches = lost.stretches()
                tail = self._log.tail(new)[0]
                # Where an op may be missing, a file that is gone or as it was before may be its doing. So the
                # files are believed, unless it is sure that none is.
                sure = checkpoint is not None and not stretches and not gaps and self._applied(None) == tail
                durable = checkpoint if sure else tail
                new.execute("UPDATE kvfs_checkpoint SET applied_seq = ?", (durable,))
                # Above the last op that was kept, nobody can tell pruned from lost, and nobody asks.
                new.execute("UPDATE kvfs_retention SET pruned_seq = min(pruned_seq, ?)", (tail,))
                value = orjson.dumps(stretches).decode()
                new.execute("INSERT OR REPLACE INTO kvfs_settings VALUES (?, ?)", (audit.LOST, value))
            new.pragma("wal_checkpoint", "truncate")
        shutil.rmtree(self._copies)
        disk.sync(self._new)
        disk.sync(self._home.path)
        return kept, gaps, tuple(stretches)

    def _opened(self, source: str) -> apsw.Connection | None:
        """A connection to a copy of the damaged log; None where SQLite can make nothing of it."""
        shutil.rmtree(self._copies, ignore_errors=True)
        os.makedirs(self._copies)
        copy = os.path.join(self._copies, "oplog")
        shutil.copyfile(source, copy)
        for path in (source, self._home.log):
            with suppress(FileNotFoundError):
                shutil.copyfile(path + "-wal", copy + "-wal")
                break
        connection = self._readable(copy)
        if connection is None:
            _graft_first_page(copy, self._laid_out_like(copy))
            connection = self._readable(copy)
        return connection

    def _laid_out_like(self, damaged: str) -> str:
        """The path of a new log whose tables begin at the same pages."""
        with open(damaged, "rb") as file:
            file.seek(_page_bytes(self._new))
            if file.read(1) == _MAP_OF_A_ROOT:
                return self._new
        plain = os.path.join(self._copies, "plain")
        with closing(sqlite.connect(plain, create=True, synchronous="OFF")) as connection, connection:
            make_log(self._log, connection, new_log_id())
        return plain

    def _readable(self, path: str) -> apsw.Connection | None:
        try:
            connection = sqlite.connect(path, synchronous="OFF")
        except KvfsError:
            return None
        with suppress(*UNREADABLE):
            connection.pragma("cell_size_check", 1)
            connection.execute(f"SELECT seq FROM {self._log.table} LIMIT 0")
            return connection
        connection.close()
        return None

    def _indexed(self, old: apsw.Connection) -> Iterator[tuple[int, str, int]]:
        """(seq, key, op number) of ops, as far as the log's own index can be read."""
        table = self._log.table
        for direction in ("", "DESC"):
            # From both ends, to where it is damaged.
            sql = f"SELECT seq, key, op_number FROM {table} ORDER BY key {direction}, op_number {direction}"
            with suppress(*UNREADABLE):
                for seq, key, number in old.execute(sql):
                    if isinstance(key, str) and isinstance(number, int) and isinstance(seq, int):
                        yield seq, key, number
                return

    def _last_seq(self, old: apsw.Connection) -> int:
        """The seq up to which there were ops, as far as that is known."""
        ends = [self._applied(None), max((seq for seq, _, _ in self._indexed(old)), default=0)]
        for sql in (
            f"SELECT max(seq) FROM {self._log.table}",
            "SELECT max(applied_seq) FROM kvfs_checkpoint",
        ):
            with suppress(*UNREADABLE):
                ends += [end for (end,) in fetch(old, sql) if isinstance(end, int)]
        return max(ends)

    def _keep_rows(self, old: apsw.Connection, new: apsw.Connection, lost: _Lost) -> None:
        """Keep all rows that can be read, and note which seqs cannot."""
        last = self._last_seq(old)
        pruned_seq = _pruned_seq(old)
        known = sorted(seq for seq, _, _ in self._indexed(old) if seq <= pruned_seq)
        done = 0

        def lose(until: int) -> None:
            """Note what is missing up to there, unless it may have been pruned."""
            for seq in known[bisect_right(known, done) : bisect_right(known, until)]:
                lost.add(seq, seq)
            lost.add(max(done, pruned_seq) + 1, until)

        possible = os.path.getsize(os.path.join(self._copies, "oplog")) // _ROW_MIN_BYTES
        for row in _in_order(self._rows(old, last or possible)):
            if self._keep(new, row):
                lose(row[0] - 1)
                done = row[0]
        lose(last)

    def _rows(self, old: apsw.Connection, last: int) -> Iterator[tuple[Any, ...]]:
        """All sound rows, in order, by halving what cannot be read at once."""
        sql = f"SELECT * FROM {self._log.table} WHERE seq BETWEEN ? AND ? ORDER BY seq"
        waiting = [(1, last)]
        while waiting:
            start, end = waiting.pop()
            try:
                for row in old.execute(sql, (start, end)):
                    if row[0] < start:
                        raise ValueError("pages lead in a circle")  # else it would be gone through for ever
                    start = row[0] + 1
                    if _is_sound(row):
                        yield row
            except UNREADABLE:
                if start < end:
                    middle = (start + end) // 2
                    waiting += [(middle + 1, end), (start, middle)]

    def _keep(self, new: apsw.Connection, row: tuple[Any, ...]) -> bool:
        """Log an op, if there is none of this number or seq; whether it was logged."""
        marks = ",".join("?" * len(row))
        new.execute(f"INSERT OR IGNORE INTO {self._log.table} VALUES ({marks})", row)
        return new.changes() > 0

    def _facts(self) -> list[_Facts]:
        """What the folder's index knows of keys, in the order of their last change."""
        columns = ", ".join(_Facts._fields)
        with suppress(KvfsError, *UNREADABLE), sqlite.untouched(self._home.index) as index:
            return [
                _Facts(*row) for row in fetch(index, f"SELECT {columns} FROM files ORDER BY updated_s, key")
            ]
        return []

    # --- gaps ------------------------------------------------------------------------------------------

    def _fill(self, new: apsw.Connection, lost: _Lost, missing: Sequence[tuple[int, str, int]]) -> int:
        """Put a gap wherever an op is known to be missing, at a seq that is lost; how many."""
        made = 0
        for seq, key, number in sorted(set(missing)):
            if lost.has(seq) and self._gap(new, seq, key, number):
                lost.take(seq - 1, seq + 1)
                made += 1
        table = self._log.table
        holes = (
            "SELECT * FROM (SELECT key, op_number, seq, flags,"
            " lag(op_number, 1, 0) OVER own AS number_before, lag(seq, 1, 0) OVER own AS seq_before"
            f" FROM {table} WINDOW own AS (PARTITION BY key ORDER BY op_number))"
            f" WHERE op_number > number_before + 1 AND NOT flags & {GAP}"
            f" {'AND number_before' if _pruned_seq(new) else ''} ORDER BY seq"
        )
        for key, number, seq, _, _, before in fetch(new, holes):
            free = lost.take(before, seq)
            if free is not None:
                made += self._gap(new, free, key, number - 1)
        for known in self._facts():
            number, _ = self._log.last(new, known.key)
            if known.op_number > number:
                op = self._log.facts(new, known.key, number)
                tail = self._log.tail(new)[0]
                free = lost.take(0 if op is None else op.seq, tail + 1) or max(tail, lost.last()) + 1
                made += self._gap(new, free, known.key, known.op_number, known)
        return made

    def _gap(
        self, new: apsw.Connection, seq: int, key: str, number: int, known: _Facts | None = None
    ) -> bool:
        """Log an op of which no more is known than this; whether it was not there."""
        table = self._log.table
        before = fetch(new, f"SELECT ts_ns FROM {table} WHERE seq < ? ORDER BY seq DESC LIMIT 1", (seq,))
        after = fetch(new, f"SELECT ts_ns FROM {table} WHERE seq > ? ORDER BY seq LIMIT 1", (seq,))
        # As early as it can have been: from there on nobody knows.
        ts_ns = (before or after or [(0 if known is None else known.created_s * NS,)])[0][0]
        if known is None:
            known = _Facts(key, 0, _UNKNOWN_TYPE, ts_ns // NS, ts_ns // NS, None, number)
        return self._keep(
            new,
            (
                seq, key, number, OpType.SET, Origin.FILE, ts_ns, known.content_type, known.size,
                _UNKNOWN_HASH, known.created_s, known.updated_s, known.expire_ns, None, GAP, None,
            ),
        )  # fmt: skip


class _Lost:
    """The seqs that were lost, in order."""

    def __init__(self) -> None:
        self._stretches: list[tuple[int, int]] = []

    def add(self, first: int, last: int) -> None:
        """These are lost too, if there are any: they come after all others."""
        if first > last:
            return
        if self._stretches and self._stretches[-1][1] == first - 1:
            first = self._stretches.pop()[0]
        self._stretches.append((first, last))

    def has(self, seq: int) -> bool:
        """Whether it is lost."""
        place = bisect_right(self._stretches, (seq, inf)) - 1
        return place >= 0 and seq <= self._stretches[place][1]

    def take(self, after: int, before: int) -> int | None:
        """The first one between these, which is not lost any more."""
        place = max(0, bisect_right(self._stretches, (after, inf)) - 1)
        for first, last in self._stretches[place : place + 2]:
            seq = max(first, after + 1)
            if seq <= last and seq < before:
                self._split((first, last), seq)
                return seq
        return None

    def last(self) -> int:
        """The last one; 0 if there is none."""
        return self._stretches[-1][1] if self._stretches else 0

    def stretches(self) -> list[tuple[int, int]]:
        """All of them, as (first, last)."""
        return list(self._stretches)

    def _split(self, stretch: tuple[int, int], seq: int) -> None:
        first, last = stretch
        self._stretches.remove(stretch)
        for part in ((first, seq - 1), (seq + 1, last)):
            if part[0] <= part[1]:
                insort(self._stretches, part)


def _in_order(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows without those whose times are not between their neighbours'."""
    before = 0
    row = next(rows, None)
    while row is not None:
        after = next(rows, None)
        early = row[_TS_NS] < before
        late = after is not None and row[_TS_NS] > after[_TS_NS] >= before
        if not early and not late:
            before = row[_TS_NS]
            yield row
        row = after


def _is_sound(row: tuple[Any, ...]) -> bool:
    """Whether a row can be an op's: pages that were overwritten can read as anything."""
    (seq, key, number, op_type, origin, ts_ns, content_type, size, digest,
     created_s, updated_s, _, _, flags, value) = row  # fmt: skip
    if not all(isinstance(each, int) for each in (seq, number, ts_ns, flags)):
        return False
    if not isinstance(key, str) or not key or number < 1:
        return False
    if op_type not in set(OpType) or origin not in set(Origin):
        return False
    if op_type in (OpType.DELETE, OpType.EXPIRE) or (op_type == OpType.ROLLBACK and created_s is None):
        return created_s is None and value is None
    if not all(isinstance(each, int) for each in (size, created_s, updated_s)):
        return False
    if (
        not isinstance(content_type, str)
        or not isinstance(digest, bytes)
        or len(digest) != len(_UNKNOWN_HASH)
    ):
        return False
    if flags & (GAP | BLOB):
        return value is None
    return value is not None and value_hash(stored_value(value)) == digest


def _copy_rest(old: apsw.Connection, new: apsw.Connection) -> int | None:
    """Copy what an op-log has besides ops, as far as it can be read; its checkpoint, if that can."""
    for table, columns in (
        ("kvfs_redo", "seq, value"),
        ("kvfs_settings", "name, value"),
        ("kvfs_idempotency", "idempotency_key, fingerprint, answer, expire_s"),
        ("kvfs_retention", retention.COLUMNS),
    ):
        marks = ",".join("?" for _ in columns.split(","))
        with suppress(*UNREADABLE):
            for row in old.execute(f"SELECT {columns} FROM {table}"):
                new.execute(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})", row)
    with suppress(*UNREADABLE):
        rows = fetch(old, "SELECT applied_seq FROM kvfs_checkpoint")
        if rows and isinstance(rows[0][0], int):
            return rows[0][0]
    return None


def _pruned_seq(log: apsw.Connection) -> int:
    """The highest seq that was pruned, as far as that can be read."""
    with suppress(*UNREADABLE):
        seq: object = retention.read(log, LOG_NAME).pruned_seq
        if isinstance(seq, int):
            return seq
    return 0


def _graft_first_page(damaged: str, sound: str) -> None:
    """Give a log whose first page is damaged that of a new one, whose tables begin at the same pages."""
    page_bytes = _page_bytes(sound)
    with open(sound, "rb") as file:
        page = bytearray(file.read(page_bytes))
    with open(damaged, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        page[28:32] = max(1, size // page_bytes).to_bytes(4, "big")
        # No free pages; and what the pages' number was noted with.
        page[32:40] = bytes(8)
        page[92:96] = page[24:28]
        file.seek(0)
        file.write(page)


def _page_bytes(path: str) -> int:
    """A database's page size, by its header."""
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    # A size of 1 stands for 65536.
    page_bytes = int.from_bytes(header[16:18], "big") or 1
    return 65536 if page_bytes == 1 else page_bytes


def _remove(path: str) -> None:
    for name in sqlite.files_of(path):
        with suppress(FileNotFoundError):
            os.unlink(name)
