"""More edits of a watched folder than the kernel's queue of events holds: nothing is missed.

The kernel drops what does not fit, and nobody tells kvfs. Answers are right all the same, at once; and what
nobody asks for is recorded when the folder is gone through, `--scan-interval` later at most.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

from tests.crash.load import Acknowledged, Misread
from tests.directory.served import Folder, Server, load
from tests.polling import eventually
from tests.soak.faults import Fault
from tests.soak.tally import Tally
from tests.soak.trial import Lost

EDITS = 60
SCAN_INTERVAL_S = "2"
RECORDED_S = 120.0
_QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def rounds(home: Path, chance: random.Random, count: int, tally: Tally) -> None:
    """Edits after the queue has overflowed; they are true at once, or recorded by themselves, once each."""
    folder, acknowledged = Folder(home), Acknowledged(from_nothing=True)
    server = Server(home, folder, "--scan-interval", SCAN_INTERVAL_S)
    try:
        server.start()
        for number in range(count):
            with load(acknowledged, chance.randrange(10**9), server) as under_way:
                under_way.until_more(10)
            server.watches()
            server.pause()
            try:
                _overflow(folder)
                _edit(folder, chance, number)
            finally:
                server.go_on()
            began = time.monotonic()
            if chance.random() < 0.5:
                _is_true(server, folder, chance, acknowledged)
            eventually(folder.is_recorded, RECORDED_S, "what was edited is in the log")
            tally.recovered(time.monotonic() - began)
            _is_recorded_once(folder, acknowledged)
            tally.rounds += 1
            tally.faults += 1
        server.stop()
    finally:
        server.kill()
    tally.requests += acknowledged.requests
    tally.acknowledged += len(acknowledged.acks)


def _overflow(folder: Folder) -> None:
    """Twice as many events as there is room for; two files, since the same event twice is taken for one."""
    pair = [folder.root / "one", folder.root / "other"]
    for file in pair:
        file.touch()
    for number in range(2 * int(_QUEUE.read_text())):
        os.utime(pair[number % 2])


def _edit(folder: Folder, chance: random.Random, number: int) -> None:
    """All sorts of edits, of files that nobody else writes."""
    for each in range(EDITS):
        key, value = f"edited/{chance.randrange(40)}", b"edit %d %d" % (number, each)
        match chance.randrange(6):
            case 0:
                folder.write(f"new{number}/{each % 7}/{each}", value)
            case 1:
                (folder.root / key).unlink(missing_ok=True)
            case 2:
                folder.replace(key, value)
            case 3 if (folder.root / key).exists():
                (folder.root / key).rename(folder.root / f"edited/moved{number}-{each}")
            case _:
                folder.write(key, value)


def _is_true(server: Server, folder: Folder, chance: random.Random, acknowledged: Acknowledged) -> None:
    values = folder.values()
    for key in chance.sample(sorted(values), 10):
        acknowledged.requests += 1
        if server.store.get(key).value != values[key]:
            raise Misread(f"{key!r} is not what was written to its file", stale=True)
    acknowledged.requests += 1
    if server.listed() != values:
        raise Misread("the list is not what the files are", stale=True)


def _is_recorded_once(folder: Folder, acknowledged: Acknowledged) -> None:
    log = folder.check()
    if missing := acknowledged.missing_from(log):
        raise Lost(missing, len(acknowledged.acks))
    edits = Counter((op.key, op.value) for op in log if op.origin == "file" and op.value)
    assert [edit for edit, times in edits.items() if times > 1] == []


FAULTS = (Fault("overflow", "watcher overflow (inotify queue)", 50, rounds, rounds_each=10),)
