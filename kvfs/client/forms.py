"""Answers read: the wire's JSON and headers as records. The other half of the server's wire forms."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

from kvfs.client.call import Answer
from kvfs.client.records import (
    Changes,
    Created,
    DatabaseInfo,
    Deleted,
    Diff,
    Difference,
    Event,
    History,
    Operation,
    Page,
    Past,
    PastEntries,
    PastKeys,
    RolledBack,
    TableRolledBack,
    Written,
)
from kvfs.model import NS, Entry
from kvfs.valuetext import decoded

Json = dict[str, Any]


def value(form: Json) -> bytes | None:
    """The value of a form that has `value` and `encoding`."""
    return _decoded(form["value"], form["encoding"])


def _decoded(text: str | None, encoding: str | None) -> bytes | None:
    return None if text is None or encoding is None else decoded(text, encoding)


# --- keys ----------------------------------------------------------------------------------------------


def entry(key: str, answer: Answer) -> Entry:
    """A value and its headers; of an answer without a body only the metadata."""
    headers = answer.headers
    expire = headers.get("x-expire-at")
    sha256 = headers.get("x-file-hash")
    return Entry(
        key=key,
        value=answer.body,
        size=int(headers.get("content-length", len(answer.body))),
        content_type=headers.get("content-type", ""),
        created_s=int(headers["x-created-at"]),
        updated_s=int(headers["x-updated-at"]),
        expire_ns=None if expire is None else int(expire) * NS,
        op_number=int(headers["etag"].strip('"')),
        sha256=None if sha256 is None else bytes.fromhex(sha256),
    )


def entry_of(key: str, form: Json) -> Entry:
    """An entry in JSON, with its value or without."""
    return Entry(
        key=key,
        value=value(form) if "value" in form else None,
        size=form["size"],
        content_type=form["content_type"],
        created_s=form["created_at"],
        updated_s=form["updated_at"],
        expire_ns=None if form["expire_at"] is None else form["expire_at"] * NS,
        op_number=form["op_number"],
    )


def entries(answer: Answer) -> dict[str, Entry | None]:
    """An entry for each key that was asked for."""
    results = answer.json()["results"]
    return {key: None if form is None else entry_of(key, form) for key, form in results.items()}


def page(answer: Answer) -> Page:
    """A page of keys."""
    form = answer.json()
    next_cursor = form["next_cursor"]
    return Page(
        entries=tuple(entry_of(item["key"], item) for item in form["items"]),
        prefixes=tuple(form.get("prefixes", ())),
        has_more=form["has_more"],
        last=form["next_after"],
        next_offset=None if next_cursor is None else int(next_cursor),
        total=form.get("total"),
        cursor=form["change_cursor"],
    )


# --- writes --------------------------------------------------------------------------------------------


def written(answer: Answer) -> Written:
    """What a write of one key did, whichever it was."""
    return _written(answer.json(), replayed=answer.replayed)


def _written(form: Json, *, replayed: bool) -> Written:
    return Written(
        key=form["key"],
        op_number=form["op_number"],
        created=form.get("created", False),
        content_type=form.get("content_type"),
        size=form.get("size"),
        length=form.get("length"),
        removed=form.get("removed"),
        expire_s=form.get("expire_at"),
        replayed=replayed,
    )


def added(answer: Answer) -> Written:
    """What incr and decr did."""
    form = answer.json()
    return written(answer)._replace(number=form["value"], previous=form["previous"])


def popped(answer: Answer) -> Written:
    """What pop did."""
    form = answer.json()
    return written(answer)._replace(item=form["value"], popped=form.get("popped", True))


def all_written(answer: Answer) -> tuple[Written, ...]:
    """What a batch of sets did."""
    return tuple(_written(form, replayed=answer.replayed) for form in answer.json()["results"])


def deleted_count(answer: Answer) -> int:
    """How many keys a batch of deletes found."""
    count: int = answer.json()["deleted"]
    return count


# --- the past ------------------------------------------------------------------------------------------


def past_keys(answer: Answer) -> PastKeys:
    """The keys that there were."""
    form = answer.json()
    return PastKeys(tuple(form["keys"]), tuple(form["gap_keys"]), form["candidate_truncated"])


def history(answer: Answer) -> History:
    """A page of a key's operations."""
    form = answer.json()
    operations = tuple(_operation(each) for each in form["operations"])
    return History(operations, form["total"], form["oldest_op_number"])


def _operation(form: Json) -> Operation:
    before = form["raw_old_value"]
    return Operation(
        op_number=form["op_number"],
        op_type=form["op_type"],
        origin=form["origin"],
        value=value(form),
        before=None if before is None else base64.b64decode(before),
        content_type=form["content_type"],
        ts_ms=form["timestamp_ms"],
        ttl_s=form["ttl"],
        gap=form["gap"],
    )


def past(answer: Answer) -> Past:
    """A key as an operation left it."""
    form = answer.json()
    return Past(form["key"], value(form), form["content_type"])


def past_entries(answer: Answer) -> PastEntries:
    """A table as it was."""
    form = answer.json()
    return PastEntries(
        tuple(Past(each["key"], value(each), each["content_type"], each["ttl"]) for each in form["keys"]),
        form["total"],
        tuple(form["gap_keys"]),
        form["candidate_truncated"],
    )


def diff(answer: Answer) -> Diff:
    """What changed between two times."""
    form = answer.json()
    return Diff(
        tuple(
            Difference(
                each["key"],
                _decoded(each["from"], each["from_encoding"]),
                _decoded(each["to"], each["to_encoding"]),
            )
            for each in form["changes"]
        ),
        tuple(form["gap_keys"]),
        form["candidate_truncated"],
    )


def diff_of(keys: Collection[str], answer: Answer) -> Diff:
    """What changed between two times, of these keys alone."""
    found = diff(answer)
    return Diff(
        tuple(each for each in found.differences if each.key in keys),
        tuple(key for key in found.gap_keys if key in keys),
        found.candidate_truncated,
    )


def rolled_back(answer: Answer) -> RolledBack:
    """A key after a rollback."""
    form = answer.json()
    return RolledBack(
        form["key"], form["current_op_number"], value(form), form["existed"], replayed=answer.replayed
    )


def table_rolled_back(answer: Answer) -> TableRolledBack:
    """A table after a rollback, or what that would change."""
    changes = answer.json()["changes"]
    return TableRolledBack(
        restored=tuple(each["key"] for each in changes if each["type"] == "restored"),
        deleted=tuple(each["key"] for each in changes if each["type"] == "deleted"),
        replayed=answer.replayed,
    )


# --- following the log ---------------------------------------------------------------------------------


def changes(answer: Answer) -> Changes:
    """A page of events."""
    form = answer.json()
    return Changes(
        tuple(_event(each) for each in form["events"]),
        form["cursor"],
        form["oldest_cursor"],
        form["has_more"],
    )


def _event(form: Json) -> Event:
    return Event(
        seq=form["seq"],
        cursor=form["cursor"],
        key=form["key"],
        kind=form["op"],
        op_number=form["op_number"],
        origin=form["origin"],
        ts_ms=form["ts_ms"],
        expire_s=form["expire_at"],
        value=value(form) if "value" in form else None,
        content_type=form.get("content_type"),
        omitted=form.get("value_omitted"),
    )


# --- databases -----------------------------------------------------------------------------------------


def created(answer: Answer) -> Created:
    """A database that is there now."""
    form = answer.json()
    return Created(form["path"], form["created"], form.get("kv_table"))


def databases(answer: Answer) -> tuple[DatabaseInfo, ...]:
    """The databases of the data dir."""
    return tuple(
        DatabaseInfo(each["name"], each["path"], each["kind"], each["size"], each["modified"], each["valid"])
        for each in answer.json()["databases"]
    )


def deleted(answer: Answer) -> Deleted:
    """A database that is gone."""
    form = answer.json()
    return Deleted(form["path"], form["files_removed"])


def form(answer: Answer) -> Json:
    """The answer as it stands."""
    told: Json = answer.json()
    return told
