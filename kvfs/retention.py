"""How long a store keeps its past, and how far that is enforced: a row of `kvfs_retention` for each log.

    name         TEXT     the log's, as in `kvfs_stores`
    keep_last    INTEGER  how many ops of a key stay; NULL where that keeps none
    max_age_s    INTEGER  for how many seconds what a key was stays known; NULL where that keeps nothing
    pruned_seq   INTEGER  the highest seq that was ever pruned: above it the log is whole
    aged_seq     INTEGER  ops up to there were looked at when they had become old enough; 0: all keys are due
    counted_seq  INTEGER  ops up to there were looked at for how many ops of their keys there are

A log that has no row keeps everything, and nothing of it was ever pruned. The table is made with its first
row, if not with the log.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import apsw

from kvfs.model import KEEP_EVERYTHING, Retention
from kvfs.sqlite import fetch, has_table

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kvfs_retention (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    keep_last INTEGER,
    max_age_s INTEGER,
    pruned_seq INTEGER NOT NULL,
    aged_seq INTEGER NOT NULL,
    counted_seq INTEGER NOT NULL
);
"""
COLUMNS: Final = "name, keep_last, max_age_s, pruned_seq, aged_seq, counted_seq"


class Standing(NamedTuple):
    """What a log is to keep, what was pruned of it, and how far its retention is enforced."""

    retention: Retention = KEEP_EVERYTHING
    pruned_seq: int = 0
    aged_seq: int = 0
    counted_seq: int = 0


def read(connection: apsw.Connection, name: str) -> Standing:
    """The standing of a log."""
    if not has_table(connection, "kvfs_retention"):
        return Standing()
    rows = fetch(connection, f"SELECT {COLUMNS} FROM kvfs_retention WHERE name = ?", (name,))
    if not rows:
        return Standing()
    _, keep_last, max_age_s, *seqs = rows[0]
    return Standing(Retention(keep_last, max_age_s), *seqs)


def write(connection: apsw.Connection, name: str, standing: Standing) -> None:
    """Note the standing of a log, inside the caller's transaction."""
    connection.execute(SCHEMA)
    row = (name, *standing.retention, *standing[1:])
    connection.execute(f"INSERT OR REPLACE INTO kvfs_retention ({COLUMNS}) VALUES (?,?,?,?,?,?)", row)
