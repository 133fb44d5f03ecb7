"""`kvfs db`: the commands on databases."""

from __future__ import annotations

from typing import Final

import click

from server.cli.lazy import Lazy, LazyGroup

_WHOLE: Final = "server.cli.db_whole"
_SQL: Final = "server.cli.db_sql"
_COMMANDS: Final = {
    "create": Lazy(_WHOLE, "create", "Make a database."),
    "list": Lazy(_WHOLE, "list", "List the databases of a server, or a folder."),
    "delete": Lazy(_WHOLE, "delete", "Delete a database."),
    "query": Lazy(_SQL, "query", "Print the rows of a SELECT."),
    "exec": Lazy(_SQL, "execute", "Run SQL that changes something."),
    "shell": Lazy("server.cli.db_shell", "shell", "Type SQL, and see what comes."),
    "history": Lazy(_SQL, "history", "Show what SQL ran on a database."),
    "stats": Lazy(_SQL, "stats", "Show how SQL fares on a database."),
    "maintenance": Lazy(_WHOLE, "maintenance", "Look after a database."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def db() -> None:
    """Make, query and look after databases. Exit codes are those of `kvfs kv`."""
