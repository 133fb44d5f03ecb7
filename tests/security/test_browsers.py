"""What a page of another site can do with a server that a browser can reach, and a stored value with ours."""

from __future__ import annotations

import time

import pytest

from server.routes import ROUTES
from tests.http.launching import Server
from tests.http.stores import Store
from tests.http.wire import BASE, JSON, refused, target_of

EVIL = [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")]
SCRIPT = b"<script>alert(document.domain)</script>"


def test_no_other_site_may_read_answers(store: Store) -> None:
    store.put("k", b"1")
    for method in ("GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS"):
        for origin in ("https://evil.example", "null", "http://127.0.0.1"):
            answer = store.ask(
                method, "k", headers=[("Origin", origin)], body=b"1" if method == "PUT" else None
            )
            allowed = [name for name in answer.headers if name.lower().startswith("access-control-")]
            assert allowed == [], answer


def test_a_browser_that_asks_first_is_not_given_leave(store: Store) -> None:
    store.put("k", b"1")
    for method in ("PUT", "DELETE", "POST"):
        asking = [*EVIL, ("Access-Control-Request-Method", method)]
        refused(store.ask("OPTIONS", "k", headers=asking), 405, "METHOD_NOT_ALLOWED")


def test_every_route_that_a_page_may_post_to_unasked_refuses_another_site(
    server: Server, store: Store
) -> None:
    """A form, or a script that need not see the answer, sends text/plain to anywhere without asking."""
    store.put("k", b"1")
    sent = [*EVIL, ("Content-Type", "text/plain")]
    paths = {route.whole_path for route in ROUTES if route.method == "POST"}
    assert len(paths) > 10
    with store.unchanged():
        for path in paths:
            target = target_of(path.replace("{key}", "k"), db=store.db, table="things", path=store.db, ttl=1)
            refused(server.ask("POST", target, b"{}", sent), 403, "FORBIDDEN")


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_our_own_page_and_what_is_typed_in_may_post(store: Store, site: str) -> None:
    assert store.ask("POST", "k", "incr", headers=[("Sec-Fetch-Site", site)]).done()["value"] == 1


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "text/html; charset=utf-8",
        "image/svg+xml",
        "application/xhtml+xml",
        "text/xml",
        "text/plain",
    ],
)
def test_no_value_runs_a_script_in_our_origin(store: Store, content_type: str) -> None:
    """A browser that opens it shows it, at most, in an origin of its own, without scripts and forms."""
    store.put("k.html", SCRIPT, headers=[("Content-Type", content_type)])
    store.put("k.html", SCRIPT + b" ", headers=[("Content-Type", content_type)])
    for at_timestamp in ("2100-01-01T00:00:00Z", str(time.time())):
        assert store.ask("GET", "k.html").headers["Content-Security-Policy"] == "sandbox"
        answer = store.ask("GET", "k.html", at_timestamp=at_timestamp)
        assert answer.headers["Content-Security-Policy"] == "sandbox"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"] == content_type


def test_an_answer_that_holds_values_is_nothing_that_a_browser_renders(store: Store) -> None:
    store.put("<b>k", SCRIPT)
    for answer in (
        store.ask("GET", "<b>k", "entry"),
        store.ask("GET", "<b>k", "history"),
        store.ask("GET", values="true"),
        store.ask("GET", "<script>missing"),
        store.ask("GET", "<b>k", path="<script>"),
        store.server.ask("GET", f"{BASE}/<script>"),
    ):
        assert answer.headers["Content-Type"] == JSON
