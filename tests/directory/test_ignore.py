"""What a folder's `.kvfsignore` says is no key, from the next request on, and stays as it is on the disk."""

from __future__ import annotations

import logging
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvfs.config import Config
from kvfs.directory.ignore import Rules
from kvfs.errors import KeyNotFound, PathConflict
from kvfs.listing import Query
from kvfs.model import BatchSet, Set
from tests.directory.conftest import Folder
from tests.polling import eventually

RULES = ".kvfsignore"


def rule(folder: Folder, text: str) -> Path:
    """Write the rules; their file is no key."""
    folder.strangers.add(RULES)
    return folder.write(RULES, text.encode())


def test_an_ignored_file_is_no_key(folder: Folder) -> None:
    rule(folder, "*.log\nbuild/\n")
    for path in ("a.log", "d/b.log", "build/x", "d/build/y/z"):
        folder.write(path, b"theirs")
        folder.strangers.add(path)
    folder.strangers |= {"build", "d/build"}
    folder.write("d/k", b"1")
    assert folder.keys() == ["d/k"]
    for key in ("a.log", "d/b.log", "build/x", "d/build/y/z"):
        with pytest.raises(KeyNotFound):
            folder.store.get(key)
    assert folder.store.get_many(["a.log", "d/k"])["a.log"] is None
    assert [op.key for op in folder.check()] == ["d/k"]


def test_the_rules_are_no_key_and_a_key_of_that_name_is_another_file(folder: Folder) -> None:
    rule(folder, "*.log\n")
    assert folder.keys() == []
    folder.store.set(RULES, b"1")
    assert folder.files() == {RULES: b"*.log\n", "%2Ekvfsignore": b"1"}
    with pytest.raises(PathConflict):
        folder.store.set("a.log", b"1")


def test_a_write_to_what_is_ignored_is_refused_and_changes_nothing(folder: Folder) -> None:
    rule(folder, "*.log\n")
    folder.write("theirs.log", b"theirs")
    folder.strangers.add("theirs.log")
    store = folder.store
    requests: list[Callable[[str], object]] = [
        lambda key: store.set(key, b"x"),
        lambda key: store.delete(key),
        lambda key: store.incr(key),
        lambda key: store.push(key, b"1"),
        lambda key: store.expire(key, 10),
        lambda key: store.apply(BatchSet((Set("other", b"x", "a/b"), Set(key, b"x", "a/b")))),
        lambda key: store.delete_many(["mine", key]),
    ]
    store.set("mine", b"1")
    for key in ("theirs.log", "new.log", "d/new.log"):
        for request in requests:
            with pytest.raises(PathConflict, match=r"ignored: \.kvfsignore has '\*\.log'"):
                request(key)
    assert folder.files() == {RULES: b"*.log\n", "theirs.log": b"theirs", "mine": b"1"}
    assert len(folder.check()) == 1


def test_keys_that_come_to_be_ignored_vanish_and_their_files_stay(folder: Folder) -> None:
    folder.store.set("a.log", b"1")
    folder.store.set("d/b.log", b"2")
    folder.store.set("build/x", b"3")
    folder.store.set("k", b"4")
    assert folder.value("a.log") == b"1"
    rule(folder, "*.log\nbuild\n")
    with pytest.raises(KeyNotFound):
        folder.store.get("a.log")
    assert folder.keys() == ["k"]
    folder.strangers |= {"a.log", "d/b.log", "build"}
    for key in ("a.log", "d/b.log", "build/x"):
        assert folder.ops(key) == [("set", "api"), ("delete", "file")]
    assert folder.files().keys() == {RULES, "a.log", "d/b.log", "build/x", "k"}


def test_keys_that_are_not_ignored_any_more_appear(folder: Folder) -> None:
    rules = rule(folder, "*.log\nbuild/\n")
    folder.write("a.log", b"1")
    folder.write("d/build/y/z", b"2")
    assert folder.keys() == []
    with pytest.raises(KeyNotFound):
        folder.store.get("a.log")
    rules.write_text("*.txt\n")
    assert folder.value("a.log") == b"1"
    assert folder.keys() == ["a.log", "d/build/y/z"]
    rules.unlink()
    folder.write("a.txt", b"3")
    assert folder.value("a.txt") == b"3"
    assert folder.ops("d/build/y/z") == [("set", "file")]


def test_a_key_that_comes_back_goes_on_with_its_history(folder: Folder) -> None:
    folder.store.set("a.log", b"1")
    rules = rule(folder, "*.log")
    assert folder.keys() == []
    rules.write_text("")
    assert folder.store.get("a.log").op_number == 3
    assert folder.ops("a.log") == [("set", "api"), ("delete", "file"), ("set", "file")]


def test_each_version_of_the_rules_holds_at_once(folder: Folder) -> None:
    """Also where one is written right after another, and as long."""
    folder.write("a", b"1")
    folder.write("b", b"1")
    rules = rule(folder, "a")
    for turn in range(30):
        hidden, seen = ("a", "b") if turn % 2 else ("b", "a")
        if turn % 3:
            rules.write_text(hidden)
        else:
            (folder.db / "new").write_text(hidden)
            os.rename(folder.db / "new", rules)
        if turn % 5:
            with pytest.raises(KeyNotFound):
                folder.store.get(hidden)
        assert folder.keys() == [seen]
    folder.strangers.add(hidden)


def test_a_list_below_a_prefix_finds_what_other_folders_hid(folder: Folder) -> None:
    folder.store.set("a/x", b"1")
    folder.store.set("b/y", b"2")
    rules = rule(folder, "a\nb\n")
    assert folder.store.list(Query(prefix="a/")).entries == ()
    rules.write_text("a\n")
    assert [entry.key for entry in folder.store.list(Query(prefix="b/")).entries] == ["b/y"]
    folder.strangers.add("a")
    assert folder.ops("a/x") == [("set", "api"), ("delete", "file")]


def test_rules_that_changed_while_nobody_looked_hold_at_the_next_opening(folder: Folder) -> None:
    folder.store.set("a.log", b"1")
    folder.store.set("d/k", b"1")
    folder.close()
    rule(folder, "*.log\n")
    folder.strangers.add("a.log")
    assert folder.keys() == ["d/k"]
    folder.close()
    (folder.root / RULES).unlink()
    folder.strangers.clear()
    assert folder.keys() == ["a.log", "d/k"]


def test_an_ignored_file_does_not_become_a_folder(folder: Folder) -> None:
    rule(folder, "*.d\n!*.d/\n")
    folder.write("x.d", b"theirs")
    folder.strangers.add("x.d")
    with pytest.raises(PathConflict):
        folder.store.set("x.d/k", b"1")
    folder.store.set("y.d/k", b"1")
    with pytest.raises(PathConflict):
        folder.store.set("y.d", b"1")
    assert folder.keys() == ["y.d/k"]
    assert (folder.root / "x.d").read_bytes() == b"theirs"


def test_a_keys_own_value_goes_by_the_keys_name(folder: Folder) -> None:
    rule(folder, "*\n!*.txt\n!*/\n")
    folder.store.set("a.txt", b"1")
    folder.store.set("a.txt/b.txt", b"2")
    assert folder.keys() == ["a.txt", "a.txt/b.txt"]
    assert folder.value("a.txt") == b"1"
    assert folder.ops("a.txt") == [("set", "api")]


def test_a_ttl_of_a_key_that_is_ignored_takes_no_file_away(folder: Folder) -> None:
    folder.store.set("a.log", b"1", ttl_s=5)
    rule(folder, "*.log\n")
    folder.clock.hurry(10)
    assert folder.keys() == []
    folder.strangers.add("a.log")
    assert (folder.root / "a.log").read_bytes() == b"1"


def test_a_symlink_gives_no_rules(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    (folder.db / "elsewhere").write_text("*\n")
    folder.write("k", b"1")
    (folder.root / RULES).symlink_to(folder.db / "elsewhere")
    folder.strangers.add(RULES)
    with caplog.at_level(logging.WARNING):
        assert folder.keys() == ["k"]
        assert folder.value("k") == b"1"
    told = [record for record in caplog.records if "not gone by" in record.message]
    assert len(told) == 1


@pytest.mark.parametrize("kind", ["fifo", "folder", "large"])
def test_what_cannot_be_rules_gives_none(folder: Folder, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    folder.write("k", b"1")
    folder.strangers.add(RULES)
    if kind == "fifo":
        os.mkfifo(folder.root / RULES)
    elif kind == "folder":
        (folder.root / RULES).mkdir()
    else:
        (folder.root / RULES).write_text("*\n")
        os.truncate(folder.root / RULES, 100 << 20)
    with caplog.at_level(logging.WARNING):
        assert folder.keys() == ["k"]
    assert "not gone by" in caplog.text


def test_a_pattern_that_means_nothing_is_told_once_and_passed_over(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write("k", b"1")
    folder.write("a.log", b"1")
    folder.strangers.add("a.log")
    folder.strangers.add(RULES)
    bad = [b"!", b"[", b"[z-a]", b"[[:x", b"\\", b"/"]
    folder.write(RULES, b"\xef\xbb\xbf*.log\r\n# a comment\n\n" + b"\n".join(bad) + b"\n\xff\xfe*\n")
    with caplog.at_level(logging.WARNING):
        assert folder.keys() == ["k"]
        assert folder.keys() == ["k"]
        assert folder.value("k") == b"1"
    assert [record.message.count("means nothing") for record in caplog.records] == [1] * len(bad)


def test_new_rules_are_recorded_as_they_come(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "db", Config())
    try:
        store = folder.store
        store.set("a.log", b"1")
        store.set("k", b"1")
        rule(folder, "*.log\n")
        folder.strangers.add("a.log")

        def logged() -> bool:
            return folder.ops("a.log") == [("set", "api"), ("delete", "file")]

        def settled() -> bool:
            try:
                return logged()
            except AssertionError:
                return False

        eventually(settled, 20, "the key that is ignored now is logged as gone")
    finally:
        folder.close()


PIECES = ["a", "b", "*", "?", "**", "a*", "*.x", "[ab]", "[!a]", "\\*", "c"]
NAMES = ["a", "b", "c", "a.x", "b.x", "ab"]


def some_rules(chance: random.Random) -> str:
    lines = []
    for _ in range(chance.randint(1, 4)):
        line = "/".join(chance.choice(PIECES) for _ in range(chance.randint(1, 3)))
        lines.append(
            chance.choice(["", "", "!"]) + chance.choice(["", "/"]) + line + chance.choice(["", "/"])
        )
    return "\n".join(lines)


def some_files(chance: random.Random, root: Path) -> list[str]:
    paths = {"/".join(chance.choice(NAMES) for _ in range(chance.randint(1, 4))) for _ in range(40)}
    # No file in the place of a folder.
    paths -= {parent for path in paths for parent in map(str, Path(path).parents)}
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return sorted(paths)


@pytest.mark.parametrize("seed", range(25))
def test_the_rules_mean_what_they_mean_to_git(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    paths = some_files(chance, tmp_path)
    text = some_rules(chance)
    (tmp_path / ".gitignore").write_text(text)
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True, timeout=30)
    asked = subprocess.run(
        [*git, "check-ignore", "--no-index", "--stdin"],
        input="\n".join(paths), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert asked.returncode in (0, 1), asked.stderr
    rules = Rules(text)
    ours = [path for path in paths if rules.against_file(path.split("/")) is not None]
    assert ours == asked.stdout.splitlines(), text
