"""A scene and a detector, no language model (`model.path: none`): what can be read off the objects
that the detector finds is answered, the rest refused with the reason. Loads nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ada3d_ros.asking.route import Abilities
from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.cache_report import CacheReport
from ada3d_ros.errors import ConfigError
from ada3d_ros.measures import MeasureRequest, ObjectsSnapshot
from ada3d_ros.scene_pipeline import MEASURE, ScenePipeline
from ada3d_ros.types import NAN, Answer, AskHooks, ModelInfo, Question

if TYPE_CHECKING:
    from ada3d_ros.asking.measured_by_detector import DetectedScene


class ObjectPipeline(ScenePipeline):
    """One robot's scene and one detector. `check` fails early; `load` opens the detector."""

    def check(self) -> ModelInfo:
        """What answers. Raises ConfigError without a detector, DetectorError for a file that is
        none.
        """
        if not self.has_detector:
            raise ConfigError(
                "model.path is none and detector.path is empty: nothing could answer. Name an ONNX"
                " file, the folder of a transformers detector or, at the node, `topic`"
                " (detector.path), or a model (model.path: embedded is the small one of the"
                " package)."
            )
        self._check_detector()
        self.info = self._describe()
        return self.info

    def check_settings(self, config: AgentConfig) -> None:
        """Whatever these settings are, a detector works with them."""

    def load(self) -> None:
        """Open the detector; call it on the thread that will ask. Raises ConfigError,
        DetectorError.
        """
        self.check()
        detector = self._open_detector()
        self.info = self._describe()
        self._load_what_answers()
        self._keep_objects(detector)  # at last: from now on it is ready

    def beside(self) -> ObjectPipeline:
        """A pipeline for another scene with the same detector."""
        other = ObjectPipeline(self.config, now=self.now, detector=self.detector)
        other.load()
        return other

    @property
    def abilities(self) -> Abilities:
        return Abilities(finds=True, detects=True)

    @property
    def ready(self) -> bool:
        return self.inventory is not None

    def device_memory_mib(self) -> tuple[float, float]:
        return NAN, NAN

    def pruning_in_force(self) -> tuple[str, tuple[float, ...]]:
        """There are no tokens."""
        return "none", ()

    def cache_report(self) -> CacheReport:
        """There is no cached scene."""
        return CacheReport()

    def free_memory(self) -> None:
        """Nothing is kept that could be made again."""

    @staticmethod
    def _load_what_answers() -> None:
        """What questions need is imported and its tables made: the first one waits for neither."""
        from ada3d_ros.asking import ground_objects, measured, without_model  # noqa: F401
        from ada3d_ros.asking.grammar import read_question

        read_question("Is there a chair?")

    def _describe(self) -> ModelInfo:
        """The detector in the place of a model."""
        known = None if self.detector is None else self.detector.info
        path = self.config.detector.path
        return ModelInfo(
            name=known.name if known else Path(path).name,
            revision=known.format if known else "",
            sha256=known.sha256 if known else "",
            device=self.config.detector.device,
            precision="",
            parameters=0,
            memory_bytes=0,
            max_input_tokens=0,
            random_weights=False,
            has_3d=True,
            has_grounding_head=False,
        )

    # -- between questions

    def run_background_step(self) -> bool:
        """One keyframe through the detector. False where nothing is left for now. Call it on the
        asking thread, until False, now and then.
        """
        return self.inventory is not None and self.inventory.step(self._scene, self.config)

    def inventory_now(self) -> ObjectsSnapshot:
        """The objects of the scene as it is now, looked for where that was not done; call it on the
        asking thread. Raises NoFramesError, LoadingError.
        """
        opened = self.open_scene(Question("objects"), AskHooks())
        return opened.inventory.complete_now(opened.query)

    # -- questions

    def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Answer one question about the scene's objects, measured.

        Raises UnknownKindError for one that only a language model answers, another RequestError (no
        keyframe, a name that is not found or fits several, what hooks.check raises).
        """
        from ada3d_ros.asking.without_model import answer_measured

        return answer_measured(self, question, hooks)

    def ground(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """The boxes of the objects that a phrase (`question.text`) names. Raises NotGroundedError
        where there is none.
        """
        from ada3d_ros.asking.ground_objects import ground_among_objects

        checked = replace(question, text=self.check_question(question.text))
        return ground_among_objects(self.open_scene(checked, hooks))

    def measure(
        self, request: MeasureRequest, hooks: AskHooks = AskHooks(), question: Question = MEASURE
    ) -> Answer:
        """Measure in the scene, as Ada3DPipeline.measure."""
        from ada3d_ros.asking.measured import measure_request

        return measure_request(self, request, hooks, question)

    def ask_together(self, asked: Sequence[tuple[Question, AskHooks]]) -> list[Answer | Exception]:
        """Answers, or what `ask` would have raised, in the order asked."""
        answers: list[Answer | Exception] = []
        for question, hooks in asked:
            try:
                answers.append(self.ask(question, hooks))
            except Exception as error:  # told to this caller; the others go on
                answers.append(error)
        return answers

    def open_scene(self, question: Question, hooks: AskHooks) -> DetectedScene:
        """The scene as a request is measured in it. Raises LoadingError, NoFramesError."""
        return self.open_detected(question, hooks)
