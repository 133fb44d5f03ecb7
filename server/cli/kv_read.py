"""`kvfs kv get`, `exists` and `list`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import click

from kvfs.errors import KeyNotFound
from kvfs.model import NS, Entry
from server.cli import exits
from server.cli.instants import INSTANT
from server.cli.output import Output, entry_form, moment, value_form
from server.cli.store import Store, on_store

_PAGE_KEYS: Final = 1000


@click.command(epilog="Example: kvfs kv get users/ada --db app --path prefs.theme")
@click.argument("key")
@click.option("--path", help="Print one node of a JSON document.")
@click.option("--at", type=INSTANT, help="As it was: 10m (ago), Unix seconds, or RFC 3339.")
@click.option("--op", type=click.IntRange(min=1), help="As this operation left it.")
@click.option("--output", "-o", "file", type=click.Path(dir_okay=False), help="Write it to a file.")
@on_store
def get(
    store: Store, out: Output, *, key: str, path: str | None, at: int | None, op: int | None, file: str | None
) -> None:
    """Print the value of KEY, byte for byte."""
    if sum(given is not None for given in (path, at, op)) > 1:
        raise click.UsageError("Give only one of --path, --at and --op.")
    if path is not None:
        node = store.get_node(key, path)
        _put(out, file, [node], {"key": key, "path": path, **value_form(node)})
    elif op is not None:
        past = store.snapshot(key, op)
        if past.value is None:
            raise KeyNotFound(f"There was no key after operation {op}")
        form = {"key": key, **value_form(past.value), "content_type": past.content_type, "op_number": op}
        _put(out, file, [past.value], form)
    elif at is not None or out.as_json:
        entry = store.get(key) if at is None else store.get_at(key, at)
        assert isinstance(entry.value, bytes)
        _put(out, file, [entry.value], entry_form(entry))
    else:
        with store.stream(key) as (_, chunks):
            _put(out, file, chunks, {})


def _put(out: Output, file: str | None, chunks: Iterable[bytes], form: dict[str, Any]) -> None:
    if file is not None and file != "-":
        with open(file, "wb") as written:
            for chunk in chunks:
                written.write(chunk)
    elif out.as_json:
        out.json(form)
    else:
        out.raw(chunks)


@click.command(epilog="Example: kvfs kv exists users/ada --db app && echo yes")
@click.argument("key")
@on_store
def exists(store: Store, out: Output, *, key: str) -> None:
    """Exit with 0 if KEY is there, else with 1."""
    found = store.exists(key)
    if out.as_json:
        out.json({"key": key, "exists": found})
    if not found:
        sys.exit(exits.NOT_FOUND)


@click.command(epilog="Example: kvfs kv list users/ --db app --long")
@click.argument("prefix", default="")
@click.option("--long", "-l", is_flag=True, help="With size, type, times and operation.")
@click.option("--values", is_flag=True, help="With values.")
@click.option("--delimiter", help="Fold keys that have this beyond PREFIX into one line.")
@click.option("--after", help="Only keys beyond this one.")
@click.option("--limit", "-n", type=click.IntRange(min=1), help="At most so many.  [default: all]")
@click.option("--at", type=INSTANT, help="The keys that there were: 10m (ago), Unix seconds, or RFC 3339.")
@click.option("--null", "-0", "null", is_flag=True, help="End each key with NUL, for xargs -0.")
@on_store
def list(
    store: Store,
    out: Output,
    *,
    prefix: str,
    long: bool,
    values: bool,
    delimiter: str | None,
    after: str | None,
    limit: int | None,
    at: int | None,
    null: bool,
) -> None:
    """List the keys that begin with PREFIX, in the order of their bytes.

    In a pipe a key is a line, as it is. Keys can have line ends in them: --null and --json are exact.
    """
    end = "\0" if null else "\n"
    if at is not None:
        if long or values or delimiter:
            raise click.UsageError("--at lists keys alone, without --long, --values and --delimiter.")
        keys = _past_keys(store, out, at, prefix=prefix, after=after, limit=limit)
        _print_keys(out, keys, end)
        return
    listed = _listed(store, prefix=prefix, after=after, limit=limit, delimiter=delimiter or "", values=values)
    if ((long or values) and not null) or out.as_json:
        columns = ["key", "size", "type", "updated", "expires", "op", *(["value"] if values else [])]
        out.table(columns, ((_fields(each, values=values), _form(each)) for each in listed))
    else:
        _print_keys(out, map(_name, listed), end)


def _print_keys(out: Output, keys: Iterable[str], end: str) -> None:
    if out.as_json:
        for key in keys:
            out.json({"key": key})
    else:
        out.items(keys, end=end)


def _listed(
    store: Store, *, prefix: str, after: str | None, limit: int | None, delimiter: str, values: bool
) -> Iterator[Entry | str]:
    """Entries, and common prefixes as text, in order, page by page."""
    left = limit
    while left is None or left > 0:
        page = store.list(
            prefix=prefix,
            after=after,
            limit=_PAGE_KEYS if left is None else min(left, _PAGE_KEYS),
            delimiter=delimiter,
            values=values,
        )
        both: Sequence[Entry | str] = [*page.entries, *page.prefixes]
        yield from sorted(both, key=lambda each: _name(each).encode())
        if not page.has_more:
            return
        left = None if left is None else left - len(both)
        after = page.last


def _past_keys(
    store: Store, out: Output, at: int, *, prefix: str, after: str | None, limit: int | None
) -> Iterator[str]:
    left = limit
    while left is None or left > 0:
        size = _PAGE_KEYS if left is None else min(left, _PAGE_KEYS)
        past = store.list_at(at, prefix=prefix, after=after, limit=size)
        yield from past.keys
        if len(past.keys) < size:
            out.gaps(past.gap_keys, truncated=past.candidate_truncated)
            return
        left = None if left is None else left - len(past.keys)
        after = past.keys[-1]


def _name(each: Entry | str) -> str:
    return each if isinstance(each, str) else each.key


def _fields(each: Entry | str, *, values: bool) -> tuple[object, ...]:
    if isinstance(each, str):
        return (each, "", "", "", "", "")
    expires = "" if each.expire_ns is None else moment(each.expire_ns)
    fields = (
        each.key, each.size, each.content_type, moment(each.updated_s * NS), expires, each.op_number
    )  # fmt: skip
    return (*fields, each.value) if values else fields


def _form(each: Entry | str) -> dict[str, Any]:
    return {"prefix": each} if isinstance(each, str) else entry_form(each)
