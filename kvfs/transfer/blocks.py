"""Records into a stream of sealed blocks, and such a stream into blocks that are known to be whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kvfs.errors import InvalidParameters
from kvfs.model import Entry
from kvfs.transfer.format import (
    End,
    Header,
    Record,
    Seal,
    end_line,
    header_line,
    parse_header,
    parse_mark,
    record_line,
    seal_line,
)

LINE_MAX_BYTES: Final = 64 << 20
"""Of the longest line that is read, unless something else is said."""

_BLOCK_RECORDS: Final = 1000
_BLOCK_BYTES: Final = 1 << 20


def stream(
    header: Header, records: Iterable[Record], *, block_records: int = _BLOCK_RECORDS
) -> Iterator[bytes]:
    """An export in pieces: the first line, each block with its seal, the last line.

    At most a block is held in memory: `block_records` records, or about a MiB.
    """
    yield header_line(header)
    seal = header.after or _beginning(header)
    lines: list[bytes] = []
    size = 0
    for record in records:
        lines.append(record_line(record))
        size += len(lines[-1])
        if len(lines) >= block_records or size >= _BLOCK_BYTES:
            seal = _sealing(seal, lines, place_of(record))
            yield b"".join((*lines, seal_line(seal)))
            lines, size = [], 0
    if lines:
        seal = _sealing(seal, lines, place_of(record))
        yield b"".join((*lines, seal_line(seal)))
    yield end_line(End(header.id, seal.records, seal.sha256))


def place_of(record: Record) -> int | str:
    """Where a stream has got to with this record."""
    return record.key if isinstance(record, Entry) else record.seq


class Block(NamedTuple):
    """The lines of a whole block; the first is line `number` of the stream that was read."""

    lines: list[bytes]
    seal: Seal
    number: int


class Splitter:
    """Takes a stream in pieces of any size, and gives its blocks as soon as each is whole.

    `header` is None until the first line has come, `end` until the last. All methods raise
    `InvalidParameters` for what is no export, is damaged or was cut off.
    """

    def __init__(self, *, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self.header: Header | None = None
        self.end: End | None = None
        self._line_max_bytes = line_max_bytes
        self._number = 0
        self._seal = Seal("", 0, 0, b"")
        # The beginning of a line, and how long it is.
        self._begun: list[bytes] = []
        self._begun_bytes = 0
        self._lines: list[bytes] = []

    @property
    def seal(self) -> Seal | None:
        """The last seal that has come, or that the stream goes on after; None where there is none."""
        return self._seal if self._seal.records else None

    def feed(self, piece: bytes) -> Iterator[Block]:
        """Take the next piece; the blocks that are whole with it. To be gone through to its end."""
        *whole, rest = piece.split(b"\n")
        for line in whole:
            self._number += 1
            self._begun.append(line + b"\n")
            taken = b"".join(self._begun)
            self._begun, self._begun_bytes = [], 0
            try:
                yield from self._take(taken)
            except InvalidParameters as exc:
                raise InvalidParameters(f"line {self._number}: {exc.message}") from exc
        if rest:
            self._begun.append(rest)
            self._begun_bytes += len(rest)
            if self._begun_bytes > self._line_max_bytes:
                raise InvalidParameters(
                    f"line {self._number + 1} is longer than {self._line_max_bytes} bytes"
                )

    def finish(self) -> None:
        """Make sure that the stream has come to its end."""
        if self.end is not None and not self._begun:
            return
        if self.header is None:
            raise InvalidParameters("this is no export: there is nothing in it")
        raise InvalidParameters(
            f"the export was cut off: its last line is missing. {self._seal.records} records came whole"
        )

    def finish_part(self) -> None:
        """Make sure that what has come ends with a block."""
        if self.header is None or self._begun or self._lines:
            self.finish()

    def _take(self, line: bytes) -> Iterator[Block]:
        if self.header is None:
            self.header = parse_header(line)
            self._seal = self.header.after or _beginning(self.header)
            return
        if self.end is not None:
            raise InvalidParameters("there is more after the last line")
        mark = parse_mark(line)
        if mark is None:
            self._lines.append(line)
        elif isinstance(mark, Seal):
            self._check_seal(mark)
            first = self._number - len(self._lines)
            block = Block(self._lines, mark, first)
            self._lines, self._seal = [], mark
            yield block
        else:
            if self._lines or mark != End(self._seal.id, self._seal.records, self._seal.sha256):
                raise InvalidParameters("the export is damaged: its last line does not fit what came before")
            self.end = mark

    def _check_seal(self, mark: Seal) -> None:
        assert self.header is not None
        fits = isinstance(mark.at, int) == self.header.history
        if not fits or not self._lines or mark != _sealing(self._seal, self._lines, mark.at):
            raise InvalidParameters("the export is damaged: the seal does not fit the lines before it")


def _beginning(header: Header) -> Seal:
    """What stands for the seal before the first block."""
    return Seal(header.id, 0, "" if not header.history else 0, hashlib.sha256(header.id.encode()).digest())


def _sealing(before: Seal, lines: list[bytes], at: int | str) -> Seal:
    """The seal of a block that follows another seal."""
    digest = hashlib.sha256(before.sha256)
    for line in lines:
        digest.update(line)
    return Seal(before.id, before.records + len(lines), at, digest.digest())
