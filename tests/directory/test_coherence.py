"""Reads are true: what is asked for after an outside edit has returned shows that edit, whatever it was.

Nothing is ever stale, so these tests are long loops: an edit, and at once every look there is.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path

import pytest

from kvfs.errors import KeyNotFound, Overloaded
from kvfs.listing import LIMIT_MAX, Query
from tests.directory import coarse
from tests.directory.conftest import Folder, whole
from tests.directory.editing import Outsider
from tests.http.launching import Server
from tests.http.stores import Store
from tests.http.wire import refused
from tests.polling import eventually
from tests.serving import ROOT

SEED = 1


# --- whatever the edit, whatever the look ---------------------------------------------------------------


class Looks:
    """Every way to look at a folder store in this process; each fails where it is shown what is not true."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.all: list[Callable[[Mapping[str, bytes], str], None]] = [self.get, self.list, self.list_below]

    def get(self, true: Mapping[str, bytes], key: str) -> None:
        try:
            entry = self._folder.store.get(key)
        except KeyNotFound:
            assert key not in true
            return
        value = whole(entry)
        assert (value, entry.size, entry.sha256) == (
            true.get(key),
            len(value),
            hashlib.sha256(value).digest(),
        )

    def list(self, true: Mapping[str, bytes], key: str) -> None:
        page = self._folder.store.list(Query(limit=LIMIT_MAX, values=True))
        assert {entry.key: whole(entry) for entry in page.entries} == true

    def list_below(self, true: Mapping[str, bytes], key: str) -> None:
        prefix = key[: key.rfind("/") + 1]
        page = self._folder.store.list(Query(prefix=prefix, limit=LIMIT_MAX, total=True))
        sizes = {key: len(value) for key, value in true.items() if key.startswith(prefix)}
        assert {entry.key: entry.size for entry in page.entries} == sizes
        assert page.total == len(sizes)


class HttpLooks:
    """Every way to look at a store of a server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # What conditional requests remember: a key's ETag, and the value that came with it.
        self._cached: dict[str, tuple[str, bytes]] = {}
        self.all: list[Callable[[Mapping[str, bytes], str], None]] = [
            self.get, self.get_again, self.head, self.entry, self.get_many, self.list,
        ]  # fmt: skip

    def get(self, true: Mapping[str, bytes], key: str) -> None:
        answer = self._store.ask("GET", key)
        if key not in true:
            refused(answer, 404, "KEY_NOT_FOUND")
            return
        assert (answer.status, answer.body) == (200, true[key])
        assert answer.headers["X-File-Hash"] == hashlib.sha256(true[key]).hexdigest()
        self._cached[key] = answer.headers["ETag"], answer.body

    def get_again(self, true: Mapping[str, bytes], key: str) -> None:
        etag, cached = self._cached.get(key, ('"0"', b""))
        answer = self._store.ask("GET", key, headers=[("If-None-Match", etag)])
        if key not in true:
            refused(answer, 404, "KEY_NOT_FOUND")
            return
        assert (cached if answer.status == 304 else answer.body) == true[key]
        assert answer.status == (304 if answer.headers["ETag"] == etag else 200)

    def head(self, true: Mapping[str, bytes], key: str) -> None:
        answer = self._store.ask("HEAD", key)
        if key not in true:
            assert (answer.status, answer.headers["X-Error-Code"]) == (404, "KEY_NOT_FOUND")
            return
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(true[key])))
        assert answer.headers["X-File-Hash"] == hashlib.sha256(true[key]).hexdigest()

    def entry(self, true: Mapping[str, bytes], key: str) -> None:
        answer = self._store.ask("GET", key, "entry")
        assert answer.status == (200 if key in true else 404)
        if key in true:
            assert answer.json()["size"] == len(true[key])

    def get_many(self, true: Mapping[str, bytes], key: str) -> None:
        body = json.dumps({"keys": [key, "missing"]}).encode()
        assert self._store.ask("POST", None, "batch/get", body=body).done()["count"] == (key in true)

    def list(self, true: Mapping[str, bytes], key: str) -> None:
        answer = self._store.ask("GET", limit=LIMIT_MAX, total="true").done()
        assert {item["key"]: item["size"] for item in answer["items"]} == {
            key: len(value) for key, value in true.items()
        }
        assert (answer["count"], answer["total"]) == (len(true), len(true))


def follow(outsider: Outsider, looks: Looks | HttpLooks, edits: int, seed: int) -> None:
    """So many edits; after each, every look, the first one now this, now that: it may mend the others."""
    chance = random.Random(seed)
    before: dict[str, bytes] = {}
    for number in range(edits):
        edit = outsider.edit()
        true = outsider.values
        touched = [key for key in {**before, **true} if before.get(key) != true.get(key)]
        before = true
        for key in chance.sample(touched, min(2, len(touched))) or ["a"]:
            for look in chance.sample(looks.all, len(looks.all)):
                try:
                    look(true, key)
                except BaseException as exc:
                    exc.add_note(f"seed {seed}, edit {number}, {edit}: {look.__name__} of {key!r}")
                    raise


def outsider_in(folder: Path, spare: Path, seed: int) -> Outsider:
    folder.mkdir(exist_ok=True)
    spare.mkdir()
    return Outsider(folder, spare, seed)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_after_any_edit_every_look_is_true(folder: Folder, seed: int) -> None:
    follow(outsider_in(folder.root, folder.db / "spare", seed), Looks(folder), 500, seed)


@pytest.mark.soak
def test_after_any_of_many_edits_every_look_is_true(folder: Folder) -> None:
    follow(outsider_in(folder.root, folder.db / "spare", SEED), Looks(folder), 10_000, SEED)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests here share."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Iterator[Store]:
    """An empty folder store of the server, checked at the end."""
    with Store(server, tmp_path / "site", directory=True) as site:
        yield site
        site.disconnect()
        site.check()


@pytest.mark.parametrize("edits", [200, pytest.param(10_000, marks=pytest.mark.soak)])
def test_after_any_edit_every_request_is_answered_truly(site: Store, edits: int) -> None:
    follow(outsider_in(site.folder, site.home / "spare", SEED), HttpLooks(site), edits, SEED)


# --- clocks that hide an edit ------------------------------------------------------------------------


COARSE = {"ticking": coarse.ticking, "whole_seconds": coarse.whole_seconds}


@pytest.fixture(params=COARSE)
def coarse_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A folder store on a file system with a coarse clock, checked at the end."""
    with COARSE[request.param](tmp_path) as mounted:
        folder = Folder(mounted / "db")
        try:
            yield folder
            folder.store.settle_all()
            folder.check()
        finally:
            folder.close()


def rewrite(folder: Folder, rounds: int) -> None:
    """Write the same number of bytes in place, again and again, and look at once each time."""
    folder.store.set("k", b"%08d" % 0)
    fd = os.open(folder.root / "k", os.O_WRONLY)
    try:
        for number in range(1, rounds + 1):
            value = b"%08d" % number
            os.pwrite(fd, value, 0)
            if number % 10:
                entry = folder.store.get("k")
                assert entry.value == value
            else:
                [entry] = folder.store.list(Query()).entries
            assert (entry.sha256, entry.op_number) == (hashlib.sha256(value).digest(), number + 1)
    finally:
        os.close(fd)


@pytest.mark.parametrize("rounds", [1000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_a_rewrite_in_place_of_the_same_size_is_seen_at_once(folder: Folder, rounds: int) -> None:
    rewrite(folder, rounds)


def test_a_rewrite_of_the_same_size_is_seen_at_once_where_clocks_are_coarse(coarse_folder: Folder) -> None:
    rewrite(coarse_folder, 500)


@pytest.mark.parametrize("edits", [150, pytest.param(5000, marks=pytest.mark.soak)])
def test_after_any_edit_every_look_is_true_where_clocks_are_coarse(coarse_folder: Folder, edits: int) -> None:
    outsider = outsider_in(coarse_folder.root, coarse_folder.db / "spare", SEED)
    follow(outsider, Looks(coarse_folder), edits, SEED)


# --- writes right after an edit ----------------------------------------------------------------------


def test_writes_and_conditions_over_http_see_the_edit_before_them(site: Store) -> None:
    site.put("k", b"0")
    site.put("n", b"0")
    site.put("doc.json", b"{}")

    def edit(key: str, value: bytes) -> None:
        fresh = site.home / "fresh"
        fresh.write_bytes(value)
        fresh.rename(site.folder / key)

    for number in range(1, 60):
        theirs, ours = b"theirs %d" % number, b"ours %d" % number
        etag = site.ask("HEAD", "k").headers["ETag"]
        edit("k", theirs)
        for stale in (
            {"if_match": "0"},
            {"headers": [("If-Match", etag)]},
            {"headers": [("If-None-Match", "*")]},
        ):
            error = refused(site.ask("PUT", "k", body=b"lost", **stale), 412, "CAS_MISMATCH")
        assert refused(site.ask("DELETE", "k", headers=[("If-Match", etag)]), 412, "CAS_MISMATCH")
        assert site.ask("GET", "k", headers=[("If-None-Match", etag)]).body == theirs
        if number % 2:
            site.put("k", ours, if_match=theirs.decode())
        else:
            site.put("k", ours, headers=[("If-Match", f'"{error["current_etag"]}"')])
        edit("n", b"%d" % (100 * number))
        assert site.ask("POST", "n", "incr").done()["value"] == 100 * number + 1
        edit("doc.json", b'{"theirs":%d,"list":[]}' % number)
        site.put("doc.json", b"1", path="ours")
        edit("doc.json", b'{"theirs":%d,"list":[0]}' % number)
        assert site.ask("POST", "doc.json", "push", path="list", body=b"1").done()["length"] == 2
        assert json.loads((site.folder / "doc.json").read_bytes()) == {"theirs": number, "list": [0, 1]}
        (site.folder / "k").unlink()
        refused(site.ask("PUT", "k", body=b"lost", if_match=ours.decode()), 412, "CAS_MISMATCH")
        refused(site.ask("DELETE", "k"), 404, "KEY_NOT_FOUND")
        assert site.put("k", b"0", headers=[("If-None-Match", "*")])["created"] is True


# --- edits at full speed, meanwhile --------------------------------------------------------------------

KEYS = ("busy/a", "busy/b", "busy/deep/c", "d")

# Each version says its number, so many times; what was begun and what was done stand in shared memory.
VERSIONS = """
import mmap, os, sys
root, spare, counts, keys = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
with open(counts, "r+b") as file:
    begun_done = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
for key in keys:
    os.makedirs(os.path.dirname(os.path.join(root, key)), exist_ok=True)
number = 0
while not begun_done[0]:
    number += 1
    for place, key in enumerate(keys, 1):
        fresh = os.path.join(spare, "fresh")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, b"%d " % number * (number % 50 + 1))
        os.close(fd)
        begun_done[2 * place] = number
        os.rename(fresh, os.path.join(root, key))
        begun_done[2 * place + 1] = number
"""

# Files come and go beside the versions.
NOISE = """
import sys
from pathlib import Path
from tests.directory.editing import Outsider
outsider = Outsider(Path(sys.argv[1]), Path(sys.argv[2]), seed=1)
while True:
    outsider.edit()
"""


class Versions:
    """Other programs that edit the folder at full speed: one makes numbered versions, one makes noise."""

    def __init__(self, root: Path, home: Path) -> None:
        counts = home / "counts"
        counts.write_bytes(bytes(16 * (len(KEYS) + 1)))
        with counts.open("r+b") as file:
            self._shared = mmap(file.fileno(), 0)
        self._numbers = memoryview(self._shared).cast("Q")
        folders = [home / "spare", home / "noise", root / "noise"]
        for folder in folders:
            folder.mkdir(parents=True)
        spare, noise_spare, noise = map(str, folders)
        self._processes = [
            subprocess.Popen([sys.executable, "-c", *arguments], cwd=ROOT)
            for arguments in ([VERSIONS, str(root), spare, str(counts), *KEYS], [NOISE, noise, noise_spare])
        ]

    def done(self) -> dict[str, int]:
        """The version of each key that is there by now, at least."""
        return {key: self._numbers[2 * place + 1] for place, key in enumerate(KEYS, 1)}

    def begun(self) -> dict[str, int]:
        """The version of each key that may be there by now, at most."""
        return {key: self._numbers[2 * place] for place, key in enumerate(KEYS, 1)}

    def stop(self) -> None:
        versions, noise = self._processes
        noise.kill()
        noise.wait()
        self._numbers[0] = 1
        assert versions.wait(10) == 0
        self._numbers.release()
        self._shared.close()


@contextmanager
def edited_meanwhile(root: Path, home: Path) -> Iterator[Versions]:
    versions = Versions(root, home)
    try:
        eventually(lambda: min(versions.done().values()) > 10, 10, "versions are made")
        yield versions
    finally:
        versions.stop()


def version_of(value: bytes) -> int:
    """The number of a version, which must be whole."""
    number = int(value.split(b" ")[0])
    assert value == b"%d " % number * (number % 50 + 1)
    return number


def look_at_versions(
    versions: Versions, look: Callable[[str], Mapping[str, bytes] | None], looks: int
) -> None:
    """Each look shows versions that were there at some moment of the look; None is an honest refusal."""
    answered = 0
    for number in range(looks):
        done = versions.done()
        seen = look(KEYS[number % len(KEYS)])
        begun = versions.begun()
        if seen is not None:
            answered += 1
            for key, value in seen.items():
                assert done[key] <= version_of(value) <= begun[key], key
    assert answered > looks / 2


def test_what_is_read_while_others_edit_was_true_at_that_moment(folder: Folder) -> None:
    def get(key: str) -> Mapping[str, bytes] | None:
        try:
            return {key: folder.value(key)}
        except Overloaded:
            return None

    with edited_meanwhile(folder.root, folder.db) as versions:
        look_at_versions(versions, get, 1000)


def test_what_a_server_answers_while_others_edit_was_true_at_that_moment(site: Store) -> None:
    def get(key: str) -> Mapping[str, bytes] | None:
        answer = site.ask("GET", key)
        if answer.status == 503:
            refused(answer, 503, "OVERLOADED")
            return None
        assert answer.status == 200, answer
        assert answer.headers["X-File-Hash"] == hashlib.sha256(answer.body).hexdigest()
        return {key: answer.body}

    with edited_meanwhile(site.folder, site.home) as versions:
        look_at_versions(versions, get, 1000)
    site.ask("GET").done()


def test_what_is_listed_while_others_edit_was_true_at_that_moment(folder: Folder) -> None:
    def list_values(_: str) -> Mapping[str, bytes] | None:
        try:
            page = folder.store.list(Query(limit=LIMIT_MAX, values=True))
        except Overloaded:
            return None
        values = {entry.key: whole(entry) for entry in page.entries}
        return {key: values[key] for key in KEYS}

    with edited_meanwhile(folder.root, folder.db) as versions:
        look_at_versions(versions, list_values, 6)


# --- files at rest, after they were looked at while they changed ---------------------------------------

# For each line it rewrites all files in place for so long, each time with another number, and tells the last.
REWRITES = """
import os, sys, time
root, files, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fds = [os.open(f"{root}/{number}", os.O_WRONLY | os.O_CREAT, 0o644) for number in range(files)]
number = 0
for line in sys.stdin:
    end = time.monotonic() + float(line)
    while time.monotonic() < end:
        number += 1
        for fd in fds:
            os.pwrite(fd, b"%08d" % number * (size // 8), 0)
    print(number, flush=True)
"""


def look_at_rewrites(folder: Folder, *, files: int, size: int, rounds: int) -> None:
    """Look at files while others rewrite them; when that is over, all that is known of them is true."""
    folder.root.mkdir()
    chance = random.Random(SEED)
    with subprocess.Popen(
        [sys.executable, "-c", REWRITES, str(folder.root), str(files), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as others:
        assert others.stdin is not None
        assert others.stdout is not None
        for _ in range(rounds):
            others.stdin.write(f"{chance.uniform(0.002, 0.02)}\n")
            others.stdin.flush()
            while not select.select([others.stdout], [], [], 0)[0]:
                with suppress(Overloaded):
                    folder.store.list(Query(limit=LIMIT_MAX))
            value = b"%08d" % int(others.stdout.readline()) * (size // 8)
            for key in map(str, range(files)):
                entry = folder.store.get(key)
                assert (entry.value == value, entry.sha256) == (True, hashlib.sha256(value).digest())
        others.stdin.close()
        assert others.wait(10) == 0


def test_a_file_that_was_looked_at_while_it_changed_is_seen_when_it_rests(folder: Folder) -> None:
    look_at_rewrites(folder, files=1, size=200_000, rounds=150)


def test_files_that_were_looked_at_while_they_changed_are_seen_where_clocks_are_coarse(
    coarse_folder: Folder,
) -> None:
    look_at_rewrites(coarse_folder, files=200, size=8, rounds=15)


def test_a_large_write_that_was_looked_at_while_it_lasted_is_seen_when_it_is_done(folder: Folder) -> None:
    size = 15 << 20
    folder.store.set("k", bytes(size))
    for number in range(1, 6):
        value = bytes([number]) * size
        fd = os.open(folder.root / "k", os.O_WRONLY)
        before = os.fstat(fd).st_mtime_ns
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(os.pwrite, fd, value, 0)
            while os.fstat(fd).st_mtime_ns == before:
                os.sched_yield()
            whole(folder.store.get("k"))
            assert writing.result() == size
        os.close(fd)
        entry = folder.store.get("k")
        assert (whole(entry) == value, entry.sha256) == (True, hashlib.sha256(value).digest())
