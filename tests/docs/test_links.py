"""Links between the documents lead somewhere, and every document is reached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from tests.docs.documents import ROOT, documents, everything, prose

INDEX = "docs/README.md"
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SOURCE = re.compile(r"`((?:benchmarks|docker|kvfs|server|tests)/[\w./-]+)`")


def links(document: str) -> Iterator[tuple[str, str]]:
    """(path from the project's folder, anchor) of all links to files; either may be empty."""
    for target in _LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target) is None:
            path, _, anchor = target.partition("#")
            folder = os.path.dirname(document)
            yield os.path.normpath(os.path.join(folder, path)) if path else document, anchor


def anchors(document: str) -> set[str]:
    """What GitHub makes of the headings: lower case, without punctuation, hyphens for spaces."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found.add(f"{name}-{same}" if same else name)
    return found


@pytest.mark.parametrize("document", everything())
def test_links_lead_somewhere(document: str) -> None:
    for path, anchor in links(document):
        assert (ROOT / path).exists(), path
        assert not anchor or anchor in anchors(path), f"{path}#{anchor}"


@pytest.mark.parametrize("document", documents())
def test_sources_that_are_named_are_there(document: str) -> None:
    assert [path for path in _SOURCE.findall(prose(document)) if not (ROOT / path).exists()] == []


def test_the_index_names_every_document() -> None:
    named = {path for path, _ in links(INDEX)}
    assert {path for path in documents() if path.startswith("docs/")} - {INDEX} <= named


def test_the_readme_leads_to_the_index() -> None:
    assert INDEX in {path for path, _ in links("README.md")}


def test_pictures_are_small_and_described() -> None:
    shown = {path for document in documents() for path, _ in links(document) if path.endswith(".svg")}
    assert shown == {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.svg")}
    for path in shown:
        picture = (ROOT / path).read_bytes()
        assert len(picture) < 8192, path
        root = ElementTree.fromstring(picture)
        assert root.find("{*}title") is not None, path
        assert root.find("{*}desc") is not None, path
