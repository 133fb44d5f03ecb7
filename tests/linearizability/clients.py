"""Clients that ask for anything of a few keys at once, and editors that change some of the files."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.contract.driver import Driver
from tests.linearizability.model import MISSING, Answer, Call, Kind
from tests.linearizability.recorder import Recorder, Refused, ask

LONE: Final = ("lone/1", "lone/2")
COUNTERS: Final = ("counter",)
PAIRS: Final = (("pair/a", "pair/b"), ("left", "right/below"))
EDITED: Final = ("edited/1", "edited/2")
"""Keys that are never compared and set: no editor of a file can wait for that."""

_PATIENCE_S: Final = 0.02
_ASKED_OF_ONE_WORKER: Final = 25

Connect = Callable[[], AbstractContextManager[Driver]]


@contextmanager
def working(
    recorder: Recorder,
    connect: Connect,
    *,
    clients: int,
    seed: int,
    folder: Path | None = None,
    editors: int = 0,
) -> Iterator[threading.Event]:
    """Clients work on a store as long as this lasts. Yields the event that says that one of them has failed.

    `connect` makes a driver with connections of its own. `folder` is where the editors' files lie.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def run(worker: _Client | _Editor) -> None:
        try:
            with worker:
                while not stop.is_set():
                    worker.work()
        except BaseException as error:
            failures.append(error)
            stop.set()

    edited = EDITED if folder is not None and editors else ()
    workers: list[_Client | _Editor] = [
        _Client(recorder, connect, f"client {me}", f"{seed}-{me}", edited) for me in range(clients)
    ]
    if folder is not None:
        workers += [_Editor(recorder, folder, f"editor {me}", f"{seed}-e{me}") for me in range(editors)]
    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


class _Client:
    """One client. What it writes is written once in all."""

    def __init__(
        self, recorder: Recorder, connect: Connect, name: str, seed: str, edited: Sequence[str]
    ) -> None:
        self._recorder = recorder
        self._connect = connect
        self._name = name
        self._chance = random.Random(seed)
        self._edited = edited
        self._asked = 0
        self._known: dict[str, bytes] = {}
        self._store: Driver | None = None
        self._connected = ExitStack()

    def work(self) -> None:
        """Ask for something."""
        if self._store is None or self._asked % _ASKED_OF_ONE_WORKER == 0:
            self._connected.close()
            self._store = self._connected.enter_context(self._connect())
        store = self._store
        self._asked += 1
        call = self._call()
        try:
            answer = self._recorder.record(self._name, call, lambda: ask(store, call))
        except Refused:
            self._store = None
            time.sleep(_PATIENCE_S)
            return
        if answer is None:
            self._store = None
        elif call.kind is Kind.GET and answer.values[0] is not None:
            self._known[call.keys[0]] = answer.values[0]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._connected.close()

    def _call(self) -> Call:
        chance = self._chance
        kind = chance.choice([*Kind][:8])
        if kind in (Kind.BATCH_GET, Kind.BATCH_SET, Kind.BATCH_DELETE):
            pair = chance.choice(PAIRS)
            return Call(kind, pair, tuple(self._value() for _ in pair) if kind is Kind.BATCH_SET else ())
        if kind is Kind.INCR:
            return Call(kind, (chance.choice(COUNTERS),), (b"%d" % chance.randrange(1, 4),))
        if kind is Kind.CAS:
            key = chance.choice(LONE)
            return Call(kind, (key,), (self._known.get(key, b"?"), self._value()))
        keys = [*LONE, *LONE, *self._edited, *self._edited, *(key for pair in PAIRS for key in pair)]
        key = chance.choice([*keys, *COUNTERS] if kind in (Kind.GET, Kind.DELETE) else keys)
        return Call(kind, (key,), (self._value(),) if kind is Kind.SET else ())

    def _value(self) -> bytes:
        return f"{self._name}, {self._asked}, {self._chance.random()}".encode()


class _Editor:
    """A program that knows files alone: it reads them, puts others in their places, and removes them."""

    def __init__(self, recorder: Recorder, folder: Path, name: str, seed: str) -> None:
        self._recorder = recorder
        self._folder = folder
        self._draft = folder.parent / f".{name}.tmp"
        self._name = name
        self._chance = random.Random(seed)
        self._edits = 0

    def work(self) -> None:
        """Edit a file, or read it."""
        self._edits += 1
        key = self._chance.choice(EDITED)
        kind = self._chance.choice([Kind.LOOK, Kind.LOOK, Kind.REPLACE, Kind.UNLINK])
        value = f"{self._name}, {self._edits}, {self._chance.random()}".encode()
        path = self._folder / key
        if kind is Kind.LOOK:
            self._recorder.record(self._name, Call(kind, (key,)), lambda: Answer((_content(path),), (None,)))
        elif kind is Kind.UNLINK:
            self._recorder.record(self._name, Call(kind, (key,)), lambda: _unlinked(path))
        else:
            self._draft.write_bytes(value)
            call = Call(kind, (key,), (value,))
            self._recorder.record(self._name, call, lambda: _replaced(self._draft, path))
        time.sleep(self._chance.random() * _PATIENCE_S)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._draft.unlink(missing_ok=True)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _unlinked(path: Path) -> Answer:
    try:
        path.unlink()
    except FileNotFoundError:
        return Answer(code=MISSING)
    return Answer(numbers=(None,))


def _replaced(draft: Path, path: Path) -> Answer:
    while True:
        path.parent.mkdir(exist_ok=True)
        try:
            os.replace(draft, path)
        except FileNotFoundError:
            continue  # kvfs has removed the folder with its last file
        return Answer(numbers=(None,))
