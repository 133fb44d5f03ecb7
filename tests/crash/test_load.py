"""The load of crash tests finds what is lost, stale or wrong: else it would be no check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import kvfs
from kvfs.errors import DatabaseError, StorageFull
from tests.crash.aftermath import TABLE, as_told, logged
from tests.crash.load import COUNTER, NOTHING, Ack, Acknowledged, Misread, digest_of

ONE, TWO, THREE = (digest_of(value) for value in (b"1", b"2", b"3"))
REFUSED = StorageFull("full")
UNKNOWN = DatabaseError("who knows", outcome="unknown")


@pytest.fixture
def record() -> Acknowledged:
    record = Acknowledged(from_nothing=True)
    record.add(Ack("k", 1, ONE))
    record.add(Ack("k", 2, TWO))
    return record


def misread(record: Acknowledged, key: str, digest: str) -> bool:
    """It is found; whether as stale."""
    with pytest.raises(Misread) as found:
        record.saw(key, digest)
    return found.value.stale


def test_what_was_written_last_is_what_is_read(record: Acknowledged) -> None:
    record.saw("k", TWO)
    assert misread(record, "k", ONE)
    assert not misread(record, "k", THREE)
    assert not misread(record, "k", NOTHING)
    assert not misread(record, "other", ONE)


def test_a_refused_write_is_not_read(record: Acknowledged) -> None:
    record.failed({"k": THREE}, REFUSED)
    assert not misread(record, "k", THREE)
    record.saw("k", TWO)


def test_a_write_without_an_answer_may_be_read_until_it_is_known_not_to_be_there(
    record: Acknowledged,
) -> None:
    record.failed({"k": THREE}, ConnectionResetError())
    record.saw("k", TWO)
    assert not misread(record, "k", THREE)
    record.failed({"k": THREE}, UNKNOWN)
    record.saw("k", THREE)
    assert misread(record, "k", TWO)


def test_what_was_heard_when_the_power_was_off_is_not_asked_for(record: Acknowledged) -> None:
    record.doubting = True
    record.add(Ack("k", 3, THREE))
    record.doubting = False
    assert record.missing_from([]) == [Ack("k", 1, ONE), Ack("k", 2, TWO)]
    record.saw("k", TWO)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with kvfs.open(str(tmp_path / "db"), TABLE) as store:
        store.set("k", b"1")
        store.incr(COUNTER)
        store.incr(COUNTER)
    return tmp_path / "db"


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (Acknowledged(refused=[{"k": ONE}]), "refused"),
        (Acknowledged(unknown=[{"k": ONE, "other": ONE}]), "by half"),
        (Acknowledged(acks=[Ack(COUNTER, 3, THREE)]), "2 counted, of 3"),
    ],
    ids=["a refused write", "half a batch", "a counter"],
)
def test_a_log_that_is_not_as_it_was_told_is_found(store: Path, record: Acknowledged, found: str) -> None:
    log = logged(store, directory=False)
    as_told(log, Acknowledged(acks=[Ack(COUNTER, 1, ONE), Ack(COUNTER, 2, TWO)]))
    told = replace(record, acks=[*record.acks, Ack(COUNTER, 1, ONE), Ack(COUNTER, 2, TWO)])
    with pytest.raises(AssertionError, match=found):
        as_told(log, told)
