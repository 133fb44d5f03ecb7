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
KILLS = 6


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


@pytest.mark.parametrize("directory", [False, True], ids=["table", "directory"])
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
        place.check()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=55)
    assert done.returncode == 0, done.stderr
    with place.store() as store:
        assert exported(store) == pieces
    place.check()
