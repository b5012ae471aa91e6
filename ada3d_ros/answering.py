"""One question on its way: prompt, prefill, and what becomes of the model's words; or several of
them in one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.batch import WaitingQuestion, answer_batch
from ada3d_ros.engine.cached_prefill import prefill_question
from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.engine.scene_context import SceneContext
from ada3d_ros.engine.streaming import TextStreamer, stop_asked
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.usage import token_usage
from ada3d_ros.errors import Ada3DError, ModelError, QuestionTooLongError
from ada3d_ros.grounding.from_text import find_boxes
from ada3d_ros.grounding.phrase import find_by_relevance, point_at_phrase
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.grounding_head import LoadedHead
from ada3d_ros.model.prompt import (
    ParsedQuestion,
    check_question,
    parse_coordinates,
    render_question,
)
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.types import (
    Answer,
    AskHooks,
    Box3D,
    PromptSequence,
    Question,
    Scope,
    Stage,
    StageTimings,
    StopReason,
)

MAX_PROMPT_CHARS = 100_000  # a question within question.max_chars, and the template around it


@dataclass(frozen=True, eq=False, slots=True)
class QueryContext:
    """A question, what it looks at, and the settings and clock of its time."""

    loaded: LoadedModel
    question: Question
    config: AgentConfig
    hooks: AskHooks
    visual: SceneContext
    clock: StageClock
    started: float = field(default_factory=time.perf_counter)

    @property
    def in_room(self) -> bool:
        return self.question.scope is Scope.SCENE

    @property
    def head(self) -> LoadedHead | None:
        """The grounding head, where this question is for it."""
        return self.loaded.head if self.question.phrase and self.in_room else None

    @property
    def max_new_tokens(self) -> int:
        return self.question.max_new_tokens or self.config.generation.max_new_tokens

    def build_prompt(self, parsed: ParsedQuestion) -> PromptSequence:
        """The whole prompt. Raises InvalidRequestError, QuestionTooLongError."""
        ids = self.loaded.tokenizer.encode(
            render_question(parsed.text, self.config.model.conversation)
        )
        model, visual = self.loaded.model, self.visual
        with torch.inference_mode(), self.clock.stage("spatial_s"):
            prompt = model.build_prompt(
                ids, visual.rows, model.encode_clicks(parsed.clicks), visual.chosen.tokens.xyz_m
            )
        limit = model.config.decoder.max_positions
        if prompt.embeds.shape[0] >= limit:
            raise QuestionTooLongError(
                f"the prompt has {prompt.embeds.shape[0]} tokens ({len(visual.rows)} spatial), the"
                f" model's positions end at {limit}: no room for an answer. Ask a shorter question"
                " or keep fewer views (keyframe.max_views)."
            )
        return prompt

    def prefill(
        self, prompt: PromptSequence, pruner: LayerPruner | None = None, with_states: bool = False
    ) -> PrefillOutput:
        """The whole prompt through the decoder; behind a cached scene only what follows it."""
        decoder, prefix = self.loaded.model.decoder, self.visual.prefix
        if prefix is None:
            return prefill(decoder, prompt, self.max_new_tokens, pruner, with_states)
        start, stop = prompt.spatial_span
        rows = prompt.embeds[stop:]
        return prefill_question(
            decoder, prefix, rows, self.max_new_tokens, pruner, stop - start, with_states
        )

    def boxes(self, text: str) -> tuple[Box3D, ...]:
        """Those that the text names and depth supports."""
        question, limits = self.question, self.config.boxes
        if not question.want_boxes:
            return ()
        return find_boxes(
            text,
            self.visual.scene.frames,
            max_count=question.max_boxes or limits.max_count,
            min_score=question.min_score or limits.min_score,
            min_points=limits.min_support_points,
            check=self.hooks.check,
        )

    def finish(
        self,
        prompt: PromptSequence,
        prefilled: PrefillOutput,
        pruner: LayerPruner | None,
        output: DecodeOutput,
        text: str,
        timings: StageTimings | None = None,
    ) -> Answer:
        """Boxes, counts and times of what was said. timings: where the clock is not this question's
        alone.

        Raises ModelError where the model said nothing.
        """
        question, visual, hooks, config = self.question, self.visual, self.hooks, self.config
        scene, xyz_m = visual.scene, visual.chosen.tokens.xyz_m
        hooks.on_stage(Stage.POSTPROCESS)
        if not text and output.stop_reason in (StopReason.EOS, StopReason.MAX_TOKENS):
            raise ModelError("the model gave no text for this question; ask in other words.")
        with self.clock.stage("postprocess_s"):
            usage = token_usage(
                self.loaded.model.decoder,
                prompt,
                visual.tokens,
                visual.chosen,
                prefilled,
                pruner,
                self.in_room,
                cached=visual.prefix is not None,
            )
            if self.head is not None:
                boxes, text = point_at_phrase(
                    self.head, prefilled, xyz_m, question, config, scene.frames, text, hooks
                )
            else:
                boxes = self.boxes(text)
                if question.phrase and not boxes and self.in_room:
                    boxes = find_by_relevance(
                        self.loaded,
                        question,
                        prompt,
                        xyz_m,
                        config,
                        self.max_new_tokens,
                        scene.frames,
                        build=lambda words: self.build_prompt(parse_coordinates(words)),
                        run=self.prefill,
                        read_boxes=self.boxes,
                        hooks=hooks,
                    )
            stop_reason = output.stop_reason
            if (
                question.phrase and not boxes
            ):  # a search cut short has not found that there is nothing
                stop_reason = stop_asked(hooks) or stop_reason
        return Answer(
            question=question.text,
            text=text,
            boxes=boxes,
            stamp_ns=scene.state.newest_ns,
            frame_id=scene.keyframes[-1].frame.frame_id,
            keyframe_stamps_ns=tuple(
                f.stamp_ns for f in (scene.frames if self.in_room else scene.frames[-1:])
            ),
            stop_reason=stop_reason,
            tokens=replace(
                usage,
                generated=len(output.token_ids),
                keep_ratio_requested=question.keep_ratio,
                strategy=config.pruning.strategy if usage.keep_ratio_achieved < 1.0 else "none",
            ),
            timings=self.clock.timings() if timings is None else timings,
            scene_epoch=scene.state.epoch,
            scene_version=scene.state.version,
            scene_cached=visual.prefix is not None,
            scene_staleness=visual.staleness,
            confidence=output.mean_probability,
            deadline_kept=time.perf_counter() - self.started
            <= question.deadline_s,  # False for NaN
            kept_xyz_m=xyz_m[prefilled.kept[-1]].cpu().numpy() if self.in_room else None,
        )


def shareable(question: Question) -> bool:
    """Whether it can run in a batch: about the scene, no phrase to point at, no budget or deadline
    of its own.
    """
    own_budget = (
        question.keep_ratio == question.keep_ratio or question.deadline_s == question.deadline_s
    )  # not NaN
    return question.scope is Scope.SCENE and not question.phrase and not own_budget


def outcome(
    ask: Callable[[Question, AskHooks], Answer], question: Question, hooks: AskHooks
) -> Answer | Exception:
    """The answer, or what was raised instead."""
    try:
        return ask(question, hooks)
    except Exception as error:  # told to this caller; the others go on
        return error


def answer_together(asked: Sequence[QueryContext]) -> list[Answer | Exception]:
    """Questions on one cached scene in one batch, unpruned inside the language model; in the order
    asked, each its answer or error.
    """
    results: list[Answer | Exception | None] = [None] * len(asked)
    ready: list[tuple[int, PromptSequence, TextStreamer]] = []
    for i, one in enumerate(asked):
        try:
            parsed = parse_coordinates(check_question(one.question.text, MAX_PROMPT_CHARS))
            prompt = one.build_prompt(parsed)
            one.hooks.check()
            one.hooks.on_stage(Stage.PREFILL)
            ready.append((i, prompt, TextStreamer(one.loaded, one.config.generation, one.hooks)))
        except Ada3DError as error:
            results[i] = error
    if ready:
        prefix, decoder = asked[0].visual.prefix, asked[0].loaded.model.decoder
        assert prefix is not None
        prefix.crop()
        before_s = asked[0].clock.elapsed_s()
        waiting = [
            WaitingQuestion(
                prompt.embeds[prompt.spatial_span[1] :],
                asked[i].max_new_tokens,
                speaker.sampler,
                speaker.should_stop,
                speaker.on_token,
            )
            for i, prompt, speaker in ready
        ]
        outputs = answer_batch(decoder, prefix.cache, prefix.next_position, waiting)
        took_s = asked[0].clock.elapsed_s() - before_s
        reading_s = took_s - max(output.first_token_s + output.decode_s for output in outputs)
        layers = decoder.config.num_layers
        everything = (torch.arange(len(prefix.rows), device=prefix.rows.device),) * layers
        for (i, prompt, speaker), output in zip(ready, outputs, strict=True):
            one, text, position = asked[i], speaker.finish(output), len(prompt.embeds)
            read = PrefillOutput(
                prefix.rows.new_zeros(0), prefix.cache, (position,) * layers, everything, reading_s
            )
            first_s = before_s + reading_s + output.first_token_s
            timings = replace(
                one.clock.timings(),
                prefill_s=reading_s,
                first_token_s=first_s,
                decode_s=output.decode_s,
            )
            try:
                results[i] = one.finish(prompt, read, None, output, text, timings)
            except Ada3DError as error:
                results[i] = error
    return [result for result in results if result is not None]
