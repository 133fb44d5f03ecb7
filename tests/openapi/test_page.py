"""The page: whole in itself, and locked down. What it does in a browser is in `test_page_in_a_browser`."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from server.route import BASE
from tests.http.launching import Server
from tests.http.wire import Answer


class Page(HTMLParser):
    """The elements of a page, and what stands in its styles and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.elements[-1][0] if self.elements else ""
        if tag in ("style", "script") and tag not in self.inside:
            self.inside[tag] = data


@pytest.fixture
def answer(server: Server) -> Answer:
    return server.ask("GET", "/docs")


@pytest.fixture
def page(answer: Answer) -> Page:
    return Page(answer.body.decode())


def _policy(answer: Answer) -> dict[str, list[str]]:
    directives = answer.headers["Content-Security-Policy"].split(";")
    return {words[0]: words[1:] for words in map(str.split, directives)}


def test_the_page_is_served(answer: Answer) -> None:
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize("tag", ["style", "script"])
def test_the_policy_lets_in_what_is_in_the_page_and_nothing_else(
    answer: Answer, page: Page, tag: str
) -> None:
    digest = base64.b64encode(hashlib.sha256(page.inside[tag].encode()).digest()).decode()
    policy = _policy(answer)
    assert policy["default-src"] == ["'none'"]
    assert policy[f"{tag}-src"] == [f"'sha256-{digest}'"]
    assert policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == ["'none'"]


def test_the_page_needs_nothing_from_elsewhere(answer: Answer, page: Page) -> None:
    assert re.findall(rb"(?:https?:)?//[a-z]", answer.body) == []
    assert not any("src" in attributes for _, attributes in page.elements)
    assert f'"{BASE}/openapi.json"' in page.inside["script"]
    for tag, attributes in page.elements:
        href = attributes.get("href")
        assert href is None or href.startswith((BASE, "#", "data:")), (tag, href)


def test_the_page_has_no_styles_or_handlers_in_attributes(page: Page) -> None:
    for tag, attributes in page.elements:
        assert not any(name == "style" or name.startswith("on") for name in attributes), tag


def test_the_script_makes_no_markup_out_of_text(page: Page) -> None:
    for name in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert name not in page.inside["script"]


def test_every_control_of_the_page_has_a_label(page: Page) -> None:
    labelled = {attributes.get("for") for tag, attributes in page.elements if tag == "label"}
    controls = {attributes.get("id") for tag, attributes in page.elements if tag == "input"}
    assert controls == labelled == {"token", "filter"}


def test_the_script_names_only_elements_that_there_are(page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert set(re.findall(r'byId\("([a-z]+)"\)', page.inside["script"])) <= ids
