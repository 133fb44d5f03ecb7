"""The calls on the past of one store, and on the log of its changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import Final

from kvfs.client import forms
from kvfs.client.call import JSON, Call, Pages, Repeat, key_path
from kvfs.client.kv import Target, conditions, instant, json_bytes, params
from kvfs.client.records import (
    Changes,
    Diff,
    Event,
    History,
    Operation,
    Past,
    PastEntries,
    PastKeys,
    RolledBack,
    TableRolledBack,
)

_HISTORY_PAGE: Final = 1000
_FOLLOW_PAGE: Final = 1000
_FOLLOW_WAIT_S: Final = 30
_NAMED_MAX: Final = 4000


def list_at(
    at: Target, ts_ns: int, *, prefix: str = "", after: str | None = None, limit: int = 100
) -> Call[PastKeys]:
    """The keys under a prefix that there were at an instant (Unix nanoseconds), from beyond `after`."""
    asked = params(at, prefix=prefix or None, after=after, limit=limit, at_timestamp=instant(ts_ns))
    return Call("GET", "/kv", forms.past_keys, asked, patient=True)


def history(
    at: Target,
    key: str,
    *,
    limit: int = 50,
    before: int | None = None,
    after: int | None = None,
    newest: bool = True,
) -> Call[History]:
    """A page of the key's operations: the newest first, before op `before`, or the oldest, after `after`.

    Raises `KeyNotFound` for a key that has none.
    """
    asked = params(at, limit=limit, before=before, after=after, order=None if newest else "asc")
    return Call("GET", key_path(key, "/history"), forms.history, asked, patient=True)


def operations(at: Target, key: str, *, newest: bool = True) -> Pages[History, Operation]:
    """All operations of a key, the newest first or the oldest, page by page."""

    def rest(page: History) -> Call[History] | None:
        if not page.operations:
            return None
        last = page.operations[-1].op_number
        if newest:
            more = last > page.oldest_op_number
            return history(at, key, limit=_HISTORY_PAGE, before=last) if more else None
        return history(at, key, limit=_HISTORY_PAGE, after=last, newest=False)

    return Pages(history(at, key, limit=_HISTORY_PAGE, newest=newest), lambda page: page.operations, rest)


def snapshot(at: Target, key: str, op_number: int) -> Call[Past]:
    """The key as one of its operations left it.

    Raises `KeyNotFound` where there is no such operation, `TimeTravelGap` where its value is not known.
    """
    return Call("GET", key_path(key, "/snapshot"), forms.past, params(at, op_number=op_number), patient=True)


def snapshot_at(at: Target, ts_ns: int, *, prefix: str = "", limit: int = 100) -> Call[PastEntries]:
    """The keys under a prefix as they were at an instant: the first `limit`, with their values."""
    asked = params(at, timestamp=instant(ts_ns), prefix=prefix or None, limit=limit)
    return Call("GET", "/kv/snapshot", forms.past_entries, asked, patient=True)


def diff(at: Target, from_ns: int, to_ns: int, *, keys: Collection[str] | None = None) -> Call[Diff]:
    """What changed between two instants, of these keys or of all."""
    # Commas separate keys on the wire; of a key that has one, and of too many, all differences tell.
    named = None if keys is None else ",".join(keys)
    if keys is not None and (len(named or "") > _NAMED_MAX or any("," in key for key in keys)):
        named = None
    asked = {**params(at, to=instant(to_ns), keys=named), "from": instant(from_ns)}
    parse = forms.diff if keys is None else partial(forms.diff_of, frozenset(keys))
    return Call("GET", "/kv/diff", parse, asked, patient=True)


def rollback(
    at: Target,
    key: str,
    steps: int = 1,
    *,
    if_match_etag: str | None = None,
    idempotency_key: str | None = None,
) -> Call[RolledBack]:
    """Make a key what it was before its last `steps` operations, by a new one."""
    headers = {**conditions(if_match_etag), "Idempotency-Key": idempotency_key}
    path = key_path(key, "/rollback")
    return Call("POST", path, forms.rolled_back, params(at, steps=steps), headers, repeat=Repeat.BY_KEY)


def rollback_table(
    at: Target,
    to_ns: int,
    *,
    keys: Collection[str] | None = None,
    exclude_keys: Collection[str] | None = None,
    dry_run: bool = False,
    idempotency_key: str | None = None,
) -> Call[TableRolledBack]:
    """Make all keys (these, or all but those) what they were at an instant, in one transaction.

    With `dry_run`, only tell what that would do. Raises `TimeTravelGap` with `gap_keys`, `PathConflict`.
    """
    given = {"keys": keys, "exclude_keys": exclude_keys}
    body = {name: [*each] for name, each in given.items() if each is not None}
    return Call(
        "POST",
        "/kv/rollback",
        forms.table_rolled_back,
        params(at, to_timestamp=instant(to_ns), dry_run=dry_run or None, confirm=None if dry_run else "yes"),
        {"Content-Type": JSON if body else None, "Idempotency-Key": idempotency_key},
        json_bytes(body) if body else None,
        Repeat.BY_KEY,
        patient=True,
    )


# --- following the log ---------------------------------------------------------------------------------


def changes(
    at: Target,
    since: str | None = None,
    *,
    prefix: str = "",
    limit: int = 100,
    wait_s: int = 0,
    values: bool = False,
) -> Call[Changes]:
    """A page of what changed after the cursor `since`; without it, no events and the present cursor.

    `wait_s` (up to 60) waits until there is an event. Raises `ChangeCursorExpired`, with the present one as
    `cursor`, where the log does not reach back so far.
    """
    asked = params(
        at,
        since=since,
        prefix=prefix or None,
        limit=limit,
        wait=wait_s or None,
        include_values=values or None,
    )
    return Call("GET", "/changes", forms.changes, asked, wait_s=wait_s, patient=True)


def follow(
    at: Target, since: str | None = None, *, prefix: str = "", values: bool = False
) -> Pages[Changes, Event]:
    """Every change after the cursor `since`, or from now on, once and in order, as it happens; without end.

    While the server is away it tries again. To go on later, keep the `cursor` of the last event.
    """

    def page(cursor: str | None) -> Call[Changes]:
        return changes(at, cursor, prefix=prefix, limit=_FOLLOW_PAGE, wait_s=_FOLLOW_WAIT_S, values=values)

    def events(found: Changes) -> Iterator[Event]:
        return iter(found.events)

    return Pages(page(since), events, lambda found: page(found.cursor), endless=True)
