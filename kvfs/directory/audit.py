"""Looks whether an op-log is in itself as `kvfs.oplog` says: its order, its values, its blobs."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, Final, NamedTuple

import apsw
import orjson

from kvfs.blobs import Blobs
from kvfs.model import value_hash
from kvfs.oplog import BLOB, GAP, OpLog
from kvfs.sqlite import fetch, has_table

LOST: Final = "lost"
"""The setting with the stretches of seqs that a repair could not keep, as JSON: [[first, last], …]."""

UNREADABLE: Final = (apsw.Error, ValueError, OverflowError)
"""What reading damaged rows can end in: SQLite's errors, text that is none, words that mean nothing."""

_HASH_BYTES: Final = 32
_SHOWN: Final = 5


class Difference(NamedTuple):
    """Something that is not as it must be. `kind` is a stable word; `path` can be shown as it is."""

    kind: str
    key: str | None
    path: str | None
    detail: str


def damage(connection: apsw.Connection) -> str | None:
    """What SQLite finds damaged in a database; None where it is whole."""
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check(100)")]
    except apsw.Error as exc:
        return str(exc)
    return None if found == ["ok"] else "; ".join(found[:_SHOWN])


def lost(connection: apsw.Connection) -> list[tuple[int, int]] | None:
    """The stretches of seqs that a repair of the log could not keep; None where it was never repaired."""
    if not has_table(connection, "kvfs_settings"):
        return None
    rows = fetch(connection, "SELECT value FROM kvfs_settings WHERE name = ?", (LOST,))
    return [(first, last) for first, last in orjson.loads(rows[0][0])] if rows else None


def order(log: OpLog, connection: apsw.Connection) -> Iterator[Difference]:
    """Ops that are missing, or not in their order.

    What was pruned is missing from the beginnings of its keys' ops, up to the seq that is noted; so, unless a
    repair has lost some, as many ops must be missing from the log as from those.
    """
    known = lost(connection)
    pruned_seq = log.standing(connection).pruned_seq
    missing = last_seq = last_ns = 0
    for seq, key, ts_ns in connection.execute(f"SELECT seq, key, ts_ns FROM {log.table} ORDER BY seq"):
        missing += seq - last_seq - 1
        first = max(last_seq, pruned_seq) + 1
        if first < seq and not _within(known or (), first, seq - 1):
            yield Difference("log-hole", None, None, f"no ops with seq {first} to {seq - 1}")
        if ts_ns < last_ns:
            yield Difference(
                "log-disorder", key, None, f"seq {seq}: its time is before that of the one before"
            )
        last_seq, last_ns = seq, max(ts_ns, last_ns)
    pruned = 0
    last_key, last_number, key_seq = None, 0, 0
    sql = f"SELECT key, op_number, seq, flags FROM {log.table} ORDER BY key, op_number"
    for key, number, seq, flags in connection.execute(sql):
        if key != last_key:
            last_key, last_number, key_seq = key, number - 1 if pruned_seq else 0, 0
            pruned += last_number
        # A repair leaves a gap where it does not know what was before.
        if number != last_number + 1 and not flags & GAP:
            yield Difference("log-hole", key, None, f"op {number} comes after op {last_number}")
        if seq <= key_seq:
            yield Difference("log-disorder", key, None, f"op {number} has a lower seq than op {last_number}")
        last_number, key_seq = number, seq
    if pruned_seq > last_seq:
        yield Difference("log-hole", None, None, f"no ops with seq {last_seq + 1} to {pruned_seq}, or after")
    elif pruned_seq and known is None and missing != pruned:
        detail = f"{missing} ops are missing, and {pruned} were pruned from the beginnings of keys"
        yield Difference("log-hole", None, None, detail)


def _within(stretches: Sequence[tuple[int, int]], first: int, last: int) -> bool:
    """Whether one of these stretches, which are in order, has all of this one."""
    place = bisect_right(stretches, (first, inf)) - 1
    return place >= 0 and last <= stretches[place][1]


def values(log: OpLog, connection: apsw.Connection) -> Iterator[Difference]:
    """Values in the log whose size or hash is not what their ops say."""
    sql = (
        f"SELECT key, op_number, size, value_hash, CAST(value AS BLOB) FROM {log.table}"
        f" WHERE created_s IS NOT NULL AND NOT flags & {GAP | BLOB} ORDER BY seq"
    )
    for key, number, size, digest, value in connection.execute(sql):
        if value is None:
            yield Difference("value-wrong", key, None, f"op {number} has no value, and is no gap")
            continue
        if (len(value), value_hash(value)) != (size, digest):
            yield Difference("value-wrong", key, None, f"op {number}: size or hash is not the value's")


def blobs(
    log: OpLog, connection: apsw.Connection, kept: Blobs, folder: str, *, full: bool
) -> Iterator[Difference]:
    """Blobs that are missing, wrong, half-made, or named by no op."""
    named = dict(_named_blobs(log, connection))
    for digest, (key, number, size) in named.items():
        path = kept.path(digest)
        shown = os.path.relpath(path, folder)
        try:
            found = os.stat(path).st_size
        except OSError as exc:
            yield Difference("blob-missing", key, shown, f"the value of op {number}: {exc.strerror}")
            continue
        if found != size:
            yield Difference("blob-wrong", key, shown, f"op {number}: {found} bytes, where {size} should be")
        elif full and not kept.is_whole(digest, size):
            yield Difference("blob-wrong", key, shown, f"op {number}: its hash is not the value's")
    for digest in kept.kept():
        if digest not in named:
            shown = os.path.relpath(kept.path(digest), folder)
            yield Difference("blob-extra", None, shown, "a blob that no op names")
    for name in kept.unfinished():
        yield Difference("leftover", None, name, "a blob that was not finished")


def _named_blobs(log: OpLog, connection: apsw.Connection) -> Iterator[tuple[bytes, tuple[str, int, int]]]:
    """(hash, (key, op number, size)) of the ops whose values are blobs, also only until files are durable."""
    columns = "value_hash, key, op_number, size"
    queries: Sequence[str] = [f"SELECT {columns} FROM {log.table} WHERE flags & {BLOB}"]
    if has_table(connection, "kvfs_redo"):
        redo = "SELECT seq FROM kvfs_redo WHERE value IS NULL"
        queries = [f"SELECT {columns} FROM {log.table} WHERE seq IN ({redo})", *queries]
    for sql in queries:
        row: tuple[Any, ...]
        for row in connection.execute(sql):
            if isinstance(row[0], bytes) and len(row[0]) == _HASH_BYTES:
                yield row[0], (row[1], row[2], row[3])
