"""A group whose commands are imported when they are called: `kvfs --help` must not wait for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group of commands that are named, but not imported yet."""

    def __init__(self, *, lazy: Mapping[str, Lazy], **settings: Any) -> None:
        super().__init__(**settings)
        self.lazy = lazy

    def list_commands(self, context: click.Context) -> list[str]:
        return [*self.lazy]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        lazy = self.lazy.get(name)
        if lazy is None:
            return None
        command = getattr(import_module(lazy.module), lazy.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.lazy.items()])

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in self.lazy and not arguments[0].startswith("-"):
            context.fail(f"No such command {arguments[0]!r}. There are: {', '.join(self.lazy)}.")
        return super().resolve_command(context, arguments)
