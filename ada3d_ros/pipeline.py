"""The main path: frames in, questions in, answers out. Reads top to bottom like the method.

`observe` and what else is about the scene alone: scene_pipeline.py. Knows nothing of ROS.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ada3d_ros.asking.route import Abilities, routed
from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.answer import build_answer
from ada3d_ros.engine.budget import budget_for_deadline, keep_ratios
from ada3d_ros.engine.cache_report import CacheReport
from ada3d_ros.engine.deadline import LatencyModel
from ada3d_ros.engine.decode import free_decoding
from ada3d_ros.engine.memory_fallback import (
    MEMORY_FALLBACKS,
    memory_problem,
    with_memory_fallbacks,
)
from ada3d_ros.engine.memory_plan import plan_workload
from ada3d_ros.engine.prefix_cache import PrefixCache
from ada3d_ros.engine.query_context import (
    QueryContext,
    encode_scene,
    prefill_pruned,
    select_context,
    timed_prompt,
)
from ada3d_ros.engine.scene_encoder import SceneEncoder
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.streaming import stream_answer
from ada3d_ros.engine.timing import Now, StageClock, on_model_device
from ada3d_ros.errors import LoadingError
from ada3d_ros.grounding import ground_answer
from ada3d_ros.measures import MeasureRequest, ObjectsSnapshot
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import MAX_PROMPT_CHARS, check_question, parse_coordinates
from ada3d_ros.model.startup import check_model, device_memory_mib, open_model
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene_pipeline import MEASURE, ScenePipeline
from ada3d_ros.types import NAN, Answer, AskHooks, ModelInfo, Question

if TYPE_CHECKING:
    from ada3d_ros.asking.measured import OpenedScene
    from ada3d_ros.perception.detector import Detector

logger = logging.getLogger(__name__)
OpenedModel: TypeAlias = tuple[LoadedModel, ModelInfo]


class Ada3DPipeline(ScenePipeline):
    """One robot's scene and one model.

    `check` reads no weights and fails early; `load` takes long. Settings that may change are read
    at each question. With a detector the objects come from that, whatever model there is.

    opened: a model that other scenes of this process share; one of them asks at a time.
    background: as for ScenePipeline; a question is then answered from the prefix cache as it is,
    and the answer says how far that is behind.
    """

    def __init__(
        self,
        config: AgentConfig,
        background: bool = False,
        now: Now = time.perf_counter,
        detector: Detector | None = None,
        opened: OpenedModel | None = None,
    ) -> None:
        super().__init__(config, background, now, detector)
        self._opened = opened
        self.fallback = MEMORY_FALLBACKS[0]  # of the question being asked
        self.prefix_cache: PrefixCache | None = None  # from load on; for the asking thread alone
        self._pruning: ScenePruning | None = None  # from check on
        self._loaded: LoadedModel | None = None
        self._detects = False  # the last background step was the detector's
        self._failed_version: tuple[int, int] | None = None  # of a scene no step can be made for
        self.latency = LatencyModel()
        self._policy = Policy(
            config.pruning, config.pruning.keep_ratio
        )  # of questions without their own ratio

    # -- model

    def check(self) -> ModelInfo:
        """Look at the checkpoint without reading weights, and whether it can be pruned as
        configured; and at the detector, where there is one.

        Raises ConfigError, CheckpointError, OutOfMemoryError or DetectorError.
        """
        config = self.config
        if self.has_detector:
            self._check_detector()
        self.info, model = check_model(config.model, functools.partial(plan_workload, config))
        self._pruning = ScenePruning.from_config(config.model, model.decoder)
        self._pruning.check(self.config)
        self._pruning.configure(self.config.pruning)
        if self.config.model.compat == "reference" and self.config.pruning.strategy != "none":
            logger.warning(
                "model.compat is 'reference' and pruning.strategy is %r: LLaVA-3D as published"
                " keeps all tokens ('none').",
                self.config.pruning.strategy,
            )
        return self.info

    def check_settings(self, config: AgentConfig) -> None:
        """Raise ConfigError where these settings do not work with the checked model."""
        if self._pruning is not None:
            self._pruning.check(config)

    @on_model_device
    def load(self) -> None:
        """Load detector and weights; call it on the thread that will ask. Raises ConfigError,
        ModelError, DetectorError.
        """
        # The detector first: what is wrong with it is quickly told.
        detector = self._open_detector() if self.has_detector else None
        loaded, self.info = self._opened or open_model(self.config.model)
        if self._pruning is None:
            self._pruning = ScenePruning.from_config(self.config.model, loaded.model.config.decoder)
            self._pruning.configure(self.config.pruning)
        self._pruning.warn_on_weight_mismatch(self.info.sha256)
        encoder = SceneEncoder(loaded.model)
        self.prefix_cache = PrefixCache(loaded, self._pruning, encoder, self.latency)
        if detector is not None:
            self._keep_objects(detector)
        else:
            from ada3d_ros.asking.inventory import Inventory  # of a model that is loaded

            self.inventory = Inventory(loaded, self.prefix_cache, self.config)
            self.inventory.reset(self._scene.state.epoch)
        self._loaded = loaded  # at last: from now on it is ready

    def beside(self) -> Ada3DPipeline:
        """A pipeline for another scene, which shares the weights: one of the two asks at a time.
        Raises LoadingError.
        """
        assert self.info is not None, "checked"
        opened = self.model, self.info
        other = Ada3DPipeline(self.config, now=self.now, detector=self.detector, opened=opened)
        other.load()
        return other

    @property
    def ready(self) -> bool:
        return self._loaded is not None

    @property
    def model(self) -> LoadedModel:
        """The loaded model. Raises LoadingError before `load`."""
        if self._loaded is None:
            raise LoadingError("the weights are not loaded yet.")
        return self._loaded

    @property
    def view_side(self) -> int:
        """Side in pixels of the square that the model sees of a view. Raises LoadingError."""
        return self.model.model.config.vision.image_size

    def device_memory_mib(self) -> tuple[float, float]:
        """Used and total memory of the model's GPU in MiB; NaN on a CPU."""
        loaded = self._loaded
        return (NAN, NAN) if loaded is None else device_memory_mib(loaded.model.device)

    def pruning_in_force(self) -> tuple[str, tuple[float, ...]]:
        """Strategy and budget in words, and the share of all spatial tokens that each layer will
        keep (() where the strategy is none, or scene, question or `cache.prune: auto` decide).
        """
        if self._pruning is None:
            return self.config.pruning.strategy, ()
        return self._pruning.describe(self.config), self._pruning.retention(self.config)

    # -- scene

    def reset_scene(self) -> None:
        super().reset_scene()
        if self._pruning is not None:
            self._pruning.forget_scene()

    def load_scene(self, scene: SceneSnapshot) -> SceneSnapshot:
        if self._pruning is not None:
            self._pruning.forget_scene()
        return super().load_scene(scene)

    def set_config(self, config: AgentConfig) -> None:
        if self._pruning is not None and config.pruning != self.config.pruning:
            self._pruning.configure(config.pruning)
        self._policy = Policy(config.pruning, config.pruning.keep_ratio)
        super().set_config(config)

    @on_model_device
    def run_background_step(self) -> bool:
        """One bounded piece of work between questions: a keyframe through the vision tower or the
        detector, a chunk of the scene through the language model, or a few names looked for in it.
        False where nothing is left for now. Call it on the asking thread, until False, now and
        then.
        """
        if not self.ready or self.inventory is None:
            return False
        if not self.has_detector:
            return self._step_model()
        # Turn about, where both have something to do; each once: a detector that was asked about
        # all that waits begins anew with its next step.
        self._detects = not self._detects
        if self._detects:
            return self.inventory.step(self._scene, self.config) or self._step_model()
        return self._step_model() or self.inventory.step(self._scene, self.config)

    def _step_model(self) -> bool:
        """A piece of what the model makes of the scene."""
        scene, cache, inventory = self._scene, self.prefix_cache, self.inventory
        if self._loaded is None or cache is None or scene.version == self._failed_version:
            return False
        try:
            clock = StageClock(self._loaded.model.device, self.now)
            if cache.step(scene, self.config, clock):
                return True
            if inventory is None or self.has_detector:
                return False
            return inventory.step(scene, self.config)
        except RuntimeError as error:
            # Once per scene; a question about it says what is wrong.
            self._failed_version = scene.version
            problem = memory_problem(error, "working ahead failed")
        self.free_memory()
        logger.warning(
            "no memory to work ahead (%s): keep fewer views (keyframe.max_views).", problem
        )
        return False

    @on_model_device
    def inventory_now(self) -> ObjectsSnapshot:
        """The objects of the scene as it is now, looked for where that was not done; call it on the
        asking thread. Raises NoFramesError, LoadingError, ModelError.
        """
        query, _ = self.open_query(Question("objects"), AskHooks())
        assert self.inventory is not None, "loaded"
        return self.inventory.complete_now(query)

    def cache_report(self) -> CacheReport:
        """The prefix cache in numbers; never waits."""
        return CacheReport() if self.prefix_cache is None else self.prefix_cache.report

    def free_memory(self) -> None:
        """Free what can be made again: the prefix cache, CUDA graphs, and torch's own cache."""
        if self.prefix_cache is not None:
            self.prefix_cache.forget()
        if self._loaded is not None:
            free_decoding(self._loaded.model.decoder)

    # -- questions

    @property
    def abilities(self) -> Abilities:
        loaded = self.model
        finds = self.has_detector or loaded.head is not None
        return Abilities(loaded.model.config.question_kinds, finds, self.has_detector)

    @on_model_device
    @routed
    @with_memory_fallbacks
    def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Answer one question about the scene, or about the newest image alone. Measured where that
        can be (asking/route.py), else by the model in these steps.

        Raises a RequestError (bad question, no keyframe, of no kind that is answered, a name that
        is not found or fits several, stopped by hooks.check before the first token), a ConfigError
        (a keep ratio that the strategy cannot meet) or a ModelError. When stopped later, the answer
        holds the text so far and its stop_reason says so.
        """
        query, cache = self.open_query(question, hooks)

        # 1. Scene to tokens: keyframes that are new pass the vision tower, each once.
        tokens = encode_scene(query, cache.encoder)
        if not math.isnan(question.deadline_s):
            query = budget_for_deadline(query, tokens, cache, self.latency)

        # 2. Tokens to prefix: the cached one, or a fresh selection (pruning before the model).
        context = select_context(query, tokens, cache)

        # 3. Prompt: system, scene, question and its coordinates as embeddings.
        prompt = timed_prompt(query, context)

        # 4. Prefill: through the decoder, spatial tokens pruned layer by layer.
        prefilled = prefill_pruned(query, context, prompt)

        # 5. Decode: token by token, streamed to the caller.
        generated = stream_answer(query, context, prefilled)

        # 6. Ground: boxes for what was asked, checked against depth.
        grounded = ground_answer(query, context, prompt, prefilled, generated)

        # 7. Answer: with its counts, costs and times.
        answer = build_answer(query, context, prompt, prefilled, grounded)
        if query.in_scene and query.fallback is MEMORY_FALLBACKS[0]:
            self.latency.record(answer, query.clock.prepared_s)
        return answer

    def ground(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """The boxes of a phrase (`question.text`): of a detector's objects that it names, of
        several those that the model chooses with detector.proposals; else those that the grounding
        head points at; without one those of the answer text, else what stands where the phrase is
        attended to. Depth supports each; each says how it was found.
        """
        phrase = self.check_question(question.text)  # the template around it may be longer
        from ada3d_ros.asking.ground_phrase import ground_phrase  # where something is grounded

        return ground_phrase(self, question, phrase, hooks)

    @on_model_device
    @with_memory_fallbacks
    def choose_proposals(self, question: Question, hooks: AskHooks) -> Answer:
        """The boxes of question.phrase among its proposals, by the model's own ground heads."""
        from ada3d_ros.grounding.from_ground_heads import ground_among_proposals  # few have them

        return ground_among_proposals(*self.open_query(question, hooks))

    @on_model_device
    def measure(
        self, request: MeasureRequest, hooks: AskHooks = AskHooks(), question: Question = MEASURE
    ) -> Answer:
        """Measure in the scene: what the request names is found, geometry gives the rest. method is
        MEASURED, `measurement` has the numbers, text is its sentence. question: as it was asked.

        Raises NotGroundedError, AmbiguousError, InvalidRequestError, NoFramesError, what
        hooks.check raises, or a ModelError.
        """
        from ada3d_ros.asking.measured import measure_request  # where something is measured

        @with_memory_fallbacks
        def answered(pipeline: Ada3DPipeline, question: Question, hooks: AskHooks) -> Answer:
            return measure_request(pipeline, request, hooks, question)

        return answered(self, question, hooks)

    @on_model_device
    def ask_together(self, asked: Sequence[tuple[Question, AskHooks]]) -> list[Answer | Exception]:
        """Answers, or what `ask` would have raised, in the order asked. Questions about the cached
        scene run as one batch: its keys and the weights are read once for all, and nothing is
        selected from it; others one after the other. The pieces of a text are handed out once.
        """
        from ada3d_ros.asking.together import ask_together  # where questions are batched

        return ask_together(self, asked)

    def open_scene(self, question: Question, hooks: AskHooks) -> OpenedScene:
        """The scene as a request is measured in it. Raises as `open_query`, NotMeasurableError."""
        if self.has_detector:
            return self.open_detected(question, hooks)
        from ada3d_ros.asking.inventory import Inventory
        from ada3d_ros.asking.measured_by_model import ModelScene

        query, cache = self.open_query(question, hooks)
        assert isinstance(self.inventory, Inventory), "loaded"
        return ModelScene.opened(query, cache, self.inventory)

    def open_query(self, question: Question, hooks: AskHooks) -> tuple[QueryContext, PrefixCache]:
        """A question with model, scene, settings and budget of now, checked."""
        loaded, config = self._loaded, self.config
        pruning, cache = self._pruning, self.prefix_cache
        if loaded is None or pruning is None or cache is None:
            raise LoadingError("the weights are not loaded yet.")
        clock = StageClock(loaded.model.device, self.now)
        parse_coordinates(check_question(question.text, MAX_PROMPT_CHARS))
        scene = self._scene_to_ask()
        policy = self._policy
        if policy.config is not config.pruning or not math.isnan(question.keep_ratio):
            policy = Policy.from_config(config.pruning, question.keep_ratio)
        if self.fallback.lowest_keep_ratio:
            policy = replace(policy, keep_ratio=keep_ratios(policy, pruning)[-1])
        query = QueryContext(
            loaded=loaded,
            question=question,
            hooks=hooks,
            config=config,
            scene=scene,
            policy=policy,
            pruning=pruning,
            clock=clock,
            exact=not self._background,
            fallback=self.fallback,
        )
        return query, cache
