"""Bounds for SQLite's text functions that take time like the product of their arguments' lengths.

No interrupt reaches into a function: `instr` of two megabytes would hold a thread for minutes. Here plain
texts are worked on in linear time, and all else is left to SQLite's own function where it is short. The
results are SQLite's own, which indexes on expressions rely on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw

from kvfs.sqlite import SqlValue

_MOST_STEPS: Final = 1 << 26
_TOO_BIG: Final = "string or blob too big"

_Quick = Callable[..., SqlValue]


def register(connection: apsw.Connection, *, max_length: int) -> None:
    """Put these in the place of SQLite's own; a result has at most `max_length` bytes."""

    def replaced(text: str, old: str, new: str) -> str:
        # A character is a byte at least.
        if len(text) + text.count(old) * (len(new) - len(old)) > max_length:
            raise apsw.TooBigError(_TOO_BIG)
        return text.replace(old, new)

    own = apsw.Connection("")
    quick: dict[str, _Quick] = {
        "instr": lambda text, sought: text.find(sought) + 1,
        "replace": replaced,
        "trim": _trimming(str.strip),
        "ltrim": _trimming(str.lstrip),
        "rtrim": _trimming(str.rstrip),
    }
    for name, function in quick.items():
        count = 3 if name == "replace" else 2
        bounded = _bounded(own, name, count, function)
        connection.create_scalar_function(
            name, bounded, count, deterministic=True, flags=apsw.SQLITE_INNOCUOUS
        )


def _trimming(strip: Callable[[str, str], str]) -> _Quick:
    def trimmed(text: str, characters: str) -> str:
        distinct = "".join(set(characters))
        if len(text) * len(distinct) > _MOST_STEPS:
            raise apsw.TooBigError(_TOO_BIG)
        return strip(text, distinct)

    return trimmed


def _bounded(own: apsw.Connection, name: str, count: int, quick: _Quick) -> Callable[..., SqlValue]:
    """A function that is `quick` for texts without NUL, and SQLite's own for all else that is short."""
    sql = f"SELECT {name}({', '.join('?' * count)})"

    def function(*values: SqlValue) -> SqlValue:
        plain = all(type(value) is str and value and "\0" not in value for value in values)
        if plain:
            return quick(*values)
        lengths = [len(value) for value in values if isinstance(value, str | bytes)]
        if len(lengths) > 1 and max(lengths) * sorted(lengths)[-2] > _MOST_STEPS:
            raise apsw.TooBigError(_TOO_BIG)
        result: SqlValue
        ((result,),) = own.execute(sql, values)
        return result

    return function
