"""The examples: each is sent to a real server, and answered as the document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from server.openapi.document import document
from server.openapi.stories import examples, stories
from server.route import ANY_TYPE, Route
from server.routes import ROUTES
from tests.http.launching import Server
from tests.openapi.telling import ROUTES_BY_NAME, Teller, Told, alike, same

STORIES = stories()
HOW_TO = (
    "add a step with its title, route, params and body to server/openapi/stories/, then run: make examples"
)

USUAL = {
    "Cache-Control",
    "Connection",
    "Content-Length",
    "Content-Type",
    "Date",
    "Referrer-Policy",
    "Server",
    "Transfer-Encoding",
    "X-Accel-Buffering",
    "X-Content-Type-Options",
}
"""Headers that tell browsers, proxies and connections what they tell everywhere."""


def _schema_of(api: dict[str, Any], told: Told) -> Any:
    """The schema of the answer; None where it has none. Fails where its type is not in the document."""
    route = ROUTES_BY_NAME[told.step.route]
    operation = api["paths"][route.whole_path][route.method.lower()]
    response = operation["responses"][str(told.step.status)]
    if "$ref" in response:
        response = api["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content_type = told.headers["Content-Type"]
    if content_type is None or route.method == "HEAD":
        assert "content" not in response, told.step
        return None
    content = response["content"]
    schema = (content.get(ANY_TYPE) or content[content_type.partition(";")[0]]).get("schema")
    return schema and {**schema, "components": api["components"]}


@pytest.mark.parametrize("name", STORIES)
def test_a_story_goes_as_it_is_told(tmp_path: Path, name: str) -> None:
    api = document()
    with Server(tmp_path) as server:
        for shown, told in zip(STORIES[name], _told(server, name), strict=True):
            given = told.step
            assert same(shown, given), f"{given}\nIf this is right, run: make examples"
            schema = _schema_of(api, told)
            if schema is not None and given.shown:
                jsonschema.Draft202012Validator(schema).validate(given.answer)
            _check_headers(api, told)


def _told(server: Server, name: str) -> Iterator[Told]:
    return Teller(server).tell(STORIES[name])


def _check_headers(api: dict[str, Any], told: Told) -> None:
    """Every header that says something of the answer is described in the document."""
    given = set(told.headers) - USUAL
    assert given <= api["components"]["headers"].keys()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: str(route.name))
def test_every_answer_of_a_route_has_an_example(route: Route) -> None:
    steps = [step for story in STORIES.values() for step in story if step.route == route.name]
    missing = {answer.status for answer in route.answers} - {step.status for step in steps}
    assert not missing, f"no example of {route.name} with status {missing}: {HOW_TO}"
    for status, response in document()["paths"][route.whole_path][route.method.lower()]["responses"].items():
        for media_type, media in response.get("content", {}).items():
            hidden = any(step.status == int(status) and not step.shown for step in steps)
            assert hidden or "examples" in media, f"no example of {route.name} in {media_type}: {HOW_TO}"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: str(route.name))
def test_every_required_parameter_has_an_example(route: Route) -> None:
    given = {name for example in examples() if example.step.route == route.name for name in example.params}
    missing = {param.name for param in route.params if param.required} - given
    assert not missing, f"no example of {missing} of {route.name}: {HOW_TO}"


def test_every_step_is_one_of_a_route_and_has_its_answer() -> None:
    for story in STORIES.values():
        for step in story:
            assert step.route in ROUTES_BY_NAME, step
            assert step.status, f"{step.title}: run: make examples"


@pytest.mark.parametrize(
    ("shown", "given", "equal"),
    [
        ({"n": 1}, {"n": 1}, True),
        ({"n": 1}, {"n": 2}, False),
        ({"n": 1}, {}, False),
        ({}, {"n": 1}, False),
        ({"n": 1}, {"n": "1"}, False),
        ({"n": [1]}, {"n": [1, 1]}, False),
        ({"s": "a"}, {"s": "b"}, False),
        ({"b": True}, {"b": False}, False),
        ({"n": 5}, {"n": None}, False),
        ({"at": 1_767_225_600}, {"at": 1_767_225_601}, True),
        ({"at": 1_767_225_600}, {"at": None}, True),
        ({"ms": 0.5}, {"ms": 0.75}, True),
        ({"size": 20480}, {"size": 21504}, True),
        ({"size": 31}, {"size": 32}, False),
        ({"cursor": "96266ceb5aa164bd.1"}, {"cursor": "9bc078b04f0b6460.1"}, True),
        ({"cursor": "96266ceb5aa164bd.1"}, {"cursor": "9bc078b04f0b6460.2"}, False),
        ({"version": "0.1.0"}, {"version": "0.2.0"}, True),
    ],
)
def test_only_times_durations_and_cursors_may_differ(shown: Any, given: Any, equal: bool) -> None:
    assert alike(shown, given) is equal
