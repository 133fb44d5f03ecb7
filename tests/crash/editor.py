"""Somebody who edits the files of a folder while others write to it through a server."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.http_driver import Client, HttpDriver
from tests.crash.aftermath import TABLE
from tests.crash.clients import at_work, path_of, store_of
from tests.crash.load import Ack, Acknowledged, Misread, digest_of
from tests.serving import ServerProcess

EDITED = "edited/"


class Editor:
    """Edits files of the folder from outside, and looks at each edit through the server.

    `seen` is what it was shown; `kept` the digests of the values that were written through the server last.
    """

    def __init__(
        self, root: Path, store: HttpDriver, *, seed: int, kept: dict[str, str], pause_s: float = 0
    ) -> None:
        self.seen: list[Ack] = []
        self._kept = kept
        self._pause_s = pause_s
        self._root = root
        self._store = store
        self._seed = seed
        self._chance = random.Random(seed)

    def edit_until(self, ending: threading.Event) -> None:
        """Edit until then."""
        # A file that is taken away before the store is open cannot be told from one that the cut took.
        self._store.has(EDITED)
        number = 0
        while not ending.is_set():
            number += 1
            key = f"{EDITED}{self._chance.randrange(6)}"
            value = b"edit %d %d " % (self._seed, number) * self._chance.choice([1, 5000, 30_000])
            self._kept.pop(key, None)
            change = self._chance.choice([self._set, self._write, self._replace, self._remove])
            if change(key, value):
                got = self._store.get(key)
                if got.value != value:
                    raise Misread(f"{key!r} is not what was just written to its file", stale=True)
                self.seen.append(Ack(key, int(got.etag or 0), digest_of(value)))
            elif self._store.has(key):
                raise Misread(f"{key!r} is there, and its file was just removed", stale=True)
            ending.wait(self._pause_s)

    def _set(self, key: str, value: bytes) -> bool:
        self._store.set(key, value)
        self._kept[key] = digest_of(value)
        return True

    def _write(self, key: str, value: bytes) -> bool:
        self._file(key).write_bytes(value)
        return True

    def _replace(self, key: str, value: bytes) -> bool:
        file = self._file(key)
        fresh = self._root.parent.parent / "fresh"
        fresh.write_bytes(value)
        fresh.replace(file)
        return True

    def _remove(self, key: str, _value: bytes) -> bool:
        self._file(key).unlink(missing_ok=True)
        return False

    def _file(self, key: str) -> Path:
        file = self._root / key
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


@contextmanager
def editing(
    server: ServerProcess,
    home: Path,
    acknowledged: Acknowledged,
    *,
    seed: int,
    kept: dict[str, str],
    ending: threading.Event,
    pause_s: float = 0,
) -> Iterator[None]:
    """Somebody edits as long as this lasts; what he was shown is acknowledged.

    If he fails, `ending` is set.
    """
    client = Client(server.host, server.port)
    store = store_of(client, home, True)
    editor = Editor(path_of(home, True) / TABLE, store, seed=seed, kept=kept, pause_s=pause_s)
    try:
        with at_work([editor.edit_until], ending):
            yield
    finally:
        client.close()
        acknowledged.acks.extend(editor.seen)
