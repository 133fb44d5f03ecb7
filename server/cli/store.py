"""Which store a command works on: through a server, or with `--local` straight on the files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Union

import click

from server.cli import exits
from server.cli.options import option
from server.cli.output import Output

if TYPE_CHECKING:
    from kvfs.client import Client, Table
    from server.cli.local import Local

Store = Union["Table", "Local"]
"""What commands call: both have the same methods, with the same meaning."""

Command = Callable[..., None]
"""A function of a `Store`, an `Output` and its own parameters."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where commands do their work."""

    url: str
    token: str | None
    timeout_s: float
    local: bool
    db: str
    table: str | None
    state_dir: str | None

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the server."""
        from kvfs.client import Client, Retries

        with Client(
            self.url, token=self.token, timeout_s=self.timeout_s, retries=Retries(attempts=3)
        ) as client:
            yield client

    @contextmanager
    def store(self, *, create: bool) -> Iterator[Store]:
        """The store; `create`: writes make what is not there yet."""
        if not self.local:
            with self.client() as client:
                yield client.table(self.db, self.table, create=create)
            return
        from server.cli import local

        with local.opened(
            self.db, self.table, create=create, timeout_s=self.timeout_s, state_dir=self.state_dir
        ) as store:
            yield store


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where the server is, and how it is asked."""
    for decorate in (
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


def store_options(command: Callable[..., None]) -> Callable[..., None]:
    """Which store is meant."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        server_options,
        option("--state-dir", type=click.Path(), help="With --local: where folders' op-logs lie."),
        click.option("--local", is_flag=True, help="Work on the files themselves; --db is a path then."),
        option("--table", "-t", help="The table, or the folder of a directory.  [default: kv_store]"),
        option("--db", "-d", required=True, help="The database: a name in the server's data dir, or a path."),
    ):
        command = decorate(command)
    return command


def on_store(command: Command) -> Callable[..., None]:
    """Make a function of a store a command: with the options, and with errors told by exit codes."""
    return _on_store(command, creating=False)


def writing(command: Command) -> Callable[..., None]:
    """As `on_store`, for what may make a database; only with `--create`, so that a wrong name makes none."""
    decorate = click.option("--create", is_flag=True, help="Make the database if it is missing.")
    return decorate(_on_store(command, creating=True))


def _on_store(command: Command, *, creating: bool) -> Callable[..., None]:
    @wraps(command)
    def run(
        *,
        url: str,
        token: str | None,
        timeout: float,
        local: bool,
        db: str,
        table: str | None,
        state_dir: str | None,
        as_json: bool,
        create: bool = False,
        **more: Any,
    ) -> None:
        place = Place(url, token, timeout, local, db, table, state_dir)
        with exits.told(), place.store(create=create) as store:
            command(store, Output(as_json=as_json), **more)

    return store_options(run)
