"""Another program that edits a folder at random, as all sorts of programs do, and knows what must be there.

It goes by its own memory, not by looks at the files: where the kernel has multigrain timestamps, whoever
looks at a file makes its next change visible, and so would do kvfs's work.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

NAMES = ("a", "b", "c.json", "d e")
PATHS = ["/".join(names) for depth in (1, 2, 3) for names in product(NAMES, repeat=depth)]
FILES_MAX = 30
LARGE_BYTES = 300_000


@dataclass(slots=True, eq=False)
class File:
    """What an inode holds; hard links share it."""

    value: bytes


class Outsider:
    """Edits the files below `root`; `spare` is an empty folder of the same file system, for its own use."""

    def __init__(self, root: Path, spare: Path, seed: int) -> None:
        self.root = root
        self._spare = spare
        self._chance = random.Random(seed)
        self._files: dict[str, File] = {}
        self._folders: set[str] = set()
        # Trees that were moved away, by their names in `spare`.
        self._away: dict[str, tuple[dict[str, File], set[str]]] = {}
        self._made = 0
        self._edits: list[Callable[[], None]] = [
            self._write, self._write, self._replace, self._replace, self._append, self._truncate,
            self._delete, self._rename, self._copy_with_times, self._rewrite, self._rewrite_with_old_times,
            self._change_mode, self._touch, self._link, self._swap, self._move_tree, self._move_tree_away,
            self._move_tree_back,
        ]  # fmt: skip

    @property
    def values(self) -> dict[str, bytes]:
        """What every key must have."""
        return {path: file.value for path, file in self._files.items()}

    def edit(self) -> str:
        """One edit; its name."""
        crowded = len(self._files) > FILES_MAX
        edit = self._delete if crowded else self._chance.choice(self._edits)
        edit()
        return edit.__name__.strip("_")

    # --- edits of a file -------------------------------------------------------------------------------

    def _write(self) -> None:
        path, value = self._chance.choice(PATHS), self._value()
        self._make_way(path)
        self._store(path, value, os.O_TRUNC)

    def _replace(self) -> None:
        path, file = self._chance.choice(PATHS), File(self._value())
        self._make_way(path)
        fresh = self._fresh()
        _write(fresh, file.value, os.O_CREAT | os.O_EXCL)
        os.rename(fresh, self.root / path)
        self._files[path] = file

    def _append(self) -> None:
        path = self._some_file()
        if path is not None:
            more = self._value()
            _write(self.root / path, more, os.O_APPEND)
            self._files[path].value += more

    def _truncate(self) -> None:
        path = self._some_file()
        if path is not None:
            size = self._chance.choice([0, len(self._files[path].value) // 2])
            os.truncate(self.root / path, size)
            self._files[path].value = self._files[path].value[:size]

    def _delete(self) -> None:
        path = self._some_file()
        if path is not None:
            self._remove(path)

    def _rename(self) -> None:
        path, target = self._some_file(), self._chance.choice(PATHS)
        if path is None or _overlap(path, target):
            return
        file = self._files[path]
        self._make_way(target)
        os.rename(self.root / path, self.root / target)
        # Of two links to one file, rename(2) leaves both.
        if self._files.get(target) is not file:
            del self._files[path]
            self._files[target] = file

    def _copy_with_times(self) -> None:
        path, target = self._some_file(), self._chance.choice(PATHS)
        if path is None or _overlap(path, target) or self._files.get(target) is self._files[path]:
            return
        self._make_way(target)
        status = os.stat(self.root / path)
        self._store(target, self._files[path].value, os.O_TRUNC)
        os.utime(self.root / target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _rewrite(self) -> None:
        path = self._some_file()
        if path is not None:
            self._store(path, self._chance.randbytes(len(self._files[path].value)), 0)

    def _rewrite_with_old_times(self) -> None:
        path = self._some_file()
        if path is not None:
            status = os.stat(self.root / path)
            self._store(path, self._chance.randbytes(len(self._files[path].value)), 0)
            os.utime(self.root / path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _change_mode(self) -> None:
        path = self._some_file()
        if path is not None:
            os.chmod(self.root / path, self._chance.choice([0o600, 0o640, 0o644]))

    def _touch(self) -> None:
        path = self._some_file()
        if path is not None:
            os.utime(self.root / path)

    def _link(self) -> None:
        path, target = self._some_file(), self._chance.choice(PATHS)
        if path is None or _overlap(path, target):
            return
        self._make_way(target)
        if target in self._files:
            self._remove(target)
        os.link(self.root / path, self.root / target)
        self._files[target] = self._files[path]

    def _swap(self) -> None:
        one, other = self._some_file(), self._some_file()
        if one is None or other is None or self._files[one] is self._files[other]:
            return
        aside = self._fresh()
        os.rename(self.root / one, aside)
        os.rename(self.root / other, self.root / one)
        os.rename(aside, self.root / other)
        self._files[one], self._files[other] = self._files[other], self._files[one]

    # --- edits of a folder -----------------------------------------------------------------------------

    def _move_tree(self) -> None:
        path, target = self._some_folder(), self._chance.choice(PATHS)
        if path is None or _overlap(path, target):
            return
        self._clear(target)
        os.rename(self.root / path, self.root / target)
        self._put_tree(target, *self._take_tree(path))

    def _move_tree_away(self) -> None:
        path = self._some_folder()
        if path is not None:
            away = self._fresh()
            os.rename(self.root / path, away)
            self._away[away.name] = self._take_tree(path)

    def _move_tree_back(self) -> None:
        if self._away:
            name, target = self._chance.choice([*self._away]), self._chance.choice(PATHS)
            self._clear(target)
            os.rename(self._spare / name, self.root / target)
            self._put_tree(target, *self._away.pop(name))

    # --- parts -----------------------------------------------------------------------------------------

    def _value(self) -> bytes:
        """A value that no file has had."""
        self._made += 1
        value = b"%d," % self._made * self._chance.choice([1, 1, 1, 2, 30])
        return value * (LARGE_BYTES // len(value)) if self._chance.random() < 0.02 else value

    def _fresh(self) -> Path:
        self._made += 1
        return self._spare / str(self._made)

    def _some_file(self) -> str | None:
        return self._chance.choice([*self._files]) if self._files else None

    def _some_folder(self) -> str | None:
        return self._chance.choice(sorted(self._folders)) if self._folders else None

    def _store(self, path: str, value: bytes, flags: int) -> None:
        """Write into the file that is there, or a new one."""
        _write(self.root / path, value, os.O_CREAT | flags)
        self._files.setdefault(path, File(b"")).value = value

    def _make_way(self, path: str) -> None:
        """Make the folders above; what is a file there goes, and so does a folder at the path itself."""
        above = path.split("/")[:-1]
        for depth in range(1, len(above) + 1):
            folder = "/".join(above[:depth])
            if folder in self._files:
                self._remove(folder)
            if folder not in self._folders:
                os.mkdir(self.root / folder)
                self._folders.add(folder)
        if path in self._folders:
            shutil.rmtree(self.root / path)
            self._take_tree(path)

    def _clear(self, path: str) -> None:
        """Make the folders above, and take away what is at the path."""
        self._make_way(path)
        if path in self._files:
            self._remove(path)

    def _remove(self, path: str) -> None:
        os.unlink(self.root / path)
        del self._files[path]

    def _take_tree(self, path: str) -> tuple[dict[str, File], set[str]]:
        """Forget a folder; the files and folders below it, by their paths from there."""
        below = path + "/"
        files = {name: self._files.pop(name) for name in [*self._files] if name.startswith(below)}
        folders = {name for name in self._folders if name.startswith(below)}
        self._folders -= {path, *folders}
        start = len(below)
        return {name[start:]: file for name, file in files.items()}, {name[start:] for name in folders}

    def _put_tree(self, path: str, files: dict[str, File], folders: set[str]) -> None:
        self._folders |= {path, *(f"{path}/{name}" for name in folders)}
        self._files.update({f"{path}/{name}": file for name, file in files.items()})


def _write(path: Path, value: bytes, flags: int) -> None:
    """Not by `open`, which looks at the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o644)
    try:
        assert os.write(fd, value) == len(value)
    finally:
        os.close(fd)


def _overlap(one: str, other: str) -> bool:
    """Whether a path is another, or lies below it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
