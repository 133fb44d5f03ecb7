"""SQL of strangers on one database file: reads side by side, writes in turn with those of its stores."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import apsw

from kvfs import sqlite
from kvfs.config import MIB, Config
from kvfs.database import Database
from kvfs.errors import DatabaseError, SqlError
from kvfs.model import Clock
from kvfs.pending import Pending
from kvfs.sql.guard import Mode
from kvfs.sql.interrupts import Interrupter
from kvfs.sql.maintenance import Maintenance
from kvfs.sql.model import WHOLE, Executed, Failure, Item, MakeRows, Result, Selected
from kvfs.sql.session import NeedsWriting, Session
from kvfs.sql.transaction import Transaction
from kvfs.writer import Writer

_KNOWN_WRITES: Final = 1000
_KNOWN_WRITE_CHARS: Final = 10_000

Record = Callable[[str, Sequence[Executed]], None]
"""Is told what ran on the database of this path; returns at once."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The answer to a lone SELECT. `lasting`: it stays the same for as long as `SqlDatabase.version` does."""

    selected: Selected
    lasting: bool


class SqlDatabase:
    """SQL on one database file. Any thread may use it; `close` when nothing is under way, is idempotent."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        interrupter: Interrupter,
        *,
        config: Config,
        clock: Clock,
        record: Record,
    ) -> None:
        self._database = database
        self._writer = writer
        self._interrupter = interrupter
        self._config = config
        self._clock = clock
        self._record = record
        # The list needs no lock: its `append` and `pop` are atomic.
        self._idle: list[Session] = []
        # The writer's thread alone.
        self._writing: Session | None = None
        self._known_writes: set[str] = set()
        # A connection that never writes: it sees every commit as somebody else's. Guarded by its lock.
        self._observer: apsw.Connection | None = None
        self._observer_lock = threading.Lock()
        self._id = secrets.token_hex(6)
        self.maintenance = Maintenance(database, writer, interrupter)

    @property
    def path(self) -> str:
        """The real path of the file."""
        return self._database.path

    # --- reading ---------------------------------------------------------------------------------------

    def version(self, deadline: float | None) -> str:
        """What stays the same for as long as nothing is committed to the database, by whatever program.

        It is another one each time the database is opened.
        """
        with self._observer_lock, sqlite.errors():
            observer = self._observer
            if observer is None:
                path = self._database.path
                observer = self._observer = sqlite.connect(path, readonly=True, deadline=deadline)
            commits = sqlite.retry_busy(lambda: observer.pragma("data_version"), deadline)
        return f"{self._id}-{commits}"

    def select(self, sql: str, make_rows: MakeRows, *, deadline: float) -> Shown:
        """The rows of one SELECT; blocks.

        Raises `NotASelect` for anything else, `SqlError`, and what `Session.transaction` raises.
        """
        with self._reader(deadline) as session:
            transaction = Transaction(session, make_rows, self._clock)
            with self._recorded(transaction), session.transaction(Mode.SELECT, deadline):
                selected = transaction.select(sql)
            return Shown(selected, lasting=not session.guard.volatile)

    def read(self, items: Sequence[Item], make_rows: MakeRows, *, deadline: float) -> list[Result] | Failure:
        """Run a transaction that only reads; blocks.

        Raises `NeedsWriting` where it does more: then `write` is the one to call. And what
        `Session.transaction` raises.
        """
        with self._reader(deadline) as session:
            transaction = Transaction(session, make_rows, self._clock)
            with self._recorded(transaction):
                try:
                    with session.transaction(Mode.TRANSACTION, deadline):
                        return transaction.run(items)
                except NeedsWriting:
                    self._note_write(items[len(transaction.executed)].sql)
                    transaction.executed.clear()
                    raise

    # --- writing ---------------------------------------------------------------------------------------

    def known_to_write(self, items: Sequence[Item]) -> bool:
        """Whether an item is known to write, so that `read` need not be tried; quick."""
        known = self._known_writes
        return bool(known) and any(item.sql in known for item in items)

    def write(
        self, items: Sequence[Item], make_rows: MakeRows, *, deadline: float
    ) -> Pending[list[Result] | Failure]:
        """Queue a transaction behind other writes; what this returns is done when it is durable, or undone.

        Raises `Overloaded` at once when the queue is full; the result may be an error as `read` raises it.
        """
        return self._writer.submit_alone(partial(self._write, items, make_rows, deadline), deadline=deadline)

    def close(self) -> None:
        """Let go of all connections."""
        while self._idle:
            self._idle.pop().close()
        for connection in (self._writing, self._observer):
            if connection is not None:
                connection.close()
        self._writing = self._observer = None

    # --- parts -----------------------------------------------------------------------------------------

    def _write(self, items: Sequence[Item], make_rows: MakeRows, deadline: float) -> list[Result] | Failure:
        if self._database.readonly:
            raise DatabaseError("The database is read-only")
        if self._writing is None:
            self._writing = self._open(readonly=False, deadline=deadline)
        transaction = Transaction(self._writing, make_rows, self._clock)
        with self._recorded(transaction):
            check = self._database.check_in_place
            return _run_and_commit(self._writing, transaction, items, deadline, check=check)

    @contextmanager
    def _recorded(self, transaction: Transaction) -> Iterator[None]:
        """Tell of what the transaction executed, whatever came of it."""
        try:
            yield
        finally:
            self._record(self._database.path, transaction.executed)

    @contextmanager
    def _reader(self, deadline: float) -> Iterator[Session]:
        try:
            session = self._idle.pop()
        except IndexError:
            session = self._open(readonly=True, deadline=deadline)
        try:
            yield session
        finally:
            self._idle.append(session)

    def _open(self, *, readonly: bool, deadline: float) -> Session:
        path, length = self._database.path, _max_length(self._config)
        return Session(path, self._interrupter, readonly=readonly, max_length=length, deadline=deadline)

    def _note_write(self, sql: str) -> None:
        if len(self._known_writes) >= _KNOWN_WRITES:
            self._known_writes.clear()
        if len(sql) <= _KNOWN_WRITE_CHARS:
            self._known_writes.add(sql)


def rehearse(
    items: Sequence[Item], make_rows: MakeRows, interrupter: Interrupter, *, config: Config, deadline: float
) -> Failure | None:
    """Why a transaction would fail on a new database; None where it would not.

    Raises what `Session.transaction` raises.
    """
    length = _max_length(config)
    session = Session("", interrupter, readonly=False, max_length=length, deadline=deadline)
    try:
        transaction = Transaction(session, make_rows, time.time_ns)
        outcome = _run_and_commit(session, transaction, items, deadline)
        return outcome if isinstance(outcome, Failure) else None
    finally:
        session.close()


def _run_and_commit(
    session: Session,
    transaction: Transaction,
    items: Sequence[Item],
    deadline: float,
    *,
    check: Callable[[], None] = lambda: None,
) -> list[Result] | Failure:
    with session.transaction(Mode.TRANSACTION, deadline):
        check()
        outcome = transaction.run(items)
        if not isinstance(outcome, Failure):
            try:
                session.commit()
            except SqlError as exc:
                return Failure(WHOLE, exc.message)
        return outcome


def _max_length(config: Config) -> int:
    """The longest value: what a KV table may hold, and a little for what stands around it."""
    return config.max_value_bytes + MIB
