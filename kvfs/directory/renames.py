"""Renames as a folder store needs them: two names change places, or a name is taken only if it is free.

renameat2(2) does both in one step. Where the file system cannot (network file systems, some FUSE ones), the
nearest that older calls can do:

- *Change places*: a second name keeps what is displaced while rename(2) replaces it; on a file system
  without hard links its content is copied from a descriptor that was opened before. What somebody renames
  into place in between, some microseconds, is replaced without being seen.
- *Take a free name*: link(2) fails where there is one; without hard links an empty file takes the name
  first.
- *A file becomes a folder*: the name is free for a moment. `<staging>.path` tells recovery where the
  folder belongs, should the process end just then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import suppress
from typing import Final

from kvfs import disk

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_COPY_BYTES: Final = 1 << 20

_libc: Final = ctypes.CDLL(None, use_errno=True)


def rename_to_free(from_folder: int, from_name: str, to_folder: int, to_name: str) -> None:
    """Rename a file; FileExistsError where the name is taken."""
    if _renameat2(from_folder, from_name, to_folder, to_name, _NOREPLACE):
        return
    try:
        os.link(from_name, to_name, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        taken = os.open(to_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, dir_fd=to_folder)
        os.close(taken)
        os.rename(from_name, to_name, src_dir_fd=from_folder, dst_dir_fd=to_folder)
    else:
        os.unlink(from_name, dir_fd=from_folder)


def exchange(from_folder: int, from_name: str, to_folder: int, to_name: str) -> os.stat_result:
    """Put a file in the place of another, which then has its name; what `fstat` says of that one now."""
    if not _renameat2(from_folder, from_name, to_folder, to_name, _EXCHANGE):
        return _replace(from_folder, from_name, to_folder, to_name)
    return os.stat(from_name, dir_fd=from_folder, follow_symlinks=False)


def exchange_for_folder(from_folder: int, from_name: str, to_folder: int, to_name: str, path: str) -> None:
    """Put a folder in the place of a file, which then has its name. `path` is that place, for recovery."""
    if _renameat2(from_folder, from_name, to_folder, to_name, _EXCHANGE):
        return
    kept, note = from_name + ".file", from_name + ".path"
    fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666, dir_fd=from_folder)
    try:
        os.write(fd, os.fsencode(path))
    finally:
        os.close(fd)
    os.rename(to_name, kept, src_dir_fd=to_folder, dst_dir_fd=from_folder)
    os.rename(from_name, to_name, src_dir_fd=from_folder, dst_dir_fd=to_folder)
    os.rename(kept, from_name, src_dir_fd=from_folder, dst_dir_fd=from_folder)
    os.unlink(note, dir_fd=from_folder)


def link_or_copy(from_folder: int, from_name: str, to_folder: int, to_name: str) -> bool:
    """Give a file a second name; where there are no hard links, copy it: False."""
    try:
        os.link(from_name, to_name, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
        return True
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    held = os.open(from_name, flags, dir_fd=from_folder)
    try:
        _copy(held, to_folder, to_name)
    finally:
        os.close(held)
    return False


def _replace(from_folder: int, from_name: str, to_folder: int, to_name: str) -> os.stat_result:
    kept = from_name + ".displaced"
    held = os.open(to_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=to_folder)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise FileNotFoundError(errno.ENOENT, "the file was replaced", to_name)
        linked = False
        with suppress(FileExistsError):
            try:
                os.link(to_name, kept, src_dir_fd=to_folder, dst_dir_fd=from_folder, follow_symlinks=False)
                linked = True
            except OSError as exc:
                if exc.errno not in _NO_LINKS:
                    raise
        os.rename(from_name, to_name, src_dir_fd=from_folder, dst_dir_fd=to_folder)
        if linked:
            os.rename(kept, from_name, src_dir_fd=from_folder, dst_dir_fd=from_folder)
            return os.stat(from_name, dir_fd=from_folder, follow_symlinks=False)
        _copy(held, from_folder, from_name)
        return os.fstat(held)
    finally:
        os.close(held)


def _copy(held: int, folder: int, name: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        while chunk := os.read(held, _COPY_BYTES):
            disk.write_all(fd, chunk)
    finally:
        os.close(fd)


def _renameat2(from_folder: int, from_name: str, to_folder: int, to_name: str, flags: int) -> bool:
    """renameat2(2); False where the file system cannot do it."""
    source, target = os.fsencode(from_name), os.fsencode(to_name)
    if _libc.renameat2(from_folder, source, to_folder, target, flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), to_name)
