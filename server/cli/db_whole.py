"""`kvfs db create`, `list`, `delete` and `maintenance`."""

from __future__ import annotations

import sys

import click

from kvfs.model import NS
from server.cli.options import option
from server.cli.output import Output, moment
from server.cli.store import Databases, on_databases


@click.command(epilog="Example: kvfs db create app --table users")
@click.argument("db")
@click.option("--table", "-t", help="Make this KV table too.")
@on_databases
def create(databases: Databases, out: Output, *, db: str, table: str | None) -> None:
    """Make the database DB, unless it is there, and print its path. With a final `/`: a directory."""
    made = databases.database(db).create(kv_table=table)
    out.fact(made.path, made._asdict())


@click.command(epilog="Example: kvfs db list")
@option("--data-dir", type=click.Path(file_okay=False), default=".", help="With --local: the folder to list.")
@on_databases
def list(databases: Databases, out: Output) -> None:
    """List the databases in the server's data dir, or with --local in a folder."""
    rows = (
        ((each.name, each.kind, each.size_bytes, moment(each.modified_s * NS), each.path), each._asdict())
        for each in databases.databases()
    )
    out.table(("name", "kind", "size", "modified", "path"), rows)


@click.command(epilog="Example: kvfs db delete scratch --yes")
@click.argument("db")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@on_databases
def delete(databases: Databases, out: Output, *, db: str, yes: bool) -> None:
    """Delete the database file DB, with all keys and all of their past. Never a directory."""
    if not yes:
        if not (sys.stdin.isatty() and out.terminal):
            raise click.UsageError("Give --yes.")
        click.confirm(f"Delete {db} and all of its past?", abort=True)
    gone = databases.database(db).delete()
    out.fact(gone.path, gone._asdict())


@click.command(epilog="Example: kvfs db maintenance vacuum_into dest_path=backup.db --db app")
@click.argument("op")
@click.argument("options", nargs=-1)
@option("--db", "-d", required=True, help="The database.")
@option("--table", "-t", help="The table, or the folder of a directory, for what is done to one.")
@on_databases
def maintenance(
    databases: Databases, out: Output, *, op: str, options: tuple[str, ...], db: str, table: str | None
) -> None:
    """Look after a database by OP, and print what came of it. OPTIONS are NAME=VALUE."""
    given = dict(map(_option, options))
    out.facts(databases.table(db, table).maintain(op, **given))


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r} is not NAME=VALUE.")
    return name, int(value) if value.isascii() and value.isdigit() else value
