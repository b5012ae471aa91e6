"""The scenes of many robots on one model: what a replica of the server does, without any network.

Lists and keyframes are taken in on whatever thread brings them (scene_store.py); the model's thread
alone touches pipelines. Beyond the limits the least recently used scenes lose their cached prefix
first, later all.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.memory_plan import plan_workload
from ada3d_ros.errors import (
    BusyError,
    CanceledError,
    ConfigError,
    DeviceLostError,
    KeyframesMissingError,
    LoadingError,
    OutOfMemoryError,
)
from ada3d_ros.fleet.protocol import Call, SceneList
from ada3d_ros.fleet.scene_store import HostCounts, HostedScene, HostLimits, Key, SceneStore
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.memory import Workload
from ada3d_ros.model.startup import check_model, open_model
from ada3d_ros.pipeline import Ada3DPipeline, OpenedModel
from ada3d_ros.types import Answer, AskHooks, ModelInfo, StopReason
from ada3d_ros.worker import Job, RequestWorker

logger = logging.getLogger(__name__)
OnDone = Callable[[Answer | None, BaseException | None], None]
Scene = HostedScene[Ada3DPipeline]
FIRST_ANSWER_S = 1.0  # taken for the length of an answer before there was one
NEWEST = 0.1  # weight of the newest answer in the mean of their lengths


def plan_scenes(
    config: AgentConfig, limits: HostLimits, model: BackboneConfig, device: torch.device
) -> Workload:
    """What so many scenes ask of a model: one prefix each and one that is being built, the features
    of all their views.
    """
    one = plan_workload(config, model, device)
    copies = limits.prefixes + 1 if one.scene_copies else 0
    return replace(one, scene_copies=copies, max_views=one.max_views * limits.scenes)


def check_host(config: AgentConfig, limits: HostLimits = HostLimits()) -> None:
    """Look at what a SceneHost of this config will load; no weights are read. Raises ConfigError,
    ModelError (OutOfMemoryError where so many scenes do not fit).
    """
    _refuse_detector(config)
    check_model(config.model, functools.partial(plan_scenes, config, limits))


def _refuse_detector(config: AgentConfig) -> None:
    if config.detector.path:
        raise ConfigError(
            f"detector.path = {config.detector.path!r}: a server has keyframes alone, not the"
            " frames that a detector looks at. Leave it empty."
        )


class SceneHost:
    """Scenes by robot and session on one model. `load` first; `close` at the end."""

    def __init__(self, config: AgentConfig, limits: HostLimits = HostLimits()) -> None:
        _refuse_detector(config)
        self.config, self.limits = config, limits
        self.info: ModelInfo | None = None
        self.fault: BaseException | None = None  # after which nothing is answered any more
        self.finished = 0  # questions, whatever came of them
        self._opened: OpenedModel | None = None
        self.store: SceneStore[Ada3DPipeline] = SceneStore(limits, config.keyframe.max_views)
        self._ahead: deque[Key] = deque()  # scenes that wait for work between questions
        self._lock = threading.Lock()  # for _ahead
        self._mean_s = FIRST_ANSWER_S  # of answers
        self._worker = RequestWorker(
            "ada3d-fleet-model", self._on_error, run_background_step=self.run_background_step
        )

    def load(self) -> ModelInfo:
        """Plan the memory and read the weights, on the model's thread. Raises ConfigError,
        ModelError (OutOfMemoryError where so many scenes do not fit).
        """
        done, failures = threading.Event(), []

        def work() -> None:
            try:
                check_host(self.config, self.limits)
                self._opened = open_model(self.config.model)
                self.info = self._opened[1]
            except Exception as error:
                failures.append(error)
            done.set()

        self._worker.run_later(work)
        done.wait()
        if failures:
            raise failures[0]
        assert self.info is not None
        return self.info

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the model's thread; whether it ended in time."""
        return self._worker.stop(timeout_s)

    @property
    def opened(self) -> OpenedModel:
        """The model that all scenes share. Raises LoadingError before it is there."""
        if self._opened is None:
            raise LoadingError("the weights are not loaded yet.")
        return self._opened

    # -- scenes

    def put_scene(self, robot: str, session: str, listed: SceneList) -> tuple[int, ...]:
        """As SceneStore.put_scene."""
        missing = self.store.put_scene((robot, session), listed)
        if not missing:
            self._wake((robot, session))
        return missing

    def put_keyframe(self, robot: str, session: str, data: bytes) -> int:
        """As SceneStore.put_keyframe."""
        missing = self.store.put_keyframe((robot, session), data)
        if not missing:
            self._wake((robot, session))
        return missing

    def delete(self, robot: str, session: str) -> bool:
        """Forget a scene; whether there was one."""
        return self.store.delete((robot, session))

    # -- questions

    def start(
        self, robot: str, session: str, kind: str, call: Call, hooks: AskHooks, on_done: OnDone
    ) -> Job:
        """Queue a question; hooks and on_done are called on the model's thread. kind: of
        protocol.CALLS. Raises KeyframesMissingError, BusyError, LoadingError, and what stopped the
        model for good.
        """
        if self.fault is not None:
            raise self.fault
        key, _ = (robot, session), self.opened
        try:
            self.store.whole(key, call.digest)
        except KeyframesMissingError:
            self.store.count(missing=1)
            raise

        def finish(answer: Answer | None, error: BaseException | None) -> None:
            self.finished += 1
            if isinstance(error, DeviceLostError):
                self.fault = error
            self.store.count(answers=int(error is None), failed=int(error is not None))
            if answer is not None and answer.stop_reason is StopReason.CANCELED:
                self.store.count(canceled=1, canceled_tokens=answer.tokens.generated)
            on_done(answer, error)

        job = Job(
            lambda job: self._answer(key, kind, call, replace(hooks, check=job.check)),
            finish,
            deadline=time.monotonic() + call.timeout_s,
        )
        try:
            self._worker.submit(job, "queue", self.limits.waiting)
        except BusyError:
            after_s = float(math.ceil(max(1.0, self._mean_s * self._worker.queued)))
            raise BusyError(
                f"{self._worker.queued} questions wait at this server; ask again in {after_s:.0f}"
                " s.",
                after_s,
            ) from None
        return job

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more."""
        self._worker.cancel(job, CanceledError)

    def _answer(self, key: Key, kind: str, call: Call, hooks: AskHooks) -> Answer:
        """On the model's thread."""
        begun, emitted = time.monotonic(), False

        def on_text(delta: str, num_tokens: int) -> None:
            nonlocal emitted
            emitted = True
            hooks.on_text(delta, num_tokens)

        scene, pipeline = self._restored(key, call.digest)
        watched = replace(hooks, on_text=on_text)
        cached = pipeline.cache_report()
        hit = cached.kv_bytes > 0 and cached.version == scene.wanted.version
        try:
            answer = _ask(pipeline, kind, call, watched)
        except OutOfMemoryError:
            if emitted or not self._free_prefixes(keep=0, but=key):
                raise
            answer = _ask(pipeline, kind, call, watched)
        self._free_prefixes(keep=self.limits.prefixes, but=key)
        self.store.count(cache_hits=int(hit))
        self._mean_s += NEWEST * (time.monotonic() - begun - self._mean_s)
        return answer

    def _restored(self, key: Key, digest: str | None) -> tuple[Scene, Ada3DPipeline]:
        """A scene with its pipeline brought up to its list, on the model's thread."""
        scene, snapshot = self.store.whole(key, digest)
        if scene.pipeline is None:
            scene.pipeline = Ada3DPipeline(self.config, opened=self._opened)
            scene.pipeline.load()
        scene.pipeline.restore(snapshot)
        return scene, scene.pipeline

    # -- between questions

    def _wake(self, key: Key) -> None:
        """Its model part can be worked on ahead."""
        with self._lock:
            if key not in self._ahead:
                self._ahead.append(key)
        self._worker.notify()

    def run_background_step(self) -> bool:
        """A piece of work for the first scene that waits for it; whether more is left."""
        with self._lock:
            if not self._ahead or self._opened is None or self.fault is not None:
                return False
            key = self._ahead[0]
        more = False
        try:
            _, pipeline = self._restored(key, None)
            more = pipeline.run_background_step()
            self._free_prefixes(keep=self.limits.prefixes, but=key)
        except KeyframesMissingError:
            pass  # it changed meanwhile, or went
        finally:
            with self._lock:
                if not more and self._ahead and self._ahead[0] == key:
                    self._ahead.popleft()
                left = bool(self._ahead)
        return left

    # -- memory

    def _free_prefixes(self, keep: int, but: Key) -> int:
        """Free keys and values of the least recently used scenes, until so many have some, that of
        `but` among them; how many were freed. On the model's thread.
        """
        others = [scene for scene in self.store.others(but) if _kv_bytes(scene) > 0]
        surplus = others[: max(len(others) - max(keep - 1, 0), 0)]
        for scene in surplus:
            assert scene.pipeline is not None
            scene.pipeline.free_memory()
        self.store.count(freed_prefixes=len(surplus))
        return len(surplus)

    # -- numbers

    def counts(self) -> HostCounts:
        kv = [_kv_bytes(scene) for scene in self.store.scenes()]
        prefixes = sum(size > 0 for size in kv)
        return replace(self.store.counts(), prefixes=prefixes, kv_bytes=sum(kv))

    @property
    def waiting(self) -> int:
        return self._worker.queued

    @property
    def alive(self) -> bool:
        """Whether the model's thread is there, and its device works."""
        return self._worker.alive and self.fault is None

    @staticmethod
    def _on_error(error: BaseException) -> None:
        logger.error("between questions: %s", error, exc_info=error)


def _ask(pipeline: Ada3DPipeline, kind: str, call: Call, hooks: AskHooks) -> Answer:
    if kind == "measure":
        assert call.request is not None
        return pipeline.measure(call.request, hooks, call.question)
    return (
        pipeline.ground(call.question, hooks)
        if kind == "ground"
        else pipeline.ask(call.question, hooks)
    )


def _kv_bytes(scene: Scene) -> int:
    return 0 if scene.pipeline is None else scene.pipeline.cache_report().kv_bytes
