"""`kvfs completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(epilog="""Example, for ~/.bashrc: eval "$(kvfs completion bash)" """)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete kvfs's commands and options: evaluate it where the shell starts."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "kvfs", "_KVFS_COMPLETE").source())
