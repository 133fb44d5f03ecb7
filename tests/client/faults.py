"""A TCP proxy that misbehaves as networks do: it loses, breaks, delays and makes up answers."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO


@dataclass(frozen=True)
class Lost:
    """The request goes through and is answered; of the answer `passed` bytes arrive, then nothing more."""

    passed: int = 0


@dataclass(frozen=True)
class Silence:
    """The request goes through and is answered; the answer never arrives, and nothing ends."""


@dataclass(frozen=True)
class Reset:
    """The connection is reset as soon as the request arrives; nothing goes through."""


@dataclass(frozen=True)
class Instead:
    """Nothing goes through; this comes back."""

    answer: bytes


Fault = Lost | Silence | Reset | Instead


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """An answer as bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Proxy:
    """Passes requests on to a server; each fault in `faults` befalls one of them, in order."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.faults: deque[Fault] = deque()
        self.requests = 0
        """How many requests arrived."""
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        host, port = self._listening.getsockname()
        return f"http://{host}:{port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listening, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listening, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                thread = threading.Thread(target=self._serve, args=(client, server))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), client.makefile("rb") as asked, server.makefile("rb") as answered:
            while request := _message(asked):
                self.requests += 1
                fault = self.faults.popleft() if self.faults else None
                if isinstance(fault, Reset):
                    # Closed with this option, a socket sends a reset.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    asked.close()
                    client.close()
                    break
                if isinstance(fault, Instead):
                    client.sendall(fault.answer)
                    continue
                server.sendall(request)
                received = _message(answered, bodiless=request.startswith(b"HEAD"))
                if isinstance(fault, Lost):
                    client.sendall(received[: fault.passed])
                    break
                if not isinstance(fault, Silence):
                    client.sendall(received)
        for each in (client, server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _message(incoming: BinaryIO, *, bodiless: bool = False) -> bytes:
    """One request or answer, empty where there is none any more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = incoming.readline()
        if not line:
            return b""
        head += line
    if bodiless:
        return head
    if b"transfer-encoding: chunked" in head.lower():
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += incoming.readline()
        return head + body
    size = re.search(rb"(?i)content-length: *([0-9]+)", head)
    return head + (incoming.read(int(size[1])) if size else b"")
