"""The lifecycle node: wires parameters, inputs, the pipeline, requests and diagnostics together.

configure checks files and starts loading the weights in the inference thread; activate opens the
inputs; services answer in every state, with an error code where they cannot help. The executor
thread never does torch work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from std_srvs.srv import SetBool, Trigger

from ada3d_ros.config import AgentConfig
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import (
    LoadingError,
    ModelError,
    NodeStoppedError,
    NotActiveError,
    SceneResetError,
)
from ada3d_ros.measures import MeasureRequest, ObjectsSnapshot
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.ros.conversions import error_of
from ada3d_ros.ros.detector_diagnostics import detector_task
from ada3d_ros.ros.diagnostics import add_tasks
from ada3d_ros.ros.guard import guarded
from ada3d_ros.ros.lifecycle import FINALIZED_TEXT, OK, AgentLifecycle, PipelineFactory
from ada3d_ros.ros.objects import ObjectServer
from ada3d_ros.ros.outputs import AgentOutputs
from ada3d_ros.ros.requests import RequestServer, check_scene
from ada3d_ros.ros.scene_outputs import SceneOutputs
from ada3d_ros.ros.scene_saving import store_task
from ada3d_ros.ros.scenes import SceneServer
from ada3d_ros.ros.standing import StandingServer
from ada3d_ros.ros.status import status_msg
from ada3d_ros.ros.sync import MIN_JUMP_NS
from ada3d_ros.sources.messages import PosedSet
from ada3d_ros.srv import GetModelInfo
from ada3d_ros.types import Answer, AskHooks, Question
from ada3d_ros.worker import STOP_TEXTS

if TYPE_CHECKING:
    from ada3d_ros.create_pipeline import AnyPipeline

MODEL_INFO_FIELDS = (
    *("name", "revision", "sha256", "device", "precision", "parameters", "max_input_tokens"),
    *("random_weights", "has_3d", "has_grounding_head"),
)


class AgentNode(AgentLifecycle):
    """`ada3d_agent`: questions about the place in, answers and 3D boxes out."""

    def __init__(self, pipeline_factory: PipelineFactory = create_pipeline, **options: Any) -> None:
        super().__init__(pipeline_factory, **options)
        self._closed = False  # the process is about to end

        # topics and services
        self._outputs = AgentOutputs(self, self.config.diagnostic_updater.use_fqn)
        add_tasks(self._outputs.updater, self)
        self._outputs.updater.add("Detector", lambda: detector_task(self))
        self.objects = ObjectServer(self)
        self.scenes = SceneServer(self)
        self._outputs.updater.add("Store", lambda: store_task(self.scenes))
        self.scene_outputs = SceneOutputs(self)
        self._requests = RequestServer(self, self)
        self.standing = StandingServer(self, self._requests)
        self._create_services()

        # reports, also under use_sim_time without /clock
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period_s = self.config.diagnostic_updater.period
        self.create_timer(1.0, self._publish_status, clock=steady)
        self._diagnostics_timer = self.create_timer(
            period_s, self._publish_diagnostics, clock=steady
        )
        self.last_set_s = time.monotonic()
        self._jump_text, self._jump_epoch = "", -1  # the last jump in time, and the scene of it
        self._watch_clock()
        self._publish_status()

    def _create_services(self) -> None:
        group = ReentrantCallbackGroup()
        for service, name, callback in (
            (GetModelInfo, "~/get_model_info", self._on_model_info),
            (Trigger, "~/reset_scene", self._on_reset),
            (SetBool, "~/set_paused", self._on_pause),
        ):
            self.create_service(service, name, callback, callback_group=group)

    def _watch_clock(self) -> None:
        step = Duration(nanoseconds=MIN_JUMP_NS)
        jumps = JumpThreshold(
            min_forward=step, min_backward=Duration(nanoseconds=-MIN_JUMP_NS), on_clock_change=False
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            jumps, post_callback=self._clock_jumped
        )

    @property
    def open_requests(self) -> int:
        """How many callers wait for their answer."""
        return self._requests.open

    def close_requests(self) -> None:
        """Before the process ends: take no question any more, stop those that wait or run."""
        self._closed = True
        self.worker.cancel_all(NodeStoppedError)

    def destroy_node(self, join_s: float = 2.0) -> None:
        """Stop the threads, waiting `join_s` seconds for each, then the node."""
        self._release(join_s)
        self.worker.stop(join_s)
        self.scene_outputs.close(join_s)
        self._requests.close()
        self._core_log.close()
        super().destroy_node()

    # -- scene

    def _on_set(self, messages: PosedSet) -> None:
        if self.intake is None:
            return
        step_ns = messages.stamp_ns - self._last_set_ns if self._last_set_ns >= 0 else 0
        waited_s, self.last_set_s = time.monotonic() - self.last_set_s, time.monotonic()
        # No images for hours, by our own clock as well: the camera was off.
        was_off = step_ns > 0 and abs(step_ns / 1e9 - waited_s) < self.config.input.max_gap_sec / 2
        jumped = self._is_jump(step_ns) and not was_off
        jumped = jumped and not self.scenes.clock_came_right(self._last_set_ns)
        if self.paused:  # a jump is noticed by the first set after the pause
            self._last_set_ns = self._last_set_ns if jumped else messages.stamp_ns
            return
        self._last_set_ns = messages.stamp_ns
        if jumped:
            self._time_jump(f"image stamps {_jump_text(step_ns)}")
        if self.detections is not None:
            self.detections.detector.note_camera(messages.stamp_ns, messages.info)
        self.intake.put(messages)
        self.scene_outputs.note_set(messages)

    def _is_jump(self, step_ns: int) -> bool:
        """Whether two stamps this far apart are of different runs or recordings."""
        return step_ns < -MIN_JUMP_NS or 0 < self.config.input.max_gap_sec * 1e9 <= step_ns

    @guarded()
    def _clock_jumped(self, jump: TimeJump) -> None:
        step_ns = jump.delta.nanoseconds
        was_set = self.get_clock().now().nanoseconds - step_ns > 0  # else it is the first /clock
        if self.pipeline is not None and was_set and self._is_jump(step_ns):
            self._forget_inputs()
            self._time_jump(f"the clock {_jump_text(step_ns)}")

    def _time_jump(self, what: str) -> None:
        # Begin a new scene, or keep the one there is.
        if self.config.reset_on_time_jump:
            self._jump_text = f"{what}: the scene starts anew."
            self._reset_scene()
        else:
            self._jump_text = (
                f"{what}; the scene is kept (reset_on_time_jump is false). Call ~/reset_scene if"
                " this is another place."
            )
            if self.pipeline is not None:
                self.pipeline.allow_earlier_stamps()

        # Say it: once in the log, in the status while the scene lasts.
        self.get_logger().warning(self._jump_text)
        if self.pipeline is not None:
            self._jump_epoch = self.pipeline.scene_state().epoch

    def _forget_inputs(self) -> None:
        """The next messages are taken as the first."""
        if self.inputs is not None:
            self.inputs.clear()
        if self.detections is not None:
            self.detections.detector.clear()
        self._last_set_ns = -1

    def _reset_scene(self) -> None:
        # first: no waiting question may start on the empty scene
        self.drop_scene()
        if self.pipeline is not None:
            self.pipeline.reset_scene()
            self.scenes.note_scene()
        self.scene_changed()

    def drop_scene(self) -> None:
        """Before there is another scene: no question and no frame of the old one comes to it."""
        self.worker.cancel_all(SceneResetError)
        if self.intake is not None:
            self.intake.clear()

    def scene_changed(self) -> None:
        """There is another scene."""
        self.standing.follow_scene()
        self._clear_outputs()
        self._publish_status()

    def _clear_outputs(self) -> None:
        self._outputs.clear_markers()
        self.scene_outputs.clear()
        self.objects.update()

    def _publish_objects(self) -> None:
        self.objects.update()
        self.scenes.note_objects()

    def _keyframe_admitted(self) -> None:
        self.worker.notify()
        self.scenes.note_scene()
        self.scene_outputs.update()

    def _forget(self) -> None:
        super()._forget()
        self._jump_epoch = -1  # scenes count from 0 again

    def _settings_changed(self, config: AgentConfig, names: set[str]) -> None:
        super()._settings_changed(config, names)
        if "diagnostic_updater.period" in names:
            self._diagnostics_timer.timer_period_ns = int(config.diagnostic_updater.period * 1e9)

    # -- what requests need

    def admit(self, text: str, scene: str = "") -> None:
        """Raise the RequestError that says why a question cannot be taken now, or is none. scene:
        that it is about, '' = the one in use.
        """
        # a model, and inputs
        pipeline = self.active_pipeline()
        if self.paused:
            raise NotActiveError("the node is paused; call ~/set_paused with data: false.")
        _check_loaded(pipeline)

        # a question, and a scene
        pipeline.check_question(text)
        if self.scenes.check_named(scene):
            return
        now_ns = self.get_clock().now().nanoseconds
        check_scene(
            pipeline.scene_state(),
            self.health.why_no_keyframe,
            now_ns,
            self.config.scene.max_age_sec,
        )

    def active_pipeline(self) -> AnyPipeline:
        """Raises NotActiveError, or the ModelError that keeps the node from working."""
        if self._closed:
            raise NodeStoppedError(STOP_TEXTS[NodeStoppedError])
        if self.load_error:
            raise ModelError(f"nothing can be answered: {self.load_error}")
        if self.finalized:
            raise NotActiveError(FINALIZED_TEXT)
        if self.pipeline is None or self.inputs is None:
            raise NotActiveError(
                "the node is not active; run `ros2 lifecycle set <node> configure` and `activate`,"
                " or launch with autostart:=true."
            )
        return self.pipeline

    def answer(self, question: Question, hooks: AskHooks, scene: str = "") -> Answer:
        return (self.scenes.pipeline_of(scene) or self._ready_pipeline()).ask(question, hooks)

    def ground(self, question: Question, hooks: AskHooks, scene: str = "") -> Answer:
        return (self.scenes.pipeline_of(scene) or self._ready_pipeline()).ground(question, hooks)

    def measure(self, request: MeasureRequest, hooks: AskHooks) -> Answer:
        return self._ready_pipeline().measure(request, hooks)

    def kept_objects(self) -> ObjectsSnapshot:
        """The objects that are kept, as they are now. Raises a RequestError where none are."""
        pipeline = self.active_pipeline()
        _check_loaded(pipeline)
        snapshot = pipeline.objects()
        if snapshot.why_not:
            raise NotActiveError(snapshot.why_not)
        return snapshot

    def model_name(self) -> str:
        info = self.pipeline.info if self.pipeline is not None else None
        if info is None:
            return ""
        return f"{info.name}@{info.revision}" + (" (random weights)" if info.random_weights else "")

    def scene_name(self) -> str:
        """Of the scene in use; '' where it has none."""
        return self.scenes.name

    def check_scene_of(self, answer: Answer, scene: str = "") -> None:
        """Raise SceneResetError, or NotActiveError, for an answer that a reset or the end of the
        model overtook: it was complete, and is of a scene that there is no more.
        """
        if self.pipeline is None:
            raise NotActiveError(STOP_TEXTS[NotActiveError])
        if scene and scene != self.scenes.name:
            return
        if answer.scene_epoch != self.pipeline.scene_state().epoch:
            raise SceneResetError(STOP_TEXTS[SceneResetError])

    @guarded()
    def publish_answer(self, message: AnswerMsg) -> None:
        # Boxes of another room are not drawn over this one, and nobody asked a standing question
        # just now: nothing is shown of it, and no robot sent there.
        is_here = message.scene in ("", self.scenes.name) and not message.watch_id
        self._outputs.publish_answer(message, self.config.markers.lifetime_sec, is_here)
        if is_here:
            self.scenes.note_answer(message)
            self.scene_outputs.note_answer(message)

    # -- services

    def _failed_trigger(self, error: Exception, request: Any, response: Any) -> Any:
        response.success, response.message = False, error_of(error)[1]
        return response

    @guarded(lambda self, error, request, response: response)
    def _on_model_info(self, request: Any, response: Any) -> Any:
        response.max_views = self.config.keyframe.max_views
        response.pruning = self.config.pruning.strategy
        if self.pipeline is not None:
            response.pruning = self.pipeline.pruning_in_force()[0]
            if self.pipeline.info is not None:
                for name in MODEL_INFO_FIELDS:
                    setattr(response, name, getattr(self.pipeline.info, name))
        return response

    @guarded(_failed_trigger)
    def _on_reset(self, request: Any, response: Any) -> Any:
        self._forget_inputs()
        self._reset_scene()
        response.success, response.message = True, "the scene starts anew."
        return response

    @guarded(_failed_trigger)
    def _on_pause(self, request: Any, response: Any) -> Any:
        if self.paused and not request.data and self.inputs is not None:
            self.inputs.forget_sets()  # what came during the pause has no part in the scene
        self.paused = request.data
        self._publish_status()
        response.success = True
        response.message = (
            "paused: frames and questions are refused." if self.paused else "running."
        )
        return response

    # -- reports

    @guarded()
    def _publish_status(self) -> None:
        self.worker.expire()
        self.objects.update()
        self.scene_outputs.update()
        message = status_msg(self, self._jump_text, self._jump_epoch)
        self._outputs.statuses.publish(message)

    @guarded()
    def _publish_diagnostics(self) -> None:
        self._outputs.publish_diagnostics(self.get_clock().now().to_msg())


def _check_loaded(pipeline: AnyPipeline) -> None:
    if not pipeline.ready:
        raise LoadingError(
            "the weights are still loading; ask again in a moment (~/status tells when)."
        )


def _jump_text(step_ns: int) -> str:
    """What a clock or stamps did that changed by `step_ns`, in words."""
    if step_ns < 0:
        return f"jumped back by {-step_ns / 1e9:.3f} s"
    step_s = step_ns / 1e9
    far = f"{step_s / 86400:.0f} days" if step_s > 2 * 86400 else f"{step_s:.0f} s"
    return f"jumped forward by {far}, input.max_gap_sec or more"


def build_node(pipeline_factory: PipelineFactory = create_pipeline, **options: Any) -> AgentNode:
    """An agent node for an executor of yours.

    `options` go to the node (namespace, context, parameter_overrides). With the parameter
    `autostart` it configures and activates itself; after a failure it is unconfigured, state ERROR.
    """
    node = AgentNode(pipeline_factory, **options)
    if node.config.autostart and node.trigger_configure() == OK:
        node.trigger_activate()
    return node
