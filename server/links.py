"""Links that are a credential of their own: for one read, until they expire.

A link is the URL of a read with three parameters more: `link_by` (the name of a token), `link_expires` (Unix
seconds) and `link_signature` (base64url of an HMAC-SHA256). The key of the HMAC is derived from the token, so
whoever has a token can make links without asking the server; and a link never covers more than its token,
and ends with it. What is signed is the route, the key in the path, and every parameter, each decoded: so a
link survives being escaped in another way, but nothing in it can be changed, added or left out.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

import orjson

from server.params import Params
from server.tokens import Token

BY: Final = "link_by"
EXPIRES: Final = "link_expires"
SIGNATURE: Final = "link_signature"

_KEY: Final = "{key}"
_WORD: Final = re.compile(r"[a-z]+|\.\.?")


def target(token: Token, route_path: str, *, key: str, params: Mapping[str, str], expires_s: int) -> str:
    """The path and query of a link, below the API's base, good until `expires_s`.

    `route_path` is the template of a shareable route; `key` is empty where it has none.
    """
    signed = {**params, BY: token.name, EXPIRES: str(expires_s)}
    mac = _mac(token, route_path, key, {name: value.encode() for name, value in signed.items()})
    signature = base64.urlsafe_b64encode(mac).decode().rstrip("=")
    path = route_path.replace(_KEY, _escaped(key))
    return f"{path}?{urlencode({**signed, SIGNATURE: signature}, quote_via=quote)}"


def signed(token: Token, route_path: str, *, key: str, params: Params) -> bool:
    """Whether this token made a link to just this. When it expires is for the caller to look at."""
    given = params.everything()
    mac = _mac(token, route_path, key, {name: value for name, value in given.items() if name != SIGNATURE})
    return hmac.compare_digest(mac, _decoded(given.get(SIGNATURE, b"")))


def _escaped(key: str) -> str:
    """A key as part of a path, where `/` is escaped too, so that nothing behind one is an action."""
    if _WORD.fullmatch(key):
        # In place of a key a word may be an action, and dots a way up.
        return "".join(f"%{byte:02X}" for byte in key.encode())
    return quote(key, safe="")


def _mac(token: Token, route_path: str, key: str, params: Mapping[str, bytes]) -> bytes:
    """In JSON nothing runs into its neighbour; bytes that are no UTF-8 are no less distinct in Latin-1."""
    pairs = sorted((name, value.decode("latin-1")) for name, value in params.items())
    return hmac.digest(token.link_key, orjson.dumps([route_path, key, pairs]), "sha256")


def _decoded(signature: bytes) -> bytes:
    try:
        return base64.b64decode(signature + b"=" * (-len(signature) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return b""
