"""Progress of a goal of ~/ask_scene: the pipeline's hooks as action feedback."""

from __future__ import annotations

import time

from rclpy.action.server import ServerGoalHandle

from ada3d_ros.action import AskScene
from ada3d_ros.errors import CanceledError
from ada3d_ros.types import AskHooks, Stage
from ada3d_ros.worker import Job

FEEDBACK_PERIOD_S = 0.05


class GoalFeedback:
    """The pipeline's hooks as action feedback; text at most every FEEDBACK_PERIOD_S."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self._handle = handle
        self.job: Job | None = None
        self.request_id = 0  # of the answer to come
        self._started = time.monotonic()
        self._last_sent = 0.0
        self._pending = ""
        self._tokens = 0
        self._stage = Stage.QUEUED

    def hooks(self, job: Job) -> AskHooks:
        def check() -> None:
            if self._handle.is_cancel_requested:
                job.cancel(CanceledError)
            job.check()

        return AskHooks(check=check, on_stage=self._on_stage, on_text=self._on_text)

    def _on_stage(self, stage: Stage) -> None:
        self._send()
        self._stage = stage
        self._send(always=True)

    def _on_text(self, delta: str, num_tokens: int) -> None:
        self._pending += delta
        self._tokens = num_tokens
        if time.monotonic() - self._last_sent >= FEEDBACK_PERIOD_S:
            self._send()

    def _send(self, always: bool = False) -> None:
        if not (self._pending or always) or not self._handle.is_active:
            return
        self._handle.publish_feedback(
            AskScene.Feedback(
                request_id=self.request_id,
                stage=self._stage.value,
                delta=self._pending,
                tokens=self._tokens,
                elapsed_ms=(time.monotonic() - self._started) * 1e3,
            )
        )
        self._pending, self._last_sent = "", time.monotonic()
