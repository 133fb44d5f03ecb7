"""Reads of the past, over a real database, against a list of everything that happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.errors import InvalidParameters, KeyExpired, KeyNotFound, NotFound, TimeTravelGap
from kvfs.handle import Handle
from kvfs.model import NS
from kvfs.paths import Paths
from tests import invariants
from tests.clocks import HandClock

START = 1_700_000_000 * NS
KEYS = ["a", "a/b", "a0", "b", "\ud7ff", "\ue000"]


@dataclass
class World:
    """A store, and the clock it goes by."""

    store: Handle
    clock: HandClock

    def at(self, key: str, ts_ns: int) -> bytes | type[Exception]:
        """The value of a key at a time, or how it is told that there is none."""
        try:
            value = self.store.get_at(key, ts_ns).value
        except (NotFound, TimeTravelGap) as error:
            return type(error)
        assert isinstance(value, bytes)
        return value


@contextmanager
def opened(folder: str | Path, *, cap: int = 100_000) -> Iterator[World]:
    clock = HandClock(START)
    path = Path(folder, "app.db")
    config = Config(history_scan_cap=cap)
    with (
        Engine(Paths(str(folder)), clock=clock, config=config) as engine,
        engine.lease(str(path), "t", create=True) as store,
    ):
        yield World(store, clock)
    invariants.check_table(path)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with opened(tmp_path) as made:
        yield made


# --- against a model ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """What became of a key at a time: a value, nothing, or (None in `known`) nobody knows what."""

    ts_ns: int
    value: bytes | None = None
    known: bool = True
    expire_ns: int | None = None

    def over(self, ts_ns: int) -> bool:
        return self.expire_ns is not None and self.expire_ns <= ts_ns


@dataclass
class Model:
    """Everything that happened, by keys."""

    versions: dict[str, list[Version]] = field(default_factory=dict)

    def last(self, key: str, ts_ns: int) -> Version | None:
        past = [version for version in self.versions.get(key, []) if version.ts_ns <= ts_ns]
        return past[-1] if past else None

    def add(self, key: str, version: Version) -> None:
        # A value that has run out is followed by nothing, and that is known.
        before = self.last(key, version.ts_ns)
        if before is not None and before.over(version.ts_ns):
            self.versions[key].append(Version(version.ts_ns))
        self.versions.setdefault(key, []).append(version)

    def at(self, key: str, ts_ns: int) -> bytes | type[Exception]:
        version = self.last(key, ts_ns)
        if version is None:
            return KeyNotFound
        if not version.known:
            return TimeTravelGap
        return NotFound if version.value is None or version.over(ts_ns) else version.value

    def edges(self, now_ns: int) -> list[int]:
        """Instants at which something changed or may have, and those beside them."""
        edges = {now_ns, START}
        for version in [version for versions in self.versions.values() for version in versions]:
            edges |= {version.ts_ns, version.expire_ns or version.ts_ns}
        return sorted({edge + shift for edge in edges for shift in (-1, 0, 1)})

    def live(self, key: str, ts_ns: int) -> bool:
        version = self.last(key, ts_ns)
        # The present is known, history or not.
        return version is not None and version.value is not None and not version.over(ts_ns)


actions = st.tuples(
    st.sampled_from(["set", "set", "set", "ttl", "forget", "delete", "drop", "expire", "persist"]),
    st.sampled_from(KEYS),
    st.sampled_from([0, 0, 1, 1_000_000, NS - 1, NS, 3 * NS]),
)


def act(world: World, model: Model, kind: str, key: str, count: int) -> None:
    """Do something to the store and note it in the model."""
    now = world.clock.ns
    value = f"{count}".encode()
    live = model.live(key, now)
    last = model.last(key, now)
    expire_ns = -(-(now + 2 * NS) // 1_000_000) * 1_000_000
    if kind in ("delete", "drop"):
        if live:
            world.store.delete(key, history=kind == "delete")
            model.add(key, Version(now, None, known=kind == "delete"))
        return
    if kind in ("set", "ttl", "forget"):
        ttl_s = 2 if kind == "ttl" else None
        world.store.set(key, value, ttl_s=ttl_s, history=kind != "forget")
        model.add(key, Version(now, value, kind != "forget", expire_ns if ttl_s else None))
    elif live and last is not None:
        if kind == "expire":
            world.store.expire(key, 2)
            model.add(key, Version(now, last.value, expire_ns=expire_ns))
        elif last.expire_ns is not None:
            world.store.persist(key)
            model.add(key, Version(now, last.value))


@settings(deadline=None, max_examples=40)
@given(
    script=st.lists(actions, min_size=1, max_size=25),
    prefix=st.sampled_from(["", "", "a", "a/", "\ud7ff", "z"]),
)
def test_the_past_is_what_it_was(script: list[tuple[str, str, int]], prefix: str) -> None:
    model = Model()
    with TemporaryDirectory() as folder, opened(folder) as world:
        for count, (kind, key, pause_ns) in enumerate(script):
            world.clock.ns += pause_ns
            act(world, model, kind, key, count)
        for ts_ns in model.edges(world.clock.ns):
            if ts_ns > world.clock.ns:
                continue  # what has not happened yet may be logged meanwhile
            expected = {key: model.at(key, ts_ns) for key in KEYS}
            for key in KEYS:
                got = world.at(key, ts_ns)
                assert got == expected[key] or (
                    expected[key] is NotFound and got in (KeyNotFound, KeyExpired)
                )
            past = world.store.list_at(ts_ns, prefix=prefix)
            below = [key for key in KEYS if key.startswith(prefix)]
            assert list(past.keys) == [key for key in below if isinstance(expected[key], bytes)]
            assert list(past.gap_keys) == [key for key in below if expected[key] is TimeTravelGap]
            assert past.has_gaps == bool(past.gap_keys)
            assert not past.candidate_truncated


@settings(deadline=None, max_examples=40)
@given(
    script=st.lists(actions, min_size=1, max_size=25),
    keep_last=st.none() | st.integers(1, 3),
    data=st.data(),
)
def test_a_difference_finds_by_itself_the_keys_that_changed(
    script: list[tuple[str, str, int]], keep_last: int | None, data: st.DataObject
) -> None:
    model = Model()
    with TemporaryDirectory() as folder, opened(folder) as world:
        for count, (kind, key, pause_ns) in enumerate(script):
            world.clock.ns += pause_ns
            act(world, model, kind, key, count)
        if keep_last is not None:
            world.store.prune(keep_last=keep_last)
        moments = st.sampled_from(model.edges(world.clock.ns))
        for _ in range(15):
            first, second = sorted([data.draw(moments), data.draw(moments)])
            assert world.store.diff(first, second) == world.store.diff(first, second, keys=KEYS)


# --- one by one --------------------------------------------------------------------------------------


def test_an_op_at_that_very_instant_is_part_of_the_past(world: World) -> None:
    world.store.set("k", b"1")
    world.clock.ns += 1
    world.store.set("k", b"2")
    assert [world.at("k", START + shift) for shift in (-1, 0, 1)] == [KeyNotFound, b"1", b"2"]


def test_of_ops_at_one_instant_the_last_counts(world: World) -> None:
    for value in (b"1", b"2", b"3"):
        world.store.set("k", value)
    assert world.at("k", START) == b"3"


def test_time_never_runs_backwards(world: World) -> None:
    world.store.set("k", b"1")
    world.clock.move(-100)
    world.store.set("k", b"2")
    assert world.at("k", START - 1) is KeyNotFound
    assert world.at("k", START) == b"2"


def test_an_entry_of_the_past_is_whole(world: World) -> None:
    world.store.set("k", b"[]", ttl_s=100)
    world.clock.move(5)
    world.store.push("k", b"1")
    world.clock.move(5)
    world.store.delete("k")
    entry = world.store.get_at("k", START + 5 * NS)
    assert (entry.key, entry.value, entry.size, entry.content_type) == ("k", b"[1]", 3, "application/json")
    assert (entry.created_s, entry.updated_s) == (START // NS, START // NS + 5)
    assert (entry.expire_ns, entry.op_number) == (START + 100 * NS, 2)


def test_a_large_value_of_the_past_is_whole(world: World) -> None:
    value = b"\xff" * 700_000
    world.store.set("k", value)
    world.clock.move(1)
    world.store.set("k", b"")
    assert world.at("k", START) == value
    assert world.at("k", START + NS) == b""


def test_a_store_where_nothing_was_written_has_an_empty_past(world: World) -> None:
    assert world.at("k", START) is KeyNotFound
    past = world.store.list_at(START)
    assert (past.keys, past.gap_keys, past.candidate_truncated) == ((), (), False)


@pytest.mark.parametrize("ts_ns", [-(2**63), -1, 0, 2**63 - 1])
def test_any_time_can_be_asked_for(world: World, ts_ns: int) -> None:
    world.store.set("k", b"1")
    assert world.at("k", ts_ns) == (b"1" if ts_ns > START else KeyNotFound)
    assert world.store.list_at(ts_ns).keys == (("k",) if ts_ns > START else ())


def test_what_is_no_key_has_no_past(world: World) -> None:
    for key in ("", "a\0"):
        with pytest.raises(InvalidParameters):
            world.store.get_at(key, START)


def test_a_key_that_had_run_out_is_told_so_whether_that_is_logged_or_not(world: World) -> None:
    world.store.set("k", b"1", ttl_s=10)
    world.clock.move(20)
    assert world.at("k", START + 10 * NS - 1) == b"1"
    assert world.at("k", START + 10 * NS) is KeyExpired
    pending = world.store.reap()
    if pending is not None:  # else the engine's own reaper was faster
        pending.result(10)
    assert world.at("k", START + 10 * NS) is KeyExpired
    assert world.at("k", START + 20 * NS) is KeyExpired
    world.store.set("k", b"2")
    world.clock.move(1)
    world.store.delete("k")
    assert world.at("k", START + 20 * NS) == b"2"
    assert world.at("k", START + 21 * NS) is KeyNotFound


def test_a_gap_lasts_until_the_next_recorded_op(world: World) -> None:
    steps: list[Callable[[], object]] = [
        lambda: world.store.set("k", b"1"),
        lambda: world.store.set("k", b"2", history=False),
        lambda: world.store.incr("k", history=False),
        lambda: world.store.delete("k", history=False),
        lambda: world.store.set("k", b"5"),
        lambda: world.store.delete("k"),
    ]
    for step in steps:
        step()
        world.clock.move(1)
    gap = TimeTravelGap
    assert [world.at("k", START + second * NS) for second in range(6)] == [
        b"1",
        gap,
        gap,
        gap,
        b"5",
        KeyNotFound,
    ]
    with pytest.raises(TimeTravelGap) as told:
        world.store.get_at("k", START + NS)
    assert told.value.message == "Time-travel chain gap detected for the requested timestamp"


def test_expire_brings_a_value_back_into_the_log(world: World) -> None:
    world.store.set("k", b"1", history=False)
    world.clock.move(1)
    world.store.expire("k", 100)
    assert world.at("k", START) is TimeTravelGap
    assert world.at("k", START + NS) == b"1"


def test_every_kind_of_op_is_in_the_past(world: World) -> None:
    store = world.store
    steps: list[tuple[Callable[[], object], bytes]] = [
        (lambda: store.set("k", b"[1]"), b"[1]"),
        (lambda: store.push("k", b"2"), b"[1,2]"),
        (lambda: store.remove("k", index=0), b"[2]"),
        (lambda: store.pop("k"), b"[]"),
        (lambda: store.set("k", b"7"), b"7"),
        (lambda: store.incr("k"), b"8"),
        (lambda: store.incr("k", -3), b"5"),
        (lambda: store.expire("k", 50), b"5"),
        (lambda: store.persist("k"), b"5"),
    ]
    for step, _ in steps:
        step()
        world.clock.move(1)
    assert [world.at("k", START + second * NS) for second in range(len(steps))] == [
        value for _, value in steps
    ]


# --- lists -------------------------------------------------------------------------------------------


def test_lists_of_the_past_go_on_after_a_key(world: World) -> None:
    for key in KEYS:
        world.store.set(key, b"")
    world.clock.move(1)
    for key in KEYS:
        world.store.delete(key)
    found: list[str] = []
    while True:
        page = world.store.list_at(START, after=found[-1] if found else None, limit=2)
        if not page.keys:
            break
        found += page.keys
    assert found == KEYS
    assert world.store.list_at(START, prefix="a", after="a", limit=9).keys == ("a/b", "a0")
    assert world.store.list_at(START, prefix="b", after="a", limit=9).keys == ("b",)
    assert world.store.list_at(START, prefix="a", after="b", limit=9).keys == ()
    assert world.store.list_at(START, after="a/", limit=1).keys == ("a/b",)
    assert world.store.list_at(START + NS).keys == ()


def test_a_list_says_when_it_has_looked_at_too_many_keys(tmp_path: Path) -> None:
    with opened(tmp_path, cap=3) as world:
        for key in ("a", "b", "c"):
            world.store.set(key, b"")
        assert not world.store.list_at(START).candidate_truncated
        world.clock.move(1)
        world.store.set("d", b"")
        past = world.store.list_at(START)
        assert (past.keys, past.candidate_truncated) == (("a", "b", "c"), True)
        assert not world.store.list_at(START + NS, after="a").candidate_truncated
        assert world.store.list_at(START + NS, after="a").keys == ("b", "c", "d")
        assert not world.store.list_at(START + NS, prefix="d").candidate_truncated
        assert not world.store.list_at(START + NS, limit=3).candidate_truncated


def test_keys_that_are_gone_count_as_candidates_too(tmp_path: Path) -> None:
    with opened(tmp_path, cap=2) as world:
        for key in ("a", "b", "c"):
            world.store.set(key, b"")
        world.clock.move(1)
        for key in ("a", "b"):
            world.store.delete(key)
        past = world.store.list_at(START + NS)
        assert (past.keys, past.candidate_truncated) == ((), True)


def test_a_difference_looks_at_the_keys_that_changed_alone(tmp_path: Path) -> None:
    with opened(tmp_path, cap=2) as world:
        for key in ("a", "b", "c"):
            world.store.set(key, b"1")
        world.clock.move(1)
        world.store.set("b", b"2")
        world.store.set("c", b"2")
        few = world.store.diff(START, START + NS)
        assert ([each.key for each in few.differences], few.candidate_truncated) == (["b", "c"], False)
        world.clock.move(1)
        world.store.set("b", b"3")
        many = world.store.diff(START, START + 2 * NS)
        assert ([each.key for each in many.differences], many.candidate_truncated) == (["b"], True)


def test_a_difference_tells_of_a_ttl_that_ran_out_whenever_that_was_logged(world: World) -> None:
    for key in ("logged", "not logged", "replaced", "kept"):
        world.store.set(key, b"1", ttl_s=10)
    world.store.persist("kept")
    world.clock.move(20)
    assert world.at("logged", world.clock.ns) is KeyExpired
    world.store.set("replaced", b"2")
    gone = ["logged", "not logged", "replaced"]
    for first, second, expected in [(0, 15, gone), (9, 10, gone), (0, 9, []), (10, 15, [])]:
        told = world.store.diff(START + first * NS, START + second * NS)
        assert [each.key for each in told.differences] == expected


# --- what was pruned ---------------------------------------------------------------------------------


def test_of_a_pruned_past_nobody_knows(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        for value in (b"1", b"2", b"3", b"4"):
            world.store.set("k", value)
            world.clock.move(1)
        world.store.set("whole", b"1")
        world.store.prune(keep_last=2)
    path = str(tmp_path / "app.db")
    with Engine(Paths(str(tmp_path))) as engine, engine.lease(path, "t") as store:
        told = store.history("k")
        assert [op.op_number for op, _ in told.operations] == [4, 3]
        assert (told.total, told.oldest_op_number) == (2, 3)
        assert told.operations[-1].before is None
        with pytest.raises(TimeTravelGap):
            store.snapshot("k", 2)
        with pytest.raises(TimeTravelGap):
            store.rollback("k", 2)
        assert store.snapshot_at(START + NS).gap_keys == ("k",)
        assert store.diff(START, START + NS).gap_keys == ("k",)
        assert store.diff(START + 2 * NS, START + 3 * NS).gap_keys == ()
        with pytest.raises(TimeTravelGap) as told_of:
            store.rollback_table(START + NS)
        assert told_of.value.details["gap_keys"] == ["k"]
        assert store.rollback("k").op_number == 5
        assert store.get("k").value == b"3"


def test_a_history_of_large_values_comes_in_short_pages(world: World) -> None:
    value = bytes(5 << 20)
    for _ in range(4):
        world.store.set("k", value)
    seen: list[int] = []
    while not seen or seen[-1] > 1:
        page = world.store.history("k", before=seen[-1] if seen else None).operations
        assert 0 < len(page) < 4
        seen += [op.op_number for op, _ in page]
    assert seen == [4, 3, 2, 1]


def test_edits_are_looked_for_only_where_the_time_asked_for_is_not_past(tmp_path: Path) -> None:
    (tmp_path / "db" / "t").mkdir(parents=True)
    clock = HandClock(START)
    config = Config(watch=False)
    with (
        Engine(Paths(str(tmp_path)), clock=clock, config=config) as engine,
        engine.lease(str(tmp_path / "db"), "t") as store,
    ):
        store.set("k", b"1")
        clock.move(1)
        (tmp_path / "db" / "t" / "k").write_bytes(b"edited")
        assert store.get_at("k", START).value == b"1"
        assert [entry.value for entry in store.snapshot_at(START).entries] == [b"1"]
        assert store.get_at("k", START + NS).value == b"edited"
        assert store.history("k").total == 2
