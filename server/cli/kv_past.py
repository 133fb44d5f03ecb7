"""The `kvfs kv` commands on the past."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import click

from kvfs.client.records import Operation, TableRolledBack
from kvfs.model import NS_PER_MS
from server.cli.instants import INSTANT
from server.cli.output import Json, Output, moment, value_form
from server.cli.store import Store, on_store

_PAGE: Final = 1000
_ALL: Final = 10_000_000


@click.command(epilog="Example: kvfs kv history users/ada --db app --limit 5")
@click.argument("key")
@click.option("--limit", "-n", type=click.IntRange(min=1), help="At most so many.  [default: all]")
@click.option("--oldest-first", is_flag=True, help="Turn the order round.")
@on_store
def history(store: Store, out: Output, *, key: str, limit: int | None, oldest_first: bool) -> None:
    """Show the operations of KEY, the newest first."""
    operations = _operations(store, key, limit=limit, newest=not oldest_first)
    columns = ("op", "time", "type", "origin", "ttl", "value")
    out.table(columns, ((_fields(each), _form(each)) for each in operations))


def _operations(store: Store, key: str, *, limit: int | None, newest: bool) -> Iterator[Operation]:
    left = _ALL if limit is None else limit
    last: int | None = None
    while left > 0:
        size = min(left, _PAGE)
        before, after = (last, None) if newest else (None, last)
        page = store.history(key, limit=size, before=before, after=after, newest=newest)
        yield from page.operations
        if not page.operations:
            return
        left -= len(page.operations)
        last = page.operations[-1].op_number


def _fields(each: Operation) -> tuple[object, ...]:
    value: object = "(gap)" if each.gap else each.value
    at = moment(each.ts_ms * NS_PER_MS)
    return each.op_number, at, each.op_type, each.origin, each.ttl_s, value


def _form(each: Operation) -> Json:
    return {
        "op_number": each.op_number,
        "op_type": each.op_type,
        "origin": each.origin,
        "timestamp_ms": each.ts_ms,
        **value_form(each.value),
        **value_form(each.before, "before"),
        "content_type": each.content_type,
        "ttl": each.ttl_s,
        "gap": each.gap,
    }


@click.command(epilog="Example: kvfs kv snapshot 10m --db app --prefix users/")
@click.argument("time", type=INSTANT)
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=100, help="At most so many.")
@on_store
def snapshot(store: Store, out: Output, *, time: int, prefix: str, limit: int) -> None:
    """Show keys and values as they were at TIME: 10m (ago), Unix seconds, or RFC 3339.

    What one key was, `kvfs kv get KEY --at TIME` prints, or --op N.
    """
    past = store.snapshot_at(time, prefix=prefix, limit=limit)
    rows = (
        (
            (each.key, each.content_type, each.ttl_s, each.value),
            {"key": each.key, **value_form(each.value), "content_type": each.content_type, "ttl": each.ttl_s},
        )
        for each in past.entries
    )
    out.table(("key", "type", "ttl", "value"), rows)
    out.gaps(past.gap_keys, truncated=past.candidate_truncated)
    if past.total > len(past.entries):
        click.echo(f"kvfs: {past.total - len(past.entries)} more: see --limit", err=True)


@click.command(epilog="Example: kvfs kv diff 1h now --db app")
@click.argument("start", type=INSTANT)
@click.argument("end", type=INSTANT, default="now")
@click.option("--key", "keys", multiple=True, help="Only this key; may be given several times.")
@on_store
def diff(store: Store, out: Output, *, start: int, end: int, keys: tuple[str, ...]) -> None:
    """Show what changed between START and END: 10m (ago), now, Unix seconds, or RFC 3339."""
    found = store.diff(start, end, keys=keys or None)
    rows = (
        (
            (each.kind, each.key, each.before, each.after),
            {
                "key": each.key,
                "type": each.kind,
                **value_form(each.before, "from"),
                **value_form(each.after, "to"),
            },
        )
        for each in found.differences
    )
    out.table(("change", "key", "before", "after"), rows)
    out.gaps(found.gap_keys, truncated=found.candidate_truncated)


@click.command(epilog="Example: kvfs kv rollback users/ada --steps 2 --db app")
@click.argument("key")
@click.option("--steps", type=click.IntRange(min=1), default=1, help="How many operations to undo.")
@click.option("--if-etag", metavar="ETAG", help="Only if this is the key's etag.")
@on_store
def rollback(store: Store, out: Output, *, key: str, steps: int, if_etag: str | None) -> None:
    """Make KEY what it was before its last operations, and print its new etag."""
    done = store.rollback(key, steps, if_match_etag=if_etag)
    form = {"key": key, "op_number": done.op_number, "existed": done.existed, **value_form(done.value)}
    out.fact(done.op_number, form)


@click.command(epilog="Example: kvfs kv rollback-table 10m --db app --dry-run")
@click.argument("time", type=INSTANT)
@click.option("--key", "keys", multiple=True, help="Only this key; may be given several times.")
@click.option("--except", "excluded", multiple=True, help="Not this key; may be given several times.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@on_store
def rollback_table(
    store: Store,
    out: Output,
    *,
    time: int,
    keys: tuple[str, ...],
    excluded: tuple[str, ...],
    dry_run: bool,
    yes: bool,
) -> None:
    """Make a table what it was at TIME, all keys or none: 10m (ago), Unix seconds, or RFC 3339.

    At a terminal it shows what it would do, and asks; elsewhere it needs --yes.
    """
    if keys and excluded:
        raise click.UsageError("Give --key or --except, and not both.")

    def roll(*, dry_run: bool) -> TableRolledBack:
        return store.rollback_table(time, keys=keys or None, exclude_keys=excluded or None, dry_run=dry_run)

    if dry_run:
        _tell(out, roll(dry_run=True))
        return
    if not yes:
        if not (sys.stdin.isatty() and out.terminal):
            raise click.UsageError("Give --yes, or --dry-run to see what would be done.")
        would = roll(dry_run=True)
        _tell(out, would)
        click.confirm(f"Change {len(would.restored) + len(would.deleted)} keys?", abort=True)
    _tell(out, roll(dry_run=False))


def _tell(out: Output, done: TableRolledBack) -> None:
    changes = [(key, "restored") for key in done.restored] + [(key, "deleted") for key in done.deleted]
    changes.sort(key=lambda change: change[0].encode())
    out.table(("change", "key"), (((kind, key), {"key": key, "type": kind}) for key, kind in changes))
