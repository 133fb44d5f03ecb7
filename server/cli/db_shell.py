"""`kvfs db shell`: SQL, typed and answered."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import suppress

import click

from kvfs.errors import KvfsError
from server.cli.db_sql import show
from server.cli.options import option
from server.cli.output import Output
from server.cli.store import Database, Databases, on_databases


@click.command(epilog="Example: kvfs db shell --db app")
@option("--db", "-d", required=True, help="The database.")
@click.option("--create", is_flag=True, help="Make the database if it is missing.")
@on_databases
def shell(databases: Databases, out: Output, *, db: str, create: bool) -> None:
    """Type SQL, each statement ended by `;`, and see what comes. Ctrl-D ends it.

    Each statement is a transaction of its own. What comes from a pipe is run as it comes, and ends with the
    first error.
    """
    database = databases.database(db, create=create)
    asking = sys.stdin.isatty()
    if asking:
        with suppress(ImportError):
            import readline  # noqa: F401 - with it, `input` has a history and keys to edit with
    typed = ""
    while True:
        try:
            typed += _line(asking, more=bool(typed)) + "\n"
        except EOFError:
            break
        except KeyboardInterrupt:
            if not asking:
                raise
            typed = ""
            click.echo()
            continue
        statements, typed = split(typed)
        for statement in statements:
            _run(database, out, statement, going_on=asking)
    if asking:
        click.echo()
    elif typed.strip():
        _run(database, out, typed.strip(), going_on=False)


def split(typed: str) -> tuple[list[str], str]:
    """The statements that are complete, and what is left."""
    statements = []
    start = end = 0
    while (end := typed.find(";", end) + 1) > 0:
        if sqlite3.complete_statement(typed[start:end]):
            statements.append(typed[start:end].strip())
            start = end
    return statements, typed[start:].lstrip()


def _line(asking: bool, *, more: bool) -> str:
    if asking:
        return input("  ...> " if more else "kvfs> ")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _run(database: Database, out: Output, sql: str, *, going_on: bool) -> None:
    try:
        rows = database.query(sql)
    except KvfsError as error:
        if not going_on:
            raise
        click.echo(f"kvfs: {error.message}", err=True)
        return
    if rows.columns:
        show(out, rows)
    sys.stdout.flush()
