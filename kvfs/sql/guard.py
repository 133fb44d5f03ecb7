"""What SQL of strangers may do. SQLite itself is asked, statement by statement, as it compiles them: the
authorizer sees what a statement would do, however it is spelled (sqlite.org/c3ref/set_authorizer.html).

Refused are: transaction control, ATTACH, DETACH and VACUUM (one request is one transaction on one file);
pragmas that are not on the list of those that only tell something; functions that load code; virtual tables
of modules that are not known to stay inside the database; temporary objects, which would outlive the request
on a connection that others use; and all that would make, change or delete what is kvfs's own. KV tables are
free to be read and written, row by row, but not to be dropped or altered: their op-logs would lie.

Limits bound what compiling and running may take (sqlite.org/security.html).
"""

from __future__ import annotations

import enum
from typing import Final

import apsw

OWN: Final = "kvfs_"
"""How the names of kvfs's own tables, indexes and triggers begin."""

ONLY_SELECT: Final = "only SELECT is allowed"
"""Why anything else is refused in `Mode.SELECT`."""

_READ_PRAGMAS: Final = frozenset(
    {
        "application_id", "auto_vacuum", "collation_list", "compile_options", "data_version", "encoding",
        "foreign_keys", "freelist_count", "function_list", "journal_mode", "module_list", "page_count",
        "page_size", "pragma_list", "recursive_triggers", "schema_version", "table_list", "user_version",
    }
)  # fmt: skip
_TELLING_PRAGMAS: Final = frozenset(
    {
        "foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo", "table_info",
        "table_list", "table_xinfo",
    }
)  # fmt: skip
"""Those whose argument is what to tell about."""

_REFUSED_FUNCTIONS: Final = frozenset({"load_extension", "fts3_tokenizer", "sqlite_log"})
_VOLATILE_FUNCTIONS: Final = frozenset(
    {
        "changes", "current_date", "current_time", "current_timestamp", "date", "datetime", "julianday",
        "last_insert_rowid", "random", "randomblob", "strftime", "time", "timediff", "total_changes",
        "unixepoch",
    }
)  # fmt: skip
"""Those that may give another result while the database stays the same."""

_MODULES: Final = frozenset({"fts3", "fts4", "fts4aux", "fts5", "fts5vocab", "geopoly", "rtree", "rtree_i32"})

_READING: Final = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE})
_CONTROL: Final = {
    apsw.SQLITE_TRANSACTION: "transaction control is not allowed: a request is one transaction",
    apsw.SQLITE_SAVEPOINT: "savepoints are not allowed: use noFail",
    apsw.SQLITE_ATTACH: "ATTACH and VACUUM are not allowed",
    apsw.SQLITE_DETACH: "DETACH is not allowed",
}
_TEMPORARY: Final = frozenset(
    {
        apsw.SQLITE_CREATE_TEMP_INDEX, apsw.SQLITE_CREATE_TEMP_TABLE, apsw.SQLITE_CREATE_TEMP_TRIGGER,
        apsw.SQLITE_CREATE_TEMP_VIEW, apsw.SQLITE_DROP_TEMP_INDEX, apsw.SQLITE_DROP_TEMP_TABLE,
        apsw.SQLITE_DROP_TEMP_TRIGGER, apsw.SQLITE_DROP_TEMP_VIEW,
    }
)  # fmt: skip
_NO_TEMPORARY: Final = "temporary objects are not allowed: requests share their connections"
_WRITING: Final = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_DEFINING: Final = frozenset(
    {
        apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VIEW, apsw.SQLITE_CREATE_VTABLE, apsw.SQLITE_DROP_INDEX,
        apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_TRIGGER, apsw.SQLITE_DROP_VIEW, apsw.SQLITE_DROP_VTABLE,
    }
)  # fmt: skip
_DROPPING: Final = frozenset({apsw.SQLITE_DROP_INDEX, apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_TRIGGER})
_HARMLESS: Final = frozenset({apsw.SQLITE_ANALYZE, apsw.SQLITE_REINDEX})

_LIMITS: Final = {
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 500,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 500,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: 127,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 100,
    apsw.SQLITE_LIMIT_VARIABLE_NUMBER: 32_766,
    apsw.SQLITE_LIMIT_VDBE_OP: 1_000_000,
    apsw.SQLITE_LIMIT_WORKER_THREADS: 0,
}


class Mode(enum.Enum):
    """What a guarded connection is used for now."""

    OWN = enum.auto()
    """kvfs's own statements: nothing is refused."""
    SELECT = enum.auto()
    """One SELECT, which shows data and nothing else."""
    TRANSACTION = enum.auto()


class Guard:
    """The authorizer of one connection; belongs to the thread that uses the connection.

    `reason` is why the last statement was refused. `selects` and `volatile` tell what was compiled since
    `watch`: whether it is a SELECT, and whether its result may change by itself. `altered`: a table was, so
    that names must be looked at, which no authorizer sees.
    """

    def __init__(self, connection: apsw.Connection, *, max_length: int) -> None:
        self.mode = Mode.OWN
        self.kv_tables: frozenset[str] = frozenset()
        """The KV tables of the database, in lower case."""
        self.reason: str | None = None
        self.selects = self.volatile = self.altered = False
        for limit, value in _LIMITS.items():
            connection.limit(limit, value)
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, max_length)
        connection.set_authorizer(self._authorize)

    def watch(self, mode: Mode) -> None:
        """From now on this mode's rules hold, and what is compiled is noted anew."""
        self.mode = mode
        self.reason = None
        self.selects = self.volatile = self.altered = False

    # --- parts -----------------------------------------------------------------------------------------

    def _authorize(
        self, action: int, one: str | None, two: str | None, schema: str | None, within: str | None
    ) -> int:
        if action in _READING:
            self.selects = self.selects or action == apsw.SQLITE_SELECT
            return apsw.SQLITE_OK
        if self.mode is Mode.OWN:
            return apsw.SQLITE_OK
        temporary = action in _TEMPORARY or (action in _DEFINING and schema == "temp")
        if temporary and self.mode is Mode.TRANSACTION:
            reason: str | None = _NO_TEMPORARY
        else:
            reason = self._refusal(action, one or "", two or "", within)
        if reason is None:
            return apsw.SQLITE_OK
        self.reason = reason
        return apsw.SQLITE_DENY

    def _refusal(self, action: int, one: str, two: str, within: str | None) -> str | None:
        """Why this is not allowed; None where it is. `within` is the trigger or view that does it."""
        if action == apsw.SQLITE_FUNCTION:
            return self._function_refusal(two)
        if action == apsw.SQLITE_PRAGMA:
            return self._pragma_refusal(one, argument=two)
        if self.mode is Mode.SELECT:
            return ONLY_SELECT
        if action in _CONTROL:
            return _CONTROL[action]
        if action in _WRITING:
            if _is_own(one) and not (within is not None and _is_own(within)):
                return f"{one} is kvfs's own: it can be read, not written"
            return None
        if action == apsw.SQLITE_ALTER_TABLE:
            self.altered = True
            return self._definition_refusal(two)
        if action in _DEFINING:
            if action == apsw.SQLITE_CREATE_VTABLE and two.lower() not in _MODULES:
                return f"virtual tables of {two} are not allowed"
            return self._definition_refusal(one, two, dropping=action in _DROPPING)
        return None if action in _HARMLESS else "this is not allowed"

    def _function_refusal(self, name: str) -> str | None:
        self.volatile = self.volatile or name in _VOLATILE_FUNCTIONS
        return f"the function {name} is not allowed" if name in _REFUSED_FUNCTIONS else None

    def _pragma_refusal(self, name: str, *, argument: str) -> str | None:
        if self.mode is Mode.SELECT and not self.selects:
            return ONLY_SELECT
        # Those that do not stay the same with the database are none that a SELECT could show.
        self.volatile = True
        name = name.lower()
        if name in _TELLING_PRAGMAS or (name in _READ_PRAGMAS and not argument):
            return None
        return f"PRAGMA {name} is not allowed" + (" with a value" if name in _READ_PRAGMAS else "")

    def _definition_refusal(self, name: str, on: str = "", *, dropping: bool = True) -> str | None:
        # Where a KV table is dropped, what is kvfs's own on it goes first.
        table = on if _is_own(name) else name
        if dropping and table.lower() in self.kv_tables:
            return f"{table} is a KV table: it cannot be dropped or altered; delete its keys instead"
        if _is_own(name) or _is_own(on):
            return f"names that begin with {OWN} are kvfs's own"
        return None


def _is_own(name: str) -> bool:
    return name.lower().startswith(OWN)
