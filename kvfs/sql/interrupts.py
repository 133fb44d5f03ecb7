"""Ends statements that take too long, or more temporary space than there is for all.

Only another thread can do it promptly: a handler that SQLite calls every so many steps would wait for the
GIL each time, and slow down what it watches.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import apsw

from kvfs.errors import DeadlineExceeded, KvfsError, Overloaded

_SWEEP_S: Final = 0.05
_LINGER_SWEEPS: Final = 20
_LONG_S: Final = 0.5
_TEMP_FOLDERS: Final = ("/var/tmp", "/usr/tmp", "/tmp")
_TEMP_VARIABLES: Final = ("SQLITE_TMPDIR", "TMPDIR")
_TEMP_NAME: Final = re.compile(r"(.+)/(?:#[0-9]+|etilqs_\w+) \(deleted\)")


class Running:
    """What a connection runs now. `error` is why it was interrupted, if it was."""

    __slots__ = ("began", "connection", "deadline", "error")

    def __init__(self, connection: apsw.Connection, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.began = time.monotonic()
        self.error: KvfsError | None = None

    def interrupt(self, error: KvfsError) -> None:
        """End the statement that runs, and each that follows on it until the connection is let go of."""
        self.error = self.error or error
        self.connection.interrupt()


class Interrupter:
    """Interrupts what runs past its deadline; of what runs long, the oldest first, when temporary files
    together are larger than `max_temp_bytes`. Any thread may use it; `close` is idempotent.

    A thread of its own, begun when it is needed, looks at all that runs twenty times a second.
    """

    def __init__(self, *, max_temp_bytes: int) -> None:
        self._max_temp_bytes = max_temp_bytes
        # Guards all else, and that nothing is interrupted that is let go of.
        self._lock = threading.Lock()
        self._running: set[Running] = set()
        self._thread: threading.Thread | None = None
        self._work = threading.Event()
        self._ending = False
        self._closed = threading.Event()

    @contextmanager
    def running(self, connection: apsw.Connection, deadline: float) -> Iterator[Running]:
        """While this is open, what the connection runs is interrupted when it must end."""
        running = Running(connection, deadline)
        with self._lock:
            self._running.add(running)
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._watch, name="kvfs-interrupts", daemon=True)
                self._thread.start()
        if not self._work.is_set():
            self._work.set()
        try:
            yield running
        finally:
            with self._lock:
                self._running.discard(running)

    def end_all(self) -> None:
        """Interrupt, with `DeadlineExceeded`, what runs and what would run from now on."""
        self._ending = True

    def close(self) -> None:
        """Interrupt nothing more."""
        with self._lock:
            self._closed.set()
            thread, self._thread = self._thread, None
        self._work.set()
        if thread is not None:
            thread.join()

    # --- the thread ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        idle = 0
        while not self._closed.is_set():
            self._work.wait()
            self._closed.wait(_SWEEP_S)
            self._sweep()
            idle = 0 if self._running else idle + 1
            if idle == _LINGER_SWEEPS:
                self._work.clear()
                if self._running or self._closed.is_set():
                    self._work.set()

    def _sweep(self) -> None:
        now = time.monotonic()
        with self._lock:
            for running in self._running:
                if running.error is not None:
                    running.connection.interrupt()
                elif now > running.deadline or self._ending:
                    running.interrupt(DeadlineExceeded())
            lasting = [each for each in self._running if each.error is None and now - each.began > _LONG_S]
            if lasting and _temp_bytes() > self._max_temp_bytes:
                oldest = min(lasting, key=lambda each: each.began)
                oldest.interrupt(
                    Overloaded("The query needs more temporary space than there is", retry_after_s=1)
                )


def _temp_bytes() -> int:
    """How large this process's temporary files are where SQLite has its own. They have descriptors alone."""
    folders = {*_TEMP_FOLDERS, *(os.environ.get(name) for name in _TEMP_VARIABLES)}
    size = 0
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                match = _TEMP_NAME.fullmatch(os.readlink(f"/proc/self/fd/{name}"))
                if match is not None and match[1] in folders:
                    size += os.stat(f"/proc/self/fd/{name}").st_size
    return size
