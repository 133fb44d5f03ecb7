"""Places for stores of both kinds, each checked at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.place import Place


@pytest.fixture(params=[False, True], ids=["table", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database file or a directory."""
    place = Place(tmp_path, directory=request.param)
    yield place
    if place.log_file.exists():
        place.check()


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Place]:
    """A database file."""
    place = Place(tmp_path, directory=False)
    yield place
    if place.log_file.exists():
        place.check()
