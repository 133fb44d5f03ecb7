"""Server-sent events as bytes (html.spec.whatwg.org, 9.2). All data is JSON, which has no line ends."""

from __future__ import annotations

from typing import Any, Final

import orjson

from kvfs.cursor import Cursor

CONTENT_TYPE: Final = "text/event-stream"
HEADERS: Final = "Cache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
RETRY: Final = b"retry: 1000\n\n"


def event(name: str, data: dict[str, Any], at: Cursor | None = None) -> bytes:
    """One event; whoever reconnects after it goes on from `at`."""
    place = "" if at is None else f"id: {at}\n"
    return b"event: %s\n%sdata: %s\n\n" % (name.encode(), place.encode(), orjson.dumps(data))
