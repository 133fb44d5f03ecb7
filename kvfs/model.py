"""What everything speaks. The glossary, one word a concept:

- **key**: 1..1024 bytes of UTF-8 without NUL; `/` makes hierarchy.
- **value**: bytes with a content type.
- **entry**: a key's present state: its value and metadata.
- **op**: one change of one key, as the op-log keeps it. Its **seq** orders it among all ops of the
  store, from 1 and without holes; its **op number** among the ops of its key, from 1 and never reused.
- **origin**: who made an op: the `api`, foreign `sql`, or a `file` edited behind the server's back.
- **gap**: an op whose value the log does not have (`history=false`, too large for it, or pruned).
- **blob**: a large value of the log, in a file of its own.
- **baseline**: the first ops of a folder's files, from when kvfs first saw it.
- **tombstone**: an op after which there is no key: `delete`, `expire`, a `rollback` to before there was one.
- **store**: one table of a `.db` file, or one folder; both behind `kvfs.store.Store`.
- **index**: the disposable cache of a folder's files. **Reconcile**: to bring it up to date with them.
- **write**: a change somebody asks for; **decided** against the entry it meets, it becomes a `Change`,
  and numbered and timed, an op.
- **batch**: the writes that one commit makes durable (group commit); a **batch write** is one write of
  many items.

The records are NamedTuples rather than frozen dataclasses: immutable as well, and made in a third of the
time, of which every request makes a dozen.

Units stand in names: `_ns` Unix nanoseconds, `_s` seconds, `_bytes` bytes.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple

NS: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

INLINE_MAX_BYTES: Final = 256 * 1024
"""Values up to this size travel as bytes in memory, larger ones as files."""

_CHUNK_BYTES: Final = 1 << 20
_NOT_COPIED_BY_KERNEL: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})

Clock = Callable[[], int]
"""Unix time in nanoseconds."""


class OnConflict(enum.StrEnum):
    """What an import does with a key that is there already."""

    FAIL = "fail"
    SKIP = "skip"
    REPLACE = "replace"


class Origin(enum.StrEnum):
    """Who made an op."""

    API = "api"
    SQL = "sql"
    FILE = "file"


class OpType(enum.StrEnum):
    """What an op did."""

    SET = "set"
    DELETE = "delete"
    INCR = "incr"
    DECR = "decr"
    PUSH = "push"
    POP = "pop"
    REMOVE = "remove"
    EXPIRE_SET = "expire_set"
    PERSIST = "persist"
    EXPIRE = "expire"
    ROLLBACK = "rollback"


class FileValue:
    """A value too large for memory: an open file's first `size` bytes, owned by whoever holds this.

    Closing is idempotent; it works as a context manager.
    """

    __slots__ = ("_fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    @property
    def fd(self) -> int:
        """The open file."""
        return self._fd

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes from `offset`, `length` of them or all that follow; fewer if the file has shrunk."""
        remaining = self.size - offset if length is None else min(length, self.size - offset)
        chunks: list[bytes] = []
        while remaining > 0 and (chunk := os.pread(self.fd, remaining, offset)):
            chunks.append(chunk)
            offset += len(chunk)
            remaining -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def copy_to(self, fd: int) -> None:
        """Copy it into an open file; the kernel shares the blocks where the file system can.

        Raises OSError, also where the file has shrunk.
        """
        copied = 0
        while copied < self.size:
            try:
                done = os.copy_file_range(self.fd, fd, self.size - copied, copied, copied)
            except OSError as exc:
                if exc.errno not in _NOT_COPIED_BY_KERNEL:
                    raise
                done = os.pwrite(fd, os.pread(self.fd, min(_CHUNK_BYTES, self.size - copied), copied), copied)
            if not done:
                raise OSError(errno.EIO, "a large value is shorter than it was")
            copied += done

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        # No address: the fingerprint of an idempotent write is made of its repr.
        return f"FileValue({self.size} bytes)"

    def __enter__(self) -> FileValue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Value = bytes | FileValue


def value_bytes(value: Value) -> bytes:
    """All of a value in memory."""
    return value if isinstance(value, bytes) else value.read()


def value_hash(value: Value) -> bytes:
    """SHA-256."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).digest()
    digest = hashlib.sha256()
    for offset in range(0, value.size, _CHUNK_BYTES):
        digest.update(value.read(offset, _CHUNK_BYTES))
    return digest.digest()


class Entry(NamedTuple):
    """A key's present state. `value` is None where only the metadata was asked for.

    `sha256` is the hash of the value where the store knows it (folders always do).
    """

    key: str
    value: Value | None
    size: int
    content_type: str
    created_s: int
    updated_s: int
    expire_ns: int | None
    op_number: int
    sha256: bytes | None = None

    def expired(self, now_ns: int) -> bool:
        return self.expire_ns is not None and self.expire_ns <= now_ns

    def ttl_left_s(self, at_ns: int) -> int | None:
        """What is left of its TTL at an instant, in whole seconds, rounded up; None without one."""
        if self.expire_ns is None:
            return None
        # A TTL ends with a whole millisecond: of one of 10 s that are not 10 s and a bit at its beginning.
        return max(1, -(-((self.expire_ns - at_ns) // NS_PER_MS) // 1000))

    def with_value(self, value: Value) -> Entry:
        """The same with this value."""
        # Several times as fast as _replace, on the path of every read.
        return Entry(
            self.key, value, self.size, self.content_type, self.created_s, self.updated_s,
            self.expire_ns, self.op_number, self.sha256,
        )  # fmt: skip

    @property
    def etag(self) -> str:
        """The op number as an opaque tag, without quotes."""
        return str(self.op_number)


class KeyState(NamedTuple):
    """What the writer knows of a key: its entry, if it has one, and its last op number (0 for none).

    `expired`: there is no entry because its TTL has run out. `unlogged`: what somebody made of the key
    behind the server's back, which must become an op before the next one; `entry` is from before it.
    `blocked` tells why the key can be neither read nor written: its file name is taken by something that is
    no key. `hidden` tells why it cannot be written, though to readers it is only not there.
    """

    entry: Entry | None
    last_op_number: int
    expired: bool = False
    unlogged: Change | None = None
    blocked: str | None = None
    hidden: str | None = None


class Op(NamedTuple):
    """One change of one key: a row of the op-log.

    `entry` is the key's state after it, None after a tombstone; `recorded` is False for a gap: the log
    then keeps everything but the value. `ttl_s` is the TTL given with this very op.
    """

    seq: int
    key: str
    op_number: int
    op_type: OpType
    origin: Origin
    ts_ns: int
    entry: Entry | None
    recorded: bool = True
    ttl_s: int | None = None

    @property
    def left(self) -> Entry | None:
        """The entry that the op leaves in the store; None also for a gap imported without its value."""
        return None if self.entry is None or self.entry.value is None else self.entry


class Retention(NamedTuple):
    """What a store keeps of its past: of each key its last `keep_last` ops, and what it was in the last
    `max_age_s` seconds. What either keeps stays, and the last op always; with neither, all does.
    """

    keep_last: int | None = None
    max_age_s: int | None = None


KEEP_EVERYTHING: Final = Retention()


class Unchanged(enum.Enum):
    """Stands for what a setting is already, where None means something."""

    UNCHANGED = enum.auto()


UNCHANGED: Final = Unchanged.UNCHANGED


# --- writes: what somebody asks for ------------------------------------------------------------------


class Conditions(NamedTuple):
    """What must hold for a write, else `CasMismatch`. All that are given must hold.

    `value` is the whole current value; `etags` are op numbers of which one must be the current one, an
    empty tuple matching none; `exists` demands that there is a key (True) or that there is none (False).
    `none_of` are op numbers that the current one must not be among.
    """

    value: bytes | None = None
    etags: tuple[str, ...] | None = None
    none_of: tuple[str, ...] | None = None
    exists: bool | None = None


UNCONDITIONAL: Final = Conditions()


class Set(NamedTuple):
    """Store a value, or with `path` one node of a JSON document.

    `content_type` is final (`kvfs.content_types.classify` makes it of what a caller declares); a document
    that `path` edits keeps its own. `ttl_s` None clears an old TTL, but with `path` leaves it.
    """

    key: str
    value: Value
    content_type: str
    ttl_s: int | None = None
    path: str | None = None
    conditions: Conditions = UNCONDITIONAL
    history: bool = True


class Delete(NamedTuple):
    """Remove a key; `KeyNotFound` where there is none."""

    key: str
    conditions: Conditions = UNCONDITIONAL
    history: bool = True


class Incr(NamedTuple):
    """Add `delta`, any integer, to a number; logged as `op_type` (incr or decr)."""

    key: str
    delta: int = 1
    path: str | None = None
    history: bool = True
    op_type: OpType = OpType.INCR
    conditions: Conditions = UNCONDITIONAL


class Push(NamedTuple):
    """Append a JSON node to an array."""

    key: str
    node: bytes
    path: str | None = None
    history: bool = True
    conditions: Conditions = UNCONDITIONAL


class Pop(NamedTuple):
    """Take the last element of an array."""

    key: str
    path: str | None = None
    history: bool = True
    conditions: Conditions = UNCONDITIONAL


@dataclass(frozen=True, slots=True)
class Remove:
    """Take one element out of an array: the one at `index`, or the first that equals `node`.

    No NamedTuple: a tuple's `index` is its method.
    """

    key: str
    index: int | None = None
    node: bytes | None = None
    path: str | None = None
    history: bool = True
    conditions: Conditions = UNCONDITIONAL


class SetTtl(NamedTuple):
    """Give a key a TTL (`ttl_s` ≥ 1), or with None take it away; value and `updated_s` stay."""

    key: str
    ttl_s: int | None
    history: bool = True
    conditions: Conditions = UNCONDITIONAL


class Rollback(NamedTuple):
    """Make a key what it was before its last `steps` ops."""

    key: str
    steps: int = 1
    conditions: Conditions = UNCONDITIONAL


KeyWrite = Set | Delete | Incr | Push | Pop | Remove | SetTtl


class BatchSet(NamedTuple):
    """Sets, all or none; all conditions are checked before the first is made."""

    items: tuple[Set, ...]


class BatchDelete(NamedTuple):
    """Deletes, all or none; keys that are not there pass silently."""

    keys: tuple[str, ...]
    history: bool = True


class RollbackTable(NamedTuple):
    """Make the keys of a store what they were at an instant, all or none of them.

    All keys, these (`keys`), or all but those (`exclude_keys`). There is a result for each that changes, with
    a `removed` of 1 where the key goes. With `dry_run` the results tell what would be done.
    """

    to_ns: int
    keys: tuple[str, ...] | None = None
    exclude_keys: tuple[str, ...] | None = None
    dry_run: bool = False


Write = KeyWrite | BatchSet | BatchDelete | Rollback | RollbackTable


class Change(NamedTuple):
    """A write decided against one entry: the op it will be, not yet numbered or timed."""

    op_type: OpType
    value: Value | None
    content_type: str = ""
    expire_ns: int | None = None
    ttl_s: int | None = None
    recorded: bool = True
    origin: Origin = Origin.API
    touch: bool = True
    """False where the value stays (`expire_set`, `persist`): so does `updated_s`."""
    sha256: bytes | None = None
    """The value's hash, where it is known already."""


class WriteResult(NamedTuple):
    """What a write did to one key.

    `op_number` is the key's current one, after an op or without (`changed` False: nothing was to be
    done, nothing is logged). The other fields are set by the writes that have them: `number` and
    `previous` by incr; `length` by push, pop and remove; `node`, JSON text, by pop (None for an empty
    array); `removed` by remove.
    """

    key: str
    op_number: int
    changed: bool = True
    created: bool = False
    content_type: str | None = None
    size: int | None = None
    expire_ns: int | None = None
    number: int | float | None = None
    previous: int | float | None = None
    length: int | None = None
    node: str | None = None
    removed: int | None = None


class Outcome(NamedTuple):
    """What a write did: a result a key, in the order asked. `replayed`: an earlier answer, told again."""

    results: tuple[WriteResult, ...]
    replayed: bool = False

    @property
    def result(self) -> WriteResult:
        """The result of a write of one key."""
        return self.results[0]
