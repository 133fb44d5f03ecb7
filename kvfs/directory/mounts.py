"""Tells the file systems on which edits by others raise no events: those of networks and of hosts."""

from __future__ import annotations

import os
from typing import Final

_MOUNTS: Final = "/proc/self/mountinfo"
_SHARED: Final = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "drvfs", "fakeowner", "fuse", "gfs2",
        "glusterfs", "gpfs", "grpcfuse", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "osxfs",
        "prl_fs", "pvfs2", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
    }
)  # fmt: skip
_FOLDING: Final = frozenset(
    {
        "vfat",
        "msdos",
        "exfat",
        "ntfs",
        "ntfs3",
        "fuse",
        "fuseblk",
        "hfs",
        "hfsplus",
        "cifs",
        "smb3",
        "9p",
        "jfs",
    }
)


def is_shared(path: str) -> bool:
    """Whether others may edit what is there unheard; False where that cannot be told."""
    kind = _kind_at(path)
    return kind is not None and raises_no_events(kind)


def folds_names(path: str) -> bool:
    """Whether the file system at a path may be one that cannot tell some names apart, by its type."""
    kind = _kind_at(path)
    return kind is not None and (kind in _FOLDING or kind.startswith("fuse."))


def _kind_at(path: str) -> str | None:
    try:
        device = os.stat(path).st_dev
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            return kind_of(file.read(), device)
    except OSError:
        return None


def kind_of(mountinfo: str, device: int) -> str | None:
    """The type of the file system on a device (`st_dev`), from the text of a mountinfo file, see proc(5)."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] == number and "-" in fields:
            # Optional fields end with a dash; the mount point before it has its spaces escaped.
            kind = fields[fields.index("-", 6) + 1 :]
            return kind[0] if kind else None
    return None


def raises_no_events(kind: str) -> bool:
    """Whether edits by other hosts raise no events on a file system of this type."""
    return kind in _SHARED or kind.startswith("fuse.")
