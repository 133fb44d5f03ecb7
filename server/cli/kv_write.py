"""The `kvfs kv` commands that change one key."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

from kvfs.client.records import JsonText, Written
from kvfs.errors import InvalidParameters
from server.cli import exits
from server.cli.output import Output
from server.cli.store import Command, Store, on_store, writing

_HISTORY = click.option("--history/--no-history", default=True, help="Keep the value in the op-log.")
_PATH = click.option("--path", help="Where in a JSON document.")
_IF_ETAG = click.option("--if-etag", metavar="ETAG", help="Only if this is the key's etag.")
_NUMBERS_MAY_BE_NEGATIVE = {"ignore_unknown_options": True}


@click.command(epilog='Example: kvfs kv set users/ada \'{"name": "Ada"}\' --db app --create')
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", "-f", type=click.Path(exists=True, dir_okay=False), help="The value is in this file.")
@click.option("--path", help="Set one node of a JSON document; VALUE is JSON.")
@click.option("--ttl", type=click.IntRange(min=1), help="Seconds to live.")
@click.option("--type", "content_type", help="The content type.  [default: as the value looks]")
@click.option("--if-value", metavar="VALUE", help="Only if this is the key's value.")
@_IF_ETAG
@click.option("--if-absent", is_flag=True, help="Only if there is no such key.")
@_HISTORY
@writing
def set(
    store: Store,
    out: Output,
    *,
    key: str,
    value: str | None,
    file: str | None,
    path: str | None,
    ttl: int | None,
    content_type: str | None,
    if_value: str | None,
    if_etag: str | None,
    if_absent: bool,
    history: bool,
) -> None:
    """Store VALUE under KEY, and print the key's new etag. A VALUE of `-` is read from standard input."""
    with _value(value, file) as sent:
        done = store.set(
            key,
            sent,
            content_type=content_type,
            ttl_s=ttl,
            path=path,
            if_match=None if if_value is None else os.fsencode(if_value),
            if_match_etag=if_etag,
            if_none_match=if_absent,
            history=history,
        )
    form = {"created": done.created, "content_type": done.content_type, "size": done.size}
    out.fact(done.etag, _form(done, **form))


@contextmanager
def _value(value: str | None, file: str | None) -> Iterator[bytes | BinaryIO]:
    if (value is None) == (file is None):
        raise click.UsageError("Give either VALUE (- for standard input) or --file.")
    if file is not None:
        with open(file, "rb") as opened:
            yield opened
    elif value == "-":
        # Read to its end: what comes from a pipe could not be sent a second time.
        yield sys.stdin.buffer.read()
    else:
        yield os.fsencode(value or "")


@click.command(epilog="Example: kvfs kv delete users/ada --db app")
@click.argument("key")
@_IF_ETAG
@_HISTORY
@on_store
def delete(store: Store, out: Output, *, key: str, if_etag: str | None, history: bool) -> None:
    """Remove KEY, and print the number of that operation."""
    done = store.delete(key, if_match_etag=if_etag, history=history)
    out.fact(done.op_number, _form(done, deleted=True))


def _adding(name: str, summary: str) -> Callable[[Command], Any]:
    """A command that counts."""

    def decorate(command: Command) -> Any:
        for each in (
            writing,
            _HISTORY,
            _PATH,
            click.argument("delta", type=int, default=1),
            click.argument("key"),
        ):
            command = each(command)
        return click.command(
            name,
            help=summary,
            epilog=f"Example: kvfs kv {name} visits 5 --db app",
            context_settings=_NUMBERS_MAY_BE_NEGATIVE,
        )(command)

    return decorate


@_adding("incr", "Add DELTA to the number that KEY holds, and print it. A missing one counts from 0.")
def incr(store: Store, out: Output, *, key: str, delta: int, path: str | None, history: bool) -> None:
    _tell_number(out, store.incr(key, delta, path=path, history=history))


@_adding("decr", "Subtract DELTA from the number that KEY holds, and print it. A missing one counts from 0.")
def decr(store: Store, out: Output, *, key: str, delta: int, path: str | None, history: bool) -> None:
    _tell_number(out, store.decr(key, delta, path=path, history=history))


def _tell_number(out: Output, done: Written) -> None:
    out.fact(done.number, _form(done, value=done.number, previous=done.previous))


@click.command(epilog="""Example: kvfs kv push queue '{"job": 7}' --db app""")
@click.argument("key")
@click.argument("element")
@_PATH
@_HISTORY
@writing
def push(store: Store, out: Output, *, key: str, element: str, path: str | None, history: bool) -> None:
    """Append ELEMENT, which is JSON, to the array that KEY holds, and print its length."""
    done = store.push(key, _json(element), path=path, history=history)
    out.fact(done.length, _form(done, length=done.length))


@click.command(epilog="Example: kvfs kv pop queue --db app")
@click.argument("key")
@_PATH
@_HISTORY
@on_store
def pop(store: Store, out: Output, *, key: str, path: str | None, history: bool) -> None:
    """Take the last element of the array that KEY holds, and print it as JSON; 1 if there is none."""
    done = store.pop(key, path=path, history=history)
    form = _form(done, value=done.item, popped=done.popped, length=done.length)
    if done.popped and not out.as_json:
        out.json(done.item)
    elif out.as_json:
        out.json(form)
    if not done.popped:
        sys.exit(exits.NOT_FOUND)


@click.command(epilog="Example: kvfs kv remove tags --value '\"old\"' --db app")
@click.argument("key")
@click.option("--index", type=int, help="Where the element is; -1 is the last one.")
@click.option("--value", help="The element, as JSON; the first that equals it.")
@_PATH
@_HISTORY
@on_store
def remove(
    store: Store,
    out: Output,
    *,
    key: str,
    index: int | None,
    value: str | None,
    path: str | None,
    history: bool,
) -> None:
    """Take one element out of the array that KEY holds, and print how many there were to take: 1 or 0."""
    if (index is None) == (value is None):
        raise click.UsageError("Give either --index or --value.")
    if value is None:
        done = store.remove(key, index=index, path=path, history=history)
    else:
        done = store.remove(key, item=_json(value), path=path, history=history)
    out.fact(done.removed, _form(done, removed=done.removed, length=done.length))


@click.command(epilog="Example: kvfs kv expire session 3600 --db app")
@click.argument("key")
@click.argument("seconds", type=click.IntRange(min=1))
@on_store
def expire(store: Store, out: Output, *, key: str, seconds: int) -> None:
    """Let KEY run out in so many SECONDS, and print its new etag."""
    done = store.expire(key, seconds)
    out.fact(done.etag, _form(done, expire_at=done.expire_s))


@click.command(epilog="Example: kvfs kv persist session --db app")
@click.argument("key")
@on_store
def persist(store: Store, out: Output, *, key: str) -> None:
    """Take the TTL of KEY away, and print its etag."""
    done = store.persist(key)
    out.fact(done.etag, _form(done, expire_at=done.expire_s))


def _form(done: Written, **more: object) -> dict[str, object]:
    return {"key": done.key, "op_number": done.op_number, **more}


def _json(text: str) -> JsonText:
    """JSON as it was given; else it is no use asking the server, which would see an untrue body."""
    try:
        json.loads(text)
    except ValueError as exc:
        raise InvalidParameters(f"this is no JSON: {text} (a text needs quotes: '\"{text}\"')") from exc
    return JsonText(text)
