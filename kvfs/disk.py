"""Small things that are done to files in more than one place."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from typing import Final

from kvfs.errors import InvalidParameters, from_os_error

# So a file or a file system says that it knows no syncing at all; nothing has failed then.
_NO_SYNCING: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EROFS})


class SyncFailed(OSError):
    """A sync has failed. What was to be synced may be lost, also where the next sync succeeds."""


def sync_error(error: OSError) -> OSError:
    """What to raise for a sync that ended so."""
    return error if error.errno in _NO_SYNCING else SyncFailed(error.errno, error.strerror)


def identity(path: str) -> tuple[int, int] | None:
    """What tells a file from another at the same path; None where none can be seen."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def sync(path: str, *, dir_fd: int | None = None) -> None:
    """Make a file durable, or a folder's names. Raises OSError, `SyncFailed`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        sync_open(fd)
    finally:
        os.close(fd)


def sync_open(fd: int) -> None:
    """Make an open file durable. Raises OSError, `SyncFailed`."""
    try:
        os.fsync(fd)
    except OSError as exc:
        raise sync_error(exc) from exc


def drop_cached(path: str) -> None:
    """Have a file that is open in this process read from the disk again, as far as its pages are synced.

    Another descriptor of it is borrowed: to open and close one would drop the locks that SQLite has on it.
    """
    status = os.stat(path)
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.path.samestat(os.fstat(int(name)), status):
                os.posix_fadvise(int(name), 0, 0, os.POSIX_FADV_DONTNEED)
                return


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
