"""SQL over HTTP against the same SQL through apsw in one process.

    python benchmarks/sql.py [--rounds 5] [--at PATH]

Each round does one and then the other, so that both meet the machine in the same mood; the medians of the
rounds are shown, and kvfs's share of apsw's rate. apsw's own figure for the rows has the JSON that they are
answered in, by orjson. Both commit durably (WAL, synchronous=FULL), on the same disk.
"""

from __future__ import annotations

import argparse
import http.client
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from urllib.parse import quote

import apsw
import orjson

COLUMNS = "id INTEGER PRIMARY KEY, name TEXT, price REAL, amount INTEGER"
ROWS = 10_000
BATCH = 1000
INSERT = "INSERT INTO t (name, price, amount) VALUES (?, ?, ?)"
SELECT = f"SELECT * FROM t LIMIT {ROWS}"
GOAL = 0.5


class Direct:
    """apsw in this process."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", "FULL")
        self._connection.execute(f"CREATE TABLE t ({COLUMNS})")

    def insert(self, rows: list[list[object]]) -> None:
        with self._connection:
            self._connection.executemany(INSERT, rows)

    def select(self) -> int:
        cursor = self._connection.execute(SELECT)
        names = [column[0] for column in cursor.get_description()]
        return len(orjson.dumps([dict(zip(names, row, strict=True)) for row in cursor.fetchall()]))


class Served:
    """A kvfs server, over one connection."""

    def __init__(self, port: int, db: str) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port)
        self._db = quote(db)
        self._ask(
            "POST",
            f"/db?db={self._db}&create_db_if_missing=true",
            [{"statement": f"CREATE TABLE t ({COLUMNS})"}],
        )

    def insert(self, rows: list[list[object]]) -> None:
        self._ask("POST", f"/db?db={self._db}", [{"statement": INSERT, "valuesBatch": rows}])

    def select(self) -> int:
        return len(self._ask("POST", f"/db?db={self._db}", [{"query": SELECT}]))

    def _ask(self, method: str, path: str, transaction: object) -> bytes:
        self._http.request(method, f"/api/v1/sqlite{path}", orjson.dumps({"transaction": transaction}))
        body = self._http.getresponse().read()
        assert body.startswith(b'{"results":'), body[:200]
        return body


def main() -> None:
    parser = argparse.ArgumentParser(description="SQL over HTTP.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--at", type=Path, help="put the databases here (the current folder's disk otherwise)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvfs-bench-", dir=options.at or Path.cwd()) as made:
        command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", f"{made}/data"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            match = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
            assert match is not None
            try:
                compare(Direct(Path(made, "direct.db")), Served(int(match[1]), "served"), options.rounds)
            finally:
                server.terminate()


def compare(direct: Direct, served: Served, rounds: int) -> None:
    """Measure both, and print what came of it."""
    row: list[list[object]] = [["a name of some length", 1.5, 7]]
    filled: list[list[object]] = [[f"name {number}", number * 1.25, number] for number in range(ROWS)]
    for each in (direct, served):
        each.insert(filled)
    print(f"{'':34}{'apsw':>12}{'kvfs':>12}{'share':>8}")
    report("transactions of one INSERT/s", 200, 1, direct, served, rounds, lambda each: each.insert(row))
    report(
        f"rows/s in batches of {BATCH}",
        10,
        BATCH,
        direct,
        served,
        rounds,
        lambda each: each.insert(filled[:BATCH]),
    )
    share = report(
        f"rows/s of a SELECT of {ROWS}", 10, ROWS, direct, served, rounds, lambda each: each.select()
    )
    print(f"goal of the last: {GOAL}, {'met' if share >= GOAL else 'missed'}")


def report(
    what: str,
    times: int,
    units: int,
    direct: Direct,
    served: Served,
    rounds: int,
    do: Callable[[Direct | Served], object],
) -> float:
    """kvfs's share of apsw's rate, which is printed."""
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, each in zip(rates, (direct, served), strict=True):
            began = time.perf_counter()
            for _ in range(times):
                do(each)
            side.append(times * units / (time.perf_counter() - began))
    apsw_rate, kvfs_rate = map(median, rates)
    print(f"{what:34}{apsw_rate:12,.0f}{kvfs_rate:12,.0f}{kvfs_rate / apsw_rate:8.2f}")
    return kvfs_rate / apsw_rate


if __name__ == "__main__":
    main()
