"""The course of one call: attempts, and pauses between them. Written once, for blocking and async clients.

`course` is a generator that does no I/O: it yields what is to be done next, an `Attempt` or a `Pause`, and is
sent the answer of an attempt, or has its failure thrown in.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import httpcore

from kvfs.client import errors
from kvfs.client.call import Answer, Call, Repeat
from kvfs.client.errors import NoAnswer, Unreachable
from kvfs.errors import InvalidParameters, KvfsError, Unavailable

TIMEOUT_S: Final = 30.0
ATTEMPT_S: Final = 10.0
AWAY_PAUSE_S: Final = 1.0
"""How long one who follows changes waits before the next try."""
KEEP_ALIVE_S: Final = 30.0
"""How long an idle connection is kept: less than any server keeps it."""

_SERVER_TIMEOUT_MAX_S: Final = 300
_GATEWAY: Final = frozenset({502, 503, 504})
_UNSENT: Final = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout)
FAILURES: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
"""What an attempt may raise."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is tried, and how long is waited in between.

    Before attempt n + 1 up to `first_pause_s` · 2ⁿ⁻¹ pass, `longest_pause_s` at most, a random part of it, so
    that many clients do not come back at once. What the server asks for in `Retry-After` is waited for too,
    up to `longest_retry_after_s`. No call takes longer than its time-out, retries and all.
    """

    attempts: int = 5
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    longest_retry_after_s: float = 30.0

    def pause_s(self, attempts: int, retry_after_s: float, chance: float) -> float:
        """How long to wait after so many attempts; `chance` is random, from 0 to 1."""
        backoff_s = min(self.first_pause_s * 2.0 ** (attempts - 1), self.longest_pause_s)
        return min(retry_after_s, self.longest_retry_after_s) + backoff_s * chance


RETRIES: Final = Retries()
NO_RETRIES: Final = Retries(attempts=1)


@dataclass(frozen=True, slots=True)
class Times:
    """How long a call may take, all in all, and how long an attempt may wait for the server, in seconds."""

    timeout_s: float = TIMEOUT_S
    attempt_s: float = ATTEMPT_S
    connect_s: float = 5.0


class Attempt(NamedTuple):
    """Send this; the driver answers with what came back. Times are seconds, for each step of the I/O."""

    target: str
    headers: list[tuple[bytes, bytes]]
    timeouts: dict[str, float]


class Pause(NamedTuple):
    """Do nothing for so long."""

    seconds: float


Step = Attempt | Pause
Course = Generator[Step, Answer, Answer]


class _Failure(NamedTuple):
    """Why an attempt came to nothing. `unsent`: the server has not begun with it."""

    error: KvfsError
    unsent: bool
    worth_trying: bool
    retry_after_s: float = 0.0
    cause: Exception | None = None


def course(call: Call[Any], times: Times, retries: Retries, headers: list[tuple[bytes, bytes]]) -> Course:
    """What to do for a call, to its good answer; raises the `KvfsError` of the last attempt."""
    until_s = time.monotonic() + times.timeout_s + call.wait_s
    sent_headers = [*headers, *_headers(call)]
    attempts = 0
    while True:
        attempts += 1
        told = yield from _attempt(call, times, sent_headers, until_s)
        if isinstance(told, Answer):
            return told
        pause_s = retries.pause_s(attempts, told.retry_after_s, random.random())
        in_vain = attempts >= retries.attempts or time.monotonic() + pause_s >= until_s
        if in_vain or not _may_repeat(call, told):
            raise told.error from told.cause
        yield Pause(pause_s)


def is_away(error: KvfsError) -> bool:
    """Whether the server, or the way to it, is only not there for now."""
    if isinstance(error, errors.UnexpectedAnswer):
        return error.details.get("status") in _GATEWAY
    return isinstance(error, Unreachable | NoAnswer | Unavailable)


def broken_off(exc: Exception) -> NoAnswer:
    """The error of a body that broke off while it was read."""
    return NoAnswer(f"The answer broke off: {str(exc) or type(exc).__name__}")


def _attempt(
    call: Call[Any], times: Times, headers: list[tuple[bytes, bytes]], until_s: float
) -> Generator[Step, Answer, Answer | _Failure]:
    left_s = max(until_s - time.monotonic(), 0.001)
    work_s = left_s if call.patient else min(left_s, times.attempt_s + call.wait_s)
    timeouts = {"connect": min(left_s, times.connect_s), "read": work_s, "write": work_s, "pool": left_s}
    server_s = min(max(math.ceil(work_s), 1), _SERVER_TIMEOUT_MAX_S)
    query = "&".join(filter(None, (call.query, f"timeout={server_s}")))
    try:
        answer = yield Attempt(f"{call.path}?{query}", headers, timeouts)
    except httpcore.LocalProtocolError as exc:
        return _Failure(InvalidParameters(f"this cannot be sent: {exc}"), True, False, cause=exc)
    except FAILURES as exc:
        return _failed(call, exc)
    return answer if answer.status < 400 else _refused(answer)


def _failed(call: Call[Any], exc: Exception) -> _Failure:
    why = str(exc) or type(exc).__name__
    if isinstance(exc, _UNSENT):
        return _Failure(Unreachable(f"Cannot reach the server: {why}"), True, True, cause=exc)
    details = {} if call.repeat is Repeat.SAFELY else {"outcome": "unknown"}
    return _Failure(NoAnswer(f"No answer from the server: {why}", **details), False, True, cause=exc)


def _refused(answer: Answer) -> _Failure:
    error = errors.from_answer(answer.status, answer.headers, answer.body)
    # What a gateway says leaves open whether the server has begun.
    return _Failure(error, isinstance(error, Unavailable), is_away(error), _retry_after_s(answer))


def _may_repeat(call: Call[Any], failure: _Failure) -> bool:
    if not failure.worth_trying or (call.sent_once and not isinstance(failure.error, Unreachable)):
        return False
    return failure.unsent or call.repeat is not Repeat.UNSENT


def _retry_after_s(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _headers(call: Call[Any]) -> list[tuple[bytes, bytes]]:
    given = {name: value for name, value in call.headers.items() if value is not None}
    if call.repeat is Repeat.BY_KEY:
        given.setdefault("Idempotency-Key", secrets.token_hex(16))
    try:
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in given.items()]
    except UnicodeEncodeError as exc:
        raise InvalidParameters(f"a header must be ASCII: {exc.object!r}") from exc
