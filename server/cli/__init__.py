"""The command line, `kvfs`: a module for each command, or group of commands."""

from __future__ import annotations

from typing import Final

import click

from server.cli.lazy import Lazy, LazyGroup

_COMMANDS: Final = {
    "serve": Lazy("server.cli.serve", "serve", "Serve databases over HTTP."),
    "kv": Lazy("server.cli.kv", "kv", "Read and write keys, and look at their past."),
    "db": Lazy("server.cli.db", "db", "Make, query and look after databases."),
    "open": Lazy("server.cli.browser", "open_page", "Open the API's page in the browser."),
    "export": Lazy("server.cli.transfer", "export", "Write a table or folder as JSON lines."),
    "import": Lazy("server.cli.transfer", "import_", "Put an export into a table or folder."),
    "backup": Lazy("server.cli.backup", "backup", "Copy a database, while it is in use."),
    "share": Lazy("server.cli.share", "share", "Print a link to one value or answer, which expires."),
    "rebuild": Lazy("server.cli.folders", "rebuild", "Make the index of folders anew from their files."),
    "check": Lazy("server.cli.folders", "check", "Name differences between files, indexes and op-logs."),
    "completion": Lazy("server.cli.completion", "completion", "Print what completes commands in a shell."),
}


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import kvfs

        click.echo(f"kvfs {kvfs.__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
def main() -> None:
    """A key-value server over SQLite tables and plain files."""
