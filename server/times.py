"""Timestamps as they come in: Unix seconds, with or without a fraction, or RFC 3339.

An integer means the end of that second: everything that happened within second T is part of the state at
T. Anything else is that very instant.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from kvfs.errors import InvalidParameters
from kvfs.model import NS

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_DECIMAL: Final = re.compile(r"(-?)([0-9]{1,18})\.([0-9]{1,30})", re.ASCII)
# A plus sign that nobody escaped has become a space in the query.
_RFC_3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,30}))?"
    r"(?:[Zz]|([+ -])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_WRONG: Final = "{name} must be a Unix time in seconds, or a time as RFC 3339 has it"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS: Final = 9
_INT64_MAX: Final = 2**63 - 1


def parse(text: str, name: str) -> int:
    """The instant in Unix nanoseconds, within 64 bits; raises `InvalidParameters` naming the parameter."""
    if _INTEGER.fullmatch(text):
        return _bounded((int(text) + 1) * NS - 1)
    if match := _DECIMAL.fullmatch(text):
        sign, whole, fraction = match.groups()
        ns, beyond = _nanoseconds(fraction)
        ns += int(whole) * NS
        # Rounded down, so that nothing that happened after the instant is let in.
        return _bounded(-ns - beyond if sign else ns)
    if match := _RFC_3339.fullmatch(text):
        instant = _calendar(match)
        if instant is not None:
            return _bounded(instant)
    raise InvalidParameters(_WRONG.format(name=name))


def of_json(value: object, name: str) -> int:
    """As `parse`, of a JSON number, or of a string, which can tell an instant to the nanosecond."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return parse(value if isinstance(value, str) else repr(value), name)
    raise InvalidParameters(_WRONG.format(name=name))


def _nanoseconds(fraction: str) -> tuple[int, bool]:
    """A fraction of a second in nanoseconds, rounded down, and whether that lost anything."""
    return int(fraction[:_DIGITS].ljust(_DIGITS, "0")), bool(fraction[_DIGITS:].strip("0"))


def _calendar(match: re.Match[str]) -> int | None:
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    # A leap second is told apart from the one after it by no clock that counts Unix seconds.
    leap = second == 60
    try:
        offset = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
        if int(match[10] or 0) > 59:
            return None
        zone = timezone(-offset if match[8] == "-" else offset)
        at = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=zone)
        since = at - _EPOCH
    except (ValueError, OverflowError):
        return None
    seconds = since.days * 86400 + since.seconds + leap
    return seconds * NS + _nanoseconds(match[7] or "0")[0]


def _bounded(ns: int) -> int:
    return max(-_INT64_MAX, min(ns, _INT64_MAX))
