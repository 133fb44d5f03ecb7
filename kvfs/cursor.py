"""Change cursors: a place in an op-log, as text that callers keep and give back: `<log_id>.<seq>`."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kvfs.errors import InvalidParameters

_FORM: Final = re.compile(r"([0-9a-f]{1,64}\.(?:0|[1-9][0-9]{0,17})|\.0)", re.ASCII)


class Cursor(NamedTuple):
    """After the op with this `seq` of the log with this identity; ("", 0) is before the first op of any."""

    log_id: str
    seq: int

    def __str__(self) -> str:
        return f"{self.log_id}.{self.seq}"


def parse(text: str) -> Cursor:
    """The cursor that a text is; raises `InvalidParameters` for what no store ever gave."""
    if not _FORM.fullmatch(text):
        raise InvalidParameters("the cursor is malformed: use one that the server gave, as it was given")
    log_id, _, seq = text.partition(".")
    return Cursor(log_id, int(seq))
