"""Other programs that have a database open."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw

_BUSY_MS: Final = 30_000
_READ_WRITE: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


def connect(path: str | Path, *, flags: int = _READ_WRITE) -> apsw.Connection:
    """A connection that waits for locks: kvfs has them for moments, also when nobody asks it for anything."""
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(_BUSY_MS)
    return connection
