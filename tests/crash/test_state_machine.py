"""Long runs of everything that may happen to a served folder, kills and lost indexes among it.

The model knows what each key's value must be. It cannot know the number of every op, since the server records
edits when it comes to them; so whatever the server tells (an op number, a type, a TTL) is noted, and must be
what the op-log says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from kvfs.directory.names import own_value_path, path_of
from tests.contract.driver import Got, Item, refused
from tests.crash.aftermath import counted_once
from tests.crash.load import COUNTER, Ack, Acknowledged, digest_of
from tests.directory.served import Folder, Server, load
from tests.invariants import Logged, hashed

KEYS = ["a", "a/b", "a/b/c", "a/b.json", "b", "b/x", "c.json", "d//e", "..", "x~", "n" * 150 + "é" * 80]
BRIEF = "brief"
BRIEF_S = 1
OTHERS = re.compile(rf"w\d/|{BRIEF}$|{COUNTER}$")
LARGE = b"large" * 60_000
SECOND_NS = 1_000_000_000

some_keys = st.sampled_from(KEYS)
some_values = st.sampled_from([b"", b"7", b"text", b"\xff\0", b'{"a": 1}', b"[1, 2]", b"[", LARGE])
ways = st.sampled_from(["in place", "by rename", "same size", "append", "truncate"])


class Machine(RuleBasedStateMachine):
    """One folder, from its making until it is compared for the last time."""

    def __init__(self, server: Server, home: Path) -> None:
        super().__init__()
        self.folder = Folder(home)
        self.server = server
        self.server.folder = self.folder
        self.values: dict[str, bytes] = {}
        self.acknowledged = Acknowledged()
        self.shown: list[tuple[str, Got]] = []
        self.unanswered = 0
        self.made = 0
        self.brief_until: float | None = None
        if not server.is_up:
            server.start()

    def teardown(self) -> None:
        try:
            if self.server.is_up:  # else it is a failure that ends this
                self.compare()
                self.server.stop()
                self.server.start()
                self.compare()
                self.nothing_is_lost()
                self.server.stop()
                self.nothing_is_lost()
        finally:
            self.server.kill()
            self.folder.delete()

    # --- what must hold ----------------------------------------------------------------------------------

    def compare(self) -> None:
        """A list, and the files, say what the model says."""
        for values in (self.server.listed(), self.folder.values()):
            assert {key: value for key, value in values.items() if not OTHERS.match(key)} == self.values

    def nothing_is_lost(self) -> None:
        """Files, index and op-log agree, and what was told is in them. All edits were looked at."""
        log = self.folder.check()
        assert self.acknowledged.missing_from(log) == []
        counted_once(log, self.acknowledged, unanswered=self.unanswered)
        ops = {(op.key, str(op.op_number)): op for op in log}
        for key, got in self.shown:
            self.is_told_by(got, ops[key, got.etag or ""])
        self.shown.clear()

    def is_told_by(self, got: Got, op: Logged) -> None:
        assert (hashed(got.value), got.content_type) == (op.value_hash, op.content_type)
        assert (got.created_at, got.updated_at) == (op.created_s, op.updated_s)
        assert got.expire_at == (None if op.expire_ns is None else op.expire_ns // SECOND_NS)

    def acknowledge(self, key: str, op_number: int | None, value: bytes | None) -> None:
        assert op_number is not None
        self.acknowledged.add(Ack(key, op_number, "" if value is None else digest_of(value)))
        if value is None:
            del self.values[key]
        else:
            self.values[key] = value

    @initialize(keys=st.sets(some_keys, max_size=6), value=some_values)
    def some_are_there(self, keys: set[str], value: bytes) -> None:
        for key in sorted(keys):
            self.edit(key, "in place")
            self.put(key, value, history=True, ttl=None)

    # --- requests ----------------------------------------------------------------------------------------

    @rule(key=some_keys, value=some_values, history=st.booleans(), ttl=st.sampled_from([None, None, 1000]))
    def put(self, key: str, value: bytes, history: bool, ttl: int | None) -> None:
        wrote = self.server.store.set(key, value, history=history, ttl=ttl)
        assert wrote.created is (key not in self.values)
        self.acknowledge(key, wrote.op_number, value)

    @rule(key=some_keys, history=st.booleans())
    def delete(self, key: str, history: bool) -> None:
        if key in self.values:
            wrote = self.server.store.delete(key, history=history)
            self.acknowledge(key, wrote.op_number, None)
        else:
            with refused("KEY_NOT_FOUND"):
                self.server.store.delete(key, history=history)

    @rule(key=some_keys)
    def incr(self, key: str) -> None:
        before = self.values.get(key, b"0")
        if before.isdigit():
            wrote = self.server.store.incr(key)
            assert wrote.number == int(before) + 1
            self.acknowledge(key, wrote.op_number, b"%d" % wrote.number)

    @rule(key=some_keys)
    def push(self, key: str) -> None:
        try:
            array = json.loads(self.values.get(key, b"[]"))
        except ValueError:
            return
        if isinstance(array, list):
            wrote = self.server.store.push(key, '"x"')
            assert wrote.length == len(array) + 1
            value = self.server.store.get(key).value
            assert json.loads(value) == [*array, "x"]
            self.acknowledge(key, wrote.op_number, value)

    @rule(key=some_keys, value=some_values, stale=st.booleans())
    def swap(self, key: str, value: bytes, stale: bool) -> None:
        before = self.values.get(key)
        if before is None or stale:
            with refused("CAS_MISMATCH"):
                self.server.store.set(key, value, if_match=b"no value has this")
        elif len(before) < len(LARGE):
            wrote = self.server.store.set(key, value, if_match=before)
            self.acknowledge(key, wrote.op_number, value)

    @rule(keys=st.sets(some_keys, min_size=1, max_size=4), value=st.sampled_from(["", "1", "text", "[]"]))
    def set_batch(self, keys: set[str], value: str) -> None:
        items = [Item(key, value) for key in sorted(keys)]
        for item, wrote in zip(items, self.server.store.batch_set(items), strict=True):
            self.acknowledge(item.key, wrote.op_number, value.encode())

    @rule(key=some_keys, ttl=st.sampled_from([None, 1000]))
    def set_ttl(self, key: str, ttl: int | None) -> None:
        if key in self.values:
            store = self.server.store
            wrote = store.persist(key) if ttl is None else store.expire(key, ttl)
            assert (wrote.expire_at is None) is (ttl is None)
            self.acknowledge(key, wrote.op_number, self.values[key])

    @rule()
    def set_what_runs_out(self) -> None:
        wrote = self.server.store.set(BRIEF, b"1", ttl=BRIEF_S)
        self.acknowledged.add(Ack(BRIEF, wrote.op_number or 0, digest_of(b"1")))
        self.brief_until = time.monotonic() + BRIEF_S

    @rule()
    def get_what_runs_out(self) -> None:
        due = self.brief_until is None or time.monotonic() > self.brief_until
        is_there = self.server.store.has(BRIEF)
        assert not (due and is_there)

    @rule(key=some_keys)
    def get(self, key: str) -> None:
        if key in self.values:
            got = self.server.store.get(key)
            assert got.value == self.values[key]
            self.shown.append((key, got))
        else:
            assert not self.server.store.has(key)

    @rule()
    def list_all(self) -> None:
        self.compare()

    # --- edits -------------------------------------------------------------------------------------------

    @rule(key=some_keys, way=ways, paused=st.booleans())
    def somebody_writes(self, key: str, way: str, paused: bool) -> None:
        if paused:
            self.server.pause()
        try:
            self.edit(key, way)
        finally:
            if paused:
                self.server.go_on()

    @rule(key=some_keys)
    def somebody_deletes(self, key: str) -> None:
        if key in self.values:
            self.file(key).unlink()
            del self.values[key]

    @rule(key=some_keys)
    def somebody_touches(self, key: str) -> None:
        if key in self.values:
            os.utime(self.file(key))

    @rule(key=some_keys, other=some_keys)
    def somebody_renames(self, key: str, other: str) -> None:
        target = self.place(other)
        if key != other and key in self.values and not target.is_dir() and target.parent.is_dir():
            self.file(key).rename(target)
            self.values[other] = self.values.pop(key)

    @rule(folder=st.sampled_from(["a", "a/b", "b"]), to=st.sampled_from(["a", "b", "a/b"]))
    def somebody_moves_a_tree(self, folder: str, to: str) -> None:
        place = self.place(to)
        if not self.place(folder).is_dir() or os.path.lexists(place) or not place.parent.is_dir():
            return
        if not f"{to}/".startswith(f"{folder}/"):
            self.place(folder).rename(place)
            for key in [key for key in self.values if f"{key}/".startswith(f"{folder}/")]:
                self.values[to + key.removeprefix(folder)] = self.values.pop(key)

    @rule(folder=st.sampled_from(["a", "a/b", "b"]))
    def somebody_deletes_a_tree(self, folder: str) -> None:
        if self.place(folder).is_dir():
            shutil.rmtree(self.place(folder))
            for key in [key for key in self.values if f"{key}/".startswith(f"{folder}/")]:
                del self.values[key]

    @rule(key=st.sampled_from(["a", "a/b", "b"]))
    def somebody_makes_a_folder_of_a_file(self, key: str) -> None:
        if key in self.values and self.place(key).is_file():
            self.place(key).unlink()
            del self.values[key]
            self.place(key).mkdir()
            self.edit(f"{key}/x" if key == "b" else f"{key}/b" if key == "a" else f"{key}/c", "in place")

    # --- what befalls the server -------------------------------------------------------------------------

    @rule(edited=st.booleans(), key=some_keys, way=ways)
    def restart(self, edited: bool, key: str, way: str) -> None:
        self.server.stop()
        if edited:
            self.edit(key, way)
        self.server.start()
        self.compare()
        self.nothing_is_lost()

    @rule(writing=st.booleans(), edited=st.booleans(), key=some_keys, way=ways)
    def kill(self, writing: bool, edited: bool, key: str, way: str) -> None:
        if writing:
            with load(self.acknowledged, self.number(), self.server) as under_way:
                under_way.until_more(20)
                under_way.ending.set()
                self.server.kill()
            self.unanswered += 2
        else:
            self.server.kill()
        if edited:
            self.edit(key, way)
        self.server.start()
        self.compare()
        self.nothing_is_lost()

    @rule(killed=st.booleans(), edited=st.booleans(), key=some_keys)
    def lose_the_index(self, killed: bool, edited: bool, key: str) -> None:
        # What nobody has seen when the server ends, only the index can tell from what a crash has left.
        self.compare()
        if killed:
            self.server.kill()
        else:
            self.server.stop()
        self.folder.lose_index()
        if edited:
            self.edit(key, "in place")
        self.server.start()
        self.compare()
        self.nothing_is_lost()

    @rule(key=some_keys, way=ways, noise=st.booleans())
    def lose_the_index_while_running(self, key: str, way: str, noise: bool) -> None:
        if noise:
            self.folder.index.write_bytes(os.urandom(20_000))
        else:
            self.folder.lose_index()
        self.edit(key, way)
        self.get(key)
        self.compare()

    @rule()
    def rebuild(self) -> None:
        self.compare()
        before = self.server.store.list(limit=10_000).items
        self.server.rebuild()
        after = self.server.store.list(limit=10_000).items
        assert [item for item in after if item.key != BRIEF] == [item for item in before if item.key != BRIEF]

    # --- parts -------------------------------------------------------------------------------------------

    def number(self) -> int:
        self.made += 1
        return self.made

    def place(self, key: str) -> Path:
        """Where a key's file is, or the folder that has its name."""
        return self.folder.root.joinpath(*path_of(key))

    def file(self, key: str) -> Path:
        place = self.place(key)
        return self.folder.root.joinpath(*own_value_path(key)) if place.is_dir() else place

    def edit(self, key: str, way: str) -> None:
        """Write to a key's file; nothing where another file stands in the way, as it would for anybody."""
        file, value = self.file(key), b"edit %d" % self.number()
        before = self.values.get(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            return
        if way == "by rename":
            fresh = self.folder.spare / "fresh"
            fresh.write_bytes(value)
            fresh.rename(file)
        elif before is None or way == "in place":
            file.write_bytes(value)
        elif way == "append":
            with file.open("ab") as end:
                end.write(value)
            value = before + value
        elif way == "truncate":
            value = before[: len(before) // 2]
            os.truncate(file, len(value))
        else:
            value = bytes(byte ^ 1 for byte in before)
            with file.open("r+b") as same:
                same.write(value)
        self.values[key] = value


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server", Folder(tmp_path / "none"))
    try:
        yield server
    finally:
        server.kill()


def run(server: Server, home: Path, *, examples: int, steps: int, derandomize: bool) -> None:
    places = (home / f"run-{number}" for number in count())

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(server, next(places))

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            # To look for a shorter run would take hours.
            phases=[Phase.generate],
        ),
    )


def test_nothing_that_happens_to_a_folder_loses_anything(server: Server, tmp_path: Path) -> None:
    run(server, tmp_path, examples=3, steps=30, derandomize=True)


@pytest.mark.soak
def test_nothing_that_happens_in_the_long_run_loses_anything(server: Server, tmp_path: Path) -> None:
    run(server, tmp_path, examples=100, steps=60, derandomize=False)
