"""From a request's raw target to its route and key.

The path is looked at as it was sent, before any decoding and without normalising `..` or `//`: `/kv/a/entry`
is the entry of `a`, `/kv/a%2Fentry` the value of `a/entry`, and `/kv/%65ntry` that of `entry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kvfs.errors import InvalidParameters
from kvfs.keys import check_key
from server.errors import MethodNotAllowed, RouteNotFound
from server.params import decode_path
from server.route import BASE, Route

_KEYS: Final = BASE + "/kv/"
_KEY: Final = "{key}"
_INDEX: Final = "{index}"


class Router:
    """Looks up routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        # By whole path and by method: what has no key.
        self._fixed: dict[str, dict[str, Route]] = {}
        # By method, and by what follows the key ("" for nothing).
        self._suffixes: dict[str, dict[str, Route]] = {}
        # By method: whole paths below /kv/ that are no keys.
        self._words: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._add(route.method, route.whole_path, route)

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """The route of a raw path, and the decoded key or index, empty where the route has none.

        Raises `RouteNotFound`, `MethodNotAllowed`, and for the key `InvalidParameters` or
        `PayloadTooLarge`.
        """
        if not path.startswith(_KEYS):
            return self._find_fixed(method, path)
        found, raw_key = self._look(method, path[len(_KEYS) :])
        if found is None:
            raise MethodNotAllowed(self._allowed(path[len(_KEYS) :]))
        return found, "" if raw_key is None else check_key(decode_path(raw_key))

    # --- parts --------------------------------------------------------------------------------------------

    def _add(self, method: str, path: str, route: Route) -> None:
        before, key, suffix = path.partition(_KEY)
        if key:
            if before != _KEYS:
                raise ValueError(f"{path}: keys are below {_KEYS} only")
            self._suffixes.setdefault(method, {})[suffix.removeprefix("/")] = route
        elif path.startswith(_KEYS):
            self._words.setdefault(method, {})[path.removeprefix(_KEYS)] = route
        else:
            self._fixed.setdefault(path, {})[method] = route

    def _look(self, method: str, rest: str) -> tuple[Route | None, str | None]:
        """The route of what follows /kv/, None where the method has nothing of the kind, and the raw key."""
        words = self._words.get(method)
        if words is not None and rest in words:
            return words[rest], None
        suffixes = self._suffixes.get(method)
        if suffixes is None:
            return None, rest
        slash = rest.rfind("/")
        if slash > 0 and (suffix := rest[slash + 1 :]) in suffixes and suffix:
            return suffixes[suffix], rest[:slash]
        return suffixes.get(""), rest

    def _find_fixed(self, method: str, path: str) -> tuple[Route, str]:
        methods, index = self._fixed.get(path), ""
        if methods is None:
            above, _, index = path.rpartition("/")
            methods = self._fixed.get(f"{above}/{_INDEX}")
            if methods is None or not index:
                raise RouteNotFound
            index = decode_path(index)
        if method == "HEAD" and method not in methods:
            method = "GET"
        if method in methods:
            return methods[method], index
        allow = {*methods, "HEAD"} if "GET" in methods else {*methods}
        raise MethodNotAllowed(tuple(sorted(allow)))

    def _allowed(self, rest: str) -> tuple[str, ...]:
        methods = self._suffixes.keys() | self._words.keys()
        return tuple(sorted(method for method in methods if self._look(method, rest)[0] is not None))


def split_target(target: str) -> tuple[str, str]:
    """(path, query) of a request target, both as they were sent; `http://host` before the path is dropped.

    Raises `InvalidParameters` for a fragment: it would be lost, and half a key must not stand for the whole.
    """
    if "#" in target:
        raise InvalidParameters("the request target must not contain #: a key has it as %23")
    path, _, query = target.partition("?")
    if path[:1] != "/":
        scheme, mark, rest = path.partition("://")
        if mark and scheme.isalpha():
            path = "/" + rest.partition("/")[2]
    return path, query
