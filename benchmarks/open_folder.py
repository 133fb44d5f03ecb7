"""What it takes to open a large folder: against a plain loop that reads all of its files, and in the end.

    python benchmarks/open_folder.py [--folders 1000] [--files 100] [--rounds 3] [--idle 0] [--at PATH]

A round is a plain loop over the folder and then a first opening of it, so that both meet the machine in the
same mood; the median of the rounds is shown. `--idle 70` also starts a server on the folder, and sees what
it uses in so many seconds in which nothing happens (the watched folder is gone through about once a minute).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import kvfs

TABLE = "files"
VALUE_BYTES = 100
PAGE = 100
START_S = 120.0
GOALS = {"ratio": 3.0, "reopening_s": 1.0, "memory_mib": 150.0, "idle_percent": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description="Opening a large folder.")
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--files", type=int, default=100, help="in each folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=0.0, help="seconds to watch an idle server for")
    parser.add_argument("--at", type=Path, help="make the folder here (the current folder's disk otherwise)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvfs-bench-", dir=options.at or Path.cwd()) as made:
        db = Path(made)
        fill(db / TABLE, folders=options.folders, files=options.files)
        print(f"{options.folders} folders of {options.files} files of {VALUE_BYTES} bytes")
        measure_openings(db, keys=options.folders * options.files, rounds=options.rounds)
        if options.idle:
            measure_idling(db, options.idle)


def fill(folder: Path, *, folders: int, files: int) -> None:
    """Make the files, each with another content."""
    for i in range(folders):
        inner = folder / f"folder-{i:04}"
        inner.mkdir(parents=True)
        for j in range(files):
            content = f"{i} {j} ".encode() * VALUE_BYTES
            (inner / f"{j:03}.txt").write_bytes(content[:VALUE_BYTES])


def measure_openings(db: Path, *, keys: int, rounds: int) -> None:
    """Print what a first opening takes and leaves, and a second one."""
    loops, firsts, agains, pages = [], [], [], []
    grown = 0.0
    for _ in range(rounds):
        loops.append(timed(lambda: read_all(db / TABLE)))
        shutil.rmtree(db / ".kvfs", ignore_errors=True)
        before = peak_mib()
        firsts.append(timed(lambda: open_whole(db, keys)))
        grown = max(grown, peak_mib() - before)
        agains.append(timed(lambda: open_whole(db, keys)))
        pages.append(timed(lambda: open_for_a_page(db)))
    ratio = median(first / loop for first, loop in zip(firsts, loops, strict=True))
    show("a plain loop that reads every file", f"{median(loops):.2f} s")
    show("first opening, until a list is complete", f"{median(firsts):.2f} s")
    show("  in plain loops", f"{ratio:.2f}", goal=GOALS["ratio"])
    show("  memory growth", f"{grown:.0f} MiB", goal=GOALS["memory_mib"])
    show("opening again, every file looked at", f"{median(agains):.2f} s", goal=GOALS["reopening_s"])
    show("opening again, first page of a list", f"{median(pages):.2f} s", goal=GOALS["reopening_s"])


def measure_idling(db: Path, seconds: float) -> None:
    """Print what a server uses that watches the folder while nothing happens."""
    with serving(db) as (process, url):
        query = urllib.parse.urlencode({"db": str(db), "table": TABLE, "limit": PAGE})
        ask(f"{url}/kv?{query}")
        wait_until(lambda: at_rest(url))
        before = used_s(process.pid)
        time.sleep(seconds)
        used = used_s(process.pid) - before
    show(
        f"idle for {seconds:.0f} s, watched: CPU", f"{100 * used / seconds:.2f} %", goal=GOALS["idle_percent"]
    )


def show(what: str, figure: str, *, goal: float | None = None) -> None:
    bound = "" if goal is None else f"   (goal: below {goal:g})"
    print(f"  {what:<42}{figure:>10}{bound}", flush=True)


def timed(action: Callable[[], object]) -> float:
    """How many seconds it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_all(folder: Path) -> None:
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                file.read()


def open_whole(db: Path, keys: int) -> None:
    """Open the folder, and look at every file."""
    with kvfs.open(str(db), TABLE, config=kvfs.Config(watch=False)) as store:
        store.settle_all()
        page = store.list(kvfs.Query(limit=PAGE, total=True))
        assert page.total == keys, page.total


def open_for_a_page(db: Path) -> None:
    """Open the folder, and list the first keys."""
    with kvfs.open(str(db), TABLE, config=kvfs.Config(watch=False)) as store:
        assert len(store.list(kvfs.Query(limit=PAGE)).entries) == PAGE


@contextmanager
def serving(db: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with the folder below its data dir, and its URL."""
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(db.parent)]
    process = subprocess.Popen(
        [*command, "--allow-any-absolute-db-path"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"http://[0-9.]+:[0-9]+", line):
                yield process, f"{match[0]}/api/v1/sqlite"
                break
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def ask(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=START_S) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def at_rest(url: str) -> bool:
    """Whether the folder is watched, was gone through, and nothing waits."""
    folders = ask(f"{url}/health/cache")["directory_stores"]
    assert isinstance(folders, list)
    return all(each["watcher"] == "watching" and each["scans"] and not each["pending"] for each in folders)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not done():
        assert time.monotonic() < deadline, "the server does not come to rest"
        time.sleep(0.5)


def used_s(pid: int) -> float:
    """The CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
