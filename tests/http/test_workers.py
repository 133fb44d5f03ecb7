"""Several workers on one port: each is right about what the others do, and none is missed when it dies."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.http.bearing import Bearer
from tests.http.crew import COUNT, Counting, all_serve, crew, to_each, who, workers
from tests.http.launching import Launched
from tests.http.stores import TABLE, Store
from tests.http.streaming import Stream, changes_target, page
from tests.http.test_metrics import requests, scraped
from tests.http.wire import BASE, Connection, refused, target_of
from tests.polling import eventually

CLIENTS = 8
SOON_S = 10.0


@pytest.fixture(scope="module")
def crewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A server with workers that no test harms."""
    with crew(tmp_path_factory.mktemp("crewed"), "--max-open", "12") as running:
        yield running
        running.stop()


@pytest.fixture
def store(crewed: Launched, tmp_path: Path, kind: str) -> Iterator[Store]:
    """An empty store of each kind, checked at the end."""
    with Store(crewed, tmp_path / "store", directory=kind == "directory") as store:
        yield store
    store.check()


@pytest.fixture
def each(crewed: Launched) -> Iterator[list[Connection]]:
    """A connection to each worker."""
    with to_each(crewed) as connections:
        yield connections


def _wait_until_logged(store: Store, ops: int) -> None:
    """Wait until the log has so many ops, without looking for outside edits."""
    since = page(store)["oldest_cursor"]
    eventually(lambda: len(page(store, since=since)["events"]) == ops, SOON_S, f"{ops} ops are logged")


def _wait_until_gone(server: Launched, worker: int) -> None:
    eventually(lambda: worker not in workers(server), SOON_S, "it is gone")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Launched]:
    """A server with workers that a test may kill."""
    with crew(tmp_path / "home", "--scan-interval", "1") as running:
        yield running


# --- what one does, the other knows --------------------------------------------------------------------


def test_what_one_wrote_the_other_reads_at_once(store: Store, each: list[Connection]) -> None:
    for number in range(1, 21):
        writer, reader = each[number % COUNT], each[(number + 1) % COUNT]
        value = b"%d" % number
        assert writer.ask("PUT", store.target("k"), value).done()["op_number"] == number
        answer = reader.ask("GET", store.target("k"))
        assert (answer.body, answer.headers["ETag"]) == (value, f'"{number}"')
        assert reader.ask("GET", store.target()).done()["keys"] == ["k"]
    assert each[0].ask("DELETE", store.target("k")).status == 200
    refused(each[1].ask("GET", store.target("k")), 404, "KEY_NOT_FOUND")


def test_a_repeated_request_happens_once_whoever_gets_it(store: Store, each: list[Connection]) -> None:
    headers = [("Idempotency-Key", "once")]
    first, *others = [one.ask("POST", store.target("n", "incr"), headers=headers) for one in each]
    assert "Idempotent-Replayed" not in first.headers
    for other in others:
        assert other.done() == first.done()
        assert other.headers["Idempotent-Replayed"] == "true"
    refused(each[1].ask("POST", store.target("m", "incr"), headers=headers), 422, "IDEMPOTENCY_KEY_MISMATCH")


def test_counts_of_many_clients_add_up(store: Store) -> None:
    with Counting(store, CLIENTS) as counting:
        counting.go_on(20)
    counting.add_up()
    assert counting.unanswered == [0] * CLIENTS


def test_of_those_who_compare_and_swap_one_wins(store: Store, each: list[Connection]) -> None:
    each[0].ask("PUT", store.target("k"), b"0").done()
    for number in range(1, 20):
        swap = [("If-Match", f'"{number}"')]
        statuses = [
            one.ask("PUT", store.target("k"), b"%d" % number, swap).status for one in each[:: (-1) ** number]
        ]
        assert statuses == [200, 412]
    assert store.get("k") == b"19"


def test_a_follower_of_one_is_told_of_what_the_other_writes_in_order_and_once(
    store: Store, each: list[Connection]
) -> None:
    store.put("before", b"1")
    with Stream(store) as stream, Stream(store) as another:
        stream.begin()
        another.begin()
        for number in range(40):
            each[number % COUNT].ask("PUT", store.target(f"k{number}"), b"x").done()
        for told in (stream, another):
            changes = told.changes(40)
            assert [change["key"] for change in changes] == [f"k{number}" for number in range(40)]
            assert [change["seq"] for change in changes] == [*range(2, 42)]


def test_a_long_poll_is_woken_by_what_another_writes(store: Store, each: list[Connection]) -> None:
    store.put("before", b"1")
    since = each[0].ask("GET", changes_target(store)).done()["cursor"]
    for writer, waiter in (each, each[::-1]):
        waiter.send(f"GET {changes_target(store, since=since, wait=20)} HTTP/1.1\r\nHost: k\r\n\r\n".encode())
        writer.ask("PUT", store.target("k"), b"x").done()
        (event,) = waiter.answer().done()["events"]
        since = event["cursor"]
        assert event["key"] == "k"


def test_an_expiry_is_logged_once(store: Store, each: list[Connection]) -> None:
    for one in each:
        one.ask("GET", store.target("k"))
    each[0].ask("PUT", store.target("k", ttl=1), b"1").done()

    def logged() -> list[str]:
        history = each[1].ask("GET", store.target("k", "history", order="asc")).done()
        return [operation["op_type"] for operation in history["operations"]]

    eventually(lambda: len(logged()) > 1, SOON_S, "the expiry is logged")
    assert logged() == ["set", "expire"]
    refused(each[0].ask("GET", store.target("k")), 404, "KEY_EXPIRED")


@pytest.mark.parametrize("kind", ["directory"])
def test_an_edit_is_seen_by_all_at_once_and_logged_once(store: Store, each: list[Connection]) -> None:
    store.put("k", b"1")
    for number in range(10):
        value = b"edit %d" % number
        (store.home / "fresh").write_bytes(value)
        (store.home / "fresh").rename(store.folder / "k")
        assert [one.ask("GET", store.target("k")).body for one in each] == [value] * COUNT
    (store.folder / "new").write_bytes(b"2")
    _wait_until_logged(store, 12)
    assert [op.origin for op in store.log()] == ["api"] + ["file"] * 11


def test_a_database_that_one_deletes_is_gone_for_all_and_may_come_again(
    crewed: Launched, tmp_path: Path, each: list[Connection]
) -> None:
    with Store(crewed, tmp_path / "store", directory=False) as store:
        for number in range(6):
            for one in each:
                one.ask("PUT", store.target(f"k{number}"), b"1").done()
            deleting, other = each[number % COUNT], each[(number + 1) % COUNT]
            deleting.ask("DELETE", target_of(f"{BASE}/db", db=store.db, confirm="yes")).done()
            refused(other.ask("GET", store.target(f"k{number}")), 404, "DATABASE_NOT_FOUND")
            refused(other.ask("PUT", store.target("k"), b"lost"), 404, "DATABASE_NOT_FOUND")
            other.ask("POST", target_of(f"{BASE}/db/create", path=store.db)).done()
            assert deleting.ask("GET", store.target()).done()["keys"] == []
    store.check()


def test_the_contents_that_one_restores_are_read_by_all(
    crewed: Launched, tmp_path: Path, each: list[Connection]
) -> None:
    with Store(crewed, tmp_path / "store", directory=False) as store:
        maintenance = target_of(f"{BASE}/maintenance", db=store.db)
        backup = str(store.home / "backup.db")
        each[0].ask("PUT", store.target("k"), b"old").done()
        each[0].ask(
            "POST", maintenance, json.dumps({"op": "vacuum_into", "dest_path": backup}).encode()
        ).done()
        each[1].ask("PUT", store.target("k"), b"new").done()
        each[1].ask("PUT", store.target("l"), b"new").done()
        each[0].ask("POST", maintenance, json.dumps({"op": "restore", "src_path": backup}).encode()).done()
        for one in each:
            assert one.ask("GET", store.target("k")).body == b"old"
            assert one.ask("GET", store.target()).done()["keys"] == ["k"]
        assert each[1].ask("PUT", store.target("l"), b"newer").done()["op_number"] == 1
        assert each[0].ask("GET", store.target("l")).body == b"newer"
    store.check()


def test_what_sql_ran_in_one_is_told_by_the_other(
    crewed: Launched, tmp_path: Path, each: list[Connection]
) -> None:
    with Store(crewed, tmp_path / "store", directory=False) as store:
        for number in range(6):
            query = target_of(f"{BASE}/query", db=store.db, sql=f"SELECT {number}")
            each[number % COUNT].ask("GET", query).done()
            history = each[(number + 1) % COUNT].ask("GET", target_of(f"{BASE}/history", db=store.db)).done()
            assert history["entries"][0]["sql"] == f"SELECT {number}"
            assert history["total"] == number + 1


# --- what is told of all -------------------------------------------------------------------------------


def test_metrics_and_what_is_open_are_told_of_all_whoever_is_asked(
    crewed: Launched, store: Store, each: list[Connection]
) -> None:
    path = str(store.folder if store.directory else store.db)
    before = scraped(crewed)
    for one in each:
        one.ask("PUT", store.target("k"), b"1").done()
    after = scraped(crewed)
    route = f"{BASE}/kv/{{key}}"
    assert requests(after, "PUT", route, 200) == requests(before, "PUT", route, 200) + COUNT
    text = each[0].ask("GET", "/metrics").body.decode()
    assert set(re.findall(r'worker="(\d+)"', text)) == {str(number) for number in range(COUNT)}
    for one in each:
        cache = one.ask("GET", f"{BASE}/health/cache").done()
        assert [worker["worker"] for worker in cache["workers"]] == [*range(COUNT)]
        assert cache["connections"] >= COUNT
        stores = cache["directory_stores" if store.directory else "databases"]
        assert [found["path"] for found in stores].count(path) == 1


def test_a_store_that_one_cannot_open_makes_all_say_so(
    crewed: Launched, tmp_path: Path, each: list[Connection]
) -> None:
    with Store(crewed, tmp_path / "store", directory=True) as store:
        log = store.db / ".kvfs" / f"{TABLE}.oplog"
        log.parent.mkdir()
        log.write_bytes(b"no database" * 100)
        refused(each[0].ask("PUT", store.target("k"), b"1"), 500, "DATABASE_ERROR")
        assert [one.ask("GET", f"{BASE}/health").status for one in each] == [503] * COUNT
        refused(each[1].ask("PUT", store.target("k"), b"1"), 500, "DATABASE_ERROR")
        log.unlink()
        # That one of them can open it is enough: the other one was not asked again.
        each[0].ask("PUT", store.target("k"), b"1").done()
        assert each[1].ask("GET", f"{BASE}/health/cache").done()["failed"] == []
        assert [one.ask("GET", f"{BASE}/health").status for one in each] == [200] * COUNT


def test_new_tokens_hold_for_all(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first")
    with crew(tmp_path / "home", "--token-file", str(tokens)) as server:
        tokens.write_text("second")
        server.send(signal.SIGHUP)
        target = f"{BASE}/db/list"

        def all_changed() -> bool:
            # Enough connections that each worker is among those who answer.
            return all(Bearer(server, "second").ask("GET", target).status == 200 for _ in range(12))

        eventually(all_changed, SOON_S, "the new token is good for all")
        assert {Bearer(server, "first").ask("GET", target).status for _ in range(12)} == {401}
        server.stop()


# --- death ---------------------------------------------------------------------------------------------


def test_what_a_killed_worker_acknowledged_is_there_and_another_takes_its_place(
    own: Launched, tmp_path: Path, kind: str
) -> None:
    with Store(own, tmp_path / "store", directory=kind == "directory") as store:
        with Counting(store, CLIENTS) as counting:
            for victim in workers(own):
                counting.go_on(5)
                os.kill(victim, signal.SIGKILL)
                _wait_until_gone(own, victim)
            all_serve(own)
            counting.go_on(5)
        store.disconnect()
        counting.add_up()
    assert "signal 9" in own.err
    own.stop()
    store.check()


def test_when_the_worker_that_watches_is_killed_another_takes_over(own: Launched, tmp_path: Path) -> None:
    with Store(own, tmp_path / "store", directory=True) as store:
        store.put("k", b"1")
        store.disconnect()
        for number, victim in enumerate(workers(own)):
            with to_each(own) as each:
                for one in each:
                    one.ask("GET", store.target("k"))
            os.kill(victim, signal.SIGKILL)
            (store.folder / f"meanwhile{number}").write_bytes(b"2")
            all_serve(own)
            _wait_until_logged(store, number + 2)
    own.stop()
    store.check()


def test_workers_that_die_again_and_again_end_the_server(own: Launched) -> None:
    killed: set[int] = set()

    def ended() -> bool:
        for pid in workers(own) if own.running() else ():
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        return not own.running()

    eventually(ended, 2 * SOON_S, "the server gives up")
    assert own.code() == 1
    assert "again and again" in own.err


def test_workers_end_with_their_parent(own: Launched) -> None:
    left = workers(own)
    own.send(signal.SIGKILL)
    eventually(lambda: not any(_runs(pid) for pid in left), SOON_S, "they have ended")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- beginning and ending --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_with_0_and_leaves_nothing(
    own: Launched, tmp_path: Path, number: signal.Signals
) -> None:
    with Store(own, tmp_path / "store", directory=True) as store, to_each(own) as each:
        for one in each:
            one.ask("PUT", store.target("k"), b"1").done()
        left = workers(own)
        # As a terminal does it: to all of them, and the parent tells them once more.
        for pid in (own.pid, *left):
            os.kill(pid, number)
        assert own.code(SOON_S) == 0
        assert own.err == ""
        assert not any(_runs(pid) for pid in left)
        assert all(one.at_end() for one in each)
    store.check()
    assert not [*store.home.rglob("*-wal")]


def test_a_second_signal_ends_all_at_once(own: Launched, tmp_path: Path) -> None:
    with Store(own, tmp_path / "store", directory=False) as store, own.connect() as connection:
        connection.send(f"PUT {store.target('k')} HTTP/1.1\r\nHost: k\r\nContent-Length: 9\r\n\r\nx".encode())
        store.put("l", b"1")
        store.disconnect()
        left = workers(own)
        own.send(signal.SIGTERM)
        eventually(lambda: len(workers(own)) < COUNT, SOON_S, "it is ending")
        began = time.monotonic()
        own.send(signal.SIGINT)
        assert own.code(SOON_S) == 130
        assert time.monotonic() - began < 4
        assert not any(_runs(pid) for pid in left)
    store.check()


def test_what_keeps_them_from_beginning_ends_the_server_with_one_line(
    crewed: Launched, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("no = 'tokens'")
    serve = ("serve", "--workers", "2", "--data-dir", "data")
    reasons = {
        "token": ("--port", "0", "--token-file", str(tmp_path / "tokens")),
        # The port is shared, but only by the workers of one server.
        "in use": ("--port", str(crewed.port)),
        "192.0.2.1": ("--port", "0", "--host", "192.0.2.1"),
    }
    with ExitStack() as stack:
        started = {
            reason: stack.enter_context(Launched(tmp_path / reason, *serve, *options))
            for reason, options in reasons.items()
        }
        for reason, launched in started.items():
            assert launched.code() == 1
            assert launched.out == ""
            assert len(launched.err.splitlines()) == 1, launched.err
            assert launched.err.startswith("kvfs: ")
            assert reason in launched.err


def test_there_are_as_many_as_the_variable_says_and_one_is_the_server_itself(tmp_path: Path) -> None:
    serve = ("serve", "--port", "0", "--data-dir", "data")
    cores = len(os.sched_getaffinity(0))
    expected = {"3": 3, "auto": 0 if cores == 1 else cores, "1": 0}
    with ExitStack() as stack:
        started = {
            given: stack.enter_context(Launched(tmp_path / given, *serve, variables={"KVFS_WORKERS": given}))
            for given in expected
        }
        for given, launched in started.items():
            assert len(workers(launched.listening())) == expected[given]
            launched.stop()


def test_a_number_of_workers_that_cannot_be_ends_with_2(tmp_path: Path) -> None:
    bad = ("0", "65", "many", "")
    with ExitStack() as stack:
        for launched in [
            stack.enter_context(Launched(tmp_path / f"home{number}", "serve", "--workers", given))
            for number, given in enumerate(bad)
        ]:
            assert launched.code() == 2
            assert "--workers" in launched.err


def test_connections_are_dealt_out_to_all(crewed: Launched) -> None:
    answered = {who(crewed.ask("GET", f"{BASE}/health")) for _ in range(40)}
    assert len(answered) == COUNT
