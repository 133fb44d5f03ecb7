"""HTTP as bytes: a connection that sends exactly what it is told to, and a strict reader of the answers."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

BASE = "/api/v1/sqlite"
JSON = "application/json"
WAIT_S = 20.0

Headers = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the beginning of what was asked, for failures to show."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes
    asked: bytes = b""

    def json(self) -> Any:
        assert self.headers["Content-Type"] == JSON, self
        return json.loads(self.body)

    def done(self) -> Any:
        """The JSON of an answer that must be good."""
        assert self.status == 200, self
        return self.json()


class Connection:
    """One connection. Every wait for the server ends after WAIT_S."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(
        self, method: str, target: str | bytes, body: bytes | None = None, headers: Headers = ()
    ) -> Answer:
        """Send a request and read its answer."""
        sent = request(method, target, body, headers)
        self.send(sent)
        return replace(self.answer(head=method == "HEAD"), asked=sent[:300])

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer; an interim one (1xx) counts as one. `head`: it is to a HEAD, and has no body."""
        line = self._incoming.readline()
        assert line, "the server closed the connection"
        version, status, reason = line.decode("latin-1").rstrip("\r\n").split(" ", 2)
        assert version == "HTTP/1.1", line
        headers = http.client.parse_headers(self._incoming)
        bodiless = head or status[0] == "1" or status in ("204", "304")
        if not bodiless and headers["Transfer-Encoding"] == "chunked":
            return Answer(int(status), reason, headers, b"".join(self.chunks()))
        size = 0 if bodiless else int(headers["Content-Length"])
        body = self._incoming.read(size)
        assert len(body) == size, f"{len(body)} of {size} bytes, then the connection was closed"
        return Answer(int(status), reason, headers, body)

    def head(self) -> bytes:
        """The head of the next answer, whose body is read some other way."""
        lines = [self._incoming.readline()]
        while lines[-1] not in (b"\r\n", b""):
            lines.append(self._incoming.readline())
        return b"".join(lines)

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a body, to its end."""
        while size := int(self._incoming.readline(), 16):
            yield self._incoming.read(size)
            assert self._incoming.readline() == b"\r\n"
        assert self._incoming.readline() == b"\r\n"

    def at_end(self) -> bool:
        """Whether the server closes the connection without another byte; waits for one or the other."""
        try:
            return self._incoming.read(1) == b""
        except ConnectionError:
            return True

    def rest(self) -> bytes:
        """All that still comes before the server closes the connection."""
        try:
            return self._incoming.read()
        except ConnectionError:
            return b""

    def silent(self) -> bool:
        """Whether nothing has come that is not read yet."""
        self.socket.setblocking(False)
        try:
            return not self._incoming.peek(1)
        finally:
            self.socket.settimeout(WAIT_S)

    def close(self) -> None:
        self._incoming.close()
        self.socket.close()

    def reset(self) -> None:
        """Close without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Endpoint:
    """A server that can be asked: `host` and `port` are where it listens."""

    host: str
    port: int

    def connect(self) -> Connection:
        return Connection(self.host, self.port)

    def ask(
        self, method: str, target: str | bytes, body: bytes | None = None, headers: Headers = ()
    ) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as connection:
            return connection.ask(method, target, body, headers)


def request(
    method: str,
    target: str | bytes,
    body: bytes | None = None,
    headers: Headers = (),
    *,
    version: str = "HTTP/1.1",
) -> bytes:
    """A request, byte for byte. A body gets its Content-Length."""
    lines = [b"%s %s %s" % (method.encode(), _bytes(target), version.encode()), b"Host: kvfs"]
    lines += [_bytes(name) + b": " + _bytes(value) for name, value in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chunked(*chunks: bytes) -> bytes:
    """A body in these chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def key_path(key: str, action: str = "") -> str:
    """A key's path, each byte escaped, so that none of it can be an action; and a literal action."""
    escaped = "".join(f"%{byte:02X}" for byte in key.encode())
    return f"{BASE}/kv/{escaped}" + (f"/{action}" if action else "")


def target_of(path: str, /, **params: object) -> str:
    """A path with its query; parameters that are None are left out."""
    given = {name: value for name, value in params.items() if value is not None}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path


def refused(answer: Answer, status: int, code: str, message: str | None = None) -> dict[str, Any]:
    """The error that an answer must be, in the form that every error has."""
    assert answer.status == status, answer
    error: dict[str, Any] = answer.json()
    assert error["statusCode"] == status, answer
    assert error["error"] == answer.reason == HTTPStatus(status).phrase, answer
    assert error["code"] == answer.headers["X-Error-Code"] == code, answer
    assert isinstance(error["message"], str), answer
    assert error["message"] == (message or error["message"]), answer
    assert len(error["message"]) > 5, answer
    assert isinstance(error["resolution"], str), answer
    assert len(error["resolution"]) > 10, answer
    assert error["request_id"] == answer.headers["X-Request-Id"], answer
    return error


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
