"""The threads of the bridge: who gets one, who waits, and who is told that there is no room."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from kvfs.errors import Overloaded
from server.pool import FairPool
from tests.polling import eventually

THREADS = 8
PLACES = 8
WITHIN_S = 30.0


class Work:
    """Work on databases, which goes on until it may end."""

    def __init__(self) -> None:
        self.pool = FairPool("test", THREADS, PLACES)
        self.may_end = threading.Event()
        self.begun: list[str] = []

    def submit(self, whose: str, *, held: bool = True) -> Future[str]:
        def work() -> str:
            self.begun.append(whose)
            assert not held or self.may_end.wait(WITHIN_S)
            return whose

        return self.pool.submit(work, whose)

    def fill(self, whose: str) -> list[Future[str]]:
        """Submit until there is no more room."""
        submitted = []
        while True:
            try:
                submitted.append(self.submit(whose))
            except Overloaded:
                return submitted

    def has_begun(self, count: int) -> None:
        eventually(lambda: len(self.begun) == count, WITHIN_S, f"{count} have begun")


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.may_end.set()
    work.pool.close()


def test_who_wants_all_threads_gets_half_of_what_is_left(work: Work) -> None:
    for count, whose in ((4, "a"), (6, "b"), (7, "c"), (8, "d")):
        work.fill(whose)
        work.has_begun(count)
    assert [work.begun.count(whose) for whose in "abcd"] == [4, 2, 1, 1]


def test_a_database_that_holds_all_it_can_keeps_nobody_else_from_work(work: Work) -> None:
    waiting = work.fill("slow")
    for _ in range(50):
        assert work.submit("quick", held=False).result(WITHIN_S) == "quick"
    assert not any(each.done() for each in waiting)


def test_who_waits_is_refused_while_others_still_may_wait(work: Work) -> None:
    assert len(work.fill("a")) == 4 + 4
    assert len(work.fill("b")) == 2 + 2


def test_all_that_was_taken_on_is_done(work: Work) -> None:
    submitted = [each for whose in "abcde" for each in work.fill(whose)]
    work.may_end.set()
    assert sorted(each.result(WITHIN_S) for each in submitted) == sorted(work.begun)
    # And all threads and places are free again.
    work.may_end.clear()
    assert len(work.fill("f")) == 4 + 4


def test_those_who_wait_are_taken_in_turns(work: Work) -> None:
    pool = FairPool("one", 1, 100)
    order: list[str] = []
    blocker = pool.submit(lambda: work.may_end.wait(WITHIN_S), "x")
    done = [pool.submit(partial(order.append, whose), whose) for whose in "aaaabbc"]
    work.may_end.set()
    assert blocker.result(WITHIN_S)
    for each in done:
        each.result(WITHIN_S)
    assert "".join(order) == "abcabaa"
    pool.close()


def test_what_is_cancelled_makes_room_and_is_not_done(work: Work) -> None:
    submitted = work.fill("a")
    assert all(each.cancel() for each in submitted[-4:])
    assert len(work.fill("a")) == 4
    work.has_begun(4)
    work.may_end.set()
    for each in submitted[:4]:
        each.result(WITHIN_S)
    assert not any(each.cancel() for each in submitted[:4])


def test_an_error_is_told_and_the_thread_is_free_again(work: Work) -> None:
    for _ in range(3 * THREADS):
        with pytest.raises(ZeroDivisionError):
            work.pool.submit(lambda: 1 // 0, "a").result(WITHIN_S)


def test_nothing_is_taken_on_or_begun_after_the_end(work: Work) -> None:
    submitted = work.fill("a")
    work.has_begun(4)
    work.pool.close()
    assert all(each.cancelled() for each in submitted[4:])
    with pytest.raises(Overloaded):
        work.submit("b")
    work.may_end.set()
    assert [each.result(WITHIN_S) for each in submitted[:4]] == ["a"] * 4
    assert len(work.begun) == 4
