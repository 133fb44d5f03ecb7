"""What is compared, a line each."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple
from urllib.parse import quote

from benchmarks import servers, wrk
from benchmarks.ceiling import OTHER_VALUE, VALUE
from benchmarks.servers import LOAD_CPU, Running
from benchmarks.wrk import Load, Measured, Request

KV: Final = "/api/v1/sqlite/kv"
KEYS: Final = 1000
MANY_KEYS: Final = 1_000_000
BATCH: Final = 100
LARGE: Final = 1 << 20


class Figure(NamedTuple):
    """What a line came to: the median of `all`, and the medians of what it was made of."""

    value: float
    all: Sequence[float]
    ours: float
    theirs: float | None = None


@dataclass(frozen=True)
class Line:
    """One comparison: what it needs besides kvfs, and the least, or the most, that its figure should be."""

    name: str
    measure: Callable[[Bench], Figure]
    goal: float | None = None
    at_most: bool = False
    needs: Sequence[str] = ()
    short: bool = False
    digits: int = 0

    def reached(self, figure: Figure) -> bool:
        if self.goal is None:
            return True
        return figure.value <= self.goal if self.at_most else figure.value >= self.goal


class Bench:
    """The servers, each started when it is first asked for, with what is stored in them."""

    def __init__(self, home: Path, stack: ExitStack, *, rounds: int, seconds: int) -> None:
        self.home = home
        self.data = home / "data"
        self.rounds = rounds
        self.seconds = seconds
        self._stack = stack

    # --- servers -------------------------------------------------------------------------------------------

    @cached_property
    def kvfs(self) -> Running:
        """With a table and a folder of 1000 keys each, and a large value in the folder."""
        (self.data / "folder").mkdir(parents=True)
        running = self._stack.enter_context(servers.kvfs(self.data))
        for target in (self.table, self.folder):
            fill(running.port, target, KEYS)
        put(running.port, f"{KV}/large?{self.folder}", bytes(LARGE))
        return running

    @cached_property
    def ceiling(self) -> Running:
        return self._stack.enter_context(servers.ceiling())

    @cached_property
    def etcd(self) -> Running:
        """With the same keys and values as the table."""
        running = self._stack.enter_context(servers.etcd(self.home))
        for number in range(KEYS):
            request(running.port, "POST", "/v3/kv/put", etcd_put(VALUE, number).body)
        return running

    @cached_property
    def nginx(self) -> Running:
        """In front of the folder's files, and of an empty folder `dav`."""
        assert self.kvfs
        (self.data / "folder" / "dav").mkdir()
        return self._stack.enter_context(servers.nginx(self.home, self.data / "folder"))

    # --- stores --------------------------------------------------------------------------------------------

    @property
    def table(self) -> str:
        """The parameters that name the table; so do the others."""
        return self._store("table.db")

    @property
    def folder(self) -> str:
        return self._store("folder")

    @cached_property
    def many(self) -> str:
        """A table of a million keys."""
        store = self._store("many.db")
        fill(self.kvfs.port, store, MANY_KEYS)
        return store

    def _store(self, name: str) -> str:
        return f"db={quote(str(self.data / name))}&table=keys"

    # --- measuring -----------------------------------------------------------------------------------------

    def run(self, load: Load, *, delay_ms: int = 0) -> Measured:
        return wrk.run(load, self.seconds, cpu=LOAD_CPU, delay_ms=delay_ms)

    def compare(self, ours: Load, theirs: Load, *, scale: float = 1.0) -> Figure:
        """The rate of one in terms of the other, times `scale`."""
        sides: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.rounds):
            for side, load in zip(sides, (ours, theirs), strict=True):
                side.append(self.run(load).per_s)
        ratios = [scale * one / other for one, other in zip(*sides, strict=True)]
        return Figure(median(ratios), ratios, *map(median, sides))


# --- requests --------------------------------------------------------------------------------------------


def key(number: int) -> str:
    return f"key:{number:07d}"


def gets(store: str) -> list[Request]:
    return [Request("GET", f"{KV}/{key(number)}?{store}") for number in range(KEYS)]


def puts(store: str) -> list[Request]:
    """Each key in turn, and again with another value: a file that holds its value already is left alone."""
    return [Request("PUT", f"{KV}/{key(number)}?{store}", value) for value, number in _each()]


def _each() -> Iterator[tuple[bytes, int]]:
    return product((VALUE, OTHER_VALUE), range(KEYS))


def batch(store: str) -> list[Request]:
    """Sets of `BATCH` keys each."""
    made = []
    for start in range(0, KEYS, BATCH):
        items = [{"key": key(number), "value": VALUE.decode()} for number in range(start, start + BATCH)]
        body = json.dumps({"items": items}).encode()
        made.append(Request("POST", f"{KV}/batch/set?{store}", body))
    return made


def etcd_put(value: bytes, number: int) -> Request:
    body = {"key": _base64(key(number).encode()), "value": _base64(value)}
    return Request("POST", "/v3/kv/put", json.dumps(body).encode())


def etcd_range(number: int) -> Request:
    return Request("POST", "/v3/kv/range", json.dumps({"key": _base64(key(number).encode())}).encode())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def request(port: int, method: str, target: str, body: bytes | None = None) -> bytes:
    """Ask once; raises `RuntimeError` for what is no success."""
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{target}", body, headers, method=method)
    try:
        with urllib.request.urlopen(asked) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as exc:
        raise RuntimeError(f"{method} {target}: {exc.read()[:300]!r}") from exc
    return data


def put(port: int, target: str, value: bytes) -> None:
    request(port, "PUT", target, value)


def fill(port: int, store: str, count: int) -> None:
    """Set so many keys."""
    for start in range(0, count, BATCH):
        numbers = range(start, start + BATCH)
        items = [{"key": key(number), "value": VALUE.decode()} for number in numbers]
        body = json.dumps({"items": items}).encode()
        request(port, "POST", f"{KV}/batch/set?{store}&create_db_if_missing=true", body)


# --- lines -----------------------------------------------------------------------------------------------


def _ceiling(bench: Bench, requests: Sequence[Request], *, connections: int = 32) -> Load:
    return Load(bench.ceiling.port, requests, connections=connections)


def table_get(bench: Bench) -> Figure:
    requests = gets(bench.table)
    return bench.compare(Load(bench.kvfs.port, requests), _ceiling(bench, requests))


def table_get_etcd(bench: Bench) -> Figure:
    ranges = [etcd_range(number) for number in range(KEYS)]
    return bench.compare(Load(bench.kvfs.port, gets(bench.table)), Load(bench.etcd.port, ranges))


def many_get(bench: Bench) -> Figure:
    """Templates for both sides, so that the load costs the same."""
    many = Load(bench.kvfs.port, [Request("GET", f"{KV}/key:%07d?{bench.many}")], random=MANY_KEYS)
    few = Load(bench.kvfs.port, [Request("GET", f"{KV}/key:%07d?{bench.table}")], random=KEYS)
    return bench.compare(many, few)


def table_put(bench: Bench) -> Figure:
    requests = puts(bench.table)
    return bench.compare(Load(bench.kvfs.port, requests), _ceiling(bench, requests))


def table_put_etcd(bench: Bench) -> Figure:
    return bench.compare(kvfs_puts(bench), etcd_puts(bench))


def lone_put(bench: Bench) -> Figure:
    requests = puts(bench.table)
    return bench.compare(
        Load(bench.kvfs.port, requests, connections=1), _ceiling(bench, requests, connections=1)
    )


def hot_incr(bench: Bench) -> Figure:
    incr = Request("POST", f"{KV}/counter/incr?{bench.table}", b'{"delta": 1}')
    return bench.compare(Load(bench.kvfs.port, [incr]), _ceiling(bench, puts(bench.table)))


def batches(bench: Bench) -> Figure:
    return bench.compare(
        Load(bench.kvfs.port, batch(bench.table)), Load(bench.kvfs.port, puts(bench.table)), scale=BATCH
    )


def folder_get(bench: Bench) -> Figure:
    requests = gets(bench.folder)
    return bench.compare(Load(bench.kvfs.port, requests), _ceiling(bench, requests))


def folder_put(bench: Bench) -> Figure:
    requests = puts(bench.folder)
    return bench.compare(Load(bench.kvfs.port, requests), _ceiling(bench, requests))


def folder_get_nginx(bench: Bench) -> Figure:
    files = [Request("GET", f"/keys/{key(number)}") for number in range(KEYS)]
    return bench.compare(Load(bench.kvfs.port, gets(bench.folder)), Load(bench.nginx.port, files))


def folder_put_nginx(bench: Bench) -> Figure:
    files = [Request("PUT", f"/dav/{key(number)}", value) for value, number in _each()]
    return bench.compare(Load(bench.kvfs.port, puts(bench.folder)), Load(bench.nginx.port, files))


def large_get(bench: Bench) -> Figure:
    ours = Request("GET", f"{KV}/large?{bench.folder}")
    return bench.compare(
        Load(bench.kvfs.port, [ours]), Load(bench.nginx.port, [Request("GET", "/keys/large")])
    )


def list_pages(bench: Bench) -> Figure:
    """The last page's time in terms of the first one's, on one connection."""
    last = Request("GET", f"{KV}?{bench.many}&limit=100&after={key(MANY_KEYS - 101)}")
    first = Request("GET", f"{KV}?{bench.many}&limit=100")
    times = [Load(bench.kvfs.port, [page], connections=1) for page in (first, last)]
    return bench.compare(*times)


def workers(bench: Bench) -> Figure:
    """GET on all cores: two workers in terms of one, the load among them."""
    sides: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        loads = []
        for count in (2, 1):
            options = ("--workers", str(count))
            running = stack.enter_context(servers.kvfs(bench.data, *options, pinned=False))
            assert bench.kvfs
            loads.append(Load(running.port, gets(bench.table)))
        for _ in range(bench.rounds):
            for side, load in zip(sides, loads, strict=True):
                side.append(wrk.run(load, bench.seconds, cpu=None).per_s)
    ratios = [one / other for one, other in zip(*sides, strict=True)]
    return Figure(median(ratios), ratios, *map(median, sides))


def kvfs_gets(bench: Bench) -> Load:
    return Load(bench.kvfs.port, gets(bench.table))


def kvfs_puts(bench: Bench) -> Load:
    return Load(bench.kvfs.port, puts(bench.table))


def etcd_puts(bench: Bench) -> Load:
    return Load(bench.etcd.port, [etcd_put(value, number) for value, number in _each()])


def p99(bench: Bench, load_of: Callable[[Bench], Load]) -> Figure:
    """How long 99 of 100 answers take at half of the top rate, in milliseconds."""
    load = load_of(bench)._replace(connections=64)
    found, rates = [], []
    for _ in range(bench.rounds):
        top = bench.run(load)
        delay_ms = round(2 * 1000 * load.connections / top.per_s)
        half = bench.run(load, delay_ms=delay_ms)
        found.append(half.p99_ms)
        rates.append(half.per_s / top.per_s)
    return Figure(median(found), found, median(found), None)


def start(bench: Bench) -> Figure:
    """From the start of the process to its first answer, in seconds."""
    times = []
    for _ in range(bench.rounds):
        began = time.perf_counter()
        with servers.kvfs(bench.home / "idle"):
            times.append(time.perf_counter() - began)
    return Figure(median(times), times, median(times))


def idle_memory(bench: Bench) -> Figure:
    """A server's that has answered once, in MiB."""
    with servers.kvfs(bench.home / "idle") as running:
        mib = resident_mib(running.pid)
    return Figure(mib, [mib], mib)


def resident_mib(pid: int) -> float:
    """The memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def sql(bench: Bench) -> Figure:
    """Rows of a SELECT over HTTP, in terms of apsw in one process with JSON: `benchmarks/sql.py` has more."""
    command = [sys.executable, str(servers.ROOT / "benchmarks" / "sql.py"), "--at", str(bench.home)]
    done = subprocess.run(
        [*command, "--rounds", str(bench.rounds)],
        cwd=servers.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("rows/s of a SELECT"))
    theirs, ours, share = (float(word.replace(",", "")) for word in line.split()[-3:])
    return Figure(share, [share], ours, theirs)


LINES: Final = (
    Line("table GET, of the ceiling's", table_get, 0.85, short=True),
    Line("table GET, of etcd's range", table_get_etcd, 2.5, needs=["etcd"]),
    Line("table GET of a million keys, of 1000 keys", many_get, 0.85),
    Line("table PUT, of the ceiling's", table_put, 0.75, short=True),
    Line("table PUT, of etcd's put", table_put_etcd, 1.2, needs=["etcd"], short=True),
    Line("table PUT, one connection, of the ceiling's", lone_put, 0.5, short=True),
    Line("incr of one key, of the ceiling's PUT", hot_incr, 0.7, short=True),
    Line("keys by batches of 100, of single PUTs", batches, 10, short=True),
    Line("folder GET, of the ceiling's", folder_get, 0.7, short=True),
    Line("folder GET, of nginx", folder_get_nginx, needs=["nginx"]),
    Line("folder PUT, of the ceiling's", folder_put, 0.45, short=True),
    Line("folder PUT, of nginx's, which is not durable", folder_put_nginx, 1.0, needs=["nginx"]),
    Line("folder GET of 1 MiB, of nginx", large_get, 0.5, needs=["nginx"]),
    Line("time of the last page of a million keys, of the first", list_pages, 1.3, at_most=True),
    Line("table GET by two workers, of one", workers, 1.3),
    Line(
        "p99 of table GET at half of the top rate, ms",
        partial(p99, load_of=kvfs_gets),
        5,
        at_most=True,
        digits=2,
    ),
    Line(
        "p99 of table PUT at half of the top rate, ms",
        partial(p99, load_of=kvfs_puts),
        10,
        at_most=True,
        digits=2,
    ),
    Line(
        "p99 of etcd's put at half of its top rate, ms",
        partial(p99, load_of=etcd_puts),
        needs=["etcd"],
        digits=2,
    ),
    Line("start to first answer, s", start, 0.6, at_most=True, short=True, digits=2),
    Line("idle memory, MiB", idle_memory, 60, at_most=True, short=True, digits=1),
    Line("rows of a SELECT, of apsw's in one process", sql, 0.5),
)
