"""Handlers of databases as a whole."""

from __future__ import annotations

from functools import partial

from kvfs import catalog
from kvfs.engine import Engine
from kvfs.errors import InvalidParameters
from kvfs.paths import TABLE_DEFAULT, check_table
from server import wire
from server.exchange import Exchange
from server.reply import Reply


async def create_database(exchange: Exchange) -> Reply:
    """Make a database file, or a folder of stores."""
    params = exchange.params
    path = params.db("path")
    kv_table = params.text("kv_table")
    if kv_table is not None:
        check_table(kv_table)
    elif params.flag("init_kv"):
        kv_table = TABLE_DEFAULT
    create = partial(_create, exchange.engine, path, kv_table)
    return wire.json_reply(await exchange.run(create))


async def list_databases(exchange: Exchange) -> Reply:
    """What is in the data dir."""
    listed = partial(catalog.listed, exchange.engine.paths.data_dir)
    return wire.json_reply(wire.catalog_form(await exchange.run(listed)))


async def delete_database(exchange: Exchange) -> Reply:
    """Delete a database file and its side files."""
    db = exchange.params.db()
    if exchange.params.text("confirm") != "yes":
        raise InvalidParameters("confirm must be exactly yes")
    delete = partial(exchange.engine.delete_database, db)
    # What another worker has still to log of it would otherwise come after.
    await exchange.services.peers.ask("flush")
    path, files_removed = await exchange.run(delete)
    return wire.json_reply({"success": True, "deleted": True, "path": path, "files_removed": files_removed})


def _create(engine: Engine, path: str, kv_table: str | None) -> wire.Json:
    real, created = engine.create_database(path, kv_table=kv_table)
    answer: wire.Json = {"success": True, "status": "ok", "path": real, "created": created}
    if kv_table is not None:
        answer["kv_table"] = kv_table
    return answer
