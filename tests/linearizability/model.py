"""What keys do when one call comes after the other, and what a client has asked and was told.

The state of a key is a register: its value and the number of its last op. Numbers make a history far easier
to explain, and harder to explain wrongly: each acknowledged write has one place alone.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple


class Kind(enum.StrEnum):
    """What can be asked. The last three are of programs that see a key's file, and know no numbers."""

    GET = enum.auto()
    SET = enum.auto()
    CAS = enum.auto()
    INCR = enum.auto()
    DELETE = enum.auto()
    BATCH_GET = enum.auto()
    BATCH_SET = enum.auto()
    BATCH_DELETE = enum.auto()
    LOOK = enum.auto()
    REPLACE = enum.auto()
    UNLINK = enum.auto()


READS = frozenset({Kind.GET, Kind.BATCH_GET, Kind.LOOK})
UNNUMBERED = frozenset({Kind.REPLACE, Kind.UNLINK})

MISSING = "KEY_NOT_FOUND"
MISMATCH = "CAS_MISMATCH"


class Register(NamedTuple):
    """A key: its value, None where there is none, and the number of its last op."""

    value: bytes | None = None
    number: int = 0

    def after(self, value: bytes | None) -> Register:
        return Register(value, self.number + 1)


class Call(NamedTuple):
    """What is asked of which keys. `values` are one a key; of a CAS the expected and the new one."""

    kind: Kind
    keys: tuple[str, ...]
    values: tuple[bytes, ...] = ()


class Answer(NamedTuple):
    """What is told: values and op numbers, one a key (None: not told), how many were deleted, or a code."""

    values: tuple[bytes | None, ...] = ()
    numbers: tuple[int | None, ...] = ()
    deleted: int | None = None
    code: str | None = None

    def agrees(self, told: Answer, *, numbered: bool) -> bool:
        """Whether it is what was told, as far as that goes."""
        if (self.values, self.deleted, self.code) != (told.values, told.deleted, told.code):
            return False
        return not numbered or all(
            theirs is None or ours == theirs for ours, theirs in zip(self.numbers, told.numbers, strict=True)
        )


class Operation(NamedTuple):
    """A call with its answer, and when it began and ended by one clock, in nanoseconds.

    Without an answer (None) it may have happened at any time since it began, or may still, or never.
    """

    client: str
    call: Call
    answer: Answer | None
    began_ns: int
    ended_ns: int | None = None


History = Sequence[Operation]


def apply(call: Call, registers: Sequence[Register]) -> tuple[list[Register], Answer]:
    """What a call makes of its keys, and what it is to be told."""
    first = registers[0]
    match call.kind:
        case Kind.GET | Kind.LOOK | Kind.BATCH_GET:
            values = tuple(register.value for register in registers)
            return [*registers], Answer(values, tuple(register.number for register in registers))
        case Kind.SET | Kind.REPLACE | Kind.BATCH_SET:
            return _written([each.after(value) for each, value in zip(registers, call.values, strict=True)])
        case Kind.CAS:
            expected, new = call.values
            if first.value != expected:
                return [first], Answer(code=MISMATCH)
            return _written([first.after(new)])
        case Kind.INCR:
            counted = first.after(b"%d" % (int(first.value or b"0") + int(call.values[0])))
            return [counted], Answer((counted.value,), (counted.number,))
        case Kind.DELETE | Kind.UNLINK:
            return (
                _written([first.after(None)]) if first.value is not None else ([first], Answer(code=MISSING))
            )
        case Kind.BATCH_DELETE:
            left = [each if each.value is None else each.after(None) for each in registers]
            return left, Answer(deleted=sum(each.value is not None for each in registers))


def _written(registers: list[Register]) -> tuple[list[Register], Answer]:
    return registers, Answer(numbers=tuple(register.number for register in registers))
