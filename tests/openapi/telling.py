"""Telling the stories of `server.openapi.stories` to a server; as a program, filling in what it answers."""

from __future__ import annotations

import http.client
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from server.errors import JSON
from server.openapi.stories import DATA_DIR, FOLDER, Step, resolved, stories
from server.route import Place, Route
from server.routes import ROUTES
from tests.http.launching import Server

ROUTES_BY_NAME: Final = {route.name: route for route in ROUTES}

VARYING: Final = frozenset(
    [
        "connections",
        "events_seen",
        "index_hits",
        "index_misses",
        "op_log_size",
        "pending",
        "queued",
        "reconciles",
        "request_id",
        "scans",
        "sqlite_version",
        "uptime_seconds",
        "sha256",
        "users",
        "version",
        "watcher",
    ]
)
"""The names of what differs from one telling to the next, besides times, durations, cursors and ids."""

_WAIT_S: Final = 20.0
_TIMES_FROM: Final = 1_000_000_000
_FILE_BYTES: Final = 4096
"""A database file has a page at least; the values of the stories are shorter."""
_EXPORT_ID: Final = re.compile('(?<="id":")[0-9a-f]{16}')
_CURSOR: Final = re.compile("[0-9a-f]{16}(?=[.][0-9])")


@dataclass(frozen=True, slots=True)
class Told:
    """A step, and what a server really answered: `step` has its status and answer."""

    step: Step
    headers: http.client.HTTPMessage


class Teller:
    """Tells stories to one server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def tell(self, story: list[Step]) -> Iterator[Told]:
        """Each step with what is answered now."""
        before: dict[str, Step] = {}
        for step in story:
            told = self._ask(step, resolved(step, before))
            before[step.route] = told.step
            yield told

    def _ask(self, step: Step, params: dict[str, str]) -> Told:
        for name, content in step.files.items():
            file = self._server.data_dir / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        route = ROUTES_BY_NAME[step.route]
        target, headers = _request(route, {name: self._here(text) for name, text in params.items()})
        body = None if step.body is None else self._here(_body_text(route, step.body)).encode()
        connection = http.client.HTTPConnection(self._server.host, self._server.port, timeout=_WAIT_S)
        try:
            connection.request(route.method, target, body, headers)
            response = connection.getresponse()
            text = self._there(_read(response).decode())
        finally:
            connection.close()
        whole_json = (
            response.headers["Content-Type"] == JSON and response.status != HTTPStatus.PARTIAL_CONTENT
        )
        answer = (json.loads(text) if whole_json else text) if text and step.shown else None
        etag = response.headers["ETag"]
        return Told(replace(step, status=response.status, etag=etag, answer=answer), response.headers)

    def _here(self, text: str) -> str:
        return text.replace(DATA_DIR, str(self._server.data_dir))

    def _there(self, text: str) -> str:
        return text.replace(str(self._server.data_dir), DATA_DIR)


def alike(shown: Any, given: Any, name: str = "") -> bool:
    """Whether two answers differ only in times, durations and such."""
    if isinstance(shown, dict) and isinstance(given, dict):
        return shown.keys() == given.keys() and all(alike(shown[name], given[name], name) for name in shown)
    if isinstance(shown, list) and isinstance(given, list):
        return len(shown) == len(given) and all(map(alike, shown, given))
    if isinstance(shown, str) and isinstance(given, str):
        if _EXPORT_ID.search(shown):
            return alike(_records(shown), _records(given))
        return name in VARYING or _CURSOR.sub("", shown) == _CURSOR.sub("", given)
    return shown == given or (_varies(shown, name) and _varies(given, name))


def _records(export: str) -> list[Any]:
    """The lines of an export, as if all had the same id."""
    return [json.loads(line) for line in _EXPORT_ID.sub("", export).splitlines()]


def _varies(value: Any, name: str) -> bool:
    """Whether a server may have something else there: a time, a duration, or what is known to vary."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        file_size = name == "size" and value >= _FILE_BYTES
        return isinstance(value, float) or value >= _TIMES_FROM or file_size or name in VARYING
    return value is None


def record() -> None:
    """Write what servers answer into the stories, where it is not there already."""
    for name, story in stories().items():
        with tempfile.TemporaryDirectory() as home, Server(Path(home)) as server:
            told = [told.step for told in Teller(server).tell(story)]
        kept = [old if same(old, new) else new for old, new in zip(story, told, strict=True)]
        if kept != story:
            print(f"{name}: recorded")
        text = json.dumps([_form(step) for step in kept], indent=2, ensure_ascii=False)
        Path(str(FOLDER / f"{name}.json")).write_text(text + "\n")


def same(shown: Step, given: Step) -> bool:
    """Whether a step was answered as it is shown."""
    if shown.status != given.status or (shown.etag is None) != (given.etag is None):
        return False
    return alike(shown.answer, given.answer)


# --- parts ---------------------------------------------------------------------------------------------


def _request(route: Route, params: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The target and headers that these parameters make; raises `KeyError` for one that the route has not."""
    places = {param.name: param.place for param in route.params}
    of: dict[Place, dict[str, str]] = {place: {} for place in Place}
    for name, text in params.items():
        of[places[name]][name] = text
    headers = of[Place.HEADER]
    if route.body is not None and route.body.media_type == JSON:
        headers["Content-Type"] = JSON
    path = route.whole_path.format(**of[Place.PATH])
    return f"{path}?{urlencode(of[Place.QUERY], quote_via=quote)}", headers


def _body_text(route: Route, body: Any) -> str:
    """A body as it is sent: text as it is, where the route takes anything."""
    assert route.body is not None, route.name
    if isinstance(body, str) and route.body.media_type != JSON:
        return body
    return json.dumps(body)


def _read(response: http.client.HTTPResponse) -> bytes:
    """The body; of a stream of events the first event."""
    if response.headers["Content-Type"] != "text/event-stream":
        return response.read()
    lines: list[bytes] = []
    while not lines or lines[-1].strip() or not any(line.startswith(b"event:") for line in lines):
        lines.append(response.readline())
        assert lines[-1], "the stream has ended"
    return b"".join(lines)


def _form(step: Step) -> dict[str, Any]:
    """A step as it stands in a file: what is as always is left out."""
    return {
        each.name: value
        for each in fields(step)
        if (value := getattr(step, each.name)) not in ({}, None) and (each.name, value) != ("shown", True)
    }


if __name__ == "__main__":
    record()
