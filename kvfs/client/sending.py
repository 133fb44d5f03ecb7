"""How an attempt becomes a request of httpcore's, and its response an `Answer`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, cast
from urllib.parse import urlsplit

import httpcore

from kvfs.client.call import BASE, Answer, Body, is_seekable
from kvfs.client.retries import Attempt
from kvfs.errors import InvalidParameters

_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is: scheme, host, port, and a path before the API's if a proxy has put one there.

    `headers` go with every request.
    """

    scheme: bytes
    host: bytes
    port: int | None
    prefix: str
    headers: list[tuple[bytes, bytes]]

    @classmethod
    def at(cls, url: str, token: str | None) -> Server:
        """The server of a URL; raises `InvalidParameters` for what is none."""
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("ascii")
            authorization = [] if token is None else [(b"Authorization", f"Bearer {token}".encode("ascii"))]
        except ValueError as exc:
            raise InvalidParameters(f"the URL or the token cannot be used: {exc}") from exc
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise InvalidParameters(f"a server's URL is http://host:port or https://host:port, not {url!r}")
        name = b"[%b]" % host if b":" in host else host
        headers = [(b"Host", name if port is None else b"%b:%d" % (name, port)), *authorization]
        return cls(parts.scheme.encode(), host, port, parts.path.rstrip("/"), headers)

    def ssl_context(self, given: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """What `https` is checked with: what is given, else the system's certificates."""
        return given if given is not None or self.scheme == b"http" else ssl.create_default_context()

    def request(self, method: str, attempt: Attempt, content: Content) -> httpcore.Request:
        """An attempt as httpcore takes it."""
        url = httpcore.URL(
            scheme=self.scheme, host=self.host, port=self.port, target=self.prefix + BASE + attempt.target
        )
        headers = [*attempt.headers, *content.headers]
        return httpcore.Request(
            method, url, headers=headers, content=content, extensions={"timeout": attempt.timeouts}
        )


class Content:
    """The body of a call, its chunks read anew each time it is sent; `headers` tell how long it is."""

    def __init__(self, body: Body | None) -> None:
        self._body: Body = b"" if body is None else body
        self._file: BinaryIO | None = None
        self._start = 0
        size: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        if isinstance(self._body, bytes):
            size = len(self._body)
        elif is_seekable(self._body):
            self._file = cast(BinaryIO, self._body)
            self._start = self._file.tell()
            size = self._file.seek(0, 2) - self._start
        if body is not None:
            chunked = (b"Transfer-Encoding", b"chunked")
            self.headers = [chunked if size is None else (b"Content-Length", b"%d" % size)]

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._body, bytes):
            return iter((self._body,))
        if self._file is not None:
            self._file.seek(self._start)
        read = getattr(self._body, "read", None)
        if read is not None:
            return iter(lambda: read(_CHUNK_BYTES), b"")
        return iter(cast(Iterable[bytes], self._body))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if isinstance(self._body, AsyncIterable):
            async for chunk in self._body:
                yield chunk
            return
        chunks = iter(self)
        # What comes from memory is there at once; a file's disk may have to be waited for.
        in_memory = isinstance(self._body, bytes)
        while chunk := next(chunks, b"") if in_memory else await asyncio.to_thread(next, chunks, b""):
            yield chunk


def answer(response: httpcore.Response, body: bytes) -> Answer:
    """What came back; of a header that is there twice the last one counts."""
    headers = {name.decode("ascii").lower(): text.decode("latin-1") for name, text in response.headers}
    return Answer(response.status, headers, body)
