"""The access log: one JSON object a line on stdout for each answer."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from time import monotonic
from typing import BinaryIO, Final

import orjson
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from server.reply import Reply

_MAX_PATH_CHARS: Final = 2048


class AccessLog(AbstractAccessLogger):
    """Writes a line when an answer has been sent. The query is left out: values may be in it."""

    out: BinaryIO = sys.stdout.buffer

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if not isinstance(response, Reply):
            return
        path = request.raw_path.partition("?")[0]
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "method": request.method,
            "path": path[:_MAX_PATH_CHARS],
            "status": response.status,
            "duration_ms": round((monotonic() - response.began) * 1000, 3),
            "bytes": response.body_length,
            "request_id": response.request_id,
            "remote": request.remote,
        }
        self.out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self.out.flush()
