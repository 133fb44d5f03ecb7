"""Threads that work for the loop, shared so that no database can have them all.

Work on a database that is locked, or slow, may hold a thread for as long as its request may take. So who has
many threads gets one more only while there are still more free ones: the first to want all of them gets half,
the next half of what is left, and there is always one for somebody new. The same holds for the places to wait
in. (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998; switches
share their buffers so.) Those who wait are taken in turns, one of each database.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

from kvfs.errors import Overloaded

T = TypeVar("T")

NOBODY: Final = ""
"""Whose work it is that is for no database."""


class _Job(Generic[T]):
    """Work for somebody."""

    __slots__ = ("future", "whose", "work")

    def __init__(self, work: Callable[[], T], whose: str) -> None:
        self.work = work
        self.whose = whose
        self.future: Future[T] = Future()


class FairPool:
    """So many threads, and so many places to wait for one. Any thread may use it.

    `_lock` guards `_running`, `_waiting`, `_waiters` and `_closed`; nothing is called while it is held but
    the executor, which never calls back.
    """

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        # All of them begin now: whoever starts a thread for which there is no memory may wait for it forever
        # (python/cpython#140746), and that must never be the loop.
        begun = threading.Barrier(threads + 1)
        for _ in range(threads):
            self._executor.submit(begun.wait)
        begun.wait()
        self._threads = threads
        self._places = max_waiting
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        # In each, a dict is a queue from which any job can be taken.
        self._waiting: OrderedDict[str, dict[_Job[Any], None]] = OrderedDict()
        self._waiters = 0
        self._closed = False

    def submit(self, work: Callable[[], T], whose: str = NOBODY) -> Future[T]:
        """Have it done; what this returns can be cancelled until it begins.

        Raises `Overloaded` at once where too much waits already, of this database or of all.
        """
        job = _Job(work, whose)
        with self._lock:
            if self._closed:
                raise Overloaded("The server is stopping", retry_after_s=1)
            if self._has_thread_for(whose):
                self._begin(job)
                return job.future
            queue = self._waiting.setdefault(whose, {})
            if len(queue) >= self._places - self._waiters:
                if not queue:
                    del self._waiting[whose]
                raise Overloaded("Too many requests are being worked on", retry_after_s=1)
            queue[job] = None
            self._waiters += 1
        job.future.add_done_callback(lambda _: self._leave_queue(job))
        return job.future

    def close(self) -> None:
        """Let no more work begin; what has begun goes on."""
        with self._lock:
            self._closed = True
            waiting = [job for queue in self._waiting.values() for job in queue]
        for job in waiting:
            job.future.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    # --- parts: with the lock held -------------------------------------------------------------------------

    def _has_thread_for(self, whose: str) -> bool:
        return self._running[whose] < self._threads - self._running.total()

    def _begin(self, job: _Job[Any]) -> None:
        self._running[job.whose] += 1
        self._executor.submit(self._run, job)

    def _begin_next(self) -> None:
        """Begin what may begin, of those first who have waited longest for their turn."""
        for whose, queue in list(self._waiting.items()):
            if self._closed or self._running.total() == self._threads:
                return
            if self._has_thread_for(whose):
                job = next(iter(queue))
                self._take(job)
                if whose in self._waiting:
                    self._waiting.move_to_end(whose)
                self._begin(job)

    def _take(self, job: _Job[Any]) -> bool:
        """Take a job out of its queue; whether it was in it."""
        queue = self._waiting.get(job.whose, {})
        if job not in queue:
            return False
        del queue[job]
        self._waiters -= 1
        if not queue:
            del self._waiting[job.whose]
        return True

    # --- parts: without it ---------------------------------------------------------------------------------

    def _run(self, job: _Job[T]) -> None:
        """In a thread: do it, let the next begin, and tell."""
        if not job.future.set_running_or_notify_cancel():
            self._end(job)
            return
        try:
            result = job.work()
        except BaseException as exc:
            self._end(job)
            job.future.set_exception(exc)
        else:
            self._end(job)
            job.future.set_result(result)

    def _end(self, job: _Job[Any]) -> None:
        with self._lock:
            self._running[job.whose] -= 1
            if not self._running[job.whose]:
                del self._running[job.whose]
            self._begin_next()

    def _leave_queue(self, job: _Job[Any]) -> None:
        """A job that was cancelled makes room."""
        if job.future.cancelled():
            with self._lock:
                self._take(job)
