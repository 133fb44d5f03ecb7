"""When a recorder goes through its folder again."""

from __future__ import annotations

import time
from collections.abc import Iterator

from kvfs.directory.debounce import Sight
from kvfs.directory.recorder import _Scans
from tests.polling import eventually

INTERVAL_S = 0.001
STALL_S = 0.3


class Folder:
    """Has no files; to go through it takes as long as a test says."""

    def __init__(self) -> None:
        self.takes_s = 0.0

    def sight(self, key: str) -> Sight:
        raise NotImplementedError

    def keys_of(self, path: str) -> Iterator[str]:
        raise NotImplementedError

    def differing(self) -> Iterator[str]:
        time.sleep(self.takes_s)
        return iter(())


def scanned(scans: _Scans) -> float:
    """Scan as soon as it is time; in how many seconds the next scan is due."""
    before = scans.count
    scans.want()

    def ended() -> bool:
        scans.some(blind=False)
        return scans.count > before

    eventually(ended, 30, "the folder was gone through")
    due_at = scans.next_due(blind=False)
    assert due_at is not None
    return due_at - time.monotonic()


def test_a_scan_during_which_the_process_was_stopped_does_not_put_off_the_next_ones() -> None:
    folder = Folder()
    scans = _Scans(folder, INTERVAL_S)
    assert scanned(scans) < STALL_S
    folder.takes_s = STALL_S
    assert scanned(scans) < 50 * STALL_S


def test_a_folder_that_takes_long_each_time_is_scanned_seldom() -> None:
    folder = Folder()
    scans = _Scans(folder, INTERVAL_S)
    folder.takes_s = STALL_S
    assert scanned(scans) > 50 * STALL_S
