"""Puts an export into a store, block by block, each in one batch of the writer.

How far it got is noted with each block (`kvfs.imports`), so that an import that was cut off goes on where it
stopped: when the same stream comes again, what is in already is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from kvfs.config import MIB, Config
from kvfs.errors import ImportConflict, InvalidParameters, KvfsError, PayloadTooLarge
from kvfs.imports import LastImport
from kvfs.model import Clock, Entry, OnConflict, Op
from kvfs.settling import Settler
from kvfs.status import Imported
from kvfs.store import Store
from kvfs.transaction import Transaction
from kvfs.transfer.blocks import Block, Splitter, place_of
from kvfs.transfer.format import Header, Record, Seal, parse_entry, parse_op
from kvfs.writer import Batch, Writer

T = TypeVar("T")

Place = int | bytes
"""Where in a stream: a seq, or a key."""

_VALUE_GROWS: Final = 2
"""A value's line is at most so many times as long, and a little more: base64 is a third longer."""


class Importer:
    """One import into one store, of a stream in pieces. For one thread at a time."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        settler: Settler,
        *,
        on_conflict: OnConflict,
        config: Config,
        clock: Clock,
    ) -> None:
        self._store = store
        self._writer = writer
        self._settler = settler
        self._on_conflict = on_conflict
        self._config = config
        self._clock = clock
        self._splitter = Splitter(line_max_bytes=_VALUE_GROWS * config.max_value_bytes + MIB)
        # Where the store has got to in the stream; None until the first line has come.
        self._done: Place | None = None
        self.told = Imported()

    def feed(self, piece: bytes, *, deadline: float | None = None) -> None:
        """Take the next piece of the stream; blocks that are whole with it are durable then.

        What fails leaves nothing of its block, and all blocks before it; how many records that are stands in
        the error's details, as `records`. Raises `InvalidParameters` for what is no export or is damaged,
        `ImportConflict` for what does not go with the store, `PayloadTooLarge`, `PathConflict`.
        """
        try:
            for block in self._splitter.feed(piece):
                self._take(block, self._begun(deadline), deadline)
            if self._splitter.header is not None:
                self._begun(deadline)
        except KvfsError as exc:
            raise self._counted(exc) from exc.__cause__

    def finish(self, *, part: bool = False, deadline: float | None = None) -> Imported:
        """The stream has ended; what came of it. `part`: more of it may come another time.

        Raises `InvalidParameters` where it was cut off.
        """
        try:
            if part:
                self._splitter.finish_part()
            else:
                self._splitter.finish()
            if self._splitter.end is not None:
                self._submit(self._end, deadline)
                self.told.complete = True
        except KvfsError as exc:
            raise self._counted(exc) from exc.__cause__
        return self.told

    # --- blocks ----------------------------------------------------------------------------------------

    def _begun(self, deadline: float | None) -> Place:
        """Where the store has got to; found out with the first line."""
        if self._done is not None:
            return self._done
        header = self._header
        last = self._submit(self._last, deadline)
        if last is None and header.history:
            # Whatever lies in a folder already must show in its log.
            self._settler.settle_all(deadline)
            last = self._submit(self._last, deadline)
        done = _beginning(header) if last is None else _place(last.at)
        after = _beginning(header) if header.after is None else _place(header.after.at)
        if last is not None:
            self.told.records, self.told.at = last.records, last.at
        if _is_before(done, after):
            raise ImportConflict(
                f"This part goes on after what has not come: {self.told.records} records are in"
            )
        self.told.history = header.history
        self._done = done
        return done

    def _take(self, block: Block, done: Place, deadline: float | None) -> None:
        place = _place(block.seal.at)
        if _is_before(done, place):
            records = [each for each in self._parsed(block) if _is_before(done, _place(place_of(each)))]
            imported, skipped, expired = self._submit(partial(self._bring, records, block.seal), deadline)
            self.told.imported += imported
            self.told.skipped += skipped
            self.told.expired += expired
            self._done = place
            self.told.at = block.seal.at
        self.told.records = max(self.told.records, block.seal.records)

    def _parsed(self, block: Block) -> list[Record]:
        """The records of a block, which are in order up to where its seal says."""
        parse: Callable[[bytes], Record] = parse_op if self._header.history else parse_entry
        records: list[Record] = []
        for number, line in enumerate(block.lines, block.number):
            try:
                record = parse(line)
                self._check(record, records[-1] if records else None)
            except KvfsError as exc:
                raise type(exc)(f"line {number}: {exc.message}") from exc
            records.append(record)
        if place_of(records[-1]) != block.seal.at:
            raise InvalidParameters(f"line {block.number + len(records)}: the seal names another place")
        return records

    def _check(self, record: Record, before: Record | None) -> None:
        if before is not None and not _is_before(_place(place_of(before)), _place(place_of(record))):
            raise InvalidParameters("this comes before the line before it")
        entry = record if isinstance(record, Entry) else record.left
        if entry is not None and entry.size > self._config.max_value_bytes:
            raise PayloadTooLarge(f"the value is over {self._config.max_value_bytes} bytes")

    # --- in a batch ------------------------------------------------------------------------------------

    def _last(self, transaction: Transaction) -> LastImport | None:
        """The last import, if it was of this export, and what is there is what it left."""
        last = self._store.last_import()
        if last is None or (last.id, last.history) != (self._header.id, self._header.history):
            return None
        return None if last.history and last.at != transaction.tail else last

    def _bring(self, records: list[Record], seal: Seal, transaction: Transaction) -> tuple[int, int, int]:
        """Stage records, all or none; how many were imported, skipped, and expired before."""
        self._store.check_writable()
        counts = (len(records), 0, 0)
        with transaction.whole():
            if self._header.history:
                self._append([each for each in records if isinstance(each, Op)], transaction)
            else:
                counts = self._put([each for each in records if isinstance(each, Entry)], transaction)
            self._note(seal.records, seal.at, complete=False)
        return counts

    def _append(self, ops: list[Op], transaction: Transaction) -> None:
        if self._last(transaction) is None and transaction.tail:
            raise ImportConflict(
                "A history is imported into an empty table or folder, and this one has a history of its own"
                if self._done == _beginning(self._header)
                else "The table or folder was changed since the import began, which cannot go on"
            )
        pruned_seq = self._header.pruned_seq
        for op in ops:
            if op.seq > max(pruned_seq, transaction.tail) + 1:
                raise ImportConflict(f"op {transaction.tail + 1} is missing: export anew, from the beginning")
            transaction.append(op)
        if pruned_seq:
            self._store.change_standing(
                lambda known: known._replace(
                    pruned_seq=max(known.pruned_seq, min(pruned_seq, transaction.tail))
                )
            )

    def _put(self, entries: list[Entry], transaction: Transaction) -> tuple[int, int, int]:
        now_ns = self._clock()
        live = [entry for entry in entries if not entry.expired(now_ns)]
        imported = 0
        for entry in live:
            if transaction.state(entry.key).entry is not None:
                if self._on_conflict is OnConflict.FAIL:
                    raise ImportConflict(f"{entry.key!r} is there already")
                if self._on_conflict is OnConflict.SKIP:
                    continue
            transaction.put(entry)
            imported += 1
        return imported, len(live) - imported, len(entries) - len(live)

    def _end(self, transaction: Transaction) -> None:
        """Note that all is in."""
        seal = self._splitter.seal
        if seal is None:
            self._note(0, 0 if self._header.history else "", complete=True)
        elif self._last(transaction) is not None:
            self._note(seal.records, seal.at, complete=True)

    def _note(self, records: int, at: int | str, *, complete: bool) -> None:
        header = self._header
        self._store.note_import(LastImport(header.id, header.history, records, at, complete))

    # --- parts -----------------------------------------------------------------------------------------

    @property
    def _header(self) -> Header:
        assert self._splitter.header is not None
        return self._splitter.header

    def _submit(self, run: Callable[[Transaction], T], deadline: float | None) -> T:
        """Have the writer do something on the store, in one batch."""

        def work(batch: Batch) -> T:
            return run(batch.on(self._store))

        return self._writer.submit(work, deadline=deadline, heavy=True).wait(deadline)

    def _counted(self, error: KvfsError) -> KvfsError:
        """The same error, which tells how many records are in."""
        error.details["records"] = self.told.records
        return error


def _place(at: int | str) -> Place:
    return at if isinstance(at, int) else at.encode()


def _beginning(header: Header) -> Place:
    return 0 if header.history else b""


def _is_before(one: Place, other: Place) -> bool:
    """Whether a place is before another; of one stream, so of one kind."""
    if isinstance(one, int) and isinstance(other, int):
        return one < other
    return isinstance(one, bytes) and isinstance(other, bytes) and one < other
