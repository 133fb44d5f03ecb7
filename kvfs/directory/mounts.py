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


def is_shared(path: str) -> bool:
    """Whether others may edit what is there unheard; False where that cannot be told."""
    try:
        device = os.stat(path).st_dev
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            kind = kind_of(file.read(), device)
    except OSError:
        return False
    return kind is not None and raises_no_events(kind)


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
