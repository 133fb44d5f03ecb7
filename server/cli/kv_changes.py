"""`kvfs kv changes`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice

import click

from kvfs.client.records import Event
from kvfs.model import NS_PER_MS
from server.cli.output import Json, Output, escaped, moment, text, value_form
from server.cli.store import Store, on_store

_PAGE = 1000


@click.command(epilog="Example: kvfs kv changes users/ --db app --follow --json")
@click.argument("prefix", default="")
@click.option("--since", metavar="CURSOR", help="What changed after this cursor.  [default: from now on]")
@click.option("--follow", "-f", is_flag=True, help="Wait for what comes; without --since this is understood.")
@click.option("--limit", "-n", type=click.IntRange(min=1), help="End after so many.")
@click.option("--values", is_flag=True, help="With values.")
@click.option("--cursor", is_flag=True, help="Print only the present cursor, for --since later.")
@on_store
def changes(
    store: Store,
    out: Output,
    *,
    prefix: str,
    since: str | None,
    follow: bool,
    limit: int | None,
    values: bool,
    cursor: bool,
) -> None:
    """Show what changes in the keys that begin with PREFIX: a line each, as it happens; Ctrl-C ends it.

    Lines have the cursor, time, change, key, operation number and origin. With --since they begin after it,
    and end with the present unless there is --follow.
    """
    if cursor:
        now = store.changes().cursor
        out.fact(now, {"cursor": now})
        return
    if follow or since is None:
        events = store.follow(since, prefix=prefix, values=values)
    else:
        events = _until_now(store, since, prefix=prefix, values=values)
    for event in islice(events, limit):
        if out.as_json:
            out.json(_form(event, values=values))
        else:
            out.line("\t".join(escaped(text(field)) for field in _fields(event, values=values)))
        # Whoever reads this wants it now.
        sys.stdout.flush()


def _until_now(store: Store, since: str, *, prefix: str, values: bool) -> Iterator[Event]:
    more = True
    while more:
        page = store.changes(since, prefix=prefix, limit=_PAGE, values=values)
        yield from page.events
        since, more = page.cursor, page.has_more


def _fields(event: Event, *, values: bool) -> tuple[object, ...]:
    at = moment(event.ts_ms * NS_PER_MS)
    fields = (event.cursor, at, event.kind, event.key, event.op_number, event.origin)
    return (*fields, event.value) if values else fields


def _form(event: Event, *, values: bool) -> Json:
    form: Json = {
        "cursor": event.cursor,
        "key": event.key,
        "op": event.kind,
        "op_number": event.op_number,
        "origin": event.origin,
        "ts_ms": event.ts_ms,
        "expire_at": event.expire_s,
    }
    if values:
        form |= {**value_form(event.value), "content_type": event.content_type}
        form |= {} if event.omitted is None else {"value_omitted": event.omitted}
    return form
