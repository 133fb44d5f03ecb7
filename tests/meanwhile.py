"""What others do while something is tried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def meanwhile(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do these in threads of their own until the end, and fail if one of them failed."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(works)) as threads:
        futures = [threads.submit(work, stop) for work in works]
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()
