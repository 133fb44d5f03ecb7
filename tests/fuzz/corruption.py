"""Files that are damaged somewhere: what is read of them is right or an error, or the whole check tells.

A value in a row of a table has no check of its own that a read could look at; so there, and there alone, a
changed value may be read, and is what `check` must find. What comes from an op-log is hashed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from kvfs.config import Config
from kvfs.directory.check import check
from kvfs.directory.repair import repair
from kvfs.engine import Engine
from kvfs.errors import KvfsError, NotFound
from kvfs.handle import Handle
from kvfs.listing import LIMIT_MAX, Query
from kvfs.model import Value
from kvfs.paths import Paths
from tests.fuzz.target import Target

TABLE = "site"
_DAMAGES = ("flip", "zero", "cut", "swap", "garble", "append")
_WITHIN_S = 60.0
_KEYS = 40
_OPS = 3

# --- what is damaged ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Stores to be copied and damaged, and every value that each key ever had, the last one last."""

    home: Path
    values: dict[str, list[bytes]]


@contextmanager
def _sample() -> Iterator[Sample]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "sample")
        (home / "folder").mkdir(parents=True)
        values: dict[str, list[bytes]] = {}
        with _engine(home) as engine:
            for db in ("app.db", "folder"):
                with engine.lease(str(home / db), TABLE, create=True) as store:
                    values = _fill(store)
            # With what is in write-ahead logs only.
            shutil.copytree(home, home.with_name("running"), ignore=shutil.ignore_patterns("*-shm"))
        yield Sample(home, values)


def _fill(store: Handle) -> dict[str, list[bytes]]:
    chances = random.Random(1)
    values: dict[str, list[bytes]] = {}
    for number in range(_KEYS):
        key = f"{'d/' * (number % 3)}key {number}"
        values[key] = []
        for _ in range(_OPS):
            value = b"%d %s" % (len(values[key]), chances.randbytes(20 + number * 8).hex().encode())
            store.set(key, value, ttl_s=10**9 if number % 4 == 1 else None)
            values[key].append(value)
    return values


def _engine(home: Path) -> Engine:
    return Engine(Paths(str(home)), config=Config(watch=False, idle_close_s=1000))


@dataclass(frozen=True)
class Damage:
    """What befalls a file: how, at which share of it, and how much of it."""

    how: str
    at: float
    size: int
    chance: int

    def __call__(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        if not content:
            return
        at = min(int(self.at * len(content)), len(content) - 1)
        end = min(at + self.size, len(content))
        match self.how:
            case "flip":
                content[at] ^= 1 << (self.chance % 8)
            case "zero":
                content[at:end] = bytes(end - at)
            case "cut":
                # To SQLite a file of one byte or none is an empty database.
                del content[max(at, 2) :]
            case "swap":
                # Two pages of 1024 bytes each.
                page, other = at // 1024 * 1024, self.chance % (len(content) // 1024 + 1) * 1024
                one, two = content[page : page + 1024], content[other : other + 1024]
                content[page : page + len(two)], content[other : other + len(one)] = two, one
            case "garble":
                content[at:end] = random.Random(self.chance).randbytes(end - at)
            case "append":
                content += random.Random(self.chance).randbytes(self.size)
        path.write_bytes(content)


_DAMAGE = st.builds(
    Damage,
    st.sampled_from(_DAMAGES),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 3000),
    st.integers(0, 2**32),
)
Given = tuple[bool, list[Damage]]
_GIVEN = st.tuples(st.booleans(), st.lists(_DAMAGE, min_size=1, max_size=3))
"""Whether the stores are copied while they are open, and what befalls the file."""


@contextmanager
def _damaged(sample: Sample, name: str, given: Given) -> Iterator[Path]:
    running, damages = given
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        shutil.copytree(sample.home.with_name("running") if running else sample.home, home)
        path = home / name
        if running:
            path = Path(f"{path}-wal")
        for damage in damages:
            damage(path)
        yield home


# --- what is read of it ------------------------------------------------------------------------------------


@dataclass
class Reading:
    """What was read and is not what it should be, and which errors nobody foresaw; others are in order."""

    wrong: dict[str, object]
    unforeseen: list[str]


def _read(store: Handle, values: dict[str, list[bytes]]) -> Reading:
    """Everything that there is to read: what keys are, what they were, and which there are."""
    reading = Reading({}, [])
    deadline = time.monotonic() + _WITHIN_S

    def compare(what: str, read: Callable[[], object], right: object) -> None:
        try:
            found = read()
        except NotFound as error:
            reading.wrong[what] = error.code
        except KvfsError:
            pass
        except Exception as error:
            reading.unforeseen.append(f"{what}: {error!r}")
        else:
            if found != right:
                reading.wrong[what] = found
        assert time.monotonic() < deadline, what

    for key, ever in values.items():
        compare(key, partial(_now, store, key), ever[-1])
        for number, value in enumerate(ever, 1):
            compare(f"{key} op {number}", partial(_past, store, key, number), value)
        compare(f"{key} history", partial(_history, store, key), ever[::-1])
    compare("list", partial(_listed, store), sorted(values))
    return reading


def _now(store: Handle, key: str) -> bytes:
    return _bytes(store.get(key).value)


def _past(store: Handle, key: str, number: int) -> bytes:
    entry = store.snapshot(key, number).entry
    return b"" if entry is None else _bytes(entry.value)


def _history(store: Handle, key: str) -> list[bytes]:
    entries = [each.op.entry for each in store.history(key).operations]
    return [b"" if entry is None else _bytes(entry.value) for entry in entries]


def _listed(store: Handle) -> list[str]:
    return [entry.key for entry in store.list(Query(limit=LIMIT_MAX)).entries]


def _bytes(value: Value | None) -> bytes:
    assert isinstance(value, bytes)
    return value


# --- what must hold ----------------------------------------------------------------------------------------


def _table(sample: Sample, given: Given) -> None:
    """What is read is right, or the whole check finds the damage; but from a damaged write-ahead log."""
    with _damaged(sample, "app.db", given) as home, suppress(KvfsError), _engine(home) as engine:
        logged = Path(f"{home}/app.db-wal").exists()
        with engine.lease(str(home / "app.db"), TABLE) as store:
            reading = _read(store, sample.values)
            if logged:
                _is_earlier(reading, sample.values)
            elif reading.wrong or reading.unforeseen:
                assert _finds_damage(store), reading


def _finds_damage(store: Handle) -> bool:
    try:
        return bool(store.sql.maintenance.check(quick=False, deadline=time.monotonic() + _WITHIN_S))
    except KvfsError:
        return True


def _is_earlier(reading: Reading, values: dict[str, list[bytes]]) -> None:
    """SQLite takes a write-ahead log for whole up to where it is damaged: all is as it was then."""
    assert not reading.unforeseen
    for what, found in reading.wrong.items():
        key, _, past = what.partition(" op ")
        if what == "list":
            assert isinstance(found, list)
            assert set(found) <= values.keys()
        elif what.endswith(" history"):
            assert isinstance(found, list | str)
        else:
            assert found in ("KEY_NOT_FOUND", *([] if past else values[key])), (what, found)


def _op_log(sample: Sample, given: Given) -> None:
    """What keys are is right, and what they were, or the check finds the damage; and a repair mends it."""
    with _damaged(sample, f"folder/.kvfs/{TABLE}.oplog", given) as home:
        db = str(home / "folder")
        with suppress(KvfsError), _engine(home) as engine, engine.lease(db, TABLE) as store:
            reading = _read(store, sample.values)
            now = {what for what in reading.wrong if " op " not in what and not what.endswith(" history")}
            assert not now, reading
            if reading.wrong or reading.unforeseen:
                assert check(db, TABLE, full=True).differences, reading
        repair(db, TABLE)
        with _engine(home) as engine, engine.lease(db, TABLE) as store:
            assert {key: _now(store, key) for key in _listed(store)} == _last(sample)


def _index(sample: Sample, given: Given) -> None:
    """Nothing that is read of an index is believed of a value, and it heals."""
    with _damaged(sample, f"folder/.kvfs/{TABLE}.index", given) as home:
        db = str(home / "folder")
        with _engine(home) as engine, engine.lease(db, TABLE) as store:
            reading = _read(store, sample.values)
            assert reading == Reading({}, [])
            assert {key: _now(store, key) for key in sample.values} == _last(sample)
            store.rebuild()
            assert _listed(store) == sorted(sample.values)
        assert check(db, TABLE, full=True).differences == ()


def _last(sample: Sample) -> dict[str, bytes]:
    return {key: ever[-1] for key, ever in sample.values.items()}


CORRUPTIONS = [
    Target("damaged tables", _GIVEN, _table, few=8, share=0.3, mutants=0, opened=_sample),
    Target("damaged op-logs", _GIVEN, _op_log, few=6, share=0.3, mutants=0, opened=_sample),
    Target("damaged indexes", _GIVEN, _index, few=4, share=0.3, mutants=0, opened=_sample),
]
