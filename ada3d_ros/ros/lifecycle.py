"""The agent's lifecycle: which part exists in which state, and requests that are not possible."""

from __future__ import annotations

import time
import traceback
from abc import abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lifecycle_msgs.msg import State
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from ada3d_ros.config import AgentConfig
from ada3d_ros.config.objects import TOPIC
from ada3d_ros.errors import Ada3DError, ConfigError, DeviceLostError, NotActiveError
from ada3d_ros.msg import AgentStatus
from ada3d_ros.ros.diagnostics import Drops, InferenceMonitor
from ada3d_ros.ros.guard import CoreLog, guarded
from ada3d_ros.ros.inputs import FrameInputs
from ada3d_ros.ros.intake import FrameIntake
from ada3d_ros.ros.parameters import ParameterBridge
from ada3d_ros.ros.transform_messages import check_pose_source
from ada3d_ros.ros.watch import HealthWatch
from ada3d_ros.sources.messages import PosedSet
from ada3d_ros.worker import RequestWorker

if TYPE_CHECKING:
    from ada3d_ros.create_pipeline import AnyPipeline
    from ada3d_ros.ros.bond import ManagerBond
    from ada3d_ros.ros.detection_input import DetectionInput
    from ada3d_ros.ros.scenes import SceneServer

PipelineFactory = Callable[..., "AnyPipeline"]  # of an AgentConfig and `background`
FINALIZED_TEXT = "the node was shut down for good: end its process and start it again."
READY_TEXT = "ask on ~/query, ~/ground, ~/ask_scene or ~/question."
OK, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class ManagedNode(LifecycleNode):
    """Answers `success: false` to an impossible ~/change_state, with one line in the log.

    rclpy lets the error leave the service callback, which ends `spin()`: a second launch of the
    same node, or a lifecycle manager beside `autostart`, killed the healthy one.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._change_state = self._service_change_state.callback  # rclpy's, for possible ones
        self._service_change_state.callback = self._on_change_state

    @guarded(lambda self, error, request, response: response)
    def _on_change_state(self, request: Any, response: Any) -> Any:
        """~/change_state; the transition is named by its label if there is one, else by its id."""
        wanted = request.transition
        # what ends a transition state is for the node itself
        in_between = self._state_machine.current_state[0] > State.PRIMARY_STATE_FINALIZED
        available = () if in_between else self._state_machine.available_transitions
        possible = {number: label for number, label, *_ in available}
        if wanted.label in possible.values() if wanted.label else wanted.id in possible:
            return self._change_state(request, response)

        # refused (`success` is false by default): which, in which state, what would be possible
        known = {number: label for number, label, *_ in self._state_machine.transition_graph}
        label = wanted.label[:80] or known.get(wanted.id, "unknown")
        choices = ", ".join(f"{label} ({number})" for number, label in possible.items())
        self.get_logger().warning(
            f"change_state: transition {label!r} (id {wanted.id}) is not possible in state"
            f" {self._state_machine.current_state[1]!r}; possible: {choices or 'none'}."
        )
        return response

    def destroy_node(self) -> None:
        """Destroy the node, also its lifecycle services: rclpy leaves them alive in the graph."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()


class AgentLifecycle(ManagedNode):
    """The parts of the agent, and when each exists.

    always: the parameters, the inference thread (`worker`), the counters; configured: `pipeline`
    and `intake`, from the moment the weights start to load; active: `inputs`.
    """

    scenes: SceneServer

    def __init__(self, pipeline_factory: PipelineFactory, **options: Any) -> None:
        super().__init__("ada3d_agent", **options)
        # what comes and goes with the states
        self._pipeline_factory = pipeline_factory
        self.pipeline: AnyPipeline | None = None
        self.intake: FrameIntake | None = None
        self.inputs: FrameInputs | None = None
        self.detections: DetectionInput | None = None  # of detector.path `topic`
        self._bond: ManagerBond | None = None
        self.load_error = ""  # why there is no model, for people
        self.paused = self.finalized = False
        self._last_set_ns = -1  # stamp of the last set for the scene

        # what there always is
        self.drops, self.inference = Drops(), InferenceMonitor()
        self.health = HealthWatch(self)
        self._core_log = CoreLog(self.get_logger().warning)
        self.worker = RequestWorker(
            on_error=self._worker_failed,
            run_background_step=self._run_background_step,
            run_batch=lambda jobs: self._ready_pipeline().ask_together(
                [job.batch(job) for job in jobs]
            ),
        )
        self._settings = ParameterBridge(
            self, lambda: self.pipeline is not None, self._settings_changed, self._check_settings
        )

    @property
    def namesakes(self) -> str:
        """A sentence where other nodes have this node's name, "" otherwise."""
        own = self.get_name(), self.get_namespace()
        count = self.get_node_names_and_namespaces().count(own)
        if count < 2:
            return ""
        return (
            f"{count} nodes are called {self.get_fully_qualified_name()}: which of them takes a"
            " question or a transition is chance. End all but one (one that was killed is listed"
            " for 20 s more), or give each a namespace: -r __ns:=/robot2."
        )

    @property
    def config(self) -> AgentConfig:
        return self._settings.config

    @abstractmethod
    def _on_set(self, messages: PosedSet) -> None:
        """A set of messages is complete and has its pose."""

    @abstractmethod
    def _clear_outputs(self) -> None:
        """Take back what latched topics still show."""

    @abstractmethod
    def _publish_status(self) -> None:
        """Tell ~/status what `state_and_detail` says."""

    @abstractmethod
    def _publish_objects(self) -> None:
        """Tell of the objects that are kept, where that is news."""

    @abstractmethod
    def _keyframe_admitted(self) -> None:
        """The scene has changed; called on the thread that takes frames in."""

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        """Count and log an error that nothing else handles; a lost GPU ends the node's work."""
        self.inference.internal_errors += 1
        self.inference.last_error = f"{where}: {error!r}"
        self.get_logger().error(f"{where}: {error!r}\n{trace}")
        if isinstance(error, DeviceLostError):
            self.load_error = str(error)

    def _worker_failed(self, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        self.report_error("the inference thread", error, trace)

    def state_and_detail(self) -> tuple[int, str]:
        """The AgentStatus state, and one sentence on it; the most serious comes first."""
        # what keeps it from working at all
        if self.load_error:
            return AgentStatus.ERROR, self.load_error
        if not self.worker.alive:
            return AgentStatus.ERROR, "the inference thread has ended; restart the node."

        # the lifecycle
        if self.finalized:
            return AgentStatus.UNCONFIGURED, FINALIZED_TEXT
        if self.pipeline is None:
            return AgentStatus.UNCONFIGURED, "configure the node to load the model."
        if not self.pipeline.ready:
            return AgentStatus.LOADING, "the weights are loading."
        if self.inputs is None:
            return AgentStatus.INACTIVE, "activate the node to open its inputs."
        if self.paused:
            return AgentStatus.PAUSED, "call ~/set_paused with data: false to go on."

        # questions
        if self.worker.busy:
            return AgentStatus.BUSY, "answering a question."
        if self.pipeline.scene_state().num_keyframes == 0:
            return AgentStatus.WAITING_FOR_DATA, self.health.why_no_keyframe()
        wrong = " ".join(str(fault) for fault in self.health.faults() if fault.severity)
        return AgentStatus.READY, wrong or READY_TEXT

    # -- transitions

    def _failed_transition(
        self, error: Exception, state: LifecycleState
    ) -> TransitionCallbackReturn:
        self.load_error = str(error)
        self._publish_status()
        return FAILURE

    @guarded(_failed_transition)
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check all that can be checked without reading weights, then load them in the worker."""
        # what a person can mend fails here, with a sentence
        self.load_error = ""
        try:
            if self._settings.errors:
                raise ConfigError("; ".join(self._settings.errors.values()))
            check_pose_source(self.config)
            pipeline = self._make_pipeline()
            info = pipeline.check()
        except (Ada3DError, OSError) as error:
            self.load_error = str(error)
            self.detections = None
            self.get_logger().error(f"configure failed: {error}")
            self._publish_status()
            return FAILURE

        self.pipeline = pipeline
        self.intake = FrameIntake(
            self.config,
            pipeline.observe,
            self.drops,
            self.get_logger().warning,
            self.report_error,
            self._keyframe_admitted,
        )

        # the weights are read in the inference thread, while services answer
        size = f"{info.parameters / 1e6:.1f} M parameters, {info.memory_bytes / 2**20:.0f} MiB in"
        what = f"{size} {info.precision}" if info.parameters else "no language model, a detector"
        what = "a server answers" if self.config.model.remote else what
        self.get_logger().info(f"loading {info.name}: {what} on {info.device}")
        if self.config.model.path == "embedded":
            self.get_logger().info(
                "it knows rooms that a program drew, and photographs not at all: in a real room"
                " choose another model.path, or set detector.path (docs/real_rooms.md)"
            )
        if info.random_weights:
            self.get_logger().warning(
                "this checkpoint has random weights, it was never trained: every answer is"
                " meaningless."
            )
        self.worker.run_later(lambda: self._load(pipeline))
        self._publish_status()
        return OK

    def _make_pipeline(self) -> AnyPipeline:
        """With a detector of its own where other nodes detect. Raises DetectorError."""
        if self.config.detector.path != TOPIC:
            return self._pipeline_factory(self.config, background=True)
        from ada3d_ros.ros.detection_input import DetectionInput  # where it is wanted

        self.detections = DetectionInput(self, self.config)
        return self._pipeline_factory(
            self.config, background=True, detector=self.detections.detector
        )

    def _load(self, pipeline: AnyPipeline) -> None:
        """On the inference thread."""
        started = time.monotonic()
        try:
            pipeline.load()
        except Exception as error:
            if pipeline is self.pipeline:  # else: cleaned up, perhaps configured anew, meanwhile
                self.load_error = str(error)
            self.report_error("loading the model", error, traceback.format_exc())
            return
        self.get_logger().info(f"model ready after {time.monotonic() - started:.1f} s")

    @guarded(_failed_transition)
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.drops.clear_refusals()
        self.scenes.open()
        self.inputs = FrameInputs(self, self.config, self.drops, self._on_set, self.report_error)
        if self.detections is not None:
            self.detections.open()
        self._bond = self._start_bond()
        self._publish_status()
        return super().on_activate(state)

    def _start_bond(self) -> ManagerBond | None:
        """The bond that nav2's lifecycle manager waits for; without bondpy there is none."""
        if not self.config.bond_heartbeat_period or find_spec("bondpy") is None:
            return None
        try:
            from ada3d_ros.ros.bond import ManagerBond  # where bondpy is

            return ManagerBond(self, self.config.bond_heartbeat_period)
        except Exception as error:  # also: built for another Python
            self.get_logger().warning(
                f"no bond with a lifecycle manager, bondpy fails: {error!r}. Mend its installation,"
                " or set bond_timeout: 0.0 at the manager."
            )
            return None

    @guarded(_failed_transition)
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._leave_active()
        self.worker.cancel_all(NotActiveError)
        self._publish_status()
        return super().on_deactivate(state)

    @guarded(_failed_transition)
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As new: pause, counters, percentiles and boxes are of the model that goes."""
        self._release()
        self._forget()
        self.load_error = ""
        self._publish_status()
        return OK

    @guarded(_failed_transition)
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.finalized = True
        self._release()
        self._publish_status()
        return OK

    @guarded(_failed_transition)
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, so that configure can be tried again; why, stays in ~/status."""
        self._release()
        self._forget()
        self._publish_status()
        return OK

    def _forget(self) -> None:
        """Begin anew. Questions on their way still count where they were asked."""
        self.paused = False
        self.drops, self.inference = Drops(), InferenceMonitor()
        self._clear_outputs()

    def _leave_active(self) -> None:
        bond, self._bond = self._bond, None
        if bond is not None:
            try:
                bond.close()
            except Exception as error:  # of bondpy: the inputs and threads end all the same
                self.get_logger().warning(f"the bond with a lifecycle manager: {error!r}")
        inputs, self.inputs = self.inputs, None
        if inputs is not None:
            inputs.close()
        if self.detections is not None:
            self.detections.close()

    def _release(self, join_s: float = 2.0) -> None:
        self._leave_active()
        self.worker.cancel_all(NotActiveError)
        if self.intake is not None:
            self.intake.stop(join_s)
            self.intake = None
        self.scenes.close(join_s)
        self.pipeline = self.detections = None
        self._last_set_ns = -1

    # -- the inference thread and the parameters reach into the parts

    def _ready_pipeline(self) -> AnyPipeline:
        pipeline = self.pipeline
        if pipeline is None:
            raise NotActiveError("the node was deactivated while the question waited.")
        return pipeline

    def _run_background_step(self) -> bool:
        """On the inference thread, between questions: new keyframes, and the scene they make."""
        pipeline = self.pipeline
        if self.inputs is None or self.paused or pipeline is None:
            return False
        more = pipeline.run_background_step()
        self._publish_objects()
        return more

    def _check_settings(self, config: AgentConfig) -> None:
        if self.pipeline is not None:
            self.pipeline.check_settings(config)

    def _settings_changed(self, config: AgentConfig, names: set[str]) -> None:
        if self.pipeline is not None:
            self.pipeline.set_config(config)
        if self.inputs is not None:
            self.inputs.set_config(config)
        if self.detections is not None:
            self.detections.detector.slop_ns = round(config.sync.slop_sec * 1e9)
        if self.intake is not None:
            self.intake.config = config
