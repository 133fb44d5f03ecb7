"""Pages of keys: by offset or after a key, whole or folded at a delimiter. Written once, for every store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvfs.cursor import Cursor
from kvfs.keys import successor
from kvfs.model import Entry
from kvfs.store import Reader

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 10_000

_VALUES_MAX_BYTES: Final = 32 << 20
_SKIP_CHUNK: Final = 1000


@dataclass(frozen=True, slots=True)
class Query:
    """Which page: keys under `prefix`, beyond `after`, without the first `offset` of them.

    A `delimiter` folds every key that has it beyond the prefix into one common prefix, which counts as a
    key does. `values` adds values, and ends the page early where they would fill the memory.
    """

    prefix: str = ""
    after: str | None = None
    offset: int = 0
    limit: int = LIMIT_DEFAULT
    delimiter: str = ""
    values: bool = False
    total: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Entries and common prefixes, each in byte order; `last` is the greatest of both, if there is any.

    What changes from now on is told from `cursor` on.
    """

    entries: tuple[Entry, ...]
    prefixes: tuple[str, ...]
    has_more: bool
    last: str | None
    total: int | None
    cursor: Cursor


def page(reader: Reader, query: Query) -> Page:
    """One page of what the reader sees."""
    entries, prefixes, has_more = (_folded if query.delimiter else _plain)(reader, query)
    lasts = [entries[-1].key] if entries else []
    if prefixes:
        lasts.append(prefixes[-1])
    return Page(
        entries=tuple(entries),
        prefixes=tuple(prefixes),
        has_more=has_more,
        last=max(lasts, key=str.encode) if lasts else None,
        total=_total(reader, query) if query.total else None,
        cursor=Cursor(reader.log_id(), reader.tail()[0]),
    )


def _plain(reader: Reader, query: Query) -> tuple[list[Entry], list[str], bool]:
    start, after = _start(query)
    end = successor(query.prefix)
    if not query.values:
        rows = reader.page(start, end, limit=query.limit + 1, offset=query.offset, after=after)
        return rows[: query.limit], [], len(rows) > query.limit
    entries: list[Entry] = []
    size = 0
    offset = query.offset
    while True:
        # Few at a time: a value may be as large as the store allows.
        rows = reader.page(start, end, limit=16, offset=offset, after=after, values=True)
        for entry in rows:
            if len(entries) == query.limit or (entries and size + entry.size > _VALUES_MAX_BYTES):
                return entries, [], True
            entries.append(entry)
            size += entry.size
        if len(rows) < 16:
            return entries, [], False
        start, after, offset = rows[-1].key, True, 0


def _folded(reader: Reader, query: Query) -> tuple[list[Entry], list[str], bool]:
    entries: list[Entry] = []
    prefixes: list[str] = []
    size = 0
    skip = query.offset
    start, after = _start(query)
    if after and (fold := _fold(start, query)):
        start, after = successor(fold) or "", False
        if not start:
            return [], [], False
    end = successor(query.prefix)
    while True:
        # Short look-ahead: a run of plain keys comes in chunks, a folded subtree costs one look-up.
        rows = reader.page(start, end, limit=16, after=after, values=query.values)
        for entry in rows:
            if not skip and len(entries) + len(prefixes) == query.limit:
                return entries, prefixes, True
            fold = _fold(entry.key, query)
            if skip:
                skip -= 1
            elif fold:
                prefixes.append(fold)
            else:
                if query.values and entries and size + entry.size > _VALUES_MAX_BYTES:
                    return entries, prefixes, True
                entries.append(entry)
                size += entry.size
            start, after = entry.key, True
            if fold:
                beyond = successor(fold)
                if beyond is None:
                    return entries, prefixes, False
                start, after = beyond, False
                break
        else:
            if len(rows) < 16:
                return entries, prefixes, False


def _start(query: Query) -> tuple[str, bool]:
    """Where to begin, and whether beyond it."""
    if query.after is not None and query.after.encode() >= query.prefix.encode():
        return query.after, True
    return query.prefix, False


def _fold(key: str, query: Query) -> str:
    """The common prefix that a key folds into; empty for a key that stands for itself."""
    if not key.startswith(query.prefix):
        return ""
    at = key.find(query.delimiter, len(query.prefix))
    return "" if at < 0 else key[: at + len(query.delimiter)]


def _total(reader: Reader, query: Query) -> int:
    """How many keys and common prefixes there are on all pages together."""
    if not query.delimiter:
        return reader.count(query.prefix, successor(query.prefix))
    total = 0
    start, after, end = query.prefix, False, successor(query.prefix)
    while True:
        rows = reader.page(start, end, limit=_SKIP_CHUNK, after=after)
        for entry in rows:
            total += 1
            start, after = entry.key, True
            if fold := _fold(entry.key, query):
                beyond = successor(fold)
                if beyond is None:
                    return total
                start, after = beyond, False
                break
        else:
            if len(rows) < _SKIP_CHUNK:
                return total
