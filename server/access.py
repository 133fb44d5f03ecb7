"""Who may do what: what a route touches, what a token covers, and the one place that compares them.

Each route declares its `Need`. A request is compared with its token's `Grant` before anything is opened or
looked up: so a refusal says nothing about whether a thing exists. Databases are compared by where their
paths lead, keys as they are after decoding. Where only the body tells what is touched (`Scope.CLAIMED`), the
handler claims it from its `Permit`, and no store is opened for it until it has.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from kvfs.errors import Forbidden, InvalidDbPath
from kvfs.paths import TABLE_DEFAULT, Paths
from server.params import Params


class Scope(enum.Enum):
    """What a token must cover."""

    OPEN = enum.auto()
    """Nothing: no token is needed."""
    ANY = enum.auto()
    """Nothing, but there must be a token."""
    KEY = enum.auto()
    """The key in the path."""
    PREFIX = enum.auto()
    """All keys under the parameter `prefix`; without it the whole table."""
    CLAIMED = enum.auto()
    """What the handler claims, when it has read the request."""
    TABLE = enum.auto()
    DATABASE = enum.auto()
    SERVER = enum.auto()
    """Everything."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a route touches, and whether it changes anything; `database` is the parameter that names one."""

    scope: Scope
    writes: bool = False
    database: str = "db"


OPEN: Final = Need(Scope.OPEN)
ANY: Final = Need(Scope.ANY)
READ_KEY: Final = Need(Scope.KEY)
WRITE_KEY: Final = Need(Scope.KEY, writes=True)
READ_PREFIX: Final = Need(Scope.PREFIX)
READ_CLAIMED: Final = Need(Scope.CLAIMED)
WRITE_CLAIMED: Final = Need(Scope.CLAIMED, writes=True)
READ_DATABASE: Final = Need(Scope.DATABASE)
WRITE_DATABASE: Final = Need(Scope.DATABASE, writes=True)
READ_SERVER: Final = Need(Scope.SERVER)
STRICTEST: Final = Need(Scope.SERVER, writes=True)

_REBUILD: Final = Need(Scope.TABLE, writes=True)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token covers: all keys under any of `prefixes`, in any of `tables` of any of `databases`.

    None sets no bound. `writes` False: it may only read.
    """

    writes: bool
    databases: tuple[str, ...] | None = None
    tables: tuple[str, ...] | None = None
    prefixes: tuple[str, ...] | None = None

    @property
    def everything(self) -> bool:
        """Whether there is nothing that it does not allow."""
        return self.writes and self.unbounded

    @property
    def unbounded(self) -> bool:
        """Whether it covers all databases, whole."""
        return self.databases is None and self.whole_databases

    @property
    def whole_databases(self) -> bool:
        """Whether it covers all of what it covers any of: each table, and each key."""
        return self.tables is None and self.prefixes is None

    def covers_keys(self, start: str) -> bool:
        """Whether it covers the key `start`, and all keys that begin so."""
        return self.prefixes is None or start.startswith(self.prefixes)


class Permit:
    """What one request may touch. Making it raises `Forbidden` where the grant does not cover the need."""

    __slots__ = ("_grant", "_owing", "_params", "_paths")

    def __init__(self, grant: Grant, need: Need, *, key: str, params: Params, paths: Paths) -> None:
        self._grant = grant
        self._params = params
        self._paths = paths
        self._owing = need.scope is Scope.CLAIMED and not grant.unbounded
        if need.scope is Scope.KEY and params.flag("rebuild"):
            # The whole folder is gone through, and what is found is logged.
            self._check(_REBUILD, key)
        self._check(need, key)

    # --- claims -------------------------------------------------------------------------------------------

    def claim_keys(self, keys: Collection[str]) -> None:
        """Say which keys of the table are touched; none means all. Raises `Forbidden`."""
        if not all(map(self._grant.covers_keys, keys or ("",))):
            raise _forbidden()
        self._owing = False

    def claim_database(self, db: str) -> None:
        """Say that the whole of a database is touched. Raises `Forbidden`."""
        if not (self._grant.whole_databases and self._covers_database(db)):
            raise _forbidden()
        self._owing = False

    def check_claimed(self) -> None:
        """Raise `Forbidden` if the handler has not claimed what it touches."""
        if self._owing:
            raise _forbidden()

    # --- parts --------------------------------------------------------------------------------------------

    def _check(self, need: Need, key: str) -> None:
        if need.writes and not self._grant.writes:
            raise Forbidden("The token may only read")
        if not self._grant.unbounded and not self._covers(need, key):
            raise _forbidden()

    def _covers(self, need: Need, key: str) -> bool:
        scope, grant = need.scope, self._grant
        if scope is Scope.ANY:
            return True
        if scope is Scope.SERVER or not self._covers_database(self._params.db(need.database)):
            return False
        if scope is Scope.DATABASE:
            return grant.whole_databases
        if grant.tables is not None and (self._params.text("table") or TABLE_DEFAULT) not in grant.tables:
            return False
        if scope is Scope.CLAIMED:
            return True
        if scope is Scope.KEY:
            return grant.covers_keys(key)
        prefix = self._params.text("prefix") if scope is Scope.PREFIX else None
        return grant.covers_keys(prefix or "")

    def _covers_database(self, db: str) -> bool:
        databases = self._grant.databases
        if databases is None or db in databases:
            return True
        wanted = self._leads_to(db)
        return wanted is not None and any(self._leads_to(each) == wanted for each in databases)

    def _leads_to(self, db: str) -> str | None:
        """The real path of a database; None where it is not allowed."""
        try:
            return self._paths.resolve(db)
        except InvalidDbPath:
            return None


def _forbidden() -> Forbidden:
    return Forbidden("The token does not cover this")
