"""History, snapshots, differences and rollbacks over HTTP: exact shapes, parameters, errors."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import moment
from tests.http.launching import Server
from tests.http.shapes import OK, fits
from tests.http.stores import TABLE, Store
from tests.http.wire import refused, request
from tests.programs import connect

GAPS = {"has_gaps": bool, "gap_keys": list, "candidate_truncated": bool}
OPERATION = {
    "op_number": int,
    "op_type": str,
    "origin": "api",
    "value": str | None,
    "encoding": str | None,
    "content_type": str | None,
    "timestamp": int,
    "timestamp_ms": int,
    "ttl": int | None,
    "raw_old_value": str | None,
    "raw_new_value": str | None,
    "operation": {"op": str},
    "gap": bool,
}
ENDS = {"from": str | None, "to": str | None}


def now() -> str:
    """This instant, as a timestamp."""
    return timestamp(time.time_ns())


def timestamp(ns: int) -> str:
    """An instant, as a parameter."""
    return f"{ns // 10**9}.{ns % 10**9:09d}"


def window(first: object, last: object) -> dict[str, Any]:
    """The parameters of a difference."""
    return {"from": first, "to": last}


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


# --- SQL -----------------------------------------------------------------------------------------------


def test_what_another_program_does_by_sql_is_seen_at_once_and_is_in_the_history(table: Store) -> None:
    table.put("a", b"one")
    before = timestamp(moment())
    with closing(connect(table.db)) as program:
        program.execute(f"UPDATE {TABLE} SET value = 'two'")
        program.execute(f"INSERT INTO {TABLE} (key, value) VALUES ('b', '[1]')")
    answer = table.ask("GET", "a")
    assert (answer.body, answer.headers["ETag"]) == (b"two", '"2"')
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert table.ask("GET", "b").headers["Content-Type"] == "application/json"
    [last, first] = table.ask("GET", "a", "history").done()["operations"]
    assert (last["op_type"], last["origin"], last["raw_old_value"]) == ("set", "sql", b64(b"one"))
    assert (first["origin"], first["value"]) == ("api", "one")
    changes = table.ask("GET", None, "diff", **window(before, now())).done()["stats"]
    assert changes == {"created": 1, "modified": 1, "deleted": 0}
    answer = table.ask("POST", None, "rollback", to_timestamp=before, confirm="yes")
    assert answer.done()["keys_restored"] == 1
    assert table.get("a") == b"one"


# --- shapes ------------------------------------------------------------------------------------------


def test_a_history_has_the_shape_of_the_contract(store: Store) -> None:
    store.put("k", b"text", ttl=60)
    store.put("k", b"\xff\0", history="false")
    store.put("k", b"\xff\0")
    store.ask("DELETE", "k").done()
    told = store.ask("GET", "k", "history").done()
    fits(told, {"key": "k", "operations": [OPERATION], "total": 4, "oldest_op_number": 1})
    gone, binary, gap, text = told["operations"]
    assert (text["value"], text["encoding"], text["ttl"]) == ("text", "utf-8", 60)
    assert (text["raw_old_value"], text["raw_new_value"]) == (None, b64(b"text"))
    assert (gap["value"], gap["raw_old_value"], gap["gap"]) == (None, b64(b"text"), True)
    assert (binary["value"], binary["encoding"]) == (b64(b"\xff\0"), "base64")
    assert (gone["op_type"], gone["value"], gone["content_type"]) == ("delete", None, None)
    assert (gone["raw_old_value"], gone["raw_new_value"]) == (b64(b"\xff\0"), None)


def test_snapshots_have_the_shape_of_the_contract(store: Store) -> None:
    store.put("k", b"text", ttl=60, headers=[("Content-Type", "text/x")])
    store.ask("DELETE", "k").done()
    then = {"timestamp": int, "timestamp_ms": int}
    fits(
        store.ask("GET", "k", "snapshot", op_number=1).done(),
        {**OK, **then, "key": "k", "op_number": 1, "value": "text", "encoding": "utf-8", "existed": True}
        | {"content_type": "text/x"},
    )
    fits(
        store.ask("GET", "k", "snapshot", op_number=2).done(),
        {**OK, **then, "value": None, "encoding": None, "content_type": None, "existed": False},
    )
    store.put("k", b"\xff", ttl=60)
    at_s = int(time.time())
    table = store.ask("GET", None, "snapshot", timestamp=at_s).done()
    fits(table, {"db": str(store.db), "table": TABLE, "timestamp": at_s, "keys": list, "total": 1, **GAPS})
    content_type = "application/octet-stream"
    assert table["keys"] == [
        {"key": "k", "value": "/w==", "encoding": "base64", "content_type": content_type, "ttl": 60}
    ] or table["keys"] == [{**table["keys"][0], "ttl": 59}]


def test_a_difference_has_the_shape_of_the_contract(store: Store) -> None:
    for key in ("changed", "gone"):
        store.put(key, b"1")
    first = now()
    store.put("changed", b"\xff")
    store.ask("DELETE", "gone").done()
    store.put("new", b"1")
    found = store.ask("GET", None, "diff", **window(first, now())).done()
    changes = [{"key": str, "type": str, **ENDS}]
    fits(found, {"db": str(store.db), "table": TABLE, "from": int, "to": int, "changes": changes, **GAPS})
    fits(found["created"], [{"key": "new", "value": "1"}])
    fits(found["modified"], [{"key": "changed", "from": "1", "to": "/w=="}])
    fits(found["deleted"], [{"key": "gone", "value": "1"}])
    assert found["stats"] == {"created": 1, "modified": 1, "deleted": 1}
    assert [(each["key"], each["type"]) for each in found["changes"]] == [
        ("changed", "modified"),
        ("gone", "deleted"),
        ("new", "created"),
    ]


def test_rollbacks_have_the_shape_of_the_contract(store: Store) -> None:
    first = now()
    store.put("k", b"1")
    store.put("k", b"2")
    common = {**OK, "status": "ok", "db": str(store.db)}
    fits(
        store.ask("POST", "k", "rollback").done(),
        {**common, "key": "k", "steps_undone": 1, "current_op_number": 3, "value": "1", "existed": True},
    )
    fits(
        store.ask("POST", "k", "rollback", steps=3).done(),
        {**common, "key": "k", "steps_undone": 3, "current_op_number": 4, "value": None, "existed": False},
    )
    store.put("k", b"3")
    for dry_run, confirmed in ((True, False), (True, True), (False, True)):
        asked: dict[str, Any] = {"dry_run": str(dry_run).lower(), "confirm": "yes" if confirmed else None}
        fits(
            store.ask("POST", None, "rollback", to_timestamp=first, **asked).done(),
            {**common, "table": TABLE, "to_timestamp": int, "dry_run": dry_run, "confirmed": confirmed}
            | {"keys_restored": 0, "keys_deleted": 1, "changes": [{"key": "k", "type": "deleted"}]},
        )
    assert store.ask("GET", "k").status == 404


# --- parameters --------------------------------------------------------------------------------------


def test_limits_of_a_history_are_taken_as_the_contract_says(table: Store) -> None:
    for _ in range(21):
        sets = json.dumps({"items": [{"key": "k", "value": "1"}] * 50}).encode()
        table.ask("POST", None, "batch/set", body=sets).done()
    for limit, count in ((None, 50), (0, 50), (7, 7), (1000, 1000), (1001, 1000), (10**15, 1000)):
        told = table.ask("GET", "k", "history", limit=limit).done()
        assert (len(told["operations"]), told["total"]) == (count, 1050)
    assert table.ask("GET", "k", "history", before=1).done()["operations"] == []
    assert (
        table.ask("GET", "k", "history", before=10**15, limit=1).done()["operations"][0]["op_number"] == 1050
    )
    refused(table.ask("GET", "k", "history", limit=-1), 400, "INVALID_PARAMETERS")


@pytest.mark.parametrize(
    ("method", "key", "action", "asked"),
    [
        ("GET", "k", "history", {"limit": "x"}),
        ("GET", "k", "history", {"order": "up"}),
        ("GET", "k", "history", {"before": "1.5"}),
        ("GET", "k", "snapshot", {}),
        ("GET", "k", "snapshot", {"op_number": "one"}),
        ("GET", None, "snapshot", {}),
        ("GET", None, "snapshot", {"timestamp": "yesterday"}),
        ("GET", None, "snapshot", {"timestamp": 1, "limit": "-1"}),
        ("GET", None, "diff", {"from": 1}),
        ("GET", None, "diff", {"to": 1}),
        ("GET", None, "diff", {"from": 2, "to": 1}),
        ("POST", "k", "rollback", {"steps": 0}),
        ("POST", "k", "rollback", {"steps": -1}),
        ("POST", "k", "rollback", {"steps": 2}),
        ("POST", "k", "rollback", {"steps": "all"}),
        ("POST", None, "rollback", {"confirm": "yes"}),
        ("POST", None, "rollback", {"to_timestamp": 1}),
        ("POST", None, "rollback", {"to_timestamp": 1, "confirm": "YES"}),
        ("POST", None, "rollback", {"to_timestamp": 1, "confirm": "true"}),
        ("POST", None, "rollback", {"to_timestamp": 1, "confirm": "yes "}),
        ("POST", None, "rollback", {"to_timestamp": 1, "dry_run": "false"}),
        ("POST", None, "rollback", {"to_timestamp": 1, "dry_run": "maybe", "confirm": "yes"}),
    ],
)
def test_what_cannot_be_meant_is_400_and_changes_nothing(
    store: Store, method: str, key: str | None, action: str, asked: dict[str, Any]
) -> None:
    store.put("k", b"1")
    with store.unchanged():
        refused(store.ask(method, key, action, **asked), 400, "INVALID_PARAMETERS")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"keys": "k"}',
        b'{"keys": [1]}',
        b'{"keys": [""]}',
        b'{"keys": ["k"], "exclude_keys": ["k"]}',
        b'{"keys": [], "exclude_keys": []}',
    ],
)
def test_a_body_that_does_not_name_keys_is_400(store: Store, body: bytes) -> None:
    store.put("k", b"1")
    with store.unchanged():
        answer = store.ask("POST", None, "rollback", body=body, to_timestamp=1, confirm="yes")
        refused(answer, 400, "INVALID_PARAMETERS")


def test_what_was_never_there_is_404(store: Store) -> None:
    store.put("k", b"1")
    refused(store.ask("GET", "never", "history"), 404, "KEY_NOT_FOUND", "No history found")
    refused(store.ask("GET", "never", "snapshot", op_number=1), 404, "KEY_NOT_FOUND")
    refused(store.ask("GET", "k", "snapshot", op_number=2), 404, "KEY_NOT_FOUND")
    refused(store.ask("POST", "never", "rollback"), 404, "KEY_NOT_FOUND", "No history found")


def test_a_store_where_nothing_was_written_has_an_empty_past(store: Store) -> None:
    refused(store.ask("GET", "k", "history"), 404, "KEY_NOT_FOUND", "No history found")
    assert store.ask("GET", None, "snapshot", timestamp=1).done()["keys"] == []
    assert store.ask("GET", None, "diff", **window(1, 2)).done()["changes"] == []
    refused(store.ask("POST", "k", "rollback"), 404, "KEY_NOT_FOUND", "No history found")
    assert store.ask("POST", None, "rollback", to_timestamp=1, confirm="yes").done()["changes"] == []


def test_a_missing_database_is_404_and_is_not_made(store: Store) -> None:
    missing = store.home / "missing.db"
    for method, key, action in (
        ("GET", "k", "history"),
        ("GET", "k", "snapshot"),
        ("GET", None, "snapshot"),
        ("GET", None, "diff"),
        ("POST", "k", "rollback"),
        ("POST", None, "rollback"),
    ):
        asked: dict[str, Any] = {
            "op_number": 1,
            "timestamp": 1,
            "from": 1,
            "to": 2,
            "to_timestamp": 1,
            "confirm": "yes",
        }
        refused(store.ask(method, key, action, **{**asked, "db": missing}), 404, "DATABASE_NOT_FOUND")
    assert not missing.exists()


def test_a_gap_is_409_and_names_its_keys(store: Store) -> None:
    for key in ("a", "b", "c"):
        store.put(key, b"1", history="true" if key == "a" else "false")
    then = now()
    for key in ("a", "b", "c"):
        store.put(key, b"2")
    with store.unchanged():
        error = refused(
            store.ask("POST", None, "rollback", to_timestamp=then, confirm="yes"), 409, "TIME_TRAVEL_GAP"
        )
        assert error["gap_keys"] == ["b", "c"]
        refused(store.ask("POST", "b", "rollback"), 409, "TIME_TRAVEL_GAP")
        refused(store.ask("GET", "b", "snapshot", op_number=1), 409, "TIME_TRAVEL_GAP")
    assert store.ask("GET", None, "snapshot", timestamp=then).done()["gap_keys"] == ["b", "c"]


def test_a_rollback_obeys_if_match_and_tells_the_new_etag(store: Store) -> None:
    store.put("k", b"1")
    store.put("k", b"2")
    answer = store.ask("POST", "k", "rollback", headers=[("If-Match", '"1"')])
    assert refused(answer, 412, "CAS_MISMATCH")["current_etag"] == "2"
    answer = store.ask("POST", "k", "rollback", headers=[("If-Match", '"2"')])
    assert (answer.done()["value"], answer.headers["ETag"]) == ("1", '"3"')


def test_only_literal_words_are_actions(store: Store) -> None:
    for key in ("k/history", "k/snapshot", "k/rollback", "snapshot", "diff", "rollback"):
        store.put(key, b"a value")
        assert store.get(key) == b"a value"


def test_large_values_of_the_past_leave_nothing_open(server: Server, store: Store) -> None:
    value = os.urandom(2 << 20)
    then = now()
    store.put("k", value)
    store.put("k", b"small")
    with server.nothing_left_open():
        assert store.ask("GET", "k", "snapshot", op_number=1).done()["value"] == b64(value)
        assert store.ask("GET", "k", "history").done()["operations"][1]["value"] == b64(value)
        assert store.ask("GET", None, "diff", **window(then, now())).done()["stats"]["created"] == 1
        assert store.ask("POST", "k", "rollback").done()["value"] == b64(value)
        store.ask("POST", None, "rollback", to_timestamp=then, dry_run="true").done()
        store.disconnect()
    assert store.get("k") == value


# --- folders -----------------------------------------------------------------------------------------


def test_files_come_back_and_those_that_were_not_there_go(folder: Store) -> None:
    folder.put("a.bin", b"\xff\0", headers=[("Content-Type", "image/x")])
    folder.put("deep/er/b.txt", b"text")
    then = now()
    (folder.folder / "a.bin").write_bytes(b"edited")
    (folder.folder / "deep/er/b.txt").unlink()
    (folder.folder / "new.txt").write_bytes(b"new")
    done = folder.ask("POST", None, "rollback", to_timestamp=then, confirm="yes").done()
    assert (done["keys_restored"], done["keys_deleted"]) == (2, 1)
    assert (folder.folder / "a.bin").read_bytes() == b"\xff\0"
    assert (folder.folder / "deep/er/b.txt").read_bytes() == b"text"
    assert not (folder.folder / "new.txt").exists()
    assert folder.ask("GET", "a.bin").headers["Content-Type"] == "image/x"
    origins = [op["origin"] for op in folder.ask("GET", "a.bin", "history").done()["operations"]]
    assert origins == ["api", "file", "api"]


def test_an_edit_from_outside_can_be_undone(folder: Store) -> None:
    folder.put("k.txt", b"ours")
    (folder.folder / "k.txt").write_bytes(b"theirs")
    assert folder.ask("POST", "k.txt", "rollback").done()["value"] == "ours"
    assert (folder.folder / "k.txt").read_bytes() == b"ours"


def test_a_key_whose_name_is_taken_fails_the_whole_rollback(folder: Store) -> None:
    folder.put("a", b"1")
    folder.put("k", b"1")
    then = now()
    folder.put("a", b"2")
    (folder.folder / "k").unlink()
    (folder.folder / "k").symlink_to("/etc/hostname")
    folder.strangers.add("k")
    asked: dict[str, Any] = {"to_timestamp": then, "confirm": "yes"}
    refused(folder.ask("POST", None, "rollback", **asked), 409, "PATH_CONFLICT")
    assert folder.get("a") == b"2"
    left_out = json.dumps({"exclude_keys": ["k"]}).encode()
    assert folder.ask("POST", None, "rollback", body=left_out, **asked).done()["keys_restored"] == 1
    assert folder.get("a") == b"1"
    assert (folder.folder / "k").is_symlink()


# --- all or nothing ----------------------------------------------------------------------------------


def test_a_rollback_of_a_table_is_one_change_among_concurrent_writes(store: Store) -> None:
    keys = [f"k{number}" for number in range(40)]

    def batch(value: str) -> bytes:
        return json.dumps({"items": [{"key": key, "value": value} for key in keys]}).encode()

    store.ask("POST", None, "batch/set", body=batch("old")).done()
    then = now()
    failures: list[object] = []
    done = threading.Event()

    def write() -> None:
        with store.server.connect() as connection:
            number = 0
            while not done.is_set():
                number += 1
                target = store.target(None, "batch/set")
                failures.extend(
                    [] if connection.ask("POST", target, batch(f"new{number}")).status == 200 else ["write"]
                )

    def read() -> None:
        with store.server.connect() as connection:
            while not done.is_set():
                page = connection.ask("GET", store.target(values="true")).done()
                values = {item["value"] for item in page["items"]}
                if len(values) != 1 or len(page["items"]) != len(keys):
                    failures.append(values)

    threads = [threading.Thread(target=work) for work in ((write, read) if not store.directory else (write,))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            store.ask("POST", None, "rollback", to_timestamp=then, confirm="yes").done()
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert not failures
    store.ask("POST", None, "rollback", to_timestamp=then, confirm="yes").done()
    assert {item["value"] for item in store.state().items} == {"old"}


@pytest.mark.parametrize("pause_s", [0.0, 0.004, 0.008, 0.016, 0.032])
def test_a_rollback_that_is_killed_happened_or_did_not(tmp_path: Path, kind: str, pause_s: float) -> None:
    keys = [f"d{number % 7}/k{number}" for number in range(300)]
    home = tmp_path / "home"
    home.mkdir()
    server = Server(home)
    moments = []
    try:
        server.start()
        store = Store(server, tmp_path / "store", directory=kind == "directory")
        for value in ("old", "new"):
            for start in range(0, len(keys), 100):
                items = [{"key": key, "value": value} for key in keys[start : start + 100]]
                store.ask("POST", None, "batch/set", body=json.dumps({"items": items}).encode()).done()
            moments.append(now())
        with server.connect() as connection:
            target = store.target(None, "rollback", to_timestamp=moments[0], confirm="yes")
            connection.send(request("POST", target, b""))
            # At a point that differs with each run: any must do.
            threading.Event().wait(pause_s)
            server.kill()
        store.disconnect()
        server.start()
        page = store.ask("GET", limit=1000, values="true").done()
        store.disconnect()
        server.stop()
    finally:
        server.kill()
    values = {item["value"] for item in page["items"]}
    assert (len(page["items"]), len(values)) == (len(keys), 1), values
    assert values < {"old", "new"}
    store.check()
