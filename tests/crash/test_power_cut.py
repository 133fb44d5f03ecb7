"""A power cut takes nothing that was acknowledged, though it takes what the files of a folder held.

Each process starts on a machine just booted; the stores are opened again by the test, under yet another
boot id. So do they recover from the op-log alone, as they must when the power was lost.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

import kvfs
from tests.contract.http_driver import Client
from tests.crash.aftermath import TABLE, counted_once, nothing_is_lost, whole
from tests.crash.clients import clients, path_of, store_of
from tests.crash.editor import EDITED, editing
from tests.crash.load import THREADS, Acknowledged, parse
from tests.crash.powercut import Disk, RebootedServer, disk, rebooted
from tests.invariants import Logged
from tests.polling import eventually
from tests.serving import ROOT, ServerProcess

SEED = 20_240_608
ROUNDS = 2
LOAD_S = 30.0

seeds = pytest.mark.parametrize(
    "seed", [SEED, *(pytest.param(None, marks=pytest.mark.soak, id=f"soak{n}") for n in range(33))]
)
"""The same at each normal run; at a long one always another, which is told."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path / "disk", mib=512) as place:
        yield place


@pytest.fixture
def chance(seed: int | None) -> random.Random:
    seed = random.randrange(10**9) if seed is None else seed
    print(f"seed {seed}")
    return random.Random(seed)


class Rounds:
    """What all rounds of one test know of each other: what was acknowledged to whom."""

    def __init__(self, place: Disk, chance: random.Random) -> None:
        self.acknowledged = {directory: Acknowledged() for directory in (False, True)}
        self.kept: dict[str, str] = {}
        """Digests of what was written last to keys that are edited from outside too."""
        self._place = place
        self._chance = chance
        self._cuts = 0

    def load(self, broken: Callable[[], bool]) -> None:
        """Let more be acknowledged: nothing (what is cut is the start), a little, or a lot."""
        wanted = [
            (acks, len(acks.acks) + self._chance.choice([0, 20, 200, 400]))
            for acks in self.acknowledged.values()
        ]

        def enough() -> bool:
            return broken() or all(len(acks.acks) >= count for acks, count in wanted)

        eventually(enough, LOAD_S, "writes are acknowledged")

    def cut(self, *processes: ServerProcess | subprocess.Popen[str]) -> None:
        """Cut the power; whoever writes may see it fail before he dies, or be dead before."""
        sees_it = self._chance.random() < 0.5
        if not sees_it:
            _kill(processes)
        for acknowledged in self.acknowledged.values():
            acknowledged.doubting = sees_it
        self._place.cut()
        if sees_it:
            _kill(processes)
        self._cuts += 1

    def restore(self) -> None:
        """Switch on again; mostly, but not always, the stores are looked at before the next cut."""
        for acknowledged in self.acknowledged.values():
            acknowledged.doubting = False
        self._place.restore()
        if self._chance.random() < 0.7:
            self.check()

    def check(self) -> None:
        for directory, acknowledged in self.acknowledged.items():
            path = path_of(self._place.path, directory)
            if acknowledged.acks or path.exists():
                log = nothing_is_lost(path, directory, acknowledged)
                counted_once(log, acknowledged, unanswered=THREADS * self._cuts)
                if directory:
                    self._no_cut_is_an_edit(log)

    def _no_cut_is_an_edit(self, log: list[Logged]) -> None:
        """What the cut did to a file is no edit."""
        assert {op.key for op in log if op.origin != "api" and not op.key.startswith(EDITED)} == set()
        last = {op.key: op.value_hash for op in log}
        assert {key: _digest(last[key]) for key in self.kept} == self.kept


def _digest(value_hash: bytes | None) -> str:
    return "" if value_hash is None else value_hash.hex()


def _kill(processes: tuple[ServerProcess | subprocess.Popen[str], ...]) -> None:
    for process in processes:
        process.kill()
        if isinstance(process, subprocess.Popen):
            process.wait()


# --- through the engine ------------------------------------------------------------------------------


@seeds
def test_what_a_process_acknowledged_survives_a_power_cut(
    place: Disk, tmp_path: Path, chance: random.Random
) -> None:
    over = Rounds(place, chance)
    path_of(place.path, True).mkdir()
    os.sync()
    for _ in range(ROUNDS):
        with ExitStack() as stack:
            children = [
                stack.enter_context(
                    child(tmp_path, path_of(place.path, directory), acks, chance.randrange(10**6))
                )
                for directory, acks in over.acknowledged.items()
            ]
            over.load(partial(_any_ended, children))
            assert not _any_ended(children)
            over.cut(*children)
        over.restore()
    over.check()


def _any_ended(processes: list[subprocess.Popen[str]]) -> bool:
    return any(process.poll() is not None for process in processes)


@contextmanager
def child(home: Path, db: Path, acknowledged: Acknowledged, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A process that writes to a store, and tells of it, until it is killed or its disk fails."""
    command = [sys.executable, "-m", "tests.crash.load", str(db), TABLE, str(seed)]
    with (home / f"stderr-{db.name}").open("w+") as complaints:
        process = subprocess.Popen(
            rebooted(home, command), cwd=ROOT, stdout=subprocess.PIPE, stderr=complaints, text=True
        )

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                if line != "open\n":
                    acknowledged.add(parse(line))

        listening = threading.Thread(target=listen)
        with process:
            listening.start()
            try:
                yield process
            finally:
                process.kill()
                listening.join()
        complaints.seek(0)
        print(complaints.read())


# --- over HTTP, with edits from outside --------------------------------------------------------------


@seeds
def test_what_a_server_acknowledged_or_showed_survives_a_power_cut(
    place: Disk, tmp_path: Path, chance: random.Random
) -> None:
    over = Rounds(place, chance)
    server = RebootedServer(tmp_path)
    try:
        for _ in range(ROUNDS):
            server.start()
            with (
                clients(server, place.path, over.acknowledged, seed=chance.randrange(10**6)) as ending,
                editing(
                    server,
                    place.path,
                    over.acknowledged[True],
                    seed=chance.randrange(10**6),
                    kept=over.kept,
                    ending=ending,
                ),
            ):
                over.load(ending.is_set)
                ending.set()
                over.cut(server)
            over.restore()
        over.check()
    finally:
        server.kill()


def test_an_edit_that_was_shown_is_put_back_after_a_power_cut(place: Disk, tmp_path: Path) -> None:
    server = RebootedServer(tmp_path)
    folder = path_of(place.path, True)
    server.start()
    client = Client(server.host, server.port)
    try:
        store = store_of(client, place.path, True)
        store.make()
        store.set("other", b"other")
        (folder / TABLE / "k").write_bytes(b"edited")
        assert store.get("k").value == b"edited"
        server.kill()
        place.cut()
        place.restore()
        with kvfs.open(str(folder), TABLE) as reopened:
            assert whole(reopened.get("k")) == b"edited"
    finally:
        client.close()
        server.kill()
