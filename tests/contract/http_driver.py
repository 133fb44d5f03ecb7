"""A store driven over real HTTP, as a client would that has read nothing but the contract."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any
from urllib.parse import quote, urlencode

from tests.clocks import NS
from tests.contract.driver import (
    Brought,
    Changed,
    Done,
    Driver,
    Got,
    Item,
    Listed,
    Page,
    PastPage,
    Pruned,
    Reverted,
    StoreError,
    Table,
    Told,
    Undone,
    Was,
    Wrote,
)
from tests.polling import eventually

BASE = "/api/v1/sqlite"
WORDS = frozenset({"batch", "diff", "export", "import", "rollback", "snapshot"})
TIMEOUT_S = 40.0

Params = Mapping[str, str | bytes | int | None]


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Keep-alive connections to one server, one for each thread."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._local = threading.local()
        # Guards `_connections`.
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []

    def request(
        self,
        method: str,
        path: str,
        params: Params,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, answered or raising `StoreError`."""
        given = {name: value for name, value in params.items() if value is not None}
        connection = self._connection()
        target = f"{BASE}{path}?{urlencode(given, quote_via=quote)}"
        try:
            connection.request(method, target, body, {**(headers or {})})
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except BaseException:
            connection.close()
            raise
        if answer.status >= 400:
            told = answer.json()
            assert told["statusCode"] == answer.status
            raise StoreError(told["code"], told["message"], told)
        return answer

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection


class HttpDriver(Driver):
    """One store of a server."""

    def __init__(
        self, client: Client, db: str, table: str, *, directory: bool, check: Callable[[], None]
    ) -> None:
        self.directory = directory
        self._client = client
        self._db = db
        self._table = table
        self._check = check

    # --- reading -----------------------------------------------------------------------------------------

    def get(self, key: str) -> Got:
        return _from_headers(self._ask("GET", key))

    def get_node(self, key: str, path: str) -> bytes:
        answer = self._ask("GET", key, params={"path": path})
        assert answer.headers["Content-Type"] == "application/json"
        return answer.body

    def get_at(self, key: str, at_ns: int) -> Got:
        return _from_headers(self._ask("GET", key, params={"at_timestamp": _instant(at_ns)}))

    def batch_get(self, keys: Sequence[str]) -> dict[str, Got | None]:
        answer = self._ask("POST", suffix="/batch/get", body=_json({"keys": [*keys]})).json()
        found = {key: None if form is None else _from_form(form) for key, form in answer["results"].items()}
        assert answer["success"] is True
        assert answer["count"] == sum(got is not None for got in found.values())
        return found

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
    ) -> Page:
        params: Params = {
            "prefix": prefix or None,
            "limit": limit,
            "offset": offset or None,
            "after": after,
            "delimiter": delimiter or None,
            "values": "true" if values else None,
            "total": "yes" if total else None,
        }
        page = self._ask("GET", params=params).json()
        prefixes = page.get("prefixes", [])
        assert page["keys"] == [item["key"] for item in page["items"]]
        assert page["count"] == len(page["keys"]) + len(prefixes)
        assert (page["prefix"], page["offset"]) == (prefix, int(offset))
        return Page(
            keys=page["keys"],
            items=[_listed(item) for item in page["items"]],
            prefixes=prefixes,
            has_more=page["has_more"],
            next_cursor=page["next_cursor"],
            next_after=page["next_after"],
            total=page.get("total"),
            change_cursor=page["change_cursor"],
        )

    def list_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> PastPage:
        params: Params = {"prefix": prefix or None, "limit": limit, "at_timestamp": _instant(at_ns)}
        past = self._ask("GET", params=params).json()
        assert past["has_gaps"] is bool(past["gap_keys"])
        return PastPage(past["keys"], past["gap_keys"], past["candidate_truncated"])

    def history(
        self,
        key: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
        newest: bool = True,
    ) -> Told:
        params: Params = {
            "limit": limit,
            "before": before,
            "after": after,
            "order": None if newest else "asc",
        }
        page = self._ask("GET", key, "/history", params=params).json()
        assert page["key"] == key
        return Told([_done(form) for form in page["operations"]], page["total"], page["oldest_op_number"])

    def snapshot(self, key: str, op_number: int) -> Was:
        form = self._ask("GET", key, "/snapshot", params={"op_number": op_number}).json()
        assert (form["success"], form["key"], form["op_number"]) == (True, key, op_number)
        assert form["existed"] is (form["value"] is not None)
        return Was(_value_or_none(form), form["content_type"])

    def snapshot_at(self, at_ns: int, *, prefix: str = "", limit: int | None = None) -> Table:
        params: Params = {"timestamp": _instant(at_ns), "prefix": prefix or None, "limit": limit}
        past = self._ask("GET", suffix="/snapshot", params=params).json()
        assert (past["db"], past["table"], past["timestamp"]) == (self._db, self._table, at_ns // NS)
        assert past["has_gaps"] is bool(past["gap_keys"])
        keys = {form["key"]: Was(_value(form), form["content_type"], form["ttl"]) for form in past["keys"]}
        return Table(keys, past["total"], past["gap_keys"], past["candidate_truncated"])

    def diff(self, from_ns: int, to_ns: int, *, keys: Sequence[str] | None = None) -> Changed:
        asked = None if keys is None else ",".join(keys)
        params: Params = {"from": _instant(from_ns), "to": _instant(to_ns), "keys": asked}
        diff = self._ask("GET", suffix="/diff", params=params).json()
        assert diff["has_gaps"] is bool(diff["gap_keys"])
        assert diff["stats"] == {kind: len(diff[kind]) for kind in ("created", "modified", "deleted")}
        of_kind = {
            kind: [form["key"] for form in diff["changes"] if form["type"] == kind] for kind in diff["stats"]
        }
        assert of_kind == {kind: [form["key"] for form in diff[kind]] for kind in diff["stats"]}
        found = {form["key"]: (_end(form, "from"), _end(form, "to")) for form in diff["changes"]}
        return Changed(found, diff["gap_keys"], diff["candidate_truncated"])

    # --- writing -----------------------------------------------------------------------------------------

    def rollback(
        self,
        key: str,
        steps: int | None = None,
        *,
        if_match_etag: str | None = None,
        idempotency_key: str | None = None,
    ) -> Undone:
        headers = _headers(if_match=if_match_etag, idempotency_key=idempotency_key)
        answer = self._ask("POST", key, "/rollback", params={"steps": steps}, headers=headers)
        form = answer.json()
        assert (form["success"], form["status"], form["key"], form["db"]) == (True, "ok", key, self._db)
        assert form["steps_undone"] == (1 if steps is None else steps)
        assert answer.headers["ETag"] == f'"{form["current_op_number"]}"'
        return Undone(form["current_op_number"], _value_or_none(form), form["existed"], _replayed(answer))

    def rollback_table(
        self,
        to_ns: int,
        *,
        keys: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> Reverted:
        params: Params = {
            "to_timestamp": _instant(to_ns),
            "dry_run": "true" if dry_run else None,
            "confirm": None if dry_run else "yes",
        }
        given = {"keys": keys, "exclude_keys": exclude_keys}
        body = {name: [*value] for name, value in given.items() if value is not None}
        answer = self._ask(
            "POST",
            suffix="/rollback",
            params=params,
            body=_json(body) if body else None,
            headers=_headers(idempotency_key=idempotency_key),
        )
        form = answer.json()
        assert (form["db"], form["table"], form["to_timestamp"]) == (self._db, self._table, to_ns // NS)
        assert (form["dry_run"], form["confirmed"]) == (dry_run, not dry_run)
        of_kind = {
            kind: [each["key"] for each in form["changes"] if each["type"] == kind]
            for kind in ("restored", "deleted")
        }
        assert form["keys_restored"] == len(of_kind["restored"])
        assert form["keys_deleted"] == len(of_kind["deleted"])
        return Reverted(of_kind["restored"], of_kind["deleted"], _replayed(answer))

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
    ) -> Wrote:
        headers = _headers(
            content_type=content_type,
            if_match=if_match_etag,
            if_none_match=if_none_match,
            idempotency_key=idempotency_key,
        )
        params: Params = {"ttl": ttl, "path": path, "if_match": if_match, "history": _history(history)}
        answer = self._ask("PUT", key, params=params, body=value, headers=headers, create=True)
        form = answer.json()
        assert (form["status"], form["success"], form["key"]) == ("ok", True, key)
        return Wrote(
            form["op_number"],
            created=form["created"],
            content_type=form["content_type"],
            size=form["size"],
            replayed=_replayed(answer),
        )

    def delete(
        self,
        key: str,
        *,
        if_match_etag: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote:
        headers = _headers(if_match=if_match_etag, idempotency_key=idempotency_key)
        answer = self._ask("DELETE", key, params={"history": _history(history)}, headers=headers)
        form = answer.json()
        assert (form["status"], form["success"], form["key"], form["deleted"]) == ("ok", True, key, True)
        return Wrote(form["op_number"], replayed=_replayed(answer))

    def incr(
        self,
        key: str,
        delta: int | None = None,
        *,
        path: str | None = None,
        history: bool = True,
        idempotency_key: str | None = None,
    ) -> Wrote:
        params: Params = {"delta": delta, "path": path, "history": _history(history)}
        headers = _headers(idempotency_key=idempotency_key)
        return _added(self._ask("POST", key, "/incr", params=params, headers=headers, create=True))

    def decr(self, key: str, delta: int | None = None, *, path: str | None = None) -> Wrote:
        params: Params = {"delta": delta, "path": path}
        return _added(self._ask("POST", key, "/decr", params=params, create=True))

    def push(
        self, key: str, node: str, *, path: str | None = None, idempotency_key: str | None = None
    ) -> Wrote:
        headers = _headers(content_type="application/json", idempotency_key=idempotency_key)
        answer = self._ask(
            "POST", key, "/push", params={"path": path}, body=node.encode(), headers=headers, create=True
        )
        form = answer.json()
        return Wrote(form["op_number"], length=form["length"], replayed=_replayed(answer))

    def pop(self, key: str, *, path: str | None = None, idempotency_key: str | None = None) -> Wrote:
        headers = _headers(idempotency_key=idempotency_key)
        answer = self._ask("POST", key, "/pop", params={"path": path}, headers=headers)
        form = answer.json()
        if not form.get("popped", True):
            assert form["value"] is None
        return Wrote(
            form["op_number"], length=form["length"], popped=form["value"], replayed=_replayed(answer)
        )

    def remove(
        self, key: str, *, index: int | None = None, node: str | None = None, path: str | None = None
    ) -> Wrote:
        body = None if node is None else f'{{"value": {node}}}'.encode()
        params: Params = {"index": index, "path": path}
        headers = _headers(content_type="application/json")
        form = self._ask("POST", key, "/remove", params=params, body=body, headers=headers).json()
        return Wrote(removed=form["removed"], length=form["length"])

    def expire(self, key: str, ttl: int, *, idempotency_key: str | None = None) -> Wrote:
        headers = _headers(idempotency_key=idempotency_key)
        return _timed(self._ask("POST", key, "/expire", params={"ttl": ttl}, headers=headers))

    def persist(self, key: str) -> Wrote:
        return _timed(self._ask("POST", key, "/persist"))

    def batch_set(
        self, items: Sequence[Item], *, history: bool = True, idempotency_key: str | None = None
    ) -> Sequence[Wrote]:
        answer = self._ask(
            "POST",
            suffix="/batch/set",
            params={"history": _history(history)},
            body=_json({"items": [_item(item) for item in items]}),
            headers=_headers(idempotency_key=idempotency_key),
            create=True,
        )
        form = answer.json()
        assert form["count"] == len(form["results"])
        assert [result["key"] for result in form["results"]] == [item.key for item in items]
        return [
            Wrote(result["op_number"], created=result["created"], replayed=_replayed(answer))
            for result in form["results"]
        ]

    def batch_delete(self, keys: Sequence[str], *, idempotency_key: str | None = None) -> int:
        headers = _headers(idempotency_key=idempotency_key)
        form = self._ask(
            "POST", suffix="/batch/delete", body=_json({"keys": [*keys]}), headers=headers
        ).json()
        deleted: int = form["deleted"]
        return deleted

    def prune(self, *, before_ns: int | None = None, keep_last: int | None = None) -> Pruned:
        given = {"before": None if before_ns is None else _instant(before_ns), "keep_last": keep_last}
        form = self._maintain(
            "history_prune", {name: each for name, each in given.items() if each is not None}
        )
        return Pruned(form["removed"], form["keys"], form["complete"])

    def retention(self) -> dict[str, int | None]:
        return self.set_retention()

    def set_retention(self, **changes: int | None) -> dict[str, int | None]:
        form = self._maintain("retention", changes)
        return {name: form[name] for name in ("keep_last", "max_age_s")}

    def export(self, *, history: bool = False, after: bytes | None = None) -> bytes:
        return self._ask("GET", suffix="/export", params={"history": str(history), "after": after}).body

    def import_(self, data: bytes, *, on_conflict: str = "fail") -> Brought:
        asked = {"on_conflict": on_conflict, "part": "yes"}
        form = self._ask("POST", suffix="/import", params=asked, body=data, create=True).json()
        return Brought(**{field.name: form[field.name] for field in fields(Brought)})

    # --- around it ---------------------------------------------------------------------------------------

    def sibling(self, table: str) -> Driver:
        return HttpDriver(self._client, self._db, table, directory=self.directory, check=lambda: None)

    def now_ns(self) -> int:
        return time.time_ns()

    def let_pass(self, seconds: float) -> None:
        until = time.time() + seconds
        eventually(lambda: time.time() >= until, seconds + 5, "time passes")

    def close(self) -> None:
        self._check()

    def make(self) -> None:
        """Make the database file or the directory."""
        path = self._db + "/" if self.directory else self._db
        answer = self._client.request("POST", "/db/create", {"path": path}).json()
        assert answer["created"] is True

    # --- parts -------------------------------------------------------------------------------------------

    def _maintain(self, op: str, asked: Mapping[str, object]) -> Any:
        params: Params = {"db": self._db, "table": self._table}
        form = self._client.request("POST", "/maintenance", params, _json({"op": op, **asked})).json()
        assert (form["success"], form["op"]) == (True, op)
        return form

    def _ask(
        self,
        method: str,
        key: str | None = None,
        suffix: str = "",
        *,
        params: Params | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        create: bool = False,
    ) -> Answer:
        target = "/kv" if key is None else f"/kv/{_quoted(key)}"
        given: Params = {
            "db": self._db,
            "table": self._table,
            "create_db_if_missing": "true" if create else None,
            **(params or {}),
        }
        return self._client.request(method, target + suffix, given, body, headers)


def _quoted(key: str) -> str:
    """A key as encodeURIComponent would have it; one that would read as an action has one escape more."""
    return f"%{ord(key[0]):02X}{key[1:]}" if key in WORDS else quote(key, safe="")


def _json(form: object) -> bytes:
    return json.dumps(form).encode()


def _item(item: Item) -> dict[str, object]:
    form: dict[str, object] = {"key": item.key, "value": item.value}
    if item.content_type is not None:
        form["content_type"] = item.content_type
    if item.ttl is not None:
        form["ttl"] = item.ttl
    if item.if_match is not None:
        form["if_match"] = item.if_match
    if item.if_none_match:
        form["if_none_match"] = "*"
    return form


def _headers(
    *,
    content_type: str | None = None,
    if_match: str | None = None,
    if_none_match: bool = False,
    idempotency_key: str | None = None,
) -> dict[str, str]:
    given = {
        "Content-Type": content_type,
        "If-Match": None if if_match is None else f'"{if_match}"',
        "If-None-Match": "*" if if_none_match else None,
        "Idempotency-Key": idempotency_key,
    }
    return {name: value for name, value in given.items() if value is not None}


def _history(history: bool) -> str | None:
    return None if history else "false"


def _instant(ns: int) -> str:
    return f"{ns // NS}.{ns % NS:09d}"


def _replayed(answer: Answer) -> bool:
    return answer.headers["Idempotent-Replayed"] == "true"


def _from_headers(answer: Answer) -> Got:
    headers = answer.headers
    expire_at = headers["X-Expire-At"]
    return Got(
        answer.body,
        headers["Content-Type"],
        int(headers["X-Created-At"]),
        int(headers["X-Updated-At"]),
        None if expire_at is None else int(expire_at),
        headers["ETag"].strip('"'),
    )


def _from_form(form: dict[str, Any]) -> Got:
    return Got(_value(form), form["content_type"], form["created_at"], form["updated_at"], form["expire_at"])


def _listed(item: dict[str, Any]) -> Listed:
    return Listed(
        item["key"],
        item["size"],
        item["content_type"],
        item["created_at"],
        item["updated_at"],
        item["expire_at"],
        item["op_number"],
        _value(item) if "value" in item else None,
    )


def _value(form: dict[str, Any]) -> bytes:
    if form["encoding"] == "base64":
        return base64.b64decode(form["value"], validate=True)
    assert form["encoding"] == "utf-8"
    value: str = form["value"]
    return value.encode()


def _value_or_none(form: dict[str, Any]) -> bytes | None:
    return None if form["value"] is None else _value(form)


def _end(form: dict[str, Any], name: str) -> bytes | None:
    """One of the two values of a difference."""
    return _value_or_none({"value": form[name], "encoding": form[f"{name}_encoding"]})


def _done(form: dict[str, Any]) -> Done:
    assert form["operation"] == {"op": form["op_type"]}
    assert form["timestamp"] == form["timestamp_ms"] // 1000
    value = _value_or_none(form)
    raw_old, raw_new = (
        None if form[name] is None else base64.b64decode(form[name], validate=True)
        for name in ("raw_old_value", "raw_new_value")
    )
    assert raw_new == value
    return Done(
        form["op_number"],
        form["op_type"],
        form["origin"],
        value,
        raw_old,
        form["content_type"],
        form["timestamp_ms"],
        form["ttl"],
        form["gap"],
    )


def _added(answer: Answer) -> Wrote:
    form = answer.json()
    return Wrote(
        form["op_number"], number=form["value"], previous=form["previous"], replayed=_replayed(answer)
    )


def _timed(answer: Answer) -> Wrote:
    form = answer.json()
    assert form["etag"].strip('"') == str(form["op_number"])
    return Wrote(form["op_number"], expire_at=form["expire_at"], replayed=_replayed(answer))
