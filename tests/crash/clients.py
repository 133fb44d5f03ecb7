"""Clients that write to both stores of a server, until it ends."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.contract.driver import StoreError
from tests.contract.http_driver import Client, HttpDriver
from tests.crash.aftermath import TABLE
from tests.crash.load import LARGE_SHARE, THREADS, Acknowledged, Writer, write_until
from tests.crash.targets import HttpTarget
from tests.serving import ServerProcess

Work = Callable[[threading.Event], None]
"""What a client does until the event is set."""


@contextmanager
def clients(
    server: ServerProcess,
    home: Path,
    acknowledged: Mapping[bool, Acknowledged],
    *,
    seed: int,
    threads_each: int = THREADS,
    large_share: float = LARGE_SHARE,
    bears: Callable[[BaseException], bool] = lambda error: False,
) -> Iterator[threading.Event]:
    """Clients write to the stores in `home` as long as this lasts, so many to each, and read what they wrote.

    Yields the event that says that the server is about to be ended: from then on, and not before, it may
    break off, or answer with an error; but for errors that clients are to bear, after which they go on. A
    client that fails sets it too.
    """
    client, reading = Client(server.host, server.port), Client(server.host, server.port)
    stores = {directory: store_of(client, home, directory) for directory in acknowledged}
    for directory, store in stores.items():
        if not path_of(home, directory).exists():
            store.make()

    def write(directory: bool, me: int, ending: threading.Event) -> None:
        target, reads = HttpTarget(stores[directory]), HttpTarget(store_of(reading, home, directory))
        writer = Writer(target, f"w{me}", seed, acknowledged[directory], reads=reads, large_share=large_share)
        write_until(ending.is_set, writer, bears=bears)

    works = [partial(write, directory, me) for directory in stores for me in range(threads_each)]
    try:
        with at_work(works) as ending:
            yield ending
    finally:
        client.close()
        reading.close()


@contextmanager
def at_work(works: Sequence[Work], ending: threading.Event | None = None) -> Iterator[threading.Event]:
    """Clients are at work, each in a thread, as long as this lasts, and until one fails.

    Yields the event that says that they are to end; what breaks off after it is set may do so. Raises what
    was the first to fail.
    """
    ending = ending or threading.Event()
    failures: list[BaseException] = []

    def do(work: Work) -> None:
        try:
            work(ending)
        except BaseException as error:
            if not ending.is_set() or not breaks_off(error):
                failures.append(error)
                ending.set()

    threads = [threading.Thread(target=do, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield ending
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    for failure in failures:
        raise failure


def breaks_off(error: BaseException) -> bool:
    """Whether this is what a client may see of a server that is ended, or whose disk is."""
    return isinstance(error, StoreError | OSError | http.client.HTTPException)


def path_of(home: Path, directory: bool) -> Path:
    """Where the folder stores, or the tables, are."""
    return home / ("folder" if directory else "table.db")


def store_of(client: Client, home: Path, directory: bool) -> HttpDriver:
    """The folder store, or the table, that is loaded."""
    path = str(path_of(home, directory))
    return HttpDriver(client, path, TABLE, directory=directory, check=lambda: None)
