"""Questions in, answers out: the services, the action and the plain-text topic, all on one path.

Every entry makes a `_Request`, queues it on the RequestWorker and awaits a Future that the worker
completes. The callbacks are `async` and in a reentrant group: with the default group the same code
dead-locks.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_msgs.msg import String

from ada3d_ros.action import AskScene
from ada3d_ros.config import SETTINGS, AgentConfig
from ada3d_ros.errors import (
    Ada3DError,
    CanceledError,
    ErrorCode,
    InvalidRequestError,
    NoFramesError,
    NotGroundedError,
    StaleSceneError,
)
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.pipeline import shareable
from ada3d_ros.ros.conversions import boxes_to_msg, empty_answer_msg, error_of, fill_answer_msg
from ada3d_ros.ros.diagnostics import InferenceMonitor
from ada3d_ros.ros.guard import guarded
from ada3d_ros.ros.worker import Job, RequestWorker
from ada3d_ros.srv import GroundObject, QueryScene
from ada3d_ros.types import Answer, AskHooks, Question, SceneState, Scope, Stage, StopReason

FEEDBACK_PERIOD_S = 0.05
BURST_QOS = QoSProfile(
    depth=100
)  # reliable; with the default depth of 10 a burst of requests is lost in silence


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
    def publish_answer(self, message: AnswerMsg) -> None: ...
    def model_name(self) -> str: ...
    def report_error(self, where: str, error: BaseException, trace: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Request:
    """What a caller asked, in our types."""

    question: Question
    ground: bool = False
    timeout_s: float = 0.0
    deadline_ms: float = math.nan


def checked_number(name: str, value: float, low: float, high: float) -> float:
    """`value`, or NaN where it is 0 (not given). Raises InvalidRequestError outside low..high."""
    if value == 0:
        return math.nan
    if not low <= value <= high:  # also catches NaN
        raise InvalidRequestError(
            f"{name} = {value:g} is out of range; allowed: {low:g} to {high:g}, or 0 for the node's"
            " default."
        )
    return float(value)


def _limit(name: str, value: float, setting: str) -> float:
    s = SETTINGS[setting]
    return checked_number(name, value, float(s.low or 0.0), float(s.high or math.inf))


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
    """Serves ~/query, ~/ground, ~/ask_scene and ~/question from one queue."""

    def __init__(self, node: LifecycleNode, agent: Agent) -> None:
        self._node, self._agent = node, agent
        self._last_id = 0
        self._goals: dict[bytes, _GoalFeedback] = {}  # those that wait or run, by goal id
        group = ReentrantCallbackGroup()
        node.create_service(
            QueryScene, "~/query", self._on_query, callback_group=group, qos_profile=BURST_QOS
        )
        node.create_service(
            GroundObject, "~/ground", self._on_ground, callback_group=group, qos_profile=BURST_QOS
        )
        node.create_subscription(
            String, "~/question", self._on_question, BURST_QOS, callback_group=group
        )
        self._action = ActionServer(
            node,
            AskScene,
            "~/ask_scene",
            execute_callback=self._on_goal_execute,
            goal_callback=self._on_goal,
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
        response.answer = await self._handle(request.question, lambda: self._query_request(request))
        return response

    def _failed_ground(self, error: Exception, request: Any, response: Any) -> Any:
        response.error_code, response.error_msg = error_of(error)
        return response

    @guarded(_failed_ground)
    async def _on_ground(self, request: Any, response: Any) -> Any:
        answer = await self._handle(request.phrase, lambda: self._ground_request(request))
        response.success, response.error_code, response.error_msg = (
            answer.success,
            answer.error_code,
            answer.error_msg,
        )
        response.result, response.answer = boxes_to_msg(answer), answer
        return response

    @guarded()
    async def _on_question(self, message: String) -> None:
        await self._handle(message.data, lambda: _Request(Question(message.data)))

    def _on_goal(self, goal: Any) -> GoalResponse:
        try:
            self._agent.admit(goal.question)
            self._goal_request(goal)
        except Exception as error:  # a refused goal carries no reason in ROS 2: log it
            self._node.get_logger().warning(f"goal refused: {error_of(error)[1]}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    @guarded(lambda self, error, handle: CancelResponse.ACCEPT)
    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        goal = self._goals.get(bytes(handle.goal_id.uuid))
        if goal is not None and goal.job is not None:
            self._agent.worker.cancel(goal.job, CanceledError)
        return CancelResponse.ACCEPT

    def _failed_goal(self, error: Exception, handle: ServerGoalHandle) -> Any:
        if handle.is_active:
            handle.abort()
        code, text = error_of(error)
        return AskScene.Result(
            error_code=code,
            error_msg=text,
            answer=self._failure_msg(handle.request.question, error),
        )

    @guarded(_failed_goal)
    async def _on_goal_execute(self, handle: ServerGoalHandle) -> Any:
        key, goal = bytes(handle.goal_id.uuid), _GoalFeedback(handle)
        self._goals[key] = goal
        try:
            answer = await self._handle(
                handle.request.question, lambda: self._goal_request(handle.request), goal
            )
        finally:
            del self._goals[key]
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

    # -- what was asked

    def _query_request(self, request: Any) -> _Request:
        if request.scope not in list(Scope):
            raise InvalidRequestError(
                f"scope = {request.scope}; allowed:"
                f" {', '.join(f'{s.value} ({s.name})' for s in Scope)}."
            )
        return self._common(
            request,
            Question(
                request.question,
                scope=Scope(request.scope),
                max_new_tokens=self._max_tokens(request),
            ),
        )

    def _goal_request(self, goal: Any) -> _Request:
        request = self._query_request(goal)
        return replace(request, question=replace(request.question, want_boxes=goal.want_boxes))

    def _ground_request(self, request: Any) -> _Request:
        _limit("max_boxes", request.max_boxes, "boxes.max_count")
        _limit("min_score", request.min_score, "boxes.min_score")
        question = Question(
            request.phrase, max_boxes=request.max_boxes, min_score=request.min_score
        )
        return replace(self._common(request, question), ground=True)

    def _max_tokens(self, request: Any) -> int:
        _limit("max_new_tokens", request.max_new_tokens, "generation.max_new_tokens")
        return int(request.max_new_tokens)

    def _common(self, request: Any, question: Question) -> _Request:
        timeout = _limit("timeout_sec", request.timeout_sec, "generation.timeout_sec")
        keep = _limit("keep_ratio", request.keep_ratio, "pruning.keep_ratio")
        deadline = checked_number("deadline_ms", request.deadline_ms, 1.0, 600_000.0)
        return _Request(
            replace(
                question, keep_ratio=round(keep, 6)
            ),  # float32 on the wire: 0.7 came as 0.699999988
            timeout_s=0.0 if math.isnan(timeout) else timeout,
            deadline_ms=deadline,
        )

    # -- the one path

    async def _handle(
        self, text: str, build: Callable[[], _Request], feedback: _GoalFeedback | None = None
    ) -> AnswerMsg:
        """Check, queue, wait, publish. Every outcome is an Answer message with a code; nothing is
        raised.
        """
        self._agent.inference.requests += 1
        self._last_id += 1
        message = empty_answer_msg(
            text, self._last_id, self._agent.config.world_frame, self._agent.model_name()
        )
        try:
            self._agent.admit(text)
            request = build()
            message.deadline_ms = request.deadline_ms
            job, future = self._submit(request, message.request_id, feedback)
            if feedback is not None:
                feedback.job = job
            answer, error = await future
            self._complete(message, request, job, answer, error)
        except Exception as error:
            if (
                not isinstance(error, Ada3DError) or error.__cause__ is not None
            ):  # not raised on purpose alone
                self._agent.report_error(
                    f"request {message.request_id}",
                    error,
                    "".join(traceback.format_exception(error)),
                )
            message.error_code, message.error_msg = error_of(error)
        self._note(message)
        self._agent.publish_answer(message)
        return message

    def _submit(
        self, request: _Request, request_id: int, feedback: _GoalFeedback | None
    ) -> tuple[Job, Future]:
        executor = self._node.executor
        assert executor is not None  # a callback of this node is running
        future: Future = Future(executor=executor)
        config = self._agent.config

        def prepare(job: Job) -> tuple[Question, AskHooks]:
            job.started_ns = self._node.get_clock().now().nanoseconds
            hooks = (
                AskHooks(
                    check=lambda: self._check(job, feedback),
                    on_stage=feedback.on_stage,
                    on_text=feedback.on_text,
                )
                if feedback
                else AskHooks(check=job.check)
            )
            left_s = request.deadline_ms / 1e3 - (
                job.started - job.accepted
            )  # NaN without a deadline
            return (
                replace(
                    request.question, deadline_s=left_s if left_s != left_s else max(left_s, 0.0)
                ),
                hooks,
            )

        def run(job: Job) -> Answer:
            return (self._agent.ground if request.ground else self._agent.answer)(*prepare(job))

        def on_done(answer: Answer | None, error: BaseException | None) -> None:
            future.set_result((answer, error))
            executor.wake()  # a future set from another thread does not wake an idle executor

        timeout_s = request.timeout_s or config.generation.timeout_sec
        job = Job(run, on_done, deadline=time.monotonic() + timeout_s, request_id=request_id)
        if not request.ground and shareable(
            replace(request.question, deadline_s=request.deadline_ms)
        ):
            job.batch = prepare
        self._agent.worker.batch_size = config.action.batch_size
        self._agent.worker.submit(job, config.action.policy, config.action.queue_size)
        return job, future

    @staticmethod
    def _check(job: Job, feedback: _GoalFeedback) -> None:
        if feedback.handle.is_cancel_requested:
            job.cancel(CanceledError)
        job.check()

    def _complete(
        self,
        message: AnswerMsg,
        request: _Request,
        job: Job,
        answer: Answer | None,
        error: BaseException | None,
    ) -> None:
        finished = time.monotonic()
        wait_s = (finished if math.isnan(job.started) else job.started) - job.accepted
        if error is not None:
            raise error
        assert answer is not None
        now_ns = self._node.get_clock().now().nanoseconds
        self._agent.inference.last_tokens = answer.tokens
        fill_answer_msg(message, answer, wait_s, finished - job.accepted, job.started_ns, now_ns)
        if answer.stop_reason in (
            StopReason.TIMEOUT,
            StopReason.CANCELED,
        ):  # the text so far is kept
            job.check()
        if request.ground and not message.boxes:
            raise NotGroundedError(
                f"no box for {request.question.text!r}: the model gave none that depth supports. It"
                f" said: {message.text[:200]!r}"
            )
        message.success = True
        message.deadline_kept = message.latency.total_ms <= request.deadline_ms  # False for NaN

    def _failure_msg(self, text: str, error: Exception) -> AnswerMsg:
        message = empty_answer_msg(
            text, self._last_id, self._agent.config.world_frame, self._agent.model_name()
        )
        message.error_code, message.error_msg = error_of(error)
        return message

    def _note(self, message: AnswerMsg) -> None:
        monitor = self._agent.inference
        if not message.success:
            name = ErrorCode(message.error_code).name.lower()
            monitor.failed[name] += 1
            monitor.last_error = message.error_msg
            self._node.get_logger().warning(
                f"request {message.request_id}: {name}: {message.error_msg}"
            )
            return
        monitor.succeeded += 1
        latency = message.latency
        for stage, window in monitor.windows.items():
            window.add(getattr(latency, f"{stage}_ms"))
        if latency.decode_ms > 0 and message.tokens.generated > 1:
            monitor.tokens_per_s.add((message.tokens.generated - 1) / latency.decode_ms * 1e3)


class _GoalFeedback:
    """Turns the pipeline's hooks into action feedback; text is sent in pieces at most every
    FEEDBACK_PERIOD_S.
    """

    def __init__(self, handle: ServerGoalHandle) -> None:
        self.handle = handle
        self.job: Job | None = None
        self._started = time.monotonic()
        self._last_sent = 0.0
        self._pending = ""
        self._tokens = 0
        self._stage = Stage.QUEUED

    def on_stage(self, stage: Stage) -> None:
        self._send()
        self._stage = stage
        self._send(always=True)

    def on_text(self, delta: str, num_tokens: int) -> None:
        self._pending += delta
        self._tokens = num_tokens
        if time.monotonic() - self._last_sent >= FEEDBACK_PERIOD_S:
            self._send()

    def _send(self, always: bool = False) -> None:
        if not (self._pending or always) or not self.handle.is_active:
            return
        elapsed_ms = (time.monotonic() - self._started) * 1e3
        self.handle.publish_feedback(
            AskScene.Feedback(
                stage=self._stage.value,
                delta=self._pending,
                tokens=self._tokens,
                elapsed_ms=elapsed_ms,
            )
        )
        self._pending, self._last_sent = "", time.monotonic()
