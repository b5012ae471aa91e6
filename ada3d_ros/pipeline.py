"""The main path: frames in, questions in, answers out. Reads top to bottom like the method.

`observe` may run on one thread while `ask` runs on another; a question is answered from the keyframes that were there
when it began. Knows nothing of ROS.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from dataclasses import replace

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.cached_prefill import prefill_question
from ada3d_ros.engine.information import decoder_shape
from ada3d_ros.engine.latency import LatencyModel, Measured
from ada3d_ros.engine.memory_errors import out_of_memory
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.engine.scene_cache import CacheReport, SceneCache
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.speak import speak, stop_asked
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.usage import token_usage
from ada3d_ros.engine.visual import EFFORTS, Effort, Visual, budget_for_deadline, see
from ada3d_ros.errors import (
    LoadingError,
    ModelError,
    NoFramesError,
    OutOfMemoryError,
    QuestionTooLongError,
)
from ada3d_ros.ground_phrase import GROUNDING_PROMPT, find_by_relevance, point_at_phrase
from ada3d_ros.grounding import find_boxes
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import ParsedQuestion, check_question, parse_coordinates, render_question
from ada3d_ros.model.startup import check_model, device_memory_mib, open_model
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.pruning.strategies import Policy
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from ada3d_ros.types import (
    NAN,
    Answer,
    AskHooks,
    Box3D,
    Keyframe,
    ModelInfo,
    PromptSequence,
    Question,
    RgbdFrame,
    SceneState,
    Scope,
    Stage,
    StopReason,
)

logger = logging.getLogger(__name__)

MAX_PROMPT_CHARS = 100_000  # a question within question.max_chars, and the template around it


class Ada3DPipeline:
    """One robot's scene and one model.

    `check` reads no weights and fails early; `load` takes long. Settings that may change are read at each question.

    background: someone calls `work_ahead` between questions; then a question is answered from the cached scene that is there,
    which may be a little behind (the answer says how much). Else every answer is about the scene as it is.
    """

    def __init__(self, config: AgentConfig, background: bool = False) -> None:
        self.config, self._background = config, background
        self.info: ModelInfo | None = None
        self._pruning: ScenePruning | None = None  # from check on
        self._loaded: LoadedModel | None = None
        self._keyframes = KeyframeBuffer(config.keyframe)
        self._lock = threading.Lock()  # for the buffer; held for the milliseconds that a frame takes
        self._scene = SceneSnapshot()  # replaced, never changed: readers need no lock
        self._cache: SceneCache | None = None  # from load on; touched by the asking thread alone
        self._ahead_failed: tuple[int, int] | None = None  # version of a scene
        self._latency = LatencyModel()

    # -- model --------------------------------------------------------------------------------------------------------

    def check(self) -> ModelInfo:
        """Look at the checkpoint without reading weights, and whether it can be pruned as configured.

        Raises ConfigError, CheckpointError or OutOfMemoryError.
        """
        self.info, model = check_model(self.config.model, self.config.keyframe.max_views)
        self._pruning = ScenePruning(decoder_shape(model.decoder))
        self._pruning.check(self.config.pruning)
        self._pruning.configure(self.config.pruning)
        if self.config.model.compat == "reference" and self.config.pruning.strategy != "none":
            logger.warning(
                "model.compat is 'reference' and pruning.strategy is %r: LLaVA-3D as published keeps all tokens ('none').",
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
        self._pruning.compare(self.info.sha256)
        self._cache = SceneCache(loaded, self._pruning)
        self._loaded = loaded

    @property
    def ready(self) -> bool:
        return self._loaded is not None

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
        """Strategy and budget in words, and the share of all spatial tokens that each layer will keep (() where all are, or
        where scene or question decide)."""
        if self._pruning is None:
            return self.config.pruning.strategy, ()
        return self._pruning.in_words(self.config.pruning), self._pruning.retention(self.config.pruning)

    # -- scene --------------------------------------------------------------------------------------------------------

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

    def scene_state(self) -> SceneState:
        """The scene in numbers; never waits."""
        return self._scene.state

    def _apply_config(self) -> None:
        if self._keyframes.config != self.config.keyframe:
            self._keyframes.set_config(self.config.keyframe)

    def _publish_scene(self) -> None:
        if (self._keyframes.epoch, self._keyframes.version) != self._scene.version:
            self._scene = self._keyframes.snapshot()

    def work_ahead(self) -> bool:
        """One bounded piece of work ahead of questions: a keyframe through the vision tower, or a chunk of the scene through the
        language model. False where nothing is left for now. Call it on the asking thread, until False, now and then."""
        scene = self._scene
        if self._loaded is None or self._cache is None or scene.version == self._ahead_failed:
            return False
        try:
            clock = StageClock(self._loaded.model.device)
            return self._cache.advance(scene, Policy.of(self.config.pruning), self.config, clock)
        except RuntimeError as error:
            self._ahead_failed = scene.version  # once per scene; a question about it says what is wrong
            problem = out_of_memory(error)
            if not problem:
                raise ModelError(f"working ahead failed: {error}") from error
        self._free_memory()
        logger.warning("no memory to work ahead (%s): keep fewer views (keyframe.max_views).", problem)
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
                "no keyframe yet: move the camera, or check that colour, depth, camera_info and pose arrive."
            )
        return scene

    # -- questions ----------------------------------------------------------------------------------------------------

    def check_question(self, text: str) -> None:
        """Raise InvalidRequestError or QuestionTooLongError for text that is not a question. Costs nothing."""
        parse_coordinates(check_question(text, self.config.question.max_chars))

    def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Answer one question about the scene, or about the newest image alone.

        Raises a RequestError (bad question, no keyframe, stopped by hooks.check before the first token), a ConfigError (a
        keep ratio that the strategy cannot meet) or a ModelError.
        When stopped later, the answer holds the text so far and its stop_reason says so.
        """
        loaded, pruning = self._loaded, self._pruning
        if loaded is None or pruning is None:
            raise LoadingError("the weights are not loaded yet.")
        spoken = _Spoken(hooks)
        for effort in EFFORTS:
            try:
                return self._ask(loaded, pruning, question, spoken.hooks, effort)
            except RuntimeError as error:
                problem = out_of_memory(error)
                if not problem:  # another of torch's own errors
                    raise ModelError(f"the model failed: {error}") from error
            self._free_memory()  # outside the except block: the traceback would keep the tensors alive
            if spoken.any or effort is EFFORTS[-1]:
                break
            logger.warning("%s: %s; tried again with less.", question.text[:80], problem)
        raise OutOfMemoryError(f"the memory does not suffice ({problem}); keep fewer views (keyframe.max_views).")

    def _free_memory(self) -> None:
        if self._cache is not None:
            self._cache.forget_prefixes()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ground(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """Ask for the boxes of a phrase (`question.text`): those that the grounding head points at; for a checkpoint without one those of
        the answer text, else what stands where the phrase is attended to. Depth supports each; each says how it was found."""
        phrase = question.text.strip()
        asked = replace(question, text=GROUNDING_PROMPT.format(phrase=phrase), phrase=phrase, want_boxes=True)
        self.check_question(question.text)  # as the user wrote it; the template may be longer
        answer = self.ask(asked, hooks)
        boxes = tuple(replace(box, label=phrase) for box in answer.boxes)
        return replace(answer, question=question.text, boxes=boxes)

    def _ask(
        self, loaded: LoadedModel, pruning: ScenePruning, question: Question, hooks: AskHooks, effort: Effort
    ) -> Answer:
        assert self._cache is not None
        clock, started = StageClock(loaded.model.device), time.perf_counter()
        config = self.config  # of this question, whatever is set meanwhile
        parsed = parse_coordinates(check_question(question.text, MAX_PROMPT_CHARS))
        scene, in_room = self._snapshot(), question.scope is Scope.SCENE
        policy = budget_for_deadline(
            self._latency, Policy.of(config.pruning, question.keep_ratio), question, config, self._cache, pruning
        )
        hooks.on_stage(Stage.ENCODING)
        visual = see(
            self._cache, loaded, pruning, question, scene, policy, config, hooks, clock, effort, not self._background
        )
        scene, policy = visual.scene, visual.policy
        prompt = self._build_prompt(loaded, parsed, visual, clock)
        hooks.check()
        with clock.stage("scene_s") if policy.fitted else nullcontext():
            pruner = pruning.pruner(
                loaded.model.decoder, policy, prompt, visual.chosen.original, scene.version, question.scope.name
            )
        hooks.on_stage(Stage.PREFILL)
        hooks.check()
        head = loaded.head if question.phrase and in_room else None
        prefilled = self._prefill(loaded, visual, prompt, question, pruner, with_states=head is not None)
        clock.add("prefill_s", prefilled.prefill_s)
        clock.add("rank_s", prefilled.rank_s)
        clock.add("first_token_s", clock.elapsed_s())
        hooks.on_stage(Stage.DECODING)
        output, text = speak(loaded, prefilled, config.generation, self._max_new_tokens(question), hooks)
        clock.add("first_token_s", output.first_token_s)
        clock.add("decode_s", output.decode_s)
        hooks.on_stage(Stage.POSTPROCESS)
        if not text and output.stop_reason in (StopReason.EOS, StopReason.MAX_TOKENS):
            raise ModelError("the model gave no text for this question; ask in other words.")
        with clock.stage("postprocess_s"):
            usage = token_usage(
                loaded.model.decoder, prompt, visual.tokens, visual.chosen, prefilled, pruner, in_room,
                cached=visual.prefix is not None,
            )  # fmt: skip
            xyz_m = visual.chosen.tokens.xyz_m
            if head is not None:
                boxes, text = point_at_phrase(head, prefilled, xyz_m, question, config, scene.frames, text, hooks)
            else:
                boxes = self._boxes(text, question, scene, hooks)
                if question.phrase and not boxes and in_room:
                    boxes = find_by_relevance(
                        loaded, question, prompt, xyz_m, config, self._max_new_tokens(question), scene.frames,
                        build=lambda words: self._build_prompt(loaded, parse_coordinates(words), visual, clock),
                        run=lambda located: self._prefill(loaded, visual, located, question),
                        read_boxes=lambda words: self._boxes(words, question, scene, hooks), hooks=hooks,
                    )  # fmt: skip
            stop_reason = output.stop_reason
            if question.phrase and not boxes:  # a search cut short has not found that there is nothing
                stop_reason = stop_asked(hooks) or stop_reason
        timings = clock.timings()
        if in_room and effort is EFFORTS[0]:
            self._latency.note(visual.prefix is not None, Measured.of(usage, timings, len(output.token_ids)))
        return Answer(
            question=question.text,
            text=text,
            boxes=boxes,
            stamp_ns=scene.state.newest_ns,
            frame_id=scene.keyframes[-1].frame.frame_id,
            keyframe_stamps_ns=tuple(f.stamp_ns for f in (scene.frames if in_room else scene.frames[-1:])),
            stop_reason=stop_reason,
            tokens=replace(
                usage,
                generated=len(output.token_ids),
                keep_ratio_requested=question.keep_ratio,
                strategy=config.pruning.strategy if usage.keep_ratio_achieved < 1.0 else "none",
            ),
            timings=timings,
            scene_epoch=scene.state.epoch,
            scene_version=scene.state.version,
            scene_cached=visual.prefix is not None,
            scene_staleness=visual.staleness,
            confidence=output.mean_probability,
            deadline_kept=time.perf_counter() - started <= question.deadline_s,  # False for NaN
            kept_xyz_m=xyz_m[prefilled.kept[-1]].cpu().numpy() if in_room else None,
        )

    def _prefill(
        self, loaded: LoadedModel, visual: Visual, prompt: PromptSequence, question: Question, pruner: LayerPruner | None = None,
        with_states: bool = False,
    ) -> PrefillOutput:  # fmt: skip
        """The whole prompt through the decoder; behind a cached scene only what follows it."""
        decoder, reserve = loaded.model.decoder, self._max_new_tokens(question)
        if visual.prefix is None:
            return prefill(decoder, prompt, reserve, pruner, with_states)
        rows, count = prompt.embeds[prompt.spatial_span[1] :], prompt.spatial_span[1] - prompt.spatial_span[0]
        return prefill_question(decoder, visual.prefix, rows, reserve, pruner, count, with_states)

    def _build_prompt(
        self, loaded: LoadedModel, parsed: ParsedQuestion, visual: Visual, clock: StageClock
    ) -> PromptSequence:
        ids = loaded.tokenizer.encode(render_question(parsed.text, self.config.model.conversation))
        model, count = loaded.model, len(visual.rows)
        with torch.inference_mode(), clock.stage("spatial_s"):
            prompt = model.build_prompt(
                ids, visual.rows, model.encode_clicks(parsed.clicks), visual.chosen.tokens.xyz_m
            )
        limit = model.config.decoder.max_positions
        if prompt.embeds.shape[0] >= limit:
            raise QuestionTooLongError(
                f"the prompt has {prompt.embeds.shape[0]} tokens ({count} spatial), the model's positions end at {limit}: no room "
                "for an answer. Ask a shorter question or keep fewer views (keyframe.max_views)."
            )
        return prompt

    def _max_new_tokens(self, question: Question) -> int:
        return question.max_new_tokens or self.config.generation.max_new_tokens

    def _boxes(self, text: str, question: Question, scene: SceneSnapshot, hooks: AskHooks) -> tuple[Box3D, ...]:
        if not question.want_boxes:
            return ()
        limits = self.config.boxes
        return find_boxes(
            text,
            scene.frames,
            max_count=question.max_boxes or limits.max_count,
            min_score=question.min_score or limits.min_score,
            min_points=limits.min_support_points,
            check=hooks.check,
        )


class _Spoken:
    """Hooks that note whether the caller has heard text already: then a question cannot begin anew."""

    def __init__(self, hooks: AskHooks) -> None:
        self.any = False
        self._on_text = hooks.on_text
        self.hooks = replace(hooks, on_text=self._hear)

    def _hear(self, delta: str, num_tokens: int) -> None:
        self.any = self.any or bool(delta)
        self._on_text(delta, num_tokens)
