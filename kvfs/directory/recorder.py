"""Has what is done to a folder behind the server's back recorded promptly, without anybody asking for it.

The watcher tells which paths changed; their keys are looked at until they are quiet (`debounce`), and then
handed to the writer, many at once. All of it is a hint: events get lost, so the whole folder is gone through
at the start, whenever events may have been lost, and from time to time; more often where there can be none.
What kvfs itself writes is told by its signature: the index knows it.
"""

from __future__ import annotations

import heapq
import logging
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Final, Protocol

from kvfs.directory.debounce import Debounce, Sight, Verdict
from kvfs.directory.mounts import is_shared
from kvfs.directory.watcher import Watcher, WatcherState
from kvfs.errors import KvfsError
from kvfs.model import NS
from kvfs.pending import Pending
from kvfs.store import Settle

_LOG: Final = logging.getLogger("kvfs.recorder")

_PENDING_MAX: Final = 50_000
_LOOKS_AT_ONCE: Final = 1000
_BATCH_MAX: Final = 400
_RETRY_MIN_S: Final = 0.5
_RETRY_MAX_S: Final = 30.0

# The watch on a fresh folder is set late; what was put there before that raises no event.
_REVISITS_S: Final = (0.1, 1.0)

_SLICE: Final = 1000
_SCAN_AHEAD: Final = 10_000
_BLIND_SCAN_S: Final = 5.0
# At most this part of the time goes into scans: with events, without, and when events were lost.
_SCAN_SHARE: Final = 0.01
_BLIND_SCAN_SHARE: Final = 0.05
_WANTED_SCAN_SHARE: Final = 0.3
_JITTER: Final = 0.1

# Making, writing and closing a file are events each, and what belongs to them is not told apart.
_EVENTS_A_FILE: Final = 8
_QUEUE_LENGTH: Final = 16_384

_LATE_NS: Final = 2 * NS
_DEAF_RESTART_S: Final = 300.0


class Looker(Protocol):
    """What a recorder asks of its store. Any thread may call it, and it changes nothing."""

    def sight(self, key: str) -> Sight:
        """A key's file as it is now, and as it is known. May raise `KvfsError` or OSError."""

    def keys_of(self, path: str) -> Iterator[str]:
        """All keys that a changed path may concern; those below it if it is or was a folder."""

    def differing(self) -> Iterator[str]:
        """Every key whose file is not what is known of it."""


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """How a recorder fares.

    `watcher` is "starting", "watching", "failed" (with a `reason`), or "scanning" where there can be no
    events: on a network file system, say (`network`). `last_scan_s` is a duration, `last_scan_at_s` a Unix
    time; `recorded` counts keys that the writer looked at.
    """

    watcher: str
    reason: str | None
    events: int
    restarts: int
    scans: int
    last_scan_s: float | None
    last_scan_at_s: float | None
    pending: int
    recorded: int
    network: bool


class Recorder:
    """Records outside edits of a folder from here on, until `close`.

    Its thread calls `look` and `settle`, without a lock. `_wake` guards what others hand to that thread:
    `_paths`, `_flooded`, `_lost`, `_answered` and `_closing`. All else is the thread's alone.
    """

    def __init__(
        self,
        look: Looker,
        settle: Settle,
        *,
        folder: str,
        cookies: str,
        scan_interval_s: float,
        watch: bool = True,
    ) -> None:
        self._look = look
        self._folder = folder
        self._wake = threading.Condition()
        self._paths: set[str] = set()
        self._flooded = self._lost = self._answered = self._closing = False
        self._changes = Debounce()
        self._outbox = _Outbox(settle, self._on_answered)
        self._scans = _Scans(look, scan_interval_s)
        # (when, path): folders whose keys are to be noted again.
        self._revisits: list[tuple[float, str]] = []
        self._pause_s = 0.0
        self._hearing_since_ns = 0
        self._deaf_at: float | None = None
        self._network = is_shared(folder)
        self._watcher: Watcher | None = None
        if watch and not self._network:
            # It asks for the first scan, as soon as it sees events, or cannot.
            self._watcher = Watcher(folder, cookies, changed=self._on_changed, lost=self._on_lost)
        else:
            self._lost = True
        self._thread = threading.Thread(target=self._work, name="kvfs-recorder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Idempotent. What was not recorded by then, the next scan finds."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._watcher is not None:
            self._watcher.close()
        self._thread.join()

    def status(self) -> RecorderStatus:
        """How it fares; any thread may ask."""
        watcher, scans = self._watcher, self._scans
        return RecorderStatus(
            watcher="scanning" if watcher is None else watcher.state.value,
            reason=None if watcher is None else watcher.reason,
            events=0 if watcher is None else watcher.events,
            restarts=0 if watcher is None else watcher.restarts,
            scans=scans.count,
            last_scan_s=scans.last_s,
            last_scan_at_s=scans.last_at_s,
            pending=len(self._changes) + len(self._outbox),
            recorded=self._outbox.settled,
            network=self._network,
        )

    # --- what others hand over --------------------------------------------------------------------------

    def _on_changed(self, paths: Collection[str]) -> None:
        with self._wake:
            self._paths.update(paths)
            if len(paths) >= _queue_length() // _EVENTS_A_FILE:
                # The kernel may have had no room for what came after, and drops that in silence.
                self._lost = True
            if len(self._paths) > _PENDING_MAX:
                self._paths.clear()
                self._flooded = True
            self._wake.notify_all()

    def _on_lost(self) -> None:
        with self._wake:
            self._lost = True
            self._wake.notify_all()

    def _on_answered(self) -> None:
        with self._wake:
            self._answered = True
            self._wake.notify_all()

    # --- the thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(self._called, self._idle_s())
                if self._closing:
                    return
                paths, self._paths = self._paths, set()
                flooded, lost = self._flooded, self._lost
                self._flooded = self._lost = self._answered = False
            try:
                self._turn(paths, flooded=flooded, lost=lost)
                self._pause_s = 0.0
            except Exception as exc:
                self._rest(exc)

    def _called(self) -> bool:
        return self._closing or bool(self._paths) or self._flooded or self._lost or self._answered

    def _idle_s(self) -> float | None:
        """For how long there is nothing to do, if nobody calls."""
        due = [self._changes.next_due(), self._outbox.next_due()]
        if self._revisits:
            due.append(self._revisits[0][0])
        if self._may_scan():
            due.append(self._scans.next_due(blind=self._blind))
        times = [at for at in due if at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _turn(self, paths: set[str], *, flooded: bool, lost: bool) -> None:
        now = time.monotonic()
        if lost:
            self._hearing_since_ns = time.time_ns()
            self._scans.want()
        if flooded:
            self._forget()
        for path in paths:
            if self._closing:
                return
            self._visit(path, now)
        while self._revisits and self._revisits[0][0] <= now:
            self._note_keys(heapq.heappop(self._revisits)[1], now)
        for key in self._changes.due(now, _LOOKS_AT_ONCE):
            self._consider(key, now)
        self._outbox.tend(now)
        if self._may_scan():
            for key in self._scans.some(blind=self._blind):
                if key not in self._outbox:
                    # What a scan finds that was called for says nothing about the watcher.
                    self._changes.note(key, now, announced=not self._scans.routine)

    def _rest(self, exc: Exception) -> None:
        """After what should not happen: a pause, longer each time, and then begin anew with a scan."""
        if not self._pause_s:
            expected = isinstance(exc, KvfsError | OSError)
            _LOG.warning("cannot look at %s: %s", self._folder, exc, exc_info=None if expected else exc)
        self._pause_s = min(max(2 * self._pause_s, _RETRY_MIN_S), _RETRY_MAX_S)
        self._forget()
        with self._wake:
            self._wake.wait_for(lambda: self._closing, self._pause_s)

    def _forget(self) -> None:
        """Forget what is pending; a scan will find it."""
        self._changes.clear()
        self._outbox.clear()
        self._revisits.clear()
        self._scans.want()

    # --- what changed -----------------------------------------------------------------------------------

    def _visit(self, path: str, now: float) -> None:
        if not path:
            # The folder itself: all keys, or its mode alone.
            self._scans.want()
            return
        self._note_keys(path, now)
        if _is_folder(os.path.join(self._folder, path)):
            for after_s in _REVISITS_S:
                heapq.heappush(self._revisits, (now + after_s, path))

    def _note_keys(self, path: str, now: float) -> None:
        try:
            for key in self._look.keys_of(path):
                self._changes.note(key, now, announced=True)
                if len(self._changes) + len(self._outbox) > _PENDING_MAX:
                    self._forget()
                    return
        except (KvfsError, OSError):
            # Nobody may look into a folder, say: what a scan can find, it finds.
            return

    def _consider(self, key: str, now: float) -> None:
        try:
            sight = self._look.sight(key)
        except (KvfsError, OSError):
            # If that passes, a scan finds the key again.
            self._changes.drop(key)
            return
        verdict, announced = self._changes.decide(key, sight, now)
        if verdict is Verdict.SETTLE:
            self._outbox.add(key)
            if not announced and self._unheard(sight):
                self._mend_hearing(now)

    # --- the watcher ------------------------------------------------------------------------------------

    @property
    def _blind(self) -> bool:
        return self._watcher is None or self._watcher.state is WatcherState.FAILED

    def _may_scan(self) -> bool:
        return len(self._changes) + len(self._outbox) < _SCAN_AHEAD

    def _unheard(self, sight: Sight) -> bool:
        """Whether a change that a scan came upon should have raised an event long ago."""
        if self._watcher is None or self._watcher.state is not WatcherState.WATCHING:
            return False
        if sight.signature is None:
            return True
        if sight.has_row and sight.known is None:
            return False
        return self._hearing_since_ns < sight.signature.ctime_ns < time.time_ns() - _LATE_NS

    def _mend_hearing(self, now: float) -> None:
        """The watcher misses events, in folders that came when there were no more watches, say."""
        if self._watcher is not None and (self._deaf_at is None or now - self._deaf_at > _DEAF_RESTART_S):
            self._deaf_at = now
            self._watcher.restart()


class _Outbox:
    """Keys on their way to the writer, in one batch at a time. For the recorder's thread.

    Batches that fail are tried again later and get smaller, so that one key does not keep others back.
    """

    def __init__(self, settle: Settle, answered: Callable[[], None]) -> None:
        self.settled = 0
        self._settle = settle
        self._answered = answered
        self._waiting: dict[str, None] = {}
        self._sent: dict[str, None] = {}
        self._answer: Pending[bool] | None = None
        self._size = _BATCH_MAX
        self._retry_s = 0.0
        self._due_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def __contains__(self, key: str) -> bool:
        return key in self._waiting or key in self._sent

    def add(self, key: str) -> None:
        self._waiting[key] = None

    def clear(self) -> None:
        """Forget what is not sent yet."""
        self._waiting.clear()

    def next_due(self) -> float | None:
        """When to `tend`; None: when there is something new, or an answer."""
        return self._due_at if self._waiting and self._answer is None else None

    def tend(self, now: float) -> None:
        """Take an answer, send a batch."""
        if self._answer is not None:
            if not self._answer.done():
                return
            self._take(self._answer, now)
        if self._waiting and now >= self._due_at:
            self._send(now)

    def _send(self, now: float) -> None:
        self._sent = dict.fromkeys(islice(self._waiting, self._size))
        for key in self._sent:
            del self._waiting[key]
        try:
            answer = self._settle([*self._sent])
        except KvfsError as exc:
            self._retry(exc, now)
            return
        self._answer = answer
        answer.add_done_callback(lambda _: self._answered())

    def _take(self, answer: Pending[bool], now: float) -> None:
        self._answer = None
        try:
            complete = answer.result()
        except (Exception, CancelledError) as exc:
            self._retry(exc, now)
            return
        self._retry_s = 0.0
        self._size = min(2 * self._size, _BATCH_MAX)
        if complete:
            self.settled += len(self._sent)
        else:
            # What was done already is quickly done again.
            self._waiting.update(self._sent)
        self._sent = {}

    def _retry(self, exc: BaseException, now: float) -> None:
        if not self._retry_s:
            _LOG.warning("cannot record outside edits yet: %s", exc)
        self._retry_s = min(max(2 * self._retry_s, _RETRY_MIN_S), _RETRY_MAX_S)
        self._due_at = now + self._retry_s
        self._size = max(self._size // 2, 1)
        self._waiting.update(self._sent)
        self._sent = {}


class _Scans:
    """When to go through the whole folder, and what that finds. For the recorder's thread."""

    def __init__(self, look: Looker, interval_s: float) -> None:
        self.count = 0
        self.last_s: float | None = None
        self.last_at_s: float | None = None
        self.routine = False
        self._look = look
        self._interval_s = interval_s
        self._chance = random.Random()
        self._stretch = 1.0
        self._wanted = False
        self._ended_at: float | None = None
        self._found: Iterator[str] | None = None
        self._spent_s = 0.0
        # What the last scan cost, and what the one under way has cost, of the processor's time: the process
        # may be stopped meanwhile, or starved, and that must not put off the next scan.
        self._cost_s = self._worked_s = 0.0

    def want(self) -> None:
        """Scan soon; if a scan is under way, once more after it."""
        self._wanted = True

    def next_due(self, *, blind: bool) -> float | None:
        """When to call `some`; None: not before a scan is wanted."""
        if self._found is not None:
            return 0.0
        if self._ended_at is None:
            return 0.0 if self._wanted else None
        # Where there are no events, somebody else's machine works for a scan.
        spent_s = (self.last_s or 0.0) if blind else self._cost_s
        if self._wanted:
            return self._ended_at + spent_s / _WANTED_SCAN_SHARE
        if blind:
            pause_s = max(min(self._interval_s, _BLIND_SCAN_S), spent_s / _BLIND_SCAN_SHARE)
        else:
            pause_s = max(self._interval_s, spent_s / _SCAN_SHARE)
        return self._ended_at + pause_s * self._stretch

    def some(self, *, blind: bool) -> list[str]:
        """Some keys of the scan that is under way, or due."""
        due_at, began, began_work = self.next_due(blind=blind), time.monotonic(), time.thread_time()
        if due_at is None or began < due_at:
            return []
        if self._found is None:
            self.routine, self._wanted = not self._wanted, False
            self._found, self._spent_s, self._worked_s = self._look.differing(), 0.0, 0.0
        try:
            keys = list(islice(self._found, _SLICE))
        except BaseException:
            self._found, self._ended_at = None, time.monotonic()
            raise
        now = time.monotonic()
        self._spent_s += now - began
        self._worked_s += time.thread_time() - began_work
        if len(keys) < _SLICE:
            self.count += 1
            self.last_s, self.last_at_s, self._cost_s = self._spent_s, time.time(), self._worked_s
            self._found, self._ended_at = None, now
            self._stretch = self._chance.uniform(1.0, 1.0 + _JITTER)
        return keys


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


@cache
def _queue_length() -> int:
    """How many events the kernel keeps until they are read."""
    try:
        with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return _QUEUE_LENGTH
