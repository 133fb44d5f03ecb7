"""What the contract's tests drive: one store, seen the same way through the engine and over HTTP."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


class StoreError(Exception):
    """What a store refuses: a code of the contract, and its details."""

    def __init__(self, code: str, message: str, details: dict[str, object]) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details


@dataclass(frozen=True)
class Got:
    """A value and what is told of it; `etag` None where the contract does not tell it."""

    value: bytes
    content_type: str
    created_at: int
    updated_at: int
    expire_at: int | None
    etag: str | None = None


@dataclass(frozen=True)
class Wrote:
    """What a write answers; None where it has no such answer."""

    op_number: int | None = None
    created: bool | None = None
    content_type: str | None = None
    size: int | None = None
    number: int | float | None = None
    previous: int | float | None = None
    length: int | None = None
    popped: object = None
    removed: int | None = None
    expire_at: int | None = None
    replayed: bool = False


@dataclass(frozen=True)
class Item:
    """One item of a batch of sets; `if_match` is an etag."""

    key: str
    value: str
    content_type: str | None = None
    ttl: int | None = None
    if_match: str | None = None
    if_none_match: bool = False


@dataclass(frozen=True)
class Listed:
    """A key in a page; `value` None where it was not asked for."""

    key: str
    size: int
    content_type: str
    created_at: int
    updated_at: int
    expire_at: int | None
    op_number: int
    value: bytes | None = None


@dataclass(frozen=True)
class Page:
    """A page of keys."""

    keys: list[str]
    items: list[Listed]
    prefixes: list[str]
    has_more: bool
    next_cursor: str | None
    next_after: str | None
    total: int | None
    change_cursor: str


@dataclass(frozen=True)
class PastPage:
    """The keys that there were."""

    keys: list[str]
    gap_keys: list[str]
    candidate_truncated: bool


@dataclass(frozen=True)
class Done:
    """An operation of a key's history: the values it left and found, None where there was none."""

    op_number: int
    op_type: str
    origin: str
    value: bytes | None
    before: bytes | None
    content_type: str | None
    ts_ms: int
    ttl: int | None
    gap: bool


@dataclass(frozen=True)
class Told:
    """A page of a key's history."""

    operations: list[Done]
    total: int
    oldest: int


@dataclass(frozen=True)
class Was:
    """A key as it was; `ttl` is what was left of it then."""

    value: bytes | None
    content_type: str | None
    ttl: int | None = None


@dataclass(frozen=True)
class Table:
    """A table as it was."""

    keys: dict[str, Was]
    total: int
    gap_keys: list[str]
    candidate_truncated: bool


@dataclass(frozen=True)
class Changed:
    """What became of keys between two times: (from, to), None where there was no key."""

    keys: dict[str, tuple[bytes | None, bytes | None]]
    gap_keys: list[str]
    candidate_truncated: bool


@dataclass(frozen=True)
class Undone:
    """What a rollback of a key answers."""

    op_number: int
    value: bytes | None
    existed: bool
    replayed: bool = False


@dataclass(frozen=True)
class Reverted:
    """What a rollback of a table did, or would do."""

    restored: list[str]
    deleted: list[str]
    replayed: bool = False


@dataclass(frozen=True)
class Pruned:
    """What a pruning did: how many ops it removed, of how many keys, and whether that was all."""

    removed: int
    keys: int
    complete: bool


@dataclass(frozen=True)
class Brought:
    """What came of an import."""

    records: int
    complete: bool
    imported: int
    skipped: int = 0
    expired: int = 0


class Driver(ABC):
    """One store. Any thread may use it. What fails raises `StoreError`."""

    directory: bool
    """Whether the keys are files."""

    # --- reading -----------------------------------------------------------------------------------------

    @abstractmethod
    def get(self, key: str) -> Got: ...

    @abstractmethod
    def get_node(self, key: str, path: str) -> bytes: ...

    @abstractmethod
    def get_at(self, key: str, at_ns: int) -> Got: ...

    @abstractmethod
    def batch_get(self, keys: Sequence[str]) -> dict[str, Got | None]: ...

    @abstractmethod
    def list(
        self,
        *,
        prefix: str = "",
        limit: int | None = None,
        offset: int | str = 0,
        after: str | None = None,
        delimiter: str = "",
        values: bool = False,
        total: bool = False,
    ) -> Page: ...

    @abstractmethod
    def list_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> PastPage: ...

    @abstractmethod
    def history(
        self,
        key: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
        newest: bool = True,
    ) -> Told: ...

    @abstractmethod
    def snapshot(self, key: str, op_number: int) -> Was: ...

    @abstractmethod
    def snapshot_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> Table: ...

    @abstractmethod
    def diff(self, from_ns: int, to_ns: int, *, keys: Sequence[str] | None = None) -> Changed: ...

    # --- writing -----------------------------------------------------------------------------------------

    @abstractmethod
    def rollback(
        self,
        key: str,
        steps: int | None = None,
        *,
        if_match_etag: str | None = None,
        idempotency_key: str | None = None,
    ) -> Undone: ...

    @abstractmethod
    def rollback_table(
        self,
        to_ns: int,
        *,
        keys: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> Reverted: ...

    @abstractmethod
    def set(
        self,
        key: str,
        value: bytes,
        *,
        content_type: str | None = None,
        ttl: int | None = None,
        path: str | None = None,
        if_match: bytes | None = None,
        if_match_etag: str | None = None,
        if_none_match: bool = False,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote: ...

    @abstractmethod
    def delete(
        self,
        key: str,
        *,
        if_match_etag: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote: ...

    @abstractmethod
    def incr(
        self,
        key: str,
        delta: int | None = None,
        *,
        path: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote: ...

    @abstractmethod
    def decr(self, key: str, delta: int | None = None, *, path: str | None = None) -> Wrote: ...

    @abstractmethod
    def push(
        self, key: str, node: str, *, path: str | None = None, idempotency_key: str | None = None
    ) -> Wrote: ...

    @abstractmethod
    def pop(self, key: str, *, path: str | None = None, idempotency_key: str | None = None) -> Wrote: ...

    @abstractmethod
    def remove(
        self, key: str, *, index: int | None = None, node: str | None = None, path: str | None = None
    ) -> Wrote: ...

    @abstractmethod
    def expire(self, key: str, ttl: int, *, idempotency_key: str | None = None) -> Wrote: ...

    @abstractmethod
    def persist(self, key: str) -> Wrote: ...

    @abstractmethod
    def batch_set(
        self, items: Sequence[Item], *, history: bool = True, idempotency_key: str | None = None
    ) -> Sequence[Wrote]: ...

    @abstractmethod
    def batch_delete(self, keys: Sequence[str], *, idempotency_key: str | None = None) -> int: ...

    @abstractmethod
    def prune(self, *, before_ns: int | None = None, keep_last: int | None = None) -> Pruned: ...

    @abstractmethod
    def retention(self) -> dict[str, int | None]: ...

    @abstractmethod
    def set_retention(self, **changes: int | None) -> dict[str, int | None]: ...

    @abstractmethod
    def export(self, *, history: bool = False, after: bytes | None = None) -> bytes:
        """All of an export; after this seal."""

    @abstractmethod
    def import_(self, data: bytes, *, on_conflict: str = "fail") -> Brought:
        """Put a part of an export in, or all of it."""

    # --- around it ---------------------------------------------------------------------------------------

    @abstractmethod
    def sibling(self, table: str) -> Driver:
        """Another store of the same database file or directory; it goes when this one does."""

    @abstractmethod
    def now_ns(self) -> int:
        """The store's own time."""

    @abstractmethod
    def let_pass(self, seconds: float) -> None:
        """Return when so much time has passed for the store."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the store, and check that its files are as they must be."""

    def has(self, key: str) -> bool:
        """Whether there is such a key."""
        return self.why_missing(key) is None

    def why_missing(self, key: str) -> str | None:
        """The code that reading the key gives, None where it is there."""
        try:
            self.get(key)
        except StoreError as error:
            if error.code in ("KEY_NOT_FOUND", "KEY_EXPIRED"):
                return error.code
            raise
        return None

    def op_number(self, key: str) -> int:
        """The number of the key's last op."""
        return int(self.get(key).etag or 0)

    def cursor(self) -> str:
        """Where the log of changes ends."""
        return self.list(limit=1).change_cursor

    def all_keys(self) -> Sequence[str]:
        """All keys, in the order of the list."""
        page = self.list(limit=10_000)
        assert not page.has_more
        return page.keys


@contextmanager
def refused(code: str, message: str | None = None) -> Iterator[pytest.ExceptionInfo[StoreError]]:
    """What is inside must fail with this code, saying this."""
    with pytest.raises(StoreError, match=None if message is None else re.escape(message)) as caught:
        yield caught
    assert caught.value.code == code, str(caught.value)
