"""The routes of the server itself: how it fares, and what it serves."""

from __future__ import annotations

from typing import Final

from server import api_docs, health, metrics, schemas
from server.access import ANY, OPEN, READ_SERVER, Need
from server.errors import JSON
from server.route import ALWAYS, IF_MATCH, IF_NONE_MATCH, TIMEOUT, Answer, Handler, Route
from server.schemas import Schema


def _about_the_api(
    path: str,
    handler: Handler,
    name: str,
    summary: str,
    media_type: str,
    *,
    need: Need = ANY,
    schema: Schema | None = None,
    at_root: bool = False,
) -> Route:
    """What tells of the API: it is the same on every server of this version."""
    headers = ("ETag", "Content-Security-Policy") if at_root else ("ETag",)
    return Route(
        "GET",
        path,
        handler,
        name=name,
        tag="server",
        need=need,
        summary=summary,
        params=(TIMEOUT, IF_MATCH, IF_NONE_MATCH),
        answers=(
            Answer(summary, media_type=media_type, schema=schema, headers=headers),
            Answer("It is still the same", status=304, media_type=None, headers=("ETag",)),
        ),
        errors=(*ALWAYS, "CAS_MISMATCH"),
        at_root=at_root,
    )


SERVER_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/health",
        health.health,
        name="health",
        tag="server",
        need=OPEN,
        summary="Whether the server can serve",
        params=(TIMEOUT,),
        answers=(
            Answer("It can", schema=schemas.HEALTH),
            Answer("A store cannot be served", status=503, schema=schemas.HEALTH),
        ),
        errors=ALWAYS,
    ),
    Route(
        "GET",
        "/health/cache",
        health.cache,
        name="health_cache",
        tag="server",
        need=READ_SERVER,
        summary="What is open, and how it fares",
        params=(TIMEOUT,),
        answers=(Answer("What is open", schema=schemas.CACHE),),
        errors=ALWAYS,
    ),
    _about_the_api(
        "/openapi.json", api_docs.openapi_json, "openapi_json", "This document", JSON, schema=schemas.OPENAPI
    ),
    _about_the_api(
        "/openapi.yaml", api_docs.openapi_yaml, "openapi_yaml", "This document, in YAML", api_docs.YAML
    ),
    # A browser cannot be told to send a token with the page, which has the field to type it into.
    _about_the_api(
        "/docs",
        api_docs.docs_page,
        "docs",
        "A page to read and try the API",
        "text/html",
        need=OPEN,
        at_root=True,
    ),
    Route(
        "GET",
        "/metrics",
        metrics.metrics,
        name="metrics",
        tag="server",
        need=READ_SERVER,
        summary="What the server counts, for Prometheus",
        params=(TIMEOUT,),
        answers=(Answer("The metrics, in Prometheus's text format", media_type="text/plain"),),
        errors=ALWAYS,
        at_root=True,
    ),
)
