"""Answers: a status, a few header lines and a body, written to the connection in one piece."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11
from aiohttp.http import StreamWriter

from kvfs.errors import KvfsError
from kvfs.model import FileValue
from server.logs import of_request
from server.request import Request
from server.sending import Sending

_LOG = logging.getLogger("server.reply")

CLIENT_GONE: Final = 499
"""The status of requests whose client did not wait: nginx's."""

_STATUS_LINES: Final = {
    **{status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus},
    CLIENT_GONE: f"HTTP/1.1 {CLIENT_GONE} Client Closed Request\r\n",
}
_BODILESS: Final = frozenset({204, 304})
_ONE_WRITE_BYTES: Final = 64 * 1024

NextPiece = Callable[[], Awaitable[bytes | None]]
"""Makes the next piece of an answer, without blocking the loop; None at its end."""

Send = Callable[[Sending, range], Awaitable[tuple[range, bytes]]]
"""Does `Sending.send` without blocking the loop."""


class Reply:
    """An answer.

    `headers` are whole lines, each with its CRLF; whoever makes one sees to it that nothing from outside
    gets into them unchecked. `common` are those that every answer has; the server fills them in.
    """

    def __init__(self, status: int, body: bytes = b"", content_type: str = "", headers: str = "") -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.lines = headers
        self.common = ""
        self.request_id = ""
        self.began = 0.0
        """When the request came, in monotonic seconds."""
        self.sent = 0
        """How many bytes of body were sent."""
        self.keep_alive = True
        self.then: Callable[[], None] | None = None
        """What is to be done when the answer is sent."""

    def force_close(self) -> None:
        """Have the connection closed after this."""
        self.keep_alive = False

    @property
    def size(self) -> int | None:
        """How long the body is; None where only the end of the connection will tell."""
        return len(self.body)

    async def send(self, request: Request) -> None:
        """Write it; raises `ConnectionError` where the client has gone, or does not take it."""
        if not request.keep_alive:
            self.keep_alive = False
        protocol = request.protocol
        request.check_connected()
        head = self._head(request)
        body = self.body
        if not body or self._bodiless(request):
            protocol.write_soon(head)
        elif len(body) < _ONE_WRITE_BYTES:
            protocol.write_soon(head + body)
            self.sent = len(body)
        else:
            transport = request.transport
            transport.write(head)
            transport.write(body)
            self.sent = len(body)
        if protocol.writing_paused:
            await _drained(request)
        if self.then is not None:
            self.then()

    def whole(self, request: Request) -> bytes:
        """Head and body of a small answer, for who writes it without a wait."""
        return self._head(request) + self.body

    def _bodiless(self, request: Request) -> bool:
        return request.method == "HEAD" or self.status in _BODILESS

    def _head(self, request: Request) -> bytes:
        status = self.status
        content_type = f"Content-Type: {self.content_type}\r\n" if self.content_type else ""
        size = None if status in _BODILESS else self.size
        length = "" if size is None else f"Content-Length: {size}\r\n"
        if not self.keep_alive:
            connection = "Connection: close\r\n"
        elif request.version is HttpVersion11:
            connection = ""
        else:
            connection = "Connection: keep-alive\r\n"
        return (
            f"{_STATUS_LINES[status]}{content_type}{length}{self.lines}{connection}{self.common}\r\n"
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
        send: Send,
    ) -> None:
        super().__init__(status, b"", content_type, headers)
        self._sending = Sending(file)
        self._stretch = stretch
        self._send = send

    @property
    def size(self) -> int:
        return len(self._stretch)

    async def send(self, request: Request) -> None:
        with closing(self._sending):
            if not request.keep_alive:
                self.keep_alive = False
            transport = request.transport
            head = self._head(request)
            if self._bodiless(request) or not self._stretch:
                transport.write(head)
            else:
                with self._unless_broken(request):
                    self._sending.begin(transport.get_extra_info("socket").fileno())
                # Nothing must wait in the transport while something is sent past it.
                transport.set_write_buffer_limits(high=0)
                transport.write(head)
                await self._send_body(request)
                request.transport.set_write_buffer_limits()
            if self.then is not None:
                self.then()

    async def _send_body(self, request: Request) -> None:
        left = self._stretch
        while left:
            if request.protocol.writing_paused:
                await _drained(request)
            with self._unless_broken(request):
                left, piece = await self._send(self._sending, left)
            self.sent = len(self._stretch) - len(left)
            request.transport.write(piece)
        if request.protocol.writing_paused:
            await _drained(request)

    @contextmanager
    def _unless_broken(self, request: Request) -> Iterator[None]:
        """Break the connection where the value cannot be sent whole, and say why."""
        try:
            yield
            return
        except ConnectionError:
            raise
        except EOFError:
            _LOG.warning("a file became shorter while it was sent", extra=of_request(self.request_id))
        except OSError as exc:
            _LOG.warning("a file could not be read on: %s", exc.strerror, extra=of_request(self.request_id))
        request.transport.abort()
        raise ConnectionResetError("the value cannot be sent whole")


class StreamedReply(Reply):
    """An answer whose body is made as it is sent, chunked (RFC 9112, 7.1); `close` is called at its end.

    What cannot be made to its end breaks the connection, so that nobody takes what has come for all of it.
    """

    def __init__(
        self, first: bytes, more: NextPiece, content_type: str, *, close: Callable[[], None]
    ) -> None:
        super().__init__(200, b"", content_type)
        self._first = first
        self._more = more
        self._close = close

    @property
    def size(self) -> None:
        """Nobody knows how long it will be."""
        return None

    async def send(self, request: Request) -> None:
        try:
            chunked = request.version is HttpVersion11
            if chunked:
                self.lines += "Transfer-Encoding: chunked\r\n"
            self.keep_alive = self.keep_alive and request.keep_alive and chunked
            request.transport.write(self._head(request))
            if not self._bodiless(request):
                await self._send_body(request, chunked=chunked)
        finally:
            self._close()

    async def _send_body(self, request: Request, *, chunked: bool) -> None:
        piece: bytes | None = self._first
        while piece is not None:
            request.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.sent += len(piece)
            if request.protocol.writing_paused:
                await _drained(request)
            try:
                piece = await self._more()
            except KvfsError as exc:
                _LOG.warning("%s: the answer cannot be sent whole: %s", self.request_id, exc.message)
                request.transport.abort()
                raise ConnectionResetError("the answer cannot be sent whole") from exc
        if chunked:
            request.transport.write(b"0\r\n\r\n")


async def _drained(request: Request) -> None:
    """Wait until the client has taken what was written; break the connection when it takes nothing."""
    transport = request.transport
    writer = StreamWriter(request.protocol, asyncio.get_running_loop())
    draining = asyncio.ensure_future(writer.drain())
    try:
        while True:
            left = transport.get_write_buffer_size()
            done, _ = await asyncio.wait({draining}, timeout=request.protocol.stall_s)
            if done:
                return draining.result()
            if transport.get_write_buffer_size() >= left:
                transport.abort()
                raise ConnectionResetError("the client takes no data")
    finally:
        draining.cancel()
