"""A recorder on real files, with a book of what it had settled instead of a store.

As a program, `python -m tests.directory.recording FOLDER COOKIES SCAN_INTERVAL_S`, it does as `Program` asks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from kvfs.directory.debounce import Sight
from kvfs.directory.files import Tree
from kvfs.directory.looks import Signature
from kvfs.directory.names import NoKey, is_ignored, key_of
from kvfs.directory.recorder import Recorder
from kvfs.errors import Overloaded
from kvfs.pending import Pending

ROOT = Path(__file__).parents[2]
NEVER_S = 3600.0

DELETED = "deleted"
CHANGED = "changed"


class Book:
    """What was settled, in order, and what every key's file looked like then. A `Looker`."""

    def __init__(self, folder: str) -> None:
        self.settled: list[tuple[str, str]] = []
        self.refusals = 0
        self.calls = 0
        self._tree = Tree(folder)
        # Guards what is known.
        self._lock = threading.Lock()
        self._known: dict[str, Signature] = {}

    def close(self) -> None:
        self._tree.close()

    def learn(self, key: str) -> None:
        """Know a key's file as it is, as after a write of the server's own."""
        signature = self._signature(key)
        assert signature is not None
        with self._lock:
            self._known[key] = signature

    def learn_all(self) -> None:
        for key in self._keys_in(""):
            self.learn(key)

    def keys(self) -> set[str]:
        with self._lock:
            return set(self._known)

    def settle(self, keys: Sequence[str]) -> Pending[bool]:
        self.calls += 1
        if self.refusals:
            self.refusals -= 1
            raise Overloaded("not now", retry_after_s=1)
        for key in keys:
            self._settle(key)
        answer: Pending[bool] = Pending()
        answer.set(True, None)
        return answer

    # --- what a recorder asks --------------------------------------------------------------------------

    def sight(self, key: str) -> Sight:
        signature = self._signature(key)
        with self._lock:
            known = self._known.get(key)
        return Sight(signature, known, known is not None)

    def keys_of(self, path: str) -> Iterator[str]:
        names = path.split("/")
        if any(is_ignored(name) for name in names):
            return
        own = key_of(names)
        if own is not None:
            yield own
        yield from self._keys_in(path)
        with self._lock:
            below = [key for key in self._known if key.startswith(f"{path}/")]
        yield from below

    def differing(self) -> Iterator[str]:
        found = set(self._keys_in(""))
        with self._lock:
            found.update(self._known)
        for key in sorted(found):
            if not self.sight(key).nothing_new:
                yield key

    # --- parts -----------------------------------------------------------------------------------------

    def _settle(self, key: str) -> None:
        signature = self._signature(key)
        with self._lock:
            if signature is None:
                self._known.pop(key, None)
            else:
                self._known[key] = signature
            self.settled.append((key, CHANGED if signature is not None else DELETED))

    def _signature(self, key: str) -> Signature | None:
        try:
            found = self._tree.look(key)
        except NoKey:
            return None
        return None if found is None else found.signature

    def _keys_in(self, path: str) -> Iterator[str]:
        for above, folders, files in os.walk(os.path.join(self._tree.path, path)):
            folders[:] = [name for name in folders if not is_ignored(name)]
            for name in files:
                whole = os.path.join(above, name)
                if os.path.islink(whole) or is_ignored(name):
                    continue
                key = key_of(os.path.relpath(whole, self._tree.path).split("/"))
                if key is not None:
                    yield key


class Program:
    """A recorder in a process of its own, which tells what is settled when it is asked."""

    def __init__(
        self, folder: Path, cookies: Path, *, scan_interval_s: float = NEVER_S, before: Sequence[str] = ()
    ) -> None:
        self.settled: set[str] = set()
        arguments = [str(folder), str(cookies), str(scan_interval_s)]
        command = [*before, sys.executable, "-m", "tests.directory.recording", *arguments]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGCONT)
        self._process.communicate(timeout=10)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def limit_watches(self, limit: int) -> None:
        """Set how many watches there may be, in a user namespace of its own."""
        self._ask(f"limit {limit}")

    def start(self) -> None:
        self._ask("start")

    def look(self) -> str:
        """The watcher's state; takes note of what is settled."""
        watcher, *settled = self._ask("look")
        self.settled.update(settled)
        return watcher

    def has_settled(self, keys: Iterable[str]) -> bool:
        self.look()
        return self.settled.issuperset(keys)

    def _ask(self, question: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(question, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the program ended: {self._process.wait()}"
        return answer.split()


def _main(folder: str, cookies: str, scan_interval_s: str) -> None:
    told = 0
    with closing(Book(folder)) as book, ExitStack() as started:
        for question in sys.stdin:
            match question.split():
                case ["limit", limit]:
                    Path("/proc/sys/user/max_inotify_watches").write_text(limit)
                    print("limited", flush=True)
                case ["start"]:
                    recorder = Recorder(
                        book,
                        book.settle,
                        folder=folder,
                        cookies=cookies,
                        scan_interval_s=float(scan_interval_s),
                    )
                    started.enter_context(closing(recorder))
                    print("started", flush=True)
                case _:
                    settled = [key for key, _ in book.settled[told:]]
                    told += len(settled)
                    print(recorder.status().watcher, *settled, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
