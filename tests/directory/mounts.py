"""Mounts that tests make, as root, and take away again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(folder: Path, place: Path) -> Iterator[Path]:
    """The folder a second time, for reading alone."""
    place.mkdir()
    with _mounted(place, "--bind", str(folder), str(place)):
        _mount("-o", "remount,bind,ro", str(place))
        yield place


@contextmanager
def disk(image: Path, place: Path, *, mkfs: list[str], mib: int, options: str = "") -> Iterator[Path]:
    """A file system of its own in an image file."""
    if shutil.which(mkfs[0]) is None:
        pytest.skip(f"there is no {mkfs[0]}")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    made = subprocess.run([*mkfs, str(image)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"{mkfs[0]} cannot make such a file system: {made.stderr.strip()}")
    place.mkdir()
    with _mounted(place, "-o", ",".join(filter(None, ["loop", options])), str(image), str(place)):
        yield place


@contextmanager
def folding(backing: Path, place: Path) -> Iterator[Path]:
    """A file system that folds names, see `folding.py`."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("only root can serve a file system, and only where there is FUSE")
    backing.mkdir()
    place.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("folding.py")), str(backing), str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        assert serving.stderr is not None
        if serving.stdout.readline() != "mounted\n":
            pytest.skip(f"cannot serve a file system here: {serving.stderr.read().strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
            try:
                serving.wait(10)
            except subprocess.TimeoutExpired:
                serving.kill()
                raise


@contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    try:
        _mount(*arguments)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"cannot mount a file system here: {exc.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], capture_output=True, text=True, check=True)
