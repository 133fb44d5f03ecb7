"""The routes of the server's own state; `routes` has all."""

from __future__ import annotations

from typing import Final

from server import health, metrics, schemas
from server.access import OPEN, READ_SERVER
from server.route import ALWAYS, TIMEOUT, Answer, Route

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
