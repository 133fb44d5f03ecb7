"""kvfs: keys and values in SQLite tables and in plain files, with every change in an op-log.

    with kvfs.open("app.db") as store:
        store.set("user:1", b'{"name": "Ada"}')
        store.get("user:1").value

`kvfs.open` opens one store without a server; see `kvfs.handle.Handle` for what a store can do.
"""

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.engine import open_store as open
from kvfs.errors import KvfsError
from kvfs.handle import Handle
from kvfs.listing import Query
from kvfs.model import Entry, Outcome, WriteResult

__version__ = "0.1.0"

__all__ = ["Config", "Engine", "Entry", "Handle", "KvfsError", "Outcome", "Query", "WriteResult", "open"]
