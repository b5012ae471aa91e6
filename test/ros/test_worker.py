"""The two worker threads: what they let go of, when waiting requests expire, what they survive."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ada3d_ros.errors import (
    BusyError,
    CanceledError,
    PreemptedError,
    RequestTimeoutError,
    SceneResetError,
)
from ada3d_ros.ros.guard import ThrottledWarning
from ada3d_ros.worker import Job, LatestWorker, RequestWorker
from test.support.ros_harness import wait_until


@pytest.fixture
def worker() -> Iterator[RequestWorker]:
    made = RequestWorker()
    yield made
    assert made.stop()


def job(run: Any, results: list[Any], timeout_s: float = 10.0) -> Job:
    return Job(
        run,
        lambda result, error: results.append(error or result),
        deadline=time.monotonic() + timeout_s,
    )


def test_the_idle_worker_keeps_nothing_alive(worker: RequestWorker) -> None:
    """A local of the loop held the last pipeline, so that cleanup did not free a 7B model."""

    class Model:
        pass

    model, done = Model(), threading.Event()
    gone = weakref.ref(model)
    worker.run_later(lambda held=model: (held, done.set()))  # type: ignore[misc]
    assert done.wait(5.0)
    del model
    assert wait_until(lambda: gc.collect() >= 0 and gone() is None, 5.0)


def test_a_waiting_request_expires_before_its_turn(worker: RequestWorker) -> None:
    results: list[Any] = []
    release = threading.Event()
    worker.submit(job(lambda _: release.wait(10.0), results), "queue", 8)
    worker.submit(job(lambda _: "late", results, timeout_s=0.05), "queue", 8)
    time.sleep(0.1)
    worker.expire()
    assert [type(r) for r in results] == [RequestTimeoutError]
    release.set()
    assert wait_until(lambda: len(results) == 2)


def test_an_idle_worker_takes_a_request_whatever_the_queue_size(worker: RequestWorker) -> None:
    results: list[Any] = []
    worker.submit(job(lambda _: "done", results), "queue", 0)
    assert wait_until(lambda: results == ["done"])


@pytest.mark.parametrize(("policy", "size"), [("reject", 8), ("queue", 0)])
def test_a_busy_worker_refuses_beyond_its_queue(
    worker: RequestWorker, policy: str, size: int
) -> None:
    release = threading.Event()
    worker.submit(job(lambda _: release.wait(10.0), []), policy, size)
    with pytest.raises(BusyError, match=policy):
        worker.submit(job(lambda _: None, []), policy, size)
    release.set()


def test_the_latest_item_wins_and_an_error_does_not_end_the_thread() -> None:
    seen: list[int] = []
    replaced: list[int] = []
    errors: list[BaseException] = []
    started, release = threading.Event(), threading.Event()

    def work(item: int) -> None:
        started.set()
        release.wait(10.0)
        seen.append(item)
        if item == 1:
            raise RuntimeError("planted")

    latest: LatestWorker[int] = LatestWorker("test", work, replaced.append, errors.append)
    latest.put(1)
    assert started.wait(5.0)
    for item in (2, 3, 4):
        latest.put(item)
    release.set()
    assert wait_until(lambda: seen == [1, 4])
    assert replaced == [2, 3]
    assert [str(error) for error in errors] == ["planted"]
    assert latest.stop()


def test_throttled_warnings_say_how_many_were_held_back() -> None:
    said: list[str] = []
    warn = ThrottledWarning(said.append, period_s=0.1)
    for _ in range(5):
        warn("a", "trouble")
    warn("b", "other")
    time.sleep(0.12)
    warn("a", "trouble")
    assert said == ["trouble", "other", "trouble (4 more like this)"]


def test_a_burst_that_comes_before_the_thread_takes_the_first(worker: RequestWorker) -> None:
    """The first counted as waiting under load, so that a queue of two took two, not three."""
    release, results = threading.Event(), list[Any]()
    worker.run_later(lambda: release.wait(10.0))  # the thread is busy, but with no request
    for _ in range(3):
        worker.submit(job(lambda _: "done", results), "queue", 2)
    with pytest.raises(BusyError, match="2 requests are waiting and one is running"):
        worker.submit(job(lambda _: "never", results), "queue", 2)
    release.set()
    assert wait_until(lambda: results == ["done"] * 3)


def test_waiting_jobs_that_can_run_together_do() -> None:
    """Up to batch_size from the head of the queue, in order; each gets its own outcome.

    One that cannot run with others ends the batch.
    """
    batches, results, gate = list[list[int]](), list[Any](), threading.Event()

    def run_batch(jobs: list[Job]) -> list[Any]:
        batches.append([job.batch for job in jobs])
        return [BusyError("no") if job.batch == 3 else job.batch for job in jobs]

    worker = RequestWorker(run_batch=run_batch)
    try:
        worker.batch_size = 3
        worker.submit(job(lambda _: gate.wait(5.0), results), "queue", 20)
        for number in (1, 2, 3, 4, None, 5, 6):
            made = job(lambda _, n=number: f"alone {n}", results)
            made.batch = number
            worker.submit(made, "queue", 20)
        gate.set()
        assert wait_until(lambda: len(results) == 8, 5.0)
    finally:
        assert worker.stop()
    assert batches == [[1, 2, 3], [5, 6]]
    assert [str(result) for result in results] == [
        "True",
        "1",
        "2",
        "no",
        "alone 4",
        "alone None",
        "5",
        "6",
    ]


def test_cancelling_reaches_every_job_of_a_batch() -> None:
    begun, results = threading.Event(), list[Any]()

    def run_batch(jobs: list[Job]) -> list[Any]:
        begun.set()
        assert wait_until(lambda: all(made.stop_error is not None for made in jobs), 5.0)
        return [RequestTimeoutError("stopped")] * len(jobs)

    gate = threading.Event()
    worker = RequestWorker(run_batch=run_batch)
    try:
        worker.batch_size = 2
        worker.submit(job(lambda _: gate.wait(5.0), results), "queue", 9)
        for number in (1, 2):
            made = job(lambda _: None, results)
            made.batch = number
            worker.submit(made, "queue", 9)
        gate.set()
        assert begun.wait(5.0)
        worker.cancel_all(CanceledError)
        assert wait_until(lambda: len(results) == 3, 5.0)
    finally:
        assert worker.stop()
    assert [type(result) for result in results[1:]] == [RequestTimeoutError] * 2


# -- background steps


class Steps:
    """Background steps, given out one by one: each waits for `release`, `left` are to do."""

    def __init__(self, left: int, held: bool = False) -> None:
        self.left, self.done, self.calls = left, 0, 0
        self.release, self.begun = threading.Semaphore(0 if held else 10**6), threading.Semaphore(0)

    def __call__(self) -> bool:
        self.calls += 1
        if not self.left:
            return False
        self.begun.release()
        assert self.release.acquire(timeout=10.0)
        self.left -= 1
        self.done += 1
        return True


def with_steps(steps: Any, **options: Any) -> RequestWorker:
    return RequestWorker(run_background_step=steps, **options)


@pytest.fixture
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No background step without a reason: a job, a notify, or more that is left."""
    monkeypatch.setattr("ada3d_ros.worker.IDLE_PERIOD_S", 1000.0)


@pytest.mark.usefixtures("never_idle")
def test_notify_wakes_it_and_it_goes_on_until_nothing_is_left() -> None:
    steps = Steps(0)
    worker = with_steps(steps)
    try:
        for count in (5, 1, 3):
            steps.left, before = count, steps.done
            worker.notify()
            assert wait_until(lambda before=before, count=count: steps.done == before + count)
        # One call each time that finds nothing to do, and no more.
        assert wait_until(lambda: steps.calls == 9 + 3)
    finally:
        assert worker.stop()


@pytest.mark.usefixtures("never_idle")
def test_steps_run_after_a_job_too() -> None:
    steps, results = Steps(3), list[Any]()
    worker = with_steps(steps)
    try:
        worker.submit(job(lambda _: steps.done, results), "queue", 1)
        assert wait_until(lambda: steps.done == 3)
        assert wait_until(lambda: len(results) == 1)
    finally:
        assert worker.stop()


def test_a_step_runs_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ada3d_ros.worker.IDLE_PERIOD_S", 0.001)
    steps = Steps(0)
    worker = with_steps(steps)
    try:
        assert wait_until(lambda: steps.calls > 5)
    finally:
        assert worker.stop()


@pytest.mark.usefixtures("never_idle")
def test_a_job_waits_for_one_step_at_most() -> None:
    steps = Steps(100, held=True)
    done_before: list[int] = []
    results: list[Any] = []
    worker = with_steps(steps)
    try:
        worker.notify()
        for number in range(1, 6):
            assert steps.begun.acquire(timeout=10.0)  # in the middle of a step
            for _ in range(2):
                worker.submit(
                    job(lambda _: done_before.append(steps.done) or "done", results), "queue", 8
                )
            worker.notify()
            assert len(results) == 2 * (number - 1)
            steps.release.release()
            assert wait_until(lambda number=number: len(results) == 2 * number)
        assert done_before == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    finally:
        steps.left = 1
        steps.release.release(100)
        assert worker.stop()


@pytest.mark.usefixtures("never_idle")
def test_loading_comes_before_background_steps() -> None:
    steps, order = Steps(2, held=True), list[str]()
    worker = with_steps(steps)
    try:
        worker.notify()
        assert steps.begun.acquire(timeout=10.0)
        worker.run_later(lambda: order.append(f"loaded after {steps.done}"))
        worker.submit(job(lambda _: order.append(f"answered after {steps.done}"), []), "queue", 1)
        steps.release.release(2)
        assert wait_until(lambda: len(order) == 2 and steps.done == 2)
        assert order == ["loaded after 1", "answered after 1"]
    finally:
        assert worker.stop()


@pytest.mark.usefixtures("never_idle")
def test_a_step_that_fails_is_reported_and_the_thread_lives_on() -> None:
    errors: list[BaseException] = []
    results: list[Any] = []
    called: list[int] = []
    plan: list[bool | Exception] = [RuntimeError("planted"), True, False, ValueError("again")]

    def step() -> bool:
        called.append(len(called))
        planned = plan[called[-1]]
        if isinstance(planned, Exception):
            raise planned
        return planned

    worker = with_steps(step, on_error=errors.append)
    try:
        worker.notify()
        assert wait_until(lambda: len(errors) == 1)
        worker.submit(job(lambda _: "done", results), "queue", 1)
        assert wait_until(lambda: results == ["done"])
        # One more after the job, and one that found nothing to do.
        assert wait_until(lambda: called == [0, 1, 2])
        worker.notify()
        assert wait_until(lambda: [str(error) for error in errors] == ["planted", "again"])
        assert worker.alive
    finally:
        assert worker.stop()


@pytest.mark.usefixtures("never_idle")
def test_stop_leaves_steps_undone() -> None:
    steps = Steps(10**9)
    worker = with_steps(steps)
    worker.notify()
    assert wait_until(lambda: steps.done > 3)
    assert worker.stop()
    assert not worker.alive
    assert steps.left > 0


@pytest.mark.usefixtures("never_idle")
def test_notify_without_background_steps_does_nothing(worker: RequestWorker) -> None:
    results: list[Any] = []
    for _ in range(100):
        worker.notify()
    worker.submit(job(lambda _: "done", results), "queue", 1)
    assert wait_until(lambda: results == ["done"])


# -- jobs of the lowest priority


def test_an_idle_job_waits_for_jobs_and_background_steps() -> None:
    """Order: what was submitted, then background steps to the last, then the idle job."""
    order: list[str] = []
    steps = iter([True, True, False])
    gate, done = threading.Event(), threading.Event()

    def step() -> bool:
        more = next(steps, False)
        order.append("step")
        return more

    def note(name: str) -> Job:
        return job_of(lambda job: order.append(name), done)

    worker = RequestWorker(run_background_step=step)
    worker.run_later(lambda: gate.wait(10.0) and None)
    idle = note("idle")
    worker.submit_idle(idle)
    worker.submit(note("job"), "queue", 4)
    assert (worker.queued, worker.busy) == (1, False)  # an idle job does not count
    gate.set()
    assert wait_until(lambda: "idle" in order)
    assert order[:4] == ["job", "step", "step", "step"]
    assert order[4] == "idle"
    worker.stop()


def test_a_job_stops_an_idle_one_and_is_not_refused() -> None:
    running, outcome = threading.Event(), []

    def run(job: Job) -> None:
        running.set()
        assert wait_until(lambda: job.stop_error is not None)
        job.check()

    worker = RequestWorker()
    idle = Job(run, lambda result, error: outcome.append(error), time.monotonic() + 60)
    worker.submit_idle(idle)
    assert running.wait(10.0)
    assert not worker.busy
    done = threading.Event()
    worker.submit(job_of(lambda job: None, done), "reject", 0)
    assert done.wait(10.0)
    assert [type(error) for error in outcome] == [PreemptedError]
    worker.stop()


def test_idle_jobs_end_with_the_others() -> None:
    outcome: list[Any] = []
    gate = threading.Event()
    worker = RequestWorker()
    worker.run_later(lambda: gate.wait(10.0) and None)
    on_done = lambda result, error: outcome.append(type(error))  # noqa: E731
    worker.submit_idle(Job(lambda job: None, on_done, time.monotonic() + 60))
    worker.cancel_all(SceneResetError)
    worker.submit_idle(Job(lambda job: None, on_done, time.monotonic() - 1))
    worker.expire()
    assert outcome == [SceneResetError, RequestTimeoutError]
    gate.set()
    worker.stop()


def job_of(run: Callable[[Job], Any], done: threading.Event) -> Job:
    """A job that says when its outcome was delivered."""
    return Job(run, lambda result, error: done.set(), time.monotonic() + 60)
