"""The change feed as server-sent events: form, order, resuming, slow readers, and every way to end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.http.launching import Server, serving
from tests.http.shapes import fits
from tests.http.stores import Store
from tests.http.streaming import Stream, changes_target, cursor, page, users
from tests.http.wire import BASE, request, target_of
from tests.polling import eventually
from tests.programs import connect

CHECKPOINT_S = 0.2
STALL_S = 1.0
SOON_S = 10.0


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has little patience with streams."""
    options = ("--feed-checkpoint", str(CHECKPOINT_S), "--feed-stall", str(STALL_S))
    with Server(tmp_path_factory.mktemp("quick"), *options) as running:
        yield running


@pytest.fixture
def quick_store(quick: Server, tmp_path: Path, kind: str) -> Iterator[Store]:
    """An empty store of each kind, of that server."""
    with Store(quick, tmp_path / "store", directory=kind == "directory") as store:
        yield store
        store.disconnect()
        store.check()


def numbered(changes: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(each["key"], each["op_number"]) for each in changes]


def seqs(changes: list[dict[str, Any]]) -> list[int]:
    return [each["seq"] for each in changes]


# --- form ----------------------------------------------------------------------------------------------


def test_a_stream_begins_where_the_log_is_and_tells_what_happens(store: Store) -> None:
    store.put("before", b"1")
    with Stream(store) as stream:
        headers = stream.head()
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Connection"] == "close"
        assert "Content-Length" not in headers
        stream.retry()
        ready = stream.next()
        assert (ready.name, ready.at) == ("ready", cursor(store))
        log_id = cursor(store).partition(".")[0]
        assert ready.data == {"cursor": f"{log_id}.1", "oldest_cursor": f"{log_id}.0"}
        store.put("k", b"1", ttl=60)
        store.ask("DELETE", "k").done()
        events = stream.changes(2)
    assert events == page(store, since=ready.at)["events"]


def test_a_stream_is_the_same_as_the_pages(store: Store) -> None:
    first = cursor(store)
    for number in range(20):
        store.put(f"k{number % 3}", b"\xff" if number % 2 else b"x")
    questions: list[dict[str, Any]] = [{}, {"include_values": "true"}, {"prefix": "k1"}]
    for params in (*questions, {"prefix": "k2", "include_values": "1"}):
        expected = page(store, since=first, **params)["events"]
        with Stream(store, since=first, **params) as stream:
            stream.begin()
            assert stream.changes(len(expected)) == expected


def test_a_head_is_answered_without_a_stream(store: Store) -> None:
    with store.server.connect() as connection:
        connection.send(request("HEAD", changes_target(store, "/stream")))
        head = connection.rest()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"text/event-stream" in head


def test_the_last_event_id_wins_over_since(store: Store) -> None:
    first = cursor(store)
    store.put("a", b"1")
    second = cursor(store)
    store.put("b", b"1")
    with Stream(store, since=first, headers=[("Last-Event-ID", second)]) as stream:
        assert stream.begin()["cursor"] == second
        assert numbered(stream.changes(1)) == [("b", 1)]


def test_a_quiet_stream_is_told_how_far_it_has_come(quick_store: Store) -> None:
    quick_store.put("k", b"1")
    with Stream(quick_store, prefix="mine/") as stream:
        stream.begin()
        quick_store.put("k", b"2")
        now = cursor(quick_store)
        while (told := stream.next()).data["cursor"] != now:
            assert told.name == "checkpoint", told
        assert (told.name, told.at) == ("checkpoint", now)
    with Stream(quick_store, headers=[("Last-Event-ID", now)]) as stream:
        assert stream.begin()["cursor"] == now


# --- once and in order ---------------------------------------------------------------------------------


def test_a_stream_goes_on_from_every_event(store: Store) -> None:
    first = cursor(store)
    for number in range(12):
        store.put(f"k{number % 5}", b"%d" % number)
    with Stream(store, since=first) as stream:
        stream.begin()
        every = stream.changes(12)
    for place, event in enumerate(every):
        with Stream(store, headers=[("Last-Event-ID", event["cursor"])]) as stream:
            stream.begin()
            assert stream.changes(11 - place) == every[place + 1 :]


def test_followers_that_are_cut_off_at_random_get_every_op_once_and_in_order(store: Store) -> None:
    writes, followers = 400, 6
    first = cursor(store)

    def write(number: int) -> None:
        with store.server.connect() as mine:
            for count in range(writes // 2):
                target = store.target(f"{number}/{count % 20}")
                assert mine.ask("PUT", target, b"%d" % count).status == 200

    def follow(number: int) -> None:
        chance, last, told = random.Random(number), first, got[number]
        while len(told) < writes:
            with Stream(store, headers=[("Last-Event-ID", last)]) as stream:
                stream.begin()
                for _ in range(min(chance.randint(0, 60), writes - len(told))):
                    told.append(stream.change())
                last = stream.last or last

    got: list[list[dict[str, Any]]] = [[] for _ in range(followers)]
    threads = [threading.Thread(target=write, args=(each,)) for each in range(2)]
    threads += [threading.Thread(target=follow, args=(each,)) for each in range(followers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    expected = [(op.key, op.op_number) for op in store.log()]
    for told in got:
        assert numbered(told) == expected
        assert seqs(told) == [*range(1, writes + 1)]


def test_outside_edits_come_in_the_stream(folder: Store) -> None:
    folder.put("k", b"1")
    with Stream(folder, include_values="true") as stream:
        stream.begin()
        (folder.folder / "k").write_bytes(b"edited")
        fits(stream.change(), {"key": "k", "op": "set", "origin": "file", "op_number": 2, "value": "edited"})
        folder.put("k", b"2")
        fits(stream.change(), {"key": "k", "op_number": 3, "origin": "api", "value": "2"})
        (folder.folder / "k").unlink()
        fits(stream.change(), {"key": "k", "op_number": 4, "op": "delete", "origin": "file"})


def test_what_another_server_writes_comes_in_the_stream(tmp_path: Path, store: Store) -> None:
    store.put("k", b"1")
    with serving(tmp_path / "other", "--allow-any-absolute-db-path") as other, other.connect() as writing:
        with Stream(store) as stream:
            stream.begin()
            for number in range(2, 7):
                assert writing.ask("PUT", store.target("k"), b"%d" % number).status == 200
                if number % 2:
                    store.put("mine", b"%d" % number)
            told = stream.changes(7)
        assert seqs(told) == [*range(2, 9)]
        other.stop()


def test_a_stream_from_before_the_store_is_there_tells_its_first_op(store: Store) -> None:
    with Stream(store) as stream:
        stream.begin()
        store.put("k", b"1", create_db_if_missing="true")
        assert numbered(stream.changes(1)) == [("k", 1)]


# --- slow readers --------------------------------------------------------------------------------------


def fill(store: Store, megabytes: int) -> int:
    """Write so much; how many ops that were."""
    value = b"x" * 100_000
    for number in range(megabytes * 10):
        store.put(f"large/{number % 10}", value)
    return megabytes * 10


def test_a_slow_reader_is_cut_off_and_goes_on_without_loss(quick_store: Store) -> None:
    store = quick_store
    first = cursor(store)
    # More than the kernel keeps for a connection whose client reads nothing.
    ops = fill(store, 8)
    with Stream(store, since=first, include_values="true", receive_bytes=4096) as slow:
        slow.begin()
        eventually(lambda: users(store) == 0, SOON_S, "it is cut off")
        told, end = slow.until_end()
        assert end is not None
        assert end.data["reason"] == "slow_reader"
        assert len(told) < ops
        assert end.data["cursor"] == slow.last
    while len(told) < ops:
        with Stream(store, since=first, headers=[("Last-Event-ID", told[-1]["cursor"])]) as again:
            again.begin()
            told += again.changes(ops - len(told))
    assert seqs(told) == [*range(1, ops + 1)]


def test_a_reader_that_reads_nothing_is_let_go_of_in_the_end(quick_store: Store) -> None:
    store = quick_store
    assert isinstance(store.server, Server)
    first = cursor(store)
    fill(store, 8)
    with (
        store.server.nothing_left_open(),
        Stream(store, since=first, include_values="1", receive_bytes=4096) as slow,
    ):
        slow.begin()
        eventually(lambda: _connections(store) <= 2, 5 * SOON_S, "the connection is closed")


def test_a_slow_reader_does_not_hold_up_others(store: Store) -> None:
    first = cursor(store)
    with Stream(store, since=first, include_values="true", receive_bytes=4096) as slow:
        slow.begin()
        with Stream(store, since=first, include_values="true") as brisk:
            brisk.begin()
            ops = fill(store, 8)
            assert seqs(brisk.changes(ops)) == [*range(1, ops + 1)]
        # It catches up, through pages of its own, and is then told what is new.
        assert seqs(slow.changes(ops)) == [*range(1, ops + 1)]
        store.put("k", b"1")
        assert numbered(slow.changes(1)) == [("k", 1)]


def _connections(store: Store) -> int:
    answer = store.server.ask("GET", f"{BASE}/health/cache").done()
    connections: int = answer["connections"]
    return connections


# --- ends ----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_frees_everything_at_once(store: Store) -> None:
    assert isinstance(store.server, Server)
    store.put("k", b"1")
    with store.server.nothing_left_open():
        streams = [Stream(store, prefix=f"{number % 3}") for number in range(30)]
        for stream in streams:
            stream.begin()
        for stream in streams:
            stream.close()
        eventually(lambda: users(store) == 0, SOON_S, "no stream uses the store")


def test_a_stream_ends_with_the_server(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, "--allow-any-absolute-db-path") as running:
        with Store(running, tmp_path / "store", directory=kind == "directory") as store:
            store.put("k", b"1")
            with Stream(store) as stream:
                ready = stream.begin()
                began = time.monotonic()
                running.send(signal.SIGTERM)
                told, end = stream.until_end()
                assert (told, end and end.data) == ([], {"reason": "shutdown", "cursor": ready["cursor"]})
            assert running.code() == 0
            assert time.monotonic() - began < 4
        assert running.err == ""


def test_a_stream_that_nobody_reads_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--allow-any-absolute-db-path") as running,
        Store(running, tmp_path / "store", directory=False) as store,
    ):
        first = cursor(store)
        fill(store, 8)
        with Stream(store, since=first, include_values="true", receive_bytes=4096) as stream:
            stream.begin()
            began = time.monotonic()
            running.send(signal.SIGTERM)
            assert running.code() == 0
            assert time.monotonic() - began < 8


def test_deleting_a_database_ends_its_streams(table: Store) -> None:
    table.put("k", b"1")
    with Stream(table) as one, Stream(table, prefix="k") as two:
        for stream in (one, two):
            stream.begin()
        deleted = table.server.ask("DELETE", target_of(f"{BASE}/db", db=table.db, confirm="yes"))
        assert deleted.status == 200, deleted
        for stream in (one, two):
            _, end = stream.until_end()
            assert end is not None
            assert end.data["reason"] == "database_deleted"


def test_a_database_that_is_taken_away_ends_its_streams(store: Store) -> None:
    store.put("k", b"1")
    with Stream(store) as stream:
        stream.begin()
        if store.directory:
            shutil.rmtree(store.db)
        else:
            os.unlink(store.db)
        _, end = stream.until_end()
    assert end is not None
    assert end.data["reason"] == "database_deleted"


def test_a_stream_goes_on_with_what_replaces_its_database(server: Server, tmp_path: Path, kind: str) -> None:
    directory = kind == "directory"
    with (
        Store(server, tmp_path / "old", directory=directory) as old,
        Store(server, tmp_path / "new", directory=directory) as new,
    ):
        for number in range(3):
            old.put("k", b"%d" % number)
        new.put("other", b"1")
        with Stream(old) as stream:
            stream.begin()
            cursor_of_new = cursor(new)
            _replace(old, new)
            reset = stream.next()
            assert (reset.name, reset.at) == ("reset", cursor_of_new)
            assert reset.data["reason"] == "database_replaced"
            assert reset.data["cursor"] == cursor_of_new
            assert reset.data["oldest_cursor"] == cursor_of_new.partition(".")[0] + ".0"
            old.put("other", b"2")
            assert numbered(stream.changes(1)) == [("other", 2)]


def _replace(old: Store, new: Store) -> None:
    """Put what one store is in place of another."""
    if old.directory:
        shutil.move(old.db, old.home / "aside")
        shutil.move(new.db, old.db)
        return
    copy = str(new.home / "copy.db")
    with closing(connect(new.db)) as connection:
        connection.execute("VACUUM INTO ?", (copy,))
    os.replace(copy, old.db)


def test_a_cursor_that_leads_nowhere_begins_with_a_reset(
    server: Server, tmp_path: Path, store: Store
) -> None:
    with Store(server, tmp_path / "foreign", directory=False) as foreign:
        foreign.put("k", b"1")
        since = cursor(foreign)
    store.put("k", b"1")
    now = cursor(store)
    with Stream(store, since=since) as stream:
        assert stream.begin()["cursor"] == now
        reset = stream.next()
        assert (reset.name, reset.at, reset.data["reason"]) == ("reset", now, "database_replaced")
        store.put("k", b"2")
        assert numbered(stream.changes(1)) == [("k", 2)]
