"""A client of a server that asks for tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tests.http.wire import Answer, Endpoint, Headers


@dataclass(frozen=True, slots=True)
class Bearer:
    """Sends one token with whatever it asks; none where `token` is None."""

    server: Endpoint
    token: str | None

    def ask(self, method: str, target: str, body: bytes | None = None, headers: Headers = ()) -> Answer:
        given = [] if self.token is None else [("Authorization", f"Bearer {self.token}")]
        return self.server.ask(method, target, body, [*given, *headers])
