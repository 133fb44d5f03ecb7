"""Which files are no keys, besides those that `names` ignores: what the folder's own `.kvfsignore` says.

The file lies in the store's folder and is written as git's `.gitignore` is (gitignore(5)): the last
pattern that matches a path decides, `!` takes back, and nothing below an ignored folder can be taken back.
Paths are those of the files. A key's own value, `a/%value`, goes by the key's name, `a`, so that it does
not change what is ignored whether `a` is a file or a folder.

As git does, we do not follow the file where it is a symlink, and do without where it cannot be read, or is
too large; a pattern that means nothing is passed over. All that is told once, in the log. `pathspec` turns
a pattern into a regular expression; which of them decides is our own, so that it is as git has it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from kvfs.directory.names import OWN_VALUE, Hidden
from kvfs.model import NS

RULES: Final = ".kvfsignore"

_LOG: Final = logging.getLogger("kvfs.directory")

_BYTES_MAX: Final = 64 << 10
_FOLDERS_KEPT: Final = 10_000
# Twice the coarsest tick of a file system (vfat's).
_RACY_NS: Final = 4 * NS
_UNKNOWN: Final[tuple[int, ...]] = ()

# Python reads these otherwise than git inside brackets, or may some day.
_UNCLEAR: Final = re.compile(r"\[[^\]]*(?:\[|--|&&|~~|\|\|)")


class _Pattern(NamedTuple):
    text: str
    regex: re.Pattern[str]
    ignores: bool
    folders_only: bool

    def matches(self, path: str) -> bool:
        """Whether it means this very path, and not only something above it."""
        found = self.regex.match(path)
        # The one group there is marks the end of a folder's name.
        return found is not None and found.lastindex is None


class Rules:
    """What one version of the file says; an instance without patterns ignores nothing."""

    def __init__(self, text: str = "", source: str = RULES) -> None:
        self.identity = _identity(text)
        self._patterns = [*_parse(text, source)][::-1]
        # Folders come up again for each file in them.
        self._folders: dict[str, _Pattern | None] = {}

    def against_file(self, components: Sequence[str]) -> str | None:
        """The pattern that ignores a file, or a folder on the way to it; None where it is not ignored."""
        if not self._patterns:
            return None
        folder = components[:-1]
        above = self.against_folder(folder)
        if above is not None:
            return above
        named = folder if folder and components[-1] == OWN_VALUE else components
        pattern = self._last("/".join(named), folder=False)
        return None if pattern is None else pattern.text

    def against_folder(self, components: Sequence[str]) -> str | None:
        """The pattern that ignores a folder, or one on the way to it; None where it is not ignored."""
        if not self._patterns:
            return None
        for depth in range(1, len(components) + 1):
            path = "/".join(components[:depth])
            try:
                pattern = self._folders[path]
            except KeyError:
                if len(self._folders) >= _FOLDERS_KEPT:
                    self._folders.clear()
                pattern = self._folders[path] = self._last(path, folder=True)
            if pattern is not None:
                return pattern.text
        return None

    def check_file(self, components: Sequence[str]) -> None:
        """Raise `Hidden` where a file is ignored."""
        pattern = self.against_file(components)
        if pattern is not None:
            raise _hidden(components, pattern)

    def check_folder(self, components: Sequence[str]) -> None:
        """Raise `Hidden` where a folder is ignored."""
        pattern = self.against_folder(components)
        if pattern is not None:
            raise _hidden(components, pattern)

    def _last(self, path: str, *, folder: bool) -> _Pattern | None:
        """The last pattern that matches a path, if it is one that ignores."""
        for pattern in self._patterns:
            if (folder or not pattern.folders_only) and pattern.matches(path):
                return pattern if pattern.ignores else None
        return None


class RulesFile:
    """The rules of one folder, of which this borrows the descriptor. Any thread may ask.

    The file is looked at each time, and read only when it has changed.
    """

    def __init__(self, root: int, path: str) -> None:
        self._root = root
        self._source = os.path.join(path, RULES)
        # Guards reading; `_known` is replaced as a whole.
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, ...] | None, Rules] = (None, Rules())
        self._told: object = None

    def now(self) -> Rules:
        """The rules as they are now."""
        signature = self._look()
        known, rules = self._known
        return rules if known == signature and signature != _UNKNOWN else self._read()

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(RULES, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError:
            return _UNKNOWN
        return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _read(self) -> Rules:
        with self._lock:
            now_ns = time.time_ns()
            signature = self._look()
            text = self._text(signature)
            rules = self._known[1]
            if _identity(text) != rules.identity:
                rules = Rules(text, self._source)
            # What may still change without a trace is read again at the next look.
            racy = signature is not None and max(signature[-2:], default=0) > now_ns - _RACY_NS
            self._known = (_UNKNOWN if racy else signature, rules)
            return rules

    def _text(self, signature: tuple[int, ...] | None) -> str:
        """What the file says; nothing where it cannot be taken at its word."""
        try:
            fd = os.open(RULES, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._root)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    return self._tell(signature, "it is no file")
                data = os.read(fd, _BYTES_MAX + 1)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return ""
        except OSError as exc:
            return self._tell(signature, os.strerror(exc.errno or 0))
        if len(data) > _BYTES_MAX:
            return self._tell(signature, f"it has more than {_BYTES_MAX} bytes")
        return data.decode("utf-8-sig", "surrogateescape")

    def _tell(self, signature: object, reason: str) -> str:
        """Say once that the file is not gone by."""
        if self._told != (signature, reason):
            self._told = (signature, reason)
            _LOG.warning("%s is not gone by: %s", self._source, reason)
        return ""


def _identity(text: str) -> str:
    """What tells rules from others; empty where there are none."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() if text else ""


def _hidden(components: Sequence[str], pattern: str) -> Hidden:
    return Hidden(f"{'/'.join(components)!r} is ignored: {RULES} has {pattern!r}")


def _parse(text: str, source: str) -> Iterator[_Pattern]:
    for number, whole in enumerate(text.split("\n"), 1):
        line = whole if whole.endswith("\\ ") else whole.rstrip()
        if not line or line.startswith("#"):
            continue
        folders_only = line.endswith("/")
        pattern = _pattern(line[:-1] if folders_only else line, line, folders_only=folders_only)
        if pattern is None:
            _LOG.warning("%s, line %d: %r means nothing, and is passed over", source, number, line)
        else:
            yield pattern


def _pattern(meaning: str, text: str, *, folders_only: bool) -> _Pattern | None:
    if _UNCLEAR.search(meaning):
        return None
    try:
        regex, ignores = GitIgnoreSpecPattern.pattern_to_regex(meaning)
        if regex is None or ignores is None:
            return None
        return _Pattern(text, re.compile(regex, re.DOTALL), ignores, folders_only)
    except (ValueError, re.error):
        return None
