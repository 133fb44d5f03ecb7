"""Keys and values that stores get wrong."""

from __future__ import annotations

import random

from hypothesis import strategies as st

KEYS = [
    *("a", "a/b", "a/b/c", "b/c", "b", "A", "aa", "a.", "a-", "a0"),
    *(".", "..", "../..", "a/..", "a/../b", "./a", "a/.", "..."),
    *("/", "//", "///", "/a", "a/", "a//", "a//b", "//a", "b//"),
    *(".env", ".git", ".git/config", "x/.git", ".gitignore", ".kvfs", ".kvfs/tmp", ".svn", ".DS_Store"),
    *("x~", "x~/y", "#x#", ".#x", "._x", ".x.swp", ".nfs01", "x___jb_tmp___"),
    *(" ", "  ", " a", "a ", "a b", "\n", "a\nb", "\t", "\r\n", "\x01", "\x1f", "\x7f", "\x85"),
    *("é", "e\u0301", "ÿ", "😀", "😀/😀", "日本/語"),
    *("\u200b", "\ufeff", "\ufffd", "\ud7ff", "\ue000", "\U0010ffff"),
    *("%", "%%", "100%", "%2F", "%2f", "%41", "%25", "%7E", "%00", "%zz", "a%20b"),
    *("%value", "a/%value", "%value/a", "%long", "%long/a", "a/%long/b"),
    *("?", "a?b=c", "#", "a#b", "&", "a&b", "=", "+", "a+b", ";", ":", "a:b"),
    *("\\", "a\\b", "*", '"', "'", "<>", "|"),
    *("snapshot", "diff", "rollback", "history", "entry", "incr", "batch", "changes"),
    *("a/history", "a/entry", "a/incr", "a/snapshot", "batch/set", "batch/get", "changes/stream"),
    *("x" * 1024, "é" * 512, "😀" * 256, "%" * 1024, "/" * 30, "x/" * 30),
    *("n" * 254, "n" * 255, "n" * 256, "n" * 300, "n" * 300 + "/m"),
    *("d/" + "n" * 255, "d/" + "n" * 256 + "/e"),
    *("%" * 300, "é" * 128, "." * 256, "~" * 300),
]  # fmt: skip
"""All of them can be in one store."""

_PIECES = [
    *"/./%~# a\n\\é😀",
    *("..", "//", "%2F", "%25", "%value", "%long", ".git", ".kvfs", "._", ".#", "___jb_", ".swp", "history"),
    *("n" * 250, "é" * 130),
]

keys = (
    st.lists(
        st.one_of(
            st.sampled_from(_PIECES),
            st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
        ),
        min_size=1,
        max_size=8,
    )
    .map(lambda pieces: "".join(pieces).encode()[:1024].decode(errors="ignore"))
    .filter(bool)
)
"""Any keys, most of them nasty."""

values = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from([b"", b"\0", b"\xff", b"\xef\xbb\xbf{}", b"null", b"0", b"[1, 2]", b'{"a": 1.0}', b"\n"]),
)
"""Any small values."""


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes without a pattern, always the same."""
    return random.Random(seed).randbytes(size)
