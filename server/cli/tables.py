"""Tables for a terminal: columns as wide as what is in them, and narrower where the terminal is."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

_GAP: Final = "  "
_CUT: Final = "…"


def lines(heading: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    """The heading and the rows, each in one line of at most `room` cells."""
    columns = [*zip(heading, *rows, strict=True)]
    wanted = [max(map(width, column)) for column in columns]
    given = share(wanted, room - len(_GAP) * (len(columns) - 1))
    return [_GAP.join(map(fit, row, given)).rstrip() for row in (heading, *rows)]


def share(wanted: Sequence[int], room: int) -> list[int]:
    """How wide columns are that have so much room together: the widest ones yield, but for one cell."""
    level = max(wanted)
    while level > 1 and sum(min(each, level) for each in wanted) > room:
        level -= 1
    given = [min(each, level) for each in wanted]
    spare = room - sum(given)
    for at, each in enumerate(wanted):
        if each > level and spare > 0:
            given[at] += 1
            spare -= 1
    return given


def fit(text: str, room: int) -> str:
    """The text in just so many cells: filled up with spaces, or cut."""
    size = width(text)
    if size <= room:
        return text + " " * (room - size)
    kept, used = "", 0
    for character in text:
        used += width(character)
        if used > room - 1:
            break
        kept += character
    return kept + _CUT + " " * (room - 1 - width(kept))


def width(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
