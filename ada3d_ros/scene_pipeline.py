"""What every pipeline has, whoever answers: the scene, the objects kept with it, and the detector
that finds them where there is one.

`observe` may run on one thread while `ask` runs on another; a question is answered from the
keyframes that were there when it began. Knows nothing of ROS.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ada3d_ros.config import AgentConfig
from ada3d_ros.config.objects import TOPIC
from ada3d_ros.engine.timing import Now, StageClock
from ada3d_ros.errors import ConfigError, LoadingError, NoFramesError
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.model.prompt import check_question, parse_coordinates
from ada3d_ros.scene.floor import Floor
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from ada3d_ros.types import AskHooks, Keyframe, ModelInfo, Question, RgbdFrame, SceneState

if TYPE_CHECKING:
    from ada3d_ros.asking.measured_by_detector import DetectedScene
    from ada3d_ros.asking.object_source import ObjectSource
    from ada3d_ros.perception.detector import Detector, DetectorReport
    from ada3d_ros.scene.objects import KeptObjects

MEASURE = Question("")  # of a request without words
NOTHING_KEPT = ObjectsSnapshot(why_not="what finds objects is not loaded yet.")


class ScenePipeline:
    """One robot's scene.

    background: someone calls `run_background_step` between questions; then a question is answered
    from what is ready, which may be a little behind. Else every answer is about the scene as it is.
    now: the clock that times are read from. detector: what finds the objects, in place of the one
    that `detector.path` names; the node hands in that of its topic.
    """

    def __init__(
        self,
        config: AgentConfig,
        background: bool = False,
        now: Now = time.perf_counter,
        detector: Detector | None = None,
    ) -> None:
        self.config, self._background, self.now = config, background, now
        self.info: ModelInfo | None = None
        self.detector = detector  # where objects come from one: at the latest from load on
        self.inventory: ObjectSource[Any] | None = None  # from load on
        # Objects of the scene that are kept elsewhere, in a store: all that ever were
        self.object_history: Callable[[], Sequence[SceneObject]] = tuple
        self._keyframes = KeyframeBuffer(config.keyframe, config.world.floor_z)
        self._lock = threading.Lock()  # for the buffer; held for the milliseconds a frame takes
        self._scene = self._keyframes.snapshot()  # replaced, never changed: readers need no lock

    # -- frames in

    def observe(self, frame: RgbdFrame) -> Keyframe | None:
        """Offer a frame; the keyframe if it was admitted. Without `background` it may have to wait
        for the detector, which then misses no frame. Raises FrameError.
        """
        with self._lock:
            keyframe = self._keyframes.offer(frame)
            self._publish_scene()
            scene = self._scene
        if self.inventory is not None:
            if not self._background:
                self.inventory.make_room(scene, self.config)
            self.inventory.offer(frame, keyframe is not None, scene.state.epoch)
        return keyframe

    def reset_scene(self) -> None:
        """Forget all keyframes; the epoch grows."""
        with self._lock:
            self._keyframes.reset()
            self._publish_scene()
        if self.inventory is not None:
            self.inventory.reset(self._scene.state.epoch)

    def restore(self, scene: SceneSnapshot) -> bool:
        """Hold exactly the keyframes of a scene that was kept elsewhere, on a robot or in a file;
        whether that changed anything. Raises InvalidRequestError; see KeyframeBuffer.restore.
        """
        with self._lock:
            new_epoch = scene.state.epoch != self._keyframes.epoch
            changed = self._keyframes.restore(scene)
            self._publish_scene()
        if new_epoch and self.inventory is not None:
            self.inventory.reset(scene.state.epoch)
        return changed

    def load_scene(self, scene: SceneSnapshot) -> SceneSnapshot:
        """Go on with a saved scene in the place of this one; the scene as it is in use then. Before
        anything was seen it keeps its epoch; else it gets a new one, since what is cached and asked
        is told by epoch and version. At most max_views keyframes of it stay.

        Raises InvalidRequestError, and changes nothing, where it is no scene (KeyframeBuffer).
        """
        with self._lock:
            kept, floor_z = self._keyframes, self.config.world.floor_z
            if kept.epoch or kept.version:
                epoch = max(kept.epoch, scene.state.epoch) + 1
                scene = replace(scene, state=replace(scene.state, epoch=epoch))
            if floor_z != "auto":
                scene = replace(scene, floor=Floor.from_setting(floor_z))
            kept.restore(scene)
            kept.set_config(self.config.keyframe)
            self._publish_scene()
            scene = self._scene
        if self.inventory is not None:
            self.inventory.reset(scene.state.epoch)
        return scene

    def restore_objects(self, known: KeptObjects) -> None:
        """Go on with the objects that were kept with the scene that was loaded; call it on the
        asking thread, once loaded.
        """
        if self.inventory is not None:
            self.inventory.restore(known, self._scene)

    def kept_objects(self) -> KeptObjects | None:
        """What is known of the scene's objects, to go on with; None where nothing is. Call it on
        the asking thread.
        """
        inventory = self.inventory
        if inventory is None or inventory.snapshot.why_not or inventory.snapshot.stamp_ns < 0:
            return None
        return inventory.memory.told(inventory.snapshot)

    def allow_earlier_stamps(self) -> None:
        """Take frames again after the clock fell back, the scene being kept."""
        with self._lock:
            self._keyframes.allow_earlier_stamps()

    def set_config(self, config: AgentConfig) -> None:
        """Apply changed settings from the next frame and question on; fewer views at once."""
        self.config = config
        with self._lock:
            if self._keyframes.config != config.keyframe:
                self._keyframes.set_config(config.keyframe)
                self._publish_scene()

    @property
    def scene(self) -> SceneSnapshot:
        """The keyframes that a question asked now is about; replaced, never changed."""
        return self._scene

    def scene_state(self) -> SceneState:
        """The scene in numbers; never waits."""
        return self._scene.state

    def _publish_scene(self) -> None:
        if (self._keyframes.epoch, self._keyframes.version) != self._scene.version:
            self._scene = self._keyframes.snapshot()

    def _scene_to_ask(self) -> SceneSnapshot:
        """The scene of now. Raises NoFramesError where it is empty."""
        scene = self._scene
        if not scene.keyframes:
            raise NoFramesError(
                "no keyframe yet: move the camera, or check that colour, depth, camera_info and"
                " pose arrive."
            )
        return scene

    # -- objects

    def objects(self) -> ObjectsSnapshot:
        """The objects kept with the scene as they are known now; never waits."""
        return NOTHING_KEPT if self.inventory is None else self.inventory.snapshot

    def detector_report(self) -> DetectorReport | None:
        """What the detector did for the scene, in numbers; None without one. Never waits."""
        inventory = self.inventory
        if inventory is None:  # as on a robot whose server answers, where nothing loads torch
            return None
        from ada3d_ros.asking.detected_inventory import DetectedInventory

        return inventory.report if isinstance(inventory, DetectedInventory) else None

    def remote_report(self) -> dict[str, object]:
        """Of a server that answers in the place of a model here, for diagnostics; {} without."""
        return {}

    @property
    def remote_problem(self) -> str:
        """Why that server does not answer, and who does in its place; '' while it does."""
        return ""

    @property
    def has_detector(self) -> bool:
        """Whether objects come from a detector."""
        return self.detector is not None or bool(self.config.detector.path)

    def _check_detector(self) -> None:
        """Raise ConfigError, or DetectorError, where its file or folder is none. An ONNX file is
        opened, since that is quick.
        """
        path = self.config.detector.path
        if self.detector is not None:
            return
        if path == TOPIC:
            raise ConfigError(
                "detector.path is 'topic': only the node has topics. Name an ONNX file, or the"
                " folder of a transformers detector."
            )
        if Path(path).suffix.lower() == ".onnx":
            self._open_detector()

    def _open_detector(self) -> Detector:
        """Raises ConfigError, DetectorError."""
        if self.detector is None:
            from ada3d_ros.asking.vocabulary import read_vocabulary
            from ada3d_ros.perception.open_detector import open_detector

            file = self.config.objects.vocabulary
            phrases = read_vocabulary(Path(file)).names if file else ()
            self.detector = open_detector(self.config.detector, phrases)
        return self.detector

    def _keep_objects(self, detector: Detector) -> None:
        """Its objects, from the next step on."""
        from ada3d_ros.asking.detected_inventory import DetectedInventory

        inventory = DetectedInventory(detector, self.config, self.now)
        inventory.reset(self._scene.state.epoch)
        self.inventory = inventory

    def open_detected(self, question: Question, hooks: AskHooks) -> DetectedScene:
        """A question among the detector's objects, with scene and settings of now. Raises
        LoadingError, NoFramesError.
        """
        from ada3d_ros.asking.measured_by_detector import DetectedScene
        from ada3d_ros.asking.object_source import SceneQuestion

        if self.inventory is None or self.detector is None:
            raise LoadingError("the detector is not loaded yet.")
        clock, exact = StageClock(None, self.now), not self._background
        scene = self._scene_to_ask()
        query = SceneQuestion(question, hooks, self.config, scene, clock, exact)
        return DetectedScene(query, self.inventory, self.detector)

    # -- questions

    def check_question(self, text: str) -> str:
        """The question as it will be asked. Raises InvalidRequestError, QuestionTooLongError."""
        checked = check_question(text, self.config.question.max_chars)
        parse_coordinates(checked)
        return checked
