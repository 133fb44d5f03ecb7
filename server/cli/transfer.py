"""`kvfs export` and `kvfs import`."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import BinaryIO, Final

import click

from kvfs.client.errors import NoAnswer, Unreachable
from kvfs.errors import InvalidParameters, Overloaded
from kvfs.model import OnConflict
from kvfs.status import Imported
from kvfs.transfer.blocks import Block, Splitter
from kvfs.transfer.format import Header, Seal, end_line, header_line, seal_line
from server.cli.output import Output
from server.cli.store import Store, on_store, writing

_READ_BYTES: Final = 1 << 18
_PART_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 1.0
_TELL_EVERY_S: Final = 0.2
_MIB: Final = 1 << 20
_CLEAR: Final = "\r\x1b[K"


# --- export --------------------------------------------------------------------------------------------


@click.command(epilog="Example: kvfs export --db app --history --output app.jsonl")
@click.option("--history", is_flag=True, help="Every operation, instead of what the keys are now.")
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="Write to this new file.")
@click.option("--resume", is_flag=True, help="Go on with the file of --output, which was cut off.")
@on_store
def export(store: Store, out: Output, *, history: bool, output: str | None, resume: bool) -> None:
    """Write all keys of a table or folder, as they are at one moment, as JSON lines.

    What `kvfs import` takes. The last line has a count and a checksum, and is missing if the export was cut
    off. A connection that breaks is made again, and the export goes on.
    """
    if resume and output is None:
        raise click.UsageError("--resume needs --output.")
    if output is None:
        if sys.stdout.isatty():
            raise click.UsageError("Give --output, or send the output to a file or a program.")
        _Export(store, sys.stdout.buffer, history=history).run()
        sys.stdout.buffer.flush()
        return
    with open(output, "r+b" if resume else "xb") as file:
        exporting = _Export(store, file, history=history)
        if not (resume and exporting.resume(file)):
            exporting.run()
        file.flush()
        os.fsync(file.fileno())


class _Export:
    """An export on its way to a file: whole blocks only, so that it can go on after the last one."""

    def __init__(self, store: Store, file: BinaryIO, *, history: bool) -> None:
        self._store = store
        self._file = file
        self._history = history
        self._seal: Seal | None = None
        self._header: Header | None = None

    def resume(self, file: BinaryIO) -> bool:
        """Find where the file was cut off, and cut it to whole blocks; True if nothing is missing."""
        splitter = Splitter()
        whole = 0
        while piece := file.read(_READ_BYTES):
            for block in splitter.feed(piece):
                whole += sum(map(len, block.lines)) + len(seal_line(block.seal))
        if splitter.end is not None:
            splitter.finish()
            return True
        self._header, self._seal = splitter.header, splitter.seal
        if self._header is not None:
            self._history = self._header.history
            whole += len(header_line(self._header))
        file.truncate(whole)
        file.seek(whole)
        return False

    def run(self) -> None:
        """Write what is missing; raises `KvfsError` where it cannot be had."""
        with _meter(None) as tell:
            attempt = 0
            while True:
                attempt += 1
                before = self._seal
                try:
                    self._attempt(tell)
                    return
                except (NoAnswer, Unreachable, Overloaded):
                    # As long as it gets further it is worth going on.
                    attempt = 1 if self._seal != before else attempt
                    if attempt >= _ATTEMPTS:
                        raise
                time.sleep(_PAUSE_S)

    def _attempt(self, tell: Callable[[int, int], None]) -> None:
        splitter = Splitter()
        with self._store.export(history=self._history, after=self._seal) as pieces:
            for piece in pieces:
                for block in splitter.feed(piece):
                    self._begin(splitter.header)
                    self._write(block)
                    tell(sum(map(len, block.lines)), block.seal.records)
        splitter.finish()
        self._begin(splitter.header)
        assert splitter.end is not None
        self._file.write(end_line(splitter.end))

    def _begin(self, header: Header | None) -> None:
        if self._header is None:
            assert header is not None
            self._file.write(header_line(header))
            self._header = header

    def _write(self, block: Block) -> None:
        self._file.writelines((*block.lines, seal_line(block.seal)))
        self._seal = block.seal


# --- import --------------------------------------------------------------------------------------------


@click.command("import", epilog="Example: kvfs import app.jsonl --db copy --create")
@click.argument("file", type=click.Path(exists=True, dir_okay=False), required=False)
@click.option(
    "--on-conflict",
    type=click.Choice([each.value for each in OnConflict]),
    default=OnConflict.FAIL.value,
    help="What to do with keys that are there, unless the export has the history.",
)
@writing
def import_(store: Store, out: Output, *, file: str | None, on_conflict: str) -> None:
    """Put an export into a table or folder, from FILE or standard input, and print how many records are in.

    With its history it goes into an empty table or folder only. What was cut off goes on where it stopped
    when the command is given again: records that are in already are passed over.
    """
    if file is not None:
        with open(file, "rb") as opened:
            told = _import(store, opened, OnConflict(on_conflict))
    else:
        if sys.stdin.isatty():
            raise click.UsageError("Give FILE, or the export on standard input.")
        told = _import(store, sys.stdin.buffer, OnConflict(on_conflict))
    shown = ", ".join(
        f"{count} {what}"
        for count, what in (
            (told.imported, "imported"),
            (told.skipped, "skipped"),
            (told.expired, "expired"),
        )
        if count or what == "imported"
    )
    out.fact(f"{told.records} records: {shown}", asdict(told))


def _import(store: Store, file: BinaryIO, on_conflict: OnConflict) -> Imported:
    told = Imported()
    pieces = iter(lambda: file.read(_READ_BYTES), b"")
    with _meter(_size(file)) as tell:
        for part in _Parts(pieces, told):
            now = store.import_part(part, on_conflict=on_conflict)
            told.history, told.records, told.at, told.complete = (
                now.history,
                now.records,
                now.at,
                now.complete,
            )
            told.imported += now.imported
            told.skipped += now.skipped
            told.expired += now.expired
            tell(len(part), told.records)
    return told


class _Parts:
    """A stream in parts of about a MiB, each with a first line of its own, without what `told` says is in.

    The first is such a line alone, which asks how much is in. To go through them raises `InvalidParameters`
    where the stream is damaged or was cut off, when all that came whole has been given.
    """

    def __init__(self, pieces: Iterable[bytes], told: Imported) -> None:
        self._pieces = pieces
        self._told = told
        self._splitter = Splitter()
        self._after: Seal | None = None
        # The blocks of the next part, which goes on after `_after`, and the seal of the last one.
        self._held: list[bytes] = []
        self._seal: Seal | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._full()
            if self._splitter.end is not None:
                self._held.append(end_line(self._splitter.end))
            self._splitter.finish()
        except InvalidParameters:
            if self._held:
                yield self._part()
            raise
        yield self._part()

    def _full(self) -> Iterator[bytes]:
        """The parts that are as large as a part should be; the rest is held."""
        asked = False
        size = 0
        for piece in self._pieces:
            for block in self._splitter.feed(piece):
                if not asked:
                    asked = True
                    yield self._part()
                self._seal = block.seal
                if self._is_in(block.seal):
                    self._after = block.seal
                    continue
                self._held += (*block.lines, seal_line(block.seal))
                size += sum(map(len, block.lines))
                if size >= _PART_BYTES:
                    yield self._part()
                    size = 0

    def _part(self) -> bytes:
        header = self._splitter.header
        assert header is not None
        part = b"".join((header_line(header._replace(after=self._after or header.after)), *self._held))
        self._held, self._after = [], self._seal
        return part

    def _is_in(self, seal: Seal) -> bool:
        at = self._told.at
        if isinstance(at, int) and isinstance(seal.at, int):
            return seal.at <= at
        return isinstance(at, str) and isinstance(seal.at, str) and seal.at.encode() <= at.encode()


# --- progress ------------------------------------------------------------------------------------------


class _Meter:
    """Tells on stderr how far it is. `total_bytes` None: nobody knows how much there is."""

    def __init__(self, total_bytes: int | None) -> None:
        self._total_bytes = total_bytes
        self._bytes = 0
        self._began_s = self._told_s = time.monotonic()

    def __call__(self, size: int, records: int) -> None:
        """So many bytes more, so many records in all."""
        self._bytes += size
        now_s = time.monotonic()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._show(records, now_s - self._began_s)

    def clear(self) -> None:
        """Leave an empty line for what is to be said."""
        if self._told_s != self._began_s:
            click.echo(_CLEAR, err=True, nl=False)

    def _show(self, records: int, elapsed_s: float) -> None:
        part = f"{min(100, 100 * self._bytes // self._total_bytes)} %, " if self._total_bytes else ""
        rate = f"{self._bytes / _MIB / elapsed_s:.1f} MiB/s"
        click.echo(
            f"{_CLEAR}{part}{records} records, {self._bytes / _MIB:.1f} MiB, {rate}", err=True, nl=False
        )


@contextmanager
def _meter(total_bytes: int | None) -> Iterator[Callable[[int, int], None]]:
    """Shows progress while something is done, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda size, records: None
        return
    meter = _Meter(total_bytes)
    try:
        yield meter
    finally:
        meter.clear()


def _size(file: BinaryIO) -> int | None:
    """How large a file is; None for what is none."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
