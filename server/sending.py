"""Files sent to connections by the kernel, in threads: the disk may keep them waiting."""

from __future__ import annotations

import errno
import os
import threading
from typing import Final

from kvfs.model import FileValue

_PIECE_BYTES: Final = 64 * 1024
# The connection takes no more now; the file system, or what the connection is, has no such call.
_NOT_SENT_BY_KERNEL: Final = frozenset({errno.EAGAIN, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Sending:
    """A file on its way to a connection, to be closed with this.

    `close` waits for nothing: what a thread has under way is let go of by that thread. It is idempotent.
    """

    def __init__(self, file: FileValue) -> None:
        self._file = file
        self._connected = -1
        self._over = False
        # Guards both descriptors.
        self._lock = threading.Lock()

    def begin(self, connected: int) -> None:
        """Send to this connection; raises OSError."""
        # A connection that is lost is closed, and its descriptor may then be that of another client.
        self._connected = os.dup(connected)

    def send(self, stretch: range) -> tuple[range, bytes]:
        """Send of a stretch of the file what the connection takes without a wait; for a thread.

        The stretch that is left, and the piece before it, which is to be written when the connection takes
        more. Raises `EOFError` where the file is shorter, `ConnectionError`, `OSError`.
        """
        try:
            with self._lock:
                if self._over:
                    raise ConnectionAbortedError
                return self._send(stretch)
        finally:
            if self._over:
                self.close()

    def close(self) -> None:
        self._over = True
        if self._lock.acquire(blocking=False):
            try:
                self._file.close()
                if self._connected >= 0:
                    os.close(self._connected)
                    self._connected = -1
            finally:
                self._lock.release()

    def _send(self, stretch: range) -> tuple[range, bytes]:
        file, offset, end = self._file, stretch.start, stretch.stop
        try:
            while offset < end:
                sent = os.sendfile(self._connected, file.fd, offset, end - offset)
                if not sent:
                    raise EOFError
                offset += sent
        except OSError as exc:
            if exc.errno not in _NOT_SENT_BY_KERNEL:
                raise
        piece = file.read(offset, min(_PIECE_BYTES, end - offset))
        if offset < end and not piece:
            raise EOFError
        return range(offset + len(piece), end), piece
