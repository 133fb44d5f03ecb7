"""The program's log, on stderr: JSON lines for machines, text for people at a terminal.

A record that belongs to a request is logged with `extra=of_request(id)`. No values are logged, no tokens, and
no queries, in which either may stand.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s%(of_request)s"
_REQUEST_ID: Final = "request_id"


def configure(level: str, form: str, out: TextIO = sys.stderr) -> None:
    """Log from this level on, in JSON or text; `auto` is text at a terminal, else JSON."""
    text = form == "text" or (form == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextFormatter(_TEXT) if text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def of_request(request_id: str) -> dict[str, str]:
    """What a record is given that belongs to a request."""
    return {_REQUEST_ID: request_id}


class TextFormatter(logging.Formatter):
    """A line, with the request that it belongs to at its end."""

    def format(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, _REQUEST_ID, None)
        record.of_request = "" if request_id is None else f" (request {request_id})"
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One object a line; a traceback is a string in it."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _printable(record.getMessage()),
        }
        request_id = getattr(record, _REQUEST_ID, None)
        if request_id is not None:
            line[_REQUEST_ID] = request_id
        if record.exc_info:
            line["exception"] = _printable(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


def _printable(text: str) -> str:
    """File names that are no UTF-8 come as surrogates, which JSON has not."""
    return text.encode(errors="backslashreplace").decode()
