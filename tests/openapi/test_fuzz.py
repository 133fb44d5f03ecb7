"""Requests that Schemathesis makes up from the document, right ones and wrong ones, to both kinds of store.

Each answer must be one that the document has: its status, type, headers and schema, and never a failure of
the server. The requests are the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.openapi.document import document
from server.route import DB, Route
from server.routes import ROUTES
from tests.http.launching import Launched, serving
from tests.http.stores import TABLE, Store

REQUESTS: Final = 4
"""How many there are of each mode for each route: all together take less than a minute."""

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KNOWN_KEY: Final = "known"
API: Final = schemathesis.openapi.from_dict(document())


schemathesis.serializer.alias("application/x-ndjson", "text/plain")


def _endless(route: Route) -> bool:
    return any(answer.media_type == "text/event-stream" for answer in route.answers)


ON_STORES: Final = [route for route in ROUTES if DB in route.params and not _endless(route)]
ON_NO_STORE: Final = [route for route in ROUTES if DB not in route.params]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@pytest.fixture(scope="module")
def fuzzed(home: Path) -> Iterator[Launched]:
    """A server that keeps to its data dir, wherever a path that is made up would lead."""
    with serving(home) as running:
        yield running
        running.stop()


@pytest.fixture
def fuzzed_store(home: Path, fuzzed: Launched, request: pytest.FixtureRequest, kind: str) -> Iterator[Store]:
    """A store with one document, checked at the end."""
    folder = home / "data" / request.node.callspec.id
    with Store(fuzzed, folder, directory=kind == "directory") as store:
        store.put(KNOWN_KEY, b'{"number": 1, "array": [1, "a"]}')
        yield store
        store.check()


@pytest.mark.parametrize("route", ON_STORES, ids=lambda route: str(route.name))
def test_whatever_is_asked_of_a_store_the_answer_is_in_the_document(
    fuzzed: Launched, fuzzed_store: Store, route: Route
) -> None:
    known = {"db": str(fuzzed_store.db), "table": TABLE, "wait": 0}
    names = {param.name for param in route.params}
    _send(fuzzed, route, {name: value for name, value in known.items() if name in names})


@pytest.mark.parametrize("route", ON_NO_STORE, ids=lambda route: str(route.name))
def test_whatever_is_asked_of_the_server_the_answer_is_in_the_document(
    fuzzed: Launched, route: Route
) -> None:
    _send(fuzzed, route, {})


def _send(server: Launched, route: Route, query: dict[str, Any]) -> None:
    for mode in GenerationMode:

        @settings(
            max_examples=REQUESTS,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=_cases(route, mode, query))
        def send(case: Case[Any]) -> None:
            case.call_and_validate(base_url=f"http://{server.host}:{server.port}", checks=CHECKS)

        send()


def _cases(route: Route, mode: GenerationMode, query: dict[str, Any]) -> st.SearchStrategy[Case[Any]]:
    """Requests of this route with these parameters; many of them for the key that is there."""
    operation = API[route.whole_path][route.method]
    made_up = operation.as_strategy(generation_mode=mode, query=query)
    if "{key}" not in route.path:
        return made_up
    return made_up | operation.as_strategy(
        generation_mode=mode, query=query, path_parameters={"key": KNOWN_KEY}
    )
