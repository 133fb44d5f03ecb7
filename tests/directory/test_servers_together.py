"""Servers and other programs on one folder take turns, and each is right about what the others do."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.crash.aftermath import counted_once
from tests.crash.load import Acknowledged, parse
from tests.directory.served import TABLE, Folder, Load, Server, load
from tests.invariants import Logged
from tests.serving import ROOT

# A disk may stall for long, and what is edited is written.
pytestmark = pytest.mark.timeout(240)

SEED = 7
EDITED = 12
ROUNDS = 15


class Pair:
    """Two servers of the same folder, which `one` watches."""

    def __init__(self, one: Server, other: Server, folder: Folder) -> None:
        self.one = one
        self.other = other
        self.folder = folder
        self.acknowledged = Acknowledged()

    def load(self) -> AbstractContextManager[Load]:
        return load(self.acknowledged, SEED, self.one, self.other)

    def ends_well(self, edits: Edits, *, unanswered: int = 0) -> list[Logged]:
        """All that was written and edited is in the log, once; the log."""
        self.folder.gets_recorded()
        values = self.folder.values()
        assert self.one.listed() == values
        items = self.one.store.list(limit=10_000).items
        log = self.folder.check()
        assert self.acknowledged.missing_from(log) == []
        counted_once(log, self.acknowledged, unanswered=unanswered)
        edits.are_in(log)
        last = {op.key: op.op_number for op in log}
        assert [(item.key, item.op_number) for item in items] == [(key, last[key]) for key in sorted(values)]
        return log

    def say_the_same(self) -> None:
        """Both servers answer alike."""
        assert self.one.store.list(limit=10_000).items == self.other.store.list(limit=10_000).items
        assert self.one.listed() == self.other.listed()
        for key in self.folder.values():
            assert self.one.store.get(key) == self.other.store.get(key)


class Edits:
    """What somebody writes into the folder meanwhile: whole files, each with a content of its own."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._made: list[tuple[str, bytes]] = []
        self._stop = threading.Event()

    def make(self) -> tuple[str, bytes]:
        """Edit a file; its key and value."""
        number = len(self._made)
        key, value = f"edited/{number % EDITED}", b"edit %d" % number
        self._folder.replace(key, value)
        self._made.append((key, value))
        return key, value

    def are_in(self, log: list[Logged]) -> None:
        """None made two ops, and the last one of each file is there."""
        ops = [op for op in log if op.key.startswith("edited/")]
        assert {op.origin for op in ops} <= {"file"}
        made = Counter((op.key, op.value) for op in ops)
        assert set(made) <= set(self._made)
        assert set(made) >= set(dict(self._made).items())
        assert set(made.values()) <= {1}

    @contextmanager
    def under_way(self) -> Iterator[Edits]:
        """Edits as long as this lasts."""

        def edit() -> None:
            while not self._stop.wait(0.005):
                self.make()

        editor = threading.Thread(target=edit)
        editor.start()
        try:
            yield self
        finally:
            self._stop.set()
            editor.join()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def pair(tmp_path: Path, folder: Folder) -> Iterator[Pair]:
    servers = [Server(tmp_path / name, folder) for name in ("one", "other")]
    try:
        for server in servers:
            server.start()
            server.store.all_keys()
        servers[0].watches()
        assert servers[1].watcher() == "standby"
        yield Pair(servers[0], servers[1], folder)
        for server in servers:
            server.stop()
    finally:
        for server in servers:
            server.kill()


def test_writes_through_both_and_edits_are_each_there_once(pair: Pair, folder: Folder) -> None:
    with pair.load() as under_way, Edits(folder).under_way() as edits:
        under_way.until_more(400)
    pair.ends_well(edits)
    pair.say_the_same()


def test_what_one_wrote_or_somebody_edited_the_other_shows_at_once(pair: Pair, folder: Folder) -> None:
    edits = Edits(folder)
    with pair.load() as under_way:
        for number in range(ROUNDS):
            writer, reader = (pair.one, pair.other) if number % 2 else (pair.other, pair.one)
            key, value = edits.make()
            assert reader.store.get(key).value == value
            wrote = writer.store.set("k", value)
            got = reader.store.get("k")
            assert (got.value, got.etag) == (value, str(wrote.op_number))
            assert writer.listed()[key] == value
            under_way.until_more(3)
    log = pair.ends_well(edits)
    assert len([op for op in log if op.key.startswith("edited/")]) == ROUNDS


def test_an_edit_that_nobody_asks_for_is_recorded_once(pair: Pair, folder: Folder) -> None:
    pair.one.store.set("k", b"1")
    for number in range(200):
        folder.replace(f"quiet/{number}", b"%d" % number)
    folder.gets_recorded()
    assert [op.op_number for op in folder.check()] == [1] * 201
    pair.say_the_same()


def test_the_index_may_be_lost_while_both_write(pair: Pair, folder: Folder) -> None:
    timed = pair.one.store.set("timed", b"1", ttl=1000, content_type="image/png")
    before = pair.one.store.get("timed")
    with pair.load() as under_way, Edits(folder).under_way() as edits:
        for _ in range(4):
            under_way.until_more(80)
            folder.lose_index()
    pair.ends_well(edits)
    pair.say_the_same()
    assert pair.other.store.get("timed") == before
    assert timed.op_number == 1


def test_when_one_is_killed_the_other_goes_on(pair: Pair, folder: Folder) -> None:
    edits = Edits(folder)
    others = Acknowledged()
    with load(pair.acknowledged, SEED, pair.one) as going_on, edits.under_way():
        with load(others, SEED + 1, pair.other, name="v") as ending:
            ending.until_more(100)
            ending.ending.set()
            pair.other.kill()
        going_on.until_more(200)
    pair.acknowledged.acks += others.acks
    pair.ends_well(edits, unanswered=2)
    pair.other.start()
    pair.say_the_same()


def test_when_the_one_that_watches_is_killed_the_other_takes_over(pair: Pair, folder: Folder) -> None:
    pair.one.kill()
    folder.replace("edited/meanwhile", b"1")
    pair.other.watches()
    folder.gets_recorded()
    folder.replace("edited/after", b"2")
    folder.gets_recorded()
    assert [op.op_number for op in folder.check()] == [1, 1]
    pair.one.start()
    pair.one.store.all_keys()
    assert pair.one.watcher() == "standby"
    pair.say_the_same()


def test_programs_and_rebuilds_beside_a_server_lose_nothing(pair: Pair, folder: Folder) -> None:
    command = [sys.executable, "-m", "tests.crash.load", str(folder.db), TABLE, "99"]
    rebuild = [sys.executable, "-m", "server", "rebuild", str(folder.db), TABLE]
    with ExitStack() as stack:
        edits = stack.enter_context(Edits(folder).under_way())
        program = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        stack.callback(program.kill)
        assert program.stdout is not None
        assert program.stdout.readline() == "open\n"
        with load(pair.acknowledged, SEED, pair.one) as under_way:
            for _ in range(2):
                subprocess.run(rebuild, cwd=ROOT, check=True, capture_output=True, timeout=30)
                under_way.until_more(50)
                assert pair.other.rebuild()["success"]
            told = [program.stdout.readline() for _ in range(200)]
            program.kill()
            told += program.stdout.readlines()
    pair.acknowledged.acks += [parse(line) for line in told]
    pair.ends_well(edits, unanswered=4)
    pair.say_the_same()
