"""The change feed page by page: shapes, cursors, long polls, outside edits, other processes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.http.launching import Server, serving
from tests.http.shapes import fits
from tests.http.stores import TABLE, Store
from tests.http.streaming import changes_target, cursor, page, users
from tests.http.wire import BASE, refused, request, target_of
from tests.polling import eventually
from tests.programs import connect

EVENT = {
    "seq": int,
    "cursor": str,
    "table": TABLE,
    "key": str,
    "op": str,
    "op_number": int,
    "origin": "api",
    "ts": int,
    "ts_ms": int,
    "etag": str | None,
    "expire_at": int | None,
}
PAGE = {"cursor": str, "events": [EVENT], "has_more": bool, "next_cursor": str, "oldest_cursor": str}
SOON_S = 30.0


def told(events: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(event["op"], event["key"], event["op_number"]) for event in events]


def ops_of(store: Store) -> list[tuple[str, int]]:
    """(key, op number) of all there is in the log, in order."""
    return [(op.key, op.op_number) for op in store.log()]


def test_a_page_has_the_shape_of_the_contract(store: Store) -> None:
    first = cursor(store)
    store.put("k", b"1", ttl=60)
    store.ask("POST", "k", "persist").done()
    store.ask("DELETE", "k").done()
    found = page(store, since=first)
    fits(found, {**PAGE, "has_more": False, "next_cursor": found["events"][-1]["cursor"]})
    assert told(found["events"]) == [("set", "k", 1), ("ttl", "k", 2), ("delete", "k", 3)]
    put, persisted, deleted = found["events"]
    assert [event["seq"] for event in found["events"]] == [1, 2, 3]
    assert (put["etag"], persisted["etag"], deleted["etag"]) == ("1", "2", None)
    assert (persisted["expire_at"], deleted["expire_at"]) == (None, None)
    assert abs(put["expire_at"] - (put["ts"] + 60)) <= 1
    assert put["ts"] == put["ts_ms"] // 1000
    assert not {"value", "encoding", "content_type", "value_omitted"} & put.keys()


def test_values_come_with_the_events_if_they_are_asked_for(store: Store) -> None:
    first = cursor(store)
    store.put("k", b"text", headers=[("Content-Type", "text/x")])
    store.put("k", b"\xff\0")
    store.put("gap", b"old", history="false")
    store.put("gap", b"new", history="false")
    store.put("large", b"x" * (256 * 1024 + 1))
    store.ask("DELETE", "k").done()
    text, binary, superseded, present, large, deleted = page(store, since=first, include_values="true")[
        "events"
    ]
    fits(text, {**EVENT, "value": "text", "encoding": "utf-8", "content_type": "text/x"})
    fits(binary, {"value": "/wA=", "encoding": "base64", "content_type": "application/octet-stream"})
    fits(superseded, {"value_omitted": "superseded", "content_type": str})
    fits(present, {"value": "new", "encoding": "utf-8"})
    fits(large, {"value_omitted": "too_large"})
    fits(deleted, {"value": None, "encoding": None, "content_type": None})
    for event in (superseded, large):
        assert not {"value", "encoding"} & event.keys()


def test_without_a_cursor_there_are_no_events_and_the_present_place(store: Store) -> None:
    store.put("k", b"1")
    found = page(store, wait=30)
    fits(found, {**PAGE, "events": [], "has_more": False})
    assert found["cursor"] == found["next_cursor"] == store.ask("GET").done()["change_cursor"]
    store.put("k", b"2")
    assert told(page(store, since=found["cursor"])["events"]) == [("set", "k", 2)]


def test_a_list_and_then_its_changes_miss_nothing_that_writers_do_meanwhile(store: Store) -> None:
    def write() -> None:
        with store.server.connect() as mine:
            for number in range(150):
                assert mine.ask("PUT", store.target(f"k{number}"), b"1").status == 200

    writing = threading.Thread(target=write)
    writing.start()
    listed = store.ask("GET", limit=10_000).done()
    keys, since = set(listed["keys"]), listed["change_cursor"]
    while len(keys) < 150:
        found = page(store, since=since, wait=20, limit=7)
        new = {event["key"] for event in found["events"]}
        assert not new & keys
        keys |= new
        since = found["next_cursor"]
    writing.join()


def test_pages_of_any_size_tell_each_op_once_and_in_order(store: Store) -> None:
    first = cursor(store)
    for number in range(30):
        store.put(f"k/{number % 7}", b"%d" % number)
    store.ask("DELETE", "k/3").done()
    for limit in (1, 2, 7, 31, 5000):
        since, found = first, []
        while True:
            answer = page(store, since=since, limit=limit)
            assert len(answer["events"]) <= limit
            found += answer["events"]
            since = answer["next_cursor"]
            if not answer["has_more"]:
                break
        assert [(event["key"], event["op_number"]) for event in found] == ops_of(store)
        assert [event["seq"] for event in found] == [*range(1, 32)]


def test_a_prefix_leaves_out_other_keys(store: Store) -> None:
    first = cursor(store)
    for key in ("a", "a/b", "ab", "b", "é/x"):
        store.put(key, b"1")
    for prefix, keys in (("a", ["a", "a/b", "ab"]), ("a/", ["a/b"]), ("é", ["é/x"]), ("zz", [])):
        found = page(store, since=first, prefix=prefix)
        assert [event["key"] for event in found["events"]] == keys
        assert found["next_cursor"] == cursor(store)
    store.state()  # looks at `a`, whose file has moved into the folder


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"since": ""}, "cursor"),
        ({"since": "x"}, "cursor"),
        ({"since": "1"}, "cursor"),
        ({"since": ".5"}, "cursor"),
        ({"limit": 0}, "limit"),
        ({"limit": "all"}, "limit"),
        ({"wait": -1}, "wait"),
        ({"wait": "1.5"}, "wait"),
        ({"include_values": "maybe"}, "include_values"),
    ],
)
def test_what_is_malformed_is_refused(store: Store, params: dict[str, object], named: str) -> None:
    with store.unchanged():
        for action in ("", "/stream"):
            answer = store.server.ask("GET", changes_target(store, action, **params))
            assert named in refused(answer, 400, "INVALID_PARAMETERS")["message"]


def test_a_missing_database_is_404(server: Server, tmp_path: Path) -> None:
    for action in ("", "/stream"):
        target = target_of(f"{BASE}/changes{action}", db=tmp_path / "none.db")
        refused(server.ask("GET", target), 404, "DATABASE_NOT_FOUND")


def test_a_cursor_of_another_log_is_gone(server: Server, tmp_path: Path, kind: str) -> None:
    with (
        Store(server, tmp_path / "one", directory=kind == "directory") as one,
        Store(server, tmp_path / "two", directory=kind == "directory") as two,
    ):
        one.put("k", b"1")
        two.put("k", b"1")
        foreign = cursor(one)
        error = refused(
            two.server.ask("GET", changes_target(two, since=foreign)), 410, "CHANGE_CURSOR_EXPIRED"
        )
        assert error["reason"] == "database_replaced"
        log_id = cursor(two).partition(".")[0]
        assert (error["oldest_cursor"], error["cursor"]) == (f"{log_id}.0", f"{log_id}.1")
        assert told(page(two, since=error["oldest_cursor"])["events"]) == [("set", "k", 1)]
        beyond = refused(
            two.server.ask("GET", changes_target(two, since=f"{log_id}.9")), 410, "CHANGE_CURSOR_EXPIRED"
        )
        assert beyond["reason"] == "database_replaced"


def test_a_cursor_from_before_the_table_was_there_leads_to_its_first_op(store: Store) -> None:
    first = cursor(store)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(page, store, since=first, wait=30)
        store.put("k", b"1", create_db_if_missing="true")
        assert told(waiting.result()["events"]) == [("set", "k", 1)]
    assert told(page(store, since=first)["events"]) == [("set", "k", 1)]


# --- waiting -------------------------------------------------------------------------------------------


def test_a_poll_is_answered_as_soon_as_something_happens(store: Store) -> None:
    store.put("k", b"1")
    since = cursor(store)
    with store.server.connect() as polling:
        polling.send(request("GET", changes_target(store, since=since, wait=60)))
        assert polling.silent()
        store.put("k", b"2")
        began = time.monotonic()
        assert told(polling.answer().done()["events"]) == [("set", "k", 2)]
        assert time.monotonic() - began < SOON_S


def test_a_poll_that_nothing_happens_to_ends_empty_in_its_time(store: Store) -> None:
    store.put("k", b"1")
    since = cursor(store)
    for params in ({"wait": 1}, {"wait": 60, "timeout": 1}):
        began = time.monotonic()
        found = page(store, since=since, **params)
        assert 0.9 < time.monotonic() - began < SOON_S
        fits(found, {**PAGE, "events": [], "next_cursor": since, "has_more": False})


def test_a_poll_for_a_prefix_passes_over_other_keys(store: Store) -> None:
    store.put("k", b"1")
    since = cursor(store)
    with store.server.connect() as polling:
        polling.send(request("GET", changes_target(store, since=since, wait=60, prefix="mine/")))
        for number in range(5):
            store.put(f"other/{number}", b"1")
        assert polling.silent()
        store.put("mine/k", b"1")
        answer = polling.answer().done()
    assert told(answer["events"]) == [("set", "mine/k", 1)]
    found = page(store, since=since, wait=0, prefix="none/")
    assert (found["events"], found["next_cursor"]) == ([], cursor(store))


def test_many_polls_at_once_are_all_answered(store: Store) -> None:
    store.put("k", b"1")
    since = cursor(store)
    assert isinstance(store.server, Server)
    threads = Path(f"/proc/{store.server.pid}/task")
    before = len([*threads.iterdir()])
    polls = [store.server.connect() for _ in range(200)]
    for number, poll in enumerate(polls):
        poll.send(request("GET", changes_target(store, since=since, wait=60, limit=1 + number % 3)))
    assert len([*threads.iterdir()]) < before + 50
    store.put("k", b"2")
    for poll in polls:
        assert told(poll.answer().done()["events"]) == [("set", "k", 2)]
        poll.close()


def test_a_poll_whose_client_has_gone_holds_nothing(table: Store) -> None:
    table.put("k", b"1")
    since = cursor(table)
    polling = table.server.connect()
    polling.send(request("GET", changes_target(table, since=since, wait=60)))
    eventually(lambda: users(table) == 1, SOON_S, "the poll waits")
    polling.reset()
    eventually(lambda: users(table) == 0, SOON_S, "the poll has ended")
    deleted = table.server.ask("DELETE", target_of(f"{BASE}/db", db=table.db, confirm="yes"))
    assert deleted.status == 200, deleted


def test_polls_whose_clients_go_at_once_hold_nothing(table: Store) -> None:
    """Also where one goes between its request and its waiting."""
    table.put("k", b"1")
    asked = request("GET", changes_target(table, since=cursor(table), wait=60))
    for _ in range(100):
        polling = table.server.connect()
        polling.send(asked)
        polling.reset()
    eventually(lambda: users(table) == 0, SOON_S, "the polls have ended")


def test_a_poll_ends_empty_when_the_server_stops(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, "--allow-any-absolute-db-path") as running:
        store = Store(running, tmp_path / "store", directory=kind == "directory")
        with store, running.connect() as polling:
            store.put("k", b"1")
            since = cursor(store)
            polling.send(request("GET", changes_target(store, since=since, wait=60)))
            assert polling.silent()
            began = time.monotonic()
            stopping = threading.Thread(target=running.stop)
            stopping.start()
            answer = polling.answer()
            stopping.join()
            assert time.monotonic() - began < 4
            fits(answer.done(), {**PAGE, "events": [], "next_cursor": since})


# --- what happens elsewhere ----------------------------------------------------------------------------


def all_events(store: Store, since: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = page(store, since=since, limit=1000)
        found += answer["events"]
        since = answer["next_cursor"]
        if not answer["has_more"]:
            return found


def test_outside_edits_are_told_of_like_all_else(folder: Store) -> None:
    folder.put("k", b"1")
    since = cursor(folder)
    (folder.folder / "k").write_bytes(b"edited")
    (folder.folder / "new").write_bytes(b"made")
    eventually(lambda: len(all_events(folder, since)) == 2, SOON_S, "both edits are told of")
    (folder.folder / "new").unlink()
    eventually(lambda: len(all_events(folder, since)) == 3, SOON_S, "the deletion is told of")
    events = all_events(folder, since)
    assert {event["origin"] for event in events} == {"file"}
    assert sorted(told(events)) == [("delete", "new", 2), ("set", "k", 2), ("set", "new", 1)]
    assert [(event["key"], event["op_number"]) for event in events] == ops_of(folder)[1:]


def test_a_poll_is_answered_by_an_outside_edit(folder: Store) -> None:
    folder.put("k", b"1")
    since = cursor(folder)
    with folder.server.connect() as polling:
        polling.send(request("GET", changes_target(folder, since=since, wait=60, include_values="true")))
        assert polling.silent()
        (folder.folder / "k").write_bytes(b"edited")
        (event,) = polling.answer().done()["events"]
    fits(event, {"key": "k", "origin": "file", "op": "set", "value": "edited"})


def test_an_expiry_is_told_of(store: Store) -> None:
    since = cursor(store)
    store.put("k", b"1", ttl=1)
    found = page(store, since=since)
    answer = page(store, since=found["next_cursor"], wait=20)
    assert told(answer["events"]) == [("expire", "k", 2)]


def test_what_another_server_writes_is_told_of(tmp_path: Path, store: Store) -> None:
    store.put("k", b"1")
    since = cursor(store)
    with serving(tmp_path / "other", "--allow-any-absolute-db-path") as other, other.connect() as writing:
        with store.server.connect() as polling:
            polling.send(request("GET", changes_target(store, since=since, wait=60)))
            assert polling.silent()
            for number in range(2, 5):
                assert writing.ask("PUT", store.target("k"), b"%d" % number).status == 200
            first = polling.answer().done()["events"][0]
            assert (first["key"], first["op_number"]) == ("k", 2)
        assert [event["op_number"] for event in all_events(store, since)] == [2, 3, 4]
        other.stop()


def test_what_another_program_does_by_sql_is_told_of(table: Store) -> None:
    table.put("k", b"1")
    since = cursor(table)
    with table.server.connect() as polling:
        polling.send(request("GET", changes_target(table, since=since, wait=60, include_values="true")))
        assert polling.silent()
        with closing(connect(table.db)) as connection, connection:
            connection.execute(f"INSERT INTO {TABLE} (key, value) VALUES ('new', 'by SQL')")
            connection.execute(f"UPDATE {TABLE} SET value = 'changed' WHERE key = 'k'")
            connection.execute(f"DELETE FROM {TABLE} WHERE key = 'new'")
        events = polling.answer().done()["events"]
    assert told(events) == [("set", "new", 1), ("set", "k", 2), ("delete", "new", 2)]
    assert {event["origin"] for event in events} == {"sql"}
    assert [event["value"] for event in events] == ["by SQL", "changed", None]
