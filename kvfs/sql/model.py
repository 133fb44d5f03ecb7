"""What SQL of strangers is asked with and answered by.

A transaction is a list of items, each with one text of SQL. A **query** item gives rows, a **statement**
item the number of rows that it changed. Rows go to a `Rows` as they come, which is the caller's; nothing
here holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kvfs.errors import TransactionFailed
from kvfs.sqlite import SqlValue

Bindings = Sequence[SqlValue] | Mapping[str, SqlValue]
"""Values for `?` by position, or for `:name`, `@name` and `$name` by name (without the first character)."""

WHOLE = -1
"""The index of a failure that no single item is to blame for."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a transaction.

    With a `batch` the SQL is run once for each of its bindings. `no_fail`: a failure undoes this item alone.
    """

    sql: str
    bindings: Bindings = ()
    batch: Sequence[Bindings] | None = None
    query: bool = False
    no_fail: bool = False


class Rows(Protocol):
    """Takes the rows of one query."""

    def add(self, row: tuple[Any, ...]) -> None:
        """One more row. Raises `SqlError` where the rows are more than the caller can hold."""

    def end(self) -> None:
        """There are no more. Raises as `add`."""


MakeRows = Callable[[Sequence[str]], Rows]
"""Makes what takes the rows of a query with these columns."""


@dataclass(frozen=True, slots=True)
class Selected:
    """The answer to a query: `count` rows; `truncated`: there were more than anybody gets."""

    rows: Rows
    count: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """The answer to a statement: how many rows it inserted, updated or deleted."""

    count: int


@dataclass(frozen=True, slots=True)
class BatchChanged:
    """The answer to a batch: for each of its bindings, how many rows were changed."""

    counts: list[int]


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer to a `no_fail` item that failed, and is undone; in a batch, at which of its bindings."""

    message: str
    batch_index: int | None = None


Result = Selected | Changed | BatchChanged | Failed


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transaction was undone: the item, or `WHOLE`; in a batch, which of its bindings."""

    index: int
    message: str
    batch_index: int | None = None

    def error(self) -> TransactionFailed:
        """The error that says so."""
        return TransactionFailed(self.message, index=self.index, batch_index=self.batch_index)


@dataclass(frozen=True, slots=True)
class Executed:
    """What the query log keeps of one item: `rows` it returned or changed, or the `error`."""

    sql: str
    ts_ns: int
    duration_s: float
    rows: int
    error: str | None = None
