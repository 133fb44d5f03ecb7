"""The API as an OpenAPI 3.1 document, made from the routes that are served."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

import kvfs
from kvfs.content_types import BYTES
from kvfs.errors import KvfsError
from server import schemas
from server.access import OPEN
from server.errors import JSON, MEANINGS, error_form
from server.openapi.stories import Example, Step, examples
from server.route import ANY_TYPE, Answer, BodySpec, Kind, Param, Place, Route
from server.routes import ROUTES
from server.schemas import Schema

Json = dict[str, Any]

_PLAIN: Final = "text/plain"

_DESCRIPTION: Final = """\
Keys and values in SQLite tables and in folders of plain files.

**Keys in paths.** `{key}` may contain slashes: `/` and `%2F` name the same key, so a client may escape a
whole key. What follows a key (`/history`), and what stands in its place (`/kv/snapshot`), is an action only
as literal text, and only for the methods that have it: a key that reads like one is named by escaping any
character of it (`/kv/%73napshot`, `/kv/a%2Fhistory`).

**Errors** have one form, and a `code` that is stable. A failed request has changed nothing, unless the error
has `"outcome": "unknown"`.

"""

_KINDS: Final[Mapping[Kind, Schema]] = {
    Kind.TEXT: schemas.STRING,
    Kind.BYTES: schemas.STRING,
    Kind.INTEGER: schemas.INTEGER,
    Kind.FLAG: schemas.BOOLEAN,
    Kind.TIMESTAMP: {"anyOf": [schemas.NUMBER, {"type": "string", "format": "date-time"}]},
}

HEADERS: Final[Mapping[str, tuple[str, Schema]]] = {
    "Accept-Ranges": ("`bytes`: ranges of the value can be asked for.", {"const": "bytes"}),
    "Content-Range": (
        "Which range of the value this is, or after an error the size of the value.",
        schemas.STRING,
    ),
    "Content-Security-Policy": ("What a browser lets this do.", schemas.STRING),
    "ETag": ("The version, quoted: of a key its op number.", schemas.STRING),
    "Idempotent-Replayed": (
        "`true`: the answer to an earlier request with this Idempotency-Key.",
        schemas.STRING,
    ),
    "Retry-After": ("After how many seconds to try again.", schemas.INTEGER),
    "WWW-Authenticate": ("How to send a token.", schemas.STRING),
    "X-Created-At": ("When the key was made, in Unix seconds.", schemas.INTEGER),
    "X-Directory-Mode": ("`true`: the store is a folder of files.", schemas.STRING),
    "X-Error-Code": ("The code of the error.", schemas.STRING),
    "X-Expire-At": ("When the key's TTL runs out, in Unix seconds.", schemas.INTEGER),
    "X-File-Hash": ("The SHA-256 of the key's file, in hex.", schemas.STRING),
    "X-KV-Reference": ("`true`: the value is large, and streamed from its file.", schemas.STRING),
    "X-Request-Id": ("The request's id: the one that it brought, or a new one.", schemas.STRING),
    "X-Truncated": ("`true`: there are more rows.", schemas.STRING),
    "X-Updated-At": ("When the value was last written, in Unix seconds.", schemas.INTEGER),
}
"""Descriptions and schemas of the headers that answers have."""

_NAMES: Final[Mapping[int, str]] = {
    id(schema): "".join(word.capitalize() for word in name.split("_"))
    for name, schema in vars(schemas).items()
    if re.fullmatch(r"[A-Z][A-Z_]*", name) and isinstance(schema, dict) and "properties" in schema
}
"""The names of the schemas that have one, by identity."""


def document() -> Json:
    """The whole API."""
    told: dict[str, list[Example]] = defaultdict(list)
    for example in examples():
        told[example.step.route].append(example)
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.whole_path, {})[route.method.lower()] = _operation(route, told[route.name])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kvfs",
            "version": kvfs.__version__,
            "description": _DESCRIPTION + _error_table(),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in ROUTES)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(_named_schemas())),
            "responses": _shared_errors(),
            "headers": {name: _header(name) for name in HEADERS},
            "examples": {code: _error_example(code) for code in MEANINGS},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def error_meanings() -> dict[str, str]:
    """What each code means: the first line of its class's docstring."""
    return {code: (_ERRORS[code].__doc__ or code).partition("\n")[0] for code in MEANINGS}


# --- operations ----------------------------------------------------------------------------------------


def _operation(route: Route, told: list[Example]) -> Json:
    operation: Json = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "parameters": [_parameter(param, told) for param in route.params],
        "responses": _responses(route, told),
    }
    if route.body is not None:
        operation["requestBody"] = _request_body(route.body, told)
    if route.need is not OPEN:
        operation["security"] = [{"bearer": []}, {}]
    return operation


def _parameter(param: Param, told: list[Example]) -> Json:
    schema = dict(_KINDS[param.kind])
    for name in ("default", "minimum", "maximum"):
        if (limit := getattr(param, name)) is not None:
            schema[name] = limit
    if param.place is Place.PATH and param.kind is Kind.TEXT:
        schema["minLength"] = 1
    made: Json = {
        "name": param.name,
        "in": param.place.value,
        "description": param.description,
        "schema": schema,
    }
    if param.required:
        made["required"] = True
    sent = [example.params[param.name] for example in told if param.name in example.params]
    if sent:
        made["example"] = _typed(sent[0], param.kind)
    return made


def _typed(text: str, kind: Kind) -> Any:
    """A parameter's text as its schema has it."""
    return orjson.loads(text) if kind in (Kind.INTEGER, Kind.FLAG) else text


def _request_body(body: BodySpec, told: list[Example]) -> Json:
    sent = [example.step for example in told if example.step.body is not None and example.step.status < 400]
    if body.media_type == ANY_TYPE:
        content = {
            JSON: _media(schemas.ANY, [step for step in sent if not isinstance(step.body, str)]),
            _PLAIN: _media(schemas.STRING, [step for step in sent if isinstance(step.body, str)]),
            BYTES: _media({"type": "string", "format": "binary"}, []),
        }
    else:
        content = {body.media_type: _media(body.schema or schemas.ANY, sent)}
    return {"description": body.description, "required": body.required, "content": content}


def _media(schema: Schema, sent: list[Step]) -> Json:
    media: Json = {"schema": _linked(schema)}
    if sent:
        media["examples"] = _numbered((step.title, step.body) for step in sent)
    return media


def _responses(route: Route, told: list[Example]) -> Json:
    responses: Json = {}
    for answer in route.answers:
        _add(responses, str(answer.status), _answer(answer, told))
    for status, codes in _by_status(route).items():
        if status in responses:
            _add(responses, status, _error(codes))
        else:
            responses[status] = {"$ref": f"#/components/responses/{_error_name(route, codes)}"}
    return responses


def _add(responses: Json, status: str, response: Json) -> None:
    """One more answer, which may share its status, and also its media type, with others."""
    if status not in responses:
        responses[status] = response
        return
    known = responses[status]
    known["description"] += f"; or {response['description']}"
    known["headers"] |= response["headers"]
    for media_type, media in response["content"].items():
        if (other := known["content"].setdefault(media_type, media)) is not media:
            other["schema"] = {"anyOf": [other["schema"], media["schema"]]}
            other["examples"] = {**other.get("examples", {}), **media.get("examples", {})}


def _answer(answer: Answer, told: list[Example]) -> Json:
    made: Json = {"description": answer.description, "headers": _headers(*answer.headers, "X-Request-Id")}
    if answer.media_type is not None:
        # No schema at all where the body is bytes: part of a JSON value is declared as JSON, and is none.
        media: Json = {} if answer.schema is None else {"schema": _linked(answer.schema)}
        given = [example.step for example in told if _shows(example.step, answer)]
        if given:
            media["examples"] = _numbered((step.title, step.answer) for step in given)
        made["content"] = {answer.media_type: media}
    return made


def _shows(step: Step, answer: Answer) -> bool:
    """Whether the step is an example of this answer: of several with one status, one is JSON."""
    if step.status != answer.status or not step.shown:
        return False
    return answer.media_type == ANY_TYPE or isinstance(step.answer, str) == (answer.media_type != JSON)


def _numbered(given: Iterable[tuple[str, Any]]) -> Json:
    return {
        f"example-{number}": {"summary": title, "value": value}
        for number, (title, value) in enumerate(given, 1)
    }


# --- errors --------------------------------------------------------------------------------------------


def _concrete(root: type[KvfsError]) -> Iterator[type[KvfsError]]:
    for error in root.__subclasses__():
        yield from _concrete(error)
        yield error


_ERRORS: Final = {error.code: error for error in _concrete(KvfsError)}


def _by_status(route: Route) -> dict[str, list[str]]:
    """The codes of the route's errors, by their statuses."""
    codes: dict[str, list[str]] = defaultdict(list)
    for code in MEANINGS:
        if code in route.errors:
            codes[str(MEANINGS[code].status)].append(code)
    return codes


def _shared_errors() -> Json:
    """The answers that are errors, by the names that routes refer to."""
    return {
        _error_name(route, codes): _error(codes, bodiless=_bodiless(route))
        for route in ROUTES
        for codes in _by_status(route).values()
    }


def _error_name(route: Route, codes: list[str]) -> str:
    return ".".join(["HEAD", *codes] if _bodiless(route) else codes)


def _bodiless(route: Route) -> bool:
    return route.method == "HEAD"


def _error(codes: list[str], *, bodiless: bool = False) -> Json:
    """The answer to what fails with one of these codes, which have one status."""
    headers = ["X-Error-Code", "X-Request-Id"]
    if "OVERLOADED" in codes:
        headers.append("Retry-After")
    if "UNAUTHORIZED" in codes:
        headers.append("WWW-Authenticate")
    if "RANGE_NOT_SATISFIABLE" in codes:
        headers.append("Content-Range")
    made: Json = {
        "description": ", ".join(f"`{code}`" for code in codes),
        "headers": _headers(*headers),
    }
    if not bodiless:
        schema = {**_linked(schemas.ERROR), "properties": {"code": {"enum": codes}}}
        shown = {code: {"$ref": f"#/components/examples/{code}"} for code in codes}
        made["content"] = {JSON: {"schema": schema, "examples": shown}}
    return made


def _error_example(code: str) -> Json:
    """What the server answers, but that its message tells of the very request."""
    meaning = error_meanings()[code]
    return {"summary": meaning, "value": error_form(code, meaning, "5f2c9a10-1", {})}


def _error_table() -> str:
    rows = [
        f"| `{code}` | {MEANINGS[code].status} | {meaning} | {MEANINGS[code].resolution} |"
        for code, meaning in error_meanings().items()
    ]
    return "\n".join(["| code | status | when | what to do |", "|---|---|---|---|", *rows]) + "\n"


# --- headers and schemas -------------------------------------------------------------------------------


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(name: str) -> Json:
    description, schema = HEADERS[name]
    return {"description": description, "schema": schema}


def _named_schemas() -> Iterator[tuple[str, Schema]]:
    for schema in vars(schemas).values():
        if id(schema) in _NAMES:
            yield _NAMES[id(schema)], {name: _linked(part) for name, part in schema.items()}


def _linked(part: Any) -> Any:
    """A schema, or a part of one, with references to those that have names."""
    if id(part) in _NAMES:
        return {"$ref": f"#/components/schemas/{_NAMES[id(part)]}"}
    if isinstance(part, dict):
        return {name: _linked(below) for name, below in part.items()}
    if isinstance(part, list):
        return [_linked(below) for below in part]
    return part
