"""One request under way: what a handler gets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeVar

from multidict import istr

from kvfs.config import MIB, Config
from kvfs.engine import Engine, Lease
from kvfs.errors import InvalidParameters
from kvfs.model import Write
from server.access import Permit
from server.body import Body
from server.bridge import Bridge
from server.feed import Feeds
from server.params import Params, Target
from server.peers import Peers
from server.request import Headers, Request
from server.sql_wire import AnswerMemory
from server.traffic import Traffic

T = TypeVar("T")

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
    traffic: Traffic
    peers: Peers
    """The other workers."""

    @property
    def config(self) -> Config:
        return self.engine.config


class Exchange:
    """A request, what it asks for, and until when (`deadline`, monotonic seconds) it must be answered.

    `key` is the key, or the index, that the path names; empty where the route has none. `permit` bounds what
    it may touch, unless that is everything.
    """

    __slots__ = ("_permit", "deadline", "key", "params", "request", "services")

    def __init__(
        self,
        services: Services,
        request: Request,
        params: Params,
        key: str,
        began: float,
        permit: Permit | None = None,
    ) -> None:
        self.services = services
        self.request = request
        self.params = params
        self.key = key
        self.deadline = began + params.timeout_s
        self._permit = permit

    @property
    def headers(self) -> Headers:
        return self.request.headers

    @property
    def engine(self) -> Engine:
        self._check_claimed()
        return self.services.engine

    @property
    def bridge(self) -> Bridge:
        return self.services.bridge

    async def run(self, work: Callable[[], T]) -> T:
        """The result of work that blocks, for the database that the request means, until the deadline."""
        return await self.services.bridge.run(work, self.deadline, whose=self.params.whose)

    async def run_sql(self, work: Callable[[], T]) -> T:
        """As `run`, for SQL."""
        return await self.services.bridge.run_sql(work, self.deadline, whose=self.params.whose)

    def claim_keys(self, keys: Collection[str]) -> None:
        """Say which keys are touched, of a route that leaves it to its handler; none means the whole table.

        Raises `Forbidden` where the request's token does not cover them.
        """
        if self._permit is not None:
            self._permit.claim_keys(keys)

    def claim_database(self, db: str) -> None:
        """As `claim_keys`, of a whole database."""
        if self._permit is not None:
            self._permit.claim_database(db)

    def lease_now(self) -> Lease | None:
        """The store that the request means, if it is open already; None where `lease` must be called."""
        if self._permit is not None:
            self._permit.check_claimed()
        target = self.params.target
        return self.services.engine.lease_now(target.db, target.table)

    async def lease(self) -> Lease:
        """The store that the request means."""
        target = self._target
        return await self.services.bridge.lease(target.db, target.table, deadline=self.deadline)

    async def lease_to_write(self, write: Write) -> Lease:
        """The store that the request means, made if the request asks for that and the write can succeed."""
        target = self._target
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

    @property
    def _target(self) -> Target:
        self._check_claimed()
        return self.params.target

    def _check_claimed(self) -> None:
        if self._permit is not None:
            self._permit.check_claimed()


def visible(text: str, most: int) -> bool:
    """Whether this is 1 to `most` ASCII characters that can be seen."""
    return 0 < len(text) <= most and text.isascii() and text.isprintable() and " " not in text
