"""The shapes of answers and bodies as JSON Schema (2020-12): `routes` names them, OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
NUMBER: Final[Schema] = {"type": "number"}
ANY: Final[Schema] = {}
TRUE: Final[Schema] = {"const": True}
STATUS_OK: Final[Schema] = {"const": "ok"}
ENCODING: Final[Schema] = {"enum": ["utf-8", "base64"]}


def or_null(schema: Schema) -> Schema:
    """This, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array(of: Schema, **more: Any) -> Schema:
    """An array of these."""
    return {"type": "array", "items": of, **more}


def shape(fields: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object that has these fields; a client must bear others."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required}


_TIMES: Final = {"created_at": INTEGER, "updated_at": INTEGER, "expire_at": or_null(INTEGER)}
_VALUE: Final = {"value": STRING, "encoding": ENCODING, "content_type": STRING}

ERROR: Final = shape(
    {
        "statusCode": INTEGER,
        "error": STRING,
        "message": STRING,
        "code": STRING,
        "resolution": STRING,
        "request_id": STRING,
        "current_etag": or_null(STRING),
        "failed": array(STRING),
        "gap_keys": array(STRING),
        "oldest_cursor": STRING,
        "cursor": STRING,
        "reason": {"enum": ["cursor_expired", "database_replaced"]},
        "outcome": {"const": "unknown"},
        "reqIdx": INTEGER,
        "records": INTEGER,
    },
    optional=(
        "reqIdx",
        "records",
        "current_etag",
        "failed",
        "gap_keys",
        "oldest_cursor",
        "cursor",
        "reason",
        "outcome",
    ),
)

ENTRY: Final = shape(
    {"key": STRING, **_VALUE, "size": INTEGER, "etag": STRING, "op_number": INTEGER, **_TIMES}
)

SET: Final = shape(
    {
        "status": STATUS_OK,
        "success": TRUE,
        "key": STRING,
        "created": BOOLEAN,
        "op_number": INTEGER,
        "content_type": STRING,
        "size": INTEGER,
    }
)
DELETE: Final = shape(
    {"status": STATUS_OK, "success": TRUE, "key": STRING, "deleted": TRUE, "op_number": INTEGER}
)
INCR: Final = shape(
    {"success": TRUE, "key": STRING, "value": NUMBER, "previous": or_null(NUMBER), "op_number": INTEGER}
)
PUSH: Final = shape({"success": TRUE, "key": STRING, "length": INTEGER, "op_number": INTEGER})
POP: Final = shape(
    {
        "success": TRUE,
        "key": STRING,
        "value": ANY,
        "popped": BOOLEAN,
        "length": INTEGER,
        "op_number": INTEGER,
    }
)
REMOVE: Final = shape(
    {"success": TRUE, "key": STRING, "removed": {"enum": [0, 1]}, "length": INTEGER, "op_number": INTEGER}
)
REMOVE_BODY: Final = shape({"value": ANY}, optional=("value",))
TTL: Final = shape(
    {"success": TRUE, "key": STRING, "etag": STRING, "expire_at": or_null(INTEGER), "op_number": INTEGER}
)

BATCH_SET_BODY: Final = shape(
    {
        "items": array(
            shape(
                {
                    "key": STRING,
                    "value": STRING,
                    "encoding": ENCODING,
                    "content_type": STRING,
                    "ttl": INTEGER,
                    "if_match": STRING,
                    "if_none_match": {"const": "*"},
                },
                optional=("encoding", "content_type", "ttl", "if_match", "if_none_match"),
            )
        )
    }
)
BATCH_SET: Final = shape(
    {
        "success": TRUE,
        "count": INTEGER,
        "results": array(shape({"key": STRING, "created": BOOLEAN, "op_number": INTEGER})),
    }
)
KEYS_BODY: Final = shape({"keys": array(STRING)})
BATCH_GET: Final = shape(
    {
        "success": TRUE,
        "count": INTEGER,
        "results": {
            "type": "object",
            "additionalProperties": or_null(
                shape({**_VALUE, "size": INTEGER, "etag": STRING, "op_number": INTEGER, **_TIMES})
            ),
        },
    }
)
BATCH_DELETE: Final = shape({"success": TRUE, "deleted": INTEGER})

PAGE: Final = shape(
    {
        "keys": array(STRING),
        "items": array(
            shape(
                {
                    "key": STRING,
                    "size": INTEGER,
                    "content_type": STRING,
                    **_TIMES,
                    "op_number": INTEGER,
                    "value": STRING,
                    "encoding": ENCODING,
                },
                optional=("value", "encoding"),
            )
        ),
        "count": INTEGER,
        "limit": INTEGER,
        "offset": INTEGER,
        "prefix": STRING,
        "has_more": BOOLEAN,
        "next_cursor": or_null(STRING),
        "next_after": or_null(STRING),
        "change_cursor": STRING,
        "delimiter": STRING,
        "prefixes": array(STRING),
        "total": INTEGER,
    },
    optional=("delimiter", "prefixes", "total"),
)
PAST_KEYS: Final = shape(
    {
        "keys": array(STRING),
        "count": INTEGER,
        "limit": INTEGER,
        "prefix": STRING,
        "has_gaps": BOOLEAN,
        "gap_keys": array(STRING),
        "candidate_truncated": BOOLEAN,
        "at_timestamp": INTEGER,
    }
)

DB_CREATED: Final = shape(
    {"success": TRUE, "status": STATUS_OK, "path": STRING, "created": BOOLEAN, "kv_table": STRING},
    optional=("kv_table",),
)
DB_LIST: Final = shape(
    {
        "databases": array(
            shape(
                {
                    "name": STRING,
                    "path": STRING,
                    "kind": {"enum": ["table", "directory"]},
                    "size": or_null(INTEGER),
                    "modified": INTEGER,
                    "valid": BOOLEAN,
                }
            )
        ),
        "count": INTEGER,
    }
)
DB_DELETED: Final = shape({"success": TRUE, "deleted": TRUE, "path": STRING, "files_removed": INTEGER})

_STRING_OR_NULL: Final = or_null(STRING)
_VALUE_OR_NULL: Final = {"value": _STRING_OR_NULL, "encoding": or_null(ENCODING)}
_GAPS: Final = {"has_gaps": BOOLEAN, "gap_keys": array(STRING), "candidate_truncated": BOOLEAN}

HISTORY: Final = shape(
    {
        "key": STRING,
        "operations": array(
            shape(
                {
                    "op_number": INTEGER,
                    "op_type": STRING,
                    "origin": {"enum": ["api", "sql", "file"]},
                    **_VALUE_OR_NULL,
                    "content_type": _STRING_OR_NULL,
                    "timestamp": INTEGER,
                    "timestamp_ms": INTEGER,
                    "ttl": or_null(INTEGER),
                    "raw_old_value": _STRING_OR_NULL,
                    "raw_new_value": _STRING_OR_NULL,
                    "operation": shape({"op": STRING}),
                    "gap": BOOLEAN,
                }
            )
        ),
        "total": INTEGER,
        "oldest_op_number": INTEGER,
    }
)

KEY_SNAPSHOT: Final = shape(
    {
        "success": TRUE,
        "key": STRING,
        "op_number": INTEGER,
        **_VALUE_OR_NULL,
        "content_type": _STRING_OR_NULL,
        "timestamp": INTEGER,
        "timestamp_ms": INTEGER,
        "existed": BOOLEAN,
    }
)

TABLE_SNAPSHOT: Final = shape(
    {
        "db": STRING,
        "table": STRING,
        "timestamp": INTEGER,
        "keys": array(shape({"key": STRING, **_VALUE, "ttl": or_null(INTEGER)})),
        "total": INTEGER,
        **_GAPS,
    }
)

DIFF: Final = shape(
    {
        "db": STRING,
        "table": STRING,
        "from": INTEGER,
        "to": INTEGER,
        "created": array(shape({"key": STRING, "value": STRING, "encoding": ENCODING})),
        "modified": array(
            shape(
                {
                    "key": STRING,
                    "from": STRING,
                    "to": STRING,
                    "from_encoding": ENCODING,
                    "to_encoding": ENCODING,
                }
            )
        ),
        "deleted": array(shape({"key": STRING, "value": STRING, "encoding": ENCODING})),
        "changes": array(
            shape(
                {
                    "key": STRING,
                    "type": {"enum": ["created", "modified", "deleted"]},
                    "from": _STRING_OR_NULL,
                    "to": _STRING_OR_NULL,
                    "from_encoding": or_null(ENCODING),
                    "to_encoding": or_null(ENCODING),
                }
            )
        ),
        "stats": shape({"created": INTEGER, "modified": INTEGER, "deleted": INTEGER}),
        **_GAPS,
    }
)

EVENT: Final = shape(
    {
        "seq": INTEGER,
        "cursor": STRING,
        "table": STRING,
        "key": STRING,
        "op": {"enum": ["set", "ttl", "delete", "expire"]},
        "op_number": INTEGER,
        "origin": {"enum": ["api", "sql", "file"]},
        "ts": INTEGER,
        "ts_ms": INTEGER,
        "etag": _STRING_OR_NULL,
        "expire_at": or_null(INTEGER),
        "content_type": _STRING_OR_NULL,
        **_VALUE_OR_NULL,
        "value_omitted": {"enum": ["superseded", "expired", "too_large"]},
    },
    optional=("content_type", "value", "encoding", "value_omitted"),
)

CHANGES: Final = shape(
    {
        "cursor": STRING,
        "events": array(EVENT),
        "has_more": BOOLEAN,
        "next_cursor": STRING,
        "oldest_cursor": STRING,
    }
)

ROLLED_BACK: Final = shape(
    {
        "success": TRUE,
        "status": STATUS_OK,
        "key": STRING,
        "db": STRING,
        "steps_undone": INTEGER,
        "current_op_number": INTEGER,
        **_VALUE_OR_NULL,
        "existed": BOOLEAN,
    }
)

ROLLBACK_BODY: Final = shape(
    {"keys": array(STRING), "exclude_keys": array(STRING)}, optional=("keys", "exclude_keys")
)

TABLE_ROLLED_BACK: Final = shape(
    {
        "success": TRUE,
        "status": STATUS_OK,
        "db": STRING,
        "table": STRING,
        "to_timestamp": INTEGER,
        "dry_run": BOOLEAN,
        "confirmed": BOOLEAN,
        "keys_restored": INTEGER,
        "keys_deleted": INTEGER,
        "changes": array(shape({"key": STRING, "type": {"enum": ["restored", "deleted"]}})),
    }
)

CACHE: Final = shape(
    {
        "databases": array(
            shape(
                {
                    "path": STRING,
                    "size": INTEGER,
                    "readonly": BOOLEAN,
                    "in_doubt": or_null(STRING),
                    "users": INTEGER,
                    "queued": INTEGER,
                    "idle_seconds": NUMBER,
                }
            )
        ),
        "directory_stores": array(
            shape(
                {
                    "path": STRING,
                    "table": STRING,
                    "readonly": BOOLEAN,
                    "in_doubt": or_null(STRING),
                    "files": INTEGER,
                    "indexed_keys": INTEGER,
                    "indexed_folders": INTEGER,
                    "watcher": {"enum": ["off", "starting", "watching", "scanning", "failed", "standby"]},
                    "watcher_reason": or_null(STRING),
                    "watcher_restarts": INTEGER,
                    "events_seen": INTEGER,
                    "pending": INTEGER,
                    "scans": INTEGER,
                    "last_scan_ms": or_null(NUMBER),
                    "reconciles": INTEGER,
                    "index_hits": INTEGER,
                    "index_misses": INTEGER,
                    "last_rebuild": or_null(INTEGER),
                    "last_rebuild_ms": or_null(NUMBER),
                    "op_log_size": INTEGER,
                    "users": INTEGER,
                    "queued": INTEGER,
                    "idle_seconds": NUMBER,
                }
            )
        ),
        "failed": array(shape({"path": STRING, "message": STRING})),
        "connections": INTEGER,
        "workers": array(shape({"worker": INTEGER, "connections": INTEGER})),
    },
    optional=("workers",),
)

_SQL_VALUE: Final[Schema] = {"anyOf": [{"type": ["null", "boolean", "number", "string"]}, {"type": "object"}]}
_SQL_VALUES: Final[Schema] = {
    "anyOf": [array(_SQL_VALUE), {"type": "object", "additionalProperties": _SQL_VALUE}]
}
TRANSACTION_BODY: Final = shape(
    {
        "resultFormat": STRING,
        "transaction": array(
            shape(
                {
                    "query": STRING,
                    "statement": STRING,
                    "sql": STRING,
                    "values": _SQL_VALUES,
                    "valuesBatch": array(_SQL_VALUES),
                    "noFail": BOOLEAN,
                },
                optional=("query", "statement", "sql", "values", "valuesBatch", "noFail"),
            ),
            minItems=1,
            maxItems=10_000,
        ),
    },
    optional=("resultFormat",),
)
_ROW: Final[Schema] = {"type": "object", "additionalProperties": _SQL_VALUE}
TRANSACTION: Final = shape(
    {
        "results": array(
            shape(
                {
                    "success": BOOLEAN,
                    "resultHeaders": array(STRING),
                    "resultSet": array(_ROW),
                    "resultSetList": array(array(_SQL_VALUE)),
                    "truncated": TRUE,
                    "rowsUpdated": INTEGER,
                    "rowsUpdatedBatch": array(INTEGER),
                    "error": STRING,
                    "batchIdx": INTEGER,
                },
                optional=(
                    "resultHeaders", "resultSet", "resultSetList", "truncated", "rowsUpdated",
                    "rowsUpdatedBatch", "error", "batchIdx",
                ),
            )
        )
    }
)  # fmt: skip
TRANSACTION_FAILED: Final = shape(
    {"reqIdx": INTEGER, "batchIdx": INTEGER, "error": STRING, "success": {"const": False}},
    optional=("batchIdx",),
)
SELECTED: Final = shape(
    {"columns": array(STRING), "resultSet": array(_ROW), "rowCount": INTEGER, "truncated": BOOLEAN}
)

QUERIES: Final = shape(
    {
        "entries": array(
            shape(
                {
                    "id": INTEGER,
                    "db": STRING,
                    "sql": STRING,
                    "timestamp": INTEGER,
                    "timestamp_ms": INTEGER,
                    "duration_ms": NUMBER,
                    "status": {"enum": ["ok", "error"]},
                    "rows_affected": INTEGER,
                    "error": STRING,
                },
                optional=("error",),
            )
        ),
        "total": INTEGER,
        "limit": INTEGER,
    }
)
QUERY_STATISTICS: Final = shape(
    {
        "db": STRING,
        "total_entries": INTEGER,
        "ok_entries": INTEGER,
        "error_entries": INTEGER,
        "avg_duration_ms": NUMBER,
        "p95_duration_ms": NUMBER,
        "oldest_timestamp": or_null(INTEGER),
        "newest_timestamp": or_null(INTEGER),
        "queries_per_hour": NUMBER,
    }
)
QUERIES_CLEARED: Final = shape({"db": STRING, "deleted": INTEGER, "status": STATUS_OK})
QUERY_DELETED: Final = shape({"db": STRING, "index": INTEGER, "deleted": TRUE})

IMPORTED: Final = shape(
    {
        "success": TRUE,
        "history": BOOLEAN,
        "records": INTEGER,
        "at": {"type": ["integer", "string", "null"]},
        "complete": BOOLEAN,
        "imported": INTEGER,
        "skipped": INTEGER,
        "expired": INTEGER,
    }
)

_AT_LEAST_ONE: Final[Schema] = or_null({"type": "integer", "minimum": 1})
MAINTENANCE_BODY: Final = shape(
    {
        "op": {
            "enum": [
                "rebuild", "wal_checkpoint_truncate", "vacuum_into", "quick_check", "integrity_check",
                "optimize", "vacuum", "restore", "history_prune", "retention",
            ]
        },
        "before": {"type": ["integer", "number", "string", "null"]},
        "keep_last": _AT_LEAST_ONE,
        "max_age_s": _AT_LEAST_ONE,
        "dest_path": STRING,
        "src_path": STRING,
    },
    optional=("dest_path", "src_path", "before", "keep_last", "max_age_s"),
)  # fmt: skip

MAINTENANCE: Final = shape(
    {
        "success": TRUE,
        "op": STRING,
        "duration_ms": NUMBER,
        "files": INTEGER,
        "keys": INTEGER,
        "changed": INTEGER,
        "recorded": INTEGER,
        "ignored": {"type": "object", "additionalProperties": INTEGER},
        "removed": INTEGER,
        "complete": BOOLEAN,
        "stopped_by": or_null(STRING),
        "pruned_seq": INTEGER,
        "freed_bytes": INTEGER,
        "free_bytes": INTEGER,
        "keep_last": or_null(INTEGER),
        "max_age_s": or_null(INTEGER),
        "frames": INTEGER,
        "ok": BOOLEAN,
        "problems": array(STRING),
        "dest_path": STRING,
        "src_path": STRING,
        "size": INTEGER,
        "size_before": INTEGER,
    },
    optional=(
        "files", "keys", "changed", "recorded", "ignored", "removed", "complete", "stopped_by", "pruned_seq",
        "freed_bytes", "free_bytes", "keep_last", "max_age_s", "frames", "ok", "problems", "dest_path",
        "src_path", "size", "size_before",
    ),
)  # fmt: skip

HEALTH: Final = shape(
    {
        "status": {"enum": ["ok", "degraded"]},
        "version": STRING,
        "uptime_seconds": INTEGER,
        "failed_stores": INTEGER,
        "read_only_stores": INTEGER,
        "sqlite_version": STRING,
    }
)

OPENAPI: Final = shape({"openapi": STRING, "info": {"type": "object"}, "paths": {"type": "object"}})
