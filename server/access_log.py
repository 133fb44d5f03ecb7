"""The access log: one JSON object a line on stdout for each answer."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic
from typing import BinaryIO, Final

import orjson

from server.reply import Reply
from server.request import Request

_MAX_PATH_CHARS: Final = 2048


class AccessLog:
    """Writes a line when an answer has been sent. The query is left out: values may be in it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def __call__(self, request: Request, reply: Reply) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "method": request.method,
            "path": request.target.partition("?")[0][:_MAX_PATH_CHARS].encode(errors="replace").decode(),
            "status": reply.status,
            "duration_ms": round((monotonic() - reply.began) * 1000, 3),
            "bytes": reply.sent,
            "request_id": reply.request_id,
            "remote": request.remote,
        }
        self._out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._out.flush()
