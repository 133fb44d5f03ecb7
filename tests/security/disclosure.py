"""What an error may tell: never where in the code it arose, our SQL, or a path that is not the caller's."""

from __future__ import annotations

import re

_INSIDE = re.compile(
    r"Traceback|\.py\b|\bline \d+, in\b|apsw|orjson|sqlite3_|object at 0x|<class|Errno|Exception\b"
    r"|kvfs_oplog|kvfs_stores|kvfs_redo|json_each|CAST\(|\bPRAGMA\b|INSERT INTO|SELECT .* FROM"
)
_PATH = re.compile(r"(?<![\w:/.~%-])/[\w.-]+(?:/[\w.%-]+)+")
_OURS = ("/api/", "/docs", "/kv/", "/db/")


def too_much(text: str, *, allowed: tuple[str, ...]) -> list[str]:
    """What a message tells that it should not; paths may begin with any of `allowed`."""
    inside = _INSIDE.findall(text)
    paths = [path for path in _PATH.findall(text) if not path.startswith((*allowed, *_OURS))]
    return inside + paths
