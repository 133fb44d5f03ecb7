"""Triggers that log what SQL does to a KV table, by whatever program: SQLite runs them in the statement's own
transaction, so that a row and its op cannot part, and a copy of the file takes them along.

kvfs's own connection for keys has triggers switched off, and logs what it does itself; so they cost its
writes nothing, and every row that one is fired for was written by SQL. They use nothing but what a plain
SQLite has, from 3.38 on. SHA-256 is not among that, nor is telling JSON from text as kvfs does:
`value_hash` and, where the statement gave none, `content_type` stay NULL in the log, and are worked out by
whoever reads it.

- INSERT is a `set`, also where REPLACE put the row in place of another.
- UPDATE is a `set`; where it changes the key, a `delete` of the old one as well. It sets `updated_at` where
  it changes the value and leaves that column alone; JSON is then told anew from the value.
- DELETE is a `delete`.
- What had run out by then is logged as `expire` first, or instead of the `delete`.
- A trigger gives the row its `op_number`, whatever the statement put there. The UPDATE that does so fires
  the trigger of updates again, which passes over it: it alone brings in the number of the key's last op.
"""

from __future__ import annotations

from typing import Final

import apsw

from kvfs.content_types import JSON
from kvfs.keys import KEY_MAX_BYTES
from kvfs.sqlite import fetch, quoted

EXPIRE_MAX_MS: Final = 9_000_000_000_000
"""Rows may have any `expire_at`; a later one counts as this. In nanoseconds it still fits into 64 bits."""

_ABSENT: Final = 4
"""The flag of an op that leaves no key as long as it is the last one; see `kvfs.oplog`."""

_NOW_S: Final = "CAST(strftime('%s', 'now') AS INTEGER)"
_NOW_NS: Final = f"(({_NOW_S} * 1000 + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER)) * 1000000)"

_COLUMNS: Final = (
    "seq, key, op_number, op_type, origin, ts_ns, content_type, size, created_s, updated_s, expire_ns, value"
)

_CHECK: Final = f"""
    SELECT RAISE(ABORT, 'a key is 1 to {KEY_MAX_BYTES} bytes of text without NUL')
     WHERE typeof(NEW.key) <> 'text' OR instr(NEW.key, char(0))
        OR length(CAST(NEW.key AS BLOB)) NOT BETWEEN 1 AND {KEY_MAX_BYTES};"""

_OP: Final = f"""
    INSERT INTO {{log}} ({_COLUMNS})
    SELECT coalesce((SELECT max(seq) FROM {{log}}), 0) + 1,
           {{key}},
           coalesce((SELECT max(op_number) FROM {{log}} WHERE key = {{key}}), 0) + 1,
           {{op_type}},
           {{origin}},
           max({_NOW_NS}, coalesce((SELECT ts_ns FROM {{log}} ORDER BY seq DESC LIMIT 1), 0)),
           {{entry}}
     WHERE {{condition}};"""

_NOTHING: Final = "NULL, NULL, NULL, NULL, NULL, NULL"


class Triggers:
    """The triggers of one KV table."""

    def __init__(self, table: str, log: str) -> None:
        """`table` is the KV table's name, `log` its op-log's table, quoted."""
        self._table = quoted(table)
        self._log = log
        self._statements = {
            f"kvfs_insert_{table}": self._on_insert(quoted(f"kvfs_insert_{table}")),
            f"kvfs_update_{table}": self._on_update(quoted(f"kvfs_update_{table}")),
            f"kvfs_delete_{table}": self._on_delete(quoted(f"kvfs_delete_{table}")),
        }
        self._missing = (
            f"op_number = {self._last('op.key')} AND created_s IS NOT NULL AND NOT flags & {_ABSENT}"
            f" AND NOT EXISTS (SELECT 1 FROM {self._table} AS entry WHERE entry.key = op.key)"
        )
        self._differing = f"""NOT EXISTS (
            SELECT 1 FROM {self._log} AS op
             WHERE op.key = entry.key AND op.op_number = {self._last("entry.key")}
               AND op.op_number = entry.op_number AND op.created_s IS NOT NULL
               AND (op.flags OR CAST(op.value AS BLOB) = CAST(entry.value AS BLOB))
               AND (op.content_type IS entry.content_type OR entry.content_type IS NULL)
               AND op.expire_ns IS {_expire_ns("entry.expire_at")})"""
        names = ", ".join("'" + name.replace("'", "''") + "'" for name in self._statements)
        self._find = f"SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name IN ({names})"

    def installed(self, connection: apsw.Connection) -> bool:
        """Whether all of them are there, as this program knows them."""
        return dict(fetch(connection, self._find)) == self._statements

    def install(self, connection: apsw.Connection) -> None:
        """Make them, inside the caller's transaction, and log whatever was done to the table without them."""
        complete = len(fetch(connection, self._find)) == len(self._statements)
        for name, statement in self._statements.items():
            connection.execute(f"DROP TRIGGER IF EXISTS {quoted(name)}")
            connection.execute(statement)
        if not complete:
            self._catch_up(connection)

    def differences(self, connection: apsw.Connection, limit: int) -> list[str]:
        """Up to so many keys whose rows are not what the log says. With triggers, only damage makes some."""
        sql = (
            f"SELECT key FROM {self._log} AS op WHERE {self._missing}"
            f" UNION SELECT key FROM {self._table} AS entry WHERE {self._differing} LIMIT ?"
        )
        return [key for (key,) in fetch(connection, sql, (limit,))]

    # --- what was done without them ----------------------------------------------------------------------

    def _catch_up(self, connection: apsw.Connection) -> None:
        """Log each row that is not what the log says, and each key of which there is no entry."""
        connection.execute(f"""
            INSERT INTO {self._log} ({_COLUMNS})
            SELECT (SELECT max(seq) FROM {self._log}) + row_number() OVER (),
                   key,
                   op_number + 1,
                   iif(expire_ns <= {_NOW_NS}, 'expire', 'delete'),
                   iif(expire_ns <= {_NOW_NS}, 'api', 'sql'),
                   max({_NOW_NS}, (SELECT ts_ns FROM {self._log} ORDER BY seq DESC LIMIT 1)),
                   {_NOTHING}
              FROM {self._log} AS op WHERE {self._missing}""")
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
        try:
            connection.execute(
                f"UPDATE {self._table} AS entry SET op_number = op_number WHERE {self._differing}"
            )
        finally:
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)

    # --- the statements -----------------------------------------------------------------------------------

    def _on_insert(self, name: str) -> str:
        return self._trigger(
            name,
            "AFTER INSERT",
            "true",
            _CHECK,
            self._expired("NEW.key"),
            self._set("NEW.content_type", "NEW.updated_at"),
            self._numbered("op_number", ""),
        )

    def _on_update(self, name: str) -> str:
        content_type = (
            "iif(NEW.content_type IS OLD.content_type AND NEW.value IS NOT OLD.value,"
            f" nullif(NEW.content_type, '{JSON}'), NEW.content_type)"
        )
        updated_at = (
            "CASE WHEN NEW.updated_at IS OLD.updated_at"
            " AND (NEW.value IS NOT OLD.value OR NEW.content_type IS NOT OLD.content_type)"
            f" THEN {_NOW_S} ELSE NEW.updated_at END"
        )
        return self._trigger(
            name,
            "AFTER UPDATE",
            f"NEW.op_number IS OLD.op_number OR NEW.op_number IS NOT {self._last('NEW.key')}",
            _CHECK,
            self._gone("NEW.key IS NOT OLD.key"),
            self._expired("NEW.key"),
            self._set(content_type, updated_at),
            self._numbered("op_number, content_type, updated_at", f", {content_type}, {updated_at}"),
        )

    def _on_delete(self, name: str) -> str:
        return self._trigger(name, "AFTER DELETE", "true", self._gone("true"))

    def _trigger(self, name: str, event: str, condition: str, *steps: str) -> str:
        return f"CREATE TRIGGER {name} {event} ON {self._table}\nWHEN {condition}\nBEGIN{''.join(steps)}\nEND"

    def _set(self, content_type: str, updated_at: str) -> str:
        # A row that the statement happened to give its next number is left as it is: see `_numbered`.
        left = f"NEW.op_number IS coalesce({self._last('NEW.key')}, 0) + 1"
        entry = (
            f"iif({left}, NEW.content_type, {content_type}), length(CAST(NEW.value AS BLOB)),"
            f" CAST(NEW.created_at AS INTEGER), CAST(iif({left}, NEW.updated_at, {updated_at}) AS INTEGER),"
            f" {_expire_ns('NEW.expire_at')}, NEW.value"
        )
        return self._op("NEW.key", "'set'", "'sql'", entry, "true")

    def _expired(self, key: str) -> str:
        """The end of what the log has of a key, if that has run out."""
        last = f"SELECT 1 FROM {self._log} WHERE key = {key} AND op_number = {self._last(key)}"
        return self._op(key, "'expire'", "'api'", _NOTHING, f"EXISTS ({last} AND expire_ns <= {_NOW_NS})")

    def _gone(self, condition: str) -> str:
        ran_out = f"{_expire_ns('OLD.expire_at')} <= {_NOW_NS}"
        op_type, origin = f"iif({ran_out}, 'expire', 'delete')", f"iif({ran_out}, 'api', 'sql')"
        return self._op("OLD.key", op_type, origin, _NOTHING, condition)

    def _op(self, key: str, op_type: str, origin: str, entry: str, condition: str) -> str:
        return _OP.format(
            log=self._log, key=key, op_type=op_type, origin=origin, entry=entry, condition=condition
        )

    def _numbered(self, columns: str, values: str) -> str:
        last = self._last("NEW.key")
        return (
            f"\n    UPDATE {self._table} SET ({columns}) = (SELECT {last}{values})"
            f"\n     WHERE key = NEW.key AND op_number IS NOT {last};"
        )

    def _last(self, key: str) -> str:
        return f"(SELECT max(op_number) FROM {self._log} WHERE key = {key})"


def _expire_ns(expire_at: str) -> str:
    """A row's `expire_at`, which may be anything, as the log has it."""
    return (
        f"CASE WHEN typeof({expire_at}) IN ('integer', 'real')"
        f" THEN CAST(max(0, min(round({expire_at} * 1000), {EXPIRE_MAX_MS})) AS INTEGER) * 1000000 END"
    )
