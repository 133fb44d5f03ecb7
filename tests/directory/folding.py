"""A file system that folds names, as a program of its own: `folding.py BACKING MOUNT`, over /dev/fuse.

Files are those of BACKING. A name finds a file whatever its case and its form of letters; a dot at its end is
dropped, and one with a colon is refused, as vfat does. There are neither hard links nor renameat2(2), as on
many file systems that are reached through FUSE. The messages are those of linux/fuse.h, version 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress

ROOT_ID = 1
MAX_WRITE = 1 << 17


def fold(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def attributes(status: os.stat_result) -> bytes:
    times = [status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns]
    return struct.pack(
        "=6Q10I", status.st_ino, status.st_size, status.st_blocks, *(ns // 10**9 for ns in times),
        *(ns % 10**9 for ns in times), status.st_mode, status.st_nlink, status.st_uid, status.st_gid,
        0, 4096, 0,
    )  # fmt: skip


class Folding:
    """Answers one request after the other. Files are known by their inodes, and where they lie now."""

    def __init__(self, backing: str) -> None:
        self.paths = {ROOT_ID: backing}
        self.open: dict[int, int] = {}
        self.answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self.lookup, 3: self.getattr, 4: self.setattr, 9: self.mkdir, 10: self.unlink, 11: self.rmdir,
            12: self.rename, 14: self.open_file, 15: self.read, 16: self.write, 17: self.statfs,
            18: self.release, 20: self.fsync, 25: self.nothing, 26: self.init, 27: self.nothing_open,
            28: self.readdir, 29: self.nothing, 30: self.nothing, 35: self.create,
        }  # fmt: skip

    def answer(self, request: bytes) -> bytes | None:
        _, opcode, unique, node = struct.unpack_from("=IIQQ", request)
        if opcode in (2, 36, 42):
            return None  # forgetting and interrupts want no answer
        number, body = 0, b""
        try:
            if opcode not in self.answers:
                raise OSError(errno.ENOSYS, "")
            body = self.answers[opcode](node, request[40:])
        except OSError as exc:
            number = exc.errno or errno.EIO
        return struct.pack("=IiQ", 16 + len(body), -number, unique) + body

    # --- names ---------------------------------------------------------------------------------------

    def find(self, node: int, data: bytes) -> str:
        """The path that a name in a folder stands for, there or not."""
        name = os.fsdecode(data.split(b"\0")[0])
        if ":" in name:
            raise OSError(errno.EINVAL, "")
        name = name.rstrip(".") or name
        above = self.paths[node]
        for each in os.listdir(above):
            if fold(each) == fold(name):
                return os.path.join(above, each)
        return os.path.join(above, name)

    def entry(self, path: str) -> bytes:
        status = os.lstat(path)
        self.paths[status.st_ino] = path
        return struct.pack("=4Q2I", status.st_ino, 0, 0, 0, 0, 0) + attributes(status)

    def status(self, node: int) -> os.stat_result:
        try:
            status = os.lstat(self.paths[node])
            if node in (ROOT_ID, status.st_ino):
                return status
        except FileNotFoundError:
            pass
        if node not in self.open:
            raise FileNotFoundError(errno.ENOENT, "")
        return os.fstat(self.open[node])

    # --- requests ------------------------------------------------------------------------------------

    def init(self, node: int, data: bytes) -> bytes:
        return struct.pack("=4I2H2I2H8I", 7, 31, MAX_WRITE, 0, 16, 16, MAX_WRITE, 1, 0, 0, *[0] * 8)

    def nothing(self, node: int, data: bytes) -> bytes:
        return b""

    def nothing_open(self, node: int, data: bytes) -> bytes:
        return struct.pack("=QII", 0, 0, 0)

    def lookup(self, node: int, data: bytes) -> bytes:
        return self.entry(self.find(node, data))

    def getattr(self, node: int, data: bytes) -> bytes:
        return struct.pack("=QII", 0, 0, 0) + attributes(self.status(node))

    def setattr(self, node: int, data: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("=IIQQ", data)
        atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid = struct.unpack_from("=3Q7I", data, 32)
        target: str | int = self.open.get(node, self.paths[node])
        if valid & 1:
            os.chmod(target, stat.S_IMODE(mode))
        if valid & 6:
            os.chown(target, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(target, size)
        if valid & 0x180:
            os.utime(target)
        elif valid & 0x30:
            os.utime(target, ns=(atime * 10**9 + atime_ns, mtime * 10**9 + mtime_ns))
        return self.getattr(node, data)

    def mkdir(self, node: int, data: bytes) -> bytes:
        path = self.find(node, data[8:])
        os.mkdir(path, stat.S_IMODE(struct.unpack_from("=I", data)[0]))
        return self.entry(path)

    def unlink(self, node: int, data: bytes) -> bytes:
        os.unlink(self.find(node, data))
        return b""

    def rmdir(self, node: int, data: bytes) -> bytes:
        os.rmdir(self.find(node, data))
        return b""

    def rename(self, node: int, data: bytes) -> bytes:
        (target,) = struct.unpack_from("=Q", data)
        old, new, _ = data[8:].split(b"\0", 2)
        source, place = self.find(node, old), self.find(target, new)
        if source == place:
            place = os.path.join(os.path.dirname(place), os.fsdecode(new))
        os.rename(source, place)
        for each, path in list(self.paths.items()):
            if path == source or path.startswith(source + "/"):
                self.paths[each] = place + path[len(source) :]
        return b""

    def create(self, node: int, data: bytes) -> bytes:
        flags, mode = struct.unpack_from("=II", data)
        path = self.find(node, data[16:])
        fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, stat.S_IMODE(mode))
        entry = self.entry(path)
        self.open[os.fstat(fd).st_ino] = fd
        return entry + struct.pack("=QII", fd, 0, 0)

    def open_file(self, node: int, data: bytes) -> bytes:
        (flags,) = struct.unpack_from("=I", data)
        fd = os.open(self.paths[node], flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)
        self.open[node] = fd
        return struct.pack("=QII", fd, 0, 0)

    def release(self, node: int, data: bytes) -> bytes:
        (fd,) = struct.unpack_from("=Q", data)
        os.close(fd)
        if self.open.get(node) == fd:
            del self.open[node]
        return b""

    def read(self, node: int, data: bytes) -> bytes:
        fd, offset, size = struct.unpack_from("=QQI", data)
        return os.pread(fd, size, offset)

    def write(self, node: int, data: bytes) -> bytes:
        fd, offset, size = struct.unpack_from("=QQI", data)
        return struct.pack("=II", os.pwrite(fd, data[40 : 40 + size], offset), 0)

    def fsync(self, node: int, data: bytes) -> bytes:
        os.fsync(struct.unpack_from("=Q", data)[0])
        return b""

    def statfs(self, node: int, data: bytes) -> bytes:
        return struct.pack("=5Q10I", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, *[0] * 7)

    def readdir(self, node: int, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", data)
        found = b""
        names = [".", "..", *sorted(os.listdir(self.paths[node]))]
        for number, name in enumerate(names[offset:], offset + 1):
            status = os.lstat(os.path.join(self.paths[node], name))
            text = os.fsencode(name)
            entry = struct.pack("=QQII", status.st_ino, number, len(text), status.st_mode >> 12) + text
            entry += b"\0" * (-len(entry) % 8)
            if len(found) + len(entry) > size:
                break
            found += entry
        return found


def main(backing: str, place: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"folding", os.fsencode(place), b"fuse", 0, options.encode()) != 0:
        sys.exit(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    served = Folding(backing)
    with suppress(OSError):  # the mount is gone
        while True:
            answer = served.answer(os.read(device, MAX_WRITE + 4096))
            if answer is not None:
                os.write(device, answer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
