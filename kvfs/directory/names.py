"""Names: the reversible mapping between keys and relative paths of files, version 1.

Pure functions; this docstring is the format's documentation. The mapping is case-sensitive, and speaks
of names as a POSIX file system has them: any bytes but `/` and NUL, at most 255, here as text.

**A segment is a name.** A key is split at `/`; a segment is its own name, literally, unless it *cannot
be*: the empty one, `.`, `..`, a name that kvfs ignores (`IGNORED`), a reserved one (`%value`, `%long`), or
one that would *read as an escape* (below). Then it is escaped:

1. every `%` becomes `%25`; the empty segment becomes `%`;
2. if what there is now is ignored for its end (`*~`, `*___jb_*___`), its last character is escaped;
3. if it still cannot be a name, its first one (`.` or `#`) is.

    users/alice   users/alice       .git        %2Egit        %            %25
    .env          .env              foo~        foo%7E        foo%7E       foo%257E
    100%          100%              ..          %2E.          .#x~         %2E#x%7E
    a b%20c       a b%20c           a//b        a/%/b         %value       %25value

So the escapes are `%25 %2E %23 %7E %5F` and a lone `%`. A segment *reads as an escape* if it is what
comes out when some other segment is escaped that has to be.

**Why it round-trips.** Unescaping undoes escaping, and escaping lengthens, so "has to be escaped" is
well defined, by length. A literal name is never an escaped one: that one would read as an escape. And a
name that is neither ignored nor reserved is the literal form of itself or, if it reads as an escape, the
escaped form of what it reads as. So segments and such names (of any length) are one to one. No escaped
name is ignored: two patterns look at the end alone, and step 2 breaks both; all others ask for a `.` or
`#` at the beginning, where step 3 puts a `%`. None is reserved: in those `%` is followed by a letter.

**Own values.** Beside `a/b`, `a` is a folder; the value of `a` itself then lies in it as `a/%value`.

**Long names.** A segment whose name would take more than 255 bytes lies in a folder `%long`, cut into
pieces, a folder each: `%long/piece/piece/rest`. A piece is the shortest beginning that has 248 bytes or
more, a `%` counted as three; the rest, maybe empty, has fewer. Each is named as a segment is, which adds
four bytes at most. A piece shows by itself that it goes on, and the rest that it does not. Outside `%long`
a name that is merely long means nothing but itself.

A key of 1024 bytes takes less than 3300 bytes as a path, however it is escaped: PATH_MAX is 4096. (It may
be 1025 names deep: `/` is a character of keys that may stand alone.)

**What is no key.** Names that are ignored or not UTF-8, keys of more than 1024 bytes, and, among all other
paths that people can make, only these: the empty key (the files `%` and `%/%value` in the store's own
folder); `%value` where it is no file in some key's folder; `%long` where the names below it are not what
cutting a segment gives. They are no keys rather than second names of one. Every other path is exactly one
key's; every key has exactly one path, and one for its own value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from kvfs.keys import KEY_MAX_BYTES

MAPPING_VERSION: Final = 1

NAME_MAX: Final = 255
"""Bytes in a file name."""

OWN_VALUE: Final = "%value"
"""The name, in a key's folder, of the file with that key's own value."""

LONG: Final = "%long"
"""The name of the folder in which segments lie that are too long for a name."""

IGNORED: Final = (
    ".kvfs*", ".git", ".hg", ".svn", ".*.sw?", "*~", "#*#", ".#*", "*___jb_*___",
    ".nfs*", ".fuse_hidden*", ".DS_Store", "._*",
)  # fmt: skip
"""Names that are never keys, as case-sensitive shell patterns: kvfs's own, other tools', editors'."""

# What begins with the `.` or `#` that is asked for; `_is_ignored_by_end` sees to the other two patterns.
_IGNORED_BY_BEGINNING: Final = re.compile(
    r"\.(?:kvfs.*|git|hg|svn|.*\.sw.|#.*|nfs.*|fuse_hidden.*|DS_Store|_.*)|#.*#", re.DOTALL
)

_UNUSABLE: Final = frozenset({"", ".", ".."})
_RESERVED: Final = frozenset({OWN_VALUE, LONG})

_ESCAPE: Final = re.compile(r"%(2[35E]|5F|7E)")

# Escaping adds two bytes to a piece's first character and two to its last, and the character that
# completes a piece up to three beyond this.
_PIECE_BYTES: Final = NAME_MAX - 2 - 2 - 3

# Segments that are names as they stand, joined: none begins like an ignored one or has a `%` or `~`.
# `___jb_` and length are for `_is_ordinary` to see. Surrogates are bytes that are no UTF-8.
_FIRST: Final = r"[^.#%~/\0\ud800-\udfff]"
_OTHER: Final = r"[^%~/\0\ud800-\udfff]"
_ORDINARY: Final = re.compile(f"{_FIRST}{_OTHER}*(?:/{_FIRST}{_OTHER}*)*")


class NoKey(Exception):
    """The path is taken by something that is no key, and stays as it is."""


class Hidden(NoKey):
    """A file at this path would be no key: to readers the key is not there, and it cannot be written."""


def is_ignored(name: str) -> bool:
    """Whether files and folders of this name are passed over, with all that is in them."""
    return _IGNORED_BY_BEGINNING.fullmatch(name) is not None or _is_ignored_by_end(name)


def encode_segment(segment: str) -> str:
    """The name that stands for a segment, of whatever length: the segment itself wherever possible."""
    return _escape(segment) if _must_escape(segment) else segment


def decode_segment(name: str) -> str:
    """The segment that a name stands for: the inverse of `encode_segment`.

    For names that are neither ignored nor reserved, nor empty, `.` or `..`.
    """
    if "%" not in name:
        return name
    segment = _unescape(name)
    return segment if encode_segment(segment) == name else name


def path_of(key: str) -> tuple[str, ...]:
    """The names on the way to a key's file, from the store's folder, where no folder has that path.

    For a key that `check_key` accepts. No other key's path starts with it, but those of `key + "/…"`.
    """
    if _is_ordinary(key):
        return tuple(key.split("/"))
    return _path(key.split("/"))


def own_value_path(key: str) -> tuple[str, ...]:
    """The names on the way to a key's value where its name is that of a folder."""
    return (*path_of(key), OWN_VALUE)


def key_of(components: Sequence[str]) -> str | None:
    """The key whose file this is, by either form of its path; None where it is no key's.

    The names are relative to the store's folder, and as `os.fsdecode` gives them.
    """
    joined = "/".join(components)
    if _is_ordinary(joined) and joined.count("/") == len(components) - 1:
        return joined
    read = _read(components[:-1] if components and components[-1] == OWN_VALUE else components)
    if read is None:
        return None
    segments, begun = read
    key = "/".join(segments)
    return key if begun is None and key and _fits_key(key) else None


def folder_prefix(components: Sequence[str]) -> str | None:
    """What all keys below a folder start with; None where no key can be below it.

    `""` for the store's folder, `a/` for `a`; for `%long` it is that of the folder around it, and for a
    long segment's pieces there is no slash at the end. One key below `a` is without the slash: `a`, when
    `a/%value` is there.
    """
    read = _read(components)
    if read is None:
        return None
    segments, begun = read
    if begun is None:
        return "/".join((*segments, "")) if _fits_key("/".join(segments)) else None
    prefix = "/".join((*segments, begun))
    return prefix if _fits_key(prefix) else None


def deepest_folder(prefix: str) -> tuple[str, ...]:
    """The names on the way to the deepest folder that is sure to hold all keys that start with a prefix.

    Own values are among them. The last segment, not known whole, narrows nothing: how it ends decides
    whether it is escaped or cut. For the empty prefix, or one that `check_key` accepts.
    """
    return _path(prefix.split("/")[:-1])


def _is_ignored_by_end(name: str) -> bool:
    return name.endswith("~") or (name.endswith("___") and "___jb_" in name[:-3])


def _is_ordinary(path: str) -> bool:
    """Whether a key is its own path, told fast; False is no answer."""
    length = len(path)
    # 63 characters of 4 bytes fit into one name, whichever they are.
    if length > 63 and (length > NAME_MAX or not path.isascii()):
        return False
    return _ORDINARY.fullmatch(path) is not None and "___jb_" not in path


def _path(segments: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for segment in segments for name in _names(segment))


def _names(segment: str) -> tuple[str, ...]:
    """The names of one segment: one, or those in `%long`."""
    name = encode_segment(segment)
    if len(name.encode()) <= NAME_MAX:
        return (name,)
    return (LONG, *map(encode_segment, _pieces(segment)))


def _pieces(segment: str) -> Iterator[str]:
    while (end := _cut(segment)) is not None:
        yield segment[:end]
        segment = segment[end:]
    yield segment


def _cut(text: str) -> int | None:
    """Where the first piece of a text ends, which no text after it can change; None in the rest."""
    size = 0
    for end, char in enumerate(text, 1):
        size += 3 if char == "%" else len(char.encode())
        if size >= _PIECE_BYTES:
            return end
    return None


def _read(components: Sequence[str]) -> tuple[list[str], str | None] | None:
    """The segments that names stand for, and the beginning of one that is not complete (None: there is none).

    None where these are not the names of the path of any key, file or folder.
    """
    segments: list[str] = []
    begun: str | None = None
    start = 0
    for i, name in enumerate(components):
        if not _is_usable(name) or (name == LONG and begun is not None):
            return None
        if name == LONG:
            begun, start = "", i
            continue
        segment = decode_segment(name)
        if begun is None:
            segments.append(segment)
            continue
        begun += segment
        end = _cut(segment)
        if end is None:
            if _names(begun) != tuple(components[start : i + 1]):
                return None
            segments.append(begun)
            begun = None
        elif end < len(segment):
            return None
    return segments, begun


def _is_usable(name: str) -> bool:
    """Whether a name can be one of ours: on the way to a key, or its file's."""
    if name in _UNUSABLE or name == OWN_VALUE or "/" in name or "\0" in name or is_ignored(name):
        return False
    try:
        return len(name.encode()) <= NAME_MAX
    except UnicodeEncodeError:
        return False


def _fits_key(key: str) -> bool:
    return len(key.encode()) <= KEY_MAX_BYTES


def _must_escape(segment: str) -> bool:
    # A segment that reads as an escape of one that must be, must be: follow the readings down.
    while segment not in _UNUSABLE and segment not in _RESERVED and not is_ignored(segment):
        if "%" not in segment:
            return False
        read = _unescape(segment)
        if read == segment or _escape(read) != segment:
            return False
        segment = read
    return True


def _escape(segment: str) -> str:
    if not segment:
        return "%"
    name = segment.replace("%", "%25")
    if _is_ignored_by_end(name):
        name = f"{name[:-1]}%{ord(name[-1]):02X}"
    if name in _UNUSABLE or is_ignored(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name


def _unescape(name: str) -> str:
    if name == "%":
        return ""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
