"""Small things that are done to files in more than one place."""

from __future__ import annotations

import os
import secrets

from kvfs.errors import InvalidParameters, from_os_error


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


def temporary_beside(path: str) -> str:
    """A path in the same folder, where nothing is."""
    return os.path.join(os.path.dirname(path), f".kvfs-{secrets.token_hex(8)}.tmp")


def put_in_place(made: str, path: str) -> None:
    """Give a finished file its name, durably, unless something has it."""
    try:
        sync(made)
        # Unlike a rename, a link overwrites nothing.
        os.link(made, path)
        sync(os.path.dirname(path))
    except FileExistsError as exc:
        raise InvalidParameters(f"{path} exists already") from exc
    except OSError as exc:
        raise from_os_error(exc, f"write {path}") from exc
