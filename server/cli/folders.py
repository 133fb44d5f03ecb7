"""`kvfs rebuild` and `kvfs check`."""

from __future__ import annotations

import sys

import click

from server.cli.options import Command, log_options, option


def _folder_command(command: Command) -> Command:
    """What the commands on folder stores have in common."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, a line a table."),
        option(
            "--state-dir",
            type=click.Path(file_okay=False),
            help="Where folders' op-logs and indexes lie.  [default: .kvfs beside each folder]",
        ),
        click.argument("table", required=False),
        click.argument("folder"),
    ):
        command = decorate(command)
    return command


@click.command()
@_folder_command
@log_options
def rebuild(
    folder: str,
    table: str | None,
    state_dir: str | None,
    as_json: bool,
    history_max_value_bytes: int,
    baseline: bool,
) -> None:
    """Make the index of FOLDER/TABLE anew from its files, and log what changed.

    FOLDER is the directory of the database; without TABLE, all its folders that have an op-log are meant.
    A damaged op-log is set aside first, and what can be read of it kept. A server may run meanwhile.
    """
    from kvfs.config import Config
    from server import folders

    config = Config(
        history_max_value_bytes=history_max_value_bytes, baseline=baseline, state_dir=state_dir, watch=False
    )
    sys.exit(folders.rebuild(folder, table, config, as_json=as_json))


@click.command()
@_folder_command
@click.option(
    "--full", is_flag=True, help="Hash all files and values too; this finds what no signature tells."
)
def check(folder: str, table: str | None, state_dir: str | None, as_json: bool, full: bool) -> None:
    """Name every difference between the files of FOLDER/TABLE, their index and their op-log.

    FOLDER is the directory of the database; without TABLE, all its folders that have an op-log are meant.
    Nothing is changed. Exits with 1 where there is a difference. A server may run meanwhile.
    """
    from server import folders

    sys.exit(folders.check(folder, table, state_dir, full=full, as_json=as_json))
