"""Routing on the raw path: which words are actions, and which are keys."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvfs.errors import InvalidParameters, PayloadTooLarge
from server.errors import MEANINGS, MethodNotAllowed, RouteNotFound
from server.route import BASE, Route
from server.router import Router, split_target
from server.routes import ROUTES

ROUTER = Router(ROUTES)
KEYS = st.text(
    min_size=1, max_size=50, alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])
)
READS = ("entry", "history", "snapshot")
CHANGES = ("incr", "decr", "push", "pop", "remove", "expire", "persist", "rollback")


def found(method: str, path: str) -> tuple[str, str]:
    route, key = ROUTER.find(method, BASE + path)
    return route.name, key


def every_byte(key: str) -> str:
    return "".join(f"%{byte:02X}" for byte in key.encode())


@given(KEYS, st.sampled_from([("GET", "get"), ("HEAD", "exists"), ("PUT", "set"), ("DELETE", "delete")]))
def test_an_escaped_key_is_a_key_whatever_it_says(key: str, action: tuple[str, str]) -> None:
    method, name = action
    assert found(method, f"/kv/{every_byte(key)}") == (name, key)


@given(KEYS)
def test_slashes_may_be_escaped_or_not(key: str) -> None:
    assert found("PUT", f"/kv/{quote(key, safe='/')}") == ("set", key)
    assert found("PUT", f"/kv/{quote(key, safe='')}") == ("set", key)


@given(KEYS, st.sampled_from(READS + CHANGES))
def test_put_delete_and_head_have_no_actions(key: str, suffix: str) -> None:
    path = f"/kv/{quote(key, safe='/')}/{suffix}"
    for method, name in (("PUT", "set"), ("DELETE", "delete"), ("HEAD", "exists")):
        assert found(method, path) == (name, f"{key}/{suffix}")


@given(KEYS, st.sampled_from(CHANGES[:-1]))
def test_a_literal_suffix_is_an_action_of_the_method_that_has_it(key: str, suffix: str) -> None:
    path = f"/kv/{quote(key, safe='/')}/{suffix}"
    assert found("POST", path) == (suffix, key)
    assert found("GET", path) == ("get", f"{key}/{suffix}")


@pytest.mark.parametrize(
    ("method", "path", "name", "key"),
    [
        ("GET", "/kv/a/entry", "entry", "a"),
        ("GET", "/kv/a%2Fentry", "get", "a/entry"),
        ("GET", "/kv/a/%65ntry", "get", "a/entry"),
        ("GET", "/kv/a/entr%79", "get", "a/entry"),
        ("GET", "/kv/a/Entry", "get", "a/Entry"),
        ("GET", "/kv/a/entry/", "get", "a/entry/"),
        ("GET", "/kv/a/entry/entry", "entry", "a/entry"),
        ("GET", "/kv/a//entry", "entry", "a/"),
        ("GET", "/kv/entry", "get", "entry"),
        ("GET", "/kv//entry", "get", "/entry"),
        ("GET", "/kv///entry", "entry", "/"),
        ("GET", "/kv/%2Fentry", "get", "/entry"),
        ("GET", "/kv/%2F/entry", "entry", "/"),
        ("GET", "/kv/%73napshot", "get", "snapshot"),
        ("GET", "/kv/snapshot/", "get", "snapshot/"),
        ("GET", "/kv/snapshot/entry", "entry", "snapshot"),
        ("GET", "/kv/batch/set", "get", "batch/set"),
        ("GET", "/kv/rollback", "get", "rollback"),
        ("PUT", "/kv/snapshot", "set", "snapshot"),
        ("HEAD", "/kv/snapshot", "exists", "snapshot"),
        ("HEAD", "/kv/diff", "exists", "diff"),
        ("DELETE", "/kv/batch/set", "delete", "batch/set"),
        ("GET", "/kv/..", "get", ".."),
        ("GET", "/kv/../health", "get", "../health"),
        ("GET", "/kv/a/../b", "get", "a/../b"),
        ("GET", "/kv/./a", "get", "./a"),
        ("GET", "/kv/a+b", "get", "a+b"),
        ("GET", "/kv/100%", "get", "100%"),
        ("GET", "/kv/%zz", "get", "%zz"),
        ("POST", "/kv/batch/set", "batch_set", ""),
        ("POST", "/kv/batch/get", "batch_get", ""),
        ("POST", "/kv/batch/delete", "batch_delete", ""),
        ("POST", "/kv/batch/set/incr", "incr", "batch/set"),
        ("POST", "/kv/snapshot/push", "push", "snapshot"),
        ("GET", "/kv", "list", ""),
        ("HEAD", "/kv", "list", ""),
        ("HEAD", "/health", "health", ""),
        ("DELETE", "/db", "delete_database", ""),
        ("DELETE", "/history", "clear_queries", ""),
        ("DELETE", "/history/7", "delete_query", "7"),
        ("DELETE", "/history/%37", "delete_query", "7"),
        ("GET", "/history/stats", "query_statistics", ""),
    ],
)  # fmt: skip
def test_where_a_path_leads(method: str, path: str, name: str, key: str) -> None:
    assert found(method, path) == (name, key)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/api", BASE, BASE + "/", BASE + "/kvx", BASE + "/health/", BASE + "//kv", "/kv/a", "*", "a:1"],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "CONNECT"])
def test_elsewhere_is_nothing(method: str, path: str) -> None:
    with pytest.raises(RouteNotFound):
        ROUTER.find(method, path)


def test_a_word_of_the_way_is_literal_too() -> None:
    for path in ("/api/v1/sqlite/%6bv/a", "/api/v1/%73qlite/kv/a", "/api/v1/sqlite/healt%68"):
        with pytest.raises(RouteNotFound):
            ROUTER.find("GET", path)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/kv/a", "DELETE GET HEAD PUT"),
        ("POST", "/kv/incr", "DELETE GET HEAD PUT"),
        ("POST", "/kv//incr", "DELETE GET HEAD PUT"),
        ("POST", "/kv/a/entry", "DELETE GET HEAD PUT"),
        ("PATCH", "/kv/a/incr", "DELETE GET HEAD POST PUT"),
        ("OPTIONS", "/kv/a", "DELETE GET HEAD PUT"),
        ("PUT", "/kv", "GET HEAD"),
        ("POST", "/health", "GET HEAD"),
        ("GET", "/db/create", "POST"),
        ("GET", "/db", "DELETE POST"),
    ],
)
def test_a_method_that_a_path_has_not_is_told_those_that_it_has(method: str, path: str, allow: str) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTER.find(method, BASE + path)
    assert " ".join(caught.value.allow) == allow


def test_keys_are_checked() -> None:
    with pytest.raises(InvalidParameters, match="empty"):
        ROUTER.find("GET", f"{BASE}/kv/")
    with pytest.raises(InvalidParameters, match="NUL"):
        ROUTER.find("GET", f"{BASE}/kv/a%00")
    with pytest.raises(InvalidParameters, match="UTF-8"):
        ROUTER.find("GET", f"{BASE}/kv/%ff")
    assert found("GET", "/kv/" + "%C3%A9" * 512) == ("get", "é" * 512)
    with pytest.raises(PayloadTooLarge):
        ROUTER.find("GET", f"{BASE}/kv/" + "%C3%A9" * 512 + "a")


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/a", ("/a", "")),
        ("/a?", ("/a", "")),
        ("/a?b?c", ("/a", "b?c")),
        ("//a//b", ("//a//b", "")),
        ("http://host/a/b?c=d", ("/a/b", "c=d")),
        ("http://host:80//a?c", ("//a", "c")),
        ("HTTPS://host", ("/", "")),
        ("http://host?a", ("/", "a")),
        ("/http://host/a", ("/http://host/a", "")),
        ("*", ("*", "")),
        ("host:443", ("host:443", "")),
    ],
)
def test_a_target_has_a_path_and_a_query(target: str, parts: tuple[str, str]) -> None:
    assert split_target(target) == parts


def test_half_a_target_is_never_taken_for_the_whole() -> None:
    with pytest.raises(InvalidParameters, match="%23"):
        split_target("/kv/a#b")


@given(st.text(), st.text())
def test_any_target_can_be_split(before: str, after: str) -> None:
    assume("#" not in before + after)
    path, query = split_target(f"/{before}?{after}")
    assert path == "/" + before.partition("?")[0]
    assert query == before.partition("?")[2] + ("?" if "?" in before else "") + after


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_is_described_truly(route: Route) -> None:
    names = [(param.name, param.place) for param in route.params]
    assert len(names) == len(set(names)), names
    assert ("{key}" in route.path) == any(param.name == "key" for param in route.params)
    assert any(param.name == "timeout" for param in route.params)
    assert set(route.errors) <= set(MEANINGS)
    assert len(route.errors) == len(set(route.errors))
    assert route.answers


def test_names_and_paths_of_routes_are_their_own() -> None:
    assert len({route.name for route in ROUTES}) == len(ROUTES)
    paths = [(route.method, route.path) for route in ROUTES]
    assert len(set(paths)) == len(paths)
