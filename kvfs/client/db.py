"""The calls on databases as a whole: making and deleting them, SQL, maintenance, the server's health."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeVar

from kvfs.client import forms
from kvfs.client.call import JSON, Answer, Call, Repeat
from kvfs.client.kv import Target, instant, json_bytes, params
from kvfs.client.records import (
    Affected,
    Created,
    DatabaseInfo,
    Deleted,
    Logged,
    Query,
    Rows,
    SqlLog,
    SqlValue,
    Statement,
    Undone,
    Values,
)
from kvfs.errors import TransactionFailed
from kvfs.model import UNCHANGED, Retention, Unchanged
from kvfs.status import Pruned

T = TypeVar("T")

Result = Rows | Affected | Undone
"""Of an item of a transaction."""

_JSON_BODY: Final = {"Content-Type": JSON}


# --- the server ----------------------------------------------------------------------------------------


def health(_: Target) -> Call[dict[str, Any]]:
    """What the server says of itself; raises `UnexpectedAnswer` where it cannot serve."""
    return Call("GET", "/health", forms.form)


def databases(_: Target) -> Call[tuple[DatabaseInfo, ...]]:
    """The databases of the data dir."""
    return Call("GET", "/db/list", forms.databases)


# --- one database --------------------------------------------------------------------------------------


def create(at: Target, *, kv_table: str | None = None) -> Call[Created]:
    """Make the database, unless it is there; with `kv_table` that table too. A final `/`: a directory."""
    return Call("POST", "/db/create", forms.created, {"path": at.db, "kv_table": kv_table})


def delete(at: Target) -> Call[Deleted]:
    """Delete the database's file and its side files; never a directory."""
    return Call("DELETE", "/db", forms.deleted, {"db": at.db, "confirm": "yes"}, repeat=Repeat.UNSENT)


def maintain(at: Target, /, op: str, **options: object) -> Call[dict[str, Any]]:
    """Have the server look after the store: `op` is one of those that `POST /maintenance` has."""
    return _maintain(at, op, options, forms.form)


def prune(at: Target, *, before_ns: int | None = None, keep_last: int | None = None) -> Call[Pruned]:
    """Remove old operations for good. What the key was at `before_ns` and later stays known, and its last
    `keep_last` operations stay, by whichever rule. Raises `InvalidParameters`.
    """
    before = None if before_ns is None else instant(before_ns)
    given = {"before": before, "keep_last": keep_last}
    options = {name: each for name, each in given.items() if each is not None}

    def pruned(answer: Answer) -> Pruned:
        form = answer.json()
        return Pruned(**{each.name: form[each.name] for each in fields(Pruned)})

    return _maintain(at, "history_prune", options, pruned)


def retention(at: Target) -> Call[Retention]:
    """What the store keeps of its past by itself."""
    return set_retention(at)


def set_retention(
    at: Target,
    *,
    keep_last: int | Unchanged | None = UNCHANGED,
    max_age_s: int | Unchanged | None = UNCHANGED,
) -> Call[Retention]:
    """Change what the store keeps of its past by itself; what that is then. None keeps all."""
    given = {"keep_last": keep_last, "max_age_s": max_age_s}
    changes = {name: each for name, each in given.items() if each is not UNCHANGED}

    def kept(answer: Answer) -> Retention:
        form = answer.json()
        return Retention(form["keep_last"], form["max_age_s"])

    return _maintain(at, "retention", changes, kept)


# --- SQL -----------------------------------------------------------------------------------------------


def transaction(at: Target, items: Sequence[Statement | Query]) -> Call[tuple[Result, ...]]:
    """Run these in one transaction; a result for each. Raises `TransactionFailed`: nothing has happened."""
    body = json_bytes({"resultFormat": "list", "transaction": [_item(each) for each in items]})
    return _sql(at, body, _results)


def execute(at: Target, sql: str, values: Values = ()) -> Call[int]:
    """Run a statement; how many rows it changed. Raises `TransactionFailed`."""
    body = json_bytes({"transaction": [_item(Statement(sql, values))]})

    def count(answer: Answer) -> int:
        (result,) = _results(answer)
        assert isinstance(result, Affected)
        return result.changed

    return _sql(at, body, count)


def query(at: Target, sql: str, values: Values = ()) -> Call[Rows]:
    """The rows of a query, which may write too (`RETURNING`). Raises `TransactionFailed`."""
    body = json_bytes({"resultFormat": "list", "transaction": [_item(Query(sql, values))]})

    def rows(answer: Answer) -> Rows:
        (result,) = _results(answer)
        assert isinstance(result, Rows)
        return result

    return _sql(at, body, rows)


def select(at: Target, sql: str) -> Call[Rows]:
    """The rows of one SELECT, on a connection that cannot write. Raises `InvalidParameters`.

    Columns of one name have one value here, the last; `query` has them all.
    """
    encoded = base64.urlsafe_b64encode(sql.encode()).decode()

    def rows(answer: Answer) -> Rows:
        form = answer.json()
        columns = tuple(form["columns"])
        found = tuple(tuple(_value(row[column]) for column in columns) for row in form["resultSet"])
        return Rows(columns, found, form["truncated"])

    return Call("GET", "/query", rows, {"db": at.db, "sql": encoded}, patient=True)


def sql_history(at: Target, *, limit: int = 100) -> Call[SqlLog]:
    """The newest entries of the database's query log."""

    def log(answer: Answer) -> SqlLog:
        form = answer.json()
        return SqlLog(tuple(_logged(each) for each in form["entries"]), form["total"])

    return Call("GET", "/history", log, {"db": at.db, "limit": limit})


def sql_stats(at: Target) -> Call[dict[str, Any]]:
    """What the query log amounts to: how many entries, how fast, how many errors."""
    return Call("GET", "/history/stats", forms.form, {"db": at.db})


def clear_sql_history(at: Target) -> Call[int]:
    """Empty the query log; how many entries it had."""
    return Call("DELETE", "/history", forms.deleted_count, {"db": at.db}, repeat=Repeat.UNSENT)


# --- parts ---------------------------------------------------------------------------------------------


def _maintain(at: Target, op: str, options: Mapping[str, object], parse: Callable[[Answer], T]) -> Call[T]:
    body = json_bytes({"op": op, **options})
    return Call("POST", "/maintenance", parse, params(at), _JSON_BODY, body, Repeat.UNSENT, patient=True)


def _sql(at: Target, body: bytes, parse: Callable[[Answer], T]) -> Call[T]:
    asked = {"db": at.db, "create_db_if_missing": at.create or None}
    return Call("POST", "/db", parse, asked, _JSON_BODY, body, Repeat.UNSENT, patient=True)


def _item(item: Statement | Query) -> dict[str, Any]:
    form: dict[str, Any] = {"query" if isinstance(item, Query) else "statement": item.sql}
    if item.no_fail:
        form["noFail"] = True
    if isinstance(item, Statement) and item.batch is not None:
        form["valuesBatch"] = [_bindings(values) for values in item.batch]
    elif item.values:
        form["values"] = _bindings(item.values)
    return form


def _bindings(values: Values) -> dict[str, object] | list[object]:
    if isinstance(values, Mapping):
        return {name: _bound(value) for name, value in values.items()}
    return [_bound(value) for value in values]


def _bound(value: SqlValue) -> object:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _value(form: Any) -> SqlValue:
    value: SqlValue = base64.b64decode(form["base64"]) if isinstance(form, dict) else form
    return value


def _results(answer: Answer) -> tuple[Result, ...]:
    form = answer.json()
    if "results" not in form:
        # Of a transaction that SQLite refused the request was understood: the status is 200.
        raise TransactionFailed(form["error"], index=form["reqIdx"], batch_index=form.get("batchIdx"))
    return tuple(_result(each) for each in form["results"])


def _result(form: forms.Json) -> Result:
    if not form["success"]:
        return Undone(form["error"])
    if "rowsUpdatedBatch" in form:
        counts = tuple(form["rowsUpdatedBatch"])
        return Affected(sum(counts), counts)
    if "rowsUpdated" in form:
        return Affected(form["rowsUpdated"])
    rows = tuple(tuple(map(_value, row)) for row in form["resultSetList"])
    return Rows(tuple(form["resultHeaders"]), rows, form.get("truncated", False))


def _logged(form: forms.Json) -> Logged:
    return Logged(
        form["id"],
        form["sql"],
        form["timestamp_ms"],
        form["duration_ms"],
        form["rows_affected"],
        form.get("error"),
    )
