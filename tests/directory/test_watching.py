"""What is done to a folder is noticed as soon as it is done, once each, whatever events are lost."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvfs.directory.recorder import Recorder, RecorderStatus
from tests.directory.recording import CHANGED, DELETED, NEVER_S, ROOT, Book, Program
from tests.polling import eventually

WITHIN_S = 15.0


class Watched:
    """A watched folder, `root`, whose recorder settles into a book."""

    def __init__(self, home: Path, *, scan_interval_s: float = NEVER_S) -> None:
        self.root = home / "site"
        self.spare = home / "spare"
        self.root.mkdir(exist_ok=True)
        self.spare.mkdir(exist_ok=True)
        self.book = Book(str(self.root))
        self._cookies = str(home / "cookies")
        self._scan_interval_s = scan_interval_s
        self.recorder: Recorder | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        if self.recorder is not None:
            self.recorder.close()
        self.book.close()

    def start(self) -> Recorder:
        """Begin to record; return when events are seen."""
        recorder = self.begin()
        eventually(lambda: recorder.status().watcher == "watching", WITHIN_S, "the watcher watches")
        eventually(lambda: recorder.status().scans > 0, WITHIN_S, "the first scan is over")
        return recorder

    def begin(self, *, watch: bool = True) -> Recorder:
        """Begin to record."""
        self.recorder = Recorder(
            self.book,
            self.book.settle,
            folder=str(self.root),
            cookies=self._cookies,
            scan_interval_s=self._scan_interval_s,
            watch=watch,
        )
        return self.recorder

    @property
    def status(self) -> RecorderStatus:
        assert self.recorder is not None
        return self.recorder.status()

    def write(self, path: str, value: bytes = b"value") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(value)
        return file

    def settles(self, *expected: tuple[str, str]) -> None:
        """These and no others are settled, each once, since this was asked last."""
        wanted = sorted(expected)
        eventually(lambda: len(self.book.settled) >= len(wanted), WITHIN_S, f"{wanted} are settled")
        # Whatever else is on its way comes before this.
        self.write("last")
        eventually(lambda: ("last", CHANGED) in self.book.settled, WITHIN_S, "the last key is settled")
        eventually(lambda: self.status.pending == 0, WITHIN_S, "nothing is pending")
        settled = sorted(settled for settled in self.book.settled if settled[0] != "last")
        self.book.settled.clear()
        assert settled == wanted


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """An empty folder, not watched yet."""
    with Watched(tmp_path) as watched:
        yield watched


# --- one change, one op --------------------------------------------------------------------------------


def _write(watched: Watched) -> None:
    watched.write("new")


def _write_deep(watched: Watched) -> None:
    watched.write("a/b/c/new")


def _replace(watched: Watched) -> None:
    (watched.spare / "x").write_bytes(b"replaced")
    os.rename(watched.spare / "x", watched.root / "old")


def _append(watched: Watched) -> None:
    with (watched.root / "old").open("ab") as file:
        file.write(b"more")


def _truncate_then_write(watched: Watched) -> None:
    with (watched.root / "old").open("wb") as file:
        file.flush()
        threading.Event().wait(0.05)
        file.write(b"rewritten")


def _rewrite_rapidly(watched: Watched) -> None:
    for number in range(20):
        (watched.root / "old").write_bytes(b"%d" % number)
        threading.Event().wait(0.004)


def _delete(watched: Watched) -> None:
    os.unlink(watched.root / "old")


def _delete_and_recreate(watched: Watched) -> None:
    os.unlink(watched.root / "old")
    threading.Event().wait(0.2)
    watched.write("old", b"recreated")


def _rename(watched: Watched) -> None:
    os.rename(watched.root / "old", watched.root / "new")


def _move_tree_in(watched: Watched) -> None:
    for path in ("x/1", "x/y/2"):
        (watched.spare / path).parent.mkdir(parents=True, exist_ok=True)
        (watched.spare / path).write_bytes(b"moved")
    os.rename(watched.spare / "x", watched.root / "in")


def _move_tree_out(watched: Watched) -> None:
    os.rename(watched.root / "tree", watched.spare / "out")


def _move_tree(watched: Watched) -> None:
    os.rename(watched.root / "tree", watched.root / "moved")


def _delete_tree(watched: Watched) -> None:
    shutil.rmtree(watched.root / "tree")


def _change_mode(watched: Watched) -> None:
    (watched.root / "old").chmod(0o600)


def _transient(watched: Watched) -> None:
    watched.write("4913").unlink()
    watched.write("sedABCDEF")
    threading.Event().wait(0.05)
    os.rename(watched.root / "sedABCDEF", watched.root / "old")


def _ignored(watched: Watched) -> None:
    watched.write(".git/config")
    watched.write(".old.swp")
    watched.write("old~")
    watched.write("tree/#1#")


def _link(watched: Watched) -> None:
    os.symlink("old", watched.root / "symlink")
    os.mkfifo(watched.root / "fifo")


TREE = ("tree/1", "tree/below/2")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (_write, {"new": CHANGED}),
        (_write_deep, {"a/b/c/new": CHANGED}),
        (_replace, {"old": CHANGED}),
        (_append, {"old": CHANGED}),
        (_truncate_then_write, {"old": CHANGED}),
        (_rewrite_rapidly, {"old": CHANGED}),
        (_delete, {"old": DELETED}),
        (_delete_and_recreate, {"old": CHANGED}),
        (_rename, {"old": DELETED, "new": CHANGED}),
        (_move_tree_in, {"in/1": CHANGED, "in/y/2": CHANGED}),
        (_move_tree_out, dict.fromkeys(TREE, DELETED)),
        (_move_tree, dict.fromkeys(TREE, DELETED) | {"moved/1": CHANGED, "moved/below/2": CHANGED}),
        (_delete_tree, dict.fromkeys(TREE, DELETED)),
        (_change_mode, {"old": CHANGED}),
        (_transient, {"old": CHANGED}),
        (_ignored, {}),
        (_link, {}),
    ],
)
def test_an_edit_settles_exactly_the_keys_that_it_changed(
    watched: Watched, edit: Callable[[Watched], None], expected: dict[str, str]
) -> None:
    for path in ("old", *TREE):
        watched.write(path)
    watched.book.learn_all()
    watched.start()

    edit(watched)

    watched.settles(*expected.items())


def test_a_write_of_the_server_itself_settles_nothing(watched: Watched) -> None:
    watched.start()
    events = watched.status.events

    # The index knows of it before anybody looks.
    watched.write("own")
    watched.book.learn("own")

    eventually(lambda: watched.status.events > events, WITHIN_S, "the event has come")
    watched.settles()


def test_a_file_that_never_comes_to_rest_is_settled_all_the_same(watched: Watched) -> None:
    watched.start()
    resting = threading.Event()

    def scribble() -> None:
        number = 0
        while not resting.wait(0.02):
            number += 1
            watched.write("restless", b"%d" % number)

    scribbling = threading.Thread(target=scribble)
    scribbling.start()
    try:
        eventually(lambda: ("restless", CHANGED) in watched.book.settled, WITHIN_S, "it is settled")
    finally:
        resting.set()
        scribbling.join()


def test_many_keys_are_settled_in_few_batches(watched: Watched) -> None:
    watched.start()
    keys = [f"{number:04}" for number in range(2000)]

    for key in keys:
        watched.write(key)

    watched.settles(*((key, CHANGED) for key in keys))
    assert watched.book.calls < 50


def test_what_the_writer_refuses_is_settled_later(watched: Watched) -> None:
    watched.start()
    watched.book.refusals = 2

    watched.write("refused")

    watched.settles(("refused", CHANGED))


# --- lost events ---------------------------------------------------------------------------------------


def test_what_was_done_before_is_found_by_the_first_scan(watched: Watched) -> None:
    watched.write("kept")
    watched.write("gone")
    watched.book.learn_all()
    watched.write("new")
    watched.write("kept", b"edited")
    os.unlink(watched.root / "gone")

    watched.start()

    watched.settles(("kept", CHANGED), ("gone", DELETED), ("new", CHANGED))


def test_without_a_watcher_scans_find_what_is_done(tmp_path: Path) -> None:
    with Watched(tmp_path, scan_interval_s=0.1) as watched:
        watched.write("kept")
        watched.write("gone")
        watched.book.learn_all()
        watched.begin(watch=False)
        assert watched.status.watcher == "scanning"

        watched.write("kept", b"edited")
        os.unlink(watched.root / "gone")

        watched.settles(("kept", CHANGED), ("gone", DELETED))


def test_files_in_fresh_nested_folders_are_all_found(watched: Watched) -> None:
    watched.start()
    paths = [f"{number:04}/a/b/file" for number in range(1000)]

    for path in paths:
        watched.write(path)

    watched.settles(*((path, CHANGED) for path in paths))


def test_a_flood_of_changes_is_found_by_scans(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvfs.directory.recorder._PENDING_MAX", 100)
    watched.start()
    scans = watched.status.scans
    paths = [f"{number:04}" for number in range(3000)]

    for path in paths:
        watched.write(path)

    eventually(lambda: len(watched.book.keys()) == len(paths), WITHIN_S, "all are settled")
    assert watched.status.scans > scans


def test_after_an_overflow_of_the_event_queue_everything_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    paths = [f"{number:05}" for number in range(18_000)]
    with Program(folder, tmp_path / "cookies") as program:
        program.start()
        eventually(lambda: program.look() == "watching", WITHIN_S, "the watcher watches")
        program.signal(signal.SIGSTOP)
        for path in paths:
            (folder / path).touch()
        program.signal(signal.SIGCONT)

        eventually(lambda: program.has_settled(paths), 45, "all files are found")

        eventually(lambda: program.look() == "watching", WITHIN_S, "the watcher watches again")
        (folder / "later").touch()
        eventually(lambda: program.has_settled(["later"]), WITHIN_S, "later events arrive")


@contextmanager
def _with_few_watches(folder: Path, limit: int, *, scan_interval_s: float = NEVER_S) -> Iterator[Program]:
    """A recorder in a user namespace, where there can be no more watches."""
    unshare = ["unshare", "-Ur"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    cookies = folder.parent / "cookies"
    with Program(folder, cookies, scan_interval_s=scan_interval_s, before=unshare) as program:
        program.limit_watches(limit)
        program.start()
        yield program


def test_where_there_are_too_few_watches_scans_find_everything_until_there_are_enough(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    for number in range(5):
        (folder / str(number)).mkdir(parents=True)
    with _with_few_watches(folder, 3) as program:
        eventually(lambda: program.look() == "failed", WITHIN_S, "the watcher fails")
        (folder / "4" / "unwatched").touch()
        eventually(lambda: program.has_settled(["4/unwatched"]), WITHIN_S, "it is found")

        program.limit_watches(1000)

        eventually(lambda: program.look() == "watching", 30, "the watcher watches")
        (folder / "4" / "watched").touch()
        eventually(lambda: program.has_settled(["4/watched"]), WITHIN_S, "it is found")


# Whoever is starved of CPU time must not take its own stall for deafness, and so waits for a quiet moment.
@pytest.mark.timeout(180)
def test_a_watcher_that_hears_nothing_of_new_folders_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    enough_for_folder_and_cookies = 2
    with _with_few_watches(folder, enough_for_folder_and_cookies, scan_interval_s=3) as program:
        eventually(lambda: program.look() == "watching", WITHIN_S, "the watcher watches")
        (folder / "unwatched").mkdir()
        numbers = itertools.count()

        def fails() -> bool:
            (folder / "unwatched" / str(next(numbers))).touch()
            return program.look() == "failed"

        eventually(fails, 120, "it notices that there are not enough watches")


def test_a_name_that_is_not_utf_8_hides_nothing_else(watched: Watched) -> None:
    watched.start()

    stranger = os.fsencode(watched.root) + b"/\xff"
    with open(stranger, "wb"):
        watched.write("beside")
    watched.settles(("beside", CHANGED))

    eventually(lambda: watched.status.watcher == "watching", WITHIN_S, "the watcher watches again")
    os.makedirs(stranger + b"\xff/below")
    watched.write("later")
    watched.settles(("later", CHANGED))


def test_symlinks_to_folders_are_not_followed(watched: Watched) -> None:
    elsewhere = watched.spare / "elsewhere"
    elsewhere.mkdir()
    watched.write("before/1")
    os.symlink("/", watched.root / "machine")
    os.symlink(elsewhere, watched.root / "before" / "outside")
    watched.book.learn_all()
    watched.start()

    events = watched.status.events
    (elsewhere / "stranger").touch()
    watched.write("before/1", b"edited")
    watched.write("after/sub/2")
    watched.settles(("before/1", CHANGED), ("after/sub/2", CHANGED))
    watched.write("after/sub/2", b"edited")
    watched.settles(("after/sub/2", CHANGED))
    assert watched.status.events < events + 20


def test_a_tree_that_brings_symlinks_to_folders_is_not_followed_for_long(watched: Watched) -> None:
    elsewhere = watched.spare / "elsewhere"
    elsewhere.mkdir()
    (watched.spare / "tree").mkdir()
    os.symlink(elsewhere, watched.spare / "tree" / "outside")
    watched.start()

    os.rename(watched.spare / "tree", watched.root / "tree")
    eventually(lambda: watched.status.restarts > 0, WITHIN_S, "the watcher begins anew")
    eventually(lambda: watched.status.watcher == "watching", WITHIN_S, "the watcher watches")
    watched.settles()

    events = watched.status.events
    (elsewhere / "stranger").touch()
    watched.write("own")
    watched.settles(("own", CHANGED))
    assert watched.status.events < events + 5


def test_a_folder_that_is_replaced_is_watched_again(watched: Watched) -> None:
    watched.start()
    os.rename(watched.root, watched.spare / "old")
    eventually(lambda: watched.status.watcher == "failed", WITHIN_S, "the watcher notices")

    watched.root.mkdir()

    eventually(lambda: watched.status.watcher == "watching", WITHIN_S, "the watcher watches")


# --- the end -------------------------------------------------------------------------------------------


def test_closing_leaves_no_thread_and_no_descriptor_behind(watched: Watched) -> None:
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        recorder = watched.start()
        watched.write(f"{number}")
        recorder.close()
        recorder.close()

    assert threading.active_count() == threads
    # Fewer, where what an earlier test closed was not gone yet.
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, 5, "all descriptors are closed")


def test_a_program_that_ends_without_closing_ends_well(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    program = (
        "import sys, time\n"
        "from kvfs.directory.recorder import Recorder\n"
        "from tests.directory.recording import Book\n"
        "book = Book(sys.argv[1])\n"
        "recorder = Recorder(book, book.settle, folder=sys.argv[1], cookies=sys.argv[2], scan_interval_s=1)\n"
        "while recorder.status().watcher != 'watching': time.sleep(0.01)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "site"), str(tmp_path / "cookies")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (ended.returncode, ended.stderr) == (0, "")
