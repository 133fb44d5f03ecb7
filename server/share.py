"""What `kvfs share` does: make a link to one read, with a token, and without asking the server."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final

from kvfs.errors import InvalidParameters
from kvfs.keys import check_key
from kvfs.paths import check_db, check_table
from server import links
from server.route import BASE
from server.tokens import Source, Token

_KEY_ROUTE: Final = "/kv/{key}"
_QUERY_ROUTE: Final = "/query"
_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def key_url(server: str, token: Token, key: str, params: Mapping[str, str], *, expires_s: int) -> str:
    """The link to a key's value, until `expires_s`, on the server that is reached as `server`."""
    return _url(server, token, _KEY_ROUTE, check_key(key), params, expires_s)


def query_url(server: str, token: Token, sql: str, params: Mapping[str, str], *, expires_s: int) -> str:
    """The link to the answer of a SELECT, until `expires_s`, on the server that is reached as `server`."""
    encoded = base64.urlsafe_b64encode(sql.encode()).decode().rstrip("=")
    return _url(server, token, _QUERY_ROUTE, "", {**params, "sql": encoded}, expires_s)


def signer(source: Source, name: str | None) -> Token:
    """The token to sign with; `name` may be left out where there is only one.

    Raises `InvalidParameters` or `OSError` where there is none.
    """
    found = source.read()
    if not found:
        raise InvalidParameters("a token is needed to sign with: --token or --token-file")
    if name is None and len(found) > 1:
        raise InvalidParameters(f"say which token signs: --by {' | '.join(token.name for token in found)}")
    for token in found:
        if name in (None, token.name):
            return token
    raise InvalidParameters(f"there is no token {name}")


def seconds(duration: str) -> int:
    """How long `90s`, `15m`, `1h` or `7d` is; raises `InvalidParameters`."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise InvalidParameters("a duration is a number and one of s, m, h and d: 15m")
    return int(match[1]) * _UNITS_S[match[2]]


def _url(
    server: str, token: Token, route_path: str, key: str, params: Mapping[str, str], expires_s: int
) -> str:
    check_db(params["db"])
    if "table" in params:
        check_table(params["table"])
    target = links.target(token, route_path, key=key, params=params, expires_s=expires_s)
    return server.rstrip("/") + BASE + target
