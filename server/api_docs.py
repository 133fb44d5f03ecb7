"""Handlers that describe the API: the OpenAPI document, and the page to read and try it.

Each answer is made when it is first asked for, and kept: it stays the same as long as the server runs. What
makes it is imported then, since it stands on the table of routes, which these handlers are in, and since
most servers are never asked.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import orjson

from server import preconditions
from server.errors import JSON
from server.exchange import Exchange
from server.reply import Reply

YAML: Final = "application/yaml"
HTML: Final = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Fixed:
    """An answer that stays the same: its body, and its header lines but for the content type."""

    body: bytes
    content_type: str
    etag: str
    lines: str


async def openapi_json(exchange: Exchange) -> Reply:
    """The OpenAPI document."""
    return await _reply(exchange, _json)


async def openapi_yaml(exchange: Exchange) -> Reply:
    """The OpenAPI document in YAML."""
    return await _reply(exchange, _yaml)


async def docs_page(exchange: Exchange) -> Reply:
    """The page, whole: its style and script are in it, and its policy names both by their hashes."""
    return await _reply(exchange, _page)


# --- parts ---------------------------------------------------------------------------------------------


async def _reply(exchange: Exchange, make: Callable[[], _Fixed]) -> Reply:
    fixed = await exchange.run(make)
    if preconditions.not_modified(exchange.headers, fixed.etag):
        return Reply(304, headers=fixed.lines)
    return Reply(200, fixed.body, fixed.content_type, fixed.lines)


def _fixed(body: bytes, content_type: str, lines: str = "") -> _Fixed:
    etag = hashlib.sha256(body).hexdigest()[:32]
    lines = f'ETag: "{etag}"\r\nCache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n{lines}'
    return _Fixed(body, content_type, etag, lines)


@cache
def _json() -> _Fixed:
    from server.openapi.document import document

    return _fixed(orjson.dumps(document()), JSON)


@cache
def _yaml() -> _Fixed:
    from server.openapi.yaml_text import yaml_text

    # From the bytes, so that both are the same document.
    return _fixed(yaml_text(orjson.loads(_json().body)).encode(), YAML)


@cache
def _page() -> _Fixed:
    folder = resources.files("server") / "page"
    style = (folder / "page.css").read_bytes()
    script = (folder / "page.js").read_bytes()
    page = (folder / "page.html").read_bytes()
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    whole = page.replace(b"/* page.css */", style).replace(b"/* page.js */", script)
    return _fixed(whole, HTML, f"Content-Security-Policy: {policy}\r\nReferrer-Policy: no-referrer\r\n")


def _hash(source: bytes) -> str:
    """How a policy names a style or script that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source).digest()).decode()}'"
