"""Editors and tools save each in its own way: one save is one op, and what they leave beside it is no key.

Debian's programs do real saves, far from /tmp, where some behave in another way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from kvfs.listing import LIMIT_MAX
from tests import invariants
from tests.http.launching import Server
from tests.http.stores import TABLE, Store
from tests.polling import eventually
from tests.terminal import Terminal

KEY: Final = "notes.txt"
RECORD_S: Final = 15.0
TOOL_S: Final = 20.0


class Op(NamedTuple):
    """What the history says of an op."""

    op_type: str
    origin: str
    value: bytes | None


def draft(number: int) -> bytes:
    """A text whose drafts differ in their first line."""
    return b"draft %d\nand the rest\n" % number


class Desk:
    """A folder store of a server, and the tools to edit it with. `spare` is for what is not in the store."""

    def __init__(self, site: Store) -> None:
        self.site = site
        self.root = site.folder
        self.spare = site.home / "spare"
        self.spare.mkdir()
        self.root.mkdir()
        self.listed()  # what nobody has asked for is not open, and not watched
        self._env = {**os.environ, "HOME": str(self.spare), "LC_ALL": "C.UTF-8"}

    def run(self, *command: str | Path, stdin: bytes = b"") -> None:
        """Run a tool in the folder; it must succeed."""
        arguments = [str(argument) for argument in command]
        self._needs(arguments[0])
        done = subprocess.run(
            arguments,
            cwd=self.root,
            env=self._env,
            input=stdin,
            capture_output=True,
            timeout=TOOL_S,
            check=False,
        )
        assert done.returncode == 0, done

    @contextmanager
    def terminal(self, *command: str | Path) -> Iterator[Terminal]:
        """Run a tool in the folder, at a terminal."""
        arguments = [str(argument) for argument in command]
        self._needs(arguments[0])
        with Terminal(*arguments, cwd=self.root, env=self._env) as terminal:
            yield terminal

    def copy(self, number: int) -> Path:
        """A draft in a file outside the store, older than any file in it."""
        file = self.spare / KEY
        file.write_bytes(draft(number))
        os.utime(file, (10**9 + number, 10**9 + number))
        return file

    def recorded(self) -> Mapping[str, list[Op]]:
        """Each key's history, as soon as it tells of everything that is in the files."""
        log: list[invariants.Logged] = []

        def whole() -> bool:
            nonlocal log
            try:
                log = self._log()
            except AssertionError:
                return False
            return True

        try:
            eventually(whole, RECORD_S, "all is recorded")
        except AssertionError:
            self._log()  # says what is missing
            raise
        ops = defaultdict(list)
        for op in log:
            ops[op.key].append(Op(op.op_type, op.origin, op.value))
        # Nobody asked for them so far.
        assert self.listed() == sorted(key for key, each in ops.items() if each[-1].op_type != "delete")
        return ops

    def listed(self) -> list[str]:
        answer = self.site.ask("GET", limit=LIMIT_MAX).done()
        keys: list[str] = answer["keys"]
        return keys

    def _log(self) -> list[invariants.Logged]:
        return invariants.check_folder(self.site.db, TABLE, strangers=self.site.strangers)

    def _needs(self, tool: str) -> None:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing")


@pytest.fixture(scope="module")
def outside_tmp() -> Iterator[Path]:
    """A folder that is not below /tmp."""
    with tempfile.TemporaryDirectory(prefix="kvfs-", dir="/var/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def server(outside_tmp: Path) -> Iterator[Server]:
    """A server that the tests here share."""
    with Server(outside_tmp) as running:
        yield running


@pytest.fixture
def desk(server: Server, outside_tmp: Path) -> Iterator[Desk]:
    """An empty folder store, checked at the end."""
    home = Path(tempfile.mkdtemp(dir=outside_tmp)) / "site"
    with Store(server, home, directory=True) as site:
        yield Desk(site)
        site.disconnect()
        site.check()


# --- one save --------------------------------------------------------------------------------------------


VIM: Final = ("vim", "-N", "-u", "NONE")


def vim(desk: Desk, file: Path, number: int) -> None:
    desk.run(*VIM, "-es", "-c", f"%s/draft .*/draft {number}/", "-c", "wq", file)


def vim_at_a_terminal(desk: Desk, file: Path, number: int) -> None:
    with desk.terminal(*VIM, file) as terminal:
        terminal.shows(b"draft")
        terminal.press(b":%%s/draft .*/draft %d/\r:wq\r" % number)
        terminal.ended()


def vim_with_a_backup(desk: Desk, file: Path, number: int) -> None:
    desk.site.strangers.add(f"{KEY}~")
    desk.run(*VIM, "-es", "-c", "set backup", "-c", f"%s/draft .*/draft {number}/", "-c", "wq", file)


def nano(desk: Desk, file: Path, number: int) -> None:
    with desk.terminal("nano", "--ignorercfiles", file) as terminal:
        terminal.shows(b"draft")
        # Cut the line, type another, write out, exit.
        terminal.press(b"\x0bdraft %d\r\x0f\r\x18" % number)
        terminal.ended()


def emacs(desk: Desk, file: Path, number: int) -> None:
    desk.site.strangers.add(f"{KEY}~")
    change = f'(progn (find-file "{file}") (kill-line) (insert "draft {number}") (save-buffer))'
    desk.run("emacs", "--batch", "-Q", "--eval", change)


def emacs_at_a_terminal(desk: Desk, file: Path, number: int) -> None:
    desk.site.strangers.add(f"{KEY}~")
    with desk.terminal("emacs", "-nw", "-Q", file) as terminal:
        terminal.shows(b"draft")
        terminal.press(b"\x0bdraft %d\x18\x13\x18\x03" % number)
        terminal.ended()


def sed(desk: Desk, file: Path, number: int) -> None:
    desk.run("sed", "-i", f"s/draft .*/draft {number}/", file)


def sed_with_a_backup(desk: Desk, file: Path, number: int) -> None:
    desk.site.strangers.add(f"{KEY}~")
    desk.run("sed", "-i~", f"s/draft .*/draft {number}/", file)


def perl(desk: Desk, file: Path, number: int) -> None:
    desk.run("perl", "-i", "-pe", f"s/draft .*/draft {number}/", file)


def ed(desk: Desk, file: Path, number: int) -> None:
    desk.run("ed", "-s", file, stdin=b"1s/.*/draft %d/\nw\nq\n" % number)


def patch(desk: Desk, file: Path, number: int) -> None:
    was = file.read_bytes().split(b"\n")[0]
    change = b"--- a\n+++ b\n@@ -1,2 +1,2 @@\n-%b\n+draft %d\n and the rest\n" % (was, number)
    desk.run("patch", file, stdin=change)


def rsync(desk: Desk, file: Path, number: int) -> None:
    desk.run("rsync", "-a", desk.copy(number), file)


def rsync_in_place(desk: Desk, file: Path, number: int) -> None:
    desk.run("rsync", "-a", "--inplace", desk.copy(number), file)


def cp(desk: Desk, file: Path, number: int) -> None:
    desk.run("cp", desk.copy(number), file)


def cp_with_times(desk: Desk, file: Path, number: int) -> None:
    desk.run("cp", "-p", desk.copy(number), file)


def mv(desk: Desk, file: Path, number: int) -> None:
    desk.run("mv", desk.copy(number), file)


def install(desk: Desk, file: Path, number: int) -> None:
    desk.run("install", "-m", "644", desk.copy(number), file)


def tar(desk: Desk, file: Path, number: int) -> None:
    archive = desk.spare / "archive.tar"
    desk.run("tar", "-cf", archive, "-C", desk.spare, desk.copy(number).name)
    desk.run("tar", "-xf", archive, "-C", file.parent)


def redirection(desk: Desk, file: Path, number: int) -> None:
    desk.run("sh", "-c", 'cat "$0" >"$1"', desk.copy(number), file)


def tee(desk: Desk, file: Path, number: int) -> None:
    desk.run("tee", file, stdin=draft(number))


class Way(NamedTuple):
    """How a tool saves: into the file that is there, or by putting another in its place."""

    save: Callable[[Desk, Path, int], None]
    in_place: bool


EDITORS: Final = [
    Way(vim, in_place=False),
    Way(vim_at_a_terminal, in_place=False),
    Way(vim_with_a_backup, in_place=False),
    Way(nano, in_place=True),
    Way(emacs, in_place=False),
    Way(emacs_at_a_terminal, in_place=False),
    Way(sed, in_place=False),
    Way(sed_with_a_backup, in_place=False),
    Way(perl, in_place=False),
    Way(ed, in_place=True),
    Way(patch, in_place=False),
]
COPIERS: Final = [
    Way(rsync, in_place=False),
    Way(rsync_in_place, in_place=True),
    Way(cp, in_place=True),
    Way(cp_with_times, in_place=True),
    Way(mv, in_place=False),
    Way(install, in_place=False),
    Way(tar, in_place=False),
    Way(redirection, in_place=True),
    Way(tee, in_place=True),
]


def named(way: Way) -> str:
    return way.save.__name__


@pytest.mark.parametrize("way", EDITORS + COPIERS, ids=named)
def test_a_save_is_one_op(desk: Desk, way: Way) -> None:
    desk.site.put(KEY, draft(1))
    file = desk.root / KEY
    expected = [Op("set", "api", draft(1))]
    for number in (2, 3):
        with file.open("rb") as before:
            way.save(desk, file, number)
            # As long as a file is open, its inode is nobody else's.
            assert os.path.samestat(os.fstat(before.fileno()), file.stat()) is way.in_place
        assert file.read_bytes() == draft(number)
        expected.append(Op("set", "file", draft(number)))
        assert desk.recorded() == {KEY: expected}
        assert desk.site.get(KEY) == draft(number)


@pytest.mark.parametrize("way", COPIERS, ids=named)
def test_a_file_that_a_tool_makes_is_one_op(desk: Desk, way: Way) -> None:
    desk.site.put("other", b"1")
    way.save(desk, desk.root / KEY, 1)
    assert desk.recorded() == {"other": [Op("set", "api", b"1")], KEY: [Op("set", "file", draft(1))]}
    assert desk.site.get(KEY) == draft(1)


# --- what lies beside an open file ---------------------------------------------------------------------


def is_no_key(desk: Desk, *names: str) -> None:
    """Wait until these are there; no key tells of them, not even when what came later is recorded."""
    files = [desk.root / name for name in names]
    eventually(lambda: all(map(os.path.lexists, files)), TOOL_S, f"{names} are there")
    desk.site.strangers.update(names)
    (desk.root / "later").write_bytes(b"1")
    assert [*desk.recorded()] == [KEY, "later"]
    desk.site.strangers.difference_update(names)


def test_the_swap_file_of_an_open_vim_is_no_key(desk: Desk) -> None:
    desk.site.put(KEY, draft(1))
    with desk.terminal(*VIM, KEY) as terminal:
        terminal.shows(b"draft")
        terminal.press(b":%s/draft 1/draft 2/\r:preserve\r")
        is_no_key(desk, f".{KEY}.swp")
        terminal.press(b":wq\r")
        terminal.ended()
    assert desk.recorded()[KEY] == [Op("set", "api", draft(1)), Op("set", "file", draft(2))]


def test_the_lock_and_the_automatic_save_of_an_open_emacs_are_no_keys(desk: Desk) -> None:
    desk.site.put(KEY, draft(1))
    with desk.terminal("emacs", "-nw", "-Q", KEY) as terminal:
        terminal.shows(b"draft")
        terminal.press(b"\x0bdraft 2\x1bxdo-auto-save\r")
        is_no_key(desk, f".#{KEY}", f"#{KEY}#")
        desk.site.strangers.add(f"{KEY}~")
        terminal.press(b"\x18\x13\x18\x03")
        terminal.ended()
    assert desk.recorded()[KEY] == [Op("set", "api", draft(1)), Op("set", "file", draft(2))]


# --- many files at once ----------------------------------------------------------------------------------

BEFORE: Final = {
    "same": b"1",
    "changed": b"1",
    "deep/er/changed": b"1",
    "gone": b"1",
    "a/gone": b"1",
    "b": b"1",
}
AFTER: Final = {"same": b"1", "changed": b"2", "deep/er/changed": b"2", "new": b"2", "b/new": b"2", "a": b"2"}


def write_tree(folder: Path, values: Mapping[str, bytes]) -> None:
    for name, value in values.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(value)


def put_tree(desk: Desk, values: Mapping[str, bytes]) -> None:
    """Put files into the folder, each whole from the first moment."""
    write_tree(desk.spare / "tree", values)
    for path in (desk.spare / "tree").iterdir():
        path.rename(desk.root / path.name)


def is_one_op_each(desk: Desk) -> None:
    """The history tells of the way from BEFORE to AFTER, one op for each change."""
    expected = {key: [Op("set", "file", value)] for key, value in BEFORE.items()}
    for key in BEFORE.keys() - AFTER.keys():
        expected[key].append(Op("delete", "file", None))
    for key, value in AFTER.items():
        if BEFORE.get(key) != value:
            expected.setdefault(key, []).append(Op("set", "file", value))
    assert desk.recorded() == expected
    assert {key: desk.site.get(key) for key in desk.listed()} == AFTER


def test_a_checkout_of_another_branch_is_one_op_for_each_changed_file(desk: Desk) -> None:
    def git(*arguments: str) -> None:
        desk.run("git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments)

    git("init", "--quiet", "--initial-branch=before")
    desk.site.strangers.add(".git")
    put_tree(desk, BEFORE)
    git("add", "--all")
    git("commit", "--quiet", "--message=before")
    desk.recorded()
    away = desk.spare / "clone"
    git("worktree", "add", "--quiet", "-b", "after", str(away))
    for name in [*BEFORE, "a"]:
        shutil.rmtree(away / name) if (away / name).is_dir() else (away / name).unlink()
    write_tree(away, AFTER)
    git("-C", str(away), "add", "--all")
    git("-C", str(away), "commit", "--quiet", "--message=after")
    git("-C", str(away), "checkout", "--quiet", "--detach")
    git("checkout", "--quiet", "after")
    is_one_op_each(desk)


@pytest.mark.parametrize(
    "options", [(), ("--inplace",), ("--delay-updates",)], ids=["", "inplace", "delayed"]
)
def test_a_synchronised_tree_is_one_op_for_each_changed_file(desk: Desk, options: tuple[str, ...]) -> None:
    put_tree(desk, BEFORE)
    desk.recorded()
    source = desk.spare / "source"
    write_tree(source, AFTER)
    for name, value in AFTER.items():
        # Times as those of an old backup; rsync passes over files of the same size and time.
        os.utime(source / name, (10**9, 10**9 + int(value)))
    desk.run("rsync", "-a", "--delete", "--force", *options, f"{source}/", f"{desk.root}/")
    is_one_op_each(desk)


def test_an_unpacked_archive_is_one_op_for_each_file(desk: Desk) -> None:
    names = [f"d{number % 7}/e{number % 3}/f{number}" for number in range(100)]
    source = desk.spare / "source"
    write_tree(source, {name: name.encode() for name in names})
    desk.run("tar", "-cf", desk.spare / "archive.tar", "-C", source, ".")
    desk.run("tar", "-xf", desk.spare / "archive.tar")
    assert desk.recorded() == {name: [Op("set", "file", name.encode())] for name in names}
    desk.run("rm", "-r", *{name.split("/")[0] for name in names})
    assert {key: ops[1:] for key, ops in desk.recorded().items()} == {
        name: [Op("delete", "file", None)] for name in names
    }
