"""The wire forms: everything that an answer says in JSON, and a value's headers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from kvfs import content_types
from kvfs.catalog import Listed
from kvfs.feed import Changes, Event, Place
from kvfs.listing import Page, Query
from kvfs.model import NS, NS_PER_MS, Entry, FileValue, Op, Outcome, WriteResult, value_bytes
from kvfs.paths import TABLE_DEFAULT
from kvfs.status import DatabaseStatus, EngineStatus, FolderStatus
from kvfs.timetravel import Diff, History, Operation, PastEntries, PastKeys
from kvfs.valuetext import encoded
from server.errors import JSON
from server.reply import Reply

Json = dict[str, Any]

REPLAYED: Final = "Idempotent-Replayed: true\r\n"


def json_reply(answer: Json, headers: str = "", status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(status, orjson.dumps(answer), JSON, headers)


def write_reply(answer: Json, outcome: Outcome, headers: str = "") -> Reply:
    """The answer to a write, which says so if it is an earlier one."""
    return Reply(200, orjson.dumps(answer), JSON, headers + REPLAYED if outcome.replayed else headers)


# --- values --------------------------------------------------------------------------------------------

# A value that a browser opens is shown, and runs nothing: it has the origin of the page that knows the token.
_UNTRUSTED: Final = "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n"


def value_headers(entry: Entry, *, reference: bool = False, directory: bool = False) -> str:
    """The header lines that describe a value, but for its content type."""
    expire = "" if entry.expire_ns is None else f"X-Expire-At: {entry.expire_ns // NS}\r\n"
    lines = (
        f'ETag: "{entry.op_number}"\r\nAccept-Ranges: bytes\r\nX-Created-At: {entry.created_s}\r\n'
        f"X-Updated-At: {entry.updated_s}\r\n{expire}{_UNTRUSTED}"
    )
    if reference:
        lines += "X-KV-Reference: true\r\n"
    if directory:
        lines += "X-Directory-Mode: true\r\n"
        if entry.sha256 is not None:
            lines += f"X-File-Hash: {entry.sha256.hex()}\r\n"
    return lines


@lru_cache(maxsize=1024)
def content_type_header(content_type: str) -> str:
    """A stored content type, if it can stand in a header: by SQL, anything can get into a row."""
    if content_type.isascii() and content_type.isprintable() and "/" in content_type:
        return content_type
    return content_types.BYTES


def entry_form(entry: Entry) -> Json:
    """A value and its metadata in one."""
    assert entry.value is not None
    text, encoding = encoded(value_bytes(entry.value))
    return {
        "key": entry.key,
        "value": text,
        "encoding": encoding,
        "content_type": entry.content_type,
        "size": entry.size,
        "etag": entry.etag,
        "op_number": entry.op_number,
        "created_at": entry.created_s,
        "updated_at": entry.updated_s,
        "expire_at": seconds(entry.expire_ns),
    }


def seconds(ns: int | None) -> int | None:
    """Nanoseconds as whole seconds."""
    return None if ns is None else ns // NS


# --- lists ---------------------------------------------------------------------------------------------


def page_form(page: Page, query: Query) -> Json:
    """One page of keys."""
    count = len(page.entries) + len(page.prefixes)
    answer: Json = {
        "keys": [entry.key for entry in page.entries],
        "items": [_item(entry, values=query.values) for entry in page.entries],
        "count": count,
        "limit": query.limit,
        "offset": query.offset,
        "prefix": query.prefix,
        "has_more": page.has_more,
        "next_cursor": str(query.offset + count) if page.has_more else None,
        "next_after": page.last if page.has_more else None,
        "change_cursor": str(page.cursor),
    }
    if query.delimiter:
        answer["delimiter"] = query.delimiter
        answer["prefixes"] = page.prefixes
    if page.total is not None:
        answer["total"] = page.total
    return answer


def _item(entry: Entry, *, values: bool) -> Json:
    item: Json = {
        "key": entry.key,
        "size": entry.size,
        "content_type": entry.content_type,
        "created_at": entry.created_s,
        "updated_at": entry.updated_s,
        "expire_at": seconds(entry.expire_ns),
        "op_number": entry.op_number,
    }
    if values and entry.value is not None:
        item["value"], item["encoding"] = encoded(value_bytes(entry.value))
    return item


def past_form(past: PastKeys, *, ts_ns: int, prefix: str, limit: int) -> Json:
    """The keys that there were at a time."""
    return {
        "keys": past.keys,
        "count": len(past.keys),
        "limit": limit,
        "prefix": prefix,
        "has_gaps": past.has_gaps,
        "gap_keys": past.gap_keys,
        "candidate_truncated": past.candidate_truncated,
        "at_timestamp": ts_ns // NS,
    }


# --- the past -------------------------------------------------------------------------------------------


def history_form(key: str, page: History) -> Json:
    """A page of a key's operations."""
    return {
        "key": key,
        "operations": [_operation_form(each) for each in page.operations],
        "total": page.total,
        "oldest_op_number": page.oldest_op_number,
    }


def _operation_form(operation: Operation) -> Json:
    op, before = operation
    new = None if op.entry is None else _bytes_of(op.entry)
    old = None if before is None else _bytes_of(before)
    return {
        "op_number": op.op_number,
        "op_type": op.op_type,
        "origin": op.origin,
        **_value_or_null(new),
        "content_type": None if op.entry is None else op.entry.content_type,
        **_times(op.ts_ns),
        "ttl": op.ttl_s,
        "raw_old_value": _base64(old),
        "raw_new_value": _base64(new),
        "operation": {"op": op.op_type},
        "gap": not op.recorded,
    }


def snapshot_form(op: Op) -> Json:
    """A key as an operation left it."""
    return {
        "success": True,
        "key": op.key,
        "op_number": op.op_number,
        **_value_or_null(None if op.entry is None else _bytes_of(op.entry)),
        "content_type": None if op.entry is None else op.entry.content_type,
        **_times(op.ts_ns),
        "existed": op.entry is not None,
    }


def table_snapshot_form(past: PastEntries, *, db: str, table: str | None, ts_ns: int) -> Json:
    """All keys as they were at a time; `ttl` is what was left then, in seconds."""
    return {
        "db": db,
        "table": table or TABLE_DEFAULT,
        "timestamp": ts_ns // NS,
        "keys": [
            {
                "key": entry.key,
                **_value_or_null(_bytes_of(entry)),
                "content_type": entry.content_type,
                "ttl": entry.ttl_left_s(ts_ns),
            }
            for entry in past.entries
        ],
        "total": past.total,
        **_gaps_form(past),
    }


def diff_form(diff: Diff, *, db: str, table: str | None, from_ns: int, to_ns: int) -> Json:
    """What changed between two times."""
    created, modified, deleted, changes = [], [], [], []
    for key, before, after in diff.differences:
        old = _value_or_null(None if before is None else _bytes_of(before))
        new = _value_or_null(None if after is None else _bytes_of(after))
        ends = {
            "from": old["value"],
            "to": new["value"],
            "from_encoding": old["encoding"],
            "to_encoding": new["encoding"],
        }
        if before is None:
            kind = "created"
            created.append({"key": key, **new})
        elif after is None:
            kind = "deleted"
            deleted.append({"key": key, **old})
        else:
            kind = "modified"
            modified.append({"key": key, **ends})
        changes.append({"key": key, "type": kind, **ends})
    return {
        "db": db,
        "table": table or TABLE_DEFAULT,
        "from": from_ns // NS,
        "to": to_ns // NS,
        "created": created,
        "modified": modified,
        "deleted": deleted,
        "changes": changes,
        "stats": {"created": len(created), "modified": len(modified), "deleted": len(deleted)},
        **_gaps_form(diff),
    }


def rolled_back_form(result: WriteResult, op: Op | None, *, db: str, steps: int) -> Json:
    """A key after its last operations were undone; `op` is what did it, if the log still has it."""
    return {
        "success": True,
        "status": "ok",
        "key": result.key,
        "db": db,
        "steps_undone": steps,
        "current_op_number": result.op_number,
        **_value_or_null(None if op is None or op.entry is None else _bytes_of(op.entry)),
        "existed": not result.removed,
    }


def table_rolled_back_form(
    outcome: Outcome, *, db: str, table: str | None, to_ns: int, dry_run: bool, confirmed: bool
) -> Json:
    """A table after it was made what it was, or what that would change."""
    changes = [
        {"key": result.key, "type": "deleted" if result.removed else "restored"} for result in outcome.results
    ]
    deleted = sum(bool(result.removed) for result in outcome.results)
    return {
        "success": True,
        "status": "ok",
        "db": db,
        "table": table or TABLE_DEFAULT,
        "to_timestamp": to_ns // NS,
        "dry_run": dry_run,
        "confirmed": confirmed,
        "keys_restored": len(changes) - deleted,
        "keys_deleted": deleted,
        "changes": changes,
    }


# --- the change feed ------------------------------------------------------------------------------------


def changes_form(page: Changes, table: str, *, values: bool) -> Json:
    """A page of events. `cursor` is where it has got to, which is where the next one begins."""
    return {
        "cursor": str(page.next),
        "events": [event_form(event, table, values=values) for event in page.events],
        "has_more": page.has_more,
        "next_cursor": str(page.next),
        "oldest_cursor": str(page.oldest),
    }


def no_changes_form(place: Place) -> Json:
    """A page without events."""
    return changes_form(Changes((), place.cursor, place.oldest), "", values=False)


def place_form(place: Place) -> Json:
    """A place to follow the log from."""
    return {"cursor": str(place.cursor), "oldest_cursor": str(place.oldest)}


def event_form(event: Event, table: str, *, values: bool) -> Json:
    """One change of one key."""
    op, entry = event.op, event.op.entry
    form: Json = {
        "seq": op.seq,
        "cursor": str(event.cursor),
        "table": table,
        "key": op.key,
        "op": event.kind,
        "op_number": op.op_number,
        "origin": op.origin,
        "ts": op.ts_ns // NS,
        "ts_ms": op.ts_ns // NS_PER_MS,
        "etag": None if entry is None else entry.etag,
        "expire_at": None if entry is None else seconds(entry.expire_ns),
    }
    if values:
        form["content_type"] = None if entry is None else entry.content_type
        if event.omitted is None:
            form |= _value_or_null(event.value)
        else:
            form["value_omitted"] = event.omitted
    return form


def _gaps_form(past: PastEntries | Diff) -> Json:
    return {
        "has_gaps": past.has_gaps,
        "gap_keys": past.gap_keys,
        "candidate_truncated": past.candidate_truncated,
    }


def _value_or_null(value: bytes | None) -> Json:
    if value is None:
        return {"value": None, "encoding": None}
    text, encoding = encoded(value)
    return {"value": text, "encoding": encoding}


def _times(ts_ns: int) -> Json:
    return {"timestamp": ts_ns // NS, "timestamp_ms": ts_ns // NS_PER_MS}


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes_of(entry: Entry) -> bytes | None:
    """The value in memory, None where it was not recorded; a file is closed."""
    if isinstance(entry.value, FileValue):
        with entry.value as file:
            return file.read()
    return entry.value


# --- writes --------------------------------------------------------------------------------------------


def set_form(result: WriteResult) -> Json:
    return {
        "status": "ok",
        "success": True,
        "key": result.key,
        "created": result.created,
        "op_number": result.op_number,
        "content_type": result.content_type,
        "size": result.size,
    }


def delete_form(result: WriteResult) -> Json:
    return {
        "status": "ok",
        "success": True,
        "key": result.key,
        "deleted": True,
        "op_number": result.op_number,
    }


def incr_form(result: WriteResult) -> Json:
    return {
        "success": True,
        "key": result.key,
        "value": result.number,
        "previous": result.previous,
        "op_number": result.op_number,
    }


def push_form(result: WriteResult) -> Json:
    return {"success": True, "key": result.key, "length": result.length, "op_number": result.op_number}


def pop_form(result: WriteResult) -> Json:
    """The popped element in its exact text."""
    return {
        "success": True,
        "key": result.key,
        "value": None if result.node is None else orjson.Fragment(result.node),
        "popped": result.node is not None,
        "length": result.length,
        "op_number": result.op_number,
    }


def remove_form(result: WriteResult) -> Json:
    return {
        "success": True,
        "key": result.key,
        "removed": result.removed,
        "length": result.length,
        "op_number": result.op_number,
    }


def ttl_form(result: WriteResult) -> Json:
    return {
        "success": True,
        "key": result.key,
        "etag": str(result.op_number),
        "expire_at": seconds(result.expire_ns),
        "op_number": result.op_number,
    }


# --- batches -------------------------------------------------------------------------------------------


def batch_set_form(outcome: Outcome) -> Json:
    return {
        "success": True,
        "count": len(outcome.results),
        "results": [
            {"key": result.key, "created": result.created, "op_number": result.op_number}
            for result in outcome.results
        ],
    }


def batch_get_form(found: Mapping[str, Entry | None]) -> Json:
    return {
        "success": True,
        "count": sum(entry is not None for entry in found.values()),
        "results": {key: None if entry is None else _batch_entry(entry) for key, entry in found.items()},
    }


def _batch_entry(entry: Entry) -> Json:
    form = entry_form(entry)
    del form["key"]
    return form


def batch_delete_form(outcome: Outcome) -> Json:
    return {"success": True, "deleted": len(outcome.results)}


# --- databases -----------------------------------------------------------------------------------------


def cache_form(status: EngineStatus, connections: int) -> Json:
    databases, folders = [], []
    for each in status.open:
        use = {"users": each.users, "queued": each.queued, "idle_seconds": round(each.idle_s, 3)}
        volume = each.volume
        if isinstance(volume, DatabaseStatus):
            databases.append(
                {
                    "path": volume.path,
                    "size": volume.size_bytes,
                    "readonly": volume.readonly,
                    "in_doubt": volume.in_doubt,
                    **use,
                }
            )
        else:
            folders.append({**_folder_form(volume), **use})
    return {
        "databases": databases,
        "directory_stores": folders,
        "failed": [{"path": path, "message": message} for path, message in status.failed.items()],
        "connections": connections,
    }


def _folder_form(folder: FolderStatus) -> Json:
    return {
        "path": folder.path,
        "table": folder.table,
        "readonly": folder.readonly,
        "in_doubt": folder.in_doubt,
        "files": folder.keys,
        "indexed_keys": folder.keys,
        "indexed_folders": folder.folders,
        "watcher": folder.watcher,
        "watcher_reason": folder.watcher_reason,
        "watcher_restarts": folder.restarts,
        "events_seen": folder.events,
        "pending": folder.pending,
        "scans": folder.scans,
        "last_scan_ms": _ms(folder.last_scan_s),
        "reconciles": folder.reconciles,
        "index_hits": folder.hits,
        "index_misses": folder.misses,
        "last_rebuild": None if folder.last_rebuild_at_s is None else int(folder.last_rebuild_at_s),
        "last_rebuild_ms": _ms(folder.last_rebuild_s),
        "op_log_size": folder.oplog_bytes,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def catalog_form(listed: Iterable[Listed]) -> Json:
    databases = [
        {
            "name": each.name,
            "path": each.path,
            "kind": each.kind,
            "size": each.size_bytes,
            "modified": each.modified_s,
            "valid": each.valid,
        }
        for each in listed
    ]
    return {"databases": databases, "count": len(databases)}
