"""kvfs: keys and values in SQLite tables and in plain files, with every change in an op-log.

    with kvfs.open("app.db") as store:
        store.set("user:1", b'{"name": "Ada"}')
        store.get("user:1").value

`kvfs.open` opens one store without a server; see `kvfs.handle.Handle` for what a store can do, and
`kvfs.errors` for what it raises.
"""

from kvfs import errors
from kvfs.config import Config
from kvfs.cursor import Cursor
from kvfs.engine import Engine
from kvfs.engine import open_store as open
from kvfs.errors import KvfsError
from kvfs.feed import Changes, ChangesQuery, Place
from kvfs.handle import Handle
from kvfs.listing import Page, Query
from kvfs.model import Entry, FileValue, Op, Outcome, Set, WriteResult
from kvfs.pending import Pending
from kvfs.status import Rebuilt
from kvfs.timetravel import Diff, History, PastEntries, PastKeys

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
    "KvfsError",
    "Op",
    "Outcome",
    "Page",
    "PastEntries",
    "PastKeys",
    "Pending",
    "Place",
    "Query",
    "Rebuilt",
    "Set",
    "WriteResult",
    "errors",
    "open",
]
