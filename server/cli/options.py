"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def option(name: str, *more: str, **settings: Any) -> Callable[[Command], Command]:
    """An option that an environment variable can set too: `--data-dir` is KVFS_DATA_DIR."""
    variable = "KVFS_" + name.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(name, *more, envvar=variable, show_envvar=True, **settings)


def token_options(command: Command) -> Command:
    """Where tokens come from: for who asks for them, and for who signs with them."""
    for decorate in (
        option("--token-file", type=click.Path(dir_okay=False), help="A file of tokens, in TOML or JSON."),
        option("--token", help="A token that covers everything."),
    ):
        command = decorate(command)
    return command


def log_options(command: Command) -> Command:
    """What goes into op-logs: for who writes them, and for who makes up for what is missing."""
    for decorate in (
        option(
            "--baseline/--no-baseline",
            default=True,
            help="Copy the files that a folder has when it is first seen into its op-log.",
        ),
        option(
            "--history-max-value-bytes",
            default=16 << 20,
            type=click.IntRange(min=0),
            help="The largest value that the op-log keeps; a larger one is a gap in it.",
        ),
    ):
        command = decorate(command)
    return command


def check_tokens_set() -> None:
    """An empty variable counts as none at all: whoever sets one must not get a server without tokens."""
    for variable in ("KVFS_TOKEN", "KVFS_TOKEN_FILE"):
        if os.environ.get(variable) == "":
            raise click.UsageError(f"{variable} is empty. Unset it, or set it to what it should be.")
