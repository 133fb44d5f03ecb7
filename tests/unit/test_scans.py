"""When a recorder goes through its folder again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from kvfs.directory.debounce import Sight
from kvfs.directory.recorder import _Scans

INTERVAL_S = 0.001
LONG_S = 0.2


def stopped() -> None:
    """As a process is that does not run."""
    time.sleep(LONG_S)


def at_work() -> None:
    until = time.thread_time() + LONG_S
    while time.thread_time() < until:
        pass


class Folder:
    """Has no files; something happens whenever it is gone through."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self._happens = happens

    def sight(self, key: str) -> Sight:
        raise AssertionError("there is no file to look at")

    def keys_of(self, path: str) -> Iterator[str]:
        raise AssertionError("nothing was heard of")

    def differing(self) -> Iterator[str]:
        self._happens()
        return iter(())


def scanned(happens: Callable[[], None], *, blind: bool) -> float:
    """Scan a folder; in how many seconds the next scan is due."""
    scans = _Scans(Folder(happens), INTERVAL_S)
    scans.want()
    assert scans.some(blind=blind) == []
    due_at = scans.next_due(blind=blind)
    assert due_at is not None
    return due_at - time.monotonic()


def test_a_scan_during_which_the_process_was_stopped_does_not_put_off_the_next() -> None:
    assert scanned(stopped, blind=False) < 50 * LONG_S


def test_a_folder_that_is_much_work_is_scanned_seldom() -> None:
    assert scanned(at_work, blind=False) > 50 * LONG_S


def test_a_folder_without_events_that_takes_long_is_scanned_seldom() -> None:
    assert scanned(stopped, blind=True) > 10 * LONG_S
