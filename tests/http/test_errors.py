"""Every row of the contract's table of errors that a request can reach: its form, and that nothing changes.

What lies below the server (disks, locks, damage) fails in `test_failures`, the `db` parameter in
`test_db_paths`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import kvfs.errors
import server.errors
from server.errors import MEANINGS
from server.routes import ROUTES
from tests.http.launching import Server
from tests.http.stores import Store
from tests.http.wire import BASE, JSON, Answer, refused, target_of
from tests.polling import eventually

SECRET = b"nobody may read this"

STATUSES = {
    "INVALID_DB_PATH": 400,
    "INVALID_PARAMETERS": 400,
    "INVALID_SQLITE_HEADER": 400,
    "PATH_IS_DIRECTORY": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "KEY_NOT_FOUND": 404,
    "KEY_EXPIRED": 404,
    "DATABASE_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "ROUTE_NOT_FOUND": 404,
    "PATH_CONFLICT": 409,
    "TIME_TRAVEL_GAP": 409,
    "CAS_MISMATCH": 412,
    "IDEMPOTENCY_KEY_MISMATCH": 422,
    "CHANGE_CURSOR_EXPIRED": 410,
    "PAYLOAD_TOO_LARGE": 413,
    "DATABASE_ERROR": 500,
    "FILE_SYSTEM_ERROR": 500,
    "STORAGE_FULL": 507,
    "DEADLINE_EXCEEDED": 503,
    "OVERLOADED": 503,
}
"""The contract's table."""

ADDED = {"IMPORT_CONFLICT": 409, "INTERNAL_ERROR": 500, "NEWER_FORMAT": 500, "RANGE_NOT_SATISFIABLE": 416}
"""What the server has besides."""

READS = [("GET", ""), ("HEAD", ""), ("GET", "entry")]
WRITES = [
    ("PUT", "", b"new"),
    ("DELETE", "", None),
    ("POST", "incr", None),
    ("POST", "decr", None),
    ("POST", "push", b"1"),
    ("POST", "pop", None),
    ("POST", "remove?index=0", None),
    ("POST", "expire?ttl=10", None),
    ("POST", "persist", None),
]


def _asked(store: Store, method: str, key: str, action: str, body: bytes | None) -> Answer:
    """The answer to a request with an action like `remove?index=0`."""
    action, _, query = action.partition("?")
    params: dict[str, Any] = dict(pair.split("=") for pair in query.split("&")) if query else {}
    return store.ask(method, key, action, body=body, **params)


# --- the table itself ----------------------------------------------------------------------------------


def _errors(root: type[kvfs.errors.KvfsError]) -> Iterator[type[kvfs.errors.KvfsError]]:
    for error in root.__subclasses__():
        # What a client makes of no answer, no server answers with.
        if not error.__module__.startswith("kvfs.client."):
            yield error
            yield from _errors(error)


def test_every_code_has_the_status_of_the_contract() -> None:
    assert {code: meaning.status for code, meaning in MEANINGS.items()} == STATUSES | ADDED


def test_every_error_that_can_be_raised_has_a_status() -> None:
    errors: set[type[kvfs.errors.KvfsError]] = {kvfs.errors.KvfsError, *_errors(kvfs.errors.KvfsError)}
    assert {error.__module__ for error in errors} == {kvfs.errors.__name__, server.errors.__name__}
    assert {error.code for error in errors} == MEANINGS.keys()


def test_every_error_says_what_can_be_done_about_it() -> None:
    assert [code for code, meaning in MEANINGS.items() if not meaning.resolution.endswith(".")] == []


def test_routes_name_only_errors_that_there_are() -> None:
    named = {code for route in ROUTES for code in route.errors}
    assert named <= MEANINGS.keys()


# --- keys that are not there ---------------------------------------------------------------------------


def test_a_missing_key_is_404(store: Store) -> None:
    store.put("there", b"1")
    with store.unchanged():
        for action in ("", "entry"):
            refused(store.ask("GET", "k", action), 404, "KEY_NOT_FOUND", "Key not found")
        for method, action, body in WRITES:
            if method != "PUT" and action not in ("incr", "decr", "push"):
                refused(_asked(store, method, "k", action, body), 404, "KEY_NOT_FOUND", "Key not found")


def test_a_path_that_leads_nowhere_is_404(store: Store) -> None:
    store.put("k", b'{"a": [1]}')
    with store.unchanged():
        for path in ("b", "a[1]", "a.b"):
            refused(store.ask("GET", "k", path=path), 404, "KEY_NOT_FOUND")


def test_a_key_before_its_time_is_404(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        refused(store.ask("GET", "k", at_timestamp="1000000000"), 404, "KEY_NOT_FOUND")
        refused(store.ask("GET", "k", "entry", at_timestamp="1000000000"), 404, "KEY_NOT_FOUND")


def _is_gone(store: Store, key: str) -> bool:
    return store.ask("HEAD", key).status == 404


def test_a_key_whose_ttl_has_run_out_is_404_with_a_code_of_its_own(table: Store, folder: Store) -> None:
    for store in (table, folder):
        store.put("k", b"1", ttl=1)
        store.put("stays", b"1", ttl=1000)
    for store in (table, folder):
        eventually(partial(_is_gone, store, "k"), 5, "it expires")
        refused(store.ask("GET", "k"), 404, "KEY_EXPIRED", "Key expired")
        refused(store.ask("GET", "k", "entry"), 404, "KEY_EXPIRED")
        refused(store.ask("DELETE", "k"), 404, "KEY_EXPIRED")
        assert store.ask("HEAD", "k").headers["X-Error-Code"] == "KEY_EXPIRED"
        page = store.ask("GET", total="true").done()
        assert (page["keys"], page["total"]) == (["stays"], 1)


# --- what is wrong with a request ----------------------------------------------------------------------


MALFORMED: list[tuple[str, str | None, str, dict[str, Any]]] = [
    ("GET", None, "", {"limit": "abc"}),
    ("GET", None, "", {"limit": "0"}),
    ("GET", None, "", {"limit": "-1"}),
    ("GET", None, "", {"limit": "1e2"}),
    ("GET", None, "", {"limit": ""}),
    ("GET", None, "", {"limit": "٣"}),
    ("GET", None, "", {"limit": "1" * 1001}),
    ("GET", None, "", {"offset": "-1"}),
    ("GET", None, "", {"offset": "1.5"}),
    ("GET", None, "", {"offset": "0x10"}),
    ("GET", None, "", {"offset": "9" * 30}),
    ("GET", None, "", {"values": "maybe"}),
    ("GET", None, "", {"total": "2"}),
    ("GET", None, "", {"prefix": b"\xff"}),
    ("GET", None, "", {"prefix": b"a\0"}),
    ("GET", None, "", {"after": b"\xff"}),
    ("GET", None, "", {"delimiter": b"\xc3"}),
    ("GET", None, "", {"at_timestamp": "yesterday"}),
    ("GET", None, "", {"at_timestamp": ""}),
    ("GET", "k", "", {"at_timestamp": "2026-13-01T00:00:00Z"}),
    ("GET", "k", "", {"at_timestamp": "1.2.3"}),
    ("GET", "k", "", {"timeout": "soon"}),
    ("GET", "k", "", {"timeout": "1.5"}),
    ("GET", "k", "", {"rebuild": "x"}),
    ("GET", "k", "entry", {"timeout": " 5"}),
    ("GET", "k", "", {"path": b"\xff"}),
    ("PUT", "k", "", {"ttl": "-1"}),
    ("PUT", "k", "", {"ttl": "1.5"}),
    ("PUT", "k", "", {"ttl": "9" * 18}),
    ("PUT", "k", "", {"history": "maybe"}),
    ("PUT", "k", "", {"create_db_if_missing": "maybe"}),
    ("PUT", "k", "", {"auto_create": ""}),
    ("DELETE", "k", "", {"history": "never"}),
    ("POST", "k", "incr", {"delta": "x"}),
    ("POST", "k", "incr", {"delta": "1.0"}),
    ("POST", "k", "decr", {"delta": ""}),
    ("POST", "k", "incr", {"delta": "--1"}),
    ("POST", "k", "remove", {"index": "first"}),
    ("POST", "k", "expire", {"ttl": "0"}),
    ("POST", "k", "expire", {"ttl": "-5"}),
    ("POST", "k", "expire", {"ttl": "9" * 18}),
    ("GET", "k", "", {"table": ""}),
    ("GET", "k", "", {"table": "1a"}),
    ("GET", "k", "", {"table": "a b"}),
    ("GET", "k", "", {"table": "é"}),
    ("GET", "k", "", {"table": "a/b"}),
    ("GET", "k", "", {"table": ".."}),
    ("GET", "k", "", {"table": "x" * 65}),
    ("GET", "k", "", {"table": "sqlite_master"}),
    ("GET", "k", "", {"table": "SQLite_x"}),
    ("GET", "k", "", {"table": "kvfs_stores"}),
    ("PUT", "k", "", {"table": "kvfs_oplog_things"}),
]


def test_a_malformed_parameter_is_400_and_named(store: Store) -> None:
    store.put("k", b"[1]")
    with store.unchanged():
        for method, key, action, params in MALFORMED:
            body = b"1" if method == "PUT" else None
            answer = store.ask(method, key, action, body=body, **params)
            assert next(iter(params)) in refused(answer, 400, "INVALID_PARAMETERS")["message"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_missing_db_is_400_and_named(server: Server, method: str) -> None:
    for target in (f"{BASE}/kv/k", f"{BASE}/kv/k?", f"{BASE}/kv/k?db2=x", f"{BASE}/kv/k?timeout=5"):
        error = refused(server.ask(method, target), 400, "INVALID_PARAMETERS")
        assert "db" in error["message"]


def test_a_ttl_must_be_given_to_expire(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        error = refused(store.ask("POST", "k", "expire"), 400, "INVALID_PARAMETERS")
        assert "ttl" in error["message"]


@pytest.mark.parametrize("name", ["create_db_if_missing", "auto_create"])
def test_flags_that_contradict_each_other_are_400(store: Store, name: str) -> None:
    other = {"create_db_if_missing": "auto_create", "auto_create": "create_db_if_missing"}[name]
    store.put("k", b"1")
    with store.unchanged():
        flags: dict[str, Any] = {name: "true", other: "false"}
        answer = store.ask("PUT", "k", body=b"2", **flags)
        message = "conflicting flags: create_db_if_missing and auto_create must match"
        refused(answer, 400, "INVALID_PARAMETERS", message)


def test_booleans_are_taken_in_every_form(server: Server, tmp_path: Path) -> None:
    for yes in ("true", "1", "yes", "TRUE", "Yes", "tRuE"):
        db = tmp_path / f"{yes}.db"
        target = target_of(f"{BASE}/kv/k", db=db, auto_create=yes, create_db_if_missing="1")
        assert server.ask("PUT", target, b"1").status == 200
    for no in ("false", "0", "no", "NO", "False"):
        target = target_of(f"{BASE}/kv/k", db=tmp_path / "none.db", auto_create=no)
        refused(server.ask("PUT", target, b"1"), 404, "DATABASE_NOT_FOUND")


UNFIT: list[tuple[bytes, str, str, bytes | None, str | None]] = [
    (b"text", "POST", "incr", None, "Value at path is not numeric"),
    (b'{"a": 1}', "POST", "incr", None, "Value at path is not numeric"),
    (b'{"a": "1"}', "POST", "incr?path=a", None, "Value at path is not numeric"),
    (b"9223372036854775807", "POST", "incr", None, None),
    (b"-9223372036854775808", "POST", "decr", None, None),
    (b"0", "POST", "incr?delta=9223372036854775808", None, None),
    (b"text", "POST", "push", b"1", None),
    (b'{"a": 1}', "POST", "push?path=a", b"1", None),
    (b"[1]", "POST", "push", b"", None),
    (b"[1]", "POST", "push", b"{", None),
    (b'{"a": 1}', "POST", "pop", None, None),
    (b"[1]", "POST", "remove?index=1", None, None),
    (b"[1]", "POST", "remove?index=-2", None, None),
    (b"[1]", "POST", "remove", None, None),
    (b"[1]", "POST", "remove?index=0", b'{"value": 1}', None),
    (b"[1]", "POST", "remove", b"{", None),
    (b"[1]", "POST", "remove", b"[1]", None),
    (b"[1]", "POST", "remove", b'{"other": 1}', None),
    (b"text", "GET", "?path=a", None, None),
    (b"text", "PUT", "?path=a", b"1", None),
    (b"{}", "PUT", "?path=a", b"{", None),
    (b"{}", "PUT", "?path=", b"1", None),
    (b"[" * 1001 + b"]" * 1001, "GET", "?path=a", None, None),
    (b"[" * 1001 + b"]" * 1001, "PUT", "?path=[0]", b"1", None),
]


def test_what_does_not_fit_the_value_is_400(store: Store) -> None:
    for number, (value, *_) in enumerate(UNFIT):
        store.put(str(number), value)
    with store.unchanged():
        for number, (_, method, action, body, message) in enumerate(UNFIT):
            refused(_asked(store, method, str(number), action, body), 400, "INVALID_PARAMETERS", message)


@pytest.mark.parametrize("headers", [("Idempotency-Key", ""), ("Idempotency-Key", "x" * 256)])
def test_a_malformed_idempotency_key_is_400(store: Store, headers: tuple[str, str]) -> None:
    store.put("k", b"1")
    with store.unchanged():
        error = refused(store.ask("PUT", "k", body=b"2", headers=[headers]), 400, "INVALID_PARAMETERS")
        assert "Idempotency-Key" in error["message"]


def test_a_batch_over_its_limit_is_400(store: Store) -> None:
    items = ",".join(f'{{"key": "k{number}", "value": ""}}' for number in range(101))
    keys = ",".join(f'"k{number}"' for number in range(101))
    store.put("k1", b"1")
    with store.unchanged():
        body = b'{"items": [%s]}' % items.encode()
        refused(store.ask("POST", None, "batch/set", body=body), 400, "INVALID_PARAMETERS")
        for action in ("batch/get", "batch/delete"):
            body = b'{"keys": [%s]}' % keys.encode()
            refused(store.ask("POST", None, action, body=body), 400, "INVALID_PARAMETERS")


# --- limits, conditions, the past ----------------------------------------------------------------------


def test_a_key_over_its_limit_is_413(store: Store) -> None:
    with store.unchanged():
        for method, action in (*READS[::2], ("PUT", ""), ("DELETE", ""), ("POST", "incr")):
            error = refused(store.ask(method, "é" * 512 + "a", action), 413, "PAYLOAD_TOO_LARGE")
            assert "1024" in error["message"]


def test_a_value_over_its_limit_is_413(limited_store: Store) -> None:
    limited_store.put("k", b"1")
    with limited_store.unchanged():
        refused(limited_store.ask("PUT", "k", body=b"x" * 300_001), 413, "PAYLOAD_TOO_LARGE")


def test_a_value_that_grows_over_its_limit_is_413(limited_store: Store) -> None:
    limited_store.put("array", b'["%s"]' % (b"x" * 299_990))
    with limited_store.unchanged():
        push = limited_store.ask("POST", "array", "push", body=b'"another"')
        refused(push, 413, "PAYLOAD_TOO_LARGE")
        put = limited_store.ask("PUT", "array", body=b'"another"', path="[0].a", create_db_if_missing="no")
        refused(put, 400, "INVALID_PARAMETERS")
        refused(limited_store.ask("PUT", "array", body=b'"another"', path="[1]"), 413, "PAYLOAD_TOO_LARGE")


def test_a_condition_that_does_not_hold_is_412_with_the_current_etag(store: Store) -> None:
    store.put("k", b"1")
    store.put("k", b"2")
    with store.unchanged():
        answers = {
            "Value mismatch for CAS": store.ask("PUT", "k", body=b"3", if_match="1"),
            None: store.ask("PUT", "k", body=b"3", headers=[("If-Match", '"1"')]),
        }
        for message, answer in answers.items():
            assert refused(answer, 412, "CAS_MISMATCH", message)["current_etag"] == "2"
        answer = store.ask("PUT", "k", body=b"3", headers=[("If-None-Match", "*")])
        assert refused(answer, 412, "CAS_MISMATCH")["current_etag"] == "2"
        answer = store.ask("DELETE", "k", headers=[("If-Match", '"1"')])
        assert refused(answer, 412, "CAS_MISMATCH")["current_etag"] == "2"
        answer = store.ask("PUT", "new", body=b"3", if_match="1")
        assert refused(answer, 412, "CAS_MISMATCH", "Key does not exist for CAS")["current_etag"] is None


def test_a_used_idempotency_key_is_422_for_another_request(store: Store) -> None:
    used = [("Idempotency-Key", "once")]
    store.put("k", b"1", headers=used)
    with store.unchanged():
        for answer in (
            store.ask("PUT", "k", body=b"2", headers=used),
            store.ask("PUT", "other", body=b"1", headers=used),
            store.ask("DELETE", "k", headers=used),
            store.ask("POST", "k", "incr", headers=used),
            store.ask("POST", None, "batch/delete", body=b'{"keys": ["k"]}', headers=used),
        ):
            refused(answer, 422, "IDEMPOTENCY_KEY_MISMATCH")


def test_a_past_that_was_not_recorded_is_409(store: Store) -> None:
    store.put("k", b"1")
    store.put("k", b"2", history="false")
    with store.unchanged():
        now = f"{time.time():.9f}"
        message = "Time-travel chain gap detected for the requested timestamp"
        refused(store.ask("GET", "k", at_timestamp=now), 409, "TIME_TRAVEL_GAP", message)
        refused(store.ask("GET", "k", "entry", at_timestamp=now), 409, "TIME_TRAVEL_GAP", message)
        head = store.ask("HEAD", "k", at_timestamp=now)
        assert (head.status, head.headers["X-Error-Code"]) == (409, "TIME_TRAVEL_GAP")


# --- names that are taken ------------------------------------------------------------------------------


def _in_the_way(folder: Path, what: str, secret: Path) -> None:
    path = folder / "taken"
    if what == "symlink":
        path.symlink_to(secret)
    elif what == "dangling symlink":
        path.symlink_to(folder / "nothing")
    elif what == "symlink to a key":
        path.symlink_to("there")
    elif what == "FIFO":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))


@pytest.mark.parametrize("what", ["symlink", "dangling symlink", "symlink to a key", "FIFO", "socket"])
def test_a_name_taken_by_no_key_is_409_and_is_neither_followed_nor_changed(
    folder: Store, tmp_path: Path, what: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    folder.put("there", b"1")
    _in_the_way(folder.folder, what, secret)
    folder.strangers.add("taken")
    before = os.lstat(folder.folder / "taken")
    with folder.unchanged():
        for method, action in READS:
            answer = folder.ask(method, "taken", action)
            if method == "HEAD":
                assert (answer.status, answer.headers["X-Error-Code"]) == (409, "PATH_CONFLICT")
            else:
                assert "taken" in refused(answer, 409, "PATH_CONFLICT")["message"]
            assert SECRET not in answer.body
        for method, action, body in WRITES:
            answer = _asked(folder, method, "taken", action, body)
            assert "taken" in refused(answer, 409, "PATH_CONFLICT")["message"]
        batch = folder.ask(
            "POST",
            None,
            "batch/set",
            body=b'{"items": [{"key": "n", "value": ""}, {"key": "taken", "value": ""}]}',
        )
        refused(batch, 409, "PATH_CONFLICT")
        batch = folder.ask("POST", None, "batch/delete", body=b'{"keys": ["there", "taken"]}')
        refused(batch, 409, "PATH_CONFLICT")
        got = folder.ask("POST", None, "batch/get", body=b'{"keys": ["taken"]}')
        assert SECRET not in got.body
    after = os.lstat(folder.folder / "taken")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert after.st_mtime_ns == before.st_mtime_ns
    assert secret.read_bytes() == SECRET


def test_a_symlink_to_a_folder_in_the_way_is_409_and_not_followed(folder: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    folder.put("there", b"1")
    (folder.folder / "sub").symlink_to(outside)
    folder.strangers.add("sub")
    with folder.unchanged():
        for key in ("sub/secret", "sub/deeper/secret", "sub"):
            for method, action in READS[::2]:
                answer = folder.ask(method, key, action)
                assert SECRET not in answer.body
                refused(answer, 409, "PATH_CONFLICT")
        for key in ("sub/secret", "sub/new", "sub/new/deeper", "sub"):
            for method, action, body in WRITES:
                refused(_asked(folder, method, key, action, body), 409, "PATH_CONFLICT")
        assert folder.ask("GET").done()["keys"] == ["there"]
        assert folder.ask("GET", prefix="sub/").done()["keys"] == []
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET


def test_a_store_whose_folder_is_a_symlink_out_is_refused(
    server: Server, folder: Store, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (folder.db / "linked").symlink_to(outside)
    for method in ("GET", "PUT", "DELETE"):
        answer = folder.ask(method, "secret", table="linked", body=b"x" if method == "PUT" else None)
        refused(answer, 400, "INVALID_DB_PATH")
        assert SECRET not in answer.body
    assert os.listdir(outside) == ["secret"]
    (folder.db / "plain").write_bytes(SECRET)
    refused(folder.ask("GET", "secret", table="plain"), 409, "PATH_CONFLICT")


# --- routes --------------------------------------------------------------------------------------------


UNKNOWN = [
    "/", "/kv", "/api/v1/sqlite", "/api/v1/sqlite/", "/api/v1/sqlite/health/", "/api/v1/sqlite//health",
     "/api/v1/SQLITE/health", "/api/v2/sqlite/kv", "/api/v1/sqlite/kvs", "/api/v1/sqlite/db/creat",
     "/api/v1/sqlite/health/../health", "/api/v1/sqlite/%68ealth", "/api/v1/sqlite%2Fhealth",
]  # fmt: skip


def test_an_unknown_route_is_404(server: Server) -> None:
    for path in UNKNOWN:
        for method in ("GET", "POST", "DELETE", "PATCH"):
            refused(server.ask(method, path), 404, "ROUTE_NOT_FOUND")


ALLOWED = [
    ("POST", "/kv/k", "DELETE, GET, HEAD, PUT"),
    ("PATCH", "/kv/k", "DELETE, GET, HEAD, PUT"),
    ("OPTIONS", "/kv/k", "DELETE, GET, HEAD, PUT"),
    ("PATCH", "/kv/k/incr", "DELETE, GET, HEAD, POST, PUT"),
    ("POST", "/kv/k/entry", "DELETE, GET, HEAD, PUT"),
    ("POST", "/kv/k%2Fincr", "DELETE, GET, HEAD, PUT"),
    ("POST", "/kv/k/%69ncr", "DELETE, GET, HEAD, PUT"),
    ("POST", "/kv/batch%2Fset", "DELETE, GET, HEAD, PUT"),
    ("POST", "/kv", "GET, HEAD"),
    ("DELETE", "/kv", "GET, HEAD"),
    ("PUT", "/kv", "GET, HEAD"),
    ("GET", "/db", "DELETE, POST"),
    ("GET", "/db/create", "POST"),
    ("POST", "/db/list", "GET, HEAD"),
    ("DELETE", "/health", "GET, HEAD"),
    ("PUT", "/changes", "GET, HEAD"),
    ("POST", "/changes/stream", "GET, HEAD"),
]


def test_a_method_that_a_path_has_not_is_405_and_the_others_are_told(table: Store) -> None:
    table.put("k", b"1")
    with table.unchanged():
        for method, path, allowed in ALLOWED:
            answer = table.server.ask(method, target_of(BASE + path, db=table.db))
            refused(answer, 405, "METHOD_NOT_ALLOWED")
            assert answer.headers["Allow"] == allowed, answer


# --- the form of errors --------------------------------------------------------------------------------


def test_a_head_has_its_error_in_a_header_and_no_body(store: Store) -> None:
    store.put("k", b"1")
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({}, 404, "KEY_NOT_FOUND"),
        ({"timeout": "x"}, 400, "INVALID_PARAMETERS"),
        ({"db": "a/b"}, 400, "INVALID_DB_PATH"),
        ({"db": "not-there"}, 404, "DATABASE_NOT_FOUND"),
    ]
    for params, status, code in wrong:
        answer = store.ask("HEAD", "missing", **params)
        assert (answer.status, answer.headers["X-Error-Code"], answer.body) == (status, code, b"")
        assert answer.headers["Content-Type"] == JSON
        assert int(answer.headers["Content-Length"]) > 0
        assert answer.headers["X-Request-Id"]


def test_an_error_leaves_the_connection_open(store: Store) -> None:
    store.put("k", b"1")
    with store.server.connect() as connection:
        for _ in range(3):
            refused(connection.ask("GET", store.target("missing")), 404, "KEY_NOT_FOUND")
            refused(connection.ask("PUT", store.target("k", ttl=-1), b"x" * 1000), 400, "INVALID_PARAMETERS")
            refused(connection.ask("POST", f"{BASE}/nothing", b"x" * 1000), 404, "ROUTE_NOT_FOUND")
            assert connection.ask("GET", store.target("k")).body == b"1"


def test_an_error_shows_nothing_of_the_inside(store: Store) -> None:
    """No traceback, no name of a module or a class."""
    store.put("k", b"text")
    for answer in (
        store.ask("POST", "k", "incr"),
        store.ask("GET", "k", path="a..b["),
        store.ask("POST", None, "batch/set", body=b"\xff"),
        store.ask("GET", at_timestamp="x"),
    ):
        assert answer.status == 400
        for word in (b"Traceback", b"Error(", b"apsw", b"orjson", b".py"):
            assert word not in answer.body
