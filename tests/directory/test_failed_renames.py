"""A file that cannot be put in place: its op is durable, and is done when that can be."""

from __future__ import annotations

import pytest

from kvfs.errors import FileSystemError
from tests.directory.conftest import Folder
from tests.engine.mounting import immovable
from tests.engine.place import text


def test_what_was_put_in_place_late_is_remembered_though_the_next_write_fails(folder: Folder) -> None:
    store = folder.store
    for key in ("k", "other"):
        store.set(key, b"1")
    with immovable(folder.root / "k"), pytest.raises(FileSystemError, match="put a file in place") as failed:
        store.set("k", b"2")
    assert failed.value.details["outcome"] == "unknown"
    # First 2 is put in place; then neither of these two is.
    with immovable(folder.root / "other"), pytest.raises(FileSystemError, match="put a file in place"):
        store.set_many([text("other", b"3"), text("k", b"3")])
    assert [folder.value(key) for key in ("k", "other")] == [b"3", b"3"]
    assert folder.ops("k") == 3 * [("set", "api")]
