"""Limits on what a running process may have."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited(pid: int, what: int, most: int) -> Iterator[None]:
    """A process may have so much of a resource, `RLIMIT_NOFILE` say, as long as this lasts."""
    soft, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, what, (soft, hard))


@contextmanager
def no_more_memory(pid: int, *, but_bytes: int = 0) -> Iterator[None]:
    """A process can take no more memory from the system than this."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    with limited(pid, resource.RLIMIT_AS, pages * resource.getpagesize() + but_bytes):
        yield
