"""A look at a folder store's entries: rows of the index, values of the files."""

from __future__ import annotations

from collections.abc import Callable, Set

import apsw

from kvfs.directory.index import IndexReader, Row
from kvfs.directory.looks import Found, Signature
from kvfs.directory.state import durable_seq
from kvfs.errors import FileSystemError, PathConflict
from kvfs.model import Entry, FileValue, value_bytes, value_hash
from kvfs.oplog import LogReader, OpLog
from kvfs.store import Unsettled

ReadFile = Callable[[str], Found | None]
"""Reads a key's file; raises `PathConflict`."""


class FolderReader(LogReader):
    """Implements `kvfs.store.Reader`: index and log in one read transaction each, values from the files."""

    def __init__(
        self,
        log: OpLog,
        connection: apsw.Connection,
        index: IndexReader,
        read_file: ReadFile,
        looked: Set[str],
    ) -> None:
        super().__init__(log, connection)
        self._looked = looked
        self._index = index
        self._read_file = read_file
        # A look begins when something is first read. First at the index: all that it shows, the log has.
        self._applied_seq = index.applied_seq()

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
        entries = [self._with_value(row) for row in rows]
        stale = [row.entry.key for row, entry in zip(rows, entries, strict=True) if entry is None]
        if stale:
            # All, the second time: others may go on writing to other keys each time, and what was looked at
            # can be shown as it was then.
            raise Unsettled(*(row.entry.key for row in rows) if self._looked else stale)
        return [entry for entry in entries if entry is not None]

    def count(self, start: str, end: str | None) -> int:
        return self._index.count(start, end)

    def tail(self) -> tuple[int, int]:
        # Ops that the log has already and the index has not may not show in what was read.
        return self._applied_seq, super().tail()[1]

    def settled_seq(self) -> int:
        return durable_seq(self._connection)

    def _with_value(self, row: Row) -> Entry | None:
        """A row's entry with the value that its file has; None if that is not what the index knows.

        A file that goes on changing after the writer has looked at it has the value that was seen then.
        """
        entry = row.entry
        value = self._file_value(entry.key, row.signature, entry.sha256)
        if value is None and entry.key in self._looked:
            op = self._log.op(self._connection, entry.key, entry.op_number)
            if op is not None and op.entry is not None and op.entry.value is not None:
                value = value_bytes(op.entry.value)
        return None if value is None else entry.with_value(value)

    def _file_value(self, key: str, signature: Signature | None, sha256: bytes | None) -> bytes | None:
        try:
            found = self._read_file(key)
        except (PathConflict, FileSystemError):
            return None
        if found is None or found.value is None:
            return None
        value = found.value
        if isinstance(value, FileValue):
            with value as large:
                value = large.read()
        return value if found.signature == signature or value_hash(value) == sha256 else None
