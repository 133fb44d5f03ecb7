"""What may be asked in SQL at once, and how large a result may be: the same over HTTP and for a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from kvfs.config import MIB
from kvfs.errors import InvalidParameters, SqlError
from kvfs.sql.model import WHOLE, Bindings, Item

MAX_RESULT_BYTES: Final = 32 * MIB
"""Of the rows of one answer."""

_MAX_ITEMS: Final = 10_000
_MAX_BATCH_ROWS: Final = 100_000
_MAX_ROWS: Final = 1_000_000
_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 63) - 1


class BatchRows:
    """Counts the rows of the batches of one transaction."""

    def __init__(self) -> None:
        self._rows = 0

    def add(self, rows: int) -> None:
        """So many of one batch. Raises `InvalidParameters` where these are too many, or all together are."""
        self._rows += rows
        if rows > _MAX_BATCH_ROWS:
            raise InvalidParameters(f"valuesBatch has at most {_MAX_BATCH_ROWS} rows")
        if self._rows > _MAX_ROWS:
            raise InvalidParameters(f"a transaction has at most {_MAX_ROWS} rows of values")


def check(items: Sequence[Item]) -> None:
    """Raise `InvalidParameters` for a transaction that cannot be run; `reqIdx` in its details is the item."""
    rows = BatchRows()
    with _at(WHOLE):
        check_count(len(items))
    for index, item in enumerate(items):
        with _at(index):
            _check_item(item, rows)


@contextmanager
def _at(index: int) -> Iterator[None]:
    """Say of an error which item it is about."""
    try:
        yield
    except InvalidParameters as exc:
        exc.details["reqIdx"] = index
        raise


def check_count(items: int) -> None:
    """Raise `InvalidParameters` for a transaction of too many items, or of none."""
    if not items:
        raise InvalidParameters("a transaction has at least one item")
    if items > _MAX_ITEMS:
        raise InvalidParameters(f"a transaction has at most {_MAX_ITEMS} items")


def check_integer(value: int) -> None:
    """Raise `InvalidParameters` for what SQLite cannot store."""
    if not _INT_MIN <= value <= _INT_MAX:
        raise InvalidParameters("an integer is beyond 64 bits")


def check_result(size_bytes: int, most_bytes: int = MAX_RESULT_BYTES) -> None:
    """Raise `SqlError` for rows that are too large together, of which `most_bytes` still fit."""
    if size_bytes > most_bytes:
        raise SqlError(f"the result is larger than {MAX_RESULT_BYTES} bytes: ask for less, page by page")


def _check_item(item: Item, rows: BatchRows) -> None:
    if item.batch is None:
        _check_bindings(item.bindings)
        return
    if item.query or item.bindings:
        raise InvalidParameters("a batch is for statements, which have no other bindings then")
    rows.add(len(item.batch))
    for bindings in item.batch:
        _check_bindings(bindings)


def _check_bindings(bindings: Bindings) -> None:
    for value in bindings.values() if isinstance(bindings, Mapping) else bindings:
        if isinstance(value, int):
            check_integer(value)
        elif not (value is None or isinstance(value, float | str | bytes)):
            raise InvalidParameters(f"SQLite has no values of the type {type(value).__name__}")
