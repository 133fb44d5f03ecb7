"""The commands of the documents, word for word: each one runs, and prints what it is said to print.

A document has a server and a folder of its own. In the folder are `fixtures/`, as in the project's, and the
blocks that name themselves a file; a file `tokens.toml` is the server's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, blocks, documents
from tests.serving import ServerProcess

MARK = "--- next command ---"
URL = "http://127.0.0.1:8080"
DATA = "kvfs-data"
CONTAINER_DATA = "/hoody/databases"
PROGRAMS = ("curl", "git", "openssl", "sqlite3")


@dataclass(frozen=True)
class Step:
    command: str
    expected: str
    line: int


def steps(document: str) -> Iterator[Step]:
    """The commands of all console blocks, each with the output shown below it."""
    for block in blocks(document, "console"):
        first, *rest = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not first, f"{document}:{block.line} does not begin with a command"
        line = block.line
        for part in rest:
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command += "\n" + more
            yield Step(command, output.rstrip("\n"), line)
            line += part.count("\n")


def matches(expected: str, printed: str) -> bool:
    """Whether this was printed, where `...` stands for anything on a line."""
    pattern = re.escape(expected).replace(re.escape("..."), r"[^\n]*")
    return re.fullmatch(pattern, printed.rstrip("\n")) is not None


def furnish(home: Path, document: str, url: str) -> None:
    """Put what the document works on into a folder, and the commands that it calls into its `.venv`."""
    shutil.copytree(ROOT / "fixtures", home / "fixtures")
    for block in blocks(document):
        if block.file is not None:
            (home / block.file).write_text(block.text.replace(URL, url))
    (home / ".venv/bin").mkdir(parents=True)
    (home / ".venv/bin/activate").touch()
    for name, command in (("kvfs", f"{sys.executable} -m server"), ("python", sys.executable)):
        (home / ".venv/bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (home / ".venv/bin" / name).chmod(0o755)


def environment(home: Path, url: str) -> dict[str, str]:
    """The variables of a shell in this folder: what the documents take for granted, and no repository's."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("KVFS_", "GIT_"))},
        "PATH": f"{home / '.venv/bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KVFS_URL": url,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{
            f"GIT_{who}_{what}": "ada@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }


def script(told: list[Step], url: str, data: Path) -> str:
    """What a shell runs, with a mark after each command. What lies in a container lies in `data` here."""
    commands = "\n".join(f"{step.command}\necho; echo '{MARK}'" for step in told)
    for said, here in (
        (URL, url),
        (CONTAINER_DATA, str(data)),
        ("curl ", "curl --silent "),
    ):
        commands = commands.replace(said, here)
    return f"exec 2>&1\n{commands}"


def options(home: Path, document: str) -> Iterator[str]:
    """The server's options for a document."""
    yield from ("--data-dir", str(home / DATA))
    for block in blocks(document, "toml"):
        if block.file == "tokens.toml":
            (home / block.file).write_text(block.text)
            yield from ("--token-file", str(home / block.file))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("document", [path for path in documents() if blocks(path, "console")])
def test_commands_print_what_the_document_says(tmp_path: Path, document: str) -> None:
    told = [*steps(document)]
    for program in PROGRAMS:
        if shutil.which(program) is None and any(program in step.command for step in told):
            pytest.skip(f"{program} is not installed")
    with ServerProcess(tmp_path, *options(tmp_path, document)) as server:
        url = f"http://{server.host}:{server.port}"
        furnish(tmp_path, document, url)
        done = subprocess.run(
            ["bash", "-c", script(told, url, tmp_path / DATA)],
            cwd=tmp_path,
            env=environment(tmp_path, url),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    printed = done.stdout.split(f"\n{MARK}\n")
    for step, output in zip(told, printed, strict=False):
        assert matches(step.expected, output), (
            f"{document}:{step.line}\n$ {step.command}\n{output}\n{done.stderr}"
        )
    assert len(printed) == len(told) + 1, done.stderr
