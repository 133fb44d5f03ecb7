"""`kvfs kv batch-get`, `batch-set` and `batch-delete`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from kvfs.client.records import Item
from kvfs.errors import InvalidParameters
from kvfs.valuetext import decoded
from server.cli.output import Output, entry_form
from server.cli.store import Store, on_store, writing


@click.command(epilog="Example: kvfs kv batch-get users/ada users/bob --db app")
@click.argument("keys", nargs=-1, required=True)
@on_store
def batch_get(store: Store, out: Output, *, keys: tuple[str, ...]) -> None:
    """Print the values of KEYS with what is known of them, as JSON lines; null where there is no key.

    One KEY of `-` reads keys from standard input, a line each.
    """
    for key, entry in store.get_many(_keys(keys)).items():
        out.json({"key": key, "entry": None} if entry is None else entry_form(entry))


@click.command(epilog="Example: kvfs kv batch-set tea=7.50 coffee=9.00 --db shop")
@click.argument("items", nargs=-1, required=True)
@click.option("--history/--no-history", default=True, help="Keep the values in the op-log.")
@writing
def batch_set(store: Store, out: Output, *, items: tuple[str, ...], history: bool) -> None:
    """Store many values, all or none, and print how many. ITEMS are KEY=VALUE.

    One ITEM of `-` reads JSON lines from standard input, as batch-get and list --json --values print them:
    {"key", "value", "encoding"?, "content_type"?, "ttl"?, "if_match"?, "if_none_match"?: "*"}.
    """
    if items == ("-",):
        done = store.set_many([*_read_items(sys.stdin.buffer)], history=history)
    else:
        done = store.set_many([_pair(each) for each in items], history=history)
    out.fact(len(done), {"count": len(done)})


@click.command(epilog="Example: kvfs kv batch-delete users/ada users/bob --db app")
@click.argument("keys", nargs=-1, required=True)
@click.option("--history/--no-history", default=True, help="Keep the operations' values in the op-log.")
@on_store
def batch_delete(store: Store, out: Output, *, keys: tuple[str, ...], history: bool) -> None:
    """Remove KEYS, all or none, and print how many there were. Missing ones pass silently.

    One KEY of `-` reads keys from standard input, a line each.
    """
    count = store.delete_many(_keys(keys), history=history)
    out.fact(count, {"deleted": count})


def _keys(given: tuple[str, ...]) -> tuple[str, ...]:
    if given != ("-",):
        return given
    return tuple(line.rstrip("\n") for line in sys.stdin)


def _pair(text: str) -> Item:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r} is not KEY=VALUE.")
    return Item(key, os.fsencode(value))


def _read_items(lines: Iterable[bytes]) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        try:
            yield _item(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise InvalidParameters(f"line {number} is no item: {exc}") from exc


def _item(form: dict[str, Any]) -> Item:
    return Item(
        key=form["key"],
        value=decoded(form["value"], form.get("encoding", "utf-8")),
        content_type=form.get("content_type"),
        ttl_s=form.get("ttl"),
        if_match=form.get("if_match"),
        if_none_match=form.get("if_none_match") == "*",
    )
