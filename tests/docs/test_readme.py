"""The tours of the documents, word for word: each command runs, and prints what it is said to print."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
MARK = "--- next command ---"


@dataclass(frozen=True)
class Step:
    command: str
    expected: str


def steps(markdown: str) -> list[Step]:
    """The commands of all console blocks, each with the output shown below it."""
    found: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", markdown, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command += "\n" + more
            found.append(Step(command, output.rstrip("\n")))
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether this was printed, where `...` stands for anything on a line."""
    pattern = re.escape(expected).replace(re.escape("..."), r"[^\n]*")
    return re.fullmatch(pattern, printed.rstrip("\n")) is not None


def tokens(markdown: str, home: Path) -> tuple[str, ...]:
    """The server's options for the token file that a document shows, if it does; it is `home`/tokens.toml."""
    shown = re.search(r"```toml\n(.*?)```", markdown, re.DOTALL)
    if shown is None:
        return ()
    (home / "tokens.toml").write_text(shown[1])
    return "--token-file", str(home / "tokens.toml")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/backup.md",
        "docs/changes.md",
        "docs/cli.md",
        "docs/sql.md",
        "docs/time-travel.md",
        "docs/tokens.md",
    ],
)
def test_a_tour_does_what_it_says(tmp_path: Path, document: str) -> None:
    shutil.copytree(ROOT / "fixtures", tmp_path / "fixtures")
    markdown = (ROOT / document).read_text()
    tour = steps(markdown)
    assert len(tour) > 10
    kvfs = tmp_path / "bin/kvfs"
    kvfs.parent.mkdir()
    kvfs.write_text(f'#!/bin/sh\nexec {sys.executable} -m server "$@"\n')
    kvfs.chmod(0o755)
    with ServerProcess(
        tmp_path, "--data-dir", str(tmp_path / "kvfs-data"), *tokens(markdown, tmp_path)
    ) as server:
        script = "\n".join(f"{step.command}\necho; echo '{MARK}'" for step in tour)
        for text, here in (
            ("http://127.0.0.1:8080", f"http://{server.host}:{server.port}"),
            ("curl ", "curl --silent "),
            (".venv/bin/kvfs ", "kvfs "),
        ):
            script = script.replace(text, here)
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1\n{script}"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{kvfs.parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "KVFS_URL": f"http://{server.host}:{server.port}",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    printed = done.stdout.split(f"\n{MARK}\n")
    assert len(printed) == len(tour) + 1, done.stderr
    for step, output in zip(tour, printed, strict=False):
        assert matches(step.expected, output), f"$ {step.command}\n{output}\n{done.stderr}"
