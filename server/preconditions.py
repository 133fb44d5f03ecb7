"""Conditional and range headers, parsed: what RFC 9110 has in its sections 13 and 14."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from multidict import istr

from kvfs.errors import CasMismatch, InvalidParameters
from kvfs.model import UNCONDITIONAL, Conditions
from server.errors import RangeNotSatisfiable
from server.request import Headers

IF_MATCH: Final = istr("If-Match")
IF_NONE_MATCH: Final = istr("If-None-Match")
IF_RANGE: Final = istr("If-Range")
RANGE: Final = istr("Range")

_TAG: Final = r'(?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"'
_TAGS: Final = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_EACH_TAG: Final = re.compile(r'(W/)?"([^"]*)"')
_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Tags:
    """The entity tags of a header, each with whether it is weak; `every` for `*`."""

    tags: tuple[tuple[bool, str], ...] = ()
    every: bool = False

    def strongly(self) -> tuple[str, ...]:
        """The tags that a strong comparison can equal: If-Match's."""
        return tuple(tag for weak, tag in self.tags if not weak)

    def weakly(self) -> tuple[str, ...]:
        """The tags that a weak comparison can equal: If-None-Match's."""
        return tuple(tag for _, tag in self.tags)


def conditions(headers: Headers, *, value: bytes | None = None) -> Conditions:
    """What a write's headers, and its `if_match` parameter, demand; raises `InvalidParameters`."""
    if IF_MATCH not in headers and IF_NONE_MATCH not in headers:
        return UNCONDITIONAL if value is None else Conditions(value=value)
    etags = none_of = exists = None
    match = _tags(headers, IF_MATCH)
    if match is not None:
        if match.every:
            exists = True
        else:
            etags = match.strongly()
    none_match = _tags(headers, IF_NONE_MATCH)
    if none_match is not None:
        if none_match.every:
            if exists:
                raise InvalidParameters("If-Match: * and If-None-Match: * contradict each other")
            exists = False
        else:
            none_of = none_match.weakly()
    return Conditions(value=value, etags=etags, none_of=none_of, exists=exists)


def not_modified(headers: Headers, etag: str) -> bool:
    """Whether the reader knows this version already: a read's answer is 304 then.

    Raises `CasMismatch` where the reader's If-Match does not hold, `InvalidParameters`.
    """
    if IF_MATCH in headers:
        match = _tags(headers, IF_MATCH)
        if match is not None and not match.every and etag not in match.strongly():
            raise CasMismatch("ETag mismatch", current_etag=etag)
    if IF_NONE_MATCH not in headers:
        return False
    none_match = _tags(headers, IF_NONE_MATCH)
    return none_match is not None and (none_match.every or etag in none_match.weakly())


def wanted(headers: Headers, etag: str, size: int) -> range | None:
    """The stretch of the value that a Range header asks for; None for the whole.

    Several ranges, malformed ones, and those whose If-Range is of another version are ignored. Raises
    `RangeNotSatisfiable`.
    """
    if RANGE not in headers:
        return None
    if IF_RANGE in headers and headers[IF_RANGE].strip() != f'"{etag}"':
        return None
    match = _RANGE.fullmatch(headers[RANGE])
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise RangeNotSatisfiable(size)
        return range(size - length, size)
    first = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None
    if first >= size:
        raise RangeNotSatisfiable(size)
    return range(first, min(last + 1, size))


def _tags(headers: Headers, name: istr) -> _Tags | None:
    """What a header says; None where it is not there."""
    lines = headers.getall(name, None)
    if lines is None:
        return None
    text = ", ".join(lines)
    if text.strip() == "*":
        return _Tags(every=True)
    if not _TAGS.fullmatch(text):
        raise InvalidParameters(f'{name} must be * or a list of quoted etags, like "7"')
    return _Tags(tuple((bool(weak), tag) for weak, tag in _EACH_TAG.findall(text)))
