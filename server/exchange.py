"""One request under way: what a handler gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from multidict import istr

from kvfs.config import MIB, Config
from kvfs.engine import Engine, Lease
from kvfs.errors import InvalidParameters
from kvfs.model import Write
from server.body import Body
from server.bridge import Bridge
from server.feed import Feeds
from server.params import Params
from server.request import Headers, Request
from server.sql_wire import AnswerMemory

IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")

_IDEMPOTENCY_KEY_MAX_CHARS: Final = 255
_JSON_MAX_BYTES: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Services:
    """What all requests share."""

    engine: Engine
    bridge: Bridge
    feeds: Feeds
    version: str
    started: float
    """When the server started, in monotonic seconds."""
    connections: Callable[[], int]
    """How many clients are connected."""
    answers: AnswerMemory

    @property
    def config(self) -> Config:
        return self.engine.config


class Exchange:
    """A request, what it asks for, and until when (`deadline`, monotonic seconds) it must be answered.

    `key` is the key, or the index, that the path names; empty where the route has none.
    """

    __slots__ = ("deadline", "key", "params", "request", "services")

    def __init__(self, services: Services, request: Request, params: Params, key: str, began: float) -> None:
        self.services = services
        self.request = request
        self.params = params
        self.key = key
        self.deadline = began + params.timeout_s

    @property
    def headers(self) -> Headers:
        return self.request.headers

    @property
    def engine(self) -> Engine:
        return self.services.engine

    @property
    def bridge(self) -> Bridge:
        return self.services.bridge

    def lease_now(self) -> Lease | None:
        """The store that the request means, if it is open already; None where `lease` must be called."""
        target = self.params.target
        return self.services.engine.lease_now(target.db, target.table)

    async def lease(self) -> Lease:
        """The store that the request means."""
        target = self.params.target
        return await self.services.bridge.lease(target.db, target.table, deadline=self.deadline)

    async def lease_to_write(self, write: Write) -> Lease:
        """The store that the request means, made if the request asks for that and the write can succeed."""
        target = self.params.target
        return await self.services.bridge.lease(
            target.db, target.table, create=target.create, first=write, deadline=self.deadline
        )

    def body(self, *, limit: int) -> Body:
        """The body, to be read; raises `PayloadTooLarge` if it is declared longer than `limit`."""
        return Body(self.request, limit=limit, deadline=self.deadline)

    def value_body(self) -> Body:
        """The body, which is a value."""
        return self.body(limit=self.services.config.max_value_bytes)

    def json_body(self) -> Body:
        """The body, which is JSON about values."""
        limit = min(2 * self.services.config.max_value_bytes + MIB, _JSON_MAX_BYTES)
        return self.body(limit=limit)

    @property
    def idempotency_key(self) -> str | None:
        key = self.request.headers.get(IDEMPOTENCY_KEY)
        if key is not None and not visible(key, _IDEMPOTENCY_KEY_MAX_CHARS):
            raise InvalidParameters("Idempotency-Key must be 1 to 255 visible ASCII characters")
        return key


def visible(text: str, most: int) -> bool:
    """Whether this is 1 to `most` ASCII characters that can be seen."""
    return 0 < len(text) <= most and text.isascii() and text.isprintable() and " " not in text
