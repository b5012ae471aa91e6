"""The two threads beside the executor: one takes frames in (newest wins), one owns the model.

`LatestWorker` holds one waiting item and replaces it when a newer one comes. `RequestWorker` runs
jobs in order, with a bounded queue and a policy for what happens when it is busy. Both survive an
exception in the work they are given.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ada3d_ros.errors import (
    BusyError,
    CanceledError,
    NodeStoppedError,
    NotActiveError,
    PreemptedError,
    RequestError,
    RequestTimeoutError,
    SceneResetError,
)

T = TypeVar("T")
StopError = (
    type[CanceledError] | type[PreemptedError] | type[NotActiveError] | type[SceneResetError]
)
IDLE_PERIOD_S = 0.25  # between two background steps while there is nothing to do

STOP_TEXTS: dict[type, str] = {
    CanceledError: "canceled by the caller.",
    PreemptedError: "a newer request took its place (action.policy is 'preempt').",
    NotActiveError: "the node was deactivated while answering; activate it and ask again.",
    NodeStoppedError: "the node went away while it worked: its process was told to end; start it"
    " again and ask again.",
    SceneResetError: "the scene was reset while answering; ask again once keyframes have come in.",
}


class LatestWorker(Generic[T]):
    """Runs `work(item)` on its own thread for the newest item; others go to `on_replaced`."""

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        on_replaced: Callable[[T], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._work, self._on_replaced, self._on_error = work, on_replaced, on_error
        self._condition = threading.Condition()
        self._item: T | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        with self._condition:
            replaced, self._item = self._item, item
            self._condition.notify()
        if replaced is not None:
            self._on_replaced(replaced)

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Ends the thread; True if it ended in time."""
        with self._condition:
            self._stopping, self._item = True, None
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._item is not None)
                if self._stopping:
                    return
                item, self._item = self._item, None
            try:
                assert item is not None
                self._work(item)
            except Exception as error:  # the thread outlives any one frame
                self._on_error(error)


@dataclass(eq=False, slots=True)
class Job:
    """One request on its way through the worker. `deadline` is on time.monotonic()."""

    run: Callable[[Job], Any]  # its result, or an exception
    on_done: Callable[[Any, BaseException | None], None]
    deadline: float
    request_id: int = 0
    accepted: float = field(default_factory=time.monotonic)
    started: float = float("nan")
    started_ns: int = -1  # node clock, set by run
    batch: Any = None  # what run_batch needs of it; None: it cannot run together with others
    stop_error: StopError | None = None

    def cancel(self, error: StopError) -> None:
        """Ask the job to stop at the next token; the first reason given stays."""
        self.stop_error = self.stop_error or error

    def check(self) -> None:
        """Raise the reason to stop, if there is one. Called between stages and tokens."""
        if self.stop_error is not None:
            raise self.stop_error(STOP_TEXTS[self.stop_error])
        if time.monotonic() > self.deadline:
            raise RequestTimeoutError(
                f"no answer within {self.deadline - self.accepted:.1f} s; raise timeout_sec (or"
                " generation.timeout_sec), or ask for fewer tokens."
            )


class RequestWorker:
    """Runs jobs one at a time on one thread, which owns the device.

    `submit` raises BusyError when the queue is full (or, under policy `reject`, when anything
    runs). `run_later` queues internal work (loading the model) before any job. Between jobs the
    thread calls `run_background_step`, which does one bounded piece of work and says whether more
    is left; then again at once, else after IDLE_PERIOD_S or a `notify`. `submit_idle` queues a job
    of the lowest priority: it runs when nothing else is left to do, counts as neither queued nor
    busy, and stops for whatever is submitted meanwhile.

    on_error: gets what went wrong in a background step, or in delivering an answer.
    run_batch: runs several waiting jobs that have a `batch`, and returns a result or exception for
    each; at most `batch_size` of them, the first of the queue.
    """

    def __init__(
        self,
        name: str = "ada3d-inference",
        on_error: Callable[[BaseException], None] = lambda error: None,
        run_background_step: Callable[[], bool] | None = None,
        run_batch: Callable[[list[Job]], Sequence[Any]] | None = None,
    ) -> None:
        self.batch_size = 1
        self._on_error, self._run_batch = on_error, run_batch
        self._run_background_step = run_background_step
        self._condition = threading.Condition()
        self._internal: deque[Callable[[], None]] = deque()
        self._jobs: deque[Job] = deque()
        self._idle_jobs: deque[Job] = deque()
        self._idle_running: Job | None = None
        self._running: tuple[Job, ...] = ()
        self._notified = self._stopping = self._given_up = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def run_later(self, work: Callable[[], None]) -> None:
        """Queue internal work; it must handle its own errors."""
        with self._condition:
            self._internal.append(work)
            self._condition.notify()

    def notify(self) -> None:
        """Say that there is something for a background step to do."""
        with self._condition:
            self._notified = True
            self._condition.notify()

    def submit(self, job: Job, policy: str, queue_size: int) -> None:
        """Queue a job; `policy` (reject, queue, preempt) says what happens when others run or wait.

        Raises BusyError.
        """
        displaced: list[Job] = []
        with self._condition:
            if policy == "preempt":
                # The newest request wins: nothing else waits, and what runs stops soon.
                displaced = list(self._jobs)
                self._jobs.clear()
                for running in self._running:
                    running.cancel(PreemptedError)
            elif self._running or self._jobs:
                # With nothing running, the thread is about to take the first one that waits.
                waiting = len(self._jobs) - (not self._running)
                if waiting >= (queue_size if policy == "queue" else 0):
                    raise BusyError(
                        f"{waiting} requests are waiting and one is running (action.policy"
                        f" {policy!r}, action.queue_size {queue_size}); ask again later."
                    )
            self._jobs.append(job)
            if self._idle_running is not None:
                self._idle_running.cancel(PreemptedError)
            self._condition.notify()

        # Outside the lock: an answer may lead to the next question.
        for old in displaced:
            old.on_done(None, PreemptedError(STOP_TEXTS[PreemptedError]))

    def submit_idle(self, job: Job) -> None:
        """Queue a job for when there is nothing else to do. It ends with PreemptedError where a
        request comes while it runs.
        """
        with self._condition:
            self._idle_jobs.append(job)
            self._condition.notify()

    def cancel_all(self, error: StopError) -> None:
        """Stop the running job and answer the waiting ones with `error`."""
        with self._condition:
            waiting = [*self._jobs, *self._idle_jobs]
            self._jobs.clear()
            self._idle_jobs.clear()
            for running in self._running:
                running.cancel(error)
            if self._idle_running is not None:
                self._idle_running.cancel(error)
        for job in waiting:
            job.on_done(None, error(STOP_TEXTS[error]))

    def cancel(self, job: Job, error: StopError) -> None:
        """Stop one job: at the next token where it runs, at once where it waits."""
        with self._condition:
            job.cancel(error)
            waited = job in self._jobs
            if waited:
                self._jobs.remove(job)
        if waited:
            job.on_done(None, error(STOP_TEXTS[error]))

    def expire(self) -> None:
        """Answer the waiting jobs whose time has run out; call it now and then."""
        with self._condition:
            late = []
            for jobs in (self._jobs, self._idle_jobs):
                expired = [job for job in jobs if time.monotonic() > job.deadline]
                for job in expired:
                    jobs.remove(job)
                late += expired
        for job in late:
            try:
                job.check()
            except RequestError as error:
                job.on_done(None, error)

    def give_up(self) -> None:
        """Answer what runs and does not stop; its own outcome comes too late and is dropped."""
        with self._condition:
            late, self._running = self._running, ()
            if self._idle_running is not None:
                late, self._idle_running = (*late, self._idle_running), None
            self._given_up = self._given_up or bool(late)
        for job in late:
            error = job.stop_error or NotActiveError
            job.on_done(None, error(STOP_TEXTS[error]))

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Cancel everything and end the thread; True if it ended in time."""
        self.cancel_all(NotActiveError)
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        more = False
        while True:
            # Wait for work: not at all while a background step has more to do.
            with self._condition:
                idle_s = None if self._run_background_step is None else IDLE_PERIOD_S
                self._condition.wait_for(self._has_work, 0.0 if more else idle_s)
                if self._stopping:
                    return
                self._notified = False
                internal = self._internal.popleft() if self._internal else None
                self._running = jobs = self._take_jobs() if internal is None else ()

            # Internal work before jobs, jobs before a background step, that before an idle job.
            if internal is not None:
                internal()
            elif jobs:
                self._run_jobs(jobs)
                more = self._run_background_step is not None
            else:
                more = self._background_step()
                if not more:
                    self._run_idle_job()
            del internal, jobs  # or the wait for the next one would keep a model alive

    def _background_step(self) -> bool:
        try:
            return self._run_background_step is not None and self._run_background_step()
        except Exception as error:  # the thread outlives it
            self._on_error(error)
            return False

    def _has_work(self) -> bool:
        waits = self._internal or self._jobs or self._idle_jobs or self._notified
        return self._stopping or bool(waits)

    def _run_idle_job(self) -> None:
        """The next one, unless something came in the meantime."""
        with self._condition:
            if self._stopping or self._internal or self._jobs or not self._idle_jobs:
                return
            job = self._idle_running = self._idle_jobs.popleft()
        self._run_jobs((job,))

    def _take_jobs(self) -> tuple[Job, ...]:
        """The next job, and those after it that can run together with it."""
        taken = [self._jobs.popleft()] if self._jobs else []
        limit = self.batch_size if self._run_batch is not None else 1
        while self._jobs and len(taken) < limit:
            if taken[0].batch is None or self._jobs[0].batch is None:
                break
            taken.append(self._jobs.popleft())
        return tuple(taken)

    def _run_jobs(self, jobs: Sequence[Job]) -> None:
        # Leave out those that were stopped, or whose time ran out, while they waited.
        outcomes: list[tuple[Job, Any, BaseException | None]] = []
        ready = []
        for job in jobs:
            job.started = time.monotonic()
            try:
                job.check()
                ready.append(job)
            except RequestError as error:
                outcomes.append((job, None, error))

        # Run the rest, several as one batch.
        try:
            if len(ready) > 1 and self._run_batch is not None:
                results = self._run_batch(ready)
            else:
                results = [job.run(job) for job in ready]
            for job, result in zip(ready, results, strict=True):
                failed = isinstance(result, BaseException)
                outcomes.append((job, None, result) if failed else (job, result, None))
        except Exception as error:  # becomes an error code at the border
            outcomes += [(job, None, error) for job in ready]

        # Deliver. No longer busy first: whoever gets the answer may ask again at once.
        with self._condition:
            self._running, self._idle_running = (), None
            if self._given_up:
                return
        for job, result, failure in outcomes:
            try:
                job.on_done(result, failure)
            except Exception as error:  # the thread outlives it
                self._on_error(error)
