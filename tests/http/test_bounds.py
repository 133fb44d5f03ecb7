"""Clients that are slow, silent, endless or too many: each costs a bounded amount, and the others nothing."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests import nasty
from tests.http.launching import Launched, Server, serving
from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, Connection, Endpoint, refused, request, target_of
from tests.polling import eventually

ANY_PATH = "--allow-any-absolute-db-path"
HEALTH = f"{BASE}/health"
WITHIN_S = 40.0
MOST = 20
CROWD = 1000
MIB = 1 << 20


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A server with little patience, and room for few."""
    options = ("--max-connections", str(MOST), "--keep-alive", "1", "--send-stall", "1")
    with serving(tmp_path_factory.mktemp("bounded"), ANY_PATH, *options) as server:
        yield server
        server.stop()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Launched]:
    """A server with room for few."""
    with serving(tmp_path / "home", ANY_PATH, "--max-connections", str(MOST)) as server:
        yield server
        server.stop()


def connected(server: Endpoint) -> int:
    """How many clients the server has, but for who asks."""
    count: int = server.ask("GET", f"{BASE}/health/cache").done()["connections"]
    return count - 1


def is_let_go(server: Endpoint) -> None:
    eventually(lambda: connected(server) == 0, WITHIN_S, "the server has let go of all connections")


# --- too many ------------------------------------------------------------------------------------------


def test_one_client_too_many_is_told_so_and_comes_in_when_another_leaves(small: Launched) -> None:
    with ExitStack() as stack:
        inside = [stack.enter_context(small.connect()) for _ in range(MOST)]
        for connection in inside:
            assert connection.ask("GET", HEALTH).status == 200
        with small.connect() as outside:
            answer = outside.answer()
            refused(answer, 503, "OVERLOADED")
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Connection"] == "close"
            assert outside.at_end()
        assert inside[0].ask("GET", HEALTH).status == 200
        inside.pop().close()

        def comes_in() -> bool:
            with small.connect() as late:
                late.send(request("GET", HEALTH))
                return late.answer().status == 200

        eventually(comes_in, WITHIN_S, "there is room again")


def test_a_crowd_keeps_nobody_out_who_is_in(small: Launched) -> None:
    with small.connect() as inside, ExitStack() as stack:
        assert inside.ask("GET", HEALTH).status == 200
        for number in range(CROWD):
            outside = stack.enter_context(socket.create_connection((small.host, small.port), WITHIN_S))
            with suppress(ConnectionError):  # one that was broken by then
                outside.send(b"GET / HT")
            if number % 100 == 0:
                assert inside.ask("GET", HEALTH).status == 200
        assert inside.ask("GET", HEALTH).status == 200

    def answers() -> bool:
        with suppress(ConnectionError), small.connect() as late:
            late.send(request("GET", HEALTH))
            return late.answer().status == 200
        return False

    eventually(answers, WITHIN_S, "the crowd has gone")


# --- too slow ------------------------------------------------------------------------------------------


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(bounded: Launched) -> None:
    with bounded.connect() as slow:
        head = iter(request("GET", f"/{'x' * 100_000}"))

        def cut_off() -> bool:
            try:
                slow.send(bytes([next(head)]))
                return not slow.silent()
            except OSError:
                return True

        eventually(cut_off, WITHIN_S, "the connection is closed")
        assert slow.at_end()


def test_who_says_nothing_is_not_waited_for(bounded: Launched) -> None:
    with bounded.connect() as fresh, bounded.connect() as used:
        assert used.ask("GET", HEALTH).status == 200
        for connection in (fresh, used):
            assert connection.at_end()


@pytest.mark.parametrize("directory", [False, True], ids=["table", "directory"])
def test_who_does_not_read_an_answer_is_let_go_of(bounded: Launched, tmp_path: Path, directory: bool) -> None:
    with Store(bounded, tmp_path / "store", directory=directory) as store:
        store.put("large", nasty.noise(15 * MIB))
        store.disconnect()
        with Connection(bounded.host, bounded.port) as deaf:
            deaf.send(request("GET", store.target("large")))
            eventually(lambda: connected(bounded) == 0, WITHIN_S, "it is cut off")
            assert len(deaf.rest()) < 15 * MIB
        assert len(store.get("large")) == 15 * MIB


def test_who_is_gone_without_a_word_is_let_go_of(bounded: Launched, tmp_path: Path) -> None:
    with Store(bounded, tmp_path / "store", directory=False) as store:
        store.put("k", b"1")
        cursor = store.ask("GET")
        store.disconnect()
        waiting = bounded.connect()
        target = target_of(f"{BASE}/changes", db=store.db, table=TABLE, wait=60)
        since = cursor.done()["change_cursor"]
        waiting.send(request("GET", f"{target}&since={since}"))
        eventually(lambda: connected(bounded) == 1, WITHIN_S, "it waits")
        try:
            # From here on the socket closes without telling the other end.
            waiting.socket.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
        except PermissionError:
            waiting.close()
            pytest.skip("only root can close a socket in silence")
        waiting.close()
        is_let_go(bounded)


# --- too much ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece", [b"X-More: x\r\n", b"X-Long: " + b"x" * 4000, b"x" * 4000], ids=["fields", "field", "line"]
)
def test_a_head_without_end_is_cut_off(server: Server, piece: bytes) -> None:
    with server.connect() as endless:
        endless.send(b"GET " if piece[:1] == b"x" else b"GET / HTTP/1.1\r\nHost: kvfs\r\n")
        sent = 0
        try:
            while endless.silent():
                endless.send(piece)
                sent += len(piece)
                assert sent < 64 * MIB
        except OSError:
            return  # cut off
        assert endless.answer().status in (400, 413)
        assert endless.at_end()


def test_a_body_without_end_is_cut_off(server: Server, table: Store, folder: Store) -> None:
    for store in (table, folder):
        with server.connect() as endless:
            endless.send(request("PUT", store.target("k"), headers=[("Transfer-Encoding", "chunked")]))
            sent = 0
            try:
                while endless.silent():
                    endless.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    sent += 65536
                    assert sent < 64 * MIB
            except OSError:
                continue
            refused(endless.answer(), 413, "PAYLOAD_TOO_LARGE")


# --- databases beside each other -------------------------------------------------------------------------


@contextmanager
def locked_folder(store: Store) -> Iterator[None]:
    """Another program is writing to the folder, all the time."""
    with (store.db / ".kvfs" / f"{TABLE}.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_database_that_is_locked_keeps_others_from_nothing(
    server: Server, folder: Store, table: Store, tmp_path: Path
) -> None:
    with Store(server, tmp_path / "other", directory=True) as other, ExitStack() as stack:
        for store in (folder, table, other):
            store.put("k", b"1")
            store.put("large", nasty.noise(MIB, 1))
        edited = [f"edited{number}" for number in range(150)]
        waiting = [stack.enter_context(server.connect()) for _ in edited]
        with locked_folder(folder):
            for key, connection in zip(edited, waiting, strict=True):
                # To be read it must first be logged, for which the folder must be free.
                (folder.folder / key).write_bytes(key.encode())
                connection.send(request("GET", folder.target(key, timeout=60)))

            def queued() -> int:
                told = server.ask("GET", f"{BASE}/health/cache").done()["directory_stores"]
                of_folder = [each["queued"] for each in told if each["path"] == str(folder.folder)]
                return int(of_folder[0])

            eventually(lambda: queued() >= 16, WITHIN_S, "many requests wait for the folder")
            for store in (table, other):
                assert store.put("k", b"2")["op_number"] == 2
                assert store.get("k") == b"2"
                assert store.ask("GET").done()["keys"] == ["k", "large"]
                assert store.put("large", nasty.noise(MIB, 2))["op_number"] == 2
                body = b'{"keys": ["k", "large"]}'
                assert store.ask("POST", None, "batch/get", body=body).done()["count"] == 2
            assert all(connection.silent() for connection in waiting)
        for key, connection in zip(edited, waiting, strict=True):
            answer = connection.answer()
            assert (answer.status, answer.body) == (200, key.encode())
