"""`kvfs backup`."""

from __future__ import annotations

import click

from server.cli import exits
from server.cli.options import option
from server.cli.output import Output


@click.command(epilog="Example: kvfs backup kvfs-data/app.db app-monday.db")
@click.argument("source")
@click.argument("destination")
@option("--table", "-t", help="Only this folder of a directory.")
@option("--state-dir", type=click.Path(file_okay=False), help="Where folders' op-logs lie.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def backup(source: str, destination: str, table: str | None, state_dir: str | None, as_json: bool) -> None:
    """Copy a database, as it is at one moment, while it is in use; print the path of the copy.

    SOURCE is a database file, or a directory with folders of keys; DESTINATION must not exist. Each folder is
    copied with its whole past, its files being what its op-log says. What fails leaves nothing.
    """
    from kvfs import backup as backups

    with exits.told():
        path = backups.backup(source, destination, table=table, state_dir=state_dir)
        Output(as_json=as_json).fact(path, {"path": path})
