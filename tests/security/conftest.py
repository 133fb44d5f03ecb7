"""The server and the stores of the tests of HTTP."""

from __future__ import annotations

from tests.http.conftest import kind, server, store

__all__ = ["kind", "server", "store"]
