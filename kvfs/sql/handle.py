"""SQL on one open database file, as programs use it: what `POST /db`, `GET /query` and `/history` are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvfs.sql import limits
from kvfs.sql.database import SqlDatabase
from kvfs.sql.maintenance import Maintenance
from kvfs.sql.model import BatchChanged, Bindings, Changed, Failed, Failure, Item, Result, Selected
from kvfs.sql.query_log import Entry, QueryLog, Statistics
from kvfs.sql.session import NeedsWriting
from kvfs.sqlite import SqlValue

_VALUE_BYTES = 8


@dataclass(frozen=True, slots=True)
class QueryRows:
    """The rows of a query, in its order of columns. `truncated`: there were more than anybody gets."""

    columns: tuple[str, ...]
    rows: tuple[tuple[SqlValue, ...], ...]
    truncated: bool


Answer = QueryRows | Changed | BatchChanged | Failed
"""Of one item of a transaction."""


class SqlHandle:
    """SQL on one database file, which may do what it may do over HTTP, within the same limits.

    KV tables are tables like any other; what is written to them is logged. All methods block, and may be
    called by any thread. `deadline` is in monotonic seconds, None being none; what runs then is interrupted,
    and undone. They raise a `KvfsError`; `SqlError` (or `TransactionFailed`) is the SQL's own fault.
    """

    def __init__(self, database: SqlDatabase, queries: QueryLog) -> None:
        self._database = database
        self._queries = queries

    @property
    def maintenance(self) -> Maintenance:
        """What looks after the file as a whole."""
        return self._database.maintenance

    # --- running SQL -------------------------------------------------------------------------------------

    def transaction(self, items: Sequence[Item], *, deadline: float | None = None) -> list[Answer]:
        """Run items in one transaction: an answer for each, when it is durable.

        Beside others if it only reads, else in its turn with all other writes. Raises `TransactionFailed`
        where an item fails that is not `no_fail`, and `InvalidParameters` with `reqIdx` before any runs.
        """
        limits.check(items)
        outcome = self._run(items, deadline)
        if isinstance(outcome, Failure):
            raise outcome.error()
        return [_answer(result) for result in outcome]

    def execute(self, sql: str, bindings: Bindings = (), *, deadline: float | None = None) -> int:
        """Run a statement, or several; how many rows the last one changed. Raises as `transaction`."""
        (changed,) = self.transaction([Item(sql, bindings)], deadline=deadline)
        assert isinstance(changed, Changed)
        return changed.count

    def query(self, sql: str, bindings: Bindings = (), *, deadline: float | None = None) -> QueryRows:
        """The rows of a query, which may write too (`RETURNING`). Raises as `transaction`."""
        (rows,) = self.transaction([Item(sql, bindings, query=True)], deadline=deadline)
        assert isinstance(rows, QueryRows)
        return rows

    def select(self, sql: str, *, deadline: float | None = None) -> QueryRows:
        """The rows of one SELECT, on a connection that cannot write. Raises `NotASelect`, `SqlError`."""
        shown = self._database.select(sql, Collected, deadline=_until(deadline))
        return _rows(shown.selected)

    # --- what ran ----------------------------------------------------------------------------------------

    def history(self, *, limit: int = 100) -> tuple[list[Entry], int]:
        """The newest entries of the database's query log, and how many it has."""
        return self._queries.entries(self._database.path, limit)

    def statistics(self) -> Statistics:
        """What the entries of the query log come to."""
        return self._queries.statistics(self._database.path)

    def clear_history(self) -> int:
        """Forget all entries of the query log; how many there were."""
        return self._queries.clear(self._database.path)

    # --- parts -------------------------------------------------------------------------------------------

    def _run(self, items: Sequence[Item], deadline: float | None) -> list[Result] | Failure:
        until = _until(deadline)
        if not self._database.known_to_write(items):
            try:
                return self._database.read(items, Collected, deadline=until)
            except NeedsWriting:
                pass
        return self._database.write(items, Collected, deadline=until).wait(deadline)


class Collected:
    """Takes the rows of one query, and holds them. Implements `kvfs.sql.model.Rows`."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.rows: list[tuple[Any, ...]] = []
        self._size_bytes = 0

    def add(self, row: tuple[Any, ...]) -> None:
        self._size_bytes += sum(map(_size, row))
        limits.check_result(self._size_bytes)
        self.rows.append(row)

    def end(self) -> None:
        return None


def _answer(result: Result) -> Answer:
    return _rows(result) if isinstance(result, Selected) else result


def _rows(selected: Selected) -> QueryRows:
    collected = selected.rows
    assert isinstance(collected, Collected)
    return QueryRows(collected.columns, tuple(collected.rows), selected.truncated)


def _size(value: SqlValue) -> int:
    return len(value) if isinstance(value, str | bytes) else _VALUE_BYTES


def _until(deadline: float | None) -> float:
    return math.inf if deadline is None else deadline
