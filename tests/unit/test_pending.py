"""A result that is to come: taken or cancelled, never both; told to all who wait, once."""

import threading
from concurrent.futures import CancelledError

import pytest

from kvfs.pending import Pending


def test_a_result_is_waited_for_by_another_thread() -> None:
    pending: Pending[int] = Pending()
    thread = threading.Thread(target=lambda: pending.set(7, None))
    thread.start()
    assert pending.result(10) == 7
    thread.join()


def test_an_error_is_raised_to_whoever_asks() -> None:
    pending: Pending[int] = Pending()
    pending.set(None, KeyError("k"))
    with pytest.raises(KeyError):
        pending.result()


def test_what_is_cancelled_cannot_be_taken() -> None:
    pending: Pending[int] = Pending()
    assert pending.cancel()
    assert not pending.take()
    with pytest.raises(CancelledError):
        pending.result()


def test_what_is_taken_cannot_be_cancelled() -> None:
    pending: Pending[int] = Pending()
    assert pending.take()
    assert not pending.cancel()
    pending.set(1, None)
    assert not pending.cancel()
    assert pending.result() == 1


def test_waiting_ends_at_the_time_given() -> None:
    with pytest.raises(TimeoutError):
        Pending[int]().result(0.01)


@pytest.mark.parametrize("end", [lambda pending: pending.set(1, None), lambda pending: pending.cancel()])
def test_callbacks_are_called_once_whether_early_or_late(end: object) -> None:
    pending: Pending[int] = Pending()
    calls: list[str] = []
    pending.add_done_callback(lambda _: calls.append("early"))
    assert callable(end)
    end(pending)
    pending.add_done_callback(lambda _: calls.append("late"))
    assert pending.cancel() == (pending.done() and not pending.take())
    assert calls == ["early", "late"]


def race(pending: Pending[int]) -> list[str]:
    """Who won when one thread cancels what another takes."""
    start = threading.Barrier(2)
    won: list[str] = []

    def cancel() -> None:
        start.wait()
        if pending.cancel():
            won.append("cancel")

    thread = threading.Thread(target=cancel)
    thread.start()
    start.wait()
    if pending.take():
        won.append("take")
    thread.join()
    return won


def test_of_one_who_takes_and_one_who_cancels_just_one_wins() -> None:
    for _ in range(200):
        assert len(race(Pending())) == 1
