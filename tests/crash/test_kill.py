"""A killed process loses nothing that it had acknowledged."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from kvfs.directory.check import check
from tests.contract.http_driver import Client
from tests.crash.aftermath import TABLE, nothing_is_lost
from tests.crash.clients import clients, path_of, store_of
from tests.crash.load import COUNTER, Acknowledged, parse
from tests.polling import eventually
from tests.serving import ROOT, ServerProcess

ROUNDS = 3
LOAD_S = 30.0
SEED = 20_240_607
KEPT = 2


# --- through the engine ------------------------------------------------------------------------------


@contextmanager
def child(db: Path, seed: int, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.load", str(db), TABLE, str(seed), *more],
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


@pytest.mark.parametrize("directory", [False, True], ids=["table", "directory"])
def test_a_pruning_that_was_killed_has_taken_nothing_that_was_to_stay(
    tmp_path: Path, directory: bool
) -> None:
    db = tmp_path / "db"
    if directory:
        db.mkdir()
    acknowledged = Acknowledged()
    chance = random.Random(SEED)
    for round_number in range(ROUNDS):
        before = len(acknowledged.acks)
        with child(db, SEED + round_number, str(KEPT)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            wanted = chance.randrange(50, 400)
            for line in process.stdout:
                acknowledged.add(parse(line))
                if len(acknowledged.acks) - before == wanted:
                    process.kill()
        assert len(acknowledged.acks) - before >= wanted
        log = nothing_is_lost(db, directory, acknowledged, keep_last=KEPT)
        assert max(Counter(op.key for op in log).values()) <= KEPT
        if directory:
            assert check(str(db), TABLE, full=True).clean


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
        files = [file for file in walked if file.name != COUNTER]
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


@pytest.mark.soak
def test_what_a_killed_server_acknowledged_is_there(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    acknowledged = {directory: Acknowledged() for directory in (False, True)}
    chance = random.Random(SEED)
    try:
        for round_number in range(ROUNDS):
            server.start()
            wanted = [(acks, len(acks.acks) + chance.randrange(20, 200)) for acks in acknowledged.values()]
            with clients(server, tmp_path, acknowledged, seed=SEED + round_number) as ending:
                enough = partial(_enough, wanted, ending)
                eventually(enough, LOAD_S, "writes are acknowledged")
                ending.set()
                server.kill()
            for directory, acks in acknowledged.items():
                nothing_is_lost(path_of(tmp_path, directory), directory, acks)
        still_there_over_http(server, tmp_path, acknowledged)
    finally:
        server.kill()


def _enough(wanted: list[tuple[Acknowledged, int]], ending: threading.Event) -> bool:
    return ending.is_set() or all(len(acks.acks) >= count for acks, count in wanted)


def still_there_over_http(server: ServerProcess, home: Path, acknowledged: dict[bool, Acknowledged]) -> None:
    """The restarted server serves what there is, and stops without complaint."""
    server.start()
    client = Client(server.host, server.port)
    try:
        for directory in acknowledged:
            store = store_of(client, home, directory)
            keys = store.all_keys()
            assert len(keys) > 10
            assert int(store.get(COUNTER).value) == store.op_number(COUNTER)
            assert all(store.has(key) for key in keys)
    finally:
        client.close()
    server.stop()
