"""The calls on the keys of one store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from kvfs.client import forms
from kvfs.client.call import JSON, Answer, Body, Call, Pages, Params, Repeat, key_path
from kvfs.client.records import Item, JsonText, Page, Written
from kvfs.errors import InvalidParameters, KeyExpired, KeyNotFound, KvfsError
from kvfs.model import NS, Entry
from kvfs.valuetext import encoded

_PAGE_KEYS: Final = 1000
_CREATING: Final = frozenset({"incr", "decr", "push"})
_JSON_BODY: Final = {"Content-Type": JSON}


class Target(NamedTuple):
    """Which store is meant, and whether writes make it."""

    db: str
    table: str | None = None
    create: bool = False


def params(at: Target, *, creating: bool = False, **more: str | bytes | int | bool | None) -> Params:
    """The parameters of a request on a store."""
    return {
        "db": at.db,
        "table": at.table,
        "create_db_if_missing": True if creating and at.create else None,
        **more,
    }


def instant(ts_ns: int) -> str:
    """Unix nanoseconds as the wire has them."""
    sign, ns = ("-", -ts_ns) if ts_ns < 0 else ("", ts_ns)
    return f"{sign}{ns // NS}.{ns % NS:09d}"


def json_bytes(item: Any) -> bytes:
    """A value as JSON; `JsonText` as it stands. Raises `InvalidParameters` for what JSON cannot say."""
    if isinstance(item, JsonText):
        return item.encode()
    try:
        return json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as exc:
        raise InvalidParameters(f"this is no JSON value: {exc}") from exc


def conditions(if_match: str | None, *, if_none_match: bool = False) -> dict[str, str | None]:
    """The headers that make a write conditional on an etag, or on there being no key."""
    quoted = f'"{if_match}"' if if_match not in (None, "*") else if_match
    return {"If-Match": quoted, "If-None-Match": "*" if if_none_match else None}


# --- reading -------------------------------------------------------------------------------------------


def get(at: Target, key: str, *, rebuild: bool = False) -> Call[Entry]:
    """The key's entry with its value. Raises `KeyNotFound`, `KeyExpired`.

    `rebuild` (folders only) makes the index anew from the files first.
    """
    asked = params(at, rebuild=rebuild or None)
    return Call("GET", key_path(key), partial(forms.entry, key), asked)


def get_at(at: Target, key: str, ts_ns: int) -> Call[Entry]:
    """The key's entry as it was at an instant (Unix nanoseconds), ops of that very instant included.

    Raises `KeyNotFound` or `KeyExpired` where there was none, `TimeTravelGap` where it is not known.
    """
    return Call(
        "GET", key_path(key), partial(forms.entry, key), params(at, at_timestamp=instant(ts_ns)), patient=True
    )


def get_text(at: Target, key: str) -> Call[str]:
    """The key's value as text; raises `UnicodeDecodeError` where it is none."""
    return Call("GET", key_path(key), lambda answer: answer.body.decode(), params(at))


def get_json(at: Target, key: str, path: str | None = None) -> Call[Any]:
    """The key's value, or with `path` one node of it, made of JSON.

    Raises `InvalidParameters` for a path into what is no JSON, `ValueError` for a value that is none.
    """
    return Call("GET", key_path(key), Answer.json, params(at, path=path))


def get_node(at: Target, key: str, path: str) -> Call[bytes]:
    """The JSON text of one node of a document, token for token as it is stored."""
    return Call("GET", key_path(key), lambda answer: answer.body, params(at, path=path))


def exists(at: Target, key: str) -> Call[bool]:
    """Whether the key is there; raises nothing for a key that is not."""
    return Call("HEAD", key_path(key), lambda _: True, params(at), recover=_absent)


def get_many(at: Target, keys: Iterable[str]) -> Call[dict[str, Entry | None]]:
    """An entry for each key, None where there is none."""
    return Call("POST", "/kv/batch/get", forms.entries, params(at), _JSON_BODY, json_bytes({"keys": [*keys]}))


def list(
    at: Target,
    *,
    prefix: str = "",
    after: str | None = None,
    offset: int = 0,
    limit: int = 100,
    delimiter: str = "",
    values: bool = False,
    total: bool = False,
) -> Call[Page]:
    """One page of keys in byte order, under `prefix` and beyond `after`, without the first `offset` of them.

    A `delimiter` folds keys that have it beyond the prefix into one common prefix, which counts as a key.
    """
    asked = params(
        at,
        prefix=prefix or None,
        after=after,
        offset=offset or None,
        limit=limit,
        delimiter=delimiter or None,
        values=values or None,
        total=total or None,
    )
    return Call("GET", "/kv", forms.page, asked, patient=True)


def entries(at: Target, prefix: str = "", *, values: bool = False) -> Pages[Page, Entry]:
    """All entries under a prefix, in byte order, page by page; with their values or without."""

    def page(after: str | None) -> Call[Page]:
        return list(at, prefix=prefix, after=after, limit=_PAGE_KEYS, values=values)

    return Pages(
        page(None), lambda each: each.entries, lambda each: page(each.last) if each.has_more else None
    )


def keys(at: Target, prefix: str = "") -> Pages[Page, str]:
    """All keys under a prefix, in byte order, page by page."""
    pages = entries(at, prefix)
    return Pages(pages.first, lambda page: (entry.key for entry in page.entries), pages.rest)


def count(at: Target, prefix: str = "") -> Call[int]:
    """How many keys there are under a prefix."""

    def total(answer: Answer) -> int:
        return forms.page(answer).total or 0

    return Call("GET", "/kv", total, params(at, prefix=prefix or None, limit=1, total=True), patient=True)


# --- writing -------------------------------------------------------------------------------------------


def set(
    at: Target,
    key: str,
    value: str | Body,
    *,
    content_type: str | None = None,
    ttl_s: int | None = None,
    path: str | None = None,
    if_match: bytes | None = None,
    if_match_etag: str | None = None,
    if_none_match: bool = False,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[Written]:
    """Store a value: bytes, text, or an open file or an iterable of bytes, which are streamed.

    With `path`, one node of a JSON document. `if_match` is the value that the key must have,
    `if_match_etag` its etag, `if_none_match`: there must be no key; else `CasMismatch`. An iterable cannot be
    sent again: if the connection breaks, this raises `NoAnswer` instead.
    """
    body = value.encode() if isinstance(value, str) else value
    asked = params(at, creating=True, ttl=ttl_s, path=path, if_match=if_match, history=_history(history))
    headers = {
        "Content-Type": content_type,
        **conditions(if_match_etag, if_none_match=if_none_match),
        "Idempotency-Key": idempotency_key,
    }
    return Call(
        "PUT",
        key_path(key),
        forms.written,
        asked,
        headers,
        body,
        Repeat.BY_KEY,
        patient=not isinstance(body, bytes),
    )


def set_json(
    at: Target,
    key: str,
    item: Any,
    path: str | None = None,
    *,
    ttl_s: int | None = None,
    if_match_etag: str | None = None,
    if_none_match: bool = False,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[Written]:
    """Store a value as JSON, or with `path` one node of a document."""
    return set(
        at,
        key,
        json_bytes(item),
        content_type=JSON,
        ttl_s=ttl_s,
        path=path,
        if_match_etag=if_match_etag,
        if_none_match=if_none_match,
        history=history,
        idempotency_key=idempotency_key,
    )


def delete(
    at: Target,
    key: str,
    *,
    if_match_etag: str | None = None,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[Written]:
    """Remove a key; raises `KeyNotFound` where there is none."""
    headers = {**conditions(if_match_etag), "Idempotency-Key": idempotency_key}
    asked = params(at, history=_history(history))
    return Call("DELETE", key_path(key), forms.written, asked, headers, repeat=Repeat.BY_KEY)


def incr(
    at: Target,
    key: str,
    delta: int = 1,
    *,
    path: str | None = None,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[Written]:
    """Add to a number; a missing one counts from 0. It happens once, however often it has to be sent."""
    return _action(at, key, "incr", forms.added, idempotency_key, delta=delta, path=path, history=history)


def decr(
    at: Target,
    key: str,
    delta: int = 1,
    *,
    path: str | None = None,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[Written]:
    """Subtract from a number; a missing one counts from 0."""
    return _action(at, key, "decr", forms.added, idempotency_key, delta=delta, path=path, history=history)


def push(
    at: Target,
    key: str,
    item: Any,
    *,
    path: str | None = None,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[Written]:
    """Append a value, as JSON, to an array; a missing one is made."""
    return _action(
        at, key, "push", forms.written, idempotency_key, body=json_bytes(item), path=path, history=history
    )


def pop(
    at: Target, key: str, *, path: str | None = None, history: bool = True, idempotency_key: str | None = None
) -> Call[Written]:
    """Take the last element of an array: `item`; of an empty array it is None and `popped` False."""
    return _action(at, key, "pop", forms.popped, idempotency_key, path=path, history=history)


def remove(
    at: Target,
    key: str,
    *,
    index: int | None = None,
    item: Any = ...,
    path: str | None = None,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[Written]:
    """Take one element out of an array: the one at `index`, or the first that equals `item`."""
    body = None if item is ... else b'{"value":%b}' % json_bytes(item)
    return _action(
        at, key, "remove", forms.written, idempotency_key, body=body, index=index, path=path, history=history
    )


def expire(
    at: Target, key: str, ttl_s: int, *, history: bool = True, idempotency_key: str | None = None
) -> Call[Written]:
    """Give a key a TTL; value and `updated_s` stay."""
    return _action(at, key, "expire", forms.written, idempotency_key, ttl=ttl_s, history=history)


def persist(
    at: Target, key: str, *, history: bool = True, idempotency_key: str | None = None
) -> Call[Written]:
    """Take a key's TTL away."""
    return _action(at, key, "persist", forms.written, idempotency_key, history=history)


def set_many(
    at: Target,
    items: Mapping[str, bytes | str] | Iterable[Item],
    *,
    history: bool = True,
    idempotency_key: str | None = None,
) -> Call[tuple[Written, ...]]:
    """Store many values, all or none; a condition that fails is `CasMismatch`, with the keys in `failed`."""
    sets = [Item(*each) for each in items.items()] if isinstance(items, Mapping) else items
    asked = params(at, creating=True, history=_history(history))
    body = json_bytes({"items": [_item(each) for each in sets]})
    headers = {**_JSON_BODY, "Idempotency-Key": idempotency_key}
    return Call("POST", "/kv/batch/set", forms.all_written, asked, headers, body, Repeat.BY_KEY)


def delete_many(
    at: Target, keys: Iterable[str], *, history: bool = True, idempotency_key: str | None = None
) -> Call[int]:
    """Remove many keys, all or none; how many there were. Missing ones pass silently."""
    asked = params(at, history=_history(history))
    headers = {**_JSON_BODY, "Idempotency-Key": idempotency_key}
    body = json_bytes({"keys": [*keys]})
    return Call("POST", "/kv/batch/delete", forms.deleted_count, asked, headers, body, Repeat.BY_KEY)


# --- parts ---------------------------------------------------------------------------------------------


def _action(
    at: Target,
    key: str,
    action: str,
    parse: Callable[[Answer], Written],
    idempotency_key: str | None,
    *,
    history: bool,
    body: bytes | None = None,
    **more: str | int | None,
) -> Call[Written]:
    """A POST on one key. Those that make a missing key may make the database as well."""
    asked = params(at, creating=action in _CREATING, history=_history(history), **more)
    headers = {"Content-Type": None if body is None else JSON, "Idempotency-Key": idempotency_key}
    return Call("POST", key_path(key, f"/{action}"), parse, asked, headers, body, Repeat.BY_KEY)


def _history(history: bool) -> bool | None:
    """What says so on the wire; keeping the history is what happens unasked."""
    return None if history else False


def _item(item: Item) -> dict[str, Any]:
    form = {
        "key": item.key,
        "content_type": item.content_type,
        "ttl": item.ttl_s,
        "if_match": item.if_match,
        "if_none_match": "*" if item.if_none_match else None,
        **_text(item.value),
    }
    return {name: value for name, value in form.items() if value is not None}


def _text(value: bytes | str) -> dict[str, str]:
    text, encoding = (value, "utf-8") if isinstance(value, str) else encoded(value)
    return {"value": text, "encoding": encoding}


def _absent(error: KvfsError) -> bool:
    if isinstance(error, KeyNotFound | KeyExpired):
        return False
    raise error
