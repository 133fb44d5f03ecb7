"""`kvfs serve`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from kvfs.errors import KvfsError
from server.cli.exits import told_of
from server.cli.options import check_tokens_set, log_options, option, token_options

if TYPE_CHECKING:
    from server.worker import Worker

_DATA_DIR: Final = "/hoody/databases"
_DATA_DIR_ELSE: Final = "./kvfs-data"
_POSITIVE: Final = click.IntRange(min=1)
_WORKERS_MOST: Final = 64
_WORKERS: Final[click.ParamType[int]] = click.IntRange(1, _WORKERS_MOST)


class WorkerCount(click.ParamType[int]):
    """How many workers: a number, or `auto` for as many as there are cores to run on."""

    name = "count"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return min(len(os.sched_getaffinity(0)), _WORKERS_MOST)
        return _WORKERS.convert(value, param, ctx)


@click.command()
@option("--host", default="127.0.0.1", help="The address to listen on.")
@option(
    "--port",
    default=8080,
    type=click.IntRange(0, 65535),
    help="The port to listen on; 0 takes a free one, which the first line of output tells.",
)
@option(
    "--workers",
    default="1",
    type=WorkerCount(),
    help="How many processes share the port, each with a loop of its own; auto is one a core.",
)
@option(
    "--data-dir",
    type=click.Path(),
    help=f"Where databases lie.  [default: {_DATA_DIR} if it exists, else {_DATA_DIR_ELSE}]",
)
@token_options
@option("--allow-any-absolute-db-path", is_flag=True, help="Serve databases outside the data dir too.")
@option("--max-value-bytes", default=16 << 20, type=_POSITIVE, help="The largest value.")
@option("--max-batch-items", default=100, type=_POSITIVE, help="The most items of a batch.")
@option(
    "--max-queue",
    default=4096,
    type=_POSITIVE,
    help="The most writes that wait for one database; one more is OVERLOADED.",
)
@option(
    "--max-connections",
    default=4096,
    type=_POSITIVE,
    help="The most clients that are connected at once; one more is OVERLOADED.",
)
@option(
    "--keep-alive",
    default=75.0,
    type=click.FloatRange(min=0.1),
    help="Close a connection on which no request comes, or not all of its head, for so many seconds.",
)
@option(
    "--send-stall",
    default=60.0,
    type=click.FloatRange(min=0.1),
    help="Break a connection whose client takes nothing of an answer for so many seconds.",
)
@option(
    "--max-open",
    default=64,
    type=_POSITIVE,
    help="The most databases that are open at once; the one idle longest makes room.",
)
@option(
    "--idle-close",
    default=60.0,
    type=click.FloatRange(min=0),
    help="Close a database unused for so many seconds.",
)
@option(
    "--history-scan-cap", default=100_000, type=_POSITIVE, help="The most keys a read of the past looks at."
)
@option(
    "--retention-grace",
    default=3600,
    type=click.IntRange(min=0),
    help="Keep operations of the last so many seconds, whatever a table's retention says.",
)
@log_options
@option(
    "--sync",
    default="op",
    type=click.Choice(["op", "file"]),
    help="What is durable before a write to a folder is answered: its op, or the key's file as well.",
)
@option(
    "--state-dir",
    type=click.Path(file_okay=False),
    help="Where folders' op-logs and indexes lie.  [default: .kvfs beside each folder]",
)
@option("--watch/--no-watch", default=True, help="Log what is done to folders from outside as it happens.")
@option(
    "--scan-interval",
    default=60.0,
    type=click.FloatRange(min=0.1),
    help="Go through watched folders every so many seconds, for what no event told of.",
)
@option(
    "--feed-checkpoint",
    default=15.0,
    type=click.FloatRange(min=0.1),
    help="Send a checkpoint to quiet streams of changes every so many seconds.",
)
@option(
    "--feed-stall",
    default=20.0,
    type=click.FloatRange(min=0.1),
    help="End a stream of changes whose client takes nothing for so many seconds.",
)
@option("--access-log/--no-access-log", default=False, help="Write a JSON line to stdout for each request.")
@option(
    "--log-level",
    default="warning",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="What goes to stderr.",
)
@option(
    "--log-format",
    default="auto",
    type=click.Choice(["auto", "json", "text"]),
    help="How it is written; auto is text at a terminal, else JSON, a line a record.",
)
def serve(
    host: str,
    port: int,
    workers: int,
    data_dir: str | None,
    token: str | None,
    token_file: str | None,
    allow_any_absolute_db_path: bool,
    max_value_bytes: int,
    max_batch_items: int,
    max_queue: int,
    max_connections: int,
    keep_alive: float,
    send_stall: float,
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
    log_format: str,
) -> None:
    """Serve databases over HTTP, until SIGTERM or SIGINT."""
    import uvloop

    from kvfs.config import Config
    from server import app, logs, supervising
    from server.protocol import Bounds
    from server.tokens import Source

    check_tokens_set()
    logs.configure(log_level, log_format)
    if data_dir is None:
        data_dir = _DATA_DIR if os.path.isdir(_DATA_DIR) else _DATA_DIR_ELSE
    settings = app.Settings(
        host=host,
        port=port,
        data_dir=data_dir,
        any_absolute=allow_any_absolute_db_path,
        tokens=Source(token, token_file),
        access_log=access_log,
        feed_checkpoint_s=feed_checkpoint,
        feed_stall_s=feed_stall,
        bounds=Bounds(connections=max_connections, keep_alive_s=keep_alive, stall_s=send_stall),
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

    def run(worker: Worker | None = None) -> None:
        uvloop.run(app.serve(settings, click.echo, worker))

    if workers == 1:
        code = _code_of(run)
    else:
        code = _code_of(
            lambda: supervising.supervise(
                settings, workers, lambda worker: _code_of(lambda: run(worker)), click.echo
            )
        )
    sys.stdout.flush()
    # A thread that still works on something must not hold the process.
    os._exit(code)


def _code_of(serve: Callable[[], int | None]) -> int:
    """The exit code; what keeps it from beginning is told in a line."""
    try:
        return serve() or 0
    except OSError as exc:
        click.echo(f"kvfs: {told_of(exc)}", err=True)
    except KvfsError as exc:
        click.echo(f"kvfs: {exc.message}", err=True)
    return 1
