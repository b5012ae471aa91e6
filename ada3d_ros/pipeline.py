"""The main path: frames in, questions in, answers out. Reads top to bottom like the method.

`observe` may run on one thread while `ask` runs on another; a question is answered from the
keyframes that were there when it began. Knows nothing of ROS.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.answer import build_answer
from ada3d_ros.engine.deadline import LatencyModel
from ada3d_ros.engine.memory_fallback import (
    MEMORY_FALLBACKS,
    Ask,
    memory_problem,
    with_memory_fallbacks,
)
from ada3d_ros.engine.prefix_cache import CacheReport, PrefixCache
from ada3d_ros.engine.query_context import (
    MAX_PROMPT_CHARS,
    QueryContext,
    budget_for_deadline,
    encode_scene,
    keep_ratios,
    prefill_pruned,
    select_context,
    timed_prompt,
)
from ada3d_ros.engine.scene_encoder import SceneEncoder
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.streaming import stream_answer
from ada3d_ros.engine.timing import Now, StageClock
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import Ada3DError, LoadingError, NoFramesError
from ada3d_ros.grounding import ground_answer
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import check_question, parse_coordinates
from ada3d_ros.model.startup import check_model, device_memory_mib, open_model
from ada3d_ros.pruning.cost import DecoderShape
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
)

if TYPE_CHECKING:
    from ada3d_ros.engine.together import Generated

logger = logging.getLogger(__name__)


class Ada3DPipeline:
    """One robot's scene and one model.

    `check` reads no weights and fails early; `load` takes long. Settings that may change are read
    at each question.

    background: someone calls `run_background_step` between questions; then a question is answered
    from the prefix cache as it is, which may be a little behind (the answer says how much). Else
    every answer is about the scene as it is. now: the clock that times are read from.
    """

    def __init__(
        self, config: AgentConfig, background: bool = False, now: Now = time.perf_counter
    ) -> None:
        self.config, self._background, self._now = config, background, now
        self.info: ModelInfo | None = None
        self.fallback = MEMORY_FALLBACKS[0]  # of the question being asked
        self.prefix_cache: PrefixCache | None = None  # from load on; for the asking thread alone
        self._pruning: ScenePruning | None = None  # from check on
        self._loaded: LoadedModel | None = None
        self._keyframes = KeyframeBuffer(config.keyframe, config.world.floor_z)
        self._lock = threading.Lock()  # for the buffer; held for the milliseconds a frame takes
        self._scene = self._keyframes.snapshot()  # replaced, never changed: readers need no lock
        self._failed_version: tuple[int, int] | None = None  # of a scene no step can be made for
        self.latency = LatencyModel()
        self._policy = Policy(
            config.pruning, config.pruning.keep_ratio
        )  # of questions without their own ratio

    # -- model

    def check(self) -> ModelInfo:
        """Look at the checkpoint without reading weights, and whether it can be pruned as
        configured.

        Raises ConfigError, CheckpointError or OutOfMemoryError.
        """
        config = self.config
        copies = 2 if config.cache.mode == "cached" else 1  # one answers, one is built
        self.info, model = check_model(
            config.model,
            config.keyframe.max_views,
            scene_copies=copies,
            kv_int8=config.cache.kv == "int8",
        )
        self._pruning = ScenePruning(DecoderShape.from_config(model.decoder))
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
            self._pruning = ScenePruning(DecoderShape.from_config(loaded.model.config.decoder))
            self._pruning.configure(self.config.pruning)
        self._pruning.warn_on_weight_mismatch(self.info.sha256)
        self.prefix_cache = PrefixCache(loaded, self._pruning, SceneEncoder(loaded.model))
        self._loaded = loaded

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
        keep (() where all are, or where scene or question decide).
        """
        if self._pruning is None:
            return self.config.pruning.strategy, ()
        pruning = self.config.pruning
        return self._pruning.describe(pruning), self._pruning.retention(pruning)

    # -- scene

    def observe(self, frame: RgbdFrame) -> Keyframe | None:
        """Offer a frame; the keyframe if it was admitted. Raises FrameError."""
        with self._lock:
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
        """Apply changed settings from the next frame and question on; fewer views at once."""
        if self._pruning is not None and config.pruning != self.config.pruning:
            self._pruning.configure(config.pruning)
        self.config = config
        self._policy = Policy(config.pruning, config.pruning.keep_ratio)
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

    def run_background_step(self) -> bool:
        """One bounded piece of work between questions: a keyframe through the vision tower, or a
        chunk of the scene through the language model. False where nothing is left for now. Call it
        on the asking thread, until False, now and then.
        """
        scene, cache = self._scene, self.prefix_cache
        if self._loaded is None or cache is None or scene.version == self._failed_version:
            return False
        try:
            return cache.step(scene, self.config, StageClock(self._loaded.model.device, self._now))
        except RuntimeError as error:
            # Once per scene; a question about it says what is wrong.
            self._failed_version = scene.version
            problem = memory_problem(error, "working ahead failed")
        self.free_memory()
        logger.warning(
            "no memory to work ahead (%s): keep fewer views (keyframe.max_views).", problem
        )
        return False

    def cache_report(self) -> CacheReport:
        """The prefix cache in numbers; never waits."""
        return CacheReport() if self.prefix_cache is None else self.prefix_cache.report

    def free_memory(self) -> None:
        """Free what can be made again: the prefix cache, and torch's own cache."""
        if self.prefix_cache is not None:
            self.prefix_cache.forget()
        if torch.cuda.is_available():
            with suppress(RuntimeError):  # of a GPU that no longer works; what is next says so
                torch.cuda.empty_cache()

    # -- questions

    def check_question(self, text: str) -> str:
        """The question as it will be asked. Raises InvalidRequestError, QuestionTooLongError."""
        checked = check_question(text, self.config.question.max_chars)
        parse_coordinates(checked)
        return checked

    @with_memory_fallbacks
    def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Answer one question about the scene, or about the newest image alone.

        Raises a RequestError (bad question, no keyframe, stopped by hooks.check before the first
        token), a ConfigError (a keep ratio that the strategy cannot meet) or a ModelError. When
        stopped later, the answer holds the text so far and its stop_reason says so.
        """
        query, cache = self._open(question, hooks)

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
        generated = stream_answer(query, prefilled)

        # 6. Ground: boxes for what was asked, checked against depth.
        boxes, generated = ground_answer(query, context, prompt, prefilled, generated)

        # 7. Answer: with its counts, costs and times.
        answer = build_answer(query, context, prompt, prefilled, generated, boxes)
        if query.in_scene and query.fallback is MEMORY_FALLBACKS[0]:
            self.latency.record(answer, query.clock.prepared_s)
        return answer

    def ground(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Ask for the boxes of a phrase (`question.text`): those that the grounding head points at;
        for a checkpoint without one those of the answer text, else what stands where the phrase is
        attended to. Depth supports each; each says how it was found.
        """
        phrase = self.check_question(question.text)  # the template around it may be longer
        asked = replace(
            question, text=GROUNDING_PROMPT.format(phrase=phrase), phrase=phrase, want_boxes=True
        )
        answer = self.ask(asked, hooks)
        boxes = tuple(replace(box, label=phrase) for box in answer.boxes)
        return replace(answer, question=question.text, boxes=boxes)

    def ask_together(self, asked: Sequence[tuple[Question, AskHooks]]) -> list[Answer | Exception]:
        """Answers, or what `ask` would have raised, in the order asked. Questions about the cached
        scene run as one batch: its keys and the weights are read once for all, and nothing is
        selected from it; others one after the other. The pieces of a text are handed out once.
        """
        if len(asked) < 2 or not all(question.shareable for question, _ in asked):
            return [_outcome(self.ask, question, hooks) for question, hooks in asked]
        from ada3d_ros.engine.together import StreamedOnce, resume  # where questions are batched

        streams = [(question, StreamedOnce(hooks)) for question, hooks in asked]
        try:
            answers = self._ask_batch([(question, stream.hooks) for question, stream in streams])
        except RuntimeError as error:
            # Memory, or torch's own: alone each gets its answer, or says what is wrong.
            logger.warning("questions are answered one after the other: %s", error)
            self.free_memory()
            answers = None
        return answers or [
            resume(self._ask_batch, question, stream)
            if stream.sent
            else _outcome(self.ask, question, stream.hooks)
            for question, stream in streams
        ]

    def _ask_batch(
        self, asked: Sequence[tuple[Question, AskHooks]]
    ) -> list[Answer | Exception] | None:
        """Of questions that can share the cached scene; None where there is none to share."""
        try:  # what they share; each one's own text is checked with its prompt
            shared, cache = self._open(Question("shared"), AskHooks())
            if not cache.serves_under(shared.config):
                return None
            context = select_context(shared, encode_scene(shared, cache.encoder), cache)
        except Ada3DError:  # asked alone, each says so
            return None
        if context.prefix is None:
            return None
        from ada3d_ros.engine.together import generate_together  # where questions are batched

        queries = [replace(shared, question=question, hooks=hooks) for question, hooks in asked]
        generated = generate_together(queries, context, shared.clock)
        return [self._finish(one, context) for one in generated]

    def _finish(self, one: Generated | Ada3DError, context: SceneContext) -> Answer | Exception:
        """Steps 6 and 7 for one question of a batch."""
        if isinstance(one, Ada3DError):
            return one
        try:
            parts = one.query, context, one.prompt, one.prefilled
            boxes, output = ground_answer(*parts, one.output)
            return build_answer(*parts, output, boxes)
        except Ada3DError as error:
            return error

    def _open(self, question: Question, hooks: AskHooks) -> tuple[QueryContext, PrefixCache]:
        """A question with model, scene, settings and budget of now, checked."""
        loaded, config = self._loaded, self.config
        pruning, cache = self._pruning, self.prefix_cache
        if loaded is None or pruning is None or cache is None:
            raise LoadingError("the weights are not loaded yet.")
        clock = StageClock(loaded.model.device, self._now)
        parse_coordinates(check_question(question.text, MAX_PROMPT_CHARS))
        scene = self._scene
        if not scene.keyframes:
            raise NoFramesError(
                "no keyframe yet: move the camera, or check that colour, depth, camera_info and"
                " pose arrive."
            )
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


def _outcome(ask: Ask, question: Question, hooks: AskHooks) -> Answer | Exception:
    """The answer, or what was raised instead."""
    try:
        return ask(question, hooks)
    except Exception as error:  # told to this caller; the others go on
        return error
