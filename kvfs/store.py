"""The narrow waist: what a store must do. Everything above works on any store alike.

A `Store` is one table or one folder. A `Volume` is what has one writer: a database file with all its
tables, or one folder store. Reading methods may be called by any thread; writing methods only by the
volume's writer, between `begin` and `commit` or `rollback`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from kvfs.checkpoints import Checkpoints
from kvfs.doubt import Doubt
from kvfs.imports import LastImport
from kvfs.model import Entry, FileValue, KeyState, Op, Value
from kvfs.pending import Pending
from kvfs.retention import Standing
from kvfs.sqlite import Space
from kvfs.status import DatabaseStatus, FolderStatus, Survey


class Unsettled(Exception):
    """Keys that were changed behind the server's back: the writer must log that before they are read.

    Never leaves the engine.
    """

    def __init__(self, *keys: str) -> None:
        super().__init__(*keys)
        self.keys = keys


class TooHeavy(Exception):
    """What a light batch must not do on the way, because it may take long; a heavy one may.

    Never leaves the engine.
    """


class StateChanged(Exception):
    """What a batch was decided on is no longer so: it begins again.

    Never leaves the engine.
    """


class Cut(NamedTuple):
    """What a pruning leaves of each key: its last op up to the seq `horizon` and all after it, and its last
    `keep_last` ops.
    """

    horizon: int
    keep_last: int | None = None


class AllKeys(NamedTuple):
    """All keys that come after this one, in byte order, have still to be looked at."""

    after: str = ""


class KeysOf(NamedTuple):
    """The keys of the ops after one seq and up to another have still to be looked at."""

    after: int
    up_to: int


Walk = AllKeys | KeysOf
"""Which keys a pruning has still to look at."""


class Step(NamedTuple):
    """What a step removed, and what is left to walk (None: nothing).

    `keys` counts keys of which all went that was to go; `blobs` are the hashes of values that may be named by
    no op any more, once the step is durable.
    """

    walk: Walk | None
    removed: int = 0
    keys: int = 0
    blobs: frozenset[bytes] = frozenset()


Settle = Callable[[Sequence[str]], Pending[bool]]
"""Has the writer look at keys soon, and log what was done to them. May raise `Overloaded`."""


class Volume(Protocol):
    """What has one writer. All that happens between `begin` and `commit` is durable, or did not happen.

    The writer calls `commit` and `finish` also where there was nothing to write.
    """

    @property
    def doubt(self) -> Doubt:
        """Whether a sync has failed; all that syncs notes it there."""

    @property
    def checkpoints(self) -> Checkpoints | None:
        """When its write-ahead log is to be copied; None as long as it has none."""

    @property
    def in_transaction(self) -> bool:
        """Whether what was begun is still under way; False where SQLite has undone it after an error."""

    def begin(self, *, light: bool) -> None:
        """Take the write lock, or raise `Overloaded` at once where another program has it.

        What is in doubt raises as `Doubt.check`.

        In a light batch nothing but `commit` may take long: what would, raises `TooHeavy`.
        """

    def commit(self) -> None:
        """Make everything since `begin` durable; this waits for the disk.

        An error with `outcome="unknown"` means that it may or may not be; with any other error it is not.
        """

    def finish(self) -> None:
        """Do what the durable ops still ask for, and let go of the write lock."""

    def rollback(self) -> None:
        """Forget what is not committed since `begin`, and let go of the write lock; idempotent."""

    def recall(self, idempotency_key: str, now_s: int) -> tuple[bytes, bytes] | None:
        """(fingerprint, answer) of the write that this idempotency key was used for, if it is remembered."""

    def remember(self, idempotency_key: str, fingerprint: bytes, answer: bytes, expire_s: int) -> None:
        """Keep the answer of a write, with the write."""

    def forget(self, now_s: int) -> None:
        """Drop answers whose time is over."""

    def rest(self) -> None:
        """Let go of what is kept for reads that have not come. Any thread may call it, every few seconds."""

    def sync(self) -> int | None:
        """Make durable what commits left to be written later; a mark for `synced`, None if nothing was.

        Any thread may call it.
        """

    def synced(self, mark: int) -> None:
        """Note, with the next commit, what `sync` made durable."""

    def shrink(self, pages: int) -> Space:
        """Give up to so many free pages back to the file system, with the next commit and `checkpoint`.

        0 only tells. A file that was not made for that keeps its free pages, for what is written next.
        """

    def checkpoint(self) -> None:
        """Bring into the file what the write-ahead log has, unless somebody is in the way; any thread may."""

    def verify(self) -> None:
        """Have all that is acknowledged on the disk, so that nothing is in doubt. The writer's, alone.

        Raises `KvfsError` for what keeps it from that; then all stays as it was.
        """

    @property
    def watching(self) -> bool:
        """Whether it notices by itself what is done behind the server's back, and so should stay open."""

    def status(self) -> DatabaseStatus | FolderStatus:
        """How it fares; any thread may ask."""

    def replaced(self) -> bool:
        """Whether another file or folder is now where this one was opened."""

    def close(self) -> None:
        """Let go of everything; idempotent. Nothing else may be under way."""


class Log(Protocol):
    """A consistent look at a store's op-log."""

    def op(self, key: str, op_number: int) -> Op | None:
        """One op of a key, if the log has it; a `FileValue` is the caller's to close."""

    def facts(self, key: str, op_number: int) -> Op | None:
        """One op of a key without its value, if the log has it."""

    def bounds(self, key: str) -> tuple[int, int] | None:
        """The first and the last op number that the log has of a key; None for a key never seen."""

    def seq_at(self, ts_ns: int) -> int:
        """The seq of the last op with a time up to `ts_ns`, 0 if there is none."""

    def state_at(self, key: str, seq: int) -> Op | None:
        """The key's last op up to this seq, without its value."""

    def keys_ever(self, start: str, end: str | None) -> Iterator[str]:
        """Every key that has an op, in byte order, from `start` on and before `end`."""


class Reader(Log, Protocol):
    """A consistent look at a store's entries, without those that have expired, and at its op-log."""

    def tail(self) -> tuple[int, int]:
        """(seq, ts_ns) of the last op that shows in the entries; (0, 0) of an empty log."""

    def log_id(self) -> str:
        """The identity of the op-log; empty while there is none."""

    def last_seq(self) -> int:
        """The seq of the last op of the log, whether it shows in the entries yet or not."""

    def pruned_seq(self) -> int:
        """The highest seq that was pruned, 0 if none was; no op after it is missing."""

    def span(self, *, after: int, through: int, start: str, end: str | None, limit: int) -> list[Op]:
        """The first `limit` ops with seqs above `after` up to `through`, in order, without values.

        Of keys from `start` on and before `end`.
        """

    def history(self, key: str, *, above: int, below: int, limit: int, newest: bool) -> list[Op]:
        """Ops of a key with numbers between these two, the newest first or the oldest, without values."""

    def changed_between(self, after: int, until: int, *, from_ns: int, to_ns: int, limit: int) -> list[str]:
        """The first `limit` keys, in byte order, that may not be the same at two instants.

        `after` and `until` are the seqs of the last ops up to the two. A key of whose past up to the second
        nothing is left is among them.
        """

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
        """Entries in byte order from `start` (with `after`: beyond it) and before `end`.

        `values` False leaves `Entry.value` None.
        """

    def count(self, start: str, end: str | None) -> int:
        """How many entries there are from `start` on and before `end`."""

    def standing(self) -> Standing:
        """What the log is to keep, and what was pruned of it."""

    def settled_seq(self) -> int:
        """Up to this seq, of each key only its last op may still be needed for what it is now."""


class EmptyReader:
    """The `Reader` of a store that is not there yet."""

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
        return []

    def count(self, start: str, end: str | None) -> int:
        return 0

    def tail(self) -> tuple[int, int]:
        return 0, 0

    def log_id(self) -> str:
        return ""

    def last_seq(self) -> int:
        return 0

    def pruned_seq(self) -> int:
        return 0

    def span(self, *, after: int, through: int, start: str, end: str | None, limit: int) -> list[Op]:
        return []

    def op(self, key: str, op_number: int) -> Op | None:
        return None

    def facts(self, key: str, op_number: int) -> Op | None:
        return None

    def bounds(self, key: str) -> tuple[int, int] | None:
        return None

    def history(self, key: str, *, above: int, below: int, limit: int, newest: bool) -> list[Op]:
        return []

    def seq_at(self, ts_ns: int) -> int:
        return 0

    def state_at(self, key: str, seq: int) -> Op | None:
        return None

    def changed_between(self, after: int, until: int, *, from_ns: int, to_ns: int, limit: int) -> list[str]:
        return []

    def keys_ever(self, start: str, end: str | None) -> Iterator[str]:
        return iter(())

    def standing(self) -> Standing:
        return Standing()

    def settled_seq(self) -> int:
        return 0


class SelfContained:
    """The part of a `Store` of one that nobody changes behind the server's back, and that has no blobs."""

    def prefetch(self, keys: Sequence[str]) -> None:
        return None

    @property
    def read_only(self) -> bool:
        return False

    def check_writable(self) -> None:
        return None

    def forget_index(self) -> None:
        return None

    def baseline_done(self) -> None:
        return None

    def drop_blobs(self, hashes: Set[bytes]) -> int:
        return 0

    def blobs(self) -> Iterator[bytes]:
        return iter(())

    def survey(self) -> Survey:
        return Survey()

    def note_rebuild(self, duration_s: float) -> None:
        return None

    def watch(self, settle: Settle, catch_up: Callable[[], None]) -> None:
        return None


class Store(Protocol):
    """One table or one folder."""

    @property
    def name(self) -> str:
        """The table's name."""

    @property
    def directory(self) -> bool:
        """Whether the keys are files, which others may edit."""

    @property
    def volume(self) -> Volume:
        """What the store is part of."""

    # --- reading ---------------------------------------------------------------------------------------

    def get(self, key: str, now_ns: int) -> Entry:
        """The key's entry; `value` is None where it is large and fetching it would take long.

        Raises `KeyNotFound`, `KeyExpired`, `PathConflict`; `Unsettled` where the writer must look first.
        """

    def fetch(self, key: str, now_ns: int) -> Entry:
        """As `get`, always with the value: bytes, or a `FileValue` that the caller closes."""

    def reading(
        self, now_ns: int, deadline: float | None = None, *, looked: Set[str] = frozenset()
    ) -> AbstractContextManager[Reader]:
        """A consistent look at all entries; what it takes is interrupted at `deadline` (monotonic s).

        `looked`: keys that the writer has just looked at; what it saw is true enough.
        """

    def scan(self, prefix: str, now_ns: int, *, everything: bool = False) -> Iterator[str] | None:
        """Keys under a prefix that appeared or vanished behind the server's back, or may have been edited
        after their TTL ran out; with `everything` all that may have changed. None where nothing did. Only
        the writer may go through them, and must look at each.
        """

    def unsettled_among(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys whose values were changed behind the server's back."""

    def upload(self) -> FileValue:
        """A new nameless file, open for writing, that `Set` takes as a value. The caller closes it."""

    # --- writing ---------------------------------------------------------------------------------------

    def tail(self) -> tuple[int, int]:
        """(seq, ts_ns) of the last op; (0, 0) of a store that is not there yet. Called first in a batch."""

    def log(self) -> AbstractContextManager[Log]:
        """The op-log as the last commit left it; the files that it opens are closed with the batch."""

    def prefetch(self, keys: Sequence[str]) -> None:
        """Read at once what `load` needs of keys that come next."""

    def load(self, key: str) -> KeyState:
        """The key's state as the last commit left it, expired or not; large values left out."""

    def load_value(self, key: str) -> Value:
        """The key's whole value."""

    def due(self, now_ns: int, limit: int) -> list[str]:
        """Keys whose TTL has run out, the oldest first."""

    def next_expiry(self) -> int | None:
        """When the next TTL runs out, in Unix nanoseconds."""

    @property
    def read_only(self) -> bool:
        """Whether entries cannot be changed: what runs out is not there any more, and no op takes it away."""

    def check_writable(self) -> None:
        """Raise `FileSystemError` or `DatabaseError` where nothing may be written."""

    def create(self) -> None:
        """Make the store's table or folder, and its op-log, if they are not there yet."""

    def forget_index(self) -> None:
        """Forget what can be made anew from the files; all of it must be looked at then. A batch of its own.

        A store without such does nothing.
        """

    def baseline_done(self) -> None:
        """Note that all that a folder held when it was first seen is in the log."""

    def prune(self, walk: Walk, cut: Cut) -> Step:
        """Remove from the log some of the ops that the cut does not keep; see `kvfs.pruning`."""

    def change_standing(self, change: Callable[[Standing], Standing]) -> Standing:
        """Change what the log is to keep; makes the store if it is not there yet. What it is then."""

    def last_import(self) -> LastImport | None:
        """The last import, if there was one. Asked for after `tail`."""

    def note_import(self, last: LastImport) -> None:
        """Note how far an import got; makes the store if it is not there yet."""

    def drop_blobs(self, hashes: Set[bytes]) -> int:
        """Remove those of these blobs that nothing durable names any more; how many bytes they had."""

    def blobs(self) -> Iterator[bytes]:
        """The hashes of all blobs of the log. Any thread may go through them."""

    def survey(self) -> Survey:
        """What there is to look at, and what is passed over. Any thread may ask; it takes long."""

    def note_rebuild(self, duration_s: float) -> None:
        """Remember that all that was forgotten has been made anew, for `status`."""

    def copy_to(self, path: str, *, locked: bool) -> None:
        """Copy what there is at one moment to where nothing is yet: durable then. Any thread may.

        A table's whole database to the file `path`, a folder to `<path>/<table>`, a folder of a database
        directory. Raises `Unsettled` where something was changed too soon, which `locked` keeps others from,
        and FileNotFoundError where it was pruned; what is at the path is good for nothing then.
        """

    def watch(self, settle: Settle, catch_up: Callable[[], None]) -> None:
        """From now on notice by itself what is done behind the server's back, and have `settle` log it.

        `catch_up` is called first where nothing is known yet: it goes through everything, and takes long.
        """

    def write(self, ops: Sequence[Op]) -> None:
        """Log these ops and make the entries what they say, once a batch. Several may be of one key."""
