"""A request, as the parser gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import HttpVersion, HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

if TYPE_CHECKING:
    import asyncio

    from server.protocol import Protocol

Headers = CIMultiDictProxy[str]

_NO_HEADERS: Headers = CIMultiDictProxy(CIMultiDict())


class Request:
    """One request of a connection: its parts, as plain attributes.

    `target` is what stood in the request line, undecoded; `body` is read as it comes.
    """

    __slots__ = ("body", "headers", "keep_alive", "method", "protocol", "target", "version")

    method: str
    target: str
    version: HttpVersion
    headers: Headers
    keep_alive: bool

    def __init__(self, message: RawRequestMessage | None, body: StreamReader, protocol: Protocol) -> None:
        """Without a `message` it is what could not be parsed."""
        self.protocol = protocol
        self.body = body
        if message is None:
            self.method, self.target, self.version = "UNKNOWN", "/", HttpVersion11
            self.headers, self.keep_alive, self.body = _NO_HEADERS, False, EMPTY_PAYLOAD
            return
        self.method = message.method
        self.target = message.path
        self.version = message.version
        self.headers = message.headers
        self.keep_alive = not message.should_close

    @property
    def transport(self) -> asyncio.Transport:
        """The open connection, for writing at once; raises as `check_connected`."""
        transport = self.check_connected()
        self.protocol.flush()
        return transport

    def check_connected(self) -> asyncio.Transport:
        """Raises `ConnectionResetError` where the connection is not open any more."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        return transport

    @property
    def remote(self) -> str:
        """The client's address."""
        peer = self.protocol.peername
        return str(peer[0] if isinstance(peer, tuple) else peer)

    def _cancel(self, error: BaseException) -> None:
        """For aiohttp, which has its requests told so that their connection is lost."""
        self.body.set_exception(error)
