"""Records what is asked of a store, and what is told: a history for the checker."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from typing import Final

from tests.contract.driver import Driver, Got, Item, StoreError
from tests.linearizability.model import MISMATCH, MISSING, Answer, Call, Kind, Operation

_ANSWERS: Final = frozenset({MISMATCH, MISSING})
_FAILURES: Final = frozenset({"DATABASE_ERROR", "FILE_SYSTEM_ERROR", "STORAGE_FULL"})
_NOTHING_HAPPENED: Final = frozenset({"OVERLOADED", "DEADLINE_EXCEEDED"})


class Refused(Exception):
    """Nothing has happened, and nothing is recorded; it may be asked again."""


class Recorder:
    """Any thread may record."""

    def __init__(self) -> None:
        self.history: list[Operation] = []
        # So that a reader of a history that grows sees whole ones.
        self._lock = threading.Lock()

    def record(self, client: str, call: Call, ask: Callable[[], Answer]) -> Answer | None:
        """Do what a call asks for; its answer, None where it did not come. Raises `Refused`."""
        began_ns = time.monotonic_ns()
        answer: Answer | None
        try:
            answer = ask()
        except StoreError as error:
            answer = _of_error(error)
        except ConnectionRefusedError as error:
            raise Refused from error
        except (OSError, http.client.HTTPException):
            answer = None
        ended_ns = None if answer is None else time.monotonic_ns()
        with self._lock:
            self.history.append(Operation(client, call, answer, began_ns, ended_ns))
        return answer


def _of_error(error: StoreError) -> Answer | None:
    if error.code in _ANSWERS:
        return Answer(code=error.code)
    if error.details.get("outcome") == "unknown":
        return None
    if error.code in _NOTHING_HAPPENED | _FAILURES:
        raise Refused from error
    raise error


def ask(store: Driver, call: Call) -> Answer:
    """Ask a store, as a client."""
    key, values = call.keys[0], call.values
    match call.kind:
        case Kind.GET:
            return _seen(store.get, key)
        case Kind.SET:
            return Answer(numbers=(store.set(key, values[0]).op_number,))
        case Kind.CAS:
            return Answer(numbers=(store.set(key, values[1], if_match=values[0]).op_number,))
        case Kind.INCR:
            wrote = store.incr(key, int(values[0]))
            return Answer((str(wrote.number).encode(),), (wrote.op_number,))
        case Kind.DELETE:
            return Answer(numbers=(store.delete(key).op_number,))
        case Kind.BATCH_GET:
            found = store.batch_get(call.keys)
            got = [found[key] for key in call.keys]
            return Answer(tuple(None if each is None else each.value for each in got), (None,) * len(got))
        case Kind.BATCH_SET:
            items = [Item(key, value.decode()) for key, value in zip(call.keys, values, strict=True)]
            return Answer(numbers=tuple(wrote.op_number for wrote in store.batch_set(items)))
        case Kind.BATCH_DELETE:
            return Answer(deleted=store.batch_delete(call.keys))
    raise AssertionError(call)


def _seen(get: Callable[[str], Got], key: str) -> Answer:
    try:
        got = get(key)
    except StoreError as error:
        if error.code != MISSING:
            raise
        return Answer((None,), (None,))
    return Answer((got.value,), (None if got.etag is None else int(got.etag.strip('"')),))
