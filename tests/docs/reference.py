"""What the documents say of commands and options, made from the commands themselves; `make reference`.

`docs/reference/cli.md` is made whole, and so is the table of the server's options in `docs/server.md`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import click

from server.cli import main
from server.cli.lazy import LazyGroup
from tests.docs.documents import ROOT, text

CLI: Final = "docs/reference/cli.md"
SERVER: Final = "docs/server.md"

_SERVER_TABLE: Final = re.compile(r"(?<=<!-- made by `make reference` -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
_INLINE_DEFAULT: Final = re.compile(r"\s+\[default: (.*)\]$")

_OF_A_SERVER: Final = ("url", "token", "timeout", "as_json")
_OF_FILES: Final = ("local", "state_dir")
_OF_A_STORE: Final = ("db", "table")

_HEAD: Final = """\
# Commands and options

<!-- made by `make reference` -->

All of `kvfs`, as `--help` tells it. What belongs to whom, with examples: [the command line](../cli.md).

An option that has a variable can be given by that variable of the environment as well; the option wins.

## Shared options
"""

_SHARED_TOLD: Final = {
    _OF_A_SERVER: ("Server options", "Which server, and how it is asked."),
    _OF_FILES: (
        "File options",
        "Whether there is a server at all. Commands that have these have the"
        " [server options](#server-options) too.",
    ),
    _OF_A_STORE: (
        "Store options",
        "Which table or folder. Commands that have these have the [file options](#file-options) and the"
        " [server options](#server-options) too.",
    ),
}


def made() -> dict[str, str]:
    """The documents that are made from code, whole or in part, as they should be."""
    return {CLI: _cli(), SERVER: _SERVER_TABLE.sub(lambda _: _options(_serve()), text(SERVER))}


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """(words, command) of all commands of a group, and of those in it."""
    assert isinstance(group, LazyGroup)
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def _command(*words: str) -> click.Command:
    return next(command for path, command in commands(main) if path == words)


def _serve() -> list[click.Option]:
    return _options_of(_command("serve"))


def _cli() -> str:
    shared = {option.name: _row(option) for option in _options_of(_command("kv", "get"))}
    parts = [_HEAD]
    for names, (title, told) in _SHARED_TOLD.items():
        rows = [option for option in _options_of(_command("kv", "get")) if option.name in names]
        parts.append(f"### {title}\n\n{told}\n\n{_options(rows)}\n")
    for path, command in commands(main):
        parts.append(_section(path, command, shared))
    return "\n".join(parts)


def _section(path: tuple[str, ...], command: click.Command, shared: Mapping[str, str]) -> str:
    name = " ".join(("kvfs", *path))
    said = inspect.cleandoc(command.help or "")
    if isinstance(command, click.Group):
        return f"## {name}\n\n{said}\n"
    context = click.Context(command, info_name=name)
    parts = [f"{'##' if len(path) == 1 else '###'} {name}", f"`{_usage(command, context)}`", said]
    own = [
        option
        for option in _options_of(command)
        if option.name not in (*_OF_A_SERVER, *_OF_FILES, *_OF_A_STORE) or _row(option) != shared[option.name]
    ]
    has = {option.name for option in _options_of(command)} - {option.name for option in own}
    if path == ("serve",):
        parts.append("Its options: [the server](../server.md#options).")
    elif own:
        parts.append(_options(own))
    if has >= {*_OF_A_STORE}:
        parts.append("Also the [store options](#store-options).")
    elif has >= {*_OF_FILES}:
        parts.append("Also the [file options](#file-options).")
    elif has >= {*_OF_A_SERVER}:
        parts.append("Also the [server options](#server-options).")
    if command.epilog:
        told, _, example = command.epilog.strip().partition(": ")
        parts.append(f"{told}: `{example}`")
    return "\n\n".join(parts) + "\n"


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.info_name or "", *command.collect_usage_pieces(context)])


def _options_of(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def _options(options: Iterable[click.Option]) -> str:
    head = "| option | variable | default | |\n|---|---|---|---|\n"
    return head + "\n".join(_row(option) for option in options)


def _row(option: click.Option) -> str:
    named = ", ".join(f"`{name}`" for name in reversed(option.opts))
    if option.secondary_opts:
        named += f", `{option.secondary_opts[0]}`"
    elif not option.is_flag:
        named += f" {_taken(option)}"
    variable = f"`{option.envvar}`" if option.envvar else ""
    said, default = option.help or "", _default(option)
    if inline := _INLINE_DEFAULT.search(said):
        said, default = said[: inline.start()], inline[1]
    return f"| {named} | {variable} | {default} | {said} |".replace("|  |", "| |").replace("|  |", "| |")


def _taken(option: click.Option) -> str:
    """What an option is given: its choices or its kind."""
    if isinstance(option.type, click.Choice):
        return " or ".join(f"`{choice}`" for choice in option.type.choices)
    return option.make_metavar(click.Context(click.Command(""))).removesuffix(" RANGE")


def _default(option: click.Option) -> str:
    value = option.default
    if option.required:
        return "needed"
    if option.secondary_opts:
        return f"`{option.opts[0] if value else option.secondary_opts[0]}`"
    if option.is_flag or value == "" or not isinstance(value, int | float | str):
        return ""
    if isinstance(value, int) and value and value % (1 << 20) == 0:
        return f"{value >> 20} MiB"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def write() -> None:
    """Bring the documents up to date."""
    for document, content in made().items():
        (ROOT / document).parent.mkdir(exist_ok=True)
        (ROOT / document).write_text(content)


if __name__ == "__main__":
    write()
