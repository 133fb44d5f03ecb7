"""The checker finds what is wrong, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linearizability.checker import check, parts
from tests.linearizability.model import (
    MISMATCH,
    MISSING,
    Answer,
    Call,
    Kind,
    Operation,
    Register,
    apply,
)


def op(
    began: int,
    ended: int | None,
    kind: Kind,
    answer: Answer | None,
    *values: bytes,
    keys: Sequence[str] = ("k",),
) -> Operation:
    return Operation("c", Call(kind, tuple(keys), values), answer, began, ended)


def wrote(*numbers: int) -> Answer:
    return Answer(numbers=numbers)


def read(value: bytes | None, number: int | None = None) -> Answer:
    return Answer((value,), (number,))


def counted(value: bytes, number: int) -> Answer:
    return Answer((value,), (number,))


SET_A = op(0, 10, Kind.SET, wrote(1), b"a")
SET_B = op(20, 30, Kind.SET, wrote(2), b"b")
UNKNOWN_B = op(20, None, Kind.SET, None, b"b")
BOTH = ("k", "l")

GOOD = {
    "one after the other": [SET_A, SET_B, op(40, 50, Kind.GET, read(b"b", 2))],
    "a read beside a write sees what was before": [SET_A, SET_B, op(25, 50, Kind.GET, read(b"a", 1))],
    "a read beside a write sees it": [SET_A, SET_B, op(15, 22, Kind.GET, read(b"b", 2))],
    "a write nobody heard of has happened": [SET_A, UNKNOWN_B, op(90, 99, Kind.GET, read(b"b", 2))],
    "a write nobody heard of has not happened": [SET_A, UNKNOWN_B, op(90, 99, Kind.GET, read(b"a", 1))],
    "a write nobody heard of happens late": [
        SET_A,
        UNKNOWN_B,
        op(90, 99, Kind.GET, read(b"a", 1)),
        op(100, 110, Kind.GET, read(b"b", 2)),
    ],
    "a refused CAS": [SET_A, op(20, 30, Kind.CAS, Answer(code=MISMATCH), b"x", b"y")],
    "an editor's write": [SET_A, op(20, 30, Kind.REPLACE, wrote(0), b"e"), op(40, 50, Kind.LOOK, read(b"e"))],
    "a batch beside reads": [
        op(0, 30, Kind.BATCH_SET, wrote(1, 1), b"a", b"b", keys=BOTH),
        op(5, 10, Kind.GET, read(None), keys=("l",)),
        op(12, 20, Kind.GET, read(b"a", 1)),
    ],
}

BAD = {
    "a stale read": [SET_A, SET_B, op(40, 50, Kind.GET, read(b"a"))],
    "a read of what was never written": [SET_A, op(40, 50, Kind.GET, read(b"x"))],
    "a read of nothing where there is something": [SET_A, op(40, 50, Kind.GET, read(None))],
    "a read of what comes later": [SET_A, op(12, 15, Kind.GET, read(b"b")), SET_B],
    "reads that go back": [
        SET_A,
        op(20, 90, Kind.SET, wrote(2), b"b"),
        op(30, 40, Kind.GET, read(b"b")),
        op(50, 60, Kind.GET, read(b"a")),
    ],
    "a lost write": [SET_A, SET_B, op(40, 50, Kind.SET, wrote(2), b"c")],
    "a lost update": [
        op(0, 10, Kind.INCR, counted(b"1", 1), b"1"),
        op(20, 30, Kind.INCR, counted(b"1", 2), b"1"),
    ],
    "an increment that is made twice": [
        op(0, 10, Kind.INCR, counted(b"1", 1), b"1"),
        op(20, 30, Kind.GET, read(b"2")),
    ],
    "one CAS too many": [
        SET_A,
        op(20, 50, Kind.CAS, wrote(2), b"a", b"x"),
        op(20, 50, Kind.CAS, wrote(3), b"a", b"y"),
    ],
    "a CAS that is refused for nothing": [SET_A, op(20, 30, Kind.CAS, Answer(code=MISMATCH), b"a", b"x")],
    "a delete that leaves the key": [
        SET_A,
        op(20, 30, Kind.DELETE, wrote(2)),
        op(40, 50, Kind.GET, read(b"a")),
    ],
    "a delete of nothing that is told as done": [
        op(0, 10, Kind.DELETE, Answer(code=MISSING)),
        op(20, 30, Kind.DELETE, wrote(1)),
    ],
    "a write nobody heard of that comes and goes": [
        SET_A,
        UNKNOWN_B,
        op(90, 99, Kind.GET, read(b"b")),
        op(100, 110, Kind.GET, read(b"a")),
    ],
    "a write that shows before it is asked for": [
        SET_A,
        op(12, 15, Kind.GET, read(b"b")),
        UNKNOWN_B,
    ],
    "half a batch": [
        op(0, 90, Kind.BATCH_SET, wrote(1, 1), b"a", b"b", keys=BOTH),
        op(10, 20, Kind.GET, read(b"a")),
        op(30, 40, Kind.GET, read(None), keys=("l",)),
    ],
    "a batch that is read by halves": [
        op(0, 90, Kind.BATCH_SET, wrote(1, 1), b"a", b"b", keys=BOTH),
        op(10, 20, Kind.BATCH_GET, Answer((b"a", None), (None, None)), keys=BOTH),
    ],
    "an editor's write that is lost": [
        op(0, 10, Kind.REPLACE, wrote(0), b"e"),
        op(20, 30, Kind.GET, read(None)),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_explained_is(name: str) -> None:
    assert check(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_explained_is_told(name: str) -> None:
    explanation = check(BAD[name])
    assert explanation is not None
    assert "No order explains" in explanation


def test_keys_that_no_batch_has_touched_together_are_looked_at_one_by_one() -> None:
    history = [
        op(0, 10, Kind.SET, wrote(1), b"a", keys=("a",)),
        op(0, 10, Kind.BATCH_SET, wrote(1, 1), b"a", b"b", keys=("b", "c")),
        op(0, 10, Kind.BATCH_DELETE, Answer(deleted=0), keys=("c", "d")),
    ]
    assert [keys for keys, _ in parts(history)] == [("a",), ("b", "c", "d")]


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """What clients see of a store that does one thing at a time, some of it without an answer."""
    registers = {"k": Register(), "l": Register()}
    history = []
    for number in range(draw(st.integers(1, 25))):
        kind = draw(
            st.sampled_from([Kind.GET, Kind.SET, Kind.CAS, Kind.DELETE, Kind.BATCH_SET, Kind.BATCH_GET])
        )
        keys = BOTH if kind in (Kind.BATCH_SET, Kind.BATCH_GET) else (draw(st.sampled_from(BOTH)),)
        expected = registers[keys[0]].value or b"?"
        values = {
            Kind.SET: (b"%d" % number,),
            Kind.CAS: (draw(st.sampled_from([expected, b"?"])), b"%d" % number),
            Kind.BATCH_SET: (b"%d" % number, b"%d" % number),
        }.get(kind, ())
        call = Call(kind, keys, values)
        after, answer = apply(call, [registers[key] for key in keys])
        heard = draw(st.integers(0, 9)) > 0
        if heard or draw(st.booleans()):
            registers.update(zip(keys, after, strict=True))
        # It happens at 10 times its number, and is told of some time before and after.
        began = 10 * number - draw(st.integers(0, 40))
        ended = 10 * number + draw(st.integers(0, 40))
        history.append(Operation("c", call, answer if heard else None, began, ended if heard else None))
    return history


@given(histories(), st.randoms(use_true_random=False))
def test_whatever_a_store_does_that_does_one_thing_at_a_time_is_explained(
    history: list[Operation], chance: random.Random
) -> None:
    chance.shuffle(history)
    assert check(history) is None


@given(histories(), st.data())
def test_a_read_that_nobody_wrote_is_found_in_any_history(
    history: list[Operation], data: st.DataObject
) -> None:
    at = data.draw(st.integers(-50, 300))
    history.append(op(at, at + data.draw(st.integers(0, 100)), Kind.GET, read(b"never written")))
    assert check(history) is not None
