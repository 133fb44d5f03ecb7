"""What holds for every route of the table."""

from __future__ import annotations

import pytest

from server.access import STRICTEST, Scope
from server.route import Route
from server.routes import ROUTES

READING_METHODS = {"GET", "HEAD"}
READING_POSTS = {"batch_get"}
WITHOUT_TOKEN = {"docs", "health"}
SHAREABLE = {"get", "exists", "query"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_route_says_what_a_token_must_cover(route: Route) -> None:
    assert route.need is not STRICTEST, "the need is left to its default"
    reads = route.method in READING_METHODS or route.name in READING_POSTS
    assert route.need.writes is not reads
    names = {param.name for param in route.params}
    if route.need.scope not in (Scope.OPEN, Scope.ANY, Scope.SERVER):
        assert route.need.database in names
    assert (route.need.scope is Scope.KEY) is ("key" in names)
    assert (route.need.scope is Scope.PREFIX) is ("prefix" in names)


def test_only_these_routes_need_no_token() -> None:
    assert {route.name for route in ROUTES if route.need.scope is Scope.OPEN} == WITHOUT_TOKEN


def test_only_these_routes_can_be_shared_and_they_only_read() -> None:
    shareable = [route for route in ROUTES if route.shareable]
    assert {route.name for route in shareable} == SHAREABLE
    assert not [route for route in shareable if route.need.writes]
