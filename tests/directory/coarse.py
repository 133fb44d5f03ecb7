"""File systems whose clocks are coarse: two changes within a tick leave the same times; for root only.

The kernel gives the common ones multigrain timestamps since 6.13. These have none on any kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Inodes of 128 bytes have room for whole seconds only.
_IMAGE_BYTES = 64 << 20
_WHOLE_SECONDS = ("mkfs.ext4", "-q", "-F", "-I", "128")


@contextmanager
def ticking(home: Path) -> Iterator[Path]:
    """A file system whose times advance with the kernel's timer, some milliseconds at a time."""
    with _mounted(home, "-t", "ramfs", "ramfs") as path:
        yield path


@contextmanager
def whole_seconds(home: Path) -> Iterator[Path]:
    """A file system whose times are whole seconds."""
    if shutil.which(_WHOLE_SECONDS[0]) is None:
        pytest.skip("mkfs.ext4 is missing")
    image = home / "image"
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run([*_WHOLE_SECONDS, str(image)], capture_output=True, check=True)
    with _mounted(home, "-o", "loop", str(image)) as path:
        yield path


@contextmanager
def _mounted(home: Path, *what: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path = home / "mounted"
    path.mkdir()
    made = subprocess.run(["mount", *what, str(path)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount a file system here: {made.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
