"""`/metrics`: what the server counts, in the form that Prometheus reads."""

from __future__ import annotations

from functools import partial

from server.exchange import Exchange, Services
from server.reply import Reply


async def metrics(exchange: Exchange) -> Reply:
    """All metrics, of all workers."""
    # Not at the top: it takes a tenth of a second to import, which nobody need wait for at the start.
    from server import exposition, together

    services = exchange.services
    told = await exposed(services, exchange.deadline)
    if services.peers.number is not None:
        everyone = {services.peers.number: told, **await services.peers.ask("metrics")}
        told = await services.bridge.run(partial(together.expositions, everyone), exchange.deadline)
    return Reply(200, told, exposition.CONTENT_TYPE)


async def exposed(services: Services, deadline: float | None) -> bytes:
    """The metrics of this worker. They are gathered in a thread: what is open is asked for its state."""
    from server import exposition

    expose = partial(
        exposition.exposed,
        services.engine.status,
        services.traffic,
        connections=services.connections(),
        version=services.version,
    )
    return await services.bridge.run(expose, deadline)
