"""Making sure of a database after a failed sync: written anew, synced, and read back from the disk."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Final

import apsw

from kvfs import disk, registry, sqlite
from kvfs.errors import DatabaseError
from kvfs.oplog import OpLog

_WAIT_S: Final = 5.0


def verify(path: str) -> None:
    """Have all that a database shows on the disk; a file that is large takes as long as it takes to read.

    A commit that changes nothing takes the place of those that failed in the write-ahead log. The checkpoint
    writes all of the log to the file and syncs both: so nothing is left whose sync had failed. Then the file
    is read from the disk, not from the page cache, and the op-logs must end where they did. Raises
    `DatabaseError`, `StorageFull`, or `Overloaded` where other programs are in the way.
    """
    deadline = time.monotonic() + _WAIT_S
    with closing(sqlite.connect(path, deadline=deadline)) as connection:
        with sqlite.errors("verify the database"):
            before = _last_seqs(connection)
            sqlite.retry_busy(lambda: connection.execute("BEGIN IMMEDIATE"), deadline)
            connection.pragma("user_version", connection.pragma("user_version"))
            sqlite.commit(connection)
            sqlite.retry_busy(
                lambda: connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE), deadline
            )
        disk.drop_cached(path)
    with closing(sqlite.connect(path, deadline=deadline)) as connection, sqlite.errors("read it back"):
        problems = sqlite.check(connection, quick=True)
        if problems:
            raise DatabaseError(f"The database is damaged: {problems[0]}")
        after = _last_seqs(connection)
    for name, seq in before.items():
        if after.get(name, 0) < seq:
            raise DatabaseError(f"Acknowledged ops of {name} are missing: {seq} is not there")


def _last_seqs(connection: apsw.Connection) -> dict[str, int]:
    """The seq of the last op of each op-log, by its name."""
    return {name: OpLog(name).tail(connection)[0] for name in registry.names(connection)}
