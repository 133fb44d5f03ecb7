"""What a command works on: a server, or a store, through one or with `--local` straight on the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Union

import click

from server.cli import exits
from server.cli.options import option
from server.cli.output import Output

if TYPE_CHECKING:
    from kvfs.client import Client, Table
    from kvfs.client import Database as ClientDatabase
    from server.cli.local import Local
    from server.cli.local_db import LocalDatabase, LocalDatabases

Store = Union["Table", "Local"]
"""What commands call: both have the same methods, with the same meaning."""

Databases = Union["Client", "LocalDatabases"]
"""As `Store`, of what works on databases as a whole."""

Database = Union["ClientDatabase", "LocalDatabase"]
"""One of `Databases`."""

Command = Callable[..., None]
"""A function of a `Store` or of `Databases`, an `Output`, and its own parameters by name."""

_ATTEMPTS = 3


def on_databases(command: Command) -> Command:
    """Make a function of databases a command: with the options, and with errors told by exit codes.

    A command may have an option `data_dir`: the folder whose databases there are without a server.
    """

    @wraps(command)
    def run(
        *,
        url: str,
        token: str | None,
        timeout: float,
        as_json: bool,
        local: bool,
        state_dir: str | None,
        data_dir: str = ".",
        **more: Any,
    ) -> None:
        with exits.told():
            out = Output(as_json=as_json)
            if not local:
                with _client(url, token, timeout) as client:
                    command(client, out, **more)
                return
            from server.cli.local_db import LocalDatabases

            with closing(LocalDatabases(data_dir, timeout_s=timeout, state_dir=state_dir)) as databases:
                command(databases, out, **more)

    return _local_options(_server_options(run))


def on_store(command: Command) -> Command:
    """Make a function of a store a command: with the options, and with errors told by exit codes."""

    @wraps(command)
    def run(
        *,
        url: str,
        token: str | None,
        timeout: float,
        as_json: bool,
        local: bool,
        db: str,
        table: str | None,
        state_dir: str | None,
        create: bool = False,
        **more: Any,
    ) -> None:
        with exits.told():
            out = Output(as_json=as_json)
            if not local:
                with _client(url, token, timeout) as client:
                    command(client.table(db, table, create=create), out, **more)
                return
            from server.cli.local import opened

            with opened(db, table, create=create, timeout_s=timeout, state_dir=state_dir) as store:
                command(store, out, **more)

    return _store_options(_local_options(_server_options(run)))


def writing(command: Command) -> Command:
    """As `on_store`, for what may make a database: only with `--create`, so that a wrong name makes none."""
    creating = click.option("--create", is_flag=True, help="Make the database if it is missing.")
    return creating(on_store(command))


@contextmanager
def _client(url: str, token: str | None, timeout_s: float) -> Iterator[Client]:
    from kvfs.client import Client, Retries

    with Client(url, token=token, timeout_s=timeout_s, retries=Retries(_ATTEMPTS)) as client:
        yield client


def _server_options(command: Command) -> Command:
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=30.0,
            help="Give up after so many seconds.",
        ),
        option("--token", help="The server's token."),
        option("--url", default="http://127.0.0.1:8080", help="The server."),
    ):
        command = decorate(command)
    return command


def _local_options(command: Command) -> Command:
    for decorate in (
        option("--state-dir", type=click.Path(), help="With --local: where folders' op-logs lie."),
        click.option("--local", is_flag=True, help="Work on the files themselves, by their paths."),
    ):
        command = decorate(command)
    return command


def _store_options(command: Command) -> Command:
    for decorate in (
        option("--table", "-t", help="The table, or the folder of a directory.  [default: kv_store]"),
        option("--db", "-d", required=True, help="The database: a name in the server's data dir, or a path."),
    ):
        command = decorate(command)
    return command
