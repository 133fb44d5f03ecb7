"""A transaction of strangers' SQL, item by item, on a session that has begun one."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from kvfs.errors import KvfsError, NotASelect, SqlError
from kvfs.model import Clock
from kvfs.sql.model import BatchChanged, Changed, Executed, Failed, Failure, Item, MakeRows, Result, Selected
from kvfs.sql.session import NeedsWriting, Session

R = TypeVar("R", bound=Result)


class Transaction:
    """Runs items; `executed` grows with each, also with the one that ends it all."""

    def __init__(self, session: Session, make_rows: MakeRows, clock: Clock) -> None:
        self._session = session
        self._make_rows = make_rows
        self._clock = clock
        self.executed: list[Executed] = []

    def run(self, items: Sequence[Item]) -> list[Result] | Failure:
        """A result for each item, or why all must be undone."""
        results: list[Result] = []
        for index, item in enumerate(items):
            try:
                results.append(self._noted(item.sql, partial(self._session.run, item, self._make_rows)))
            except SqlError as exc:
                # `OR ROLLBACK` and its like undo everything, whatever the item says.
                if not item.no_fail or self._session.undone:
                    return Failure(index, exc.message, exc.batch_index)
                results.append(Failed(exc.message, exc.batch_index))
        return results

    def select(self, sql: str) -> Selected:
        """The rows of what is one SELECT alone."""
        return self._noted(sql, partial(self._session.select, sql, (), self._make_rows))

    def _noted(self, sql: str, run: Callable[[], R]) -> R:
        """Run something and note what came of it, unless it was refused before it ran."""
        ts_ns, began = self._clock(), time.monotonic()
        try:
            result = run()
        except (NeedsWriting, NotASelect):
            raise
        except KvfsError as exc:
            # The frames hold rows, and whoever holds the error would hold those.
            traceback.clear_frames(exc.__traceback__)
            self.executed.append(Executed(sql, ts_ns, time.monotonic() - began, 0, exc.message))
            raise
        self.executed.append(Executed(sql, ts_ns, time.monotonic() - began, _rows(result)))
        return result


def _rows(result: Result) -> int:
    if isinstance(result, BatchChanged):
        return sum(result.counts)
    return result.count if isinstance(result, Selected | Changed) else 0
