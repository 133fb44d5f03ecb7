"""Small file systems of a test's own; for root only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class Disk:
    """A file system of a few MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, *, leave: int = 0) -> None:
        """Leave so many bytes free, or fewer where others write meanwhile."""
        with (self.path / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            status = os.statvfs(self.path)
            filler.write(b"\0" * (status.f_bavail * status.f_frsize - leave))

    def clear(self) -> None:
        """Take away what `fill` put there."""
        (self.path / "filler").unlink()

    @contextmanager
    def readonly(self) -> Iterator[None]:
        """Nobody can write to it, from here to the end."""
        _mount("-o", "remount,ro", str(self.path))
        try:
            yield
        finally:
            _mount("-o", "remount,rw", str(self.path))


@contextmanager
def mounted(path: Path, *, mib: int) -> Iterator[Disk]:
    """A new file system at `path`; skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path))
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"cannot mount a file system here: {exc.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def immovable(path: Path) -> Iterator[None]:
    """A file that nothing can be put in the place of, from here to the end; skips where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file")
    try:
        _mount("--bind", str(path), str(path))
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"cannot mount a file here: {exc.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], capture_output=True, text=True, check=True)
