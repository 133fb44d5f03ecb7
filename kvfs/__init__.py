"""kvfs: keys and values in SQLite tables and in plain files, with every change in an op-log.

    with kvfs.open("app.db") as store:
        store.set("user:1", b'{"name": "Ada"}')
        store.get("user:1").value

    with kvfs.open("app.db") as store:
        store.sql.query("SELECT key FROM kv_store WHERE value > ?", [7]).rows

`kvfs.open` opens one store without a server; see `kvfs.handle.Handle` for what a store can do, and
`kvfs.errors` for what it raises. `kvfs.client` talks to a server.

What is public here is imported when it is first asked for: a program that only talks to a server starts in a
third of the time, without SQLite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvfs import errors
from kvfs.deferred import importer
from kvfs.errors import KvfsError

if TYPE_CHECKING:
    from kvfs.config import Config
    from kvfs.cursor import Cursor
    from kvfs.engine import Engine
    from kvfs.feed import Changes, ChangesQuery, Place
    from kvfs.handle import Handle
    from kvfs.listing import Page, Query
    from kvfs.model import Entry, FileValue, OnConflict, Op, Outcome, Retention, Set, WriteResult
    from kvfs.opening import open_store as open
    from kvfs.pending import Pending
    from kvfs.sql.handle import QueryRows, SqlHandle
    from kvfs.status import Imported, Pruned, Rebuilt
    from kvfs.timetravel import Diff, History, PastEntries, PastKeys
    from kvfs.transfer.incoming import Importer

__version__ = "0.1.0"

__all__ = [
    "Changes",
    "ChangesQuery",
    "Config",
    "Cursor",
    "Diff",
    "Engine",
    "Entry",
    "FileValue",
    "Handle",
    "History",
    "Imported",
    "Importer",
    "KvfsError",
    "OnConflict",
    "Op",
    "Outcome",
    "Page",
    "PastEntries",
    "PastKeys",
    "Pending",
    "Place",
    "Pruned",
    "Query",
    "QueryRows",
    "Rebuilt",
    "Retention",
    "Set",
    "SqlHandle",
    "WriteResult",
    "errors",
    "open",
]

_HOMES = {
    "Changes": "kvfs.feed",
    "ChangesQuery": "kvfs.feed",
    "Config": "kvfs.config",
    "Cursor": "kvfs.cursor",
    "Diff": "kvfs.timetravel",
    "Engine": "kvfs.engine",
    "Entry": "kvfs.model",
    "FileValue": "kvfs.model",
    "Handle": "kvfs.handle",
    "History": "kvfs.timetravel",
    "Imported": "kvfs.status",
    "Importer": "kvfs.transfer.incoming",
    "OnConflict": "kvfs.model",
    "Op": "kvfs.model",
    "Outcome": "kvfs.model",
    "Page": "kvfs.listing",
    "PastEntries": "kvfs.timetravel",
    "PastKeys": "kvfs.timetravel",
    "Pending": "kvfs.pending",
    "Place": "kvfs.feed",
    "Pruned": "kvfs.status",
    "Query": "kvfs.listing",
    "QueryRows": "kvfs.sql.handle",
    "Rebuilt": "kvfs.status",
    "Retention": "kvfs.model",
    "Set": "kvfs.model",
    "SqlHandle": "kvfs.sql.handle",
    "WriteResult": "kvfs.model",
    "open": "kvfs.opening:open_store",
}

__getattr__ = importer(__name__, _HOMES)
