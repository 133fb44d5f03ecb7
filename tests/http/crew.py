"""A server of several workers: who they are, and connections to each."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.http.launching import Launched, serving
from tests.http.stores import Store
from tests.http.wire import BASE, Answer, Connection, Endpoint
from tests.polling import eventually

COUNT = 2
ANY_PATH = "--allow-any-absolute-db-path"
_SOON_S = 10.0


def crew(home: Path, *options: str, variables: Mapping[str, str] | None = None) -> Launched:
    """A server with two workers, when it listens."""
    return serving(home, ANY_PATH, "--workers", str(COUNT), *options, variables=variables)


def workers(server: Launched) -> list[int]:
    """The processes of the workers that there are."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def who(answer: Answer) -> str:
    """What tells the worker that answered from the others: each gives ids of its own."""
    return str(answer.headers["X-Request-Id"].partition("-")[0])


@contextmanager
def to_each(server: Endpoint) -> Iterator[list[Connection]]:
    """A connection to each worker."""
    with ExitStack() as stack:
        found: dict[str, Connection] = {}

        def all_found() -> bool:
            connection = stack.enter_context(server.connect())
            found.setdefault(who(connection.ask("GET", f"{BASE}/health")), connection)
            return len(found) == COUNT

        eventually(all_found, _SOON_S, "each worker has answered")
        yield [*found.values()]


def all_serve(server: Launched) -> None:
    """Wait until there are as many workers as there are to be, and each answers."""
    eventually(lambda: len(workers(server)) == COUNT, _SOON_S, "the workers are complete")
    with to_each(server):
        pass


class Counting:
    """Clients that count up, each its own key, on a connection that is made anew when it breaks.

    `acknowledged` is how far each has come; `unanswered` how many of its requests were cut off.
    """

    def __init__(self, store: Store, clients: int) -> None:
        self.acknowledged = [0] * clients
        self.unanswered = [0] * clients
        self.errors: list[Answer] = []
        self._store = store
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._count, args=(me,)) for me in range(clients)]

    def go_on(self, writes: int) -> None:
        """Wait until each client has made so many more."""
        wanted = [each + writes for each in self.acknowledged]
        eventually(
            lambda: all(so_far >= least for so_far, least in zip(self.acknowledged, wanted, strict=True)),
            2 * _SOON_S,
            "all clients go on",
        )

    def add_up(self) -> None:
        """Fails where what is stored is not what was acknowledged, or may have been done unanswered."""
        assert self.errors == []
        for me, acknowledged in enumerate(self.acknowledged):
            stored = int(self._store.get(_own(me)))
            assert acknowledged <= stored <= acknowledged + self.unanswered[me]

    def __enter__(self) -> Counting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _count(self, me: int) -> None:
        target = self._store.target(_own(me), "incr")
        while not self._stop.is_set():
            try:
                with self._store.server.connect() as connection:
                    while not self._stop.is_set():
                        answer = connection.ask("POST", target)
                        if answer.status != 200:
                            self.errors.append(answer)
                            return
                        self.acknowledged[me] += 1
            except (OSError, AssertionError):
                self.unanswered[me] += 1


def _own(me: int) -> str:
    return f"count/{me}"
