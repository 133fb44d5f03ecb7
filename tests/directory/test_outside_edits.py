"""What others do to the files is seen at once, and is in the history."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvfs.errors import CasMismatch, KeyNotFound
from kvfs.listing import Query
from kvfs.model import Conditions, Set
from tests import nasty
from tests.directory.conftest import Folder, whole

SITE = Path(__file__).resolve().parents[2] / "fixtures" / "site"

TYPES = {
    ".env.example": "text/plain; charset=utf-8",
    "CNAME": "text/plain; charset=utf-8",
    "assets/icons/leaf.svg": "image/svg+xml",
    "assets/logo.png": "image/png",
    "assets/price list.csv": "text/csv; charset=utf-8",
    "config/cache.yaml": "application/yaml",
    "config/deploy.toml": "application/toml",
    "config/limits.json": "application/json",
    "config/navigation.json": "application/json",
    "pages/guides/tea/brewing.md": "text/markdown; charset=utf-8",
    "pages/guides/tea/steeping-times.md": "text/markdown; charset=utf-8",
    "pages/guides/teapots.md": "text/markdown; charset=utf-8",
    "pages/index.md": "text/markdown; charset=utf-8",
    "pages/über-uns.md": "text/markdown; charset=utf-8",
    "site.json": "application/json",
}


# --- a folder that was there before ------------------------------------------------------------------


def test_a_folder_full_of_files_is_a_store_at_once(folder: Folder) -> None:
    shutil.copytree(SITE, folder.root)
    before = folder.files()
    assert folder.keys() == sorted(TYPES, key=str.encode)
    for key, content_type in TYPES.items():
        entry = folder.store.get(key)
        assert whole(entry) == (SITE / key).read_bytes()
        assert (entry.content_type, entry.op_number) == (content_type, 1), key
        assert entry.created_s == entry.updated_s
        assert abs(entry.created_s - time.time()) < 30
        assert folder.ops(key) == [("set", "file")]
    assert folder.files() == before


def test_a_folder_full_of_files_can_be_written_to_at_once(folder: Folder) -> None:
    shutil.copytree(SITE, folder.root)
    wrote = folder.store.set("site.json", b"1", path="visits")
    assert wrote.op_number == 2
    folder.store.delete("CNAME")
    limits = (SITE / "config/limits.json").read_bytes()
    folder.store.set("config/limits.json", limits, if_match=limits)
    assert len(folder.keys()) == len(TYPES) - 1
    assert folder.ops("site.json") == [("set", "file"), ("set", "api")]
    assert folder.ops("CNAME") == [("set", "file"), ("delete", "api")]


def test_what_was_done_while_nobody_looked_is_logged_at_the_next_look(folder: Folder) -> None:
    for key in ("kept", "edited", "gone", "dir/gone", "dir/sub/gone"):
        folder.store.set(key, b"1")
    folder.close()
    folder.write("edited", b"2")
    folder.write("new/new", b"2")
    (folder.root / "gone").unlink()
    shutil.rmtree(folder.root / "dir")
    folder.store.settle_all()
    assert folder.ops("kept") == [("set", "api")]
    assert folder.ops("edited") == [("set", "api"), ("set", "file")]
    assert folder.ops("new/new") == [("set", "file")]
    for gone in ("gone", "dir/gone", "dir/sub/gone"):
        assert folder.ops(gone) == [("set", "api"), ("delete", "file")]


# --- edits between requests --------------------------------------------------------------------------


def in_place(file: Path, value: bytes) -> None:
    file.write_bytes(value)


def by_rename(file: Path, value: bytes) -> None:
    fresh = file.with_name(file.name + ".fresh~")
    fresh.write_bytes(value)
    fresh.rename(file)


def by_deleting_first(file: Path, value: bytes) -> None:
    file.unlink()
    file.write_bytes(value)


def with_the_old_times(file: Path, value: bytes) -> None:
    status = file.stat()
    file.write_bytes(value)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def through_a_hard_link(file: Path, value: bytes) -> None:
    other = file.with_name(file.name + ".link~")
    other.hardlink_to(file)
    other.write_bytes(value)
    other.unlink()


EDITS: list[Callable[[Path, bytes], None]] = [
    in_place,
    by_rename,
    by_deleting_first,
    with_the_old_times,
    through_a_hard_link,
]


@pytest.fixture(params=EDITS, ids=lambda edit: edit.__name__)
def edit(request: pytest.FixtureRequest) -> Callable[[Path, bytes], None]:
    chosen: Callable[[Path, bytes], None] = request.param
    return chosen


def test_a_get_shows_an_edit_at_once(folder: Folder, edit: Callable[[Path, bytes], None]) -> None:
    folder.store.set("a/k", b"0000")
    for number in range(20):
        edit(folder.root / "a/k", b"%04d" % (number + 1))
        entry = folder.store.get("a/k")
        assert (entry.value, entry.op_number) == (b"%04d" % (number + 1), number + 2)
    assert folder.ops("a/k") == [("set", "api")] + [("set", "file")] * 20


def test_a_list_shows_an_edit_at_once(folder: Folder, edit: Callable[[Path, bytes], None]) -> None:
    folder.store.set("a/k", b"0000")
    for query in (Query(), Query(values=True), Query(prefix="a/"), Query(prefix="a/k", values=True)):
        edit(folder.root / "a/k", b"1111")
        entry = folder.store.list(query).entries[0]
        assert entry.op_number % 2 == 0
        assert entry.value in (None, b"1111")
        edit(folder.root / "a/k", b"22222")
        assert folder.store.list(query).entries[0].size == 5
        edit(folder.root / "a/k", b"0000")
        assert folder.store.list(query).entries[0].size == 4
        folder.store.set("a/k", b"0000")


def test_a_swap_sees_an_edit(folder: Folder, edit: Callable[[Path, bytes], None]) -> None:
    folder.store.set("k", b"ours")
    edit(folder.root / "k", b"them")
    with pytest.raises(CasMismatch) as caught:
        folder.store.set("k", b"new", if_match=b"ours")
    assert caught.value.details["current_etag"] == "2"
    with pytest.raises(CasMismatch):
        folder.store.apply(Set("k", b"new", "text/plain", conditions=Conditions(etags=("1",))))
    assert (folder.root / "k").read_bytes() == b"them"
    folder.store.set("k", b"new", if_match=b"them")
    assert folder.ops("k") == [("set", "api"), ("set", "file"), ("set", "api")]


def test_a_counter_counts_on_from_an_edit(folder: Folder, edit: Callable[[Path, bytes], None]) -> None:
    folder.store.set("n", b"1")
    edit(folder.root / "n", b"41\n")
    wrote = folder.store.incr("n")
    assert (wrote.number, wrote.previous, wrote.op_number) == (42, 41, 3)
    assert (folder.root / "n").read_bytes() == b"42\n"


def test_an_edit_that_is_written_over_is_in_the_history(
    folder: Folder, edit: Callable[[Path, bytes], None]
) -> None:
    folder.store.set("k", b"ours")
    edit(folder.root / "k", b"them")
    assert folder.store.set("k", b"again").op_number == 3
    ops = [(op.value, op.origin) for op in folder.check()]
    assert ops == [(b"ours", "api"), (b"them", "file"), (b"again", "api")]


def test_a_new_file_is_a_key_at_once(folder: Folder) -> None:
    folder.store.set("a/k", b"1")
    folder.write("a/l", b"2")
    assert folder.keys() == ["a/k", "a/l"]
    folder.write("b/c/d/e.json", b"[]")
    assert folder.value("b/c/d/e.json") == b"[]"
    folder.write("b/c/x", b"3")
    assert folder.store.list(Query(prefix="b/c/")).total is None
    assert folder.keys() == ["a/k", "a/l", "b/c/d/e.json", "b/c/x"]
    assert folder.store.list(Query(delimiter="/", total=True)).prefixes == ("a/", "b/")
    assert folder.store.set("a/l", b"3").created is False


def test_a_file_that_is_gone_is_no_key_at_once(folder: Folder) -> None:
    for key in ("a/k", "a/l", "b/c/d", "b/c/e"):
        folder.store.set(key, b"1")
    (folder.root / "a/k").unlink()
    with pytest.raises(KeyNotFound):
        folder.store.get("a/k")
    assert folder.store.list(Query(prefix="a/", total=True)).total == 1
    shutil.rmtree(folder.root / "b")
    assert folder.keys() == ["a/l"]
    (folder.root / "a/l").unlink()
    with pytest.raises(KeyNotFound):
        folder.store.delete("a/l")
    assert folder.ops("a/l") == [("set", "api"), ("delete", "file")]
    assert folder.store.set("a/l", b"2").op_number == 3


def test_a_renamed_folder_is_other_keys(folder: Folder) -> None:
    for key in ("a/k", "a/b/l", "z"):
        folder.store.set(key, key.encode(), content_type="text/x")
    (folder.root / "a").rename(folder.root / "moved")
    assert folder.keys() == ["moved/b/l", "moved/k", "z"]
    assert folder.value("moved/b/l") == b"a/b/l"
    (folder.root / "moved").rename(folder.root / "a")
    assert folder.keys() == ["a/b/l", "a/k", "z"]
    assert folder.ops("a/k") == [("set", "api"), ("delete", "file"), ("set", "file")]


def test_folders_that_change_places_change_their_keys(folder: Folder) -> None:
    for key in ("a/x", "a/s/y", "b/x", "b/s/z"):
        folder.store.set(key, key.encode())
    (folder.root / "a").rename(folder.root / "c")
    (folder.root / "b").rename(folder.root / "a")
    (folder.root / "c").rename(folder.root / "b")
    values = {"a/s/z": b"b/s/z", "a/x": b"b/x", "b/s/y": b"a/s/y", "b/x": b"a/x"}
    assert folder.keys() == [*values]
    assert [folder.value(key) for key in values] == [*values.values()]


def test_a_file_and_a_folder_may_take_each_others_place(folder: Folder) -> None:
    folder.store.set("a", b"1")
    folder.store.set("b/c", b"2")
    (folder.root / "a").unlink()
    folder.write("a/x", b"3")
    shutil.rmtree(folder.root / "b")
    folder.write("b", b"4")
    assert folder.keys() == ["a/x", "b"]
    assert folder.value("b") == b"4"
    for gone in ("a", "b/c"):
        with pytest.raises(KeyNotFound):
            folder.store.get(gone)


def test_the_whole_folder_may_be_replaced(folder: Folder) -> None:
    folder.store.set("old", b"1")
    folder.store.set("both", b"1")
    folder.root.rename(folder.db / "before")
    folder.write("both", b"2")
    folder.write("new", b"2")
    assert folder.keys() == ["both", "new"]
    assert folder.value("both") == b"2"
    assert folder.ops("old") == [("set", "api"), ("delete", "file")]
    shutil.rmtree(folder.db / "before")


def test_the_whole_folder_may_be_deleted(folder: Folder) -> None:
    folder.store.set("k", b"1")
    shutil.rmtree(folder.root)
    assert folder.keys() == []
    with pytest.raises(KeyNotFound):
        folder.store.get("k")
    assert folder.store.set("k", b"2").op_number == 3
    assert folder.files() == {"k": b"2"}


def test_a_touched_file_is_no_op(folder: Folder) -> None:
    folder.store.set("k", b"1", ttl_s=1000)
    before = folder.store.get("k")
    os.utime(folder.root / "k", ns=(1, 1))
    assert folder.store.get("k") == before
    (folder.root / "k").write_bytes(b"1")
    assert folder.store.get("k") == before
    by_rename(folder.root / "k", b"1")
    assert folder.keys() == ["k"]
    assert folder.ops("k") == [("set", "api")]


def test_an_edit_that_is_undone_before_anybody_looks_is_no_op(folder: Folder) -> None:
    folder.store.set("k", b"1")
    (folder.root / "k").write_bytes(b"2")
    (folder.root / "k").write_bytes(b"1")
    assert folder.value("k") == b"1"
    assert folder.ops("k") == [("set", "api")]


# --- what an edit keeps ------------------------------------------------------------------------------


def test_an_edited_key_keeps_type_ttl_and_time_of_creation(folder: Folder) -> None:
    folder.store.set("k.md", b"1", content_type="text/x", ttl_s=1000)
    before = folder.store.get("k.md")
    folder.clock.hurry(5)
    (folder.root / "k.md").write_bytes(b"2")
    after = folder.store.get("k.md")
    assert (after.content_type, after.expire_ns, after.created_s) == (
        before.content_type,
        before.expire_ns,
        before.created_s,
    )
    assert after.updated_s >= before.updated_s + 5


def test_json_that_is_json_no_more_is_typed_anew(folder: Folder) -> None:
    folder.store.set("k", b"{}", content_type="application/json")
    (folder.root / "k").write_bytes(b"{")
    assert folder.store.get("k").content_type == "text/plain; charset=utf-8"
    (folder.root / "k").write_bytes(b"\xff")
    assert folder.store.get("k").content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "value", "content_type"),
    [
        ("a.json", b"{}", "application/json"),
        ("a.json", b"{", "text/plain; charset=utf-8"),
        ("a.JSON", b"[]", "application/json"),
        ("a.png", b"not really", "image/png"),
        ("a.unknown", b"{}", "application/json"),
        ("a.unknown", b"text", "text/plain; charset=utf-8"),
        ("a", b"\xff", "application/octet-stream"),
        (".json", b"text", "text/plain; charset=utf-8"),
        ("a.html/b", b"text", "text/plain; charset=utf-8"),
        ("a.tar.gz", b"\xff", "application/octet-stream"),
        ("a.html", b"", "text/html"),
    ],
)
def test_a_file_that_nobody_wrote_through_the_api_is_typed_by_its_name(
    folder: Folder, name: str, value: bytes, content_type: str
) -> None:
    folder.write(name, value)
    found = folder.store.get(name).content_type
    assert found.partition(";")[0] == content_type.partition(";")[0]
    assert found in (content_type, content_type + "; charset=utf-8")


def test_a_value_in_a_keys_own_folder_is_typed_by_the_key(folder: Folder) -> None:
    folder.write("a.md/b", b"1")
    folder.write("a.md/%value", b"2")
    assert folder.store.get("a.md").content_type == "text/markdown; charset=utf-8"
    assert folder.keys() == ["a.md", "a.md/b"]


@pytest.mark.parametrize("unseen", ["get", "list", "set", "delete"])
def test_an_edit_after_the_ttl_ran_out_is_a_new_value(folder: Folder, unseen: str) -> None:
    folder.store.set("k", b"old", ttl_s=10)
    folder.clock.hurry(11)
    (folder.root / "k").write_bytes(b"new")
    if unseen == "list":
        assert folder.keys() == ["k"]
    elif unseen == "set":
        assert folder.store.set("k", b"ours", if_match=b"new").created is False
        return
    elif unseen == "delete":
        folder.store.delete("k")
        return
    entry = folder.store.get("k")
    assert (entry.value, entry.expire_ns) == (b"new", None)
    assert folder.ops("k") == [("set", "api"), ("expire", "api"), ("set", "file")]


# --- large files -------------------------------------------------------------------------------------


def test_large_files_are_seen_like_small_ones(folder: Folder) -> None:
    first, second = nasty.noise(300_000, seed=1), nasty.noise(300_000, seed=2)
    folder.write("a/large", first)
    assert folder.value("a/large") == first
    (folder.root / "a/large").write_bytes(second)
    assert folder.value("a/large") == second
    assert folder.value("a/large") == second
    with pytest.raises(CasMismatch):
        folder.store.set("a/large", b"x", if_match=first)
    (folder.root / "a/large").write_bytes(first)
    folder.store.set("a/large", second, if_match=first)
    (folder.root / "a/large").write_bytes(b"small")
    assert folder.value("a/large") == b"small"
    values = [op.value for op in folder.check()]
    assert values == [first, second, first, second, b"small"]


def test_a_large_file_is_listed_with_its_value_after_an_edit(folder: Folder) -> None:
    folder.store.set("k", b"1")
    (folder.root / "k").write_bytes(nasty.noise(300_000))
    assert folder.store.list(Query(values=True)).entries[0].value == nasty.noise(300_000)
    (folder.root / "k").write_bytes(nasty.noise(300_000, seed=2))
    folder.store.expire("k", 1000)
    assert folder.value("k") == nasty.noise(300_000, seed=2)
    assert folder.ops("k") == [("set", "api"), ("set", "file"), ("set", "file"), ("expire_set", "api")]


def test_a_value_that_is_being_read_does_not_change_under_the_reader(folder: Folder) -> None:
    value = nasty.noise(400_000)
    folder.store.set("k", value)
    entry = folder.store.get("k")
    assert not isinstance(entry.value, bytes)
    assert entry.value is not None
    with entry.value as reading:
        folder.store.set("k", b"small")
        by_rename(folder.root / "k", b"other")
        assert reading.read() == value


# --- the past ----------------------------------------------------------------------------------------


def test_versions_that_came_from_outside_are_in_the_past(folder: Folder) -> None:
    moments = []
    for value in (b"one", b"two", b"three"):
        folder.write("k", value)
        assert folder.value("k") == value
        moments.append(folder.clock())
    folder.store.set("k", b"four")
    assert [folder.store.get_at("k", at_ns).value for at_ns in moments] == [b"one", b"two", b"three"]
    (folder.root / "k").unlink()
    now_ns = folder.clock()
    with pytest.raises(KeyNotFound):
        folder.store.get("k")
    assert folder.store.get_at("k", now_ns).value == b"four"


# --- what is no key ----------------------------------------------------------------------------------


def test_files_of_tools_and_editors_are_no_keys_and_stay(folder: Folder) -> None:
    names = [".git/config", ".hg/x", "a~", ".a.swp", "#a#", ".#a", "._a", ".DS_Store", ".nfs01", "d/.svn/x"]
    for name in names:
        folder.write(name, b"theirs")
    folder.strangers |= {".git", ".hg", "d/.svn", *names}
    folder.write("a", b"1")
    assert folder.keys() == ["a"]
    for name in names:
        with pytest.raises(KeyNotFound):
            folder.store.get(name)
        folder.store.set(name, b"ours")
    assert folder.keys() == sorted(["a", *names], key=str.encode)
    assert {name: value for name, value in folder.files().items() if name in names} == dict.fromkeys(
        names, b"theirs"
    )


def test_a_name_that_is_no_utf_8_is_no_key_and_stays(folder: Folder) -> None:
    folder.write("a", b"1")
    odd = os.fsdecode(b"\xff\xfe")
    folder.write(odd, b"theirs")
    folder.write(f"{odd}-dir/x", b"theirs")
    folder.strangers |= {odd, f"{odd}-dir", f"{odd}-dir/x"}
    assert folder.keys() == ["a"]
    folder.store.set("b", b"2")
    assert folder.keys() == ["a", "b"]
    assert folder.files()[odd] == b"theirs"


def test_empty_folders_are_nothing(folder: Folder) -> None:
    folder.store.set("a/k", b"1")
    (folder.root / "a/empty/er").mkdir(parents=True)
    (folder.root / "b").mkdir()
    assert folder.keys() == ["a/k"]
    with pytest.raises(KeyNotFound):
        folder.store.get("b")
    folder.store.set("b", b"2")
    assert folder.value("b") == b"2"
