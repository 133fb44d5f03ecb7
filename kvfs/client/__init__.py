"""A client of a kvfs server, blocking and for asyncio.

    with Client("http://127.0.0.1:8080") as client:
        users = client.table("app", "users", create=True)
        users["1"] = b"Ada"
        users.incr("visits")

A table's methods are named as those of `kvfs.handle.Handle`, which is the same without a server. What they
raise is a `kvfs.errors.KvfsError`, by the server's codes, or of `kvfs.client.errors`.

What is named here is imported when it is first asked for: a command runs for less time than it takes to
import HTTP and asyncio.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvfs.client.asynchronous import AsyncClient, AsyncDatabase, AsyncTable
    from kvfs.client.blocking import Client, Database, Table
    from kvfs.client.errors import NoAnswer, UnexpectedAnswer, Unreachable
    from kvfs.client.records import Item, JsonText, Query, Statement
    from kvfs.client.retries import NO_RETRIES, Retries
    from kvfs.errors import TransactionFailed

__all__ = [
    "AsyncClient",
    "AsyncDatabase",
    "AsyncTable",
    "Client",
    "Database",
    "Item",
    "JsonText",
    "NO_RETRIES",
    "NoAnswer",
    "Query",
    "Retries",
    "Statement",
    "Table",
    "TransactionFailed",
    "UnexpectedAnswer",
    "Unreachable",
]

_HOMES = {
    "kvfs.client.asynchronous": ("AsyncClient", "AsyncDatabase", "AsyncTable"),
    "kvfs.client.blocking": ("Client", "Database", "Table"),
    "kvfs.client.errors": ("NoAnswer", "UnexpectedAnswer", "Unreachable"),
    "kvfs.client.records": ("Item", "JsonText", "Query", "Statement"),
    "kvfs.client.retries": ("NO_RETRIES", "Retries"),
    "kvfs.errors": ("TransactionFailed",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
