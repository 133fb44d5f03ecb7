"""A reader of server-sent events, strict about their form."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, WAIT_S, Headers, request, target_of


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `at` is the cursor in its `id:`."""

    name: str
    data: dict[str, Any]
    at: str | None


class Stream:
    """A stream of a store's changes, from its request on. `last` is the cursor to go on from."""

    def __init__(
        self, store: Store, *, headers: Headers = (), receive_bytes: int | None = None, **params: object
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT_S)
        if receive_bytes is not None:
            # Before it connects: that is when the window is agreed on.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect((store.server.host, store.server.port))
        self.socket.sendall(request("GET", changes_target(store, "/stream", **params), headers=headers))
        self.last: str | None = None
        self._incoming = self.socket.makefile("rb")

    def head(self) -> dict[str, str]:
        """The headers of the answer, which must be good."""
        assert self._incoming.readline() == b"HTTP/1.1 200 OK\r\n"
        headers = {}
        while line := self._incoming.readline().decode().rstrip():
            name, _, value = line.partition(": ")
            headers[name] = value
        return headers

    def begin(self) -> dict[str, Any]:
        """Read up to `ready`; its data."""
        self.head()
        self.retry()
        ready = self.next()
        assert ready.name == "ready", ready
        return ready.data

    def retry(self) -> None:
        """What comes first: after how many milliseconds to come back."""
        assert self._incoming.read(13) == b"retry: 1000\n\n"

    def next(self) -> Event:
        """The next event, waited for; at the end of the stream it fails."""
        event = self.next_or_end()
        assert event is not None, "the stream has ended"
        return event

    def next_or_end(self) -> Event | None:
        """The next event, or None at the end of the stream."""
        lines = []
        while line := self._incoming.readline().decode():
            assert line.endswith("\n"), f"cut off within an event: {line!r}"
            if line == "\n":
                break
            lines.append(line[:-1])
        if not lines:
            return None
        fields = dict(each.split(": ", 1) for each in lines)
        assert [*fields] in (["event", "id", "data"], ["event", "data"]), lines
        event = Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
        self.last = event.at or self.last
        return event

    def change(self) -> dict[str, Any]:
        """The data of the next event but checkpoints, which must be a change."""
        while (event := self.next()).name == "checkpoint":
            pass
        assert event.name == "change", event
        assert event.at == event.data["cursor"]
        return event.data

    def changes(self, count: int) -> list[dict[str, Any]]:
        return [self.change() for _ in range(count)]

    def until_end(self) -> tuple[list[dict[str, Any]], Event | None]:
        """All changes before the stream ends, and the `end` if it came."""
        found: list[dict[str, Any]] = []
        while (event := self.next_or_end()) is not None:
            if event.name == "end":
                assert self.next_or_end() is None
                return found, event
            if event.name == "change":
                found.append(event.data)
        return found, None

    def close(self) -> None:
        self._incoming.close()
        self.socket.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def changes_target(store: Store, action: str = "", /, **params: object) -> str:
    """The target of a request for changes."""
    return target_of(f"{BASE}/changes{action}", db=store.db, table=TABLE, **params)


def page(store: Store, **params: object) -> Any:
    """A page of changes; the answer's JSON."""
    return store.server.ask("GET", changes_target(store, **params)).done()


def cursor(store: Store) -> str:
    """The present cursor."""
    found: str = page(store)["cursor"]
    return found


def users(store: Store) -> int:
    """How many requests and streams use a store."""
    cache = store.server.ask("GET", f"{BASE}/health/cache").done()
    open_here = [
        each
        for each in cache["databases"] + cache["directory_stores"]
        if each["path"].startswith(str(store.home))
    ]
    return sum(each["users"] for each in open_here)
