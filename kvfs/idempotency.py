"""Answers of writes, kept with the writes, so that a repeated request happens once.

One table a database file or op-log file:

    kvfs_idempotency (idempotency_key TEXT PRIMARY KEY, fingerprint BLOB, answer TEXT, expire_s INTEGER)

`fingerprint` is the SHA-256 of what was asked, `answer` the outcome as JSON.
"""

from __future__ import annotations

import hashlib
from typing import Final, cast

import apsw
import orjson

from kvfs.model import BatchSet, FileValue, Outcome, Set, Write, WriteResult, value_hash
from kvfs.sqlite import fetch, stored_value

KEPT_S: Final = 24 * 3600

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kvfs_idempotency (
    idempotency_key TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    answer TEXT NOT NULL,
    expire_s INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS kvfs_idempotency_expiry ON kvfs_idempotency (expire_s);
"""


def fingerprint(store: str, write: Write) -> bytes:
    """What was asked, of which store, as 32 bytes; large values count by their content."""
    digest = hashlib.sha256(repr((store, write)).encode())
    for item in write.items if isinstance(write, BatchSet) else (write,):
        if isinstance(item, Set) and isinstance(item.value, FileValue):
            digest.update(value_hash(item.value))
    return digest.digest()


def encode(outcome: Outcome) -> bytes:
    """An outcome as JSON."""
    return orjson.dumps([result._asdict() for result in outcome.results])


def decode(answer: bytes) -> Outcome:
    """The outcome that `encode` was given, marked as replayed."""
    return Outcome(tuple(WriteResult(**fields) for fields in orjson.loads(answer)), replayed=True)


def recall(connection: apsw.Connection, idempotency_key: str, now_s: int) -> tuple[bytes, bytes] | None:
    """(fingerprint, answer), or None."""
    rows = fetch(
        connection,
        "SELECT fingerprint, answer FROM kvfs_idempotency WHERE idempotency_key = ? AND expire_s > ?",
        (idempotency_key, now_s),
    )
    return (cast(bytes, rows[0][0]), stored_value(rows[0][1])) if rows else None


def remember(
    connection: apsw.Connection, idempotency_key: str, mark: bytes, answer: bytes, expire_s: int
) -> None:
    """Keep an answer, inside the caller's transaction."""
    connection.execute(
        "INSERT OR REPLACE INTO kvfs_idempotency VALUES (?, ?, ?, ?)",
        (idempotency_key, mark, answer.decode(), expire_s),
    )


def forget(connection: apsw.Connection, now_s: int) -> None:
    """Drop what is over, a bounded number at a time."""
    connection.execute(
        "DELETE FROM kvfs_idempotency WHERE rowid IN"
        " (SELECT rowid FROM kvfs_idempotency WHERE expire_s <= ? LIMIT 1000)",
        (now_s,),
    )
