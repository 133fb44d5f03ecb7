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

from importlib import import_module
from typing import TYPE_CHECKING

from kvfs import errors
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
    "Changes": "feed",
    "ChangesQuery": "feed",
    "Config": "config",
    "Cursor": "cursor",
    "Diff": "timetravel",
    "Engine": "engine",
    "Entry": "model",
    "FileValue": "model",
    "Handle": "handle",
    "History": "timetravel",
    "Imported": "status",
    "Importer": "transfer.incoming",
    "OnConflict": "model",
    "Op": "model",
    "Outcome": "model",
    "Page": "listing",
    "PastEntries": "timetravel",
    "PastKeys": "timetravel",
    "Pending": "pending",
    "Place": "feed",
    "Pruned": "status",
    "Query": "listing",
    "QueryRows": "sql.handle",
    "Rebuilt": "status",
    "Retention": "model",
    "Set": "model",
    "SqlHandle": "sql.handle",
    "WriteResult": "model",
    "open": "opening",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{home}")
    found: object = getattr(module, "open_store" if name == "open" else name)
    globals()[name] = found
    return found
