"""What must hold of a store that is opened again after a crash."""

from __future__ import annotations

from pathlib import Path

import kvfs
from kvfs.model import FileValue
from tests import invariants
from tests.crash.load import COUNTER, Acknowledged
from tests.invariants import Logged

TABLE = "load"


def whole(entry: kvfs.Entry) -> bytes:
    """An entry's value, in memory."""
    assert entry.value is not None
    if isinstance(entry.value, FileValue):
        with entry.value:
            return entry.value.read()
    return entry.value


def nothing_is_lost(
    db: Path, directory: bool, acknowledged: Acknowledged, *, keep_last: int | None = None
) -> list[Logged]:
    """Reopen the store; everything acknowledged is there, and reads as it was written. The log.

    With `keep_last` it was being pruned, which is first brought to its end.
    """
    with kvfs.open(str(db), TABLE) as store:
        if keep_last is not None:
            store.prune(keep_last=keep_last)
        keys = [*store.keys()]
        values = {key: whole(store.get(key)) for key in keys}
    log = logged(db, directory)
    missing = acknowledged.missing_from(log, keep_last=keep_last)
    assert not missing, (
        f"{len(missing)} of {len(acknowledged.acks)} acknowledged ops are not in the log of {len(log)}: "
        f"{missing[:3]} to {missing[-3:]}"
    )
    last = {op.key: op for op in log}
    assert values.keys() == {key for key, op in last.items() if op.value_hash is not None}
    for key, value in values.items():
        assert invariants.hashed(value) == last[key].value_hash, key
    return log


def logged(db: Path, directory: bool) -> list[Logged]:
    """The checked log; empty where the crash came before there was a store."""
    if not directory:
        return invariants.check_table(db).get(TABLE, [])
    return invariants.check_folder(db, TABLE, crashed=True) if (db / ".kvfs").exists() else []


def as_told(log: list[Logged], acknowledged: Acknowledged) -> None:
    """What was refused is not in the log, and of a batch without an answer all or nothing."""
    there = {(op.key, op.value_hash.hex()) for op in log if op.value_hash is not None}
    done = [digests for digests in acknowledged.refused if there & digests.items()]
    assert not done, f"{len(done)} writes were done that were refused: {done[:3]}"
    torn = [digests for digests in acknowledged.unknown if 0 < len(there & digests.items()) < len(digests)]
    assert not torn, f"{len(torn)} batches were done by half: {torn[:3]}"
    counted_once(log, acknowledged, unanswered=acknowledged.unanswered(COUNTER))


def counted_once(log: list[Logged], acknowledged: Acknowledged, *, unanswered: int) -> None:
    """The counter went up by one for each increment, of which so many may have gone without an answer."""
    counts = [op.value for op in log if op.key == COUNTER]
    assert counts == [b"%d" % number for number in range(1, len(counts) + 1)]
    doubtful = sum(ack.key == COUNTER for ack in acknowledged.doubtful)
    answered = sum(ack.key == COUNTER for ack in acknowledged.acks) - doubtful
    most = answered + doubtful + unanswered
    assert answered <= len(counts) <= most, f"{len(counts)} counted, of {answered} to {most}"
