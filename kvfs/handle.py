"""One open store, as programs use it: reads, writes, lists. Any thread may use a handle."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

from kvfs import content_types, feed, limits, listing, manykeys, timetravel
from kvfs.config import Config
from kvfs.cursor import Cursor
from kvfs.errors import InvalidParameters, Overloaded, PathIsDirectory
from kvfs.followers import Follower
from kvfs.idempotency import fingerprint
from kvfs.keys import check_key
from kvfs.model import (
    UNCHANGED,
    BatchDelete,
    BatchSet,
    Clock,
    Conditions,
    Delete,
    Entry,
    FileValue,
    Incr,
    OnConflict,
    Op,
    OpType,
    Outcome,
    Pop,
    Push,
    Remove,
    Retention,
    Rollback,
    RollbackTable,
    Set,
    SetTtl,
    Unchanged,
    Value,
    Write,
    WriteResult,
)
from kvfs.pending import Pending
from kvfs.pruner import Pruner
from kvfs.settling import Settler, noting
from kvfs.sql.handle import SqlHandle
from kvfs.status import Imported, Pruned, Rebuilt
from kvfs.store import Store, Unsettled
from kvfs.transfer import outgoing
from kvfs.transfer.format import Seal
from kvfs.transfer.incoming import Importer
from kvfs.writer import Batch, Writer

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Is told (files done, files in all) now and then."""

_TOGETHER_ATTEMPTS: Final = 3
_LIST_ATTEMPTS: Final = 20
_LIST_PAUSE_S: Final = 0.005


class Handle:
    """An open store.

    Blocking calls take `deadline`, in monotonic seconds; None waits as long as it takes. What they raise
    is a `KvfsError`; `DeadlineExceeded` always means that nothing was committed.
    """

    def __init__(
        self, store: Store, writer: Writer, *, config: Config, clock: Clock, sql: SqlHandle | None = None
    ) -> None:
        self._sql = sql
        self._store = store
        self._writer = writer
        self._config = config
        self._clock = clock
        self._settler = Settler(store, writer, clock)
        self._pruner = Pruner(store, writer, self._settler.look, config=config, clock=clock)
        self._on_close: Callable[[], None] | None = None

    @property
    def directory(self) -> bool:
        """Whether the keys are files in a folder."""
        return self._store.directory

    @property
    def table(self) -> str:
        """The table's name, or the folder's."""
        return self._store.name

    @property
    def sql(self) -> SqlHandle:
        """SQL on the database file. Raises `PathIsDirectory` for a folder."""
        if self._sql is None:
            raise PathIsDirectory("Path is a directory: a database file is needed")
        return self._sql

    def owning(self, on_close: Callable[[], None]) -> Handle:
        """This handle, which from now on owns what `on_close` closes."""
        self._on_close = on_close
        return self

    def close(self) -> None:
        """Close a store that `kvfs.open` opened; idempotent."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- reading ----------------------------------------------------------------------------------------

    def get_now(self, key: str) -> Entry | None:
        """The key's entry, if it can be had without waiting; None where `get` must be called.

        Made for an event loop's own thread. Raises as `get`.
        """
        try:
            entry = self._store.get(key, self._clock())
        except Unsettled:
            return None
        return None if entry.value is None else entry

    def get(self, key: str, *, deadline: float | None = None) -> Entry:
        """The key's entry with its value; a `FileValue` is the caller's to close.

        Raises `KeyNotFound`, `KeyExpired`, `PathConflict`, `InvalidParameters` (no key).
        """
        check_key(key)
        try:
            return self._store.fetch(key, self._clock())
        except Unsettled:
            looking = self._writer.submit(
                lambda batch: batch.on(self._store).entry(key), deadline=deadline, heavy=True
            )
            return looking.wait(deadline)

    def get_many(
        self, keys: Iterable[str], *, max_bytes: int | None = None, deadline: float | None = None
    ) -> dict[str, Entry | None]:
        """An entry for each key, None where there is none; values in memory, all of one instant.

        Raises `PayloadTooLarge` where the values are more than `max_bytes` together.
        """
        asked = [*dict.fromkeys(keys)]
        for _ in range(_TOGETHER_ATTEMPTS):
            found = manykeys.collect(asked, partial(self.get, deadline=deadline), max_bytes=max_bytes)
            are_the_last = partial(manykeys.are_the_last, found, now_ns=self._clock())
            if len(asked) < 2 or self._settler.look(are_the_last, deadline):
                return found
        # Others write all the time: in the writer's turn they wait.
        return self._writer.submit(
            lambda batch: manykeys.collect(asked, batch.on(self._store).entry, max_bytes=max_bytes),
            deadline=deadline,
            heavy=True,
        ).wait(deadline)

    def list(self, query: listing.Query, *, deadline: float | None = None) -> listing.Page:
        """One page of keys, in byte order."""
        looked: set[str] = set()
        for attempt in range(_LIST_ATTEMPTS):
            time.sleep(attempt * _LIST_PAUSE_S)
            appeared = self._store.scan(query.prefix, self._clock())
            if appeared is not None:
                self._settler.settle(noting(appeared, looked), deadline)
            try:
                with self._store.reading(self._clock(), deadline, looked=looked) as reader:
                    page = listing.page(reader, query)
            except Unsettled as exc:
                stale = list(exc.keys)
            else:
                # What was looked at since this began was true meanwhile, and that is enough: a file may never
                # come to rest, or the file system's clock be so coarse that it cannot be believed for long.
                keys = [entry.key for entry in page.entries]
                stale = [key for key in self._store.unsettled_among(keys) if key not in looked]
                if not stale:
                    return page
                looked.update(keys)
            self._settler.settle(iter(stale), deadline)
            looked.update(stale)
        raise Overloaded("The folder is changing too fast to be listed", retry_after_s=1)

    def settle_all(self, *, deadline: float | None = None) -> None:
        """Look at every key, so that everything that was done behind the server's back is in the log."""
        self._settler.settle_all(deadline)

    def rebuild(self, progress: Progress | None = None, *, deadline: float | None = None) -> Rebuilt:
        """Forget a folder's index, and make it anew from the files; what is found changed is logged.

        Reads and writes go on meanwhile. At the deadline it ends: what it has recorded stays, and what it has
        not looked at yet is looked at when it is asked for. Raises `InvalidParameters` for a table, which
        has no index.
        """
        if not self._store.directory:
            raise InvalidParameters("a table has no index to rebuild: only folders have one")
        began = time.monotonic()
        self._writer.submit(self._forget_index, deadline=deadline, heavy=True).wait(deadline)
        survey = self._store.survey()
        tell = progress or _tell_nobody
        tell(0, survey.files)
        looked = changed = recorded = 0
        for step in self._settler.settling(self._settler.everything(), deadline):
            looked += step.looked
            changed += step.changed
            recorded += step.recorded
            tell(min(looked, survey.files), survey.files)
        self._settler.note_baseline(deadline)
        duration_s = time.monotonic() - began
        self._store.note_rebuild(duration_s)
        tell(survey.files, survey.files)
        keys = self._settler.look(lambda reader: reader.count("", None), deadline)
        return Rebuilt(survey, keys, changed, recorded, duration_s)

    def get_at(self, key: str, ts_ns: int, *, deadline: float | None = None) -> Entry:
        """The key's entry as it was at an instant (Unix nanoseconds), ops of that very instant included.

        Raises `KeyNotFound` or `KeyExpired` where there was none, `TimeTravelGap` where it is not known.
        """
        check_key(key)
        if ts_ns >= self._clock():
            self._settler.settle_keys([key], deadline)
        return self._settler.look(lambda reader: timetravel.entry_at(reader, key, ts_ns), deadline)

    def list_at(
        self,
        ts_ns: int,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = listing.LIMIT_DEFAULT,
        deadline: float | None = None,
    ) -> timetravel.PastKeys:
        """The keys under a prefix that there were at an instant, in byte order, from beyond `after`."""
        self._settler.settle_until(ts_ns, deadline)
        cap = self._config.history_scan_cap
        return self._settler.look(
            lambda reader: timetravel.keys_at(
                reader, ts_ns, prefix=prefix, after=after, limit=limit, cap=cap
            ),
            deadline,
        )

    def history(
        self,
        key: str,
        *,
        limit: int = timetravel.HISTORY_LIMIT_DEFAULT,
        before: int | None = None,
        after: int | None = None,
        newest: bool = True,
        deadline: float | None = None,
    ) -> timetravel.History:
        """A page of the key's ops: the newest first, before op `before`, or the oldest first, after `after`.

        Raises `KeyNotFound` for a key that has none.
        """
        self._settler.settle_keys([key], deadline)
        return self._settler.look(
            lambda log: timetravel.history(log, key, limit=limit, before=before, after=after, newest=newest),
            deadline,
        )

    def snapshot(self, key: str, op_number: int, *, deadline: float | None = None) -> Op:
        """The op after which the key was as asked for; a `FileValue` is the caller's to close.

        Raises `KeyNotFound` where there is no such op, `TimeTravelGap` where its value is not known.
        """
        self._settler.settle_keys([key], deadline)
        return self._settler.look(lambda log: timetravel.snapshot(log, key, op_number), deadline)

    def op(self, key: str, op_number: int) -> Op | None:
        """An op that was told of, as the log has it; a `FileValue` is the caller's to close."""
        return self._settler.look(lambda log: log.op(key, op_number), None)

    def snapshot_at(
        self,
        ts_ns: int,
        *,
        prefix: str = "",
        limit: int = listing.LIMIT_DEFAULT,
        deadline: float | None = None,
    ) -> timetravel.PastEntries:
        """The entries under a prefix as they were at an instant: the first `limit`, with their values."""
        self._settler.settle_until(ts_ns, deadline)
        cap = self._config.history_scan_cap
        return self._settler.look(
            lambda log: timetravel.entries_at(log, ts_ns, prefix=prefix, limit=limit, cap=cap), deadline
        )

    def diff(
        self,
        from_ns: int,
        to_ns: int,
        *,
        keys: Collection[str] | None = None,
        deadline: float | None = None,
    ) -> timetravel.Diff:
        """What changed between two instants, of these keys or of all."""
        for key in keys or ():
            check_key(key)
        self._settler.settle_until(to_ns, deadline)
        cap = self._config.history_scan_cap
        return self._settler.look(
            lambda log: timetravel.diff(log, from_ns, to_ns, keys=keys, cap=cap), deadline
        )

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys under a prefix, in byte order, page by page."""
        query = listing.Query(prefix=prefix, limit=listing.LIMIT_MAX)
        while True:
            page = self.list(query)
            yield from (entry.key for entry in page.entries)
            if not page.has_more:
                return
            query = replace(query, after=page.last)

    # --- following --------------------------------------------------------------------------------------

    def place(self, since: Cursor | None = None, *, deadline: float | None = None) -> feed.Place:
        """Where the log is to be read on: from `since`, or None: from now on; and from where it could be.

        Raises `ChangeCursorExpired`.
        """
        return self._settler.look(lambda reader: feed.place(reader, since), deadline)

    def changes(self, query: feed.ChangesQuery, *, deadline: float | None = None) -> feed.Changes:
        """A page of what changed; raises `ChangeCursorExpired`. It does not look for outside edits itself."""
        page = self._settler.look(lambda reader: feed.changes(reader, query), deadline)
        if page.unfinished and not page.has_more and not page.events:
            # Whoever logged the rest is at it, or did not live to put it in place: the writer finds out.
            self._settler.settle(iter(()), deadline)
            page = self._settler.look(lambda reader: feed.changes(reader, query), deadline)
        return page

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Tell somebody when something was committed; what is returned ends that.

        What other programs commit nobody tells: a look at `place` now and then does.
        """
        return self._writer.followers.add(follower)

    def replaced(self) -> bool:
        """Whether another file or folder is now where this store was opened."""
        return self._store.volume.replaced()

    # --- writing ----------------------------------------------------------------------------------------

    def submit(
        self, write: Write, *, deadline: float | None = None, idempotency_key: str | None = None
    ) -> Pending[Outcome]:
        """Queue a write; what this returns is done when the write is durable, or has failed.

        With an `idempotency_key` it happens once, and a repeat gets the first outcome, marked `replayed`.
        Cancelling it works until the write is taken from the queue. Raises `InvalidParameters` or
        `PayloadTooLarge` for bad keys, `Overloaded` at once when the queue is full.
        """
        size, heavy = limits.check(write, self._config)
        store = self._store
        if idempotency_key is None:
            return self._writer.submit(
                lambda batch: batch.on(store).apply(write), deadline=deadline, size_bytes=size, heavy=heavy
            )
        mark = fingerprint(store.name, write)
        return self._writer.submit(
            lambda batch: batch.apply_once(store, write, idempotency_key, mark),
            deadline=deadline,
            size_bytes=size,
            heavy=heavy,
        )

    def apply(
        self, write: Write, *, deadline: float | None = None, idempotency_key: str | None = None
    ) -> Outcome:
        """As `submit`, and wait for it."""
        return self.submit(write, deadline=deadline, idempotency_key=idempotency_key).wait(deadline)

    def set(
        self,
        key: str,
        value: Value,
        *,
        content_type: str | None = None,
        ttl_s: int | None = None,
        path: str | None = None,
        if_match: bytes | None = None,
        history: bool = True,
    ) -> WriteResult:
        """Store a value, or with `path` one node of a JSON document; `if_match` is the value it must have."""
        return self.apply(
            Set(
                key,
                value,
                content_type=content_types.classify(content_type, value),
                ttl_s=ttl_s,
                path=path,
                conditions=Conditions(value=if_match),
                history=history,
            )
        ).result

    def delete(self, key: str, *, history: bool = True) -> WriteResult:
        """Remove a key; `KeyNotFound` where there is none."""
        return self.apply(Delete(key, history=history)).result

    def incr(self, key: str, delta: int = 1, *, path: str | None = None, history: bool = True) -> WriteResult:
        """Add to a number; a missing one counts from 0."""
        op_type = OpType.INCR if delta >= 0 else OpType.DECR
        return self.apply(Incr(key, delta, path=path, history=history, op_type=op_type)).result

    def push(self, key: str, node: bytes, *, path: str | None = None, history: bool = True) -> WriteResult:
        """Append a JSON node to an array; a missing one is made."""
        return self.apply(Push(key, node, path=path, history=history)).result

    def pop(self, key: str, *, path: str | None = None, history: bool = True) -> WriteResult:
        """Take the last element of an array; `node` is None where it was empty."""
        return self.apply(Pop(key, path=path, history=history)).result

    def remove(
        self,
        key: str,
        *,
        index: int | None = None,
        node: bytes | None = None,
        path: str | None = None,
        history: bool = True,
    ) -> WriteResult:
        """Take one element out of an array, by index or by value."""
        return self.apply(Remove(key, index=index, node=node, path=path, history=history)).result

    def expire(self, key: str, ttl_s: int) -> WriteResult:
        """Give a key a TTL; value and `updated_s` stay."""
        return self.apply(SetTtl(key, ttl_s)).result

    def persist(self, key: str) -> WriteResult:
        """Take a key's TTL away."""
        return self.apply(SetTtl(key, None)).result

    def rollback(self, key: str, steps: int = 1) -> WriteResult:
        """Make a key what it was before its last `steps` ops, by a new op."""
        return self.apply(Rollback(key, steps)).result

    def rollback_table(
        self,
        to_ns: int,
        *,
        keys: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
        dry_run: bool = False,
        deadline: float | None = None,
        idempotency_key: str | None = None,
    ) -> Outcome:
        """Make all keys (these, or all but those) what they were at an instant; a result for each change.

        Raises `TimeTravelGap` with `gap_keys`, `PathConflict`, `InvalidParameters` (both kinds of keys).
        """
        if keys is not None and exclude_keys is not None:
            raise InvalidParameters("give keys or exclude_keys, and not both")
        write = RollbackTable(
            to_ns,
            None if keys is None else tuple(keys),
            None if exclude_keys is None else tuple(exclude_keys),
            dry_run,
        )
        # Some at a time, so that the rollback itself has little to look at.
        if keys is not None:
            self._settler.settle_keys(keys, deadline)
        elif self._store.directory:
            self.settle_all(deadline=deadline)
        return self.apply(write, deadline=deadline, idempotency_key=idempotency_key)

    def set_many(self, items: Sequence[Set]) -> tuple[WriteResult, ...]:
        """Sets, all or none."""
        return self.apply(BatchSet(tuple(items))).results

    def delete_many(self, keys: Sequence[str], *, history: bool = True) -> int:
        """Deletes, all or none; how many keys were there."""
        return len(self.apply(BatchDelete(tuple(keys), history=history)).results)

    def upload(self) -> FileValue:
        """A nameless file on the store's own disk, to fill with a large value; the caller closes it."""
        return self._store.upload()

    def come_into_being(self) -> None:
        """Make the store's table and op-log, if they are not there yet."""
        self._writer.submit(lambda batch: batch.on(self._store).create(), heavy=True).result()

    # --- what stays of the past --------------------------------------------------------------------------

    def prune(
        self, *, before_ns: int | None = None, keep_last: int | None = None, deadline: float | None = None
    ) -> Pruned:
        """Remove old ops for good; reads and writes go on meanwhile.

        What a key was at `before_ns` (Unix nanoseconds) and later stays known, and its last `keep_last` ops
        stay, by whichever rule. What ends it after a part is told in the result. Raises `InvalidParameters`.
        """
        return self._pruner.prune(before_ns=before_ns, keep_last=keep_last, deadline=deadline)

    def retention(self, *, deadline: float | None = None) -> Retention:
        """What the store keeps of its past by itself."""
        return self._settler.look(lambda reader: reader.standing().retention, deadline)

    def set_retention(
        self,
        *,
        keep_last: int | Unchanged | None = UNCHANGED,
        max_age_s: int | Unchanged | None = UNCHANGED,
        deadline: float | None = None,
    ) -> Retention:
        """Change what the store keeps of its past by itself, as long as it is open; what that is then.

        Raises `InvalidParameters` for what is below 1.
        """
        return self._pruner.set_retention(keep_last=keep_last, max_age_s=max_age_s, deadline=deadline)

    # --- from one store to another -------------------------------------------------------------------------

    def export(
        self, *, history: bool = False, after: Seal | None = None, deadline: float | None = None
    ) -> Generator[bytes, None, None]:
        """Entries, or with `history` all ops, as lines of `kvfs.transfer.format`, from one consistent look.

        After a seal it goes on from there: a history as if it had never stopped, entries as they are now, or
        raises `ImportConflict`. `deadline` is for its beginning. To be gone through or closed: while it is
        open, a table's write-ahead log is not emptied.
        """
        return outgoing.export(
            self._store, self._settler, self.get_many, history=history, after=after, deadline=deadline
        )

    def copy_to(self, path: str, *, locked: bool = False) -> None:
        """Copy the store, as it is at one moment, to a path where nothing is; `kvfs.backup` does it safely.

        Raises `Overloaded` where what was copied was changed meanwhile, which `locked` keeps others from.
        """
        self._settler.copy_to(path, locked=locked)

    def importer(self, on_conflict: OnConflict = OnConflict.FAIL) -> Importer:
        """What takes an export in pieces; `on_conflict` is for one without history."""
        return Importer(
            self._store,
            self._writer,
            self._settler,
            on_conflict=on_conflict,
            config=self._config,
            clock=self._clock,
        )

    def import_(self, pieces: Iterable[bytes], *, on_conflict: OnConflict = OnConflict.FAIL) -> Imported:
        """Take a whole export; raises as `Importer` does. A history goes into an empty store only."""
        importer = self.importer(on_conflict)
        for piece in pieces:
            importer.feed(piece)
        return importer.finish()

    # --- what the engine asks ---------------------------------------------------------------------------

    def reap(self, *, deadline: float | None = None) -> Pending[int] | None:
        """Log the expiry of keys whose TTL has run out, if there are any; some at a time."""
        return self._settler.reap(deadline)

    def retain(self, deadline: float) -> None:
        """Remove some of what the store's retention does not keep, until the deadline."""
        self._pruner.retain(deadline)

    def watch(self) -> None:
        """Have the store notice by itself what is done behind the server's back."""
        self._store.watch(self._settler.settle_soon, self.settle_all)

    def next_expiry(self) -> int | None:
        """When the next TTL runs out, in Unix nanoseconds."""
        return self._store.next_expiry()

    # --- parts ------------------------------------------------------------------------------------------

    def _forget_index(self, batch: Batch) -> None:
        batch.on(self._store)
        self._store.forget_index()


def _tell_nobody(done: int, total: int) -> None:
    pass
