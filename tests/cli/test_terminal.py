"""What is different at a terminal: tables, questions, and values that would command it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.cli.commands import Kvfs

# Each command is a process of its own.
pytestmark = pytest.mark.timeout(240)

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def plain(shown: str) -> str:
    return _COLOURS.sub("", shown)


@pytest.fixture
def filled(over_server: Kvfs) -> Kvfs:
    """Three keys, one of them with a long name and an ugly value."""
    over_server("kv", "set", "tea", "7.50", "--create")
    over_server("kv", "set", "a/long/" + "name/" * 30, "-", stdin=b"\x1b[2Jred\n\ttab")
    over_server("kv", "set", "pot", "30")
    return over_server


def test_a_table_has_a_heading(filled: Kvfs) -> None:
    code, shown = filled.at_terminal("kv", "list", "--long", columns=120)
    heading, *rows = plain(shown).rstrip().splitlines()
    assert code == 0
    assert heading.split() == ["key", "size", "type", "updated", "expires", "op"]
    assert [row.split()[0][:6] for row in rows] == ["a/long", "pot", "tea"]


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_table_fits_a_narrow_terminal(filled: Kvfs, columns: int) -> None:
    for arguments in (("list", "--long", "--values"), ("history", "tea"), ("snapshot", "now")):
        code, shown = filled.at_terminal("kv", *arguments, columns=columns)
        assert code == 0
        assert max(len(line) for line in plain(shown).splitlines()) <= columns


def test_what_would_command_the_terminal_is_shown_instead(filled: Kvfs) -> None:
    _, shown = filled.at_terminal("kv", "list", "a/", "--values", columns=400)
    assert "\\x1b[2Jred\\n\\ttab" in plain(shown)
    assert "\x1b[2J" not in shown
    filled("kv", "batch-set", "-", stdin=b'{"key": "x\\u001b[2J", "value": ""}')
    _, shown = filled.at_terminal("kv", "list", "x")
    assert shown == "x\\x1b[2J\n"


def test_a_value_ends_its_line(filled: Kvfs) -> None:
    assert filled.at_terminal("kv", "get", "tea") == (0, "7.50\n")
    assert filled.at_terminal("kv", "incr", "n") == (0, "1\n")


def test_a_heading_is_bold_unless_colours_are_not_wanted(filled: Kvfs) -> None:
    assert "\x1b[1m" in filled.at_terminal("kv", "list", "--long")[1]
    assert "\x1b" not in filled.at_terminal("kv", "list", "--long", NO_COLOR="1")[1]


def test_json_is_the_same_at_a_terminal(filled: Kvfs) -> None:
    _, shown = filled.at_terminal("kv", "list", "tea", "--json", columns=40)
    assert shown.encode() == filled("kv", "list", "tea", "--json").out


@pytest.mark.parametrize(("keys", "left"), [(b"y\n", ["a"]), (b"n\n", ["a", "b"]), (b"\x03", ["a", "b"])])
def test_a_rollback_of_a_table_asks(over_server: Kvfs, keys: bytes, left: list[str]) -> None:
    over_server("kv", "set", "a", "1", "--create")
    before = str(time.time())
    over_server("kv", "set", "b", "1")
    code, shown = over_server.at_terminal("kv", "rollback-table", before, asked="[y/N]", keys=keys)
    assert "deleted" in plain(shown)
    assert "Change 1 keys?" in plain(shown)
    assert over_server("kv", "list").lines == left
    assert code == (0 if left == ["a"] else 130)


# --- kvfs kv edit --------------------------------------------------------------------------------------


def editor(home: Path, script: str) -> str:
    """An editor that does this to the file `$1`."""
    path = home / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_edit_writes_back_what_the_editor_left(kvfs: Kvfs, tmp_path: Path) -> None:
    kvfs("kv", "set", "notes.md", "hello\n", "--ttl", "1000", "--type", "text/markdown", "--create")
    sed = editor(tmp_path, 'case "$1" in *.md) sed -i s/hello/bye/ "$1";; esac')
    assert kvfs("kv", "edit", "notes.md", EDITOR=sed).lines == ["2"]
    assert kvfs("kv", "get", "notes.md").out == b"bye\n"
    told = kvfs("kv", "get", "notes.md", "--json").out
    assert b'"content_type":"text/markdown"' in told
    assert b'"expire_at":null' not in told
    unchanged = kvfs("kv", "edit", "notes.md", EDITOR="true")
    assert (unchanged.code, unchanged.out, "nothing was changed" in unchanged.err) == (0, b"", True)


def test_edit_makes_a_key(kvfs: Kvfs, tmp_path: Path) -> None:
    write = editor(tmp_path, 'printf new > "$1"')
    assert kvfs("kv", "edit", "k", "--create", EDITOR="false", VISUAL=write).lines == ["1"]
    assert kvfs("kv", "get", "k").out == b"new"


def test_an_editor_that_fails_changes_nothing(kvfs: Kvfs, tmp_path: Path) -> None:
    kvfs("kv", "set", "k", "1", "--create")
    done = kvfs("kv", "edit", "k", EDITOR=editor(tmp_path, 'printf 2 > "$1"; exit 3'))
    assert done.code == 4
    assert Path(done.err.split()[-1]).read_bytes() == b"2"
    assert kvfs("kv", "edit", "k", EDITOR="/no/such/editor").code == 4
    assert kvfs("kv", "get", "k").out == b"1"


def test_edit_does_not_overwrite_what_others_wrote_meanwhile(kvfs: Kvfs, tmp_path: Path) -> None:
    kvfs("kv", "set", "k", "base", "--create")
    meddling = editor(tmp_path, f"{' '.join(kvfs.command('kv', 'set', 'k', 'theirs'))}; printf mine > $1")
    done = kvfs("kv", "edit", "k", EDITOR=meddling)
    assert done.code == 3
    assert "-theirs\n+mine\n" in done.err
    assert Path(done.err.split()[-1]).read_bytes() == b"mine"
    assert kvfs("kv", "get", "k").out == b"theirs"


@pytest.mark.parametrize(
    ("keys", "value", "code"),
    [(b"overwrite\n", b"mine", 0), (b"edit\n", b"again", 0), (b"quit\n", b"theirs", 3)],
)
def test_edit_asks_what_to_do_about_a_conflict(
    over_server: Kvfs, tmp_path: Path, keys: bytes, value: bytes, code: int
) -> None:
    over_server("kv", "set", "k", "base", "--create")
    theirs = " ".join(over_server.command("kv", "set", "k", "theirs"))
    script = f'if [ "$(cat $1)" = mine ]; then printf again > $1; else {theirs}; printf mine > $1; fi'
    ended, shown = over_server.at_terminal(
        "kv", "edit", "k", asked="[edit]", keys=keys, EDITOR=editor(tmp_path, script)
    )
    assert "-theirs\n+mine\n" in shown
    assert ended == code
    assert over_server("kv", "get", "k").out == value
