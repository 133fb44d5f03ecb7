"""What an answer costs, and what it cannot cost less than: CPU time, in microseconds each.

    python benchmarks/floors.py [--rounds 60] [--at PATH] [--profile WHAT]

The server's connections get requests from this process and not from a socket, so that all that is measured is
the server: the way through aiohttp's parser, routes, engine, SQLite and files. Beside that stand the parts
that nobody can do without: aiohttp answering a constant, SQLite doing a batch's statements, the file system
making and replacing files. Each figure is the least of many short rounds, which others on the machine
disturb the least. `--profile` prints where the event loop's thread spends its time instead.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import apsw
import uvloop
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import ceiling
from benchmarks.ceiling import OTHER_VALUE, VALUE
from benchmarks.wrk import Request
from kvfs.directory import renames
from kvfs.engine import Engine
from kvfs.paths import Paths
from server.app import App, Settings, turns_of
from server.protocol import Server

KV: Final = "/api/v1/sqlite/kv"
KEYS: Final = 200
CONNECTIONS: Final = 32
TURNS: Final = 4

Make = Callable[[], Any]
"""Makes a connection's protocol."""


class Ends(asyncio.Transport):
    """The end of a connection to which answers are written; they are counted, and dropped."""

    def __init__(self, answered: Callable[[bytes], None], unused: socket.socket) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2), "socket": unused})
        self._answered = answered

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._answered(bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Line:
    """Connections, each of which asks as soon as all have their answers."""

    def __init__(self, make: Make) -> None:
        self._left = 0
        self._done = asyncio.get_running_loop().create_future()
        self._protocols = [make() for _ in range(CONNECTIONS)]
        self._unused = socket.socket()
        for each in self._protocols:
            each.connection_made(Ends(self._answered, self._unused))

    def close(self) -> None:
        for each in self._protocols:
            each.connection_lost(None)
        self._unused.close()

    async def ask(self, requests: Sequence[bytes], first: int) -> None:
        """One request for each connection, the `first` and those after it."""
        self._left = len(self._protocols)
        self._done = asyncio.get_running_loop().create_future()
        for number, each in enumerate(self._protocols, first):
            each.data_received(requests[number % len(requests)])
        await self._done

    def _answered(self, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(answer.decode())
        self._left -= 1
        if not self._left:
            self._done.set_result(None)


async def per_request(make: Make, requests: Sequence[bytes], rounds: int) -> float:
    """CPU time of an answer, of all threads."""
    times, first = [], 0
    with closing(Line(make)) as line:
        await asyncio.sleep(0.05)
        for _ in range(rounds):
            began = time.process_time()
            for _ in range(TURNS):
                await line.ask(requests, first)
                first += CONNECTIONS
            times.append((time.process_time() - began) / (TURNS * CONNECTIONS))
    await asyncio.sleep(0)
    return min(times) * 1e6


def gets(store: str) -> list[bytes]:
    return [Request("GET", f"{KV}/key:{number:07d}?{store}").text() for number in range(KEYS)]


def puts(store: str) -> list[bytes]:
    """Each key twice, with one value and then another."""
    return [
        Request("PUT", f"{KV}/key:{number:07d}?{store}&create_db_if_missing=true", value).text()
        for value in (VALUE, OTHER_VALUE)
        for number in range(KEYS)
    ]


def incr(store: str) -> list[bytes]:
    return [Request("POST", f"{KV}/counter/incr?{store}", b'{"delta": 1}').text()]


@asynccontextmanager
async def served(home: Path) -> AsyncIterator[Make]:
    """kvfs, with its data in `home`."""
    loop = asyncio.get_running_loop()
    engine = Engine(Paths(str(home), any_absolute=True), turn=turns_of(loop))
    try:
        settings = Settings(data_dir=str(home))
        app = App(engine, loop, settings, None)
        try:
            yield Server(app.handle, app.refuse, settings.bounds)
        finally:
            app.stop()
            app.close()
    finally:
        # Its writers end in turns of the loop.
        await asyncio.to_thread(engine.close)


def constants() -> Make:
    """aiohttp, with the handlers of the ceiling."""
    app = web.Application()
    app.router.add_get(KV + "/{key:.+}", ceiling.get)
    app.router.add_put(KV + "/{key:.+}", ceiling.put)
    app.freeze()
    return app._make_handler(access_log=None)


def least(act: Callable[[int], object], rounds: int, size: int) -> float:
    """CPU time of one of `size` that `act` does at once, when it is told the number of its turn."""
    times = []
    for turn in range(rounds):
        began = time.process_time()
        act(turn)
        times.append((time.process_time() - began) / size)
    return min(times) * 1e6


def sqlite(home: Path, rounds: int) -> float:
    """A row replaced and an op logged with its value, in transactions of 32, as a table does it."""
    with closing(apsw.Connection(str(home / "floor.db"))) as connection:
        for pragma in ("page_size = 1024", "journal_mode = wal", "synchronous = full"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE kv (key TEXT PRIMARY KEY, value, a, b, c, d, n) WITHOUT ROWID")
        connection.execute(
            "CREATE TABLE log"
            " (seq INTEGER PRIMARY KEY, key, n, type, origin, ts, a, size, hash, b, c, d, e, f, v)"
        )
        connection.execute("CREATE UNIQUE INDEX by_key ON log (key, n)")
        put = (
            "INSERT INTO kv VALUES (?,?,?,?,?,?,?) ON CONFLICT (key) DO UPDATE SET"
            " value = excluded.value, c = excluded.c, n = excluded.n"
        )
        log = f"INSERT INTO log VALUES ({','.join('?' * 15)})"
        value, digest = VALUE.decode(), os.urandom(16)

        def batch(turn: int) -> None:
            keys = [f"key:{(turn * 32 + number) % KEYS:07d}" for number in range(32)]
            with connection:
                for key in keys:
                    connection.execute("SELECT value, a, b, c, d, n FROM kv WHERE key = ?", (key,)).fetchall()
                connection.executemany(
                    log,
                    [
                        (None, key, turn, "set", "api", turn, "json", 100, digest, 1, 1, None, None, 0, value)
                        for key in keys
                    ],
                )
                connection.executemany(put, [(key, value, "json", 1, 1, None, turn) for key in keys])

        return least(batch, rounds * TURNS, 32)


def files(home: Path, rounds: int) -> float:
    """A file made, written, exchanged with the one in place, and that one removed."""
    for name in ("new", "there"):
        (home / name).mkdir()
    for number in range(32):
        (home / "there" / str(number)).write_bytes(VALUE)
    new, there = (os.open(home / name, os.O_PATH) for name in ("new", "there"))

    def replace(turn: int) -> None:
        for number in range(32):
            name = str(number)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=new)
            os.write(fd, VALUE)
            os.close(fd)
            renames.exchange(new, name, there, name)
            os.unlink(name, dir_fd=new)

    try:
        return least(replace, rounds * TURNS, 32)
    finally:
        os.close(new)
        os.close(there)


async def measure(home: Path, rounds: int, profile: str | None) -> None:
    table, folder = f"db={home}/table.db&table=keys", f"db={home}/folder&table=keys"
    (home / "folder").mkdir()
    async with served(home) as kvfs:
        for store in (table, folder):
            await per_request(kvfs, puts(store), 2 * KEYS // (TURNS * CONNECTIONS) + 1)
        # What was just written is looked at again for a while.
        await asyncio.sleep(2)
        lines: dict[str, tuple[Make, list[bytes]]] = {
            "table GET": (kvfs, gets(table)),
            "table PUT": (kvfs, puts(table)),
            "incr of one key": (kvfs, incr(table)),
            "folder GET": (kvfs, gets(folder)),
            "folder PUT": (kvfs, puts(folder)),
        }
        if profile is not None:
            with cProfile.Profile() as profiler:
                await per_request(*lines[profile], rounds)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
            return
        constant = constants()
        lines = {"aiohttp, GET": (constant, gets("")), "aiohttp, PUT": (constant, puts("")), **lines}
        for name, (make, requests) in lines.items():
            print(f"{name:<36} {await per_request(make, requests, rounds):6.1f} us", flush=True)
    print(f"{'SQLite, a row and its op':<36} {sqlite(home, rounds):6.1f} us", flush=True)
    print(f"{'file system, a file replaced':<36} {files(home, rounds):6.1f} us", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--at", default=".", help="where to keep the stores meanwhile")
    parser.add_argument("--profile", metavar="WHAT", help="a line of what is printed without this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="floors-", dir=options.at) as home:
        uvloop.run(measure(Path(home).resolve(), options.rounds, options.profile))


if __name__ == "__main__":
    main()
