"""A server that was away, or whose index or folder is taken from it, is right at once, and loses nothing."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from kvfs.directory.names import path_of
from tests import nasty
from tests.crash.load import Ack, Acknowledged, digest_of
from tests.directory.served import WITHIN_S, Folder, Server, load
from tests.invariants import Logged
from tests.polling import eventually

# A disk may stall for long, and what is edited is written.
pytestmark = pytest.mark.timeout(240)

FILES = 500
FOLDERS = 40
MINE = 120
# More than fit into the kernel's queue (fs.inotify.max_queued_events).
STORM = 40_000


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def server(tmp_path: Path, folder: Folder) -> Iterator[Server]:
    server = Server(tmp_path, folder)
    server.start()
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def fill(server: Server) -> Acknowledged:
    """Write keys of all sorts through the server."""
    acknowledged = Acknowledged()
    for number in range(MINE):
        key, value = f"mine/{number}", b"mine %d" % number
        wrote = server.store.set(key, value)
        acknowledged.add(Ack(key, wrote.op_number or 0, digest_of(value)))
    for key, content_type, ttl in (("typed", "image/png", None), ("timed", "text/plain", 1000)):
        wrote = server.store.set(key, key.encode(), content_type=content_type, ttl=ttl)
        acknowledged.add(Ack(key, wrote.op_number or 0, digest_of(key.encode())))
    return acknowledged


def flood(folder: Folder, files: int) -> None:
    """Change a folder more than events could tell."""
    for number in range(STORM):
        os.utime(folder.root / ("typed" if number % 2 else "timed"))
    for number in range(files):
        folder.write(f"new/{number % FOLDERS}/{number}", b"new %d" % number)
    for number in range(0, MINE, 3):
        folder.write(f"mine/{number}", b"edited %d" % number)
    for number in range(1, MINE, 6):
        folder.replace(f"mine/{number}", b"replaced %d" % number)
    for number in range(2, MINE, 6):
        (folder.root / f"mine/{number}").unlink()
    (folder.root / "new/0").rename(folder.root / "moved")


def whole(log: list[Logged], acknowledged: Acknowledged) -> None:
    """All that was acknowledged is in the log, and each outside edit once."""
    assert acknowledged.missing_from(log) == []
    edits = [op for op in log if op.origin == "file"]
    made = Counter((op.key, op.value) for op in edits if op.key.startswith(("new/", "moved/")))
    assert [op for op, count in made.items() if count > 1] == []


# --- the server was away -------------------------------------------------------------------------------


def paused(server: Server, acknowledged: Acknowledged, edit: Callable[[], None]) -> None:
    server.pause()
    try:
        edit()
    finally:
        server.go_on()


def stopped(server: Server, acknowledged: Acknowledged, edit: Callable[[], None]) -> None:
    server.stop()
    edit()
    server.start()


def killed(server: Server, acknowledged: Acknowledged, edit: Callable[[], None]) -> None:
    with load(acknowledged, 1, server) as under_way:
        under_way.until_more(60)
        under_way.ending.set()
        server.kill()
    edit()
    server.start()


away = pytest.mark.parametrize("away", [pytest.param(paused, marks=pytest.mark.soak), stopped, killed])
floods = pytest.mark.parametrize("files", [FILES, pytest.param(40 * FILES, marks=pytest.mark.soak)])
Away = Callable[[Server, Acknowledged, Callable[[], None]], None]


@away
@floods
def test_what_was_edited_meanwhile_is_true_at_once(
    server: Server, folder: Folder, away: Away, files: int
) -> None:
    acknowledged = fill(server)
    server.watches()
    away(server, acknowledged, lambda: flood(folder, files))
    chance = random.Random(files)
    values = folder.values()
    for key in [*chance.sample(sorted(values), 20), "mine/0", "mine/1", "mine/3"]:
        assert server.store.get(key).value == values[key]
    assert not server.store.has("mine/2")
    assert not server.store.has("new/0/0")
    assert server.listed() == folder.values()
    folder.gets_recorded()
    whole(folder.check(), acknowledged)


@away
@floods
def test_what_was_edited_meanwhile_is_recorded_without_being_asked_for(
    server: Server, folder: Folder, away: Away, files: int
) -> None:
    acknowledged = fill(server)
    server.watches()
    away(server, acknowledged, lambda: flood(folder, files))
    folder.gets_recorded()
    assert server.listed() == folder.values()
    whole(folder.check(), acknowledged)
    assert server.store.get("typed").content_type == "image/png"
    assert server.store.get("timed").expire_at is not None


# --- the index is taken away ---------------------------------------------------------------------------


def delete_index(folder: Folder) -> None:
    folder.lose_index()


def delete_index_alone(folder: Folder) -> None:
    folder.index.unlink()


def overwrite_index(folder: Folder) -> None:
    folder.index.write_bytes(nasty.noise(50_000))


def overwrite_index_in_place(folder: Folder) -> None:
    with folder.index.open("r+b") as index:
        index.write(nasty.noise(50_000))


def empty_index(folder: Folder) -> None:
    os.truncate(folder.index, 0)


def replace_index(folder: Folder) -> None:
    apsw.Connection(str(folder.spare / "index")).execute("CREATE TABLE files (key)")
    (folder.spare / "index").rename(folder.index)


RARER_LOSSES = [delete_index_alone, overwrite_index, empty_index, replace_index]


@pytest.mark.parametrize(
    "lose",
    [
        delete_index,
        overwrite_index_in_place,
        *(pytest.param(each, marks=pytest.mark.soak) for each in RARER_LOSSES),
    ],
)
def test_an_index_that_is_lost_under_load_loses_nothing_else(
    server: Server, folder: Folder, lose: Callable[[Folder], None]
) -> None:
    acknowledged = fill(server)
    server.watches()
    before = {key: server.store.get(key) for key in ("typed", "timed")}
    with load(acknowledged, 2, server) as under_way:
        for number in range(24):
            if number % 8 == 4:
                lose(folder)
            key, value = f"edited/{number % 7}", b"edited %d" % number
            (folder.write if number % 2 else folder.replace)(key, value)
            assert server.store.get(key).value == value
            assert (number % 5 > 0) or key in server.listed()
            under_way.until_more(5)
    assert {key: server.store.get(key) for key in before} == before
    assert server.listed() == folder.values()
    folder.gets_recorded()
    log = folder.check()
    whole(log, acknowledged)
    shown = {op.value for op in log if op.key.startswith("edited/")}
    assert shown >= {b"edited %d" % number for number in range(24)}


# --- the folder is taken away --------------------------------------------------------------------------


def test_a_folder_that_is_replaced_is_followed_without_a_request(server: Server, folder: Folder) -> None:
    acknowledged = fill(server)
    other = folder.spare / "other"
    for path in ("mine/1", "theirs/1", "theirs/2"):
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        (other / path).write_bytes(path.encode())
    server.watches()
    folder.root.rename(folder.spare / "away")
    other.rename(folder.root)
    folder.gets_recorded()
    server.watches()
    folder.write("theirs/3", b"later")
    folder.gets_recorded()
    assert server.listed() == folder.values()
    assert acknowledged.missing_from(folder.check()) == []


def test_a_folder_that_is_made_again_is_followed_without_a_request(server: Server, folder: Folder) -> None:
    acknowledged = fill(server)
    server.watches()
    shutil.rmtree(folder.root)
    eventually(lambda: not server.is_watching(), WITHIN_S, "it is noticed that the folder is gone")
    assert not folder.root.exists()
    folder.write("mine/1", b"again")
    folder.gets_recorded()
    server.watches()
    folder.write("theirs", b"later")
    folder.gets_recorded()
    assert server.listed() == folder.values()
    assert acknowledged.missing_from(folder.check()) == []


def test_keys_keep_counting_in_a_folder_that_was_replaced(server: Server, folder: Folder) -> None:
    acknowledged = fill(server)
    server.watches()
    folder.root.rename(folder.spare / "away")
    folder.root.mkdir()
    folder.gets_recorded()
    (key, *rest) = sorted({ack.key for ack in acknowledged.acks})
    assert server.store.set(key, b"new").op_number == 3
    assert folder.root.joinpath(*path_of(key)).read_bytes() == b"new"
    assert not any(server.store.has(other) for other in rest)
    folder.check()
