"""Which op-logs a database file has: a row of `kvfs_stores` for each.

name         TEXT     the table's; a folder's is always `files`
format       INTEGER  that of `kvfs.oplog`; a file with a newer one is not opened, and not changed
log_id       TEXT     random: tells a log from another at the same path
"""

from __future__ import annotations

from typing import Final, cast

import apsw

from kvfs.errors import DatabaseError, NewerFormat
from kvfs.sqlite import SqlValue, fetch, has_table

FORMAT: Final = 1
"""The format of op-logs that this program writes; it reads that and all before."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kvfs_stores (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    format INTEGER NOT NULL,
    log_id TEXT NOT NULL
);
"""


def add(connection: apsw.Connection, name: str, log_id: str) -> None:
    """Note a log that is being made, inside the caller's transaction."""
    connection.execute(_SCHEMA)
    connection.execute("INSERT INTO kvfs_stores VALUES (?, ?, ?)", (name, FORMAT, log_id))


def log_id(connection: apsw.Connection, name: str) -> str | None:
    """A log's identity; None where there is no such log yet. Raises `NewerFormat`."""
    if not has_table(connection, "kvfs_stores"):
        return None
    rows = fetch(connection, "SELECT format, log_id FROM kvfs_stores WHERE name = ?", (name,))
    if not rows:
        return None
    _check(rows[0][0])
    return cast(str, rows[0][1])


def names(connection: apsw.Connection) -> list[str]:
    """The names of all logs of the database."""
    if not has_table(connection, "kvfs_stores"):
        return []
    return [name for (name,) in fetch(connection, "SELECT name FROM kvfs_stores ORDER BY name")]


def check_formats(connection: apsw.Connection) -> None:
    """Raise `NewerFormat` where any log of the database has a newer format than this program knows."""
    if has_table(connection, "kvfs_stores"):
        for (found,) in fetch(connection, "SELECT format FROM kvfs_stores WHERE format > ?", (FORMAT,)):
            _check(found)


def _check(found: SqlValue) -> None:
    if not isinstance(found, int):
        raise DatabaseError(f"The database is damaged: it says that the op-log has format {found!r}")
    if found > FORMAT:
        raise NewerFormat(f"The op-log has format {found}, written by a newer kvfs; this one knows {FORMAT}")
