"""aiohttp's HTTP protocol, made to answer what is no HTTP in our own form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError
from yarl import URL

from kvfs.errors import InvalidParameters, KvfsError, PayloadTooLarge
from server.errors import InternalError
from server.reply import Reply

MAX_LINE_BYTES: Final = 256 * 1024
"""A request line carries an `if_match`, which is a whole value, percent-encoded."""

_KEEP_ALIVE_S: Final = 75.0
_LINGER_S: Final = 5.0
_ROOT: Final = URL("/")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Refuse = Callable[[web.BaseRequest, KvfsError], Reply]
"""Makes the answer to what could not even be parsed."""


class Protocol(web.RequestHandler):
    """One connection."""

    __slots__ = ("_refuse",)

    def __init__(
        self, manager: Server, *, refuse: Refuse, loop: asyncio.AbstractEventLoop, **kwargs: Any
    ) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self._refuse = refuse

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._current_request is not None and self._messages:
            self.notice_broken(self._current_request.content)

    def notice_broken(self, body: StreamReader) -> None:
        """Tell the reader of a body, if there can be no more of it.

        What cannot be parsed is queued behind the request under way, as a message of its own. If it was
        that request's body, its handler would wait for the rest of it in vain.
        """
        if self._messages and not body.is_eof() and not isinstance(self._messages[-1][0], RawRequestMessage):
            body.set_exception(RequestPayloadError("malformed body"))

    def resume_reading(self, resume_parser: bool = True) -> None:
        # Asked for after every piece of a body that is read: a detour through the parser for nothing.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What answers this connection's requests."""
        return self._task_handler

    def close_if_idle(self) -> None:
        """Close the connection unless a request is under way."""
        if self._waiter is not None and not self._messages:
            self.force_close()

    def hang_up(self) -> None:
        """Close the connection without reading on, but give the client time to read the answer.

        To close it at once, while something comes in, would send a reset that may overtake the answer.
        """
        transport = self.transport
        if transport is None or self._force_close:
            return
        self._force_close = True  # whatever comes in is dropped
        transport.write_eof()
        transport.resume_reading()
        self._loop.call_later(_LINGER_S, transport.close)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error: KvfsError
        if isinstance(exc, LineTooLong):
            error = PayloadTooLarge("The request line or a header field is too long")
        elif status < 500:
            error = InvalidParameters("The request is not valid HTTP")
        else:
            self.log_exception("Unhandled exception", exc_info=exc)
            error = InternalError()
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer is under way already")
        reply = self._refuse(request, error)
        reply.force_close()
        reply.then = self.hang_up
        return reply


class Server(web.Server):
    """Makes a `Protocol` for each connection."""

    def __init__(self, handler: Handler, refuse: Refuse, **kwargs: Any) -> None:
        super().__init__(
            handler,
            request_factory=self._request,
            keepalive_timeout=_KEEP_ALIVE_S,
            lingering_time=_LINGER_S,
            max_line_size=MAX_LINE_BYTES,
            auto_decompress=False,
            **kwargs,
        )
        self._refuse = refuse

    async def finish(self, timeout_s: float) -> None:
        """Close what is idle, and wait for what is under way; nothing new may come any more.

        `web.Server.shutdown` waits too, but takes in no more of the bodies that are still coming.
        """
        connections = [each for each in self.connections if isinstance(each, Protocol)]
        for connection in connections:
            connection.close_if_idle()
        tasks = {connection.task for connection in connections if connection.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def __call__(self) -> web.RequestHandler:
        return Protocol(self, refuse=self._refuse, loop=self._loop, **self._kwargs)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        if isinstance(protocol, Protocol):
            protocol.notice_broken(payload)
        if message.url.absolute:
            # Its host may be one that cannot be decoded, and nothing here looks at it: see `split_target`.
            message = message._replace(url=_ROOT)
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)
