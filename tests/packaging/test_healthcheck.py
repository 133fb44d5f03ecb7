"""`python -m server.healthcheck` against servers that are well, unwell, or no servers at all."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from server import healthcheck

Check = Callable[[int | str], tuple[int, str]]


@contextmanager
def _answering(reply: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that sends these bytes to whoever connects: its port, and the requests it got."""
    requests: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            requests.append(self.rfile.readline())
            while self.rfile.readline().strip():
                pass
            self.wfile.write(reply)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], requests
        finally:
            server.shutdown()
            thread.join()


def _reply(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the health check on a port: its exit code, and what it wrote to stderr."""

    def run(port: int | str) -> tuple[int, str]:
        monkeypatch.setenv("KVFS_PORT", str(port))
        code = healthcheck.main()
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    return run


def test_a_server_that_is_well_passes_in_silence(check: Check) -> None:
    with _answering(_reply("200 OK", '{"status": "ok", "version": "0.1.0"}')) as (port, requests):
        assert check(port) == (0, "")
    assert requests == [b"GET /api/v1/sqlite/health HTTP/1.1\r\n"]


def test_a_proxy_in_the_environment_is_not_asked(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with _answering(_reply("200 OK", '{"status": "ok"}')) as (port, _):
        assert check(port) == (0, "")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (_reply("503 Service Unavailable", '{"status": "degraded"}'), "503"),
        (_reply("404 Not Found", "{}"), "404"),
        (_reply("204 No Content", ""), "JSON"),
        (_reply("200 OK", '{"status": "degraded"}'), "degraded"),
        (_reply("200 OK", "[]"), "[]"),
        (_reply("200 OK", "<html>\n</html>"), "JSON"),
        (b"SSH-2.0-something\r\n", "SSH"),
        (b"", "closed"),
    ],
)
def test_anything_else_fails_with_one_line(check: Check, reply: bytes, reason: str) -> None:
    with _answering(reply) as (port, _):
        code, message = check(port)
    assert code == 1
    assert message.endswith("\n")
    assert len(message.splitlines()) == 1
    assert reason in message


def test_a_port_that_is_none_fails_with_one_line(check: Check) -> None:
    code, message = check("http")
    assert code == 1
    assert len(message.splitlines()) == 1
