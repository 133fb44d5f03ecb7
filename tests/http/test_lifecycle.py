"""From the command line to the exit code: how a server begins, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import kvfs
from kvfs.model import FileValue, value_bytes
from tests.http.launching import Launched, Server, serving
from tests.http.shapes import fits
from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, Connection, Endpoint, refused, request, target_of
from tests.polling import eventually

HEALTH = {
    "status": "ok",
    "version": kvfs.__version__,
    "uptime_seconds": int,
    "failed_stores": 0,
    "read_only_stores": 0,
    "sqlite_version": str,
}
ANY_PATH = "--allow-any-absolute-db-path"
ENDS_S = 10.0


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    """A server that a test may end."""
    with serving(tmp_path / "home", ANY_PATH) as server:
        yield server


@pytest.fixture(scope="module")
def logging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A server with an access log."""
    with serving(tmp_path_factory.mktemp("logging"), ANY_PATH, "--access-log") as server:
        yield server
        server.stop()


def _logged(server: Launched) -> list[dict[str, Any]]:
    """The lines of the access log."""
    return [json.loads(line) for line in server.out.splitlines() if line.startswith("{")]


# --- health --------------------------------------------------------------------------------------------


def test_health_says_what_runs(server: Server) -> None:
    answer = server.ask("GET", f"{BASE}/health")
    fits(answer.done(), HEALTH)
    assert re.fullmatch(r"3\.\d+\.\d+", answer.json()["sqlite_version"])
    head = server.ask("HEAD", f"{BASE}/health")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(answer.body)))


def test_uptime_counts_from_the_start(server: Server) -> None:
    def uptime() -> int:
        seconds: int = server.ask("GET", f"{BASE}/health").done()["uptime_seconds"]
        return seconds

    assert 0 <= uptime() <= time.monotonic() - server.started_s
    eventually(lambda: uptime() >= 1, 5, "a second has passed")
    assert uptime() <= time.monotonic() - server.started_s


# --- options -------------------------------------------------------------------------------------------


def test_the_version_is_told(tmp_path: Path) -> None:
    with Launched(tmp_path / "home", "--version") as kvfs_version:
        assert kvfs_version.code() == 0
        assert (kvfs_version.out, kvfs_version.err) == (f"kvfs {kvfs.__version__}\n", "")


@pytest.mark.parametrize("arguments", [("-h",), ("serve", "--help")])
def test_help_is_given(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with Launched(tmp_path / "home", *arguments) as helping:
        assert helping.code() == 0
        assert "serve" in helping.out
        if len(arguments) == 2:
            for option in ("--port", "--data-dir", "--max-value-bytes", "KVFS_DATA_DIR", "8080"):
                assert option in helping.out


BAD = [
    ("serve", "--port", "70000"),
    ("serve", "--no-such-option"),
    ("serve", "--max-value-bytes", "0"),
    ("serve", "--log-level", "loud"),
    ("serve", "extra"),
    ("no-such-command",),
]


def test_a_bad_option_ends_with_2_and_is_named(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started = [stack.enter_context(Launched(tmp_path / str(i), *bad)) for i, bad in enumerate(BAD)]
        for launched, bad in zip(started, BAD, strict=True):
            assert launched.code() == 2, bad
            assert launched.out == ""
            word = bad[1] if len(bad) > 2 else bad[-1]
            assert word in launched.err
            assert "Traceback" not in launched.err


def test_a_bad_variable_ends_with_2_and_is_named(tmp_path: Path) -> None:
    with Launched(tmp_path / "home", "serve", variables={"KVFS_PORT": "many"}) as launched:
        assert launched.code() == 2
        assert "KVFS_PORT" in launched.err or "--port" in launched.err


def test_every_option_has_a_variable(tmp_path: Path) -> None:
    variables = {
        "KVFS_HOST": "127.0.0.1",
        "KVFS_PORT": "0",
        "KVFS_DATA_DIR": str(tmp_path / "elsewhere"),
        "KVFS_ALLOW_ANY_ABSOLUTE_DB_PATH": "1",
        "KVFS_MAX_VALUE_BYTES": "10",
        "KVFS_MAX_BATCH_ITEMS": "1",
        "KVFS_ACCESS_LOG": "true",
        "KVFS_LOG_LEVEL": "info",
    }
    with Launched(tmp_path / "home", "serve", variables=variables) as server:
        server.listening()
        with Store(server, tmp_path / "store", directory=False) as store:
            store.put("k", b"x" * 10)
            refused(store.ask("PUT", "k", body=b"x" * 11), 413, "PAYLOAD_TOO_LARGE")
            items = b'{"keys": ["a", "b"]}'
            refused(store.ask("POST", None, "batch/get", body=items), 400, "INVALID_PARAMETERS")
        assert server.ask("POST", target_of(f"{BASE}/db/create", path="bare")).status == 200
        assert (tmp_path / "elsewhere/bare.db").exists()
        assert _logged(server)
        server.stop()


def test_an_option_wins_over_its_variable(tmp_path: Path) -> None:
    with serving(tmp_path / "home", variables={"KVFS_DATA_DIR": str(tmp_path / "not-here")}) as server:
        assert server.ask("POST", target_of(f"{BASE}/db/create", path="bare")).status == 200
        assert (tmp_path / "home/data/bare.db").exists()
        assert not (tmp_path / "not-here").exists()
        server.stop()


def test_it_says_where_it_listens_with_its_data_in_kvfs_data_by_default_and_nothing_else(
    tmp_path: Path,
) -> None:
    if os.path.isdir("/hoody/databases"):
        pytest.skip("this machine has the platform's data dir, which a test must not touch")
    with Launched(tmp_path / "home", "serve", "--port", "0") as server:
        server.listening()
        data = tmp_path / "home/kvfs-data"
        assert server.ask("POST", target_of(f"{BASE}/db/create", path="bare")).status == 200
        assert (data / "bare.db").exists()
        server.ask("GET", "/nothing")
        server.stop()
        url = f"http://127.0.0.1:{server.port}"
        assert server.out == f"kvfs {kvfs.__version__} listening on {url}, data in {data}\n"
        assert server.err == ""


def test_it_listens_where_it_is_told_to(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("there is no IPv6 here")
    with serving(tmp_path / "home", "--host", "::1") as server:
        assert server.host == "::1"
        assert server.ask("GET", f"{BASE}/health").status == 200
        server.stop()


# --- what keeps it from beginning ----------------------------------------------------------------------


def _one_line(launched: Launched) -> str:
    assert launched.code() == 1
    assert launched.out == ""
    assert len(launched.err.splitlines()) == 1, launched.err
    assert launched.err.startswith("kvfs: ")
    return launched.err


def test_a_port_in_use_ends_with_1_and_one_line(server: Server, tmp_path: Path) -> None:
    port = str(server.port)
    with Launched(tmp_path / "home", "serve", "--port", port, "--data-dir", "data") as launched:
        line = _one_line(launched)
        assert port in line
        assert "in use" in line
    assert server.ask("GET", f"{BASE}/health").status == 200


def test_a_host_that_is_not_ours_ends_with_1_and_one_line(tmp_path: Path) -> None:
    with Launched(
        tmp_path / "home", "serve", "--host", "192.0.2.1", "--port", "0", "--data-dir", "d"
    ) as launched:
        assert "192.0.2.1" in _one_line(launched)


def test_a_data_dir_that_is_a_file_ends_with_1_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                Launched(tmp_path / home, "serve", "--port", "0", "--data-dir", str(data_dir))
            )
            for home, data_dir in (("a", tmp_path / "file"), ("b", tmp_path / "file/below"))
        ]
        for launched in started:
            assert str(tmp_path / "file") in _one_line(launched)


def test_a_data_dir_whose_name_is_no_utf_8_ends_with_1_and_one_line(tmp_path: Path) -> None:
    """SQLite could open nothing in it."""
    data_dir = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with Launched(tmp_path / "home", "serve", "--port", "0", "--data-dir", data_dir) as launched:
        assert "UTF-8" in _one_line(launched)
    assert os.listdir(tmp_path) == ["home"]


# --- the access log ------------------------------------------------------------------------------------


def test_each_answer_is_one_line_of_json_in_the_access_log(logging: Launched, tmp_path: Path) -> None:
    before = len(_logged(logging))
    with Store(logging, tmp_path / "store", directory=False) as store:
        # The first line is for the database that was made.
        eventually(lambda: len(_logged(logging)) > before, 5, "it is logged")
        before = len(_logged(logging))
        store.ask("PUT", "a/b", body=b"secret-value", headers=[("X-Request-Id", "my-id")], if_match="")
        store.put("a/b", b"12345")
        store.ask("GET", "a/b")
        store.ask("HEAD", "a/b")
        refused(logging.ask("GET", "/nothing?password=hunter2"), 404, "ROUTE_NOT_FOUND")
        with logging.connect() as connection:
            connection.send(b"garbage\r\n\r\n")
            assert connection.answer().status == 400
    eventually(lambda: len(_logged(logging)) >= before + 6, 5, "all is logged")
    lines = _logged(logging)[before:]
    shape = {
        "time": str, "method": str, "path": str, "status": int, "duration_ms": int | float, "bytes": int,
        "request_id": str,
    }  # fmt: skip
    fits(lines, [shape])
    assert [(line["method"], line["status"], line["bytes"] > 0) for line in lines[:5]] == [
        ("PUT", 412, True),
        ("PUT", 200, True),
        ("GET", 200, True),
        ("HEAD", 200, False),
        ("GET", 404, True),
    ]
    assert lines[0]["request_id"] == "my-id"
    assert lines[0]["path"] == f"{BASE}/kv/%61%2F%62"
    assert lines[2]["bytes"] == 5
    assert lines[5]["status"] == 400
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert all(0 <= line["duration_ms"] < 10_000 for line in lines)
    # Values and secrets stand in queries and bodies, which are in no log.
    for secret in ("secret", "hunter2", "12345"):
        assert secret not in logging.out


def test_the_access_log_is_written_when_somebody_breaks_off(logging: Launched, tmp_path: Path) -> None:
    with Store(logging, tmp_path / "store", directory=False) as store:
        connection = logging.connect()
        connection.send(request("PUT", store.target("k"), b"x" * 1000)[:-500])
        store.ask("GET", "k")
        connection.reset()
        eventually(lambda: 499 in {line["status"] for line in _logged(logging)}, 5, "it is logged")


def test_no_log_line_can_be_forged(logging: Launched) -> None:
    before = len(_logged(logging))
    logging.ask("GET", f"{BASE}/kv/%0A%7B%22forged%22%3A1%7D?db=x")
    logging.ask("GET", f'{BASE}/kv/"}}{{"forged"?db=x')
    eventually(lambda: len(_logged(logging)) >= before + 2, 5, "both are logged")
    assert all("forged" not in line for line in _logged(logging))


# --- the end -------------------------------------------------------------------------------------------


def _no_side_files(folder: Path) -> None:
    left = [str(path) for path in folder.rglob("*") if path.name.endswith(("-wal", "-shm", "-journal"))]
    assert left == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_no_write_ahead_log_left(
    launched: Launched, tmp_path: Path, number: signal.Signals
) -> None:
    stores = [
        Store(launched, tmp_path / kind, directory=kind == "directory") for kind in ("table", "directory")
    ]
    for store in stores:
        for key in ("a", "b"):
            store.put(key, key.encode() * 1000)
        store.disconnect()
    began = time.monotonic()
    launched.send(number)
    assert launched.code(ENDS_S) == 0
    assert time.monotonic() - began < 5
    assert launched.err == ""
    for store in stores:
        _no_side_files(store.home)
        store.check()


def _refuses(server: Endpoint) -> bool:
    try:
        with server.connect() as connection:
            return connection.ask("GET", f"{BASE}/health").status != 200
    except (ConnectionError, AssertionError):
        return True


def test_what_is_in_flight_is_answered_and_nothing_new_is_taken(launched: Launched, tmp_path: Path) -> None:
    stores = [
        Store(launched, tmp_path / kind, directory=kind == "directory") for kind in ("table", "directory")
    ]
    value = b"x" * (1 << 20)
    with ExitStack() as stack:
        uploads: list[tuple[Connection, bytes]] = []
        for store in stores:
            stack.enter_context(store)
            store.put("k", b"1")
            for key, body in (("small", b"x" * 1000), ("large", value)):
                connection = stack.enter_context(launched.connect())
                whole = request("PUT", store.target(key), body)
                connection.send(whole[: -len(body) // 2])
                uploads.append((connection, whole[-len(body) // 2 :]))
            store.get("k")
            store.disconnect()
        idle = stack.enter_context(launched.connect())
        assert idle.ask("GET", f"{BASE}/health").status == 200
        launched.send(signal.SIGTERM)
        assert idle.at_end()
        eventually(lambda: _refuses(launched), 2, "nothing new is taken")
        assert launched.running()
        for connection, rest in uploads:
            # Slowly, but within the grace.
            for at in range(0, len(rest), len(rest) // 4 + 1):
                connection.send(rest[at : at + len(rest) // 4 + 1])
            answer = connection.answer()
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            assert connection.at_end()
        assert launched.code(ENDS_S) == 0
    for store in stores:
        store.check()
        _no_side_files(store.home)
        with kvfs.open(str(store.db), TABLE) as handle:
            for key, expected in (("small", b"x" * 1000), ("large", value)):
                found = handle.get(key).value
                assert found is not None
                assert value_bytes(found) == expected
                if isinstance(found, FileValue):
                    found.close()


def test_an_upload_that_never_ends_does_not_hold_it(launched: Launched, tmp_path: Path) -> None:
    with Store(launched, tmp_path / "store", directory=True) as store, launched.connect() as connection:
        store.put("k", b"1")
        connection.send(request("PUT", store.target("large"), b"x" * (1 << 20))[: 1 << 19])
        store.get("k")
        store.disconnect()
        began = time.monotonic()
        launched.send(signal.SIGTERM)
        assert launched.code(ENDS_S) == 0
        assert time.monotonic() - began < ENDS_S
    store.check()
    assert os.listdir(store.folder) == ["k"]


def test_a_second_signal_ends_it_at_once(launched: Launched, tmp_path: Path) -> None:
    with Store(launched, tmp_path / "store", directory=False) as store, launched.connect() as connection:
        store.put("k", b"acknowledged")
        connection.send(request("PUT", store.target("k"), b"x" * 1000)[:-500])
        store.get("k")
        store.disconnect()
        launched.send(signal.SIGTERM)
        eventually(lambda: _refuses(launched), 2, "it is ending")
        assert launched.running()
        began = time.monotonic()
        launched.send(signal.SIGINT)
        assert launched.code(4) == 130
        assert time.monotonic() - began < 4
    store.check()


def test_a_thousand_idle_connections_are_closed_at_once(launched: Launched) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(launched.connect()) for _ in range(1000)]
        for connection in connections[::2]:
            connection.send(request("GET", f"{BASE}/health"))
        for connection in connections[::2]:
            assert connection.answer().status == 200
        began = time.monotonic()
        launched.send(signal.SIGTERM)
        assert launched.code(ENDS_S) == 0
        assert time.monotonic() - began < 4
        assert all(connection.at_end() for connection in connections)
        # Nobody was cut off by a reset: the ends were orderly.
        assert launched.err == ""


def test_it_can_be_started_again_on_the_same_port_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "home", ANY_PATH) as first:
        port = str(first.port)
        with Store(first, tmp_path / "store", directory=False) as store, first.connect() as connection:
            store.put("k", b"1")
            connection.send(request("GET", store.target("k")))
            assert connection.answer().body == b"1"
            first.stop()
    arguments = ("serve", "--port", port, "--data-dir", "data", ANY_PATH)
    with Launched(tmp_path / "home", *arguments) as second, store:
        store.server = second.listening()
        assert store.get("k") == b"1"
        second.stop()


# --- deadlines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "timeout", ["0", "1", "-1", "300", "301", "999999999999999999999", "-999999999999999999999"]
)
def test_every_timeout_is_taken_as_the_nearest_that_is_allowed(store: Store, timeout: str) -> None:
    assert store.put("k", b"1", timeout=timeout)["op_number"] == 1
    assert store.ask("GET", "k", timeout=timeout).body == b"1"
    assert store.ask("GET", timeout=timeout).done()["keys"] == ["k"]
    assert store.server.ask("GET", target_of(f"{BASE}/health", timeout=timeout)).status == 200
    assert store.server.ask("GET", target_of(f"{BASE}/db/list", timeout=timeout)).status == 200
