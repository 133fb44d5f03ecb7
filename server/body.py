"""Request bodies: read with their limits checked as they come, large ones into a file."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, cast

import aiofiles
import orjson
from aiohttp import HttpVersion11
from aiohttp.web_protocol import RequestPayloadError
from multidict import istr

from kvfs.errors import DeadlineExceeded, InvalidParameters, PayloadTooLarge, from_os_error
from kvfs.model import INLINE_MAX_BYTES, FileValue
from server.request import Request

CONTENT_ENCODING: Final = istr("Content-Encoding")
CONTENT_LENGTH: Final = istr("Content-Length")
EXPECT: Final = istr("Expect")
TRANSFER_ENCODING: Final = istr("Transfer-Encoding")

INVALID_JSON: Final = "Invalid JSON body"

_CHUNKED: Final = "chunked"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Body:
    """The body of a request, not yet read. `deadline` (monotonic seconds) bounds the reading."""

    __slots__ = ("_begun", "_deadline", "_limit", "_request", "declared")

    def __init__(self, request: Request, *, limit: int, deadline: float) -> None:
        """Raises `PayloadTooLarge` for a body declared longer than `limit`, before any of it is read."""
        self._request = request
        self._limit = limit
        self._deadline = deadline
        self._begun: list[bytes] = []
        headers = request.headers
        if CONTENT_ENCODING in headers and headers[CONTENT_ENCODING].strip().lower() != "identity":
            raise InvalidParameters("Content-Encoding is not supported: send the body as it is")
        declared = headers.get(CONTENT_LENGTH)
        if declared is None and headers.get(TRANSFER_ENCODING, _CHUNKED).strip().lower() != _CHUNKED:
            raise InvalidParameters("Transfer-Encoding is not supported, but for chunked")
        self.declared = None if declared is None else int(declared)
        """The Content-Length, None where there is none."""
        if self.declared is not None and self.declared > limit:
            raise self._too_large()

    def arrived(self) -> bytes | None:
        """All of it, if it is small and came with the headers."""
        content = self._request.body
        if self.declared is None or self.declared > INLINE_MAX_BYTES or not content.is_eof():
            return None
        return content.read_nowait()

    async def read(self) -> bytes:
        """All of it, in memory."""
        arrived = self.arrived()
        if arrived is not None:
            return arrived
        parts: list[bytes] = []
        await self._collect(parts, self._limit)
        return b"".join(parts)

    async def small(self) -> bytes | None:
        """All of it, if it is small; None where `spill` must be called. One declared large is not begun."""
        if self.declared is not None and self.declared > INLINE_MAX_BYTES:
            return None
        return b"".join(self._begun) if await self._collect(self._begun, INLINE_MAX_BYTES) else None

    async def spill(self, file: FileValue) -> None:
        """Write what `small` has read, and all that follows, to a file."""
        self._invite()
        try:
            async with aiofiles.open(file.fd, "wb", closefd=False) as writing:
                chunk = b"".join(self._begun) or await self._next()
                self._begun.clear()
                while chunk:
                    if file.size + len(chunk) > self._limit:
                        raise self._too_large()
                    await writing.write(chunk)
                    file.size += len(chunk)
                    chunk = await self._next()
        except ConnectionError:
            raise
        except OSError as exc:
            raise from_os_error(exc, "keep the upload") from exc

    async def next_piece(self, patience_s: float) -> bytes:
        """What comes next, within so many seconds; empty at the end. For a body of which nothing is kept."""
        self._invite()
        self._deadline = time.monotonic() + patience_s
        return await self._next()

    # --- parts --------------------------------------------------------------------------------------------

    async def _collect(self, parts: list[bytes], most: int) -> bool:
        """Read on until the body ends, or until there is more than `most`; whether it has ended."""
        self._invite()
        size = 0
        while chunk := await self._next():
            parts.append(chunk)
            size += len(chunk)
            if size > self._limit:
                raise self._too_large()
            if size > most:
                return False
        return True

    async def _next(self) -> bytes:
        """The next piece of the body; empty at its end."""
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                return await self._request.body.readany()
        except TimeoutError as exc:
            raise DeadlineExceeded from exc
        except RequestPayloadError as exc:
            raise InvalidParameters("The request's body is not encoded as HTTP has it") from exc
        except ConnectionError:
            raise
        except OSError as exc:
            # Whatever has befallen the connection, there is nobody left to tell.
            raise ConnectionResetError("the client has gone") from exc

    def _invite(self) -> None:
        """Tell a client that waits for permission to send the body to go on."""
        request = self._request
        expected = request.headers.get(EXPECT)
        if expected is None or expected.lower() != "100-continue" or request.version < HttpVersion11:
            return
        if not request.body.total_bytes:
            request.transport.write(_CONTINUE)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The request's body is longer than {self._limit} bytes")


def json_object(body: bytes) -> dict[str, Any]:
    """A body that must be a JSON object; raises `InvalidParameters`."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidParameters(INVALID_JSON) from exc
    if not isinstance(parsed, dict):
        raise InvalidParameters(f"{INVALID_JSON}: it must be an object")
    return cast(dict[str, Any], parsed)
