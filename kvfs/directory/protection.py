"""Tells beforehand what the kernel would refuse to a rename, so that a write fails before it is committed."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_STATX_BASIC: Final = 0x7FF
_IMMUTABLE: Final = 0x10
_APPEND_ONLY: Final = 0x20

# struct statx of statx(2), as far as it is asked: mask, block size, attributes, links, owner, group, mode.
_STATX: Final = struct.Struct("=IIQIIIH")
_STATX_BYTES: Final = 256

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Standing(NamedTuple):
    """What protects a file, or what is in a folder."""

    attributes: int
    owner: int
    mode: int


def check_folder(folder: int, path: Sequence[str]) -> Standing:
    """Raise OSError where nothing could be put into a folder; for `check_place`.

    `path` is what the error speaks of.
    """
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
        if os.fstatvfs(folder).f_flag & os.ST_RDONLY:
            raise _refused(errno.EROFS, "The file system is read-only", path)
        raise _refused(errno.EACCES, "Permission denied", path)
    return _standing(folder, b"", _AT_EMPTY_PATH) or Standing(0, 0, 0)


def check_place(folder: int, name: str, path: Sequence[str], above: Standing) -> bool:
    """Raise OSError where a file could not be put at this name in a folder, or what is there taken away.

    `above` is what `check_folder` told of the folder. Returns whether a folder has the name.
    """
    there = _standing(folder, os.fsencode(name), _AT_SYMLINK_NOFOLLOW)
    if there is None:
        return False
    if stat.S_ISDIR(there.mode):
        return True
    if there.attributes & (_IMMUTABLE | _APPEND_ONLY):
        raise _refused(errno.EPERM, "The file is immutable", path)
    if above.attributes & _APPEND_ONLY:
        raise _refused(errno.EPERM, "The folder can only be added to", path)
    if above.mode & stat.S_ISVTX:
        user = os.geteuid()
        if user != 0 and user not in (there.owner, above.owner):
            raise _refused(errno.EPERM, "The folder is sticky, and the file somebody else's", path)
    return False


def _standing(folder: int, name: bytes, flags: int) -> Standing | None:
    """What statx(2) says; None where there is nothing, or where it cannot tell."""
    buffer = (ctypes.c_char * _STATX_BYTES)()
    if _libc.statx(folder, name, flags, _STATX_BASIC, buffer) != 0:
        return None
    _, _, attributes, _, owner, _, mode = _STATX.unpack_from(buffer)
    return Standing(attributes, owner, mode)


def _refused(number: int, reason: str, path: Sequence[str]) -> OSError:
    return OSError(number, reason, "/".join(path))
