"""One connection: aiohttp's parser, buffers and flow control, with our own loop over the requests."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast
from typing import Protocol as Interface

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError

from kvfs.errors import InvalidParameters, KvfsError, Overloaded, PayloadTooLarge
from server.reply import Reply
from server.request import Request

MAX_LINE_BYTES: Final = 256 * 1024
"""A request line carries an `if_match`, which is a whole value, percent-encoded."""

_LOG = logging.getLogger("server")

_LINGER_S: Final = 5.0
_LINGERING: Final = 64
_PROBES: Final = 3
_UNSENT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many clients may be connected, and for how long each may keep the server waiting."""

    connections: int = 4096
    keep_alive_s: float = 75.0
    """A connection on which no whole head of a request comes for so long is closed."""
    stall_s: float = 60.0
    """One whose client takes nothing of an answer for so long, or is gone without a word, is broken."""


Answer = Callable[[Request], Awaitable[Reply]]
"""Answers a request; never raises but when it is cancelled."""

Refuse = Callable[[KvfsError], Reply]
"""Makes the answer to what could not be parsed."""

Log = Callable[[Request, Reply], None]
"""Is told of each answer that was sent."""


class Listener(Interface):
    """Who sends an answer without end, and must know how the connection fares."""

    def drained(self) -> None:
        """The connection can take more."""

    def lost(self) -> None:
        """The connection is gone."""


class Protocol(web.RequestHandler):
    """One connection.

    The loop over the requests replaces aiohttp's, which makes a task, a request with a URL and header
    objects for each: together they cost more than the answer. It leans on names that aiohttp calls
    private; so pyproject.toml bounds its version, and tests/http goes through every branch.
    """

    __slots__ = ("_answer", "_bounds", "_log", "_refuse", "_server", "_unsent", "listener")

    def __init__(
        self,
        manager: Server,
        *,
        answer: Answer,
        refuse: Refuse,
        log: Log | None,
        bounds: Bounds,
        **kwargs: Any,
    ) -> None:
        super().__init__(manager, keepalive_timeout=bounds.keep_alive_s, **kwargs)
        self._server = manager
        self._unsent = b""
        self._bounds = bounds
        self._answer = answer
        self._refuse = refuse
        self._log = log
        self.listener: Listener | None = None

    @property
    def stall_s(self) -> float:
        """For how long a client may take nothing of an answer."""
        return self._bounds.stall_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._manager is not None
        others = len(self._manager._connections)
        super().connection_made(transport)
        _notice_silence(transport, self._bounds.stall_s)
        if others >= self._bounds.connections:
            self._turn_away(crowd=others - self._bounds.connections)

    def _turn_away(self, *, crowd: int) -> None:
        """Say that there is no room, if not too many are being told so."""
        assert self.transport is not None
        if crowd >= _LINGERING:
            self.transport.abort()
            return
        reply = self._refuse(Overloaded("Too many clients are connected", retry_after_s=1))
        reply.force_close()
        self.transport.write(reply.whole(Request(None, EMPTY_PAYLOAD, self)))
        self.hang_up()

    # --- the requests -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Answer the requests of this connection, one after the other."""
        try:
            while not self._force_close:
                request, reply = await self._answer_next()
                goes_on = reply.keep_alive and not self._close
                if not request.body.is_eof() and not self._force_close:
                    goes_on = await self._forget(request.body) and goes_on
                if not goes_on:
                    break
                self._rest()
        except ConnectionError:
            self.force_close()
        except Exception:
            _LOG.exception("a connection failed")
            self.force_close()
        except BaseException:
            self.force_close()
            raise
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.flush()
                self.transport.close()

    async def _answer_next(self) -> tuple[Request, Reply]:
        """Wait for a request, and answer it."""
        if not self._messages:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, body = self._messages.popleft()
        self._make_room()
        if not isinstance(message, RawRequestMessage):
            request = Request(None, body, self)
            reply = self._refuse(_malformed(message.exc))
            reply.then = self.hang_up
        else:
            request = Request(message, body, self)
            if self._messages:
                self._notice_broken(body)
            # aiohttp tells it when the connection is lost.
            self._current_request = cast(web.BaseRequest, request)
            try:
                reply = await self._answer(request)
            finally:
                self._current_request = None
            if self._upgraded:
                # What follows is in another protocol, which is not spoken here.
                reply.force_close()
        try:
            await reply.send(request)
        finally:
            if self._log is not None:
                self._log(request, reply)
        return request, reply

    def _make_room(self) -> None:
        """Let the parser go on, if it stopped because many requests were waiting."""
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    async def _forget(self, body: StreamReader) -> bool:
        """Take in what nobody wanted to read, until the client has read the answer; whether it all came."""
        try:
            async with asyncio.timeout(_LINGER_S):
                while not body.is_eof():
                    await body.readany()
        except (TimeoutError, RequestPayloadError):
            return False
        return True

    def _rest(self) -> None:
        """Close the connection if no request comes for long."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )

    # --- what goes out ------------------------------------------------------------------------------------

    def write_soon(self, data: bytes) -> None:
        """Write it at the end of this turn of the loop, or before anything else is written."""
        if not self._unsent:
            self._server.flush_soon(self)
        self._unsent += data
        if len(self._unsent) > _UNSENT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write now what is to be written soon."""
        data, self._unsent = self._unsent, b""
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def force_close(self) -> None:
        self.flush()
        super().force_close()

    # --- what comes in ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and self._current_request is not None:
            self._notice_broken(cast(Request, self._current_request).body)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # Asked for after every piece of a body that is read: a detour through the parser for nothing.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.listener is not None:
            self.listener.drained()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.listener is not None:
            self.listener.lost()

    def _notice_broken(self, body: StreamReader) -> None:
        """Tell the reader of a body, if there can be no more of it.

        What cannot be parsed is queued behind the request under way, as a message of its own. If it was
        that request's body, its handler would wait for the rest of it in vain.
        """
        if not body.is_eof() and not isinstance(self._messages[-1][0], RawRequestMessage):
            body.set_exception(RequestPayloadError("malformed body"))

    # --- the end ------------------------------------------------------------------------------------------

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
        self.flush()
        transport.write_eof()
        transport.resume_reading()
        # Not `close`: that would wait for ever for a client that reads nothing.
        self._loop.call_later(_LINGER_S, transport.abort)


class Server(web.Server):
    """Makes a `Protocol` for each connection."""

    def __init__(self, answer: Answer, refuse: Refuse, bounds: Bounds, log: Log | None = None) -> None:
        # The loop over the requests is the protocol's: aiohttp's handler is never called.
        super().__init__(cast(Any, answer))
        self._unflushed: list[Protocol] = []
        self._options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "answer": answer,
            "refuse": refuse,
            "log": log,
            "access_log": None,
            "bounds": bounds,
            "max_line_size": MAX_LINE_BYTES,
            "auto_decompress": False,
        }

    def __call__(self) -> web.RequestHandler:
        return Protocol(self, **self._options)

    def flush_soon(self, connection: Protocol) -> None:
        """Flush a connection at the end of this turn.

        So the answers of one turn go out one right after the other. A client of many connections on this
        machine is woken once for all of them, which costs as much as an answer itself.
        """
        if not self._unflushed:
            self._loop.call_soon(self._flush)
        self._unflushed.append(connection)

    def _flush(self) -> None:
        connections, self._unflushed = self._unflushed, []
        for connection in connections:
            connection.flush()

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


def _notice_silence(transport: asyncio.BaseTransport, within_s: float) -> None:
    """Have the kernel break a connection whose other end is gone without a word."""
    connected = transport.get_extra_info("socket")
    every_s = max(1, int(within_s / (_PROBES + 1)))
    with suppress(OSError):  # it may be gone already
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, every_s)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every_s)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(within_s * 1000))


def _malformed(error: BaseException) -> KvfsError:
    if isinstance(error, LineTooLong):
        return PayloadTooLarge("The request line or a header field is too long")
    return InvalidParameters("The request is not valid HTTP")
