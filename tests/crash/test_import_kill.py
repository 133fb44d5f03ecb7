"""An import that is killed goes on where it stopped, and comes to the same in the end."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import apsw
import pytest

from kvfs.handle import Handle
from kvfs.transfer.blocks import Splitter, stream
from kvfs.transfer.format import parse_op
from tests.engine.place import TABLE, Place
from tests.polling import eventually
from tests.serving import ROOT

SEED = 20_240_611
OPS = 1500
BLOCK_RECORDS = 3
KILLS = 3


def exported(store: Handle) -> list[bytes]:
    """The whole history, a piece a block."""
    splitter = Splitter()
    lines = [
        line for piece in store.export(history=True) for block in splitter.feed(piece) for line in block.lines
    ]
    assert splitter.header is not None
    header = splitter.header._replace(id="one", table=TABLE, directory=False)
    return [*stream(header, map(parse_op, lines), block_records=BLOCK_RECORDS)]


def fill(place: Place) -> list[bytes]:
    """Ops of all kinds, of few keys: the last of a key in a block is seldom its last of all. The export."""
    chance = random.Random(SEED)
    with place.store() as store:
        for number in range(OPS):
            key = f"k{chance.randrange(12)}"
            match chance.randrange(8):
                case 0:
                    with suppress(Exception):
                        store.delete(key)
                case 1 | 2:
                    store.set(key, b"gap %d" % number, history=False)
                case 3:
                    # By somebody else: an op of another origin, whose file has to be made all the same.
                    (place.path / TABLE).mkdir(exist_ok=True)
                    (place.path / TABLE / key).write_bytes(b"edited %d" % number)
                    store.get_many([key])
                case 4:
                    store.set(key, b"large %d " % number * 200_000) if number % 5 == 0 else store.incr("n")
                case _:
                    store.set(key, b"%d" % number)
        return exported(store)


def progress(place: Place) -> int:
    """How many records are in."""
    with suppress(apsw.Error):
        if place.log_file.exists():
            rows = place.query("SELECT records FROM kvfs_imports")
            return int(rows[0][0]) if rows else 0
    return 0


def got_to(place: Place, wanted: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether so many records are in, or will never be."""
    return progress(place) >= wanted or process.poll() is not None


@pytest.mark.parametrize(
    "directory", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["table", "directory"]
)
def test_an_import_that_is_killed_goes_on(tmp_path: Path, directory: bool) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    pieces = fill(Place(tmp_path / "source", directory=True))
    file = tmp_path / "export.jsonl"
    file.write_bytes(b"".join(pieces))
    place = Place(tmp_path / "target", directory=directory)
    command = [
        sys.executable, "-m", "server", "import", str(file),
        "--local", "--create", "--db", place.db, "--table", TABLE, "--timeout", "60",
    ]  # fmt: skip
    chance = random.Random(SEED)
    for _ in range(KILLS):
        before = progress(place)
        wanted = before + chance.randrange(1, OPS // KILLS)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            eventually(partial(got_to, place, wanted, process), 50, "some records are in")
            process.kill()
        assert process.returncode == -9, "it was not in the middle of it"
        with place.store() as store:
            store.settle_all()
        place.check(crashed=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=55)
    assert done.returncode == 0, done.stderr
    with place.store() as store:
        assert exported(store) == pieces
    place.check(crashed=True)


DIES_AFTER_COMMIT = """
import os, sys
import kvfs
from kvfs.directory.state import State

commit, left = State.commit_log, int(sys.argv[1])

def commit_and_die(state):
    global left
    commit(state)
    left -= 1
    if not left:
        os._exit(9)

State.commit_log = commit_and_die
with kvfs.open(sys.argv[2], sys.argv[3]) as store, open(sys.argv[4], "rb") as file:
    store.import_(file)
"""


def test_files_that_were_not_in_place_yet_come_to_their_places(tmp_path: Path) -> None:
    """Of whatever origin their ops are, and with or without values."""
    (tmp_path / "source").mkdir()
    source = Place(tmp_path / "source", directory=True)
    with source.store() as store:
        store.set("a", b"gap", history=False)
        for value in (b"1", b"2"):
            (source.path / TABLE / "b").write_bytes(value)
            store.get("b")
        store.set("c", b"gap", history=False)
        (source.path / TABLE / "a").write_bytes(b"edited")
        store.get("a")
        (source.path / TABLE / "b").unlink()
        assert store.get_many(["b"]) == {"b": None}
        store.set("c", b"last gap", history=False)
        pieces = exported(store)
    file = tmp_path / "export.jsonl"
    file.write_bytes(b"".join(pieces))
    died = 0
    for commits in range(1, 9):
        (tmp_path / str(commits)).mkdir()
        place = Place(tmp_path / str(commits), directory=True)
        command = [sys.executable, "-c", DIES_AFTER_COMMIT, str(commits), place.db, TABLE, str(file)]
        died += subprocess.run(command, cwd=ROOT, check=False, timeout=50).returncode == 9
        with place.store() as store:
            store.settle_all()
            assert store.import_(pieces).complete
            assert exported(store) == pieces
        place.check(crashed=True)
    assert died >= 5
