"""What SECURITY.md says is held by tests: each line of its lists names some, and there are such."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
LINES = re.split(r"\n(?=- )", TEXT)[1:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ADMITTED = "- **Can**"


@cache
def defined_in(path: Path) -> set[str]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, functions)}


def test_there_are_lines() -> None:
    assert len(LINES) > 20


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[2:60])
def test_each_line_names_tests_that_there_are(line: str) -> None:
    named = NAMED.findall(line)
    assert named or line.startswith(ADMITTED)
    assert [name for path, name in named if name not in defined_in(ROOT / path)] == []
    assert line.count("`tests/") == len(named)
