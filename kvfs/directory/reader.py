"""A look at a folder store's entries: rows of the index, values of the files."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from kvfs.directory.files import Found
from kvfs.directory.index import IndexReader, Row
from kvfs.errors import PathConflict
from kvfs.model import Entry, FileValue, value_hash
from kvfs.oplog import LogReader, OpLog
from kvfs.store import Unsettled

ReadFile = Callable[[str], Found | None]
"""Reads a key's file; raises `PathConflict`."""


class FolderReader(LogReader):
    """Implements `kvfs.store.Reader`: index and log in one read transaction each, values from the files."""

    def __init__(
        self, log: OpLog, connection: apsw.Connection, index: IndexReader, read_file: ReadFile
    ) -> None:
        super().__init__(log, connection)
        self._index = index
        self._read_file = read_file

    def page(
        self,
        start: str,
        end: str | None,
        *,
        limit: int,
        offset: int = 0,
        after: bool = False,
        values: bool = False,
    ) -> list[Entry]:
        rows = self._index.page(start, end, limit=limit, offset=offset, after=after)
        if not values:
            return [row.entry for row in rows]
        return [self._with_value(row) for row in rows]

    def count(self, start: str, end: str | None) -> int:
        return self._index.count(start, end)

    def tail(self) -> tuple[int, int]:
        # Ops that the log has already and the index has not may not show in what was read.
        return self._index.applied_seq(), super().tail()[1]

    def _with_value(self, row: Row) -> Entry:
        """A row's entry with its value, if the file is still what this look at the index knows."""
        try:
            found = self._read_file(row.entry.key)
        except PathConflict as exc:
            raise Unsettled(row.entry.key) from exc
        if found is None or found.value is None:
            raise Unsettled(row.entry.key)
        value = found.value
        if isinstance(value, FileValue):
            with value as large:
                value = large.read()
        if found.signature != row.signature and value_hash(value) != row.entry.sha256:
            raise Unsettled(row.entry.key)
        return row.entry.with_value(value)
