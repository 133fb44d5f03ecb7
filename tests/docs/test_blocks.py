"""Every block of code in the documents is run or read by a test, or stands here with the reason why not."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.docs.documents import Block, blocks, documents, text

RUN = {"console": "test_console.py", "python": "test_python.py"}
READ: dict[str, Callable[[str], Any]] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
NO_CODE = {"gitignore"}

NOT_RUN = {
    ("README.md", "make serve"): "does not end; every target of make sets up the same",
    ("docs/api.md", "curl -O"): "fetches generators of clients from the internet",
    ("docs/how-to/container.md", "KVFS_DATA="): "needs Docker; the test's server stands in for it",
    ("docs/operations.md", "mkdir -p secrets"): "needs Docker; tests/packaging reads compose.yaml",
    ("docs/reliability.md", "make soak"): "takes minutes; tests/soak goes through a round of each fault",
    ("docs/tour.md", "make serve"): "does not end; every target of make sets up the same",
    ("docs/tokens.md", "KVFS_TOKEN="): "serves beyond loopback, and does not end",
}
"""Blocks of commands that no test runs: the document and how the block begins, and why."""


def all_blocks() -> Iterator[tuple[str, Block]]:
    for document in documents():
        for block in blocks(document):
            yield document, block


def excused(document: str, block: Block) -> tuple[str, str] | None:
    return next((key for key in NOT_RUN if key[0] == document and block.text.startswith(key[1])), None)


@pytest.mark.parametrize("document", documents())
def test_every_fence_is_one_of_a_block(document: str) -> None:
    fences = re.findall(r"^ *(?:```|~~~)", text(document), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(document))


@pytest.mark.parametrize(
    ("document", "block"), [pytest.param(*each, id=f"{each[0]}:{each[1].line}") for each in all_blocks()]
)
def test_a_block_of_code_is_run_or_read(document: str, block: Block) -> None:
    if block.language in READ:
        READ[block.language](block.text)
    elif block.language not in RUN and block.language not in NO_CODE:
        assert excused(document, block), (
            f"{document}:{block.line} is not run: make it a ```console block with what its commands print, "
            f"or give a reason in {__name__}.NOT_RUN"
        )


def test_a_program_that_is_a_file_is_called_by_a_command() -> None:
    for document, block in all_blocks():
        if block.language == "python" and block.file is not None:
            commands = "".join(each.text for each in blocks(document, "console"))
            assert f"$ python {block.file}" in commands, f"{document}:{block.line}"


def test_every_excuse_is_needed() -> None:
    assert {excused(*each) for each in all_blocks()} - {None} == NOT_RUN.keys()
