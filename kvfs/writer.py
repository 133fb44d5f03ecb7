"""One writer a volume: a queue, a thread, and group commit.

All writes of a volume go through one queue to one thread. It takes what has gathered, decides each write
against the state as its predecessors left it, and commits them all in one transaction: one fsync for
many. Then it answers them all. A write's deadline is checked as it is taken from the queue; before that it
can fail or be cancelled, after that its end is awaited. So an answer of "nothing was committed" is true.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from kvfs.errors import DeadlineExceeded, IdempotencyKeyMismatch, KvfsError, Overloaded
from kvfs.idempotency import KEPT_S, decode, encode
from kvfs.model import NS, Clock, Outcome, Write
from kvfs.store import Store, Volume
from kvfs.transaction import Transaction

T = TypeVar("T")

_LOG = logging.getLogger("kvfs.writer")

_BATCH_JOBS: Final = 512
_BATCH_BYTES: Final = 32 << 20
_LOCKED_PAUSE_S: Final = 0.005


class Batch:
    """What one commit will make durable: a transaction for each store of the volume that is written."""

    def __init__(self, volume: Volume, *, clock: Clock, max_value_bytes: int) -> None:
        self._volume = volume
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self._transactions: dict[str, Transaction] = {}
        self._answers: dict[str, tuple[bytes, bytes]] = {}

    def on(self, store: Store) -> Transaction:
        """The transaction on one store."""
        transaction = self._transactions.get(store.name)
        if transaction is None:
            transaction = Transaction(store, clock=self._clock, max_value_bytes=self._max_value_bytes)
            self._transactions[store.name] = transaction
        return transaction

    def apply_once(self, store: Store, write: Write, idempotency_key: str, mark: bytes) -> Outcome:
        """Apply a write, unless this idempotency key was used for it before: then its earlier outcome.

        Raises `IdempotencyKeyMismatch` where the key was used for something else.
        """
        now_s = self._clock() // NS
        known = self._answers.get(idempotency_key) or self._volume.recall(idempotency_key, now_s)
        if known is not None:
            if known[0] != mark:
                raise IdempotencyKeyMismatch("The Idempotency-Key was used for a different request")
            return decode(known[1])
        outcome = self.on(store).apply(write)
        self._answers[idempotency_key] = (mark, encode(outcome))
        return outcome

    def forget(self, now_s: int) -> None:
        """Drop answers whose time is over."""
        self._volume.forget(now_s)

    def synced(self, mark: int) -> None:
        """Note what the volume's `sync` made durable."""
        self._volume.synced(mark)

    def flush(self) -> None:
        """Hand everything to the volume."""
        for transaction in self._transactions.values():
            transaction.flush()
        expire_s = self._clock() // NS + KEPT_S
        for idempotency_key, (mark, answer) in self._answers.items():
            self._volume.remember(idempotency_key, mark, answer, expire_s)


@dataclass(slots=True)
class _Job(Generic[T]):
    run: Callable[[Batch], T]
    deadline: float | None
    size_bytes: int
    future: Future[T]


class Writer:
    """The queue and the thread of one volume.

    `submit` may be called by any thread. The volume's writing methods are called by this thread alone.
    """

    def __init__(self, volume: Volume, *, clock: Clock, max_value_bytes: int, max_queue: int) -> None:
        self._volume = volume
        self._clock = clock
        self._max_value_bytes = max_value_bytes
        self._max_queue = max_queue
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._held_over: _Job[Any] | None = None
        self._unanswered = 0
        self._closing = False
        # Guards `_unanswered` and `_closing`: nothing may enter the queue behind the closing mark.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="kvfs-writer", daemon=True)
        self._thread.start()

    def submit(
        self, run: Callable[[Batch], T], *, deadline: float | None = None, size_bytes: int = 0
    ) -> Future[T]:
        """Run something in the next batch. The future is done when the batch is durable, or has failed.

        `deadline` is in monotonic seconds; `size_bytes` bounds what gathers in a batch. Cancelling the
        future works until the batch is taken. Raises `Overloaded` at once when the queue is full.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closing:
                raise Overloaded("The store is being closed", retry_after_s=1)
            if self._unanswered >= self._max_queue:
                raise Overloaded("Too many writes are waiting", retry_after_s=1)
            self._unanswered += 1
            self._queue.put(_Job(run, deadline, size_bytes, future))
        return future

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being written."""
        return self._unanswered > 0

    def close(self) -> None:
        """Write what is waiting, then end; idempotent."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._queue.put(None)
        self._thread.join()

    # --- the thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            jobs, last = self._gather()
            if jobs:
                try:
                    self._write(jobs)
                finally:
                    with self._lock:
                        self._unanswered -= len(jobs)
            if last:
                return

    def _gather(self) -> tuple[list[_Job[Any]], bool]:
        """Everything that waits, up to a batch's bounds; and whether it is the last."""
        job = self._held_over or self._queue.get()
        self._held_over = None
        jobs: list[_Job[Any]] = []
        size = 0
        while job is not None:
            if jobs and size + job.size_bytes > _BATCH_BYTES:
                self._held_over = job
                return jobs, False
            jobs.append(job)
            size += job.size_bytes
            if len(jobs) == _BATCH_JOBS:
                return jobs, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _write(self, jobs: list[_Job[Any]]) -> None:
        taken = [job for job in jobs if self._take(job)]
        taken = self._lock_volume(taken)
        if not taken:
            return
        try:
            answers = self._commit(taken)
        except Exception as exc:
            if len(taken) > 1 and not _outcome_unknown(exc):
                # One write that the store cannot take must not sink its neighbours.
                for job in taken:
                    self._write_alone(job)
            else:
                for job in taken:
                    job.future.set_exception(exc)
            return
        for job, (answer, error) in zip(taken, answers, strict=True):
            if error is None:
                job.future.set_result(answer)
            else:
                job.future.set_exception(error)

    def _write_alone(self, job: _Job[Any]) -> None:
        for locked in self._lock_volume([job]):
            try:
                ((answer, error),) = self._commit([locked])
            except Exception as exc:
                answer, error = None, exc
            if error is None:
                job.future.set_result(answer)
            else:
                job.future.set_exception(error)

    def _take(self, job: _Job[Any]) -> bool:
        """Whether the job is still wanted and in time; from here on it cannot be cancelled."""
        if not job.future.set_running_or_notify_cancel():
            return False
        if job.deadline is not None and time.monotonic() >= job.deadline:
            job.future.set_exception(DeadlineExceeded())
            return False
        return True

    def _lock_volume(self, jobs: list[_Job[Any]]) -> list[_Job[Any]]:
        """Begin, waiting while another program has the lock; the jobs that outlived the wait."""
        while jobs:
            try:
                self._volume.begin()
                return jobs
            except Overloaded as exc:
                time.sleep(_LOCKED_PAUSE_S)
                now = time.monotonic()
                waiting = []
                for job in jobs:
                    if job.deadline is None or now < job.deadline:
                        waiting.append(job)
                    else:
                        job.future.set_exception(exc)
                jobs = waiting
            except Exception as exc:
                for job in jobs:
                    job.future.set_exception(exc)
                return []
        return jobs

    def _commit(self, jobs: list[_Job[Any]]) -> list[tuple[Any, Exception | None]]:
        """Decide and commit a batch. (answer, error) of each job; raises if the batch did not commit."""
        batch = Batch(self._volume, clock=self._clock, max_value_bytes=self._max_value_bytes)
        answers: list[tuple[Any, Exception | None]] = []
        try:
            for job in jobs:
                try:
                    answers.append((job.run(batch), None))
                except KvfsError as exc:
                    answers.append((None, exc))
                except Exception as exc:
                    _LOG.exception("a write failed unexpectedly")
                    answers.append((None, exc))
            batch.flush()
            self._volume.commit()
        except BaseException:
            self._volume.rollback()
            raise
        return answers


def _outcome_unknown(error: Exception) -> bool:
    return isinstance(error, KvfsError) and error.details.get("outcome") == "unknown"
