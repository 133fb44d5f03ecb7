"""The gate: finds out whose token, or whose link, a request carries, and lets it in or not.

Where there are no tokens, and so no gate, `check_site` is all that stands between a server that only this
machine can reach and the pages that a browser on it shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from multidict import istr

from kvfs.errors import Forbidden, InvalidDbPath, KvfsError, Unauthorized
from kvfs.paths import Paths
from server import links
from server.access import Permit, Scope
from server.params import Params
from server.request import Headers
from server.route import Route
from server.tokens import Source, Token, Tokens

AUTHORIZATION: Final = istr("Authorization")
FETCH_SITE: Final = istr("Sec-Fetch-Site")

_LOG = logging.getLogger("server.gate")

_SCHEME: Final = "bearer"


def check_site(headers: Headers) -> None:
    """Raise `Forbidden` where a browser says that a page of another site asks.

    For POST: of all that changes something it alone may be sent by any page without asking the server first.
    """
    if headers.get(FETCH_SITE) == "cross-site":
        raise Forbidden("A page of another site must not ask for this")


class Gate:
    """Compares requests with the tokens of a server. The event loop's own.

    `clock` tells the Unix time, in seconds.
    """

    def __init__(self, source: Source, paths: Paths, *, clock: Callable[[], float]) -> None:
        """Raises `InvalidParameters`, `InvalidDbPath` or `OSError` where the tokens cannot be read."""
        self._source = source
        self._paths = paths
        self._clock = clock
        self._tokens = self._read()

    def reload(self) -> None:
        """Read the tokens again; where that cannot be done, the old ones stay."""
        try:
            self._tokens = self._read()
        except KvfsError as exc:
            _LOG.error("the old tokens stay in force: %s", exc.message)
        except OSError as exc:
            _LOG.error("the old tokens stay in force: %s: %s", exc.filename, exc.strerror)
        else:
            _LOG.info("read the tokens again")

    def admit(self, headers: Headers, route: Route, key: str, params: Params) -> Permit | None:
        """What a request may touch; None where that is everything, or no token is needed.

        Raises `Unauthorized` and `Forbidden`, before anything is looked up.
        """
        if route.need.scope is Scope.OPEN:
            return None
        given = headers.get(AUTHORIZATION)
        token = self._linked(route, key, params) if given is None else self._bearer(given)
        if token.grant.everything:
            return None
        return Permit(token.grant, route.need, key=key, params=params, paths=self._paths)

    # --- parts --------------------------------------------------------------------------------------------

    def _bearer(self, given: str) -> Token:
        scheme, _, secret = given.partition(" ")
        token = self._tokens.bearer(secret.strip()) if scheme.lower() == _SCHEME else None
        if token is None:
            raise Unauthorized("The token is not valid")
        return token

    def _linked(self, route: Route, key: str, params: Params) -> Token:
        name = params.text(links.BY)
        if name is None or not route.shareable:
            raise Unauthorized("A token is needed")
        token = self._tokens.named(name)
        if token is None or not links.signed(token, route.path, key=key, params=params):
            raise Unauthorized("The link is not valid")
        if (params.integer(links.EXPIRES) or 0) <= self._clock():
            raise Unauthorized("The link has expired")
        return token

    def _read(self) -> Tokens:
        found = Tokens(self._source.read())
        for token in found:
            for db in token.grant.databases or ():
                self._check_database(token, db)
        return found

    def _check_database(self, token: Token, db: str) -> None:
        try:
            self._paths.resolve(db)
        except InvalidDbPath as exc:
            raise InvalidDbPath(f"token {token.name}: database {db}: {exc.message}") from exc
