"""How the query log is shown, over HTTP and by the command line."""

from __future__ import annotations

from typing import Any

from kvfs.model import NS, NS_PER_MS
from kvfs.sql.query_log import Entry, Statistics

Json = dict[str, Any]


def logged(db: str, entry: Entry) -> Json:
    """One entry of the query log."""
    form: Json = {
        "id": entry.id,
        "db": db,
        "sql": entry.sql,
        "timestamp": entry.ts_ns // NS,
        "timestamp_ms": entry.ts_ns // NS_PER_MS,
        "duration_ms": entry.duration_us / 1000,
        "status": "ok" if entry.error is None else "error",
        "rows_affected": entry.rows,
    }
    if entry.error is not None:
        form["error"] = entry.error
    return form


def statistics(db: str, found: Statistics) -> Json:
    """What the entries of a database come to."""
    return {
        "db": db,
        "total_entries": found.total,
        "ok_entries": found.total - found.errors,
        "error_entries": found.errors,
        "avg_duration_ms": round(found.mean_us / 1000, 3),
        "p95_duration_ms": found.p95_us / 1000,
        "oldest_timestamp": _seconds(found.oldest_ns),
        "newest_timestamp": _seconds(found.newest_ns),
        "queries_per_hour": round(found.per_hour, 3),
    }


def _seconds(ns: int | None) -> int | None:
    return None if ns is None else ns // NS
