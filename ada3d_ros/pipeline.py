"""The main path: frames in, questions in, answers out. Reads top to bottom like the method.

`observe` may run on one thread while `ask` runs on another; a question is answered from the
keyframes that were there when it began. Knows nothing of ROS.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from ada3d_ros.answering import MAX_PROMPT_CHARS, QueryContext, answer_together, outcome, shareable
from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.deadline import LatencyModel, Measured
from ada3d_ros.engine.information import decoder_shape
from ada3d_ros.engine.memory_errors import out_of_memory
from ada3d_ros.engine.prefix_cache import CacheReport, PrefixCache
from ada3d_ros.engine.scene_context import (
    MEMORY_FALLBACKS,
    MemoryFallback,
    budget_for_deadline,
    encode_scene,
)
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.streaming import EmissionGuard, generate_text
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.errors import (
    Ada3DError,
    LoadingError,
    ModelError,
    NoFramesError,
    OutOfMemoryError,
)
from ada3d_ros.grounding.phrase import GROUNDING_PROMPT
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import check_question, parse_coordinates
from ada3d_ros.model.startup import check_model, device_memory_mib, open_model
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from ada3d_ros.types import (
    NAN,
    Answer,
    AskHooks,
    Keyframe,
    ModelInfo,
    Question,
    RgbdFrame,
    SceneState,
    Scope,
    Stage,
)

logger = logging.getLogger(__name__)


class Ada3DPipeline:
    """One robot's scene and one model.

    `check` reads no weights and fails early; `load` takes long. Settings that may change are read
    at each question.

    background: someone calls `run_background_step` between questions; then a question is answered from the
    cached scene that is there, which may be a little behind (the answer says how much). Else every
    answer is about the scene as it is.
    """

    def __init__(self, config: AgentConfig, background: bool = False) -> None:
        self.config, self._background = config, background
        self.info: ModelInfo | None = None
        self._pruning: ScenePruning | None = None  # from check on
        self._loaded: LoadedModel | None = None
        self._keyframes = KeyframeBuffer(config.keyframe)
        self._lock = (
            threading.Lock()
        )  # for the buffer; held for the milliseconds that a frame takes
        self._scene = SceneSnapshot()  # replaced, never changed: readers need no lock
        self._cache: PrefixCache | None = None  # from load on; touched by the asking thread alone
        self._ahead_failed: tuple[int, int] | None = None  # version of a scene
        self._latency = LatencyModel()

    # -- model

    def check(self) -> ModelInfo:
        """Look at the checkpoint without reading weights, and whether it can be pruned as
        configured.

        Raises ConfigError, CheckpointError or OutOfMemoryError.
        """
        config, copies = (
            self.config,
            2 if self.config.cache.mode == "cached" else 1,
        )  # one answers, one is built
        self.info, model = check_model(
            config.model,
            config.keyframe.max_views,
            scene_copies=copies,
            kv_int8=config.cache.kv == "int8",
        )
        self._pruning = ScenePruning(decoder_shape(model.decoder))
        self._pruning.check(self.config.pruning)
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
            self._pruning.check(config.pruning)

    def load(self) -> None:
        """Load the weights; call it on the thread that will ask. Raises ConfigError, ModelError."""
        loaded, self.info = open_model(self.config.model)
        if self._pruning is None:
            self._pruning = ScenePruning(decoder_shape(loaded.model.config.decoder))
            self._pruning.configure(self.config.pruning)
        self._pruning.warn_on_weight_mismatch(self.info.sha256)
        self._cache = PrefixCache(loaded, self._pruning)
        self._loaded = loaded

    @property
    def ready(self) -> bool:
        return self._loaded is not None

    @property
    def model(self) -> LoadedModel:
        """The loaded weights and their tokenizer. Raises LoadingError."""
        if self._loaded is None:
            raise LoadingError("the weights are not loaded yet.")
        return self._loaded

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """The cached scene; None before `load`. Only the thread that asks may change it."""
        return self._cache

    @property
    def view_side(self) -> int:
        """Side in pixels of the square that the model sees of a view. Raises LoadingError."""
        if self._loaded is None:
            raise LoadingError("the weights are not loaded yet.")
        return self._loaded.model.config.vision.image_size

    def device_memory_mib(self) -> tuple[float, float]:
        """Used and total memory of the model's GPU in MiB; NaN on a CPU."""
        loaded = self._loaded
        return (NAN, NAN) if loaded is None else device_memory_mib(loaded.model.device)

    def pruning_in_force(self) -> tuple[str, tuple[float, ...]]:
        """Strategy and budget in words, and the share of all spatial tokens that each layer will
        keep (() where all are, or where scene or question decide).
        """
        if self._pruning is None:
            return self.config.pruning.strategy, ()
        return self._pruning.describe(self.config.pruning), self._pruning.retention(
            self.config.pruning
        )

    # -- scene

    def observe(self, frame: RgbdFrame) -> Keyframe | None:
        """Offer a frame to the keyframe buffer; the keyframe if it was admitted. Raises FrameError."""
        with self._lock:
            self._apply_config()
            keyframe = self._keyframes.offer(frame)
            self._publish_scene()
            return keyframe

    def reset_scene(self) -> None:
        """Forget all keyframes; the epoch grows."""
        with self._lock:
            self._keyframes.reset()
            self._publish_scene()
        if self._pruning is not None:
            self._pruning.forget_scene()

    def allow_earlier_stamps(self) -> None:
        """Take frames again after the clock fell back, the scene being kept."""
        with self._lock:
            self._keyframes.allow_earlier_stamps()

    def set_config(self, config: AgentConfig) -> None:
        """Apply changed settings from the next frame and question on."""
        if self._pruning is not None and config.pruning != self.config.pruning:
            self._pruning.configure(config.pruning)
        self.config = config

    @property
    def scene(self) -> SceneSnapshot:
        """The keyframes that a question asked now is about; replaced by the next one, never changed."""
        return self._scene

    def scene_state(self) -> SceneState:
        """The scene in numbers; never waits."""
        return self._scene.state

    def _apply_config(self) -> None:
        if self._keyframes.config != self.config.keyframe:
            self._keyframes.set_config(self.config.keyframe)

    def _publish_scene(self) -> None:
        if (self._keyframes.epoch, self._keyframes.version) != self._scene.version:
            self._scene = self._keyframes.snapshot()

    def run_background_step(self) -> bool:
        """One bounded piece of work ahead of questions: a keyframe through the vision tower, or a
        chunk of the scene through the language model. False where nothing is left for now. Call it
        on the asking thread, until False, now and then.
        """
        scene = self._scene
        if self._loaded is None or self._cache is None or scene.version == self._ahead_failed:
            return False
        try:
            clock = StageClock(self._loaded.model.device)
            return self._cache.step(
                scene, Policy.from_config(self.config.pruning), self.config, clock
            )
        except RuntimeError as error:
            self._ahead_failed = (
                scene.version
            )  # once per scene; a question about it says what is wrong
            problem = out_of_memory(error)
            if not problem:
                raise ModelError(f"working ahead failed: {error}") from error
        self._free_memory()
        logger.warning(
            "no memory to work ahead (%s): keep fewer views (keyframe.max_views).", problem
        )
        return False

    def cache_report(self) -> CacheReport:
        """The cached scene in numbers; never waits."""
        return CacheReport() if self._cache is None else self._cache.report

    def _snapshot(self) -> SceneSnapshot:
        with self._lock:
            self._apply_config()
            self._publish_scene()
        scene = self._scene
        if not scene.keyframes:
            raise NoFramesError(
                "no keyframe yet: move the camera, or check that colour, depth, camera_info and"
                " pose arrive."
            )
        return scene

    # -- questions

    def check_question(self, text: str) -> None:
        """Raise InvalidRequestError or QuestionTooLongError for text that is not a question. Costs
        nothing.
        """
        parse_coordinates(check_question(text, self.config.question.max_chars))

    def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Answer one question about the scene, or about the newest image alone.

        Raises a RequestError (bad question, no keyframe, stopped by hooks.check before the first
        token), a ConfigError (a keep ratio that the strategy cannot meet) or a ModelError. When
        stopped later, the answer holds the text so far and its stop_reason says so.
        """
        loaded, pruning = self._loaded, self._pruning
        if loaded is None or pruning is None:
            raise LoadingError("the weights are not loaded yet.")
        spoken = EmissionGuard(hooks)
        for effort in MEMORY_FALLBACKS:
            try:
                return self._ask(loaded, pruning, question, spoken.hooks, effort)
            except RuntimeError as error:
                problem = out_of_memory(error)
                if not problem:  # another of torch's own errors
                    raise ModelError(f"the model failed: {error}") from error
            # outside the except block: the traceback would keep the tensors alive
            self._free_memory()
            if spoken.any or effort is MEMORY_FALLBACKS[-1]:
                break
            logger.warning("%s: %s; tried again with less.", question.text[:80], problem)
        raise OutOfMemoryError(
            f"the memory does not suffice ({problem}); keep fewer views (keyframe.max_views)."
        )

    def _free_memory(self) -> None:
        if self._cache is not None:
            self._cache.forget_prefixes()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ask_together(self, asked: Sequence[tuple[Question, AskHooks]]) -> list[Answer | Exception]:
        """Answers, or what `ask` would have raised, in the order asked. Questions about the cached
        scene run as one batch: its keys and the weights are read once for all, and nothing is
        selected from it; others one after the other.
        """
        if len(asked) > 1 and all(shareable(question) for question, _ in asked):
            try:
                answers = self._ask_batch(asked)
            except (
                RuntimeError
            ) as error:  # memory, or torch's own: alone each gets its answer, or says what is wrong
                logger.warning("questions are answered one after the other: %s", error)
                self._free_memory()
            else:
                if answers is not None:
                    return answers
        return [outcome(self.ask, question, hooks) for question, hooks in asked]

    def ground(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Ask for the boxes of a phrase (`question.text`): those that the grounding head points at;
        for a checkpoint without one those of the answer text, else what stands where the phrase is
        attended to. Depth supports each; each says how it was found.
        """
        phrase = question.text.strip()
        asked = replace(
            question, text=GROUNDING_PROMPT.format(phrase=phrase), phrase=phrase, want_boxes=True
        )
        self.check_question(question.text)  # as the user wrote it; the template may be longer
        answer = self.ask(asked, hooks)
        boxes = tuple(replace(box, label=phrase) for box in answer.boxes)
        return replace(answer, question=question.text, boxes=boxes)

    def _ask(
        self,
        loaded: LoadedModel,
        pruning: ScenePruning,
        question: Question,
        hooks: AskHooks,
        effort: MemoryFallback,
    ) -> Answer:
        assert self._cache is not None
        clock, config = (
            StageClock(loaded.model.device),
            self.config,
        )  # of this question, whatever is set meanwhile
        parsed = parse_coordinates(check_question(question.text, MAX_PROMPT_CHARS))
        scene = self._snapshot()
        policy = Policy.from_config(config.pruning, question.keep_ratio)
        policy = budget_for_deadline(self._latency, policy, question, config, self._cache, pruning)
        hooks.on_stage(Stage.ENCODING)
        exact = not self._background
        visual = encode_scene(
            self._cache,
            loaded,
            pruning,
            question,
            scene,
            policy,
            config,
            hooks,
            clock,
            effort,
            exact,
        )
        asked = QueryContext(loaded, question, config, hooks, visual, clock)
        prompt = asked.build_prompt(parsed)
        hooks.check()
        with clock.stage("scene_s") if visual.policy.fitted else nullcontext():
            pruner = pruning.pruner(
                loaded.model.decoder,
                visual.policy,
                prompt,
                visual.chosen.num_before_selection,
                visual.scene.version,
                question.scope.name,
            )
        hooks.on_stage(Stage.PREFILL)
        hooks.check()
        prefilled = asked.prefill(prompt, pruner, with_states=asked.head is not None)
        clock.add("prefill_s", prefilled.prefill_s)
        clock.add("rank_s", prefilled.rank_s)
        clock.add("first_token_s", clock.elapsed_s())
        hooks.on_stage(Stage.DECODING)
        output, text = generate_text(
            loaded, prefilled, config.generation, asked.max_new_tokens, hooks
        )
        clock.add("first_token_s", output.first_token_s)
        clock.add("decode_s", output.decode_s)
        answer = asked.finish(prompt, prefilled, pruner, output, text)
        if effort is MEMORY_FALLBACKS[0] and question.scope is Scope.SCENE:
            self._latency.note(
                answer.scene_cached,
                Measured.from_answer(answer.tokens, answer.timings, len(output.token_ids)),
            )
        return answer

    def _ask_batch(
        self, asked: Sequence[tuple[Question, AskHooks]]
    ) -> list[Answer | Exception] | None:
        """Of questions that can share the cached scene; None where there is none to share."""
        loaded, pruning, cache, config = self._loaded, self._pruning, self._cache, self.config
        policy, clock = (
            Policy.from_config(config.pruning),
            None if loaded is None else StageClock(loaded.model.device),
        )
        if (
            loaded is None
            or pruning is None
            or cache is None
            or clock is None
            or not PrefixCache.serves(policy, config)
        ):
            return None
        first, exact = asked[0][0], not self._background
        try:
            scene = self._snapshot()
            visual = encode_scene(
                cache,
                loaded,
                pruning,
                first,
                scene,
                policy,
                config,
                AskHooks(),
                clock,
                MEMORY_FALLBACKS[0],
                exact,
            )
        except Ada3DError:  # asked alone, each says so
            return None
        if visual.prefix is None:
            return None
        return answer_together(
            [
                QueryContext(loaded, question, config, hooks, visual, clock)
                for question, hooks in asked
            ]
        )
