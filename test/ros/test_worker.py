"""The two worker threads: what they let go of, when waiting requests expire, what they survive."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ada3d_ros.errors import BusyError, CanceledError, RequestTimeoutError
from ada3d_ros.ros.guard import ThrottledWarning
from ada3d_ros.ros.worker import Job, LatestWorker, RequestWorker
from test.ros.conftest import wait_until


@pytest.fixture
def worker() -> Iterator[RequestWorker]:
    made = RequestWorker()
    yield made
    assert made.stop()


def job(run: Any, results: list[Any], timeout_s: float = 10.0) -> Job:
    return Job(run, lambda result, error: results.append(error or result), deadline=time.monotonic() + timeout_s)


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
def test_a_busy_worker_refuses_beyond_its_queue(worker: RequestWorker, policy: str, size: int) -> None:
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
    """The first of five counted as waiting, so that a queue of two took two instead of three; under load only."""
    release, results = threading.Event(), list[Any]()
    worker.run_later(lambda: release.wait(10.0))  # the thread is busy with something that is no request
    for _ in range(3):
        worker.submit(job(lambda _: "done", results), "queue", 2)
    with pytest.raises(BusyError, match="2 requests are waiting and one is running"):
        worker.submit(job(lambda _: "never", results), "queue", 2)
    release.set()
    assert wait_until(lambda: results == ["done"] * 3)


def test_waiting_jobs_that_can_run_together_do() -> None:
    """Up to batch_size from the front of the queue, in order; one that cannot breaks the batch; each gets its own outcome."""
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
    assert [str(result) for result in results] == ["True", "1", "2", "no", "alone 4", "alone None", "5", "6"]


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
