"""Databases without a server, with the methods of a client's `Client` and `Database`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any, Final, TypeVar

from kvfs import catalog
from kvfs.client import records
from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.model import NS_PER_MS
from kvfs.opening import engine_of, run_transaction
from kvfs.paths import TABLE_DEFAULT
from kvfs.pending import Pending
from kvfs.sql.handle import Answer, QueryRows
from kvfs.sql.model import Changed, Item
from kvfs.sql.query_log import Entry
from server import query_forms, upkeep

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.05


class LocalDatabases:
    """The databases of this machine, by their paths; each call takes at most `timeout_s`. To be closed."""

    def __init__(self, folder: str, *, timeout_s: float, state_dir: str | None) -> None:
        self._folder = folder
        self._timeout_s = timeout_s
        self._config = Config(watch=False, state_dir=state_dir)
        self._closing = ExitStack()

    def databases(self) -> tuple[records.DatabaseInfo, ...]:
        return tuple(
            records.DatabaseInfo(
                each.name, each.path, each.kind.value, each.size_bytes, each.modified_s, each.valid
            )
            for each in catalog.listed(self._folder)
        )

    def database(self, db: str, *, create: bool = False) -> LocalDatabase:
        return LocalDatabase(*self._engine_of(db), create=create, timeout_s=self._timeout_s)

    def table(self, db: str, name: str | None = None) -> LocalTable:
        return LocalTable(*self._engine_of(db), name or TABLE_DEFAULT, timeout_s=self._timeout_s)

    def close(self) -> None:
        """Write what waits, and close what is open."""
        self._closing.close()

    def _engine_of(self, path: str) -> tuple[Engine, str]:
        engine, db = engine_of(path, config=self._config)
        self._closing.callback(engine.close)
        return engine, db


class LocalDatabase:
    """One database; nothing is opened before it is used."""

    def __init__(self, engine: Engine, db: str, *, create: bool, timeout_s: float) -> None:
        self._engine = engine
        self._db = db
        self._create = create
        self._timeout_s = timeout_s

    def create(self, *, kv_table: str | None = None) -> records.Created:
        return records.Created(*self._engine.create_database(self._db, kv_table=kv_table), kv_table)

    def delete(self) -> records.Deleted:
        return records.Deleted(*self._engine.delete_database(self._db))

    def execute(self, sql: str, values: records.Values = ()) -> int:
        changed = self._run(Item(sql, values))
        assert isinstance(changed, Changed)
        return changed.count

    def query(self, sql: str, values: records.Values = ()) -> records.Rows:
        found = self._run(Item(sql, values, query=True))
        assert isinstance(found, QueryRows)
        return _rows(found)

    def select(self, sql: str) -> records.Rows:
        deadline = time.monotonic() + self._timeout_s

        def select() -> QueryRows:
            with self._engine.lease(self._db, deadline=deadline) as handle:
                return handle.sql.select(sql, deadline=deadline)

        return _rows(_interruptible(self._engine, select))

    def sql_history(self, *, limit: int = 100) -> records.SqlLog:
        entries, total = self._engine.queries.entries(self._path, limit)
        return records.SqlLog(tuple(map(_logged, entries)), total)

    def sql_stats(self) -> dict[str, Any]:
        return query_forms.statistics(self._path, self._engine.queries.statistics(self._path))

    def clear_sql_history(self) -> int:
        return self._engine.queries.clear(self._path)

    @property
    def _path(self) -> str:
        return self._engine.paths.file(self._db)

    def _run(self, item: Item) -> Answer:
        deadline = time.monotonic() + self._timeout_s

        def run() -> Answer:
            (answer,) = run_transaction(
                self._engine, self._db, [item], create=self._create, deadline=deadline
            )
            return answer

        return _interruptible(self._engine, run)


class LocalTable:
    """One table or folder, to be looked after."""

    def __init__(self, engine: Engine, db: str, table: str, *, timeout_s: float) -> None:
        self._engine = engine
        self._db = db
        self._table = table
        self._timeout_s = timeout_s

    def maintain(self, op: str, /, **options: object) -> dict[str, Any]:
        body = {"op": op, **options}
        known = upkeep.op_of(body)
        if known.path is not None:
            body[known.path] = os.path.abspath(str(body[known.path]))
        began = time.monotonic()
        asked = upkeep.Asked(body, self._engine.paths, deadline=began + self._timeout_s)

        def work() -> Any:
            table = None if known.database else self._table
            with (lease := self._engine.lease(self._db, table, deadline=asked.deadline)):
                done = known.begin(lease, asked)
                return done.wait(asked.deadline) if isinstance(done, Pending) else done

        done = _interruptible(self._engine, work) if known.database else work()
        return upkeep.told(asked, time.monotonic() - began, done)


def _interruptible(engine: Engine, work: Callable[[], T]) -> T:
    """The result of SQL, which Ctrl-C ends: in the main thread it would wait until SQLite is done."""
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        engine.interrupter.end_all()

    # An exception could come between any two steps of starting a thread and of waiting for it, and leave
    # a lock held that the thread needs.
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with ThreadPoolExecutor(1) as threads:
            working = threads.submit(work)
            # A signal that comes just before this thread begins to wait does not end the wait.
            while not working.done():
                wait([working], timeout=_LOOK_EVERY_S)
            return working.result()
    finally:
        signal.signal(signal.SIGINT, before)
        if interrupted:
            raise KeyboardInterrupt


def _rows(found: QueryRows) -> records.Rows:
    return records.Rows(found.columns, found.rows, found.truncated)


def _logged(entry: Entry) -> records.Logged:
    return records.Logged(
        entry.id, entry.sql, entry.ts_ns // NS_PER_MS, entry.duration_us / 1000, entry.rows, entry.error
    )
