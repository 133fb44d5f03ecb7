"""`kvfs kv`: the commands on keys."""

from __future__ import annotations

from typing import Final

import click

from server.cli.lazy import Lazy, LazyGroup

_READ: Final = "server.cli.kv_read"
_WRITE: Final = "server.cli.kv_write"
_PAST: Final = "server.cli.kv_past"
_BATCH: Final = "server.cli.kv_batch"
_COMMANDS: Final = {
    "get": Lazy(_READ, "get", "Print a value."),
    "set": Lazy(_WRITE, "set", "Store a value."),
    "delete": Lazy(_WRITE, "delete", "Remove a key."),
    "exists": Lazy(_READ, "exists", "Say by the exit code whether a key is there."),
    "list": Lazy(_READ, "list", "List keys."),
    "edit": Lazy("server.cli.kv_edit", "edit", "Edit a value in $EDITOR."),
    "incr": Lazy(_WRITE, "incr", "Add to a number."),
    "decr": Lazy(_WRITE, "decr", "Subtract from a number."),
    "push": Lazy(_WRITE, "push", "Append to an array."),
    "pop": Lazy(_WRITE, "pop", "Take the last element of an array."),
    "remove": Lazy(_WRITE, "remove", "Take one element out of an array."),
    "expire": Lazy(_WRITE, "expire", "Give a key a TTL."),
    "persist": Lazy(_WRITE, "persist", "Take a key's TTL away."),
    "batch-get": Lazy(_BATCH, "batch_get", "Print many values, as JSON lines."),
    "batch-set": Lazy(_BATCH, "batch_set", "Store many values, all or none."),
    "batch-delete": Lazy(_BATCH, "batch_delete", "Remove many keys, all or none."),
    "history": Lazy(_PAST, "history", "Show the operations of a key."),
    "snapshot": Lazy(_PAST, "snapshot", "Show keys as they were at a time."),
    "diff": Lazy(_PAST, "diff", "Show what changed between two times."),
    "changes": Lazy("server.cli.kv_changes", "changes", "Show what changes, as it happens."),
    "rollback": Lazy(_PAST, "rollback", "Undo the last operations of a key."),
    "rollback-table": Lazy(_PAST, "rollback_table", "Make a table what it was at a time."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def kv() -> None:
    """Read and write keys, and look at their past.

    Every command needs --db, or KVFS_DB. Exit codes: 0 done, 1 not found, 2 wrong usage, 3 conflict, 4 the
    server failed or cannot be reached.
    """
