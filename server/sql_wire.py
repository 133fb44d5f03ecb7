"""The wire forms of SQL: transactions as they are sent, and rows as they are answered, in JSON and CSV.

A blob is `{"base64": "..."}` both ways. Integers keep all their 64 bits.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import apsw
import orjson

from kvfs.config import MIB
from kvfs.errors import InvalidParameters, Overloaded
from kvfs.sql import limits
from kvfs.sql.model import (
    WHOLE,
    BatchChanged,
    Bindings,
    Changed,
    Failure,
    Item,
    MakeRows,
    Result,
    Selected,
)
from kvfs.sqlite import SqlValue
from server.body import INVALID_JSON, json_object
from server.wire import Json

_ALL_ANSWERS_BYTES: Final = 36 * MIB

_CHUNK_ROWS: Final = 500
_LARGE_BYTES: Final = 64 * 1024
_ESCAPED: Final = [chr(code) for code in range(0x20)]
_INT_MAX: Final = (1 << 63) - 1
_NAME_MARKS: Final = ":@$"
_FORMATS: Final = frozenset({"map", "list"})

# --- what is sent --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A transaction as it was sent: `as_list` says how rows are answered."""

    items: list[Item]
    as_list: bool


def asked(body: bytes) -> Asked:
    """The transaction that a body asks for. Raises `InvalidParameters` with `reqIdx`, -1 for none."""
    try:
        request = json_object(body)
        try:
            return _asked(request)
        except _Inexact:
            # What is beyond 64 bits came as a float, which is not what was sent.
            return _asked(json.loads(body), exact=True)
    except (ValueError, RecursionError) as exc:
        raise InvalidParameters(INVALID_JSON, reqIdx=WHOLE) from exc
    except InvalidParameters as exc:
        exc.details.setdefault("reqIdx", WHOLE)
        raise


class _Inexact(Exception):
    """A number that may have been an integer beyond 64 bits."""


def _asked(request: Json, *, exact: bool = False) -> Asked:
    result_format = request.get("resultFormat")
    if result_format is not None and not isinstance(result_format, str):
        raise InvalidParameters("resultFormat must be map or list")
    transaction = request.get("transaction")
    if not isinstance(transaction, list) or not transaction:
        raise InvalidParameters("transaction must be an array that is not empty")
    limits.check_count(len(transaction))
    values = _Values(exact=exact)
    items: list[Item] = []
    for index, item in enumerate(transaction):
        try:
            items.append(_item(item, values))
        except InvalidParameters as exc:
            exc.details["reqIdx"] = index
            raise
    return Asked(items, as_list=(result_format or "").lower() == "list")


def _item(item: Any, values: _Values) -> Item:
    if not isinstance(item, dict):
        raise InvalidParameters("an item must be an object")
    given = [name for name in ("query", "statement", "sql") if item.get(name) is not None]
    if len(given) != 1:
        raise InvalidParameters("an item must have exactly one of query and statement")
    sql = item[given[0]]
    if not isinstance(sql, str):
        raise InvalidParameters(f"{given[0]} must be a string")
    no_fail = item.get("noFail", False)
    if not isinstance(no_fail, bool):
        raise InvalidParameters("noFail must be true or false")
    query = given[0] == "query"
    bindings, batch = item.get("values"), item.get("valuesBatch")
    if batch is None:
        return Item(sql, () if bindings is None else values.bindings(bindings), query=query, no_fail=no_fail)
    if bindings is not None:
        raise InvalidParameters("an item has values or valuesBatch, not both")
    if query:
        raise InvalidParameters("valuesBatch is for statements, not for queries")
    return Item(sql, batch=values.batch(batch), no_fail=no_fail)


class _Values:
    """Reads the values of one transaction, counting the rows of its batches.

    With `exact` a float is one that was sent as such.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._rows = limits.BatchRows()

    def batch(self, batch: Any) -> list[Bindings]:
        if not isinstance(batch, list):
            raise InvalidParameters("valuesBatch must be an array")
        self._rows.add(len(batch))
        return [self.bindings(row) for row in batch]

    def bindings(self, given: Any) -> Bindings:
        if isinstance(given, list):
            return [self._value(value) for value in given]
        if not isinstance(given, dict):
            raise InvalidParameters("values must be an array or an object")
        named: dict[str, SqlValue] = {}
        for name, value in given.items():
            bare = name[1:] if name[:1] in _NAME_MARKS else name
            if not bare or bare in named:
                raise InvalidParameters(f"the value {name!r} is given twice, or has no name")
            named[bare] = self._value(value)
        return named

    def _value(self, value: Any) -> SqlValue:
        kind = type(value)
        if kind is str or value is None:
            return value  # type: ignore[no-any-return]
        if kind is int:
            limits.check_integer(value)
            return value  # type: ignore[no-any-return]
        if kind is float:
            if not self._exact and abs(value) > _INT_MAX:
                raise _Inexact
            return value  # type: ignore[no-any-return]
        if kind is bool:
            return int(value)
        if kind is dict and value.keys() == {"base64"} and isinstance(value["base64"], str):
            try:
                return base64.b64decode(value["base64"], validate=True)
            except ValueError as exc:
                raise InvalidParameters("a blob is not base64") from exc
        raise InvalidParameters('a value must be null, a boolean, a number, a string or {"base64": ...}')


# --- what is answered ----------------------------------------------------------------------------------


class AnswerMemory:
    """What the rows of all answers that are being made may take together. Any thread may use it."""

    def __init__(self) -> None:
        # Guards `_left`.
        self._lock = threading.Lock()
        self._left = _ALL_ANSWERS_BYTES

    @contextmanager
    def budget(self) -> Iterator[Budget]:
        """The budget of one answer, which gives back at the end what it took."""
        budget = Budget(self)
        try:
            yield budget
        finally:
            self.take(-budget.spent)

    def take(self, size_bytes: int) -> None:
        """Raises `Overloaded` where there is not so much left."""
        with self._lock:
            if size_bytes > self._left:
                raise Overloaded("Too many large results are being made", retry_after_s=1)
            self._left -= size_bytes


class Budget:
    """What the rows of one answer may take."""

    def __init__(self, memory: AnswerMemory) -> None:
        self._memory = memory
        self._left = limits.MAX_RESULT_BYTES

    @property
    def spent(self) -> int:
        return limits.MAX_RESULT_BYTES - self._left

    def spend(self, size_bytes: int) -> None:
        """Raises `SqlError` where one answer takes too much, `Overloaded` where all do."""
        self.check(size_bytes)
        self._memory.take(size_bytes)
        self._left -= size_bytes

    def check(self, size_bytes: int) -> None:
        """Raise `SqlError` where so much does not fit any more."""
        limits.check_result(size_bytes, self._left)


class _Encoded(ABC):
    """Rows, encoded some at a time, so that they are held once.

    Small rows wait for each other. When SQLite takes more memory than it did, a row may be a large one:
    then nothing waits, and what would not fit is refused before it is encoded.
    """

    def __init__(self, columns: Sequence[str], budget: Budget) -> None:
        self.columns = columns
        self.out = bytearray()
        self._budget = budget
        self._waiting: list[tuple[Any, ...]] = []
        self._memory = 0

    def add(self, row: tuple[Any, ...]) -> None:
        waiting = self._waiting
        waiting.append(row)
        if len(waiting) >= _CHUNK_ROWS:
            self.end()
        elif apsw.memory_used() > self._memory:
            size_bytes = sum(map(_encoded_bytes, row))
            self._budget.check(size_bytes)
            self.end()
            if size_bytes < _LARGE_BYTES:
                # It was a cache that grew.
                self._memory = apsw.memory_used() + _LARGE_BYTES

    def end(self) -> None:
        if self._waiting:
            encoded = self._encode(self._waiting)
            self._budget.spend(len(encoded))
            self.out += encoded
            self._waiting = []

    @abstractmethod
    def _encode(self, rows: list[tuple[Any, ...]]) -> bytes:
        """Some rows, as they go behind those before them."""


class _JsonRows(_Encoded):
    """Rows as JSON: the inside of an array."""

    def __init__(self, columns: Sequence[str], budget: Budget, *, as_list: bool) -> None:
        super().__init__(columns, budget)
        self._as_list = as_list

    def _encode(self, rows: list[tuple[Any, ...]]) -> bytes:
        shown: Sequence[Any] = rows
        if not self._as_list:
            columns = self.columns
            shown = [dict(zip(columns, row, strict=True)) for row in rows]
        encoded = orjson.dumps(shown, default=_blob)[1:-1]
        return b"," + encoded if self.out else encoded


class _CsvRows(_Encoded):
    """Rows as RFC 4180 has them, with a header; a NULL is empty, a blob is base64."""

    def __init__(self, columns: Sequence[str], budget: Budget) -> None:
        super().__init__(columns, budget)
        self.out += self._encode([tuple(columns)])

    def _encode(self, rows: list[tuple[Any, ...]]) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        for row in rows:
            writer.writerow([base64.b64encode(v).decode() if type(v) is bytes else v for v in row])
        return text.getvalue().encode()


def json_rows(budget: Budget, *, as_list: bool) -> MakeRows:
    """Makes what takes rows to answer them in JSON."""
    return lambda columns: _JsonRows(columns, budget, as_list=as_list)


def csv_rows(budget: Budget) -> MakeRows:
    """Makes what takes rows to answer them in CSV."""
    return lambda columns: _CsvRows(columns, budget)


def transaction_form(outcome: list[Result] | Failure, *, as_list: bool) -> bytes:
    """The answer to a transaction."""
    if isinstance(outcome, Failure):
        return orjson.dumps({"reqIdx": outcome.index, **_failed(outcome.message, outcome.batch_index)})
    rows_name = b"resultSetList" if as_list else b"resultSet"
    parts: list[bytes | bytearray] = [b'{"results":[']
    for result in outcome:
        parts += _result_parts(result, rows_name)
        parts.append(b",")
    parts[-1] = b"]}"
    return b"".join(parts)


def _result_parts(result: Result, rows_name: bytes) -> Sequence[bytes | bytearray]:
    if isinstance(result, Selected):
        rows = _encoded(result)
        truncated = b',"truncated":true' if result.truncated else b""
        headers = orjson.dumps(rows.columns)
        head = b'{"success":true,"resultHeaders":%b,"%b":[' % (headers, rows_name)
        return head, rows.out, b"]%b}" % truncated
    if isinstance(result, Changed):
        return (b'{"success":true,"rowsUpdated":%d}' % result.count,)
    if isinstance(result, BatchChanged):
        return (orjson.dumps({"success": True, "rowsUpdatedBatch": result.counts}),)
    return (orjson.dumps(_failed(result.message, result.batch_index)),)


def selected_form(selected: Selected) -> bytes:
    """The answer to a lone SELECT, in JSON."""
    rows = _encoded(selected)
    tail = {"rowCount": selected.count, "truncated": selected.truncated}
    return b"".join(
        (
            b'{"columns":',
            orjson.dumps(rows.columns),
            b',"resultSet":[',
            rows.out,
            b"],",
            orjson.dumps(tail)[1:],
        )
    )


def selected_csv(selected: Selected) -> bytes:
    """The answer to a lone SELECT, in CSV."""
    return bytes(_encoded(selected).out)


def _encoded(selected: Selected) -> _Encoded:
    """The rows, which only this module makes."""
    assert isinstance(selected.rows, _Encoded)
    return selected.rows


def _failed(message: str, batch_index: int | None) -> Json:
    failed: Json = {"success": False, "error": message}
    if batch_index is not None:
        failed["batchIdx"] = batch_index
    return failed


def _encoded_bytes(value: SqlValue) -> int:
    """About how long a value is in JSON."""
    if isinstance(value, str):
        if len(value) < _LARGE_BYTES:
            return len(value)
        return len(value) + sum(map(value.count, _ESCAPED)) * len("u0000")
    return len(value) * 4 // 3 if isinstance(value, bytes) else 0


def _blob(value: object) -> Json:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError
