"""Values as text, where JSON carries them: as they are, or in base64."""

from __future__ import annotations

import base64


def encoded(value: bytes) -> tuple[str, str]:
    """(text, encoding): the text itself with `utf-8`, or base64 with `base64`."""
    try:
        return value.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64_of(value), "base64"


def base64_of(value: bytes) -> str:
    """A value in base64."""
    return base64.b64encode(value).decode()


def decoded(text: str, encoding: str) -> bytes:
    """The value that `encoded` was given. Raises `ValueError` for what is no base64."""
    return base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
