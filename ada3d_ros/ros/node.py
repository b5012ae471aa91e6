"""The lifecycle node: wires parameters, inputs, the pipeline, requests and diagnostics together.

configure checks files and starts loading the weights in the inference thread; activate opens the
inputs; services answer in every state, with an error code where they cannot help. The executor
thread never does torch work.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import (
    Ada3DError,
    ConfigError,
    LoadingError,
    ModelError,
    NotActiveError,
    SceneResetError,
)
from ada3d_ros.msg import AgentStatus
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.ros.conversions import error_of
from ada3d_ros.ros.diagnostics import Drops, InferenceMonitor, add_tasks
from ada3d_ros.ros.guard import CoreLog, guarded
from ada3d_ros.ros.inputs import FrameInputs, PosedSet
from ada3d_ros.ros.intake import FrameIntake
from ada3d_ros.ros.lifecycle import ManagedNode
from ada3d_ros.ros.outputs import AgentOutputs
from ada3d_ros.ros.parameters import ParameterBridge
from ada3d_ros.ros.requests import RequestServer, check_scene
from ada3d_ros.ros.sync import MIN_JUMP_NS
from ada3d_ros.ros.worker import RequestWorker
from ada3d_ros.srv import GetModelInfo
from ada3d_ros.types import Answer, AskHooks, Question

PipelineFactory = Callable[..., Ada3DPipeline]  # of an AgentConfig and `background`
OK, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class AgentNode(ManagedNode):
    """`ada3d_agent`: questions about the place in, answers and 3D boxes out."""

    def __init__(self, pipeline_factory: PipelineFactory = Ada3DPipeline, **options: Any) -> None:
        super().__init__("ada3d_agent", **options)
        self._pipeline_factory = pipeline_factory
        self.pipeline: Ada3DPipeline | None = None
        self._load_error: str = ""
        self.inputs: FrameInputs | None = None
        self.intake: FrameIntake | None = None
        self._active = self._paused = False
        self._last_set_ns = -1  # stamp of the last set for the scene
        self.drops, self.inference = Drops(), InferenceMonitor()
        self.worker = RequestWorker(
            on_error=lambda error: self.report_error(
                "the inference thread", error, "".join(traceback.format_exception(error))
            ),
            run_background_step=self._run_background_step,
            run_batch=lambda jobs: self._ready_pipeline().ask_together(
                [job.batch(job) for job in jobs]
            ),
        )
        self._core_log = CoreLog(self.get_logger().warning)
        self._settings = ParameterBridge(
            self, lambda: self.pipeline is not None, self._settings_changed, self._check_settings
        )
        self._outputs = AgentOutputs(self, self.config.diagnostic_updater.use_fqn)
        add_tasks(self._outputs.updater, self)
        self._requests = RequestServer(self, self)
        self._create_services()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._periodic = [
            self.create_timer(1.0, self._publish_status, clock=steady),
            self.create_timer(
                self.config.diagnostic_updater.period, self._publish_diagnostics, clock=steady
            ),
        ]
        backward = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-MIN_JUMP_NS), on_clock_change=False
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            backward, post_callback=self._clock_jumped
        )
        self._publish_status()

    @property
    def config(self) -> AgentConfig:
        return self._settings.config

    def _create_services(self) -> None:
        group = ReentrantCallbackGroup()
        self.create_service(
            GetModelInfo, "~/get_model_info", self._on_model_info, callback_group=group
        )
        self.create_service(Trigger, "~/reset_scene", self._on_reset, callback_group=group)
        self.create_service(SetBool, "~/set_paused", self._on_pause, callback_group=group)

    # -- lifecycle

    def _failed_transition(
        self, error: Exception, state: LifecycleState
    ) -> TransitionCallbackReturn:
        self._load_error = str(error)
        self._publish_status()
        return FAILURE

    @guarded(_failed_transition)
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check everything that can be checked without reading weights, then load them in the
        worker.
        """
        self._load_error = ""
        try:
            if self._settings.errors:
                raise ConfigError("; ".join(self._settings.errors.values()))
            pipeline = self._pipeline_factory(self.config, background=True)
            info = pipeline.check()
        except (Ada3DError, OSError) as error:
            self._load_error = str(error)
            self.get_logger().error(f"configure failed: {error}")
            self._publish_status()
            return FAILURE
        self.pipeline = pipeline
        self.intake = FrameIntake(
            self.config,
            pipeline,
            self.drops,
            self.get_logger().warning,
            self.report_error,
            self.worker.notify,
        )
        self.get_logger().info(
            f"loading {info.name}: {info.parameters / 1e6:.1f} M parameters,"
            f" {info.memory_bytes / 2**20:.0f} MiB in {info.precision} on {info.device}"
        )
        if info.random_weights:
            self.get_logger().warning(
                "this checkpoint has random weights, it was never trained: every answer is"
                " meaningless."
            )
        self.worker.run_later(lambda: self._load(pipeline))
        self._publish_status()
        return OK

    def _load(self, pipeline: Ada3DPipeline) -> None:
        """On the inference thread."""
        started = time.monotonic()
        try:
            pipeline.load()
        except Exception as error:
            if pipeline is self.pipeline:  # else: cleaned up, perhaps configured anew, meanwhile
                self._load_error = str(error)
            self.report_error("loading the model", error, traceback.format_exc())
            return
        self.get_logger().info(f"model ready after {time.monotonic() - started:.1f} s")

    @guarded(_failed_transition)
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.inputs = FrameInputs(self, self.config, self.drops, self._on_set, self.report_error)
        self._active = True
        self._publish_status()
        return super().on_activate(state)

    @guarded(_failed_transition)
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._close_inputs()
        self.worker.cancel_all(NotActiveError)
        self._publish_status()
        return super().on_deactivate(state)

    @guarded(_failed_transition)
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._load_error = ""
        self._publish_status()
        return OK

    @guarded(_failed_transition)
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return OK

    @guarded(_failed_transition)
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return OK  # back to unconfigured, so that configure can be tried again

    def _close_inputs(self) -> None:
        self._active = False
        if self.inputs is not None:
            self.inputs.close()
            self.inputs = None

    def _release(self) -> None:
        self._close_inputs()
        self.worker.cancel_all(NotActiveError)
        if self.intake is not None:
            self.intake.stop()
            self.intake = None
        self.pipeline = None
        self._last_set_ns = -1

    def destroy_node(self) -> None:
        """Stop the threads, then the node."""
        self._release()
        self.worker.stop()
        self._requests.close()
        self._core_log.close()
        super().destroy_node()

    # -- scene

    def _on_set(self, messages: PosedSet) -> None:
        if self.intake is None or self.pipeline is None or self._paused:
            return
        old_ns, self._last_set_ns = self._last_set_ns, messages.stamp_ns
        if messages.stamp_ns < old_ns - MIN_JUMP_NS:
            self._time_jump(
                f"image stamps fell back from {old_ns / 1e9:.3f} to {messages.stamp_ns / 1e9:.3f}"
            )
        self.intake.put(messages)

    @guarded()
    def _clock_jumped(self, jump: TimeJump) -> None:
        if self.inputs is not None:
            self.inputs.clear()
        self._last_set_ns = -1
        self._time_jump(f"the clock jumped back by {-jump.delta.nanoseconds / 1e9:.3f} s")

    def _time_jump(self, what: str) -> None:
        if not self.config.reset_on_time_jump:
            self.get_logger().warning(f"{what}; the scene is kept (reset_on_time_jump is false).")
            if self.pipeline is not None:
                self.pipeline.allow_earlier_stamps()
            return
        self.get_logger().warning(f"{what}: the scene starts anew.")
        self._reset_scene()

    def _reset_scene(self) -> None:
        self.worker.cancel_all(
            SceneResetError
        )  # first: no waiting question may start on the empty scene
        if self.intake is not None:
            self.intake.clear()
        if self.pipeline is not None:
            self.pipeline.reset_scene()
        self._outputs.clear_markers()
        self._publish_status()

    def _check_settings(self, config: AgentConfig) -> None:
        if self.pipeline is not None:
            self.pipeline.check_settings(config)

    def _settings_changed(self, config: AgentConfig, names: set[str]) -> None:
        if self.pipeline is not None:
            self.pipeline.set_config(config)
        if self.inputs is not None:
            self.inputs.set_config(config)
        if self.intake is not None:
            self.intake.config = config
        if "diagnostic_updater.period" in names:
            self._periodic[1].timer_period_ns = int(config.diagnostic_updater.period * 1e9)

    def _run_background_step(self) -> bool:
        """On the inference thread, between questions: new keyframes, and the scene they make."""
        pipeline = self.pipeline
        return (
            self._active
            and not self._paused
            and pipeline is not None
            and pipeline.run_background_step()
        )

    # -- what requests need

    def admit(self, text: str) -> None:
        """Raise the RequestError that says why a question cannot be taken now, or is none."""
        if self._load_error:
            raise ModelError(f"the model could not be loaded: {self._load_error}")
        if self.pipeline is None or not self._active or self.inputs is None:
            raise NotActiveError(
                "the node is not active; run `ros2 lifecycle set <node> configure` and `activate`,"
                " or launch with autostart:=true."
            )
        if self._paused:
            raise NotActiveError("the node is paused; call ~/set_paused with data: false.")
        if not self.pipeline.ready:
            raise LoadingError(
                "the weights are still loading; ask again in a moment (~/status tells when)."
            )
        self.pipeline.check_question(text)
        now_ns = self.get_clock().now().nanoseconds
        check_scene(
            self.pipeline.scene_state(), self.inputs.missing, now_ns, self.config.scene.max_age_sec
        )

    def _ready_pipeline(self) -> Ada3DPipeline:
        pipeline = self.pipeline
        if pipeline is None:
            raise NotActiveError("the node was deactivated while the question waited.")
        return pipeline

    def answer(self, question: Question, hooks: AskHooks) -> Answer:
        return self._ready_pipeline().ask(question, hooks)

    def ground(self, question: Question, hooks: AskHooks) -> Answer:
        return self._ready_pipeline().ground(question, hooks)

    def model_name(self) -> str:
        info = self.pipeline.info if self.pipeline is not None else None
        if info is None:
            return ""
        return f"{info.name}@{info.revision}" + (" (random weights)" if info.random_weights else "")

    @guarded()
    def publish_answer(self, message: AnswerMsg) -> None:
        self._outputs.publish_answer(message, self.config.markers.lifetime_sec)

    # -- services

    def _failed_trigger(self, error: Exception, request: Any, response: Any) -> Any:
        response.success, response.message = False, error_of(error)[1]
        return response

    @guarded(lambda self, error, request, response: response)
    def _on_model_info(self, request: Any, response: Any) -> Any:
        info = self.pipeline.info if self.pipeline is not None else None
        response.pruning = (
            self.pipeline.pruning_in_force()[0] if self.pipeline else self.config.pruning.strategy
        )
        response.max_views = self.config.keyframe.max_views
        if info is not None:
            response.name, response.revision, response.sha256 = (
                info.name,
                info.revision,
                info.sha256,
            )
            response.device, response.precision, response.parameters = (
                info.device,
                info.precision,
                info.parameters,
            )
            response.max_input_tokens = info.max_input_tokens
            response.random_weights, response.has_3d, response.has_grounding_head = (
                info.random_weights,
                info.has_3d,
                info.has_grounding_head,
            )
        return response

    @guarded(_failed_trigger)
    def _on_reset(self, request: Any, response: Any) -> Any:
        if self.inputs is not None:
            self.inputs.clear()
        self._last_set_ns = -1
        self._reset_scene()
        response.success, response.message = True, "the scene starts anew."
        return response

    @guarded(_failed_trigger)
    def _on_pause(self, request: Any, response: Any) -> Any:
        self._paused = request.data
        self._publish_status()
        response.success, response.message = (
            True,
            "paused: frames and questions are refused." if self._paused else "running.",
        )
        return response

    # -- reports

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        """Count and log an error that nothing else handles."""
        self.inference.internal_errors += 1
        self.inference.last_error = f"{where}: {error!r}"
        self.get_logger().error(f"{where}: {error!r}\n{trace}")

    def state_and_detail(self) -> tuple[int, str]:
        """The node's state as ~/status reports it, and one sentence on it."""
        if self._load_error:
            return AgentStatus.ERROR, self._load_error
        if not self.worker.alive:
            return AgentStatus.ERROR, "the inference thread has ended; restart the node."
        if self.pipeline is None:
            return AgentStatus.UNCONFIGURED, "configure the node to load the model."
        if not self.pipeline.ready:
            return AgentStatus.LOADING, "the weights are loading."
        if not self._active:
            return AgentStatus.INACTIVE, "activate the node to open its inputs."
        if self._paused:
            return AgentStatus.PAUSED, "call ~/set_paused with data: false to go on."
        if self.worker.busy:
            return AgentStatus.BUSY, "answering a question."
        if self.pipeline.scene_state().num_keyframes == 0:
            return (
                AgentStatus.WAITING_FOR_DATA,
                self.inputs.missing() if self.inputs else "no inputs.",
            )
        return AgentStatus.READY, "ask on ~/query, ~/ground, ~/ask_scene or ~/question."

    @guarded()
    def _publish_status(self) -> None:
        self.worker.expire()
        state, detail = self.state_and_detail()
        message = AgentStatus(
            header=Header(stamp=self.get_clock().now().to_msg(), frame_id=self.config.world_frame),
            state=state,
            detail=detail,
        )
        if self.pipeline is not None:
            scene = self.pipeline.scene_state()
            message.keyframes, message.scene_epoch, message.scene_version = (
                scene.num_keyframes,
                scene.epoch,
                scene.version,
            )
            used, total = self.pipeline.device_memory_mib()
        else:
            used = total = math.nan
        message.queued, message.gpu_memory_used_mib, message.gpu_memory_total_mib = (
            self.worker.queued,
            used,
            total,
        )
        self._outputs.statuses.publish(message)

    @guarded()
    def _publish_diagnostics(self) -> None:
        self._outputs.publish_diagnostics(self.get_clock().now().to_msg())


def build_node(pipeline_factory: PipelineFactory = Ada3DPipeline, **options: Any) -> AgentNode:
    """An agent node for an executor of yours; `options` go to the node (namespace, context,
    parameter_overrides).

    With the parameter `autostart` it configures and activates itself; a failure leaves it
    unconfigured, in state ERROR.
    """
    node = AgentNode(pipeline_factory, **options)
    if node.config.autostart and node.trigger_configure() == OK:
        node.trigger_activate()
    return node
