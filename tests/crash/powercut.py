"""A disk whose power can be cut: a loop-mounted ext4 that is shut down in mid-air.

    with disk(tmp_path / "disk") as place:   # skips the test where there can be none
        ... processes write below place.path ...
        place.cut()                          # what was not yet durable is gone; writes fail
        ... kill the processes ...
        place.restore()                      # mounted again, the journal replayed

`cut` uses EXT4_IOC_SHUTDOWN with NOLOGFLUSH (Linux fs/ext4/ioctl.c): the file system stops at once without
flushing its journal, and everything on it fails with EIO until it is mounted anew, for which nobody may
have a file of it open.

The kernel's boot id stays what it was, so a program that goes by it would take the cut for a mere death of
its process. `rebooted` gives a command a boot id of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.polling import eventually
from tests.serving import ServerProcess

EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2
UNMOUNT_S = 10.0


class Disk:
    """A mounted file system at `path`, kept in a file beside it."""

    def __init__(self, home: Path) -> None:
        self._image = home / "image"
        self.path = home / "mounted"

    def make(self, *, mib: int) -> None:
        """Make the file system, and mount it."""
        self.path.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(mib << 20)
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self._mount()

    def cut(self) -> None:
        """Cut the power. Whoever still writes fails with EIO from now on."""
        root = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(root, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(root)

    def restore(self) -> None:
        """Switch the power on again, when whoever had files open is gone."""
        eventually(self._unmounted, UNMOUNT_S, f"nobody uses {self.path}")
        eventually(self._released, UNMOUNT_S, f"{self._image} is let go of")
        self._mount()

    def _mount(self) -> None:
        # commit: the kernel's own flush must not rescue what the writer forgot.
        _run("mount", "-o", "loop,commit=60", str(self._image), str(self.path))

    def _unmounted(self) -> bool:
        return subprocess.run(["umount", str(self.path)], capture_output=True, check=False).returncode == 0

    def _released(self) -> bool:
        """Whether the mounts that dead processes had in namespaces of their own are gone too.

        As long as one is there, mounting the image again gives the file system that was shut down.
        """
        backing = Path("/sys/block").glob("loop*/loop/backing_file")
        return str(self._image) not in {_read(file) for file in backing}


@contextmanager
def disk(home: Path, *, mib: int = 128) -> Iterator[Disk]:
    """A disk in the folder `home`; skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    place = Disk(home)
    try:
        place.make(mib=mib)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"cannot mount a loop device here: {exc.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place.path)], check=True)
        shutil.rmtree(home)


def rebooted(home: Path, command: list[str]) -> list[str]:
    """The command, run in a mount namespace of its own in which the boot id is a new one, kept in `home`."""
    boot_id = home / f"boot-{uuid.uuid4()}"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    bind = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", bind, str(boot_id), *command]


class RebootedServer(ServerProcess):
    """A server whose every start is on a machine just booted."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._home = home
        self._plain = self._command

    def start(self) -> None:
        self._command = rebooted(self._home, self._plain)
        super().start()


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""  # let go of meanwhile


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
