"""Answers: a status, a few header lines and a body, written to the connection in one piece.

aiohttp asks no more of an answer than `prepare`, `write_eof` and `keep_alive`. A `Reply` has these and
leaves aside what a `web.Response` has besides: its header objects alone cost more than a look-up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from kvfs.model import FileValue

_LOG = logging.getLogger("server.reply")

CLIENT_GONE: Final = 499
"""The status of requests whose client did not wait: nginx's."""

_STATUS_LINES: Final = {
    **{status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus},
    CLIENT_GONE: f"HTTP/1.1 {CLIENT_GONE} Client Closed Request\r\n",
}
_BODILESS: Final = frozenset({204, 304})
_ONE_WRITE_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_STALL_S: Final = 60.0

ReadChunk = Callable[[FileValue, int, int], Awaitable[bytes]]
"""Reads from a file, at an offset, so many bytes, without blocking the loop."""


class Reply(web.StreamResponse):
    """An answer.

    `headers` are whole lines, each with its CRLF; whoever makes one sees to it that nothing from outside
    gets into them unchecked. `common` are those that every answer has; the server fills them in.
    """

    def __init__(self, status: int, body: bytes = b"", content_type: str = "", headers: str = "") -> None:
        # Not StreamResponse.__init__: it makes the header objects that this is to do without.
        self._status = status
        self.body = body
        self.content_type_line = f"Content-Type: {content_type}\r\n" if content_type else ""
        self.lines = headers
        self.common = ""
        self.request_id = ""
        self.began = 0.0
        """When the request came, in monotonic seconds."""
        self.then: Callable[[], None] | None = None
        """What is to be done when the answer is sent."""
        self._persistent: bool | None = None
        self._sent = 0

    @property
    def status(self) -> int:
        return self._status

    @property
    def keep_alive(self) -> bool | None:
        return self._persistent

    def force_close(self) -> None:
        self._persistent = False

    @property
    def body_length(self) -> int:
        """How many bytes of body were sent."""
        return self._sent

    @property
    def size(self) -> int:
        """How long the body is."""
        return len(self.body)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._request = request
        if self._persistent is None:
            self._persistent = request.keep_alive
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        transport = _transport(self._request)
        head = self._head()
        if self._bodiless() or not self.body:
            transport.write(head)
        elif len(self.body) < _ONE_WRITE_BYTES:
            transport.write(head + self.body)
            self._sent = len(self.body)
        else:
            transport.write(head)
            transport.write(self.body)
            self._sent = len(self.body)
        await self._end()

    async def _end(self) -> None:
        if self._request.protocol.writing_paused:
            await _drained(self._request)
        if self.then is not None:
            self.then()

    def _bodiless(self) -> bool:
        return self._request.method == "HEAD" or self._status in _BODILESS

    def _head(self) -> bytes:
        request = self._request
        length = "" if self._status in _BODILESS else f"Content-Length: {self.size}\r\n"
        if not self._persistent:
            connection = "Connection: close\r\n"
        elif request.version < HttpVersion11:
            connection = "Connection: keep-alive\r\n"
        else:
            connection = ""
        return (
            f"{_STATUS_LINES[self._status]}{self.content_type_line}{length}{self.lines}{connection}{self.common}\r\n"
        ).encode("latin-1")


class FileReply(Reply):
    """An answer whose body is a stretch of a file, which it closes when it is sent.

    A file that turns out shorter than it was breaks the connection: the length has been promised by then.
    """

    def __init__(
        self,
        status: int,
        file: FileValue,
        stretch: range,
        content_type: str,
        headers: str,
        *,
        read: ReadChunk,
    ) -> None:
        super().__init__(status, b"", content_type, headers)
        self._file = file
        self._stretch = stretch
        self._read = read

    @property
    def size(self) -> int:
        return len(self._stretch)

    async def write_eof(self, data: bytes = b"") -> None:
        with self._file:
            transport = _transport(self._request)
            transport.write(self._head())
            if not self._bodiless():
                await self._send(transport)
            await self._end()

    async def _send(self, transport: asyncio.Transport) -> None:
        offset, end = self._stretch.start, self._stretch.stop
        while offset < end:
            try:
                chunk = await self._read(self._file, offset, min(_CHUNK_BYTES, end - offset))
            except OSError as exc:
                _LOG.warning("%s: a file could not be read on: %s", self.request_id, exc.strerror)
                chunk = b""
            else:
                if not chunk:
                    _LOG.warning("%s: a file became shorter while it was sent", self.request_id)
            if not chunk:
                transport.abort()
                raise ConnectionResetError("the value cannot be sent whole")
            if transport.is_closing():
                raise ConnectionResetError("the client has gone")
            transport.write(chunk)
            offset += len(chunk)
            self._sent += len(chunk)
            if self._request.protocol.writing_paused:
                await _drained(self._request)


def _transport(request: web.BaseRequest) -> asyncio.Transport:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    return transport


async def _drained(request: web.BaseRequest) -> None:
    """Wait until the client has taken what was written; break the connection when it takes nothing."""
    transport = _transport(request)
    draining = asyncio.ensure_future(request.writer.drain())
    try:
        while True:
            left = transport.get_write_buffer_size()
            done, _ = await asyncio.wait({draining}, timeout=_STALL_S)
            if done:
                return draining.result()
            if transport.get_write_buffer_size() >= left:
                transport.abort()
                raise ConnectionResetError("the client takes no data")
    finally:
        draining.cancel()
