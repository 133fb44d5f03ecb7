"""The last import into a store: what it was of, and how far it got. A row of `kvfs_imports` for each log.

    name      TEXT     the log's, as in `kvfs_stores`
    id        TEXT     of the export
    history   INTEGER  whether the export has the history
    records   INTEGER  how many of its records are in
    at        TEXT     where in the export that is: a key, or with history a seq
    complete  INTEGER  whether that is all

It changes in the transaction that brings the records. The table is made with its first row.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import apsw

from kvfs.sqlite import fetch, has_table

_TABLE: Final = "kvfs_imports"
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS {_TABLE} (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    id TEXT NOT NULL,
    history INTEGER NOT NULL,
    records INTEGER NOT NULL,
    at TEXT NOT NULL,
    complete INTEGER NOT NULL
);
"""


class LastImport(NamedTuple):
    """See above."""

    id: str
    history: bool
    records: int
    at: int | str
    complete: bool = False

    def waits_at(self, seq: int) -> bool:
        """Whether there is more of a history to come, and nothing else has been logged since: up to this seq.

        An imported op has the seq that it had, so the log ends where the import has got to.
        """
        return self.history and not self.complete and self.at == seq


def known(connection: apsw.Connection) -> bool:
    """Whether there was ever an import into a store of this database."""
    return has_table(connection, _TABLE)


def read(connection: apsw.Connection, name: str) -> LastImport | None:
    """The last import into a store, where `known`."""
    rows = fetch(
        connection, f"SELECT id, history, records, at, complete FROM {_TABLE} WHERE name = ?", (name,)
    )
    if not rows:
        return None
    export, history, records, at, complete = rows[0]
    return LastImport(export, bool(history), records, int(at) if history else at, bool(complete))


def write(connection: apsw.Connection, name: str, last: LastImport) -> None:
    """Note how far an import got, inside the caller's transaction."""
    connection.execute(_SCHEMA)
    row = (name, last.id, last.history, last.records, str(last.at), last.complete)
    connection.execute(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?,?,?,?,?,?)", row)
