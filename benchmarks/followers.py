"""What a thousand followers of a change feed cost a writer, and whether each gets every op once and in order.

    python benchmarks/followers.py [--followers 1000] [--writers 16] [--seconds 5] [--rounds 3] [--directory]

A server, and in a process of their own the followers, who read server-sent events as fast as they come. The
rounds write with nobody following and then with all of them; the median of their ratios is shown.
After each round every follower must have got, byte for byte, what the first one got, whose events are counted
one by one; while it was written to, they may fall behind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

BASE = "/api/v1/sqlite"
GOAL = 0.8
START_S = 20.0
END_S = 300.0
READ_BYTES = 1 << 20
EVENT = re.compile(rb"event: change\nid: [0-9a-f]+\.([0-9]+)\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Followers of a change feed, and a writer.")
    parser.add_argument("--followers", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=16, help="connections that write at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each round writes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", action="store_true", help="a folder of files instead of a table")
    parser.add_argument("--follow", nargs=2, metavar=("PORT", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    allow_open_files(options.followers + 100)
    if options.follow:
        follow(int(options.follow[0]), options.follow[1], options.followers)
        return
    alone, followed = [], []
    with (
        tempfile.TemporaryDirectory(prefix="kvfs-bench-", dir=Path.cwd()) as home,
        served(Path(home)) as (port, process),
    ):
        store = Store(port, process.pid, Path(home), directory=options.directory)
        for number in range(options.rounds):
            alone.append(store.write(f"alone-{number}", options.writers, options.seconds))
            with followers(store, options.followers) as watching:
                followed.append(store.write(f"followed-{number}", options.writers, options.seconds))
                late_s = watching.until(store.seq())
            rates = f"alone {alone[-1]}   followed {followed[-1]}"
            print(f"{rates}   all told {late_s:5.1f} s later")
    pairs = [*zip(followed, alone, strict=True)]
    ratio = median(with_them.per_s / without.per_s for with_them, without in pairs)
    cost = median(with_them.cost_s / without.cost_s for with_them, without in pairs)
    kind = "a folder" if options.directory else "a table"
    met = "met" if ratio >= GOAL else "MISSED"
    print(f"{options.followers} followers of {kind}: a writer's rate is {ratio:.2f} of what it is alone")
    print(f"a write takes {cost:.2f} of the processor that it takes alone, deliveries included")
    print(f"the goal for the rate is {GOAL}: {met}")
    sys.exit(0 if ratio >= GOAL else 1)


# --- the writer ------------------------------------------------------------------------------------------


class Rate(NamedTuple):
    """Writes a second, and what one takes of a processor in the server, deliveries included."""

    per_s: float
    cost_s: float

    def __str__(self) -> str:
        return f"{self.per_s:6.0f} /s, {self.cost_s * 1e6:4.0f} µs each"


def processor_s(pid: int) -> float:
    """What a process has used of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Store:
    """The store that is written to."""

    def __init__(self, port: int, pid: int, home: Path, *, directory: bool) -> None:
        self.port = port
        self.pid = pid
        db = home / "db" if directory else home / "data" / "file.db"
        if directory:
            db.mkdir()
        self.query = urlencode({"db": db, "table": "things"})
        self.ask("PUT", f"/kv/first?{self.query}&create_db_if_missing=true", b"1")

    def ask(self, method: str, target: str, body: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self.port}{BASE}{target}"
        request = urllib.request.Request(url, body, {"Content-Type": "text/plain"}, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def cursor(self) -> str:
        """Where the log ends."""
        cursor: str = self.ask("GET", f"/changes?{self.query}")["cursor"]
        return cursor

    def seq(self) -> int:
        return int(self.cursor().rpartition(".")[2])

    def write(self, name: str, connections: int, seconds: float) -> Rate:
        """Write on so many connections at once, each as soon as it is answered."""
        sockets = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(connections)]
        poll = select.epoll()
        by_fd = {each.fileno(): each for each in sockets}
        for number, each in enumerate(sockets):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(each.fileno(), select.EPOLLIN)
            each.sendall(self._put(name, number))
        written, began, used_s = 0, time.perf_counter(), processor_s(self.pid)
        waiting = connections
        while waiting:
            over = time.perf_counter() - began > seconds
            for fd, _ in poll.poll():
                answer = by_fd[fd].recv(65536)
                assert answer.startswith(b"HTTP/1.1 200"), answer
                written += 1
                if over:
                    waiting -= 1
                    poll.unregister(fd)
                else:
                    by_fd[fd].sendall(self._put(name, written % 1000))
        rate = Rate(written / (time.perf_counter() - began), (processor_s(self.pid) - used_s) / written)
        for each in sockets:
            each.close()
        return rate

    def _put(self, name: str, number: int) -> bytes:
        head = f"PUT {BASE}/kv/{name}/{number}?{self.query} HTTP/1.1\r\nHost: kvfs\r\n"
        return (
            head + "Content-Type: text/plain\r\nContent-Length: 20\r\n\r\n"
        ).encode() + b"twenty bytes of text"


@contextmanager
def served(home: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server on a free port."""
    log = home / "server.log"
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(home / "data")]
    command += ["--allow-any-absolute-db-path", "--feed-checkpoint", "3600"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while not (listening := re.search(r"listening on http://[^:]+:([0-9]+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(log.read_text() or "the server does not start")
            time.sleep(0.05)
        yield int(listening[1]), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        print(log.read_text().partition("\n")[2], end="")


# --- the followers ---------------------------------------------------------------------------------------


@dataclass
class Watching:
    """The process of the followers, as seen from outside."""

    process: subprocess.Popen[str]

    def until(self, seq: int) -> float:
        """Wait until all have got everything up to this seq; how many seconds that took."""
        began = time.perf_counter()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(seq, file=self.process.stdin, flush=True)
        told = self.process.stdout.readline()
        if told != "all\n":
            sys.exit(f"the followers failed: {told}{self.process.stdout.read()}")
        return time.perf_counter() - began


@contextmanager
def followers(store: Store, count: int) -> Iterator[Watching]:
    """So many followers, connected and ready."""
    target = f"{BASE}/changes/stream?{store.query}&since={store.cursor()}"
    command = [sys.executable, __file__, "--followers", str(count), "--follow", str(store.port), target]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
    try:
        assert process.stdout.readline() == "ready\n"
        yield Watching(process)
    finally:
        process.kill()
        process.wait()


@dataclass
class Follower:
    """One connection, and how much of the stream it has got after the head."""

    socket: socket.socket
    head: bytes = b""
    got: int = -1


@dataclass
class Truth:
    """What all must get: the stream of whoever is ahead, whose events are counted."""

    stream: bytearray = field(default_factory=bytearray)
    parsed: int = 0
    seq: int = 0

    def check(self, follower: Follower, data: bytes) -> None:
        """Compare what one got with what the others did."""
        known = self.stream[follower.got : follower.got + len(data)]
        assert data.startswith(known), "two followers were told different things"
        self.stream += data[len(known) :]
        follower.got += len(data)

    def parse(self) -> None:
        """Count the events that are whole: their seqs have no holes."""
        end = self.stream.rfind(b"\n\n") + 2
        for match in EVENT.finditer(self.stream, self.parsed, max(end, self.parsed)):
            seq = int(match[1])
            assert self.seq in (0, seq - 1), f"{seq} was told after {self.seq}"
            self.seq = seq
        self.parsed = max(end, self.parsed)


def follow(port: int, target: str, count: int) -> None:
    """Be the followers: say `ready`, read a seq from stdin, say `all` when everybody has got so far."""
    request = f"GET {target} HTTP/1.1\r\nHost: kvfs\r\n\r\n".encode()
    poll = select.epoll()
    every: dict[int, Follower] = {}
    truth = Truth()
    for _ in range(count):
        follower = Follower(socket.create_connection(("127.0.0.1", port)))
        follower.socket.sendall(request)
        every[follower.socket.fileno()] = follower
        poll.register(follower.socket.fileno(), select.EPOLLIN)
    while not all(each.got > 0 for each in every.values()):
        take(poll, every, truth)
    print("ready", flush=True)
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    while not (asked := take(poll, every, truth)):
        pass
    poll.unregister(sys.stdin.fileno())
    truth.parse()
    deadline = time.monotonic() + END_S
    while truth.seq < asked or any(each.got < len(truth.stream) for each in every.values()):
        assert time.monotonic() < deadline, f"told up to {truth.seq} of {asked}"
        take(poll, every, truth)
        truth.parse()
    print("all", flush=True)
    sys.stdin.readline()


def take(poll: select.epoll, every: dict[int, Follower], truth: Truth) -> int:
    """Take what has come; the seq that was asked for, 0 if none was."""
    asked = 0
    for fd, _ in poll.poll(1.0):
        follower = every.get(fd)
        if follower is None:
            asked = int(sys.stdin.readline())
            continue
        data = follower.socket.recv(READ_BYTES)
        assert data, "a follower was cut off"
        if follower.got < 0:
            follower.head += data
            head, end, data = follower.head.partition(b"\r\n\r\n")
            if not end:
                continue
            assert head.startswith(b"HTTP/1.1 200"), head
            follower.got = 0
        truth.check(follower, data)
    return asked


def allow_open_files(count: int) -> None:
    """Each connection takes one, at both ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


if __name__ == "__main__":
    main()
