"""The text of a mountinfo file tells on what kind of file system something lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvfs.directory.mounts import is_shared, kind_of, raises_no_events

MOUNTINFO = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
31 22 0:44 / /srv/with\\040space rw,relatime shared:7 master:2 - nfs4 host:/export rw,vers=4.2
32 22 0:45 / /mnt/- rw,relatime - fuse.sshfs me@host: rw,user_id=0
33 22 0:46 / /mnt/no-optional rw - virtiofs share rw
34 22 0:47
"""


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ((259, 1), "ext4"),
        ((0, 21), "proc"),
        ((0, 44), "nfs4"),
        ((0, 45), "fuse.sshfs"),
        ((0, 46), "virtiofs"),
        ((0, 47), None),
        ((0, 48), None),
    ],
)
def test_a_device_has_the_type_of_its_mount(device: tuple[int, int], kind: str | None) -> None:
    assert kind_of(MOUNTINFO, os.makedev(*device)) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "virtiofs", "vboxsf"])
def test_edits_by_others_raise_no_events_on_a_network_file_system(kind: str) -> None:
    assert raises_no_events(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk", "vfat"])
def test_edits_raise_events_on_a_file_system_of_the_machine_itself(kind: str) -> None:
    assert not raises_no_events(kind)


def test_a_folder_of_the_machine_itself_is_not_shared(tmp_path: Path) -> None:
    assert not is_shared(str(tmp_path))
    assert not is_shared(str(tmp_path / "missing"))
