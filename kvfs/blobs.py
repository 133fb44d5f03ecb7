"""Large values of an op-log, as files beside it: each named by the SHA-256 of what is in it.

    <folder>/ab/abcdef…   64 hex digits; the first two are the folder's name

A blob is durable before an op that names it is committed, and never changes. It is never a hard link to a
file that others may write to. Values that are equal share one.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from kvfs import disk
from kvfs.model import FileValue, Value, value_hash

BLOB_MIN_BYTES: Final = (1 << 20) + 1
"""Values from this size on are kept as blobs."""

_CHUNK_BYTES: Final = 1 << 20
_NEW: Final = ".new-"


class BlobValue(FileValue):
    """A value that lies in a file of its own, which is opened when it is read, also after it was closed.

    Whoever drops it closes it. To read one that is not what its hash says raises OSError.
    """

    __slots__ = ("_path", "_sha256")

    def __init__(self, path: str, size: int, sha256: bytes) -> None:
        super().__init__(-1, size)
        self._path = path
        self._sha256 = sha256

    @property
    def fd(self) -> int:
        """The open file, which has been read whole and is what its hash says. Raises OSError."""
        if self._fd < 0:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            # What it reads does not belong to it.
            if value_hash(FileValue(fd, self.size)) != self._sha256:
                os.close(fd)
                raise OSError(errno.EIO, "the blob is damaged", self._path)
            self._fd = fd
        return self._fd

    def copy_to(self, fd: int) -> None:
        # Closed again, since a batch may copy more of them than there can be files open.
        with self:
            super().copy_to(fd)

    def __del__(self) -> None:
        self.close()


class Blobs:
    """The blobs of one op-log. It makes its folder with the first of them; any thread may read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def value(self, sha256: bytes, size: int) -> BlobValue:
        """The value with this hash. That it is missing shows when it is read: FileNotFoundError."""
        return BlobValue(self.path(sha256), size, sha256)

    def keep(self, value: Value, sha256: bytes) -> None:
        """Make a blob, if it is not there yet, and make it durable. Raises OSError."""
        path = self.path(sha256)
        home = os.path.dirname(path)
        if os.path.exists(path):
            # What is in it was durable before it had its name, which may be of a process that was killed.
            disk.sync(home)
            return
        # What could not be made durable is taken away: found there the next time, it would be believed.
        self._make_home(home)
        temporary = os.path.join(self._folder, _NEW + secrets.token_hex(8))
        try:
            _write(temporary, value)
            os.rename(temporary, path)
            disk.sync(home)
        except BaseException:
            for made in (temporary, path):
                with suppress(OSError):
                    os.unlink(made)
            raise

    def drop(self, sha256: bytes) -> int:
        """Remove a blob that no op names; how many bytes it had, 0 where there is none. Raises OSError."""
        path = self.path(sha256)
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return size

    def is_whole(self, sha256: bytes, size: int) -> bool:
        """Whether a blob that is there is what its name says. Raises OSError."""
        with FileValue(os.open(self.path(sha256), os.O_RDONLY | os.O_CLOEXEC), size) as value:
            return value_hash(value) == sha256

    def kept(self) -> Iterator[bytes]:
        """The hashes of all blobs."""
        for folder, _, names in os.walk(self._folder):
            for name in names:
                if len(name) == 64 and name.startswith(os.path.basename(folder)):
                    yield bytes.fromhex(name)

    def unfinished(self) -> list[str]:
        """The paths of blobs that are being made, or that a crash has left half-made."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [os.path.join(self._folder, name) for name in names if name.startswith(_NEW)]

    def clear(self) -> None:
        """Remove what a crash has left half-made, while nobody can be at work on a blob."""
        for path in self.unfinished():
            with suppress(OSError):
                os.unlink(path)

    def _make_home(self, home: str) -> None:
        if os.path.isdir(home):
            return
        os.makedirs(home, exist_ok=True)
        try:
            disk.sync(self._folder)
            disk.sync(os.path.dirname(self._folder))
        except BaseException:
            with suppress(OSError):
                os.rmdir(home)
            raise

    def path(self, sha256: bytes) -> str:
        """Where the blob with this hash lies."""
        name = sha256.hex()
        return os.path.join(self._folder, name[:2], name)


def _write(path: str, value: Value) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        if isinstance(value, bytes):
            disk.write_all(fd, value)
        else:
            value.copy_to(fd)
        disk.sync_open(fd)
    finally:
        os.close(fd)
