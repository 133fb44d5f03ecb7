"""The command line: `kvfs serve`, `kvfs rebuild`, `kvfs check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_DATA_DIR: Final = "/hoody/databases"
_DATA_DIR_ELSE: Final = "./kvfs-data"


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import kvfs

        click.echo(f"kvfs {kvfs.__version__}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def main() -> None:
    """A key-value server over SQLite tables and plain files."""


def _option(name: str, **settings: Any) -> Callable[[Command], Command]:
    """An option that an environment variable can set too: `--data-dir` is KVFS_DATA_DIR."""
    variable = "KVFS_" + name.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, **settings)


_POSITIVE: Final = click.IntRange(min=1)


@main.command()
@_option("--host", default="127.0.0.1", help="The address to listen on.")
@_option(
    "--port", default=8080, type=click.IntRange(0, 65535), help="The port to listen on; 0 takes a free one."
)
@_option(
    "--data-dir",
    type=click.Path(),
    help=f"Where databases lie.  [default: {_DATA_DIR} if it exists, else {_DATA_DIR_ELSE}]",
)
@_option("--allow-any-absolute-db-path", is_flag=True, help="Serve databases outside the data dir too.")
@_option("--max-value-bytes", default=16 << 20, type=_POSITIVE, help="The largest value.")
@_option("--max-batch-items", default=100, type=_POSITIVE, help="The most items of a batch.")
@_option("--max-queue", default=4096, type=_POSITIVE, help="The most writes that wait for one database.")
@_option("--max-open", default=64, type=_POSITIVE, help="The most databases that are open at once.")
@_option(
    "--idle-close",
    default=60.0,
    type=click.FloatRange(min=0),
    help="Close a database unused for so many seconds.",
)
@_option(
    "--history-scan-cap", default=100_000, type=_POSITIVE, help="The most keys a read of the past looks at."
)
@_option(
    "--retention-grace",
    default=3600,
    type=click.IntRange(min=0),
    help="Keep operations of the last so many seconds, whatever a table's retention says.",
)
@_option(
    "--history-max-value-bytes",
    default=16 << 20,
    type=click.IntRange(min=0),
    help="The largest value that the op-log keeps; a larger one is a gap in it.",
)
@_option(
    "--baseline/--no-baseline",
    default=True,
    help="Copy the files that a folder has when it is first seen into its op-log.",
)
@_option(
    "--sync",
    default="op",
    type=click.Choice(["op", "file"]),
    help="What is durable before a write to a folder is answered: its op, or the key's file as well.",
)
@_option(
    "--state-dir",
    type=click.Path(file_okay=False),
    help="Where folders' op-logs and indexes lie.  [default: .kvfs beside each folder]",
)
@_option("--watch/--no-watch", default=True, help="Log what is done to folders from outside as it happens.")
@_option(
    "--scan-interval",
    default=60.0,
    type=click.FloatRange(min=0.1),
    help="Go through watched folders every so many seconds, for what no event told of.",
)
@_option(
    "--feed-checkpoint",
    default=15.0,
    type=click.FloatRange(min=0.1),
    help="Send a checkpoint to quiet streams of changes every so many seconds.",
)
@_option(
    "--feed-stall",
    default=20.0,
    type=click.FloatRange(min=0.1),
    help="End a stream of changes whose client takes nothing for so many seconds.",
)
@_option("--access-log/--no-access-log", default=False, help="Write a JSON line to stdout for each request.")
@_option(
    "--log-level",
    default="warning",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="What goes to stderr.",
)
def serve(
    host: str,
    port: int,
    data_dir: str | None,
    allow_any_absolute_db_path: bool,
    max_value_bytes: int,
    max_batch_items: int,
    max_queue: int,
    max_open: int,
    idle_close: float,
    history_scan_cap: int,
    retention_grace: int,
    history_max_value_bytes: int,
    baseline: bool,
    sync: str,
    state_dir: str | None,
    watch: bool,
    scan_interval: float,
    feed_checkpoint: float,
    feed_stall: float,
    access_log: bool,
    log_level: str,
) -> None:
    """Serve databases over HTTP, until SIGTERM or SIGINT."""
    import logging

    import uvloop

    from kvfs.config import Config
    from kvfs.errors import KvfsError
    from server import app

    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if data_dir is None:
        data_dir = _DATA_DIR if os.path.isdir(_DATA_DIR) else _DATA_DIR_ELSE
    settings = app.Settings(
        host=host,
        port=port,
        data_dir=data_dir,
        any_absolute=allow_any_absolute_db_path,
        access_log=access_log,
        feed_checkpoint_s=feed_checkpoint,
        feed_stall_s=feed_stall,
        config=Config(
            max_value_bytes=max_value_bytes,
            max_batch_items=max_batch_items,
            max_queue=max_queue,
            max_open=max_open,
            idle_close_s=idle_close,
            history_scan_cap=history_scan_cap,
            retention_grace_s=retention_grace,
            history_max_value_bytes=history_max_value_bytes,
            baseline=baseline,
            sync_files=sync == "file",
            state_dir=state_dir,
            watch=watch,
            scan_interval_s=scan_interval,
        ),
    )
    try:
        uvloop.run(app.serve(settings, click.echo))
    except OSError as exc:
        click.echo(f"kvfs: {_told(exc)}", err=True)
        sys.exit(1)
    except KvfsError as exc:
        click.echo(f"kvfs: {exc.message}", err=True)
        sys.exit(1)
    sys.stdout.flush()
    # A thread that still works on something must not hold the process.
    os._exit(0)


def _folder_command(command: Command) -> Command:
    """What the commands on folder stores have in common."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, a line a table."),
        _option(
            "--state-dir",
            type=click.Path(file_okay=False),
            help="Where folders' op-logs and indexes lie.  [default: .kvfs beside each folder]",
        ),
        click.argument("table", required=False),
        click.argument("folder"),
    ):
        command = decorate(command)
    return command


@main.command()
@_folder_command
@_option(
    "--history-max-value-bytes",
    default=16 << 20,
    type=click.IntRange(min=0),
    help="The largest value that the op-log keeps; a larger one is a gap in it.",
)
@_option(
    "--baseline/--no-baseline",
    default=True,
    help="Copy the files that a folder has when it is first seen into its op-log.",
)
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


@main.command()
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


def _told(error: OSError) -> str:
    """An OSError in one line."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
