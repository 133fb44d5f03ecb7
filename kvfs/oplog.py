"""The op-log: every change of every key, durable, in the order in which they happened.

Format, version 1. One table `kvfs_oplog_<name>` a store: beside the KV rows in a `.db` file, in
`<db>/.kvfs/<table>.oplog` for a folder. A row is an op:

    seq           INTEGER  the order of all ops of the store; from 1, no holes but by pruning
    key           TEXT
    op_number     INTEGER  the order of the key's ops; from 1, never reused
    op_type       TEXT     see `model.OpType`
    origin        TEXT     api, sql, file
    ts_ns         INTEGER  Unix nanoseconds, never decreasing with seq
    value         TEXT     the whole new value (BLOB where it is not UTF-8 without NUL);
                           NULL for tombstones and gaps
    content_type  TEXT     of the new value; NULL for tombstones
    size          INTEGER  of the new value in bytes; NULL for tombstones
    value_hash    BLOB     SHA-256 of the new value, also in a gap; NULL for tombstones
    created_s     INTEGER  when the key came into being, Unix seconds; NULL for tombstones
    updated_s     INTEGER  when its value last changed
    expire_ns     INTEGER  when its TTL runs out, in whole milliseconds; NULL without one
    ttl_s         INTEGER  the TTL given with this op; NULL if none was
    flags         INTEGER  1: a gap, the value was not recorded

Validity: (key, op_number) is unique; per key, op_number grows with seq. Whole values, not deltas: a past
state is one look-up, and the old value of an op is its predecessor's new one. There is no index on time:
`ts_ns` never decreases with `seq`, so the ops up to a time are found by bisection over `seq`, and a key's
state at a seq by bisection over its op numbers; each index less is a page less to write with every op.

`kvfs_stores` names the logs of the file: (name, format, log_id). A log of a newer format is not opened.
`log_id` is random, and tells a log from another at the same path. Recovery is SQLite's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

import apsw

from kvfs.errors import DatabaseError
from kvfs.model import Entry, Op, OpType, Origin, Value, value_bytes
from kvfs.sqlite import SqlValue, fetch, has_table, quoted, sql_value, stored_value

FORMAT: Final = 1
GAP: Final = 1

_COLUMNS: Final = (
    "seq, key, op_number, op_type, origin, ts_ns, value, content_type, size, value_hash, "
    "created_s, updated_s, expire_ns, ttl_s, flags"
)

_SCHEMA: Final = """
CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    op_number INTEGER NOT NULL,
    op_type TEXT NOT NULL,
    origin TEXT NOT NULL,
    ts_ns INTEGER NOT NULL,
    value,
    content_type TEXT,
    size INTEGER,
    value_hash BLOB,
    created_s INTEGER,
    updated_s INTEGER,
    expire_ns INTEGER,
    ttl_s INTEGER,
    flags INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX {index} ON {table} (key, op_number);
"""

_REGISTRY: Final = """
CREATE TABLE IF NOT EXISTS kvfs_stores (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    format INTEGER NOT NULL,
    log_id TEXT NOT NULL
);
"""


class OpLog:
    """The statements of one log. It holds no connection: each call names the one to use."""

    def __init__(self, name: str) -> None:
        self.name = name
        table = quoted(f"kvfs_oplog_{name}")
        self._schema = _SCHEMA.format(table=table, index=quoted(f"kvfs_oplog_{name}_key"))
        self._append = f"INSERT INTO {table} ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
        self._tail = f"SELECT seq, ts_ns FROM {table} ORDER BY seq DESC LIMIT 1"
        self._tail_at = f"SELECT seq, ts_ns FROM {table} WHERE seq <= ? ORDER BY seq DESC LIMIT 1"
        self._head = f"SELECT seq FROM {table} ORDER BY seq LIMIT 1"
        self._last = (
            f"SELECT op_number, op_type, seq FROM {table} WHERE key = ? ORDER BY op_number DESC LIMIT 1"
        )
        self._first = f"SELECT op_number, seq FROM {table} WHERE key = ? ORDER BY op_number LIMIT 1"
        self._numbered = (
            f"SELECT op_number, seq FROM {table} WHERE key = ? AND op_number <= ?"
            " ORDER BY op_number DESC LIMIT 1"
        )
        self._op = f"SELECT {_COLUMNS} FROM {table} WHERE key = ? AND op_number = ?"
        self._since = f"SELECT {_COLUMNS} FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?"
        self._next_key = f"SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT 1"
        self._first_key = f"SELECT key FROM {table} WHERE key >= ? ORDER BY key LIMIT 1"

    # --- being there ----------------------------------------------------------------------------------

    def create(self, connection: apsw.Connection, log_id: str) -> None:
        """Make the log, inside the caller's transaction."""
        connection.execute(_REGISTRY)
        connection.execute(self._schema)
        connection.execute("INSERT INTO kvfs_stores VALUES (?, ?, ?)", (self.name, FORMAT, log_id))

    def log_id(self, connection: apsw.Connection) -> str | None:
        """The log's identity; None where there is no such log yet.

        Raises `DatabaseError` for a log of a newer format than this program knows.
        """
        if not has_table(connection, "kvfs_stores"):
            return None
        rows = fetch(connection, "SELECT format, log_id FROM kvfs_stores WHERE name = ?", (self.name,))
        if not rows:
            return None
        version, log_id = rows[0]
        if version > FORMAT:
            raise DatabaseError(
                f"The op-log has format {version}, written by a newer kvfs; this one knows {FORMAT}"
            )
        return cast(str, log_id)

    # --- writing --------------------------------------------------------------------------------------

    def append(self, connection: apsw.Connection, ops: Iterable[Op]) -> None:
        """Add ops, inside the caller's transaction."""
        connection.executemany(self._append, map(_row, ops))

    # --- reading --------------------------------------------------------------------------------------

    def tail(self, connection: apsw.Connection) -> tuple[int, int]:
        """(seq, ts_ns) of the last op; (0, 0) of an empty log."""
        rows = fetch(connection, self._tail)
        return rows[0] if rows else (0, 0)

    def last(self, connection: apsw.Connection, key: str) -> tuple[int, OpType | None]:
        """The key's last op number and its type; (0, None) for a key never seen."""
        rows = fetch(connection, self._last, (key,))
        return (rows[0][0], OpType(rows[0][1])) if rows else (0, None)

    def op(self, connection: apsw.Connection, key: str, op_number: int) -> Op | None:
        """One op, or None."""
        rows = fetch(connection, self._op, (key, op_number))
        return _op(rows[0]) if rows else None

    def last_op(self, connection: apsw.Connection, key: str) -> Op | None:
        """The key's last op, or None for a key never seen."""
        return self.op(connection, key, self.last(connection, key)[0])

    def since(self, connection: apsw.Connection, seq: int, limit: int) -> list[Op]:
        """Up to `limit` ops after `seq`, in order."""
        return [_op(row) for row in fetch(connection, self._since, (seq, limit))]

    def seq_at(self, connection: apsw.Connection, ts_ns: int) -> int:
        """The seq of the last op with a time up to `ts_ns`; 0 if there is none. O(log n) look-ups."""
        head = fetch(connection, self._head)
        if not head:
            return 0

        def later(seq: int) -> tuple[bool, int]:
            found = fetch(connection, self._tail_at, (seq,))[0]
            return found[1] > ts_ns, found[0]

        return _bisect(head[0][0], self.tail(connection)[0], later)

    def state_at(self, connection: apsw.Connection, key: str, seq: int) -> Op | None:
        """The key's last op up to this seq of the store; None if it had none then."""
        first = fetch(connection, self._first, (key,))
        last = fetch(connection, self._last, (key,))
        if not first or first[0][1] > seq:
            return None

        def later(op_number: int) -> tuple[bool, int]:
            found = fetch(connection, self._numbered, (key, op_number))[0]
            return found[1] > seq, found[0]

        # Most questions are about a key that has not changed since.
        number = last[0][0] if last[0][2] <= seq else _bisect(first[0][0], last[0][0], later)
        return self.op(connection, key, number)

    def keys(self, connection: apsw.Connection, start: str, end: str | None) -> Iterator[str]:
        """Every key ever seen from `start` on and before `end`, in byte order, one look-up each."""
        rows = fetch(connection, self._first_key, (start,))
        while rows and (end is None or rows[0][0].encode() < end.encode()):
            yield rows[0][0]
            rows = fetch(connection, self._next_key, (rows[0][0],))


class LogReader:
    """A log at one connection, whose transaction makes it one consistent look."""

    def __init__(self, log: OpLog, connection: apsw.Connection) -> None:
        self._log = log
        self._connection = connection

    def tail(self) -> tuple[int, int]:
        return self._log.tail(self._connection)

    def last_op(self, key: str) -> Op | None:
        return self._log.last_op(self._connection, key)

    def seq_at(self, ts_ns: int) -> int:
        return self._log.seq_at(self._connection, ts_ns)

    def state_at(self, key: str, seq: int) -> Op | None:
        return self._log.state_at(self._connection, key, seq)

    def keys_ever(self, start: str, end: str | None) -> Iterator[str]:
        return self._log.keys(self._connection, start, end)


def value_hash(value: Value) -> bytes:
    """SHA-256."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).digest()
    digest = hashlib.sha256()
    for offset in range(0, value.size, 1 << 20):
        digest.update(value.read(offset, 1 << 20))
    return digest.digest()


def _bisect(low: int, high: int, later: Callable[[int], tuple[bool, int]]) -> int:
    """The greatest number in low..high that is not later, 0 if all are.

    `later(n)` looks at the greatest existing number up to n and tells (whether it is later, that number).
    """
    best = 0
    while low <= high:
        middle = (low + high) // 2
        is_later, found = later(middle)
        if is_later:
            high = found - 1
        else:
            best = found
            low = middle + 1
    return best


def _row(op: Op) -> tuple[SqlValue, ...]:
    entry = op.entry
    if entry is None:
        return (
            op.seq, op.key, op.op_number, op.op_type, op.origin, op.ts_ns,
            None, None, None, None, None, None, None, op.ttl_s, 0 if op.recorded else GAP,
        )  # fmt: skip
    assert entry.value is not None
    return (
        op.seq, op.key, op.op_number, op.op_type, op.origin, op.ts_ns,
        sql_value(value_bytes(entry.value)) if op.recorded else None,
        entry.content_type, entry.size, entry.sha256 or value_hash(entry.value),
        entry.created_s, entry.updated_s, entry.expire_ns, op.ttl_s, 0 if op.recorded else GAP,
    )  # fmt: skip


def _op(row: tuple[SqlValue, ...]) -> Op:
    (seq, key, number, op_type, origin, ts_ns, value, content_type, size, digest,
     created_s, updated_s, expire_ns, ttl_s, flags) = cast(tuple[object, ...], row)  # fmt: skip
    recorded = not cast(int, flags) & GAP
    entry = None
    if created_s is not None:
        entry = Entry(
            key=cast(str, key),
            value=stored_value(cast(SqlValue, value)) if recorded else None,
            size=cast(int, size),
            content_type=cast(str, content_type),
            created_s=cast(int, created_s),
            updated_s=cast(int, updated_s),
            expire_ns=cast("int | None", expire_ns),
            op_number=cast(int, number),
            sha256=cast("bytes | None", digest),
        )
    return Op(
        seq=cast(int, seq),
        key=cast(str, key),
        op_number=cast(int, number),
        op_type=OpType(cast(str, op_type)),
        origin=Origin(cast(str, origin)),
        ts_ns=cast(int, ts_ns),
        entry=entry,
        recorded=recorded,
        ttl_s=cast("int | None", ttl_s),
    )
