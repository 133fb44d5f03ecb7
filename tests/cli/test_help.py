"""What the command line says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from server.cli import main
from server.cli.lazy import LazyGroup
from tests.cli.commands import Kvfs
from tests.serving import ROOT


def commands(
    group: LazyGroup, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command, str]]:
    """(words, command, what the list says of it) of all commands of a group, and of those in it."""
    context = click.Context(group)
    for name, lazy in group.lazy.items():
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command, lazy.help
        if isinstance(command, LazyGroup):
            yield from commands(command, (*path, name))


assert isinstance(main, LazyGroup)
ALL = [*commands(main)]
TOLD_ELSEWHERE = {"serve", "rebuild", "check"}


@pytest.mark.parametrize(("path", "command", "told"), ALL, ids=[" ".join(path) for path, _, _ in ALL])
def test_every_command_says_what_it_does(path: tuple[str, ...], command: click.Command, told: str) -> None:
    assert command.name == path[-1] or path == ("open",)
    assert command.help
    assert told.endswith(".")
    for each in command.params:
        if isinstance(each, click.Option):
            assert each.help, each.name
    if not isinstance(command, click.Group) and path[0] not in TOLD_ELSEWHERE:
        assert command.epilog
        assert f"kvfs {' '.join(path)}" in command.epilog


def test_help_imports_no_command() -> None:
    code = "import sys, server.cli; server.cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = {*done.stdout.splitlines()[-1].split()}
    assert not modules & {"aiohttp", "apsw", "httpcore", "kvfs", "rich", "server.cli.serve", "uvloop"}
    assert "Commands:" in done.stdout


def test_talking_to_a_server_takes_no_sqlite() -> None:
    code = (
        "import sys, server.cli\n"
        "try: server.cli.main(['kv', 'get', 'k', '--db', 'x', '--url', 'http://127.0.0.1:1'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {*done.stdout.split()} & {"aiohttp", "apsw", "kvfs.engine", "rich"}


def test_the_version_is_told() -> None:
    assert Kvfs()("--version").lines == ["kvfs 0.1.0"]


def test_an_unknown_command_is_told_what_there_is() -> None:
    done = Kvfs()("got")
    assert done.code == 2
    assert "There are: serve, kv, db" in done.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    script = Kvfs()("completion", shell).out.decode()
    assert "_KVFS_COMPLETE" in script


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    (tmp_path / "kvfs").write_text(f'#!/bin/sh\nexec {sys.executable} -m server "$@"\n')
    (tmp_path / "kvfs").chmod(0o755)
    kvfs = Kvfs(variables={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    script = """
        eval "$(kvfs completion bash)"
        told() {
            COMPREPLY=() COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _kvfs_completion kvfs
            echo "${COMPREPLY[@]}"
        }
        told kvfs kv roll
        told kvfs kv get --ou
    """
    done = subprocess.run(
        ["bash", "-c", script], env=kvfs.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["rollback rollback-table", "--output"], done.stderr
