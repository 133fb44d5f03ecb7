"""One writer a volume: a queue and group commit.

All writes of a volume go through one queue. A batch is what has gathered in it: each write is decided
against the state as its predecessors left it, and one transaction commits them all: one fsync for many.
Then all are answered. A write's deadline is checked as it is taken from the queue; before that it can fail
or be cancelled, after that its end is awaited. So an answer of "nothing was committed" is true.

A batch has three steps: **decide** (and hand the ops to the volume), **commit** (wait for the disk), and
**finish** (put files in place, answer). One batch at a time, one step at a time. Where the steps run:

A job that runs **alone** has a transaction of its own, on a connection of its own. It takes its place in the
queue like any other, runs in the writer's thread, and no batch is under way meanwhile.

- Without a `turn`, all in the writer's own thread.
- With a `turn` (a server's event loop gives one) deciding and finishing run there, and only the waiting in
  the thread. Both halves hold the GIL for most of their time, so a second thread for them gains nothing,
  and handing the GIL to and fro for every statement costs more than the statements. What may take long
  (`heavy` work, large values, recovery) is all left to the thread; a step that comes upon it on the way
  raises `TooHeavy` and begins again there. Another program's lock is waited for there too, and no more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from kvfs import sqlite
from kvfs.checkpoints import Checkpointer
from kvfs.commits import Commits
from kvfs.config import Config
from kvfs.errors import (
    DatabaseError,
    DeadlineExceeded,
    IdempotencyKeyMismatch,
    KvfsError,
    Overloaded,
    from_os_error,
)
from kvfs.followers import Followers
from kvfs.idempotency import KEPT_S, decode, encode
from kvfs.model import NS, Clock, Outcome, Write
from kvfs.pending import Pending
from kvfs.store import StateChanged, Store, TooHeavy, Volume
from kvfs.transaction import Transaction

T = TypeVar("T")

Turn = Callable[[Callable[[], None]], object]
"""Has something called soon by the one thread that takes light steps; RuntimeError when that has ended."""

_LOG = logging.getLogger("kvfs.writer")

_BATCH_JOBS: Final = 256
_BATCH_BYTES: Final = 32 << 20
_GATHER_TURNS: Final = 8


class Batch:
    """What one commit will make durable: a transaction for each store of the volume that is written."""

    def __init__(self, volume: Volume, *, clock: Clock, config: Config, light: bool) -> None:
        self._volume = volume
        self._light = light
        self._clock = clock
        self._config = config
        self._transactions: dict[str, Transaction] = {}
        self._answers: dict[str, tuple[bytes, bytes]] = {}

    def on(self, store: Store) -> Transaction:
        """The transaction on one store."""
        transaction = self._transactions.get(store.name)
        if transaction is None:
            transaction = Transaction(store, clock=self._clock, config=self._config, light=self._light)
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


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """`run` takes part in a batch, `alone` runs by itself; there is one of them."""

    run: Callable[[Batch], T] | None
    alone: Callable[[], T] | None
    deadline: float | None
    size_bytes: int
    heavy: bool
    pending: Pending[T]


_Answers = list[tuple[_Job[Any], Any, BaseException | None]]
"""Jobs of a batch with what each is to be told, a result or an error."""


class Writer:
    """The queue of one volume, and the one who writes to it. Any thread may `submit`.

    `_lock` guards `_queue`, `_unanswered`, `_busy` and `_closing`. `_busy` is set from the first job in the
    queue until a batch ends with nothing behind it; whoever sets it starts the next batch, so that there is
    one at a time.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        clock: Clock,
        config: Config,
        commits: Commits,
        checkpointer: Checkpointer,
        turn: Turn | None = None,
    ) -> None:
        self._commits = commits
        self._checkpointer = checkpointer
        self._volume = volume
        self._clock = clock
        self._config = config
        self._turn = turn
        self.followers = Followers()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._queue: deque[_Job[Any]] = deque()
        self._unanswered = 0
        self._busy = False
        self._closing = False
        self._steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="kvfs-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        run: Callable[[Batch], T],
        *,
        deadline: float | None = None,
        size_bytes: int = 0,
        heavy: bool = False,
    ) -> Pending[T]:
        """Run something in the next batch. What it returns is done when the batch is durable, or has failed.

        `deadline` is in monotonic seconds; `size_bytes` bounds what gathers in a batch; `heavy`: it may
        take long. Cancelling it works until the batch is taken. Raises `Overloaded` at once when
        the queue is full, and as `Doubt.check` where the volume is in doubt.
        """
        self._volume.doubt.check()
        return self._enqueue(_Job(run, None, deadline, size_bytes, heavy, Pending()))

    def submit_alone(self, run: Callable[[], T], *, deadline: float | None = None) -> Pending[T]:
        """Run something by itself, between two batches, in the writer's thread.

        It begins and ends its own transaction. What it does must end at the deadline by itself: writes
        behind it wait. Otherwise as `submit`.
        """
        self._volume.doubt.check()

        def checked() -> T:
            self._volume.doubt.check()
            with self._volume.doubt:
                return run()

        return self._enqueue(_Job(None, checked, deadline, 0, True, Pending()))

    def verify(self) -> Pending[None]:
        """Have the volume verify itself, alone; what this returns is done, or failed, with that."""

        def verify() -> None:
            try:
                self._volume.verify()
            except Exception as exc:
                self._volume.doubt.arise(str(exc))
                raise

        return self._enqueue(_Job(None, verify, None, 0, True, Pending()))

    def _enqueue(self, job: _Job[T]) -> Pending[T]:
        with self._lock:
            if self._closing:
                raise Overloaded("The store is being closed", retry_after_s=1)
            if self._unanswered >= self._config.max_queue:
                raise Overloaded("Too many writes are waiting", retry_after_s=1)
            self._unanswered += 1
            self._queue.append(job)
            if self._busy:
                return job.pending
            self._busy = True
        self._begin_batch()
        return job.pending

    @property
    def queued(self) -> int:
        """How many writes wait or are being written."""
        return self._unanswered

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being written."""
        return self._unanswered > 0

    def close(self) -> None:
        """Write what is waiting, then end; idempotent. Not for the thread that takes turns."""
        with self._lock:
            self._closing = True
            self._idle.wait_for(lambda: not self._busy)
        self._steps.put(None)
        self._thread.join()

    # --- where steps run --------------------------------------------------------------------------------

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            step()

    def _begin_batch(self, gathered: int = 0, turns: int = 0) -> None:
        """Begin a batch, as soon as a turn of the loop has brought no more to write.

        Requests come in turns, some in each; to wait until they are all in makes fewer commits, and costs
        who is alone one turn.
        """
        waiting = len(self._queue)
        if turns and (waiting == gathered or turns == _GATHER_TURNS):
            self._light_batch()
        else:
            again = partial(self._begin_batch, waiting, turns + 1)
            self._take_turn(again, instead=self._heavy_batch)

    def _take_turn(self, step: Callable[[], None], *, instead: Callable[[], None]) -> None:
        """Have a step taken in a turn, or `instead` by the writer's thread, if there are no turns."""
        if self._turn is not None:
            try:
                self._turn(step)
                return
            except RuntimeError:
                self._turn = None
        self._steps.put(instead)

    def _answer(self, answers: _Answers) -> None:
        for job, result, error in answers:
            job.pending.set(result, error)
        with self._lock:
            self._unanswered -= len(answers)

    def _end_batch(self, answers: _Answers) -> None:
        """Answer, tell those who follow, and begin the next batch if there is something to write."""
        self._answer(answers)
        self.followers.grown()
        with self._lock:
            if not self._queue:
                self._busy = False
                self._idle.notify_all()
                return
        self._begin_batch()

    # --- light batches: decided and finished in turns -----------------------------------------------------

    def _light_batch(self) -> None:
        jobs, answers = self._gather()
        if any(job.heavy for job in jobs):
            self._steps.put(partial(self._write_heavily, jobs, answers))
            return
        if not jobs:
            self._end_batch(answers)
            return
        try:
            self._volume.begin(light=True)
        except Overloaded:
            self._steps.put(partial(self._wait_for_lock, jobs, answers))
        except Exception:
            self._volume.rollback()
            self._steps.put(partial(self._write_heavily, jobs, answers))
        else:
            self._decide_lightly(jobs, answers)

    def _wait_for_lock(self, jobs: list[_Job[Any]], answers: _Answers) -> None:
        """Begin when another program lets go of the lock; the rest is done in a turn again."""
        try:
            begun = self._begin_patiently(jobs, light=True)
        except Exception:
            self._volume.rollback()
            self._write_heavily(jobs, answers)
            return
        if begun:
            decide = partial(self._decide_lightly, jobs, answers)
            self._take_turn(decide, instead=decide)
        else:
            self._end_batch(answers)

    def _decide_lightly(self, jobs: list[_Job[Any]], answers: _Answers) -> None:
        try:
            answers += self._decide(jobs, light=True)
        except Exception:
            # Whatever it was: what takes long, or telling one bad write from its neighbours.
            self._volume.rollback()
            self._steps.put(partial(self._write_heavily, jobs, answers))
        else:
            self._steps.put(partial(self._commit_lightly, jobs, answers))

    def _commit_lightly(self, jobs: list[_Job[Any]], answers: _Answers) -> None:
        error: Exception | None = None
        try:
            self._commit(len(jobs))
        except Exception as exc:
            error = exc
        finish = partial(self._finish_lightly, jobs, answers, error)
        self._take_turn(finish, instead=finish)

    def _finish_lightly(self, jobs: list[_Job[Any]], answers: _Answers, error: Exception | None) -> None:
        if error is None:
            try:
                self._volume.finish()
            except Exception as exc:
                error = exc
        if error is None:
            self._end_batch(answers)
            return
        self._volume.rollback()
        if _outcome_unknown(error):
            self._end_batch([(job, None, error) for job, *_ in answers])
        else:
            early = [answer for answer in answers if answer[0] not in jobs]
            self._steps.put(partial(self._write_heavily, jobs, early))

    # --- heavy batches: all in the writer's thread --------------------------------------------------------

    def _heavy_batch(self) -> None:
        self._write_heavily(*self._gather())

    def _write_heavily(self, jobs: list[_Job[Any]], answers: _Answers) -> None:
        if jobs and jobs[0].alone is not None:
            self._end_batch([*answers, _run_alone(jobs[0], jobs[0].alone)])
            return
        try:
            answers += self._write(jobs)
        except Exception as exc:
            if len(jobs) > 1 and not _outcome_unknown(exc):
                # One write that the store cannot take must not sink its neighbours.
                for job in jobs:
                    try:
                        answers += self._write([job])
                    except Exception as alone:
                        answers.append((job, None, alone))
            else:
                answers += [(job, None, exc) for job in jobs]
        self._end_batch(answers)

    def _write(self, jobs: list[_Job[Any]]) -> _Answers:
        """Decide, commit and finish a batch; raises, and leaves nothing, if it cannot be done.

        Jobs whose deadline passes before that are answered, and taken out of the list.
        """
        while self._begin_patiently(jobs, light=False):
            try:
                answers = self._decide(jobs, light=False)
                self._commit(len(jobs))
                self._volume.finish()
            except StateChanged:
                self._volume.rollback()
            except BaseException:
                self._volume.rollback()
                raise
            else:
                return answers
        return []

    def _begin_patiently(self, jobs: list[_Job[Any]], *, light: bool) -> bool:
        """Begin, waiting while another program has the lock; False if no job can wait so long."""
        began = time.monotonic()
        while jobs:
            try:
                self._volume.begin(light=light)
                return True
            except Overloaded as exc:
                if self._volume.replaced():
                    raise
                now = time.monotonic()
                time.sleep(sqlite.busy_pause_s(now - began))
                late = [job for job in jobs if job.deadline is not None and now >= job.deadline]
                if late:
                    jobs[:] = [job for job in jobs if job.deadline is None or now < job.deadline]
                    self._answer([(job, None, exc) for job in late])
        return False

    # --- parts ------------------------------------------------------------------------------------------

    def _commit(self, writes: int) -> None:
        began = time.monotonic()
        self._volume.commit()
        self._commits.add(writes=writes, duration_s=time.monotonic() - began)
        checkpoints = self._volume.checkpoints
        if checkpoints is not None and checkpoints.take_due():
            self._checkpointer.ask(checkpoints)

    def _gather(self) -> tuple[list[_Job[Any]], _Answers]:
        """The jobs of the next batch, up to its bounds, which from here on cannot be cancelled.

        And the answers of those that are not wanted any more, or too late.
        """
        jobs: list[_Job[Any]] = []
        answers: _Answers = []
        cancelled = size = 0
        now = time.monotonic()
        with self._lock:
            while self._queue and len(jobs) < _BATCH_JOBS:
                job = self._queue[0]
                if jobs and (job.alone or jobs[0].alone or size + job.size_bytes > _BATCH_BYTES):
                    break
                self._queue.popleft()
                if not job.pending.take():
                    cancelled += 1
                elif job.deadline is not None and now >= job.deadline:
                    answers.append((job, None, DeadlineExceeded()))
                else:
                    jobs.append(job)
                    size += job.size_bytes
            self._unanswered -= cancelled
        return jobs, answers

    def _decide(self, jobs: list[_Job[Any]], *, light: bool) -> _Answers:
        """Decide each job, and hand to the volume what they make; raises if the volume cannot take it."""
        batch = Batch(self._volume, clock=self._clock, config=self._config, light=light)
        answers: _Answers = []
        for job in jobs:
            assert job.run is not None
            try:
                answers.append((job, job.run(batch), None))
            except KvfsError as exc:
                answers.append((job, None, exc))
            except (TooHeavy, StateChanged):
                raise
            except OSError as exc:
                answers.append((job, None, from_os_error(exc, "read a value")))
            except Exception as exc:
                _LOG.exception("a write failed unexpectedly")
                answers.append((job, None, exc))
            if not self._volume.in_transaction:
                # After some errors of the disk SQLite undoes it all: each row would be committed at once.
                raise answers[-1][2] or DatabaseError("The transaction was undone after an error")
        batch.flush()
        return answers


def _run_alone(job: _Job[T], run: Callable[[], T]) -> tuple[_Job[T], T | None, BaseException | None]:
    try:
        return job, run(), None
    except KvfsError as exc:
        return job, None, exc
    except Exception as exc:
        _LOG.exception("a write failed unexpectedly")
        return job, None, exc


def _outcome_unknown(error: Exception) -> bool:
    return isinstance(error, KvfsError) and error.details.get("outcome") == "unknown"
