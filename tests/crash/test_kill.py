"""A killed process loses nothing that it had acknowledged."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kvfs
from kvfs.model import FileValue
from tests import invariants
from tests.contract.driver import StoreError
from tests.contract.http_driver import Client, HttpDriver
from tests.crash.load import THREADS, Acknowledged, parse, write_until
from tests.crash.targets import HttpTarget
from tests.serving import ROOT, ServerProcess

TABLE = "load"
ROUNDS = 6
SEED = 20_240_607


def whole(entry: kvfs.Entry) -> bytes:
    assert entry.value is not None
    if isinstance(entry.value, FileValue):
        with entry.value:
            return entry.value.read()
    return entry.value


def nothing_is_lost(db: Path, directory: bool, acknowledged: Acknowledged) -> None:
    """Reopen the store; everything acknowledged is there, and reads as it was written."""
    with kvfs.open(str(db), TABLE) as store:
        keys = [*store.keys()]
        values = {key: whole(store.get(key)) for key in keys}
    log = invariants.check_folder(db, TABLE) if directory else invariants.check_table(db)[TABLE]
    assert acknowledged.missing_from(log) == []
    last = {op.key: op for op in log}
    assert values.keys() == {key for key, op in last.items() if op.value_hash is not None}
    for key, value in values.items():
        assert invariants.hashed(value) == last[key].value_hash, key


# --- through the engine ------------------------------------------------------------------------------


@contextmanager
def child(db: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A process that writes until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.load", str(db), TABLE, str(seed)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("directory", [False, True], ids=["table", "directory"])
def test_what_a_killed_process_acknowledged_is_there(tmp_path: Path, directory: bool) -> None:
    db = tmp_path / "db"
    if directory:
        db.mkdir()
    acknowledged = Acknowledged()
    chance = random.Random(SEED)
    for round_number in range(ROUNDS):
        before = len(acknowledged.acks)
        with child(db, SEED + round_number) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            wanted = chance.randrange(50, 400)
            for line in process.stdout:
                acknowledged.add(parse(line))
                if len(acknowledged.acks) - before == wanted:
                    process.kill()
        assert len(acknowledged.acks) - before >= wanted
        nothing_is_lost(db, directory, acknowledged)


def test_what_others_edit_after_the_kill_stays(tmp_path: Path) -> None:
    db = tmp_path / "db"
    db.mkdir()
    acknowledged = Acknowledged()
    chance = random.Random(SEED)
    for round_number in range(ROUNDS):
        with child(db, SEED + round_number) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            count = 0
            for count, line in enumerate(process.stdout):
                acknowledged.add(parse(line))
                if count == 60:
                    process.kill()
        assert count >= 60
        # Not the counter: an edited one would not count on.
        walked = [Path(parent, name) for parent, _, names in os.walk(db / TABLE) for name in names]
        files = [file for file in walked if file.name != "count"]
        edited = {file: b"edited %d" % chance.getrandbits(60) for file in chance.sample(files, 5)}
        for file, value in edited.items():
            file.write_bytes(value)
        gone = chance.choice([file for file in files if file not in edited])
        gone.unlink()
        nothing_is_lost(db, True, acknowledged)
        for file, value in edited.items():
            assert file.read_bytes() == value
        assert not gone.exists()


# --- over HTTP ---------------------------------------------------------------------------------------


def test_what_a_killed_server_acknowledged_is_there(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    acknowledged = {directory: Acknowledged() for directory in (False, True)}
    chance = random.Random(SEED)
    try:
        for round_number in range(ROUNDS):
            server.start()
            under_load_until_killed(
                server, tmp_path, acknowledged, seed=SEED + round_number, for_s=chance.uniform(0.1, 0.6)
            )
            for directory, acks in acknowledged.items():
                nothing_is_lost(_path(tmp_path, directory), directory, acks)
        assert all(len(each.acks) > 100 for each in acknowledged.values())
        still_there_over_http(server, tmp_path, acknowledged)
    finally:
        server.kill()


def under_load_until_killed(
    server: ServerProcess,
    home: Path,
    acknowledged: dict[bool, Acknowledged],
    *,
    seed: int,
    for_s: float,
) -> None:
    """Clients write to both stores of a server, which is killed meanwhile."""
    client = Client(server.host, server.port)
    stores = {directory: _store(client, home, directory) for directory in acknowledged}
    if not _path(home, True).exists():
        for store in stores.values():
            store.make()
    killed = threading.Event()
    failures: list[BaseException] = []

    def write(directory: bool, me: int) -> None:
        target = HttpTarget(stores[directory])
        try:
            write_until(killed.is_set, target, me, seed, acknowledged[directory].add)
        except (OSError, http.client.HTTPException) as error:
            if not killed.is_set():
                failures.append(error)
        except StoreError as error:
            failures.append(error)

    threads = [
        threading.Thread(target=write, args=(directory, me)) for directory in stores for me in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(for_s)
    killed.set()
    server.kill()
    for thread in threads:
        thread.join()
    client.close()
    assert failures == []


def still_there_over_http(server: ServerProcess, home: Path, acknowledged: dict[bool, Acknowledged]) -> None:
    """The restarted server serves what there is, and stops without complaint."""
    server.start()
    client = Client(server.host, server.port)
    try:
        for directory in acknowledged:
            store = _store(client, home, directory)
            keys = store.all_keys()
            assert len(keys) > 10
            assert int(store.get("count").value) == store.op_number("count")
            assert all(store.has(key) for key in keys)
    finally:
        client.close()
    server.stop()


def _path(home: Path, directory: bool) -> Path:
    return home / ("folder" if directory else "table.db")


def _store(client: Client, home: Path, directory: bool) -> HttpDriver:
    path = str(_path(home, directory))
    return HttpDriver(client, path, TABLE, directory=directory, check=lambda: None)
