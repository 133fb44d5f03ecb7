"""The op-log: every change of every key, durable, in the order in which they happened.

Format, version 1. One table `kvfs_oplog_<name>` a store: beside the KV rows in a `.db` file, in
`<db>/.kvfs/<table>.oplog` for a folder. A row is an op:

    seq           INTEGER  the order of all ops of the store; from 1, no holes but by pruning
    key           TEXT
    op_number     INTEGER  the order of the key's ops; from 1, never reused
    op_type       TEXT     see `model.OpType`
    origin        TEXT     api, sql, file
    ts_ns         INTEGER  Unix nanoseconds, never decreasing with seq
    content_type  TEXT     of the new value; NULL for tombstones (see `model`), and where SQL gave none
    size          INTEGER  of the new value in bytes; NULL for tombstones
    value_hash    BLOB     SHA-256 of the new value, also in a gap; NULL for tombstones, and where a trigger
                           logged the op (see `kvfs.triggers`)
    created_s     INTEGER  when the key came into being, Unix seconds; NULL for tombstones
    updated_s     INTEGER  when its value last changed
    expire_ns     INTEGER  when its TTL runs out, in whole milliseconds; NULL without one
    ttl_s         INTEGER  the TTL given with this op; NULL if none was
    flags         INTEGER  1: a gap, the value was not recorded; 2: the value is in a blob (`kvfs.blobs`);
                           4, with 1: imported, and its value has never been here (see below)
    value         TEXT     the whole new value (BLOB where it is not UTF-8 without NUL; SQL may put numbers
                           there, which are their text); NULL for tombstones, gaps and blobs. The last
                           column, so that a long value need not be gone through to read the others

Validity: (key, op_number) is unique; per key, op_number grows with seq. Whole values, not deltas: a past
state is one look-up, and the old value of an op is its predecessor's new one. There is no index on time:
`ts_ns` never decreases with `seq`, so the ops up to a time are found by interpolation over `seq`, and a key's
state at a seq by bisection over its op numbers; each index less is a page less to write with every op. Ops
with a TTL have one on `expire_ns`: a key may also change without an op. A log that lacks it is read the same.

Where an op with the flag 4 is the last of its key, there is no such key: the import that brought it has not
got to the key's next op, or to its value.

`kvfs_stores` names the logs of the file and their formats, see `kvfs.registry`; `kvfs_retention` says what is
to be pruned and what was, see `kvfs.retention`: of a key always the first ops, never the last. Recovery is
SQLite's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import apsw

from kvfs import content_types, registry, retention
from kvfs.blobs import BLOB_MIN_BYTES, Blobs
from kvfs.errors import DatabaseError
from kvfs.model import INLINE_MAX_BYTES, Entry, Op, OpType, Origin, Value, value_bytes, value_hash
from kvfs.retention import Standing
from kvfs.sqlite import SqlValue, fetch, json_text, quoted, sql_value

GAP: Final = 1
BLOB: Final = 2
ABSENT: Final = 4

_PLAIN: Final = (
    "seq, key, op_number, op_type, origin, ts_ns, content_type, size, value_hash, "
    "created_s, updated_s, expire_ns, ttl_s, flags"
)
_FLAGS: Final = _PLAIN.count(",")
_VALUE: Final = "CAST(value AS BLOB)"
# With the value where its facts have to be worked out of it.
_FACTS: Final = f"{_PLAIN}, iif(value_hash IS NULL, {_VALUE}, NULL)"
_FACTS_COUNT: Final = _PLAIN.count(",") + 2
_COLUMNS: Final = f"{_FACTS}, {_VALUE}"

_NUMBER_MAX: Final = 2**63 - 1
# To go through so many rows, or entries of an index, costs less than one more statement.
_SCANNED_ROWS: Final = 32
_SCANNED_NUMBERS: Final = 64

_SCHEMA: Final = """
CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    op_number INTEGER NOT NULL,
    op_type TEXT NOT NULL,
    origin TEXT NOT NULL,
    ts_ns INTEGER NOT NULL,
    content_type TEXT,
    size INTEGER,
    value_hash BLOB,
    created_s INTEGER,
    updated_s INTEGER,
    expire_ns INTEGER,
    ttl_s INTEGER,
    flags INTEGER NOT NULL DEFAULT 0,
    value
);
CREATE UNIQUE INDEX {index} ON {table} (key, op_number);
CREATE INDEX {blobs} ON {table} (value_hash) WHERE flags & 2;
CREATE INDEX {expiry} ON {table} (expire_ns) WHERE expire_ns IS NOT NULL;
"""


class Removed(NamedTuple):
    """Ops of a key that were taken out of a log: how many, the highest seq among them, their blobs' hashes.

    `all`: no more was asked for.
    """

    ops: int
    last_seq: int
    blobs: frozenset[bytes]
    all: bool


class OpLog:
    """The statements of one log. It holds no connection: each call names the one to use.

    With `blobs`, large values lie there.
    """

    def __init__(self, name: str, blobs: Blobs | None = None) -> None:
        self.name = name
        self.blobs = blobs
        self.table = table = quoted(f"kvfs_oplog_{name}")
        self._schema = _SCHEMA.format(
            table=table,
            index=quoted(f"kvfs_oplog_{name}_key"),
            blobs=quoted(f"kvfs_oplog_{name}_blobs"),
            expiry=quoted(f"kvfs_oplog_{name}_expiry"),
        )
        self._append = f"INSERT INTO {table} ({_PLAIN}, value) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
        self._tail = f"SELECT seq, ts_ns FROM {table} ORDER BY seq DESC LIMIT 1"
        self._tail_at = f"SELECT seq, ts_ns FROM {table} WHERE seq <= ? ORDER BY seq DESC LIMIT 1"
        self._head = f"SELECT seq, ts_ns FROM {table} ORDER BY seq LIMIT 1"
        self._last_before = f"SELECT seq FROM {table} WHERE seq < ? AND ts_ns <= ? ORDER BY seq DESC LIMIT 1"
        self._last = (
            f"SELECT op_number, op_type, seq FROM {table} WHERE key = ? ORDER BY op_number DESC LIMIT 1"
        )
        self._first = f"SELECT op_number, seq FROM {table} WHERE key = ? ORDER BY op_number LIMIT 1"
        self._numbered = (
            f"SELECT op_number, seq FROM {table} WHERE key = ? AND op_number <= ?"
            " ORDER BY op_number DESC LIMIT 1"
        )
        self._op = f"SELECT {_COLUMNS} FROM {table} WHERE key = ? AND op_number = ?"
        self._op_seq = f"SELECT {_COLUMNS} FROM {table} WHERE seq = ?"
        self._facts = f"SELECT {_FACTS} FROM {table} WHERE key = ? AND op_number = ?"
        # Seqs are in the index too: it alone is gone through.
        self._number_at = (
            f"SELECT op_number FROM {table} WHERE key = :key AND op_number BETWEEN :low AND :high"
            " AND seq <= :seq ORDER BY op_number DESC LIMIT 1"
        )
        self._state_at = f"SELECT {_FACTS} FROM {table} WHERE key = :key AND op_number = ({self._number_at})"
        self._last_facts = f"SELECT {_FACTS} FROM {table} WHERE key = ? ORDER BY op_number DESC LIMIT 1"
        self._many_last_facts = (
            f"SELECT {_FACTS} FROM (SELECT value AS asked FROM json_each(?)) JOIN {table} ON key = asked"
            f" WHERE op_number = (SELECT max(op_number) FROM {table} AS own WHERE own.key = asked)"
        )
        self._newest = (
            f"SELECT {_FACTS} FROM {table} WHERE key = ? AND op_number > ? AND op_number < ?"
            " ORDER BY op_number DESC LIMIT ?"
        )
        self._oldest = self._newest.replace("DESC", "ASC")
        self._changed = f"SELECT DISTINCT key FROM {table} WHERE seq > ?"
        # From key to key by the index: what it costs does not grow with the number of ops.
        keys = (
            "WITH RECURSIVE keys(key) AS ("
            f" SELECT min(key) FROM {table} UNION ALL"
            f" SELECT (SELECT min(key) FROM {table} WHERE key > keys.key) FROM keys WHERE key IS NOT NULL)"
        )
        self._heads = (
            f"{keys} SELECT {_FACTS} FROM keys JOIN {table} USING (key)"
            f" WHERE op_number = (SELECT max(op_number) FROM {table} AS own WHERE own.key = keys.key)"
        )
        self._changed_between = (
            f"{keys} SELECT key FROM {table} NOT INDEXED WHERE seq > :after AND seq <= :until"
            f" UNION SELECT key FROM {table} WHERE expire_ns > :from_ns AND expire_ns <= :to_ns"
            " UNION SELECT key FROM keys WHERE :pruned AND ("
            f"SELECT op_number > 1 AND seq > :until FROM {table} AS own WHERE own.key = keys.key"
            " ORDER BY op_number LIMIT 1)"
            " ORDER BY key LIMIT :limit"
        )
        self._names_blob = f"SELECT 1 FROM {table} WHERE value_hash = ? AND flags & 2 LIMIT 1"
        self._since = f"SELECT {_COLUMNS} FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?"
        # `+key`: never by the index on keys, which would have to be sorted by seq to the last one.
        self._span = (
            f"SELECT {_FACTS} FROM {table} WHERE seq > :after AND seq <= :through"
            " AND +key >= :start AND (:end IS NULL OR +key < :end) ORDER BY seq LIMIT :limit"
        )
        self._next_key = f"SELECT key FROM {table} WHERE key > ? ORDER BY key LIMIT 1"
        self._spans = (
            "WITH RECURSIVE keys(key) AS ("
            f" SELECT (SELECT min(key) FROM {table} WHERE key > ?) UNION ALL"
            f" SELECT (SELECT min(key) FROM {table} WHERE key > keys.key) FROM keys"
            " WHERE key IS NOT NULL LIMIT ?)"
            f" SELECT key, (SELECT min(op_number) FROM {table} AS own WHERE own.key = keys.key),"
            f" (SELECT max(op_number) FROM {table} AS own WHERE own.key = keys.key)"
            " FROM keys WHERE key IS NOT NULL"
        )
        self._between = f"SELECT seq, key FROM {table} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        self._sizes = (
            f"SELECT op_number, iif(flags & {GAP | BLOB}, 0, ifnull(size, 0)) FROM {table}"
            " WHERE key = ? AND op_number < ? ORDER BY op_number LIMIT ?"
        )
        self._remove = (
            f"DELETE FROM {table} WHERE key = ? AND op_number <= ?"
            f" RETURNING seq, iif(flags & {BLOB}, value_hash, NULL)"
        )
        self._first_key = f"SELECT key FROM {table} WHERE key >= ? ORDER BY key LIMIT 1"

    # --- being there ----------------------------------------------------------------------------------

    def create(self, connection: apsw.Connection, log_id: str) -> None:
        """Make the log, inside the caller's transaction."""
        connection.execute(self._schema)
        registry.add(connection, self.name, log_id)

    def log_id(self, connection: apsw.Connection) -> str | None:
        """The log's identity; None where there is no such log yet. Raises `NewerFormat`."""
        return registry.log_id(connection, self.name)

    # --- writing --------------------------------------------------------------------------------------

    def append(self, connection: apsw.Connection, ops: Sequence[Op]) -> None:
        """Add ops, inside the caller's transaction."""
        can_cache = can_be_cached(op.entry for op in ops)
        connection.executemany(self._append, map(self._row, ops), can_cache=can_cache)

    def keep_blobs(self, ops: Iterable[Op]) -> None:
        """Make the large values of ops durable, before these are appended. Raises OSError."""
        if self.blobs is None:
            return
        for op in ops:
            if op.recorded and op.entry is not None and self.is_blob(op.entry.size):
                assert op.entry.value is not None
                self.blobs.keep(op.entry.value, _hash(op.entry))

    def is_blob(self, size: int) -> bool:
        """Whether a value of this size is kept as a blob."""
        return self.blobs is not None and size >= BLOB_MIN_BYTES

    def drop_blob(self, connection: apsw.Connection, sha256: bytes) -> int:
        """Remove a blob if no op names it any more; how many bytes it had."""
        if self.blobs is None or fetch(connection, self._names_blob, (sha256,)):
            return 0
        return self.blobs.drop(sha256)

    # --- pruning --------------------------------------------------------------------------------------

    def standing(self, connection: apsw.Connection) -> Standing:
        """What the log is to keep, and what was pruned of it."""
        return retention.read(connection, self.name)

    def change_standing(
        self, connection: apsw.Connection, change: Callable[[Standing], Standing]
    ) -> Standing:
        """Make something else of that, inside the caller's transaction; what it is then."""
        before = self.standing(connection)
        after = change(before)
        if after != before:
            retention.write(connection, self.name, after)
        return after

    def spans(self, connection: apsw.Connection, after: str, limit: int) -> list[tuple[str, int, int]]:
        """(key, first, last op number) of up to `limit` keys that come after this one, in byte order."""
        return fetch(connection, self._spans, (after, limit))

    def keys_between(
        self, connection: apsw.Connection, after: int, up_to: int, limit: int
    ) -> list[tuple[int, str]]:
        """(seq, key) of up to `limit` ops after one seq and up to another, in order."""
        return fetch(connection, self._between, (after, up_to, limit))

    def remove(
        self, connection: apsw.Connection, key: str, *, below: int, ops: int, size_bytes: int
    ) -> Removed:
        """Take the first ops of a key out, those with numbers below this, inside the caller's transaction.

        At most `ops` of them, with values of about `size_bytes` together, but always one if there is one.
        """
        found = fetch(connection, self._sizes, (key, below, ops + 1))
        taken = _fitting([size for _, size in found[:ops]], size_bytes)
        if not taken:
            return Removed(0, 0, frozenset(), True)
        gone = fetch(connection, self._remove, (key, found[taken - 1][0]))
        blobs = frozenset(sha256 for _, sha256 in gone if sha256 is not None)
        return Removed(len(gone), max(seq for seq, _ in gone), blobs, taken == len(found))

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
        return self._one(fetch(connection, self._op, (key, op_number)))

    def op_at(self, connection: apsw.Connection, seq: int) -> Op | None:
        """The op with this seq, or None."""
        return self._one(fetch(connection, self._op_seq, (seq,)))

    def facts(self, connection: apsw.Connection, key: str, op_number: int | None = None) -> Op | None:
        """One op (None: the key's last) without its value, or None."""
        if op_number is None:
            return self._last_one(fetch(connection, self._last_facts, (key,)))
        return self._one(fetch(connection, self._facts, (key, op_number)))

    def last_facts(self, connection: apsw.Connection, keys: Sequence[str]) -> dict[str, Op]:
        """As `facts`, of the last ops of many keys; those never seen are left out."""
        rows = fetch(connection, self._many_last_facts, (json_text(keys),))
        return {row[1]: self._made_last(row) for row in rows}

    def heads(self, connection: apsw.Connection) -> Iterator[Op]:
        """The last op of each key ever seen, in byte order, without values."""
        for row in connection.execute(self._heads):
            yield self._made_last(row)

    def changed(self, connection: apsw.Connection, after: int) -> list[str]:
        """Each key that has an op after this seq."""
        return [key for (key,) in fetch(connection, self._changed, (after,))]

    def since(self, connection: apsw.Connection, seq: int, limit: int) -> list[Op]:
        """Up to `limit` ops after `seq`, in order."""
        return [self._made(row) for row in fetch(connection, self._since, (seq, limit))]

    def seq_at(self, connection: apsw.Connection, ts_ns: int) -> int:
        """The seq of the last op with a time up to `ts_ns`; 0 if there is none.

        By interpolation: a few look-ups where ops come evenly, O(log n) wherever they come.
        """
        first, last = fetch(connection, self._head), fetch(connection, self._tail)
        if not first or first[0][1] > ts_ns:
            return 0
        if last[0][1] <= ts_ns:
            return cast(int, last[0][0])
        # What was asked for is before `high` and not before `low`, which need not be there.
        (low, low_ns), (high, high_ns) = first[0], last[0]
        halve = False
        while high - low > _SCANNED_ROWS:
            size = high - low
            share = (ts_ns - low_ns) / (high_ns - low_ns)
            guess = (low + high) // 2 if halve else _near(low, high, share)
            seq, at = fetch(connection, self._tail_at, (guess,))[0]
            if at > ts_ns:
                high, high_ns = seq, at
            else:
                low, low_ns = guess, at
            # Where ops came in bursts, guesses may be bad again and again.
            halve = high - low > size * 3 // 4
        return cast(int, fetch(connection, self._last_before, (high, ts_ns))[0][0])

    def span(
        self,
        connection: apsw.Connection,
        *,
        after: int,
        through: int,
        start: str,
        end: str | None,
        limit: int,
    ) -> list[Op]:
        """The first `limit` ops with seqs above `after` up to `through`, in order, without values.

        Of keys from `start` on and before `end`.
        """
        asked: dict[str, SqlValue] = {
            "after": after,
            "through": through,
            "start": start,
            "end": end,
            "limit": limit,
        }
        return [self._made(row) for row in fetch(connection, self._span, asked)]

    def bounds(self, connection: apsw.Connection, key: str) -> tuple[int, int] | None:
        """The first and the last op number that the log has of a key; None for a key never seen."""
        first = fetch(connection, self._first, (key,))
        last = fetch(connection, self._numbered, (key, _NUMBER_MAX))
        return (first[0][0], last[0][0]) if first else None

    def history(
        self, connection: apsw.Connection, key: str, *, above: int, below: int, limit: int, newest: bool
    ) -> list[Op]:
        """Ops of a key with numbers between these two, the newest first or the oldest, without values."""
        rows = fetch(connection, self._newest if newest else self._oldest, (key, above, below, limit))
        return [self._made(row) for row in rows]

    def state_at(self, connection: apsw.Connection, key: str, seq: int) -> Op | None:
        """The key's last op up to this seq of the store, without its value; None if it had none then."""
        within = self._around(connection, key, seq)
        return None if within is None else self._one(fetch(connection, self._state_at, within))

    def number_at(self, connection: apsw.Connection, key: str, seq: int) -> int:
        """The number of the key's last op up to this seq of the store; 0 if it had none then."""
        within = self._around(connection, key, seq)
        rows = [] if within is None else fetch(connection, self._number_at, within)
        return rows[0][0] if rows else 0

    def _around(self, connection: apsw.Connection, key: str, seq: int) -> dict[str, SqlValue] | None:
        """A few op numbers of a key, among which its last one up to a seq is, if it had one then."""
        last = fetch(connection, self._numbered, (key, _NUMBER_MAX))
        if not last:
            return None
        number, at = last[0]
        # Most questions are about a key that has not changed since.
        known, low, high = (number, number, number) if at <= seq else (0, 0, number - 1)
        while high - low > _SCANNED_NUMBERS:
            middle = (low + high) // 2
            number, at = (fetch(connection, self._numbered, (key, middle)) or [(0, 0)])[0]
            if at > seq:
                high = number - 1
            else:
                known, low = number, middle
        return {"key": key, "low": known, "high": high, "seq": seq}

    def changed_between(
        self, connection: apsw.Connection, after: int, until: int, *, from_ns: int, to_ns: int, limit: int
    ) -> list[str]:
        """See `store.Reader.changed_between`.

        They have an op in between, or one with a TTL that ran out in between, or their first ops are pruned
        and those that are left came later. It costs as much as there are ops in between, and where anything
        was ever pruned, keys.
        """
        pruned = self.standing(connection).pruned_seq > 0
        within = {"after": after, "until": until, "from_ns": from_ns, "to_ns": to_ns, "limit": limit}
        return [row[0] for row in fetch(connection, self._changed_between, {**within, "pruned": pruned})]

    def keys(self, connection: apsw.Connection, start: str, end: str | None) -> Iterator[str]:
        """Every key ever seen from `start` on and before `end`, in byte order, one look-up each."""
        rows = fetch(connection, self._first_key, (start,))
        while rows and (end is None or rows[0][0].encode() < end.encode()):
            yield rows[0][0]
            rows = fetch(connection, self._next_key, (rows[0][0],))

    # --- rows -----------------------------------------------------------------------------------------

    def _row(self, op: Op) -> tuple[SqlValue, ...]:
        entry = op.entry
        flags = 0 if op.recorded else GAP
        if op.left is not op.entry:
            flags |= ABSENT
        if entry is None:
            return (
                op.seq, op.key, op.op_number, op.op_type, op.origin, op.ts_ns,
                None, None, None, None, None, None, op.ttl_s, flags, None,
            )  # fmt: skip
        value = None
        if op.recorded:
            if self.is_blob(entry.size):
                flags |= BLOB
            else:
                assert entry.value is not None
                value = sql_value(value_bytes(entry.value))
        return (
            op.seq, op.key, op.op_number, op.op_type, op.origin, op.ts_ns,
            entry.content_type, entry.size, _hash(entry),
            entry.created_s, entry.updated_s, entry.expire_ns, op.ttl_s, flags, value,
        )  # fmt: skip

    def _one(self, rows: list[tuple[SqlValue, ...]]) -> Op | None:
        return self._made(rows[0]) if rows else None

    def _last_one(self, rows: list[tuple[SqlValue, ...]]) -> Op | None:
        return self._made_last(rows[0]) if rows else None

    def _made_last(self, row: tuple[Any, ...]) -> Op:
        """As `_made`, of the last op of a key."""
        op = self._made(row)
        return op._replace(entry=None) if row[_FLAGS] & ABSENT else op

    def _made(self, row: tuple[Any, ...]) -> Op:
        """The op of a row, which need not have the value."""
        (seq, key, number, op_type, origin, ts_ns, content_type, size, digest,
         created_s, updated_s, expire_ns, ttl_s, flags, unhashed) = row[:_FACTS_COUNT]  # fmt: skip
        recorded = not flags & GAP
        entry = None
        if created_s is not None:
            value: Value | None = None
            if recorded and len(row) > _FACTS_COUNT:
                if not flags & BLOB:
                    value = _whole(row[-1], digest, key, number)
                elif self.blobs is not None:
                    value = self.blobs.value(digest, size)
            if unhashed is not None:
                digest = value_hash(unhashed)
                content_type = content_type or content_types.detect(unhashed)
            entry = Entry(key, value, size, content_type, created_s, updated_s, expire_ns, number, digest)
        return Op(seq, key, number, OpType(op_type), Origin(origin), ts_ns, entry, recorded, ttl_s)


def _whole(value: bytes | None, digest: bytes | None, key: str, number: int) -> bytes:
    """The value of an op, which the log has unchanged. SQLite does not see a changed byte of a row."""
    if value is None or (digest is not None and value_hash(value) != digest):
        raise DatabaseError(f"The op-log is damaged: the value of op {number} of {key!r} is not what it was")
    return value


class LogReader:
    """A log at one connection, whose transaction makes it one consistent look."""

    def __init__(self, log: OpLog, connection: apsw.Connection) -> None:
        self._log = log
        self._connection = connection

    def tail(self) -> tuple[int, int]:
        return self._log.tail(self._connection)

    def log_id(self) -> str:
        return self._log.log_id(self._connection) or ""

    def last_seq(self) -> int:
        return self._log.tail(self._connection)[0]

    def span(self, *, after: int, through: int, start: str, end: str | None, limit: int) -> list[Op]:
        return self._log.span(
            self._connection, after=after, through=through, start=start, end=end, limit=limit
        )

    def standing(self) -> Standing:
        return self._log.standing(self._connection)

    def pruned_seq(self) -> int:
        return self.standing().pruned_seq

    def op(self, key: str, op_number: int) -> Op | None:
        return self._log.op(self._connection, key, op_number)

    def facts(self, key: str, op_number: int) -> Op | None:
        return self._log.facts(self._connection, key, op_number)

    def bounds(self, key: str) -> tuple[int, int] | None:
        return self._log.bounds(self._connection, key)

    def history(self, key: str, *, above: int, below: int, limit: int, newest: bool) -> list[Op]:
        return self._log.history(self._connection, key, above=above, below=below, limit=limit, newest=newest)

    def seq_at(self, ts_ns: int) -> int:
        return self._log.seq_at(self._connection, ts_ns)

    def state_at(self, key: str, seq: int) -> Op | None:
        return self._log.state_at(self._connection, key, seq)

    def changed_between(self, after: int, until: int, *, from_ns: int, to_ns: int, limit: int) -> list[str]:
        return self._log.changed_between(
            self._connection, after, until, from_ns=from_ns, to_ns=to_ns, limit=limit
        )

    def keys_ever(self, start: str, end: str | None) -> Iterator[str]:
        return self._log.keys(self._connection, start, end)


def _near(low: int, high: int, share: float) -> int:
    """A number between two, at a share of the way, and a little on towards the farther one.

    Guesses that are off by about the root of the way then come to lie on both sides of what is sought.
    """
    guess = low + int((high - low) * share)
    ahead = guess - low < high - guess
    beyond = math.isqrt(min(guess - low, high - guess)) + 2
    return min(max(guess + beyond if ahead else guess - beyond, low + 1), high - 1)


def _fitting(sizes: Sequence[int], most: int) -> int:
    """How many of the first of these are not more than `most` together, but one at least."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > most:
            return count
    return len(sizes)


def can_be_cached(entries: Iterable[Entry | None]) -> bool:
    """Whether a statement that writes these may be kept: it keeps a copy of the last value with it."""
    return all(entry is None or entry.size <= INLINE_MAX_BYTES for entry in entries)


def _hash(entry: Entry) -> bytes:
    assert entry.sha256 is not None or entry.value is not None
    return entry.sha256 or value_hash(cast(Value, entry.value))
