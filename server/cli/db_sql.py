"""`kvfs db query`, `exec`, `history` and `stats`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from kvfs.client.records import Rows, SqlValue
from kvfs.model import NS_PER_MS
from server.cli.options import option
from server.cli.output import Json, Output, moment, value_form
from server.cli.store import Databases, on_databases

_DB = option("--db", "-d", required=True, help="The database.")


@click.command(epilog="""Example: kvfs db query "SELECT key FROM kv_store WHERE value > 7" --db app""")
@click.argument("sql")
@click.argument("values", nargs=-1)
@_DB
@on_databases
def query(databases: Databases, out: Output, *, sql: str, values: tuple[str, ...], db: str) -> None:
    """Print the rows that SQL gives. VALUES are for its `?`: JSON where they are, else texts.

    SQL without VALUES is one SELECT, which cannot change anything; a SQL of `-` is read from standard input.
    """
    database = databases.database(db)
    text = _text(sql)
    rows = database.query(text, [*map(bound, values)]) if values else database.select(text)
    show(out, rows)


@click.command("exec", epilog="""Example: kvfs db exec "DELETE FROM log WHERE at < ?" 1700000000 --db app""")
@click.argument("sql")
@click.argument("values", nargs=-1)
@click.option("--create", is_flag=True, help="Make the database if it is missing.")
@_DB
@on_databases
def execute(
    databases: Databases, out: Output, *, sql: str, values: tuple[str, ...], create: bool, db: str
) -> None:
    """Run SQL, several statements too, in one transaction, and print how many rows the last one changed.

    VALUES are for its `?`: JSON where they are, else texts. A SQL of `-` is read from standard input.
    """
    changed = databases.database(db, create=create).execute(_text(sql), [*map(bound, values)])
    out.fact(changed, {"rows_changed": changed})


@click.command(epilog="Example: kvfs db history --db app --limit 20")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=100, help="At most so many.")
@click.option("--clear", is_flag=True, help="Forget all of it instead, and print how many entries it was.")
@_DB
@on_databases
def history(databases: Databases, out: Output, *, limit: int, clear: bool, db: str) -> None:
    """Show what SQL ran on a database, the newest first."""
    database = databases.database(db)
    if clear:
        deleted = database.clear_sql_history()
        out.fact(deleted, {"deleted": deleted})
        return
    log = database.sql_history(limit=limit)
    rows = (
        (
            (
                each.id,
                moment(each.ts_ms * NS_PER_MS),
                f"{each.duration_ms:.1f}",
                each.rows_affected,
                each.error or "ok",
                each.sql,
            ),
            each._asdict(),
        )
        for each in log.entries
    )
    out.table(("id", "time", "ms", "rows", "status", "sql"), rows)


@click.command(epilog="Example: kvfs db stats --db app")
@_DB
@on_databases
def stats(databases: Databases, out: Output, *, db: str) -> None:
    """Show how SQL fares on a database: how many entries, how fast, how many errors."""
    out.facts(databases.database(db).sql_stats())


def show(out: Output, rows: Rows) -> None:
    """Print rows; say on stderr if they are not all."""
    out.table(rows.columns, ((row, _form(rows.columns, row)) for row in rows.rows))
    if rows.truncated:
        click.echo("kvfs: there are more rows than a query gives", err=True)


def _form(columns: Sequence[str], row: Sequence[SqlValue]) -> Json:
    form: Json = {}
    for name, value in zip(columns, row, strict=True):
        form |= value_form(value, name) if isinstance(value, bytes) else {name: value}
    return form


def bound(text: str) -> SqlValue:
    """A value to be bound: a number, true, false or null as JSON has them, else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, int | float | str) else text


def _text(sql: str) -> str:
    return sys.stdin.read() if sql == "-" else sql
