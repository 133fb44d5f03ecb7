"""Tokens: what the command line or a file says of them, and how a request's token is looked for.

A token file is TOML, or JSON of the same shape:

    [[tokens]]
    name = "site"               # tells tokens apart, and links that were signed with them
    token = "…"                 # what clients send: visible ASCII characters
    access = "read"             # or "write", which includes reading
    databases = ["app"]         # as the `db` parameter; without it all databases
    tables = ["kv_store"]       # without it all tables
    prefixes = ["public/"]      # without it all keys

A file that holds one bare word is one token, which covers everything; so are secrets handed to containers.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from kvfs.errors import InvalidParameters
from server.access import Grant

DEFAULT_NAME: Final = "default"

_BARE: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_VISIBLE: Final = re.compile(r"[!-~]+")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BOUNDS: Final = ("databases", "tables", "prefixes")
_FIELDS: Final = frozenset({"name", "token", "access", *_BOUNDS})
_ACCESS: Final = ("read", "write")
_LINK_KEY: Final = b"kvfs signed links, version 1"


@dataclass(frozen=True, slots=True)
class Token:
    """A token: its name, what it covers, and what is kept of its secret.

    `digest` is what a request's token is compared with; `link_key` signs links.
    """

    name: str
    grant: Grant
    digest: bytes = field(repr=False)
    link_key: bytes = field(repr=False)

    @classmethod
    def of(cls, name: str, secret: str, grant: Grant) -> Token:
        """Raises `InvalidParameters` for a name or a secret that cannot be one."""
        if not _NAME.fullmatch(name):
            raise InvalidParameters("a token's name is 1 to 64 of letters, digits, '_', '-' and '.'")
        if not _VISIBLE.fullmatch(secret):
            raise InvalidParameters(f"token {name}: it must be of visible ASCII characters, without spaces")
        link_key = hmac.digest(secret.encode(), _LINK_KEY, "sha256")
        return cls(name, grant, _digest(secret), link_key)


class Tokens:
    """All tokens of a server. Raises `InvalidParameters` where two have one name, or are the same."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = tuple(tokens)
        if len({token.name for token in self._tokens}) < len(self._tokens):
            raise InvalidParameters("two tokens have the same name")
        if len({token.digest for token in self._tokens}) < len(self._tokens):
            raise InvalidParameters("two tokens are the same")

    def __iter__(self) -> Iterator[Token]:
        return iter(self._tokens)

    def bearer(self, secret: str) -> Token | None:
        """The token that this is. How long it takes tells nothing of how much of it is right.

        Digests are compared, so lengths do not matter; and all, so that none is found earlier than another.
        """
        digest = _digest(secret)
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def named(self, name: str) -> Token | None:
        """The token with this name, which is no secret."""
        return next((token for token in self._tokens if token.name == name), None)


class Source:
    """Where a server's tokens come from: one from the command line, others from a file."""

    def __init__(self, secret: str | None = None, file: str | None = None) -> None:
        self._secret = secret
        self._file = file

    def __bool__(self) -> bool:
        return self._secret is not None or self._file is not None

    @property
    def reloads(self) -> bool:
        """Whether reading again can give other tokens."""
        return self._file is not None

    def read(self) -> list[Token]:
        """The tokens; raises `InvalidParameters` or `OSError`, naming the file."""
        given = [] if self._secret is None else [whole(self._secret)]
        if self._file is None:
            return given
        try:
            return given + read(Path(self._file).read_bytes())
        except InvalidParameters as exc:
            raise InvalidParameters(f"{self._file}: {exc.message}") from exc


def whole(secret: str) -> Token:
    """The token that covers everything."""
    return Token.of(DEFAULT_NAME, secret, Grant(writes=True))


def read(content: bytes) -> list[Token]:
    """The tokens that a file holds; raises `InvalidParameters` that says what is wrong, and no secret."""
    stripped = content.strip()
    if _BARE.fullmatch(stripped):
        return [whole(stripped.decode())]
    parsed = _parsed(stripped)
    if set(parsed) != {"tokens"} or not isinstance(parsed["tokens"], list) or not parsed["tokens"]:
        raise InvalidParameters("a token file is a list of [[tokens]], at least one, and nothing else")
    return [_token(each) for each in parsed["tokens"]]


# --- parts ---------------------------------------------------------------------------------------------


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _parsed(content: bytes) -> dict[str, Any]:
    """TOML, or JSON, whose first character no TOML begins with."""
    try:
        parsed = orjson.loads(content) if content.startswith(b"{") else tomllib.loads(content.decode())
    except orjson.JSONDecodeError as exc:
        raise InvalidParameters(f"not JSON: line {exc.lineno}, column {exc.colno}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidParameters("not UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        # Its message names the place, and may quote a character of what stands there: not more.
        raise InvalidParameters(f"not TOML: {exc}") from exc
    assert isinstance(parsed, dict)
    return parsed


def _token(entry: object) -> Token:
    if not isinstance(entry, dict):
        raise InvalidParameters("each of the tokens must be a table")
    name, secret, access = (_text(entry, part) for part in ("name", "token", "access"))
    unknown = sorted(map(str, entry.keys() - _FIELDS))
    if unknown:
        # A misspelt bound must not make a token that has none.
        raise InvalidParameters(f"token {name}: unknown {', '.join(unknown)}")
    if access not in _ACCESS:
        raise InvalidParameters(f"token {name}: access must be read or write")
    databases, tables, prefixes = (_bound(entry, name, bound) for bound in _BOUNDS)
    return Token.of(name, secret, Grant(access == "write", databases, tables, prefixes))


def _text(entry: dict[str, Any], part: str) -> str:
    text = entry.get(part)
    if not isinstance(text, str) or not text:
        raise InvalidParameters(f"each token needs {part}, which is a string")
    return text


def _bound(entry: dict[str, Any], name: str, bound: str) -> tuple[str, ...] | None:
    texts = entry.get(bound)
    if texts is None and bound not in entry:
        return None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidParameters(f"token {name}: {bound} must be a list of strings, none of them empty")
    return tuple(texts)
