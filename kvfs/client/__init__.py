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

from typing import TYPE_CHECKING

from kvfs.deferred import importer

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
    "AsyncClient": "kvfs.client.asynchronous",
    "AsyncDatabase": "kvfs.client.asynchronous",
    "AsyncTable": "kvfs.client.asynchronous",
    "Client": "kvfs.client.blocking",
    "Database": "kvfs.client.blocking",
    "Item": "kvfs.client.records",
    "JsonText": "kvfs.client.records",
    "NO_RETRIES": "kvfs.client.retries",
    "NoAnswer": "kvfs.client.errors",
    "Query": "kvfs.client.records",
    "Retries": "kvfs.client.retries",
    "Statement": "kvfs.client.records",
    "Table": "kvfs.client.blocking",
    "TransactionFailed": "kvfs.errors",
    "UnexpectedAnswer": "kvfs.client.errors",
    "Unreachable": "kvfs.client.errors",
}

__getattr__ = importer(__name__, _HOMES)
