"""Goes through all that lies in a folder: the files of keys, and what is no key, with the reason why."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from kvfs.directory.files import Tree
from kvfs.directory.looks import Signature
from kvfs.directory.names import is_ignored, key_of
from kvfs.status import Survey

IGNORED: Final = "ignored name"
IGNORED_BY_RULE: Final = "ignored by .kvfsignore"
NOT_UTF8: Final = "name that is not UTF-8"
NO_KEY: Final = "name that no key has"
UNREADABLE: Final = "unreadable"
_KINDS: Final = {
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}
_EXAMPLES: Final = 3


class Sight(NamedTuple):
    """A file, or something that is no key, with the `reason` for that. `path` is from the store's folder.

    A file that nobody may read has its key, and that reason.
    """

    path: str
    key: str | None = None
    signature: Signature | None = None
    reason: str | None = None


def walk(tree: Tree) -> Iterator[Sight]:
    """All files, folder by folder; of folders only those that are passed over. No symlink is followed.

    What vanishes meanwhile is left out.
    """
    # Root may read everything, and need not be asked for each file.
    ask = os.geteuid() != 0
    rules = tree.rules()
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        components = waiting.pop()
        try:
            with tree.folder(components) as path_fd:
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path_fd)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            yield Sight("/".join(components), reason=UNREADABLE)
            continue
        try:
            with os.scandir(fd) as found:
                for entry in found:
                    below = (*components, entry.name)
                    folder = entry.is_dir(follow_symlinks=False)
                    if (rules.against_folder(below) if folder else rules.against_file(below)) is not None:
                        yield Sight("/".join(below), reason=IGNORED_BY_RULE)
                    elif folder and _is_usable(entry.name):
                        waiting.append(below)
                    else:
                        sight = _sight(fd, below, ask=ask)
                        if sight is not None:
                            yield sight
        finally:
            os.close(fd)


def survey(tree: Tree) -> Survey:
    """How many files there are, and what is no key."""
    files = 0
    ignored: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for sight in walk(tree):
        files += sight.key is not None
        if sight.reason is not None:
            ignored[sight.reason] += 1
            shown = examples.setdefault(sight.reason, [])
            if len(shown) < _EXAMPLES:
                shown.append(shown_path(sight.path))
    return Survey(files, dict(ignored), {reason: tuple(paths) for reason, paths in examples.items()})


def shown_path(path: str) -> str:
    """A path as it can be shown: bytes that are no UTF-8, and what a terminal would act on, escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _sight(folder: int, components: tuple[str, ...], *, ask: bool) -> Sight | None:
    """What is at a path; None where it has vanished."""
    path, name = "/".join(components), components[-1]
    if is_ignored(name):
        return Sight(path, reason=IGNORED)
    if not _is_utf8(name):
        return Sight(path, reason=NOT_UTF8)
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return Sight(path, reason=_KINDS.get(stat.S_IFMT(status.st_mode), NO_KEY))
    key = key_of(components)
    if key is None:
        return Sight(path, reason=NO_KEY)
    readable = not ask or os.access(name, os.R_OK, dir_fd=folder, effective_ids=True)
    return Sight(path, key, Signature.of(status), None if readable else UNREADABLE)


def _is_usable(name: str) -> bool:
    """Whether there can be keys below a folder of this name."""
    return not is_ignored(name) and _is_utf8(name)


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\udc80" <= char <= "\udcff" for char in name)
