"""Sessions at a terminal, as people see them: progress, tables, narrow screens, and Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import kvfs as engine
from kvfs.model import Set
from tests import invariants, nasty
from tests.cli.commands import COMMAND, Kvfs
from tests.polling import eventually
from tests.tmux import WAIT_S, Screen

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.timeout(240),
]

PROGRESS = r"\d+ records, \d+\.\d MiB, \d+\.\d MiB/s"
SLOWLY = "while head -c 2000000 > part && [ -s part ]; do cat part >> out; sleep 0.03; done"
VALUES = 250
VALUE = nasty.noise(50_000).hex().encode()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a table that takes a while to export, and `large.jsonl`, its export."""
    path = tmp_path_factory.mktemp("large") / "large.db"
    with engine.open(str(path)) as store:
        for begin in range(0, VALUES, 50):
            store.set_many([Set(f"k{n:03}", VALUE, "text/plain") for n in range(begin, begin + 50)])
        with path.with_suffix(".jsonl").open("wb") as file:
            file.writelines(store.export(history=True))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where commands are typed: an empty folder, but for `kvfs` and what the terminal needs.

    `kvfs` notes its process id in the file `pid`.
    """
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    script = home / "bin/kvfs"
    script.write_text(f'#!/bin/sh\necho $$ > {home}/pid\nexec {" ".join(COMMAND)} "$@"\n')
    script.chmod(0o755)
    return home


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """What a terminal's programs find; KVFS_DB is a folder of stores, KVFS_TABLE one of them."""
    (home / "data").mkdir()
    environment = Kvfs(variables={"KVFS_DB": str(home / "data"), "KVFS_TABLE": "site"}).environment
    return {**environment, "PATH": f"{home}/bin:{os.environ['PATH']}"}


@pytest.fixture
def screen(home: Path, environment: dict[str, str]) -> Iterator[Screen]:
    """A terminal of 80 columns. What ran there left no temporary files, and the terminal as it was."""
    before = temporary(home)
    with Screen(home, environment) as screen:
        yield screen
        assert screen.run("stty -a") == 0
        assert not re.search(r"-(echo|icanon|isig|opost)\b", screen.shown)
    assert temporary(home) == before


def temporary(home: Path) -> set[Path]:
    """The files that are there for a while only."""
    return {
        path
        for path in home.rglob("*")
        if path.is_file() and (path.name.startswith(("kvfs-", ".kvfs-")) or path.parent.name == "tmp")
    }


def fill(home: Path, **values: str) -> None:
    """Keys in the folder."""
    with engine.open(str(home / "data"), "site", config=engine.Config(watch=False)) as store:
        for key, value in values.items():
            store.set(key, value.encode())


def ends_interrupted(screen: Screen) -> None:
    """Ctrl-C ends the last command, which ends its line and makes no words.

    Pressed until it does: Python may miss one that comes just before it waits for input.
    """
    deadline = time.monotonic() + WAIT_S
    while not screen.ended():
        assert time.monotonic() < deadline, screen.shown
        screen.press("C-c")
        with suppress(AssertionError):
            eventually(screen.ended, 3, "the command ends")
    assert screen.code() == 130
    assert re.search(r"\^C(\r\x1b\[K)?\r\n", screen.shown)
    assert "Traceback" not in screen.shown


# --- progress ------------------------------------------------------------------------------------------


def test_an_export_shows_how_far_it_is(screen: Screen, large: Path, home: Path) -> None:
    export = f"kvfs export --local --db {large} --table kv_store --history"
    assert screen.run(f"{export} | {SLOWLY}") == 0
    assert re.search(PROGRESS, screen.shown)
    assert screen.lines() == ["code=0", "$"]
    assert (home / "out").read_bytes() == large.with_suffix(".jsonl").read_bytes()
    assert screen.run(f"{export} 2> told | {SLOWLY}") == 0
    assert (home / "told").read_bytes() == b""


def test_an_import_shows_how_far_it_is(screen: Screen, large: Path, home: Path) -> None:
    source = large.with_suffix(".jsonl")
    assert screen.run(f"kvfs import {source} --local --db copy.db --table kv_store --create") == 0
    assert re.search(r"\d+ %, " + PROGRESS, screen.shown)
    assert screen.lines() == [f"{VALUES} records: {VALUES} imported", "code=0", "$"]
    assert screen.run(f"kvfs import {source} --local --db other.db --table kv_store --create 2> told") == 0
    assert (home / "told").read_bytes() == b""


# --- tables --------------------------------------------------------------------------------------------


def test_a_table_has_a_bold_heading_and_no_other_colours(screen: Screen, home: Path) -> None:
    fill(home, tea="7.50", pot="30")
    assert screen.run("kvfs kv list --long --local") == 0
    heading, *rows = screen.lines(coloured=True)
    assert re.fullmatch(r"\x1b\[1mkey +size +type +updated +expires +op *(\x1b\[0m)?", heading)
    # tmux says once more that what follows is plain.
    assert [re.sub(r"\x1b\[[034]9?m", "", row).split()[0] for row in rows[:2]] == ["pot", "tea"]
    assert screen.run("kvfs kv list --long --local | cat") == 0
    assert "\x1b[1m" not in screen.shown


def test_a_narrow_terminal_cuts_columns_and_breaks_no_line(home: Path, environment: dict[str, str]) -> None:
    fill(home, **{"names/" * 10: "Earl Grey, hot", "tea": "\x1b[31m" * 20, "茶/" * 20: "お茶" * 20})
    with Screen(home, environment, columns=30) as screen:
        for command, rows in (
            ("kv list --long --values", 3),
            ("kv history tea", 1),
            ("kv snapshot now", 3),
        ):
            assert screen.run(f"kvfs {command} --local") == 0
            lines = screen.lines()
            assert lines == screen.lines(joined=True)
            assert len(lines) == rows + 3
            assert all("…" in line for line in lines[1:-2])


# --- Ctrl-C --------------------------------------------------------------------------------------------


def test_an_export_that_is_interrupted_goes_on_later(screen: Screen, large: Path, home: Path) -> None:
    out, whole = home / "out.jsonl", large.with_suffix(".jsonl").read_bytes()
    export = f"kvfs export --local --db {large} --table kv_store --history -o out.jsonl"
    screen.begin(export)
    eventually(lambda: out.exists() and out.stat().st_size > 0, WAIT_S, "the export is under way")
    pid = int((home / "pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    screen.press("C-c")
    os.kill(pid, signal.SIGCONT)
    ends_interrupted(screen)
    assert len(out.read_bytes()) < len(whole)
    assert screen.run(f"{export} --resume") == 0
    assert out.read_bytes() == whole


def test_an_import_that_is_interrupted_goes_on_later(screen: Screen, large: Path, home: Path) -> None:
    source = large.with_suffix(".jsonl")
    os.mkfifo(home / "fifo")
    screen.begin("kvfs import fifo --local")
    with source.open("rb") as whole, (home / "fifo").open("wb") as fifo:
        while not re.search(PROGRESS, screen.shown):
            piece = whole.read(1 << 20)
            assert piece, "nothing was shown"
            fifo.write(piece)
            fifo.flush()
        ends_interrupted(screen)
    with engine.open(str(home / "data"), "site") as store:
        there = len([*store.keys()])
    assert 0 < there < VALUES
    assert screen.run("kvfs check data site") == 0
    assert screen.run(f"kvfs import {source} --local") == 0
    assert screen.lines()[0] == f"{VALUES} records: {VALUES - there} imported"
    assert len(invariants.check_folder(home / "data", "site")) == VALUES


def test_following_ends_when_it_is_interrupted(screen: Screen, home: Path) -> None:
    fill(home, tea="1")
    screen.begin("kvfs kv changes --follow --local")
    op_number = 1

    def shown() -> bool:
        nonlocal op_number
        op_number += 1
        fill(home, tea=str(op_number))
        return re.search(r"\ttea\t", screen.shown) is not None

    # What is there when it begins to follow is not shown, and it does not say when that is.
    eventually(shown, WAIT_S, "a change is shown")
    screen.shows(rf"\ttea\t{op_number}\t")
    ends_interrupted(screen)
    invariants.check_folder(home / "data", "site")


def test_a_rollback_that_is_interrupted_changes_nothing(screen: Screen, home: Path) -> None:
    fill(home, tea="1", pot="2")
    screen.begin("kvfs kv rollback-table 1d --local")
    screen.shows(r"Change 2 keys\? \[y/N\]")
    ends_interrupted(screen)
    assert len(invariants.check_folder(home / "data", "site")) == 2


def test_ctrl_c_is_the_editors(screen: Screen, home: Path) -> None:
    fill(home, tea="Earl Grey\n")
    screen.begin("EDITOR=ed kvfs kv edit tea --local")
    screen.shows(r"10\r\n")
    screen.press("C-c")
    screen.shows(r"\?")
    screen.write("s/Earl/Lady/")
    screen.write("wq")
    assert screen.code() == 0
    assert (home / "data/site/tea").read_bytes() == b"Lady Grey\n"


@pytest.mark.parametrize("wrote", ["1", "2"])
def test_an_editor_that_is_interrupted_changes_nothing(screen: Screen, home: Path, wrote: str) -> None:
    """What it had written by then is kept, and it is said where."""
    fill(home, tea="1")
    (home / "editor").write_text(f'#!/bin/sh\nprintf {wrote} > "$1"\necho edited\nexec sleep 100\n')
    (home / "editor").chmod(0o755)
    screen.begin("EDITOR=./editor kvfs kv edit tea --local")
    screen.shows("edited")
    ends_interrupted(screen)
    drafts = temporary(home)
    assert [draft.read_text() for draft in drafts] == (["2"] if wrote == "2" else [])
    for draft in drafts:
        assert str(draft) in "".join(screen.lines())
        draft.unlink()
    assert (home / "data/site/tea").read_bytes() == b"1"


def test_a_shell_of_sql_goes_on_at_ctrl_c(screen: Screen) -> None:
    screen.begin("kvfs db shell --local --db sql.db --create")
    screen.shows("kvfs> ")
    screen.write("SELECT")
    screen.shows(r"  \.\.\.> ")
    screen.press("C-c")
    screen.shows(r"(?s)\.\.\.> .*kvfs> ")
    screen.write("SELECT 6 * 7 AS found;")
    screen.shows(r"\s42\s")
    screen.press("C-d")
    assert screen.code() == 0
