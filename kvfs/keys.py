"""Keys: what is one, and their order, which is that of their UTF-8 bytes."""

from __future__ import annotations

from typing import Final

from kvfs.errors import InvalidParameters, PayloadTooLarge

KEY_MAX_BYTES: Final = 1024


def check_key(key: str) -> str:
    """The key itself, if it is one.

    Raises `InvalidParameters` for the empty key, NUL and text that UTF-8 cannot carry, `PayloadTooLarge`
    over 1024 bytes.
    """
    if not key:
        raise InvalidParameters("key must not be empty")
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError as exc:
        raise InvalidParameters("key must be valid UTF-8") from exc
    if size > KEY_MAX_BYTES:
        raise PayloadTooLarge(f"key is {size} bytes long, the limit is {KEY_MAX_BYTES}")
    if "\0" in key:
        raise InvalidParameters("key must not contain NUL")
    return key


def successor(prefix: str) -> str | None:
    """The least text above everything that starts with `prefix`, in byte order; None if there is none."""
    while prefix:
        code = ord(prefix[-1])
        prefix = prefix[:-1]
        if code < 0x10FFFF:
            # UTF-8 has no surrogates: the code point after U+D7FF is U+E000.
            return prefix + chr(0xE000 if code == 0xD7FF else code + 1)
    return None
