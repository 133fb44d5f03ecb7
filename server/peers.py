"""How the workers of a server ask each other: a request reaches one of them, and may mean all.

Each listens on a socket in a folder that is theirs alone. A question is a line, the answer is all that comes
until the connection ends. It is for what may be a little wrong, or late: who does not answer in time, because
it is busy or being replaced, is left out. What must be right is in the files.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from server.worker import Worker

_LOG = logging.getLogger("server.peers")

_ASK_S: Final = 2.0

Answers = Mapping[str, Callable[[], Awaitable[bytes]]]
"""What can be asked."""


class Peers:
    """The other workers of a server, if there are any. The event loop's own."""

    def __init__(self, worker: Worker | None) -> None:
        self._worker = worker
        self._server: asyncio.Server | None = None

    @property
    def number(self) -> int | None:
        """Which of them this is; None where it is the only one."""
        return None if self._worker is None else self._worker.number

    async def answer(self, answers: Answers) -> None:
        """Answer what the others ask, from now on."""
        if self._worker is None:
            return

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                question = (await reader.readline()).decode().rstrip()
                writer.write(await answers[question]())
                await writer.drain()
            except Exception:
                _LOG.exception("cannot answer another worker")
            finally:
                writer.close()

        path = _path(self._worker, self._worker.number)
        with suppress(FileNotFoundError):
            os.unlink(path)  # of the one that this one replaces
        self._server = await asyncio.start_unix_server(take, path)

    async def ask(self, question: str) -> dict[int, bytes]:
        """What the others answer, by their numbers."""
        worker = self._worker
        if worker is None:
            return {}
        others = [number for number in range(worker.count) if number != worker.number]
        found = await asyncio.gather(*(_asked(_path(worker, other), question) for other in others))
        return {other: answer for other, answer in zip(others, found, strict=True) if answer}

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()


async def _asked(path: str, question: str) -> bytes:
    """The answer; empty where there is none."""
    try:
        async with asyncio.timeout(_ASK_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(question.encode() + b"\n")
                return await reader.read()
            finally:
                writer.close()
    except OSError:  # TimeoutError is one
        return b""


def _path(worker: Worker, number: int) -> str:
    return os.path.join(worker.folder, str(number))
