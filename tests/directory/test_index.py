"""The index is worth nothing: whatever becomes of it, nothing is lost but time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvfs.errors import KeyExpired
from kvfs.listing import LIMIT_MAX, Query
from kvfs.model import Entry
from tests import nasty
from tests.directory.conftest import Folder


def fill(folder: Folder) -> None:
    store = folder.store
    for key in ("a", "a/b", "..", "x~", "n" * 300, "empty/", "d/e/f.json"):
        store.set(key, key.encode())
    store.set("typed", b"x", content_type="image/png")
    store.set("ttl", b"x", ttl_s=1000)
    store.set("large", nasty.noise(300_000))
    store.set("changed", b"1")
    store.set("changed", b"2", history=False)
    store.set("gone", b"1")
    store.delete("gone")
    store.incr("n", 5)
    folder.write("outside.md", b"# text")
    store.settle_all()


def everything(folder: Folder) -> list[Entry]:
    return [*folder.store.list(Query(limit=LIMIT_MAX, values=True)).entries]


def delete(index: Path) -> None:
    index.unlink()


def fill_with_noise(index: Path) -> None:
    index.write_bytes(nasty.noise(20_000))


def cut_short(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:3000])


def empty(index: Path) -> None:
    index.write_bytes(b"")


def spoil_the_middle(index: Path) -> None:
    value = bytearray(index.read_bytes())
    value[1500:3500] = nasty.noise(2000)
    index.write_bytes(value)


@pytest.mark.parametrize("loss", [delete, fill_with_noise, cut_short, empty, spoil_the_middle])
def test_a_lost_index_loses_nothing(folder: Folder, loss: Callable[[Path], None]) -> None:
    fill(folder)
    before = everything(folder)
    log = folder.check()
    folder.close()
    for side in folder.home.glob("site.index-*"):
        side.unlink()
    loss(folder.home / "site.index")
    assert everything(folder) == before
    assert folder.check() == log
    assert folder.store.set("a", b"x").op_number == 2


def test_an_index_lost_while_files_were_edited_loses_no_edit(folder: Folder) -> None:
    fill(folder)
    folder.close()
    (folder.home / "site.index").unlink()
    folder.write("d/e/f.json", b"[1]")
    folder.write("new", b"1")
    (folder.root / "typed").unlink()
    shutil.rmtree(folder.root / "a")
    folder.store.settle_all()
    assert folder.ops("d/e/f.json") == [("set", "api"), ("set", "file")]
    assert folder.ops("new") == [("set", "file")]
    assert folder.ops("typed") == [("set", "api"), ("delete", "file")]
    assert folder.ops("a/b") == [("set", "api"), ("delete", "file")]
    assert folder.store.get("d/e/f.json").value == b"[1]"


def test_an_index_lost_while_a_ttl_ran_out_forgets_no_expiry(folder: Folder) -> None:
    folder.store.set("k", b"1", ttl_s=10)
    folder.close()
    (folder.home / "site.index").unlink()
    folder.clock.hurry(11)
    with pytest.raises(KeyExpired):
        folder.store.get("k")
    assert folder.keys() == []
    assert folder.store.set("k", b"2").op_number == 3


def test_an_index_may_be_deleted_while_the_store_is_open(folder: Folder) -> None:
    fill(folder)
    before = everything(folder)
    for side in folder.home.glob("site.index*"):
        side.unlink()
    assert everything(folder) == before
    folder.store.set("k", b"1")
    folder.write("l", b"2")
    assert folder.value("k") == b"1"
    assert folder.value("l") == b"2"
    folder.close()
    assert folder.value("k") == b"1"
    assert [entry for entry in everything(folder) if entry.key not in "kl"] == before


def test_without_the_log_the_files_are_a_new_store(folder: Folder) -> None:
    fill(folder)
    values = {entry.key: entry.value for entry in everything(folder)}
    folder.close()
    shutil.rmtree(folder.home)
    after = everything(folder)
    assert {entry.key: entry.value for entry in after} == values
    assert all(entry.op_number == 1 for entry in after)
    assert folder.store.get("outside.md").content_type == "text/markdown; charset=utf-8"
