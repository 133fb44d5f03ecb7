"""What an engine tells of itself: what is open, how it fares, and what became of long work."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from kvfs.histogram import Histogram


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """An open database file. `size_bytes` is with its write-ahead log.

    `in_doubt`: a sync has failed, and so; it is read-only until it has been verified.
    """

    path: str
    size_bytes: int
    readonly: bool
    in_doubt: str | None = None


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """An open folder store.

    `keys` and `folders` are what the index knows, each key being a file. `watcher` is "off", "starting",
    "watching", "scanning" (there can be no events) or "failed", with a `watcher_reason`. `reconciles` counts
    outside edits that were logged, `hits` and `misses` reads that the index could and could not answer. Times
    are Unix seconds, durations seconds. `in_doubt` as in `DatabaseStatus`.
    """

    path: str
    table: str
    readonly: bool = False
    in_doubt: str | None = None
    keys: int = 0
    folders: int = 0
    watcher: str = "off"
    watcher_reason: str | None = None
    events: int = 0
    restarts: int = 0
    pending: int = 0
    scans: int = 0
    last_scan_s: float | None = None
    reconciles: int = 0
    hits: int = 0
    misses: int = 0
    last_rebuild_at_s: float | None = None
    last_rebuild_s: float | None = None
    oplog_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OpenStatus:
    """An open volume: how many use it now, how many writes wait, for how long nobody has used it."""

    volume: DatabaseStatus | FolderStatus
    users: int
    queued: int
    idle_s: float


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """All that is open, and why what could not be opened could not, by path.

    And of all commits so far, also of what is closed: how many writes shared one, and how long it took.
    """

    open: tuple[OpenStatus, ...]
    failed: Mapping[str, str]
    commit_writes: Histogram
    commit_us: Histogram


class Openings(NamedTuple):
    """The paths of what could not be opened, of what is open, and what of that is in doubt (`kvfs.doubt`)."""

    failed: Set[str]
    open: Set[str]
    in_doubt: Set[str]


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a folder: how many `files` of keys, and how much is passed over, by the reason.

    `examples` are some paths for each reason, escaped so that they can be shown.
    """

    files: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning did: how many ops it removed, and of how many keys.

    `stopped_by` is the code of what ended it before all was done, after some was: what is removed is removed.
    `pruned_seq` is the highest seq that was ever pruned. `freed_bytes` went back to the file system, and
    `free_bytes` are still in the store's file, for what is written next.
    """

    removed: int
    keys: int
    stopped_by: str | None
    pruned_seq: int
    freed_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild of a folder's index found.

    `keys` are how many there are now, `changed` those whose files were not what the log said, `recorded`
    the ops that were logged for that.
    """

    survey: Survey
    keys: int
    changed: int
    recorded: int
    duration_s: float


@dataclass(slots=True)
class Imported:
    """What came of an import so far. `records` of the export are in, up to `at` (a seq, or a key).

    The rest counts what was done just now. `skipped`: there was such a key; `expired`: its TTL had run out.
    """

    history: bool = False
    records: int = 0
    at: int | str | None = None
    complete: bool = False
    imported: int = 0
    skipped: int = 0
    expired: int = 0
