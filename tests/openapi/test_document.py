"""The document: valid, and about exactly what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest
import yaml

from server.access import OPEN
from server.errors import MEANINGS
from server.openapi.document import HEADERS, document, error_meanings
from server.openapi.yaml_text import yaml_text
from server.route import BASE, Place, Route
from server.routes import ROUTES
from tests.http.launching import Server, serving
from tests.http.wire import refused, target_of
from tests.serving import ROOT

JSON_TARGET = f"{BASE}/openapi.json"
YAML_TARGET = f"{BASE}/openapi.yaml"


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return document()


def _operation(api: dict[str, Any], route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = api["paths"][route.whole_path][route.method.lower()]
    return operation


def test_the_document_is_valid(api: dict[str, Any]) -> None:
    openapi_spec_validator.OpenAPIV31SpecValidator(api).validate()


def test_the_document_has_the_routes_that_are_served_and_no_others(api: dict[str, Any]) -> None:
    shown = {operation["operationId"] for path in api["paths"].values() for operation in path.values()}
    assert shown == {route.name for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: str(route.name))
def test_an_operation_has_all_that_its_route_has(api: dict[str, Any], route: Route) -> None:
    operation = _operation(api, route)
    assert [(param["name"], param["in"]) for param in operation["parameters"]] == [
        (param.name, param.place) for param in route.params
    ]
    assert ("requestBody" in operation) == (route.body is not None)
    statuses = {answer.status for answer in route.answers} | {MEANINGS[code].status for code in route.errors}
    assert set(operation["responses"]) == {str(status) for status in statuses}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: str(route.name))
def test_every_header_that_an_answer_has_is_described(route: Route) -> None:
    unknown = {name for answer in route.answers for name in answer.headers} - HEADERS.keys()
    assert not unknown, f"describe {unknown} in server.openapi.document.HEADERS"


def test_every_error_is_shown_with_its_status(api: dict[str, Any]) -> None:
    shown = {code: example["value"]["statusCode"] for code, example in api["components"]["examples"].items()}
    assert shown == {code: meaning.status for code, meaning in MEANINGS.items()}


def test_every_error_has_a_row_in_the_docs() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for code, meaning in error_meanings().items():
        assert f"| `{code}` | {MEANINGS[code].status} | {meaning} |\n" in text


def test_a_key_in_a_path_is_told_to_be_one_with_slashes(api: dict[str, Any]) -> None:
    assert "%2F" in api["info"]["description"]
    for route in ROUTES:
        for param in _operation(api, route)["parameters"]:
            if (param["in"], param["name"]) == (Place.PATH, "key"):
                assert "`%2F`" in param["description"]


def test_the_document_is_served_as_json_and_as_yaml(server: Server, api: dict[str, Any]) -> None:
    assert server.ask("GET", JSON_TARGET).done() == api
    answer = server.ask("GET", YAML_TARGET)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/yaml")
    assert yaml.safe_load(answer.body) == api
    assert answer.body.startswith(b"openapi: 3.1.0\n")


@pytest.mark.parametrize("target", [JSON_TARGET, YAML_TARGET, "/docs"])
def test_what_a_reader_has_already_is_not_sent_again(server: Server, target: str) -> None:
    first = server.ask("GET", target)
    known = [("If-None-Match", first.headers["ETag"])]
    again = server.ask("GET", target, headers=known)
    assert (again.status, again.headers["ETag"], again.body) == (304, first.headers["ETag"], b"")
    other = server.ask("GET", target_of(target, timeout=5), headers=[("If-None-Match", '"other"')])
    assert (other.status, other.body) == (200, first.body)
    head = server.ask("HEAD", target)
    assert (head.status, int(head.headers["Content-Length"])) == (200, len(first.body))


def test_the_api_is_described_to_whoever_has_a_token_and_the_page_to_all(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[[tokens]]\nname="a"\ntoken="a-token"\naccess="read"\nprefixes=["a/"]\n')
    with serving(tmp_path, "--token-file", str(tokens)) as guarded:
        assert guarded.ask("GET", "/docs").status == 200
        for target in (JSON_TARGET, YAML_TARGET):
            refused(guarded.ask("GET", target), 401, "UNAUTHORIZED")
            assert guarded.ask("GET", target, headers=[("Authorization", "Bearer a-token")]).status == 200
        guarded.stop()


def test_what_needs_a_token_says_so(api: dict[str, Any]) -> None:
    for route in ROUTES:
        assert ("security" in _operation(api, route)) == (route.need is not OPEN)


@pytest.mark.parametrize(
    "value",
    [
        "yes",
        "1.0",
        "a: b",
        "two\nlines\n",
        "trailing \nspace",
        "\ttab",
        "",
        "é\u2028",
        {"a": [[], {}, None, -1.5]},
    ],
)
def test_yaml_says_what_json_does(value: Any) -> None:
    assert yaml.safe_load(yaml_text({"it": value, "again": value})) == {"it": value, "again": value}
