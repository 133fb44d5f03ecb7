"""`/metrics`: what the server counts, in the form that Prometheus reads."""

from __future__ import annotations

from functools import partial

from server.exchange import Exchange
from server.reply import Reply


async def metrics(exchange: Exchange) -> Reply:
    """All metrics. They are gathered in a thread: what is open is asked for its state."""
    # Not at the top: it takes a tenth of a second to import, which nobody need wait for at the start.
    from server import exposition

    services = exchange.services
    expose = partial(
        exposition.exposed,
        services.engine.status,
        services.traffic,
        connections=services.connections(),
        version=services.version,
    )
    return Reply(200, await exchange.bridge.run(expose, exchange.deadline), exposition.CONTENT_TYPE)
