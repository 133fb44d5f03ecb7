"""Looks at one key after another, with the last one's folder kept open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvfs.directory.files import Tree
from kvfs.directory.looks import NearLooks
from kvfs.directory.names import NoKey


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """A tree of some keys, each with its own path as its value."""
    for key in ("top", "a/1", "a/2", "b/1", "a/deep/1"):
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)
    tree = Tree(str(tmp_path))
    yield tree
    tree.close()


@pytest.fixture
def looks(tree: Tree) -> Iterator[NearLooks]:
    looks = NearLooks(tree.root, tree.rules())
    yield looks
    looks.close()


def test_each_key_is_found_in_its_own_folder(tree: Tree, looks: NearLooks) -> None:
    for key in ("a/1", "a/2", "b/1", "a/1", "top", "a/deep/1", "a/2", "top", "b/1"):
        found = looks.read(key)
        assert found is not None
        assert found.value == key.encode()
        assert found.folder == key.rpartition("/")[0]
        assert looks.look(key) == found._replace(value=None, status=os.stat(Path(tree.path, key)))


def test_a_missing_folder_leaves_the_last_one_open(looks: NearLooks) -> None:
    for key in ("a/1", "gone/1", "a/2", "top/1", "a/none", "a/1"):
        found = looks.look(key)
        assert (found is not None) == (key in ("a/1", "a/2"))


def test_a_symlink_to_a_folder_is_not_followed_from_another_one(tree: Tree, looks: NearLooks) -> None:
    Path(tree.path, "link").symlink_to(Path(tree.path, "a"))
    assert looks.look("a/1") is not None
    with pytest.raises(NoKey, match="symlink"):
        looks.look("link/1")
    assert looks.look("a/1") is not None


def test_no_descriptor_is_left(tree: Tree) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    looks = NearLooks(tree.root, tree.rules())
    for key in ("a/1", "b/1", "gone/1", "top", "a/deep/1"):
        looks.look(key)
    looks.close()
    looks.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert tree.look("a/1") is not None
