"""One of several processes that share a port: what its parent gave it, and asks of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from socket import socket
from typing import Final

SERVES: Final = signal.SIGRTMIN
"""The signal by which a worker tells its parent that it serves."""

HEEDED: Final = frozenset({signal.SIGTERM, signal.SIGHUP})
"""What the parent tells a worker. It begins with these blocked, and `Worker.heed` takes what has come."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What the parent gave it.

    `number` stays the same when a worker is replaced; there are `count`. `lifeline` is a descriptor that ends
    when the parent does. In `folder` lie the workers' own sockets, by which they ask each other. `started` is
    when the server as a whole was, in monotonic seconds.
    """

    number: int
    count: int
    parent: int
    sockets: Sequence[socket]
    lifeline: int
    folder: str
    started: float

    def asked_to_end(self, loop: asyncio.AbstractEventLoop) -> asyncio.Event:
        """Is set when the parent asks for that, or is gone. A repetition means nothing: it would kill."""
        stop = asyncio.Event()

        def orphaned() -> None:
            loop.remove_reader(self.lifeline)
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_reader(self.lifeline, orphaned)
        return stop

    def heed(self) -> None:
        """From here on the parent's signals arrive; for when there are handlers for them."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEEDED)

    def serves(self) -> None:
        """Tell the parent, unless that is gone."""
        if os.getppid() == self.parent:
            os.kill(self.parent, SERVES)
