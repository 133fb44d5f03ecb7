"""Several processes that share a port, and their parent, which does nothing but look after them.

Workers are forked, before the parent has a thread or a loop, so that one that died is replaced at once. Each
listens on a socket of its own for the same address, and the kernel deals new connections out to them; the
parent holds all these sockets, so that what waits in the backlog of a dead worker is answered by the next.

The parent learns what happens by signals alone, which it takes one by one (`sigwaitinfo`): to end, to read
tokens again, that a worker serves, that one has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from kvfs.paths import Paths
from server import listening
from server.app import Settings, prepare
from server.worker import HEEDED, SERVES, Worker

_LOG = logging.getLogger("server.supervising")

_TAKEN: Final = HEEDED | {signal.SIGINT, signal.SIGCHLD, SERVES}
# As long as a worker has by itself, and a moment.
_END_S: Final = 9.5
# So many that die within so long are no accident: to begin anew does not help.
_DEATHS_MOST: Final = 10
_DEATHS_WITHIN_S: Final = 10.0
# Before one is replaced that died before it served.
_PAUSE_S: Final = 0.5
# How long to wait for a signal where nothing is due.
_IDLE_S: Final = 60.0

FAILED: Final = 1
INTERRUPTED: Final = 130

Work = Callable[[Worker], int]
"""What a worker does, to its end; its exit code."""


def supervise(settings: Settings, count: int, work: Work, announce: Callable[[str], None]) -> int:
    """Have `count` workers serve until SIGTERM or SIGINT; the exit code.

    Raises `OSError` where they cannot begin. A second signal ends all at once.
    """
    prepare(settings.data_dir)
    sockets = listening.bind(settings.host, settings.port, count)
    addresses = [each.getsockname() for each in sockets[0]]
    data_dir = Paths(settings.data_dir).data_dir

    def begun() -> None:
        if not settings.tokens:
            listening.warn_of_strangers(addresses)
        announce(listening.announcement(addresses, data_dir))

    with tempfile.TemporaryDirectory(prefix="kvfs-") as folder:
        return _Supervisor(sockets, work, begun, folder, reloads=settings.tokens.reloads).run()


@dataclass(slots=True)
class _Child:
    """A worker's process."""

    number: int
    pid: int
    serves: bool = False


class _Supervisor:
    """Starts workers, replaces those that die, and ends them."""

    def __init__(
        self,
        sockets: list[listening.Sockets],
        work: Work,
        begun: Callable[[], None],
        folder: str,
        *,
        reloads: bool,
    ) -> None:
        self._sockets = sockets
        self._work = work
        self._begun = begun
        self._folder = folder
        self._reloads = reloads
        self._pid = os.getpid()
        self._started = time.monotonic()
        self._lifeline, self._held = os.pipe()
        self._children: dict[int, _Child] = {}
        # (when, number): who is to be started.
        self._due: list[tuple[float, int]] = []
        self._deaths: deque[float] = deque(maxlen=_DEATHS_MOST)
        self._announced = False
        self._code = 0
        # When those that have not ended are killed; None while they are to serve.
        self._end_at: float | None = None

    def run(self) -> int:
        """Until all have ended; the exit code."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
        try:
            # The others follow when the first serves: what keeps all from beginning is told once.
            self._start(0)
            while self._children or self._due:
                self._take(signal.sigtimedwait(_TAKEN, self._idle_s()))
            return self._code
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # --- what happens -------------------------------------------------------------------------------------

    def _take(self, told: signal.struct_siginfo | None) -> None:
        number = None if told is None else told.si_signo
        if told is not None and number == SERVES:
            self._on_serving(told.si_pid)
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._on_asked_to_end()
        elif number == signal.SIGHUP:
            self._on_hangup()
        self._reap()
        self._tend()

    def _on_serving(self, pid: int) -> None:
        child = self._children.get(pid)
        if child is None:
            return
        child.serves = True
        if self._announced or self._ending:
            return
        if len(self._children) < len(self._sockets):
            for other in range(1, len(self._sockets)):
                self._start(other)
        if all(each.serves for each in self._children.values()):
            self._announced = True
            self._begun()

    def _on_asked_to_end(self) -> None:
        if self._ending:
            # Everything acknowledged is durable, so this loses nothing.
            self._code = INTERRUPTED
            self._kill(signal.SIGKILL)
        else:
            self._end()

    def _on_hangup(self) -> None:
        if self._reloads:
            self._kill(signal.SIGHUP)
        elif not self._ending:
            self._end()

    def _reap(self) -> None:
        """Take note of all that have ended: one signal may stand for several."""
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._on_death(child, os.waitstatus_to_exitcode(status))

    def _on_death(self, child: _Child, code: int) -> None:
        if self._ending:
            if code:
                self._code = self._code or FAILED
            return
        if not self._announced:
            # What kept it from beginning, it has told itself.
            self._fail()
            return
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) == _DEATHS_MOST and now - self._deaths[0] < _DEATHS_WITHIN_S:
            _LOG.error("workers die again and again, the last by %s: the server ends", _cause(code))
            self._fail()
            return
        _LOG.warning(
            "worker %d (process %d) was ended by %s: another follows", child.number, child.pid, _cause(code)
        )
        self._due.append((now + (0.0 if child.serves else _PAUSE_S), child.number))

    # --- what is done ------------------------------------------------------------------------------------

    @property
    def _ending(self) -> bool:
        return self._end_at is not None

    def _fail(self) -> None:
        self._code = FAILED
        self._end()

    def _end(self) -> None:
        """Take no more connections, and ask all to end."""
        self._end_at = time.monotonic() + _END_S
        self._due.clear()
        for own in self._sockets:
            for each in own:
                each.close()
        self._kill(signal.SIGTERM)

    def _kill(self, number: signal.Signals) -> None:
        for pid in self._children:
            os.kill(pid, number)

    def _tend(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self._end_at is not None and now >= self._end_at and self._children:
            _LOG.warning("%d workers did not end in time, and are killed", len(self._children))
            self._end_at = now + _END_S
            self._kill(signal.SIGKILL)
        due = [number for at, number in self._due if at <= now]
        self._due = [each for each in self._due if each[0] > now]
        for number in due:
            self._start(number)

    def _idle_s(self) -> float:
        times = [at for at, _ in self._due]
        if self._end_at is not None:
            times.append(self._end_at)
        return max(0.0, min(times) - time.monotonic()) if times else _IDLE_S

    def _start(self, number: int) -> None:
        pid = os.fork()
        if not pid:
            self._become(number)
        self._children[pid] = _Child(number, pid)

    def _become(self, number: int) -> NoReturn:
        """The worker's whole life."""
        code = FAILED
        try:
            # Ctrl-C reaches all processes of a terminal: it is the parent who says what it means.
            for ignored in (signal.SIGINT, signal.SIGHUP):
                signal.signal(ignored, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TAKEN - HEEDED)
            os.close(self._held)
            for other, own in enumerate(self._sockets):
                for each in own if other != number else ():
                    each.close()
            worker = Worker(
                number=number,
                count=len(self._sockets),
                parent=self._pid,
                sockets=self._sockets[number],
                lifeline=self._lifeline,
                folder=self._folder,
                started=self._started,
            )
            code = self._work(worker)
        except Exception:
            _LOG.exception("a worker failed")
        finally:
            # Nothing of the parent's, which is to be done at its end, is a worker's to do.
            os._exit(code)


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
