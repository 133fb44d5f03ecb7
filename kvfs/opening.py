"""Opens databases and stores without a server."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.handle import Handle
from kvfs.paths import TABLE_DEFAULT, Paths, check_db
from kvfs.sql import limits
from kvfs.sql.handle import Answer, Collected
from kvfs.sql.model import Item
from kvfs.sql.query_log import query_log_in


def open_store(
    path: str, table: str = TABLE_DEFAULT, *, create: bool = True, config: Config | None = None
) -> Handle:
    """Open one store without a server: a table of a database file, or a folder of a directory.

    `path` is a database file, or an existing directory (or a path that ends in `/`), of which `table` is
    then the folder. With `create`, what is missing is made. Close the handle, or use it with `with`. Two
    programs may have the same store open. Raises what `Engine.lease` raises.
    """
    engine, db = engine_of(path, config=config)
    try:
        lease = engine.lease(db, table, create=create)
    except BaseException:
        engine.close()
        raise
    return lease.handle.owning(engine.close)


def engine_of(path: str, *, config: Config | None = None) -> tuple[Engine, str]:
    """An engine for the database at a path, and how that is called there; to be closed. Nothing is opened.

    Its query log lies beside the database, which is where a server has it whose data dir that is. Raises
    `InvalidDbPath` for what can be no path.
    """
    absolute = os.path.abspath(check_db(path))
    queries = query_log_in(os.path.dirname(os.path.realpath(absolute)))
    engine = Engine(Paths("/", any_absolute=True), config=config, queries=queries)
    return engine, absolute + ("/" if path.endswith("/") and absolute != "/" else "")


def run_transaction(
    engine: Engine, db: str, items: Sequence[Item], *, create: bool, deadline: float
) -> list[Answer]:
    """Run items in one transaction on a database, as `SqlHandle.transaction`.

    With `create` a missing database is made, unless the transaction fails. Raises what `Engine.lease` raises.
    """
    limits.check(items)
    if create:
        failure = engine.fails_when_new(db, items, Collected, deadline=deadline)
        if failure is not None:
            raise failure.error()
    with engine.lease(db, create=create, deadline=deadline) as handle:
        return handle.sql.transaction(items, deadline=deadline)
