"""What holds for the whole project, whoever writes the next module."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kvfs", "server")
MAX_LINES = 600
TRIVIAL_STATEMENTS = 3


def _sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _module_name(source: Path) -> str:
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _python_files() -> list[Path]:
    """Every Python file of the project; no environments, caches or build output."""
    return sorted(
        path
        for folder in (*PACKAGES, "benchmarks", "docker", "docs", "tests", "tools", "examples")
        for path in (ROOT / folder).rglob("*.py")
    )


def _code_files() -> list[Path]:
    named = ("Makefile", "Dockerfile", "pyproject.toml", ".ci/run")
    scripts = (ROOT / "docker").rglob("*.sh")
    return [*_python_files(), *(ROOT / name for name in named), *scripts]


MODULES = [_module_name(source) for package in PACKAGES for source in _sources(package)]


IMPORT_ALONE = """
import importlib, os, sys
import aiohttp, apsw, click, httpcore, orjson, prometheus_client, uvloop, watchfiles, yaml
for module in sys.argv[1:]:
    if not (child := os.fork()):
        importlib.import_module(module)
        sys.exit()
    if os.waitpid(child, 0)[1]:
        print(module)
"""
"""Prints each module that does not import; others' modules, which take the time, are there already."""


@pytest.mark.soak
def test_every_module_imports_alone() -> None:
    """In a fresh process, so that no other module has imported what it forgot."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALONE, *MODULES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("module", MODULES)
def test_all_is_sorted_and_importable(module: str) -> None:
    imported = importlib.import_module(module)
    names: list[str] = list(getattr(imported, "__all__", []))
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(imported, name)] == []


def test_kvfs_says_what_is_public() -> None:
    assert importlib.import_module("kvfs").__all__


def _undocumented(body: list[ast.stmt], owner: str, inherited: set[str]) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        statements = sum(isinstance(part, ast.stmt) for part in ast.walk(node)) - 1
        is_class = isinstance(node, ast.ClassDef)
        is_method = owner.count(":") == 1
        exempt = not is_class and is_method and (node.name in inherited or statements <= TRIVIAL_STATEMENTS)
        if ast.get_docstring(node) is None and not exempt:
            yield f"{owner}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node.body, f"{owner}{node.name}:", inherited)


def _protocol_methods() -> set[str]:
    """What kvfs.store documents for every store: an implementation need not repeat it."""
    module = ast.parse((ROOT / "kvfs/store.py").read_text())
    return {
        node.name
        for protocol in module.body
        if isinstance(protocol, ast.ClassDef)
        for node in protocol.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("source", _sources("kvfs"), ids=_module_name)
def test_what_is_public_in_kvfs_is_documented(source: Path) -> None:
    """Classes, functions and methods; not private ones, trivial methods and those of a store's protocol."""
    module = ast.parse(source.read_text())
    assert not module.body or ast.get_docstring(module), "the module"
    undocumented = list(_undocumented(module.body, "", _protocol_methods()))
    assert not undocumented, ", ".join(undocumented)


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    names = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path in _python_files() if {path.stem, path.parent.name} & names] == []


def test_no_module_is_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in _python_files()
        if "tests" not in path.relative_to(ROOT).parts
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_nothing_is_left_for_later() -> None:
    # In halves, so that this file does not find itself.
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"))
    marks = re.compile(rf"\b({words})\b")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in _code_files()
        for line in path.read_text().splitlines()
        if marks.search(line)
    ]
    assert found == []


def test_imports_point_down_only() -> None:
    """The contracts stand in pyproject.toml, under tool.importlinter."""
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
