"""How deliveries are kept to a share of the loop's time."""

from __future__ import annotations

import time

from server.pacer import Pacer

WORK_S = 0.02


def work(seconds: float) -> None:
    """Use so much of this thread's time."""
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


async def waited(pacer: Pacer) -> float:
    """How long the next turn is waited for."""
    began = time.monotonic()
    await pacer.turn()
    return time.monotonic() - began


async def test_whoever_took_nothing_need_not_wait() -> None:
    pacer = Pacer()
    assert await waited(pacer) < WORK_S
    pacer.rest(0.0)
    assert await waited(pacer) < WORK_S


async def test_as_much_time_is_left_as_was_taken_where_nobody_else_wants_it() -> None:
    pacer = Pacer()
    with pacer.delivering():
        work(WORK_S)
    pacer.rest(0.0)
    assert await waited(pacer) >= 0.8 * WORK_S


async def test_nineteen_times_as_much_is_left_where_others_want_it() -> None:
    pacer = Pacer()
    work(WORK_S)
    with pacer.delivering():
        work(WORK_S)
    pacer.rest(0.0)
    assert await waited(pacer) >= 0.8 * 19 * WORK_S


async def test_a_threads_time_counts_too() -> None:
    pacer = Pacer()
    work(WORK_S)
    pacer.rest(WORK_S)
    assert await waited(pacer) >= 0.8 * 19 * WORK_S
