"""A folder store whose process is killed, or whose disk fails, at any system call."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

import kvfs
from kvfs.directory.names import key_of
from tests import invariants
from tests.crash.steps import ACTS, BEFORE, CONFIG, LATER, TABLE, Act, digests
from tests.crash.tracing import Ran, Stepper, stepper
from tests.invariants import Logged, hashed

everything = pytest.mark.parametrize(
    "everything", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["sample", "all"]
)
acts = pytest.mark.parametrize("act", ACTS)
main_acts = pytest.mark.parametrize(
    "act",
    [pytest.param(act, marks=[] if act in ("overwrite", "batch") else pytest.mark.soak) for act in ACTS],
)

FAILURES = {"DATABASE_ERROR", "FILE_SYSTEM_ERROR", "STORAGE_FULL"}
NO_EXCHANGE = ("renameat2:error=ENOSYS", "renameat2:error=EINVAL")


class Folders:
    """Folder stores, each of them a copy of one that was prepared, for one run each."""

    def __init__(self, home: Path, steps: Stepper) -> None:
        self._home = home
        self._prepared = home / "prepared"
        self._steps = steps
        self._count = 0
        self.db = self._prepared
        self.db.mkdir()
        with kvfs.open(str(self.db), TABLE, config=CONFIG) as store:
            for key, value in BEFORE.items():
                store.set(key, value)

    def copy(self) -> None:
        """Make another copy, which is `db` from now on."""
        if self.db != self._prepared:
            shutil.rmtree(self.db)
        self._count += 1
        self.db = self._home / f"db{self._count}"
        shutil.copytree(self._prepared, self.db)

    def forget(self) -> None:
        """Have a folder prepared that kvfs has never seen."""
        shutil.rmtree(self._prepared / ".kvfs")

    def remove_index(self) -> None:
        """Take away what is worth nothing."""
        for file in (self.db / ".kvfs").glob(f"{TABLE}.index*"):
            file.unlink()

    def run(self, phase: str, act: str, *injected: str, go_on: bool = False) -> Ran:
        """Go through the steps."""
        return self._steps.run(self.db, phase, act, *injected, go_on=go_on)

    def values(self) -> dict[str, str]:
        """The digests of all values, but for `LATER`, as whoever opens the store next reads them."""
        with kvfs.open(str(self.db), TABLE, config=CONFIG) as store:
            store.settle_all()
            return {key: digest for key, digest in digests(store).items() if key != LATER}

    def files(self) -> dict[str, bytes]:
        """What others see: the values in the files, by their keys."""
        root = self.db / TABLE
        found = {}
        for path in root.rglob("*"):
            if path.is_file():
                key = key_of(path.relative_to(root).parts)
                assert key is not None, path
                found[key] = path.read_bytes()
        return found

    def log(self) -> list[Logged]:
        """The op-log; everything beside it is as it must be."""
        return invariants.check_folder(self.db, TABLE)


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    with stepper(tmp_path) as steps:
        yield Folders(tmp_path, steps)


def calls_to_try(calls: Counter[str], *, everything: bool) -> Iterator[tuple[str, int]]:
    """(name, number) of system calls: all, or the first and the last of each kind."""
    for call, times in calls.items():
        numbers = range(1, times + 1) if everything else sorted({1, times})
        yield from ((call, number) for number in numbers)


def whole_for_others(folders: Folders, act: Act) -> set[str]:
    """Whoever looks at the files sees each value as it was or as it will be; the keys that are missing."""
    files = folders.files()
    for key, value in files.items():
        assert key == LATER or value in (BEFORE.get(key), act.values.get(key)), key
    return (BEFORE.keys() & act.after().keys()) - files.keys()


def done_or_not_at_all(folders: Folders, act: Act, *, done: bool) -> bool:
    """Open again: the act has happened, whole and once, or nothing has; which of the two it is."""
    values = folders.values()
    ops = [(op.key, op.value_hash, op.origin) for op in folders.log()[len(BEFORE) :] if op.key != LATER]
    if not done and not ops:
        assert values == _digests(BEFORE)
        return False
    assert values == _digests(act.after())
    assert ops == [
        (key, None if value is None else hashed(value), "api") for key, value in act.values.items()
    ]
    return True


def _digests(values: Mapping[str, bytes]) -> dict[str, str]:
    return {key: hashed(value).hex() for key, value in values.items()}


# --- kills -------------------------------------------------------------------------------------------


def kill_everywhere(
    folders: Folders, phase: str, act: str, *injected: str, everything: bool, gone: Collection[str] = ()
) -> None:
    """Kill the process at the calls of one phase, one after the other, and look at what is left.

    Files of the keys `gone` may be missing then, until the store is opened again.
    """
    folders.copy()
    calm = folders.run(phase, act, *injected)
    assert calm.code == 0
    assert calm.calls
    kills = 0
    for call, number in calls_to_try(calm.calls, everything=everything):
        print(f"{call} {number}")
        folders.copy()
        ran = folders.run(phase, act, *injected, f"{call}:signal=KILL:when={number}")
        kills += ran.killed
        assert ran.failures == []
        assert whole_for_others(folders, ACTS[act]) <= {*gone}
        done_or_not_at_all(folders, ACTS[act], done=ran.done)
    assert kills > len(calm.calls)


@everything
@main_acts
def test_a_write_that_is_killed_is_done_or_not_at_all(folders: Folders, act: str, everything: bool) -> None:
    kill_everywhere(folders, "write", act, everything=everything)


@everything
@pytest.mark.parametrize(
    "act",
    [
        "overwrite",
        *(pytest.param(act, marks=pytest.mark.soak) for act in ("new", "delete", "below", "large")),
        "batch",
    ],
)
def test_a_write_without_exchanges_that_is_killed_is_done_or_not_at_all(
    folders: Folders, act: str, everything: bool
) -> None:
    # A file cannot become a folder in one step then.
    gone = {"k", "other"} if act in ("below", "batch") else ()
    kill_everywhere(folders, "write", act, NO_EXCHANGE[0], everything=everything, gone=gone)


@pytest.mark.parametrize("act", ["overwrite", "delete"])
def test_the_first_read_after_a_kill_shows_what_was_committed(folders: Folders, act: str) -> None:
    folders.copy()
    assert folders.run("write", act, "renameat2:signal=KILL:when=1").killed
    with kvfs.open(str(folders.db), TABLE, config=CONFIG) as store:
        assert digests(store) == _digests(ACTS[act].after())


@everything
@pytest.mark.parametrize("act", ["overwrite", pytest.param("large", marks=pytest.mark.soak)])
def test_closing_that_is_killed_loses_nothing(folders: Folders, act: str, everything: bool) -> None:
    kill_everywhere(folders, "close", act, everything=everything)


@everything
@pytest.mark.parametrize("there", [False, True], ids=["new", "known"])
def test_opening_that_is_killed_leaves_a_store_that_opens(
    folders: Folders, there: bool, everything: bool
) -> None:
    if not there:
        folders.forget()
    kill_everywhere(folders, "open", "new", everything=everything)


@everything
@pytest.mark.parametrize(
    ("act", "last"),
    [
        ("batch", "renameat2:when=3"),
        pytest.param("delete", "renameat2:when=1", marks=pytest.mark.soak),
        pytest.param("large", "fdatasync:when=1", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("index", [True, False], ids=["with-index", "without"])
def test_recovery_that_is_killed_is_recovered_from(
    folders: Folders, act: str, last: str, index: bool, everything: bool
) -> None:
    def crashed() -> None:
        folders.copy()
        assert folders.run("write", act, f"{last}:signal=KILL").killed
        if not index:
            folders.remove_index()

    crashed()
    calls = folders.run("recover", act).calls
    kills = 0
    for call, number in calls_to_try(calls, everything=everything):
        print(f"{call} {number}")
        crashed()
        kills += folders.run("recover", act, f"{call}:signal=KILL:when={number}").killed
        assert whole_for_others(folders, ACTS[act]) == set()
        assert done_or_not_at_all(folders, ACTS[act], done=False)
    assert kills > len(calls)


# --- errors ------------------------------------------------------------------------------------------


def fail_everywhere(
    folders: Folders, phase: str, act: str, error: str, *injected: str, everything: bool
) -> None:
    """Let the calls of one phase fail, one after the other: what is told of it is true."""
    folders.copy()
    calls = folders.run(phase, act, *injected).calls
    del calls["flock"]  # on no disk
    failures = 0
    for call, number in calls_to_try(calls, everything=everything):
        print(f"{call} {number}")
        folders.copy()
        ran = folders.run(phase, act, *injected, f"{call}:error={error}:when={number}", go_on=True)
        assert ran.code == 0
        assert {fact["failed"] for fact in ran.failures} <= FAILURES
        failures += len(ran.failures)
        unknown = any(fact["unknown"] for fact in ran.failures)
        assert whole_for_others(folders, ACTS[act]) == set()
        done = done_or_not_at_all(folders, ACTS[act], done=ran.done)
        assert done == ran.done or unknown
        if not unknown and ran.values is not None:
            assert ran.values == _digests(ACTS[act].after() if done else BEFORE)
    # Nobody is told that closing has not made everything durable: the op-log is.
    assert failures or phase == "close"


@everything
@pytest.mark.parametrize("error", ["EIO", pytest.param("ENOSPC", marks=pytest.mark.soak)])
@main_acts
def test_a_write_whose_disk_fails_is_told_as_it_is(
    folders: Folders, act: str, error: str, everything: bool
) -> None:
    fail_everywhere(folders, "write", act, error, everything=everything)


@pytest.mark.parametrize("act", ["overwrite", "delete"])
def test_the_read_after_an_unknown_outcome_tells_what_it_was(folders: Folders, act: str) -> None:
    folders.copy()
    ran = folders.run("write", act, "renameat2:error=EIO:when=1", go_on=True)
    assert [fact["unknown"] for fact in ran.failures] == [True]
    assert ran.values == folders.values()


@everything
@pytest.mark.parametrize(
    "phase",
    [
        "open",
        "recover",
        "close",
    ],
)
def test_a_disk_that_fails_around_a_write_is_told_as_it_is(
    folders: Folders, phase: str, everything: bool
) -> None:
    fail_everywhere(folders, phase, "overwrite", "EIO", everything=everything)


# --- a file system without exchanges -----------------------------------------------------------------


@pytest.mark.parametrize("missing", NO_EXCHANGE)
@acts
def test_a_write_works_where_files_cannot_be_exchanged(folders: Folders, act: str, missing: str) -> None:
    folders.copy()
    ran = folders.run("write", act, missing, go_on=True)
    assert ran.done
    assert whole_for_others(folders, ACTS[act]) == set()
    assert done_or_not_at_all(folders, ACTS[act], done=True)
