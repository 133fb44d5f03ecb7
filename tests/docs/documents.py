"""The documents for people: which there are, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

RECORDS: Final = ("docs/decisions/", "CHANGELOG.md")
"""What was true when it was written: nothing in there is run, and only its links are looked at."""

_FENCED: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FILE: Final = re.compile(r"# ([\w-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code; `line` is that of its first line in the document, from 1."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name that the block gives itself in its first line, `# name.py`, if it does."""
        match = _FILE.match(self.text)
        return None if match is None or self.language == "console" else match[1]


def documents() -> list[str]:
    """The paths of all documents that tell how things are now, relative to the project."""
    return [path for path in everything() if not path.startswith(RECORDS)]


def everything() -> list[str]:
    """The paths of all documents."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def text(document: str) -> str:
    """What the document says."""
    return (ROOT / document).read_text()


def blocks(document: str, *languages: str) -> list[Block]:
    """The document's blocks in these languages; in all, if none are named."""
    markdown = text(document)
    found = (
        Block(match[2], match[3], markdown.count("\n", 0, match.start()) + 2)
        for match in _FENCED.finditer(markdown)
    )
    return [block for block in found if not languages or block.language in languages]


def prose(document: str) -> str:
    """The document without its blocks of code."""
    return _FENCED.sub("", text(document))
