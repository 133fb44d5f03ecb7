"""Tells which paths below a folder change, as soon as they do: a hint, never more.

A thread of its own sits in the watcher of `watchfiles`, which loses events without a word: when the kernel's
queue overflows, at the limit of watches, in folders that are made fast. So a *cookie*, a file beside the
folder that is touched and must raise an event, proves at the start, from time to time and after every stall
that events still arrive; where it does not, watching begins anew, and whoever listens is told that events
were lost.
"""

from __future__ import annotations

import enum
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from watchfiles import Change, watch

from kvfs.directory.names import is_ignored

_LOG: Final = logging.getLogger("kvfs.watcher")
# It tells of every batch at INFO.
logging.getLogger("watchfiles.main").setLevel(logging.WARNING)

_STEP_MS: Final = 25
_DEBOUNCE_MS: Final = 100
_TICK_MS: Final = 250
_STALL_S: Final = 1.0
_COOKIE_S: Final = 2.0
_CHECK_S: Final = 10.0
_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 60.0
_STEADY_S: Final = 60.0
_FLAT_MIN_S: Final = 1.0


_HINTS: Final = {
    "os error 24": "there are too many inotify instances: raise fs.inotify.max_user_instances",
    "watch limit": "raise fs.inotify.max_user_watches",
}


class WatcherState(enum.StrEnum):
    """What a watcher is at; `FAILED` until it begins anew, which it does by itself."""

    STARTING = "starting"
    WATCHING = "watching"
    FAILED = "failed"


class _Broken(Exception):
    """Watching must begin anew."""


class Watcher:
    """Watches a folder from here on, until `close`. Any thread may call it.

    `changed` gets paths relative to the folder ("" is the folder itself). `lost` says that there may have
    been events which were not seen; also at the start, when the first ones can be seen or it is known that
    there will be none. Both are called by the watcher's thread, must be quick, and must not raise.

    `cookies` is a folder for the cookie file, outside the watched one. `state`, `reason` (of a failure),
    `events` (paths reported) and `restarts` are for people, and written by the watcher's thread alone.
    """

    def __init__(
        self,
        folder: str,
        cookies: str,
        *,
        changed: Callable[[Collection[str]], None],
        lost: Callable[[], None],
    ) -> None:
        self.state = WatcherState.STARTING
        self.reason: str | None = None
        self.events = 0
        self.restarts = 0
        self._folder = os.path.abspath(folder)
        self._cookies = os.path.abspath(cookies)
        self._changed = changed
        self._lost = lost
        # Set to have the watch, or the pause between two, end.
        self._stop = threading.Event()
        self._check = threading.Event()
        self._closing = False
        # From here on the thread's alone.
        self._pause_s = _PAUSE_MIN_S
        self._warned = False
        self._ready_at: float | None = None
        self._cookie_at: float | None = None
        self._checked_at = 0.0
        self._thread = threading.Thread(target=self._work, name="kvfs-watcher", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Have it proven soon that events still arrive; if they do not, watching begins anew."""
        self._check.set()

    def restart(self) -> None:
        """Begin anew soon, also where that failed and is to be tried again later."""
        self._stop.set()

    def close(self) -> None:
        """Idempotent."""
        self._closing = True
        self._stop.set()
        self._thread.join()

    # --- the thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            self._stop.clear()
            if self._closing:
                return
            self._ready_at = None
            if self.state is WatcherState.WATCHING:
                self.state = WatcherState.STARTING
            try:
                self._watch()
            except BaseException as exc:  # a panic in Rust is no Exception
                self._fail(exc)
                self._stop.wait(self._pause_s)
            self.restarts += 1

    def _fail(self, exc: BaseException) -> None:
        steady = self._ready_at is not None and time.monotonic() - self._ready_at > _STEADY_S
        self._pause_s = _PAUSE_MIN_S if steady else min(2 * self._pause_s, _PAUSE_MAX_S)
        self.state, self.reason = WatcherState.FAILED, _told(exc)
        if steady or not self._warned:
            self._warned = True
            expected = isinstance(exc, OSError | RuntimeError | _Broken)
            _LOG.warning(
                "cannot watch %s: %s; it is scanned until that works again",
                self._folder,
                self.reason,
                exc_info=None if expected else exc,
            )
        self._lost()

    def _watch(self) -> None:
        """Watch until told to stop; raises where that does not work, or no longer."""
        os.makedirs(self._cookies, exist_ok=True)
        identity = _identity(self._folder)
        # A recursive watch follows symlinks to folders, out of this one and anywhere.
        flat = _links_to_folders(self._folder)
        paths = _folders(self._folder) if flat else [self._folder]
        self._cookie_at = None
        self._check.set()
        begun: float | None = None
        last: float | None = None
        outgrown = False
        for changes in watch(
            *paths,
            self._cookies,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            recursive=not flat,
            # Where it would be forced, scanning does better than polling.
            force_polling=False,
            ignore_permission_denied=True,
        ):
            now = time.monotonic()
            if begun is None:
                begun = now
            if last is not None and now - last > _STALL_S:
                # The process was stopped, or starved.
                self._cookie_at = None
                self._check.set()
                self._lost()
            last = now
            found, added = self._relative(changes)
            if found:
                self.events += len(found)
                self._changed(found)
            if "" in found and _identity(self._folder) != identity:
                raise _Broken("the folder was replaced")
            outgrown = outgrown or self._grown(added, flat=flat)
            if outgrown and (not flat or now - begun > _FLAT_MIN_S):
                return
            self._tend_cookie(now, identity)

    def _relative(self, changes: Collection[tuple[Change, str]]) -> tuple[set[str], list[str]]:
        """The paths that changed below the folder, and those of them that are new. Takes note of a cookie."""
        found: set[str] = set()
        added: list[str] = []
        inside = self._folder.rstrip("/") + "/"
        for change, path in changes:
            if path.startswith(inside):
                found.add(path[len(inside) :])
                if change is Change.added:
                    added.append(path)
            elif path == self._folder:
                found.add("")
            elif path.startswith(self._cookies):
                self._cookie_seen()
        return found, added

    def _grown(self, added: list[str], *, flat: bool) -> bool:
        """Whether there are new folders that the present watch does not see, or sees too much of."""
        return any(flat or _links_to_folders(path) for path in added if _is_folder(path))

    # --- the cookie ------------------------------------------------------------------------------------

    def _tend_cookie(self, now: float, identity: tuple[int, int]) -> None:
        if self._cookie_at is not None:
            if now - self._cookie_at > _COOKIE_S:
                raise _Broken("events do not arrive")
            return
        if not self._check.is_set() and now - self._checked_at < _CHECK_S:
            return
        if _identity(self._folder) != identity:
            raise _Broken("the folder was replaced")
        self._check.clear()
        self._checked_at = self._cookie_at = now
        _touch(os.path.join(self._cookies, "cookie"))

    def _cookie_seen(self) -> None:
        if self._cookie_at is None:
            return
        self._cookie_at = None
        if self._ready_at is None:
            self._ready_at = time.monotonic()
            self.state, self.reason = WatcherState.WATCHING, None
            self._lost()


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _touch(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def _links_to_folders(top: str) -> bool:
    """Whether a symlink that leads to a folder lies anywhere below this one."""
    return any(
        entry.is_symlink() and _leads_to_folder(entry) for _, entries in _walk(top) for entry in entries
    )


def _folders(top: str) -> list[str]:
    """A folder and all real folders below it that can hold keys."""
    return [folder for folder, _ in _walk(top, holds_keys=True)]


def _walk(top: str, *, holds_keys: bool = False) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """A folder and all real folders below it, each with what lies in it."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError:
            # Vanished, or nobody may look into it.
            entries = []
        yield folder, entries
        waiting += (
            entry.path
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and not (holds_keys and _holds_no_keys(entry.name))
        )


def _holds_no_keys(name: str) -> bool:
    return is_ignored(name) or any("\udc80" <= char <= "\udcff" for char in name)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _told(error: BaseException) -> str:
    """What went wrong, and what can be done about it."""
    text = str(error) or type(error).__name__
    hint = next((hint for mark, hint in _HINTS.items() if mark in text), None)
    return text if hint is None else f"{text}; {hint}"
