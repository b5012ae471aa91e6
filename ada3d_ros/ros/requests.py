"""Questions in, answers out: the services, the action and the plain-text topic, all on one path.

Every entry makes a `Request`, queues it on the RequestWorker and awaits a Future that the worker
completes. The callbacks are `async` and in a reentrant group: with the default group the same code
dead-locks.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_msgs.msg import String

from ada3d_ros.action import AskScene
from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import (
    Ada3DError,
    CanceledError,
    ErrorCode,
    NoFramesError,
    NotGroundedError,
    StaleSceneError,
)
from ada3d_ros.measures import MeasureRequest
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.ros.conversions import (
    Request,
    boxes_to_msg,
    empty_answer_msg,
    error_of,
    fill_answer_msg,
    request_from_goal,
    request_from_ground,
    request_from_query,
)
from ada3d_ros.ros.diagnostics import InferenceMonitor
from ada3d_ros.ros.guard import guarded
from ada3d_ros.srv import GroundObject, Measure, QueryScene
from ada3d_ros.types import Answer, AskHooks, Question, SceneState, Stage, StopReason
from ada3d_ros.worker import Job, RequestWorker

FEEDBACK_PERIOD_S = 0.05
# Reliable; with the default depth of 10 a burst of requests is lost in silence.
BURST_QOS = QoSProfile(depth=100)


class Agent(Protocol):
    """What the requests need of the node."""

    worker: RequestWorker
    inference: InferenceMonitor

    @property
    def config(self) -> AgentConfig: ...

    def admit(self, text: str) -> None:
        """Raise a RequestError if a question cannot be taken now, or is not a question."""

    def answer(self, question: Question, hooks: AskHooks) -> Answer: ...
    def ground(self, question: Question, hooks: AskHooks) -> Answer: ...
    def measure(self, request: MeasureRequest, hooks: AskHooks) -> Answer: ...
    def check_scene_of(self, answer: Answer) -> None:
        """Raise a RequestError for an answer about a scene that there is no more."""

    def publish_answer(self, message: AnswerMsg) -> None: ...
    def model_name(self) -> str: ...
    def report_error(self, where: str, error: BaseException, trace: str) -> None: ...


def check_scene(
    scene: SceneState, missing: Callable[[], str], now_ns: int, max_age_s: float
) -> None:
    """Refuse a question without a scene, or about one older than `max_age_s` (0 = any age)."""
    if scene.num_keyframes == 0:
        raise NoFramesError(f"no keyframe yet: {missing()}")
    age_s = (now_ns - scene.newest_ns) / 1e9
    if max_age_s > 0 and age_s > max_age_s:
        raise StaleSceneError(
            f"the newest keyframe is {age_s:.1f} s old, scene.max_age_sec is {max_age_s:g}; move"
            " the camera or check the inputs."
        )


class RequestServer:
    """Serves ~/query, ~/ground, ~/measure, ~/ask_scene and ~/question from one queue."""

    def __init__(self, node: LifecycleNode, agent: Agent) -> None:
        self._node, self._agent = node, agent
        self._last_id = 0
        self.open = 0  # requests that wait for their answer
        self._goals: dict[bytes, _GoalFeedback] = {}  # those that wait or run, by goal id

        # Reentrant: one question waits for its answer while others come in.
        group = ReentrantCallbackGroup()
        create = partial(node.create_service, callback_group=group, qos_profile=BURST_QOS)
        create(QueryScene, "~/query", self._on_query)
        create(GroundObject, "~/ground", self._on_ground)
        create(Measure, "~/measure", self._on_measure)
        node.create_subscription(
            String, "~/question", self._on_question, BURST_QOS, callback_group=group
        )
        self._action = ActionServer(
            node,
            AskScene,
            "~/ask_scene",
            execute_callback=self._on_goal_execute,
            cancel_callback=self._on_cancel,
            callback_group=group,
            goal_service_qos_profile=BURST_QOS,
            cancel_service_qos_profile=BURST_QOS,
            result_service_qos_profile=BURST_QOS,
        )

    def close(self) -> None:
        self._action.destroy()

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        self._agent.report_error(where, error, trace)

    # -- entries

    def _failed_query(self, error: Exception, request: Any, response: Any) -> Any:
        response.answer = self._failure_msg(request.question, error)
        return response

    @guarded(_failed_query)
    async def _on_query(self, request: Any, response: Any) -> Any:
        response.answer = await self._handle(request.question, lambda: request_from_query(request))
        return response

    def _failed(self, error: Exception, request: Any, response: Any) -> Any:
        response.error_code, response.error_msg = error_of(error)
        return response

    @guarded(_failed)
    async def _on_ground(self, request: Any, response: Any) -> Any:
        answer = await self._handle(request.phrase, lambda: request_from_ground(request))
        response.success = answer.success
        response.error_code, response.error_msg = answer.error_code, answer.error_msg
        response.result, response.answer = boxes_to_msg(answer), answer
        return response

    @guarded(_failed)
    async def _on_measure(self, request: Any, response: Any) -> Any:
        from ada3d_ros.ros.measuring import describe, request_from_measure  # where it is used

        answer = await self._handle(describe(request), lambda: request_from_measure(request))
        response.success = answer.success
        response.error_code, response.error_msg = answer.error_code, answer.error_msg
        response.header, response.measurement = answer.header, answer.measurement
        return response

    @guarded()
    async def _on_question(self, message: String) -> None:
        await self._handle(message.data, lambda: Request(Question(message.data)))

    @guarded(lambda self, error, handle: CancelResponse.ACCEPT)
    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        goal = self._goals.get(bytes(handle.goal_id.uuid))
        if goal is not None and goal.job is not None:
            self._agent.worker.cancel(goal.job, CanceledError)
        return CancelResponse.ACCEPT

    def _failed_goal(self, error: Exception, handle: ServerGoalHandle) -> Any:
        if handle.is_active:
            handle.abort()
        answer = self._failure_msg(handle.request.question, error)
        return AskScene.Result(
            error_code=answer.error_code, error_msg=answer.error_msg, answer=answer
        )

    @guarded(_failed_goal)
    async def _on_goal_execute(self, handle: ServerGoalHandle) -> Any:
        # Answer it, within reach of `_on_cancel` meanwhile.
        key, goal = bytes(handle.goal_id.uuid), _GoalFeedback(handle)
        self._goals[key] = goal
        asked = handle.request
        try:
            answer = await self._handle(asked.question, lambda: request_from_goal(asked), goal)
        finally:
            del self._goals[key]

        # What became of it is the goal's status, and in the result.
        if answer.error_code == ErrorCode.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        elif answer.success:
            handle.succeed()
        else:
            handle.abort()
        return AskScene.Result(
            success=answer.success,
            error_code=answer.error_code,
            error_msg=answer.error_msg,
            answer=answer,
        )

    # -- the one path

    async def _handle(
        self, text: str, build: Callable[[], Request], feedback: _GoalFeedback | None = None
    ) -> AnswerMsg:
        """Check, queue, wait, publish. Every outcome is a message with a code; nothing raises."""
        monitor = self._agent.inference  # of the model that is asked, also if it goes meanwhile
        monitor.requests += 1
        self._last_id += 1
        self.open += 1
        message = self._new_answer_msg(text)
        if feedback is not None:
            feedback.request_id = message.request_id
        try:
            # 1. Refuse what cannot be answered now, or is out of range.
            self._agent.admit(text)
            request = build()
            message.deadline_ms = request.deadline_ms

            # 2. Queue it, and let the executor go on until the inference thread is done with it.
            job, future = self._submit(request, message.request_id, feedback)
            if feedback is not None:
                feedback.job = job
            answer, error = await future
            if answer is not None:
                self._agent.check_scene_of(answer)
                monitor.last_tokens = answer.tokens

            # 3. Answer, boxes, tokens and times into the message.
            self._complete(message, request, job, answer, error)
        except Exception as error:
            # An error of ours without a cause was raised on purpose, for the caller to read.
            if not isinstance(error, Ada3DError) or error.__cause__ is not None:
                trace = "".join(traceback.format_exception(error))
                self._agent.report_error(f"request {message.request_id}", error, trace)
            message.error_code, message.error_msg = error_of(error)

        # 4. Count it, and tell everybody who listens.
        self.open -= 1
        self._note(message, monitor)
        self._agent.publish_answer(message)
        return message

    def _submit(
        self, request: Request, request_id: int, feedback: _GoalFeedback | None
    ) -> tuple[Job, Future]:
        """The queued job, and the future of its (answer, error). Raises BusyError."""
        executor = self._node.executor
        assert executor is not None  # a callback of this node is running
        future: Future = Future(executor=executor)
        config = self._agent.config

        def prepare(job: Job) -> tuple[Question, AskHooks]:
            """On the inference thread: the question with what is left of its deadline."""
            job.started_ns = self._node.get_clock().now().nanoseconds
            left_s = request.deadline_ms / 1e3 - (job.started - job.accepted)
            if not math.isnan(left_s):  # NaN without a deadline
                left_s = max(left_s, 0.0)
            hooks = AskHooks(check=job.check) if feedback is None else feedback.hooks(job)
            return replace(request.question, deadline_s=left_s), hooks

        def run(job: Job) -> Answer:
            question, hooks = prepare(job)
            if request.measure is not None:
                answer = self._agent.measure(request.measure, hooks)
                return replace(answer, question=question.text)
            ask = self._agent.ground if request.ground else self._agent.answer
            return ask(question, hooks)

        def on_done(answer: Answer | None, error: BaseException | None) -> None:
            future.set_result((answer, error))
            executor.wake()  # a future set from another thread does not wake an idle executor

        # Only questions that may share the model's steps with others run as one batch.
        timeout_s = request.timeout_s or config.generation.timeout_sec
        job = Job(run, on_done, deadline=time.monotonic() + timeout_s, request_id=request_id)
        question = replace(request.question, deadline_s=request.deadline_ms)
        if not request.ground and request.measure is None and question.shareable:
            job.batch = prepare
        self._agent.worker.batch_size = config.action.batch_size
        self._agent.worker.submit(job, config.action.policy, config.action.queue_size)
        return job, future

    def _complete(
        self,
        message: AnswerMsg,
        request: Request,
        job: Job,
        answer: Answer | None,
        error: BaseException | None,
    ) -> None:
        """Fill the message. Raises `error`, or why the answer is none; text so far is kept."""
        finished = time.monotonic()
        wait_s = (finished if math.isnan(job.started) else job.started) - job.accepted
        if error is not None:
            raise error
        assert answer is not None
        now_ns = self._node.get_clock().now().nanoseconds
        fill_answer_msg(message, answer, wait_s, finished - job.accepted, job.started_ns, now_ns)

        # Stopped in the middle, or a phrase without a box: an error all the same.
        if answer.stop_reason in (StopReason.TIMEOUT, StopReason.CANCELED):
            job.check()
        if request.ground and not message.boxes:
            raise NotGroundedError(
                f"no box for {request.question.text!r}: the model gave none that depth supports. It"
                f" said: {message.text[:200]!r}"
            )
        message.success = True
        message.deadline_kept = message.latency.total_ms <= request.deadline_ms  # False for NaN

    def _new_answer_msg(self, text: str) -> AnswerMsg:
        frame_id, model = self._agent.config.world_frame, self._agent.model_name()
        return empty_answer_msg(text, self._last_id, frame_id, model)

    def _failure_msg(self, text: str, error: Exception) -> AnswerMsg:
        message = self._new_answer_msg(text)
        message.error_code, message.error_msg = error_of(error)
        return message

    def _note(self, message: AnswerMsg, monitor: InferenceMonitor) -> None:
        """Count an outcome, and its times where it is an answer."""
        if not message.success:
            name = ErrorCode(message.error_code).name.lower()
            monitor.failed[name] += 1
            monitor.last_error = message.error_msg
            warning = f"request {message.request_id}: {name}: {message.error_msg}"
            self._node.get_logger().warning(warning)
            return
        monitor.succeeded += 1
        latency = message.latency
        for stage, window in monitor.windows.items():
            window.add(getattr(latency, f"{stage}_ms"))
        if latency.decode_ms > 0 and message.tokens.generated > 1:
            monitor.tokens_per_s.add((message.tokens.generated - 1) / latency.decode_ms * 1e3)


class _GoalFeedback:
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
