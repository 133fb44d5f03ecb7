"""What a failed sync leaves behind: doubt about what the disk has, until that is verified.

After an fsync that failed, Linux may count pages as clean that the disk does not have, and the next fsync
succeeds. So no sync is repeated as if nothing had happened: the volume takes no writes until all that it has
acknowledged is written anew and synced (`kvfs.verification`). docs/decisions/0026 has the reasons.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from types import TracebackType

from kvfs import disk, sqlite
from kvfs.errors import StorageFailure

_LOG = logging.getLogger("kvfs.doubt")


class Doubt:
    """Whether a volume's disk is in doubt, and why. Any thread may use it.

    `with doubt:` notes a failed sync that passes as an error. With a `marker`, the path of a file, the doubt
    outlives the process, and other processes share it: what is in the page cache does too.
    """

    def __init__(self, path: str, error: type[StorageFailure], *, marker: str | None = None) -> None:
        self._path = path
        self._error = error
        self._marker = marker
        self.reason: str | None = None
        """Why nothing can be written; None: nothing is in doubt."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and is_failed_sync(error):
            self.arise(str(error))

    def arise(self, reason: str) -> None:
        """Take no writes from now on."""
        if self.reason is None:
            _LOG.error("%s takes no writes until it is verified: %s", self._path, reason)
        self.reason = reason
        if self._marker is not None:
            with suppress(OSError), open(self._marker, "w", encoding="utf-8") as file:
                file.write(reason)

    def look(self) -> None:
        """Share the doubt that another process has, or had when it ended."""
        if self.reason is None and self._marker is not None:
            with suppress(OSError), open(self._marker, encoding="utf-8", errors="replace") as file:
                self.arise(file.read())

    def check(self) -> None:
        """Raise `DatabaseError` or `FileSystemError`, with `read_only`, where nothing may be written."""
        if self.reason is not None:
            message = f"The store is read-only until it has been verified: {self.reason}"
            raise self._error(message, read_only=True)

    def dispel(self) -> None:
        """What is acknowledged is on the disk: take writes again."""
        if self._marker is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._marker)
        if self.reason is not None:
            _LOG.warning("%s is verified, and takes writes again", self._path)
        self.reason = None


def is_failed_sync(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is an fsync that failed."""
    while error is not None:
        if isinstance(error, disk.SyncFailed) or sqlite.is_failed_sync(error):
            return True
        error = error.__cause__
    return False
