"""What a client's methods return, where `kvfs.model.Entry` is not it.

Values are bytes, None where there was no key. Units stand in names: `_s` and `_ms` are seconds and
milliseconds, of Unix time or of a duration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kvfs.model import Entry

SqlValue = int | float | str | bytes | None
"""What SQLite stores; on the way there a bool is 0 or 1."""

Values = Sequence[SqlValue] | Mapping[str, SqlValue]
"""What is bound to the parameters of SQL: in order, or by name."""


class JsonText(str):
    """JSON that is sent as it stands, where a method takes a value to make JSON of."""

    __slots__ = ()


class Item(NamedTuple):
    """One item of `set_many`. `if_match` is an etag; `if_none_match`: there must be no key."""

    key: str
    value: bytes | str
    content_type: str | None = None
    ttl_s: int | None = None
    if_match: str | None = None
    if_none_match: bool = False


class Written(NamedTuple):
    """What a write did to one key.

    `op_number` is the key's current one, which is its etag too. The other fields are set by the writes that
    have them: `created`, `content_type` and `size` by set; `number` and `previous` by incr and decr; `length`
    by push, pop and remove; `item` by pop, which has `popped` False where the array was empty; `removed` by
    remove; `expire_s` by expire and persist. `replayed`: it had happened already, under the same
    idempotency key.
    """

    key: str
    op_number: int
    created: bool = False
    content_type: str | None = None
    size: int | None = None
    number: int | float | None = None
    previous: int | float | None = None
    length: int | None = None
    item: Any = None
    popped: bool = False
    removed: int | None = None
    expire_s: int | None = None
    replayed: bool = False

    @property
    def etag(self) -> str:
        """The op number as an opaque tag, without quotes."""
        return str(self.op_number)


class Page(NamedTuple):
    """A page of keys: entries and common prefixes, each in byte order.

    `last` is where the next page begins (`after`), `next_offset` the same as a number; both None at the end.
    `cursor` is the place in the log of changes that the page shows: list, then follow from there.
    """

    entries: tuple[Entry, ...]
    prefixes: tuple[str, ...]
    has_more: bool
    last: str | None
    next_offset: int | None
    total: int | None
    cursor: str


class PastKeys(NamedTuple):
    """The keys that there were at a time; of `gap_keys` nobody knows."""

    keys: tuple[str, ...]
    gap_keys: tuple[str, ...]
    candidate_truncated: bool


class Operation(NamedTuple):
    """One change of a key: `value` is what it left, `before` what it found. `gap`: its value is not known."""

    op_number: int
    op_type: str
    origin: str
    value: bytes | None
    before: bytes | None
    content_type: str | None
    ts_ms: int
    ttl_s: int | None
    gap: bool


class History(NamedTuple):
    """A page of a key's operations. `total` and `oldest_op_number` speak of all that the log has."""

    operations: tuple[Operation, ...]
    total: int
    oldest_op_number: int


class Past(NamedTuple):
    """A key as it was; `ttl_s` is what was left then, which only a snapshot of a table tells."""

    key: str
    value: bytes | None
    content_type: str | None
    ttl_s: int | None = None


class PastEntries(NamedTuple):
    """The first keys of all that there were at a time; `total` counts all of them."""

    entries: tuple[Past, ...]
    total: int
    gap_keys: tuple[str, ...]
    candidate_truncated: bool


class Difference(NamedTuple):
    """What became of a key between two times."""

    key: str
    before: bytes | None
    after: bytes | None

    @property
    def kind(self) -> str:
        """created, modified or deleted."""
        if self.before is None:
            return "created"
        return "deleted" if self.after is None else "modified"


class Diff(NamedTuple):
    """What changed between two times, in byte order; of `gap_keys` nobody knows."""

    differences: tuple[Difference, ...]
    gap_keys: tuple[str, ...]
    candidate_truncated: bool


class RolledBack(NamedTuple):
    """A key after its last operations were undone."""

    key: str
    op_number: int
    value: bytes | None
    existed: bool
    replayed: bool = False


class TableRolledBack(NamedTuple):
    """The keys that a rollback of a table brought back and took away, or would."""

    restored: tuple[str, ...]
    deleted: tuple[str, ...]
    replayed: bool = False


class Event(NamedTuple):
    """One change, as the feed tells it. `kind` is set, ttl, delete or expire.

    `value` is there where it was asked for and is known; else `omitted` may say why it is not.
    """

    seq: int
    cursor: str
    key: str
    kind: str
    op_number: int
    origin: str
    ts_ms: int
    expire_s: int | None
    value: bytes | None = None
    content_type: str | None = None
    omitted: str | None = None


class Changes(NamedTuple):
    """A page of events; `cursor` is where to read on."""

    events: tuple[Event, ...]
    cursor: str
    oldest_cursor: str
    has_more: bool


class DatabaseInfo(NamedTuple):
    """A database in the data dir: a `table` file or a `directory`. `size_bytes` is None for a directory."""

    name: str
    path: str
    kind: str
    size_bytes: int | None
    modified_s: int
    valid: bool


class Created(NamedTuple):
    """A database that is there now; `created`: it was not there before."""

    path: str
    created: bool
    kv_table: str | None


class Deleted(NamedTuple):
    """A database that is gone, and how many files it was."""

    path: str
    files_removed: int


class Statement(NamedTuple):
    """One item of a transaction, giving a count. `batch`: run it once for each of these values.

    `values` are for `?` in order, or by name. `no_fail`: if it fails, it alone is undone.
    """

    sql: str
    values: Values = ()
    batch: Sequence[Values] | None = None
    no_fail: bool = False


class Query(NamedTuple):
    """One item of a transaction, giving rows; fields as those of a `Statement`."""

    sql: str
    values: Values = ()
    no_fail: bool = False


class Rows(NamedTuple):
    """The rows of a query, in its order of columns; `truncated`: there were more than the server gives."""

    columns: tuple[str, ...]
    rows: tuple[tuple[SqlValue, ...], ...]
    truncated: bool = False


class Affected(NamedTuple):
    """How many rows a statement changed; for a batch, `each` tells it for each of its values."""

    changed: int
    each: tuple[int, ...] | None = None


class Undone(NamedTuple):
    """An item with `no_fail` that failed, and was undone."""

    error: str


class Logged(NamedTuple):
    """An executed item of SQL, as the query log has it. `error` is None where it went well."""

    id: int
    sql: str
    ts_ms: int
    duration_ms: float
    rows_affected: int | None
    error: str | None


class SqlLog(NamedTuple):
    """The newest entries of the query log, of `total`."""

    entries: tuple[Logged, ...]
    total: int
