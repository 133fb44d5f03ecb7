"""Times as people give them on the command line."""

from __future__ import annotations

import re
import time
from typing import Final

import click

from kvfs.errors import InvalidParameters
from kvfs.model import NS
from server import times

_AGO: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)", re.ASCII)
_UNIT_NS: Final = {"ms": NS // 1000, "s": NS, "m": 60 * NS, "h": 3600 * NS, "d": 86400 * NS}


class Instant(click.ParamType[int]):
    """An instant, in Unix nanoseconds: `now`, `10m` (ago), Unix seconds or RFC 3339."""

    name = "time"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        given = str(value)
        if given == "now":
            return time.time_ns()
        if match := _AGO.fullmatch(given):
            return time.time_ns() - int(match[1]) * _UNIT_NS[match[2]]
        try:
            return times.parse(given, "the time")
        except InvalidParameters as exc:
            self.fail(
                f"{given!r} is no time: give now, 10m (ago), Unix seconds, or RFC 3339.", parameter, context
            )
            raise AssertionError from exc


INSTANT: Final = Instant()
