"""Small things that are done to files in more than one place."""

from __future__ import annotations

import os


def identity(path: str) -> tuple[int, int] | None:
    """What tells a file from another at the same path; None where none can be seen."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def sync(path: str, *, dir_fd: int | None = None) -> None:
    """Make a file durable, or a folder's names."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however much one call takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def names_in(folder: int) -> list[str]:
    """The names in a folder, of which this may be a mere path descriptor."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)
