"""One question on its way, and the steps from what it is asked about to the prompt's last layer."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.memory_fallback import MemoryFallback
from ada3d_ros.engine.prefill import PrefillOutput, prefill, prefill_question
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import QuestionTooLongError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import check_question, parse_coordinates, render_question
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import AskHooks, PromptSequence, Question, Scope, Stage

MAX_PROMPT_CHARS = 100_000  # a question within question.max_chars, and the template around it


@dataclass(frozen=True, eq=False, slots=True)
class QueryContext:
    """A question, and the model, scene, settings and clock of its time.

    policy, pruning: what prunes its spatial tokens, and what is kept for that between questions; exact: answer from the scene as it is, not from one a
    little behind.
    """

    loaded: LoadedModel
    question: Question
    hooks: AskHooks
    config: AgentConfig
    scene: SceneSnapshot
    policy: Policy
    pruning: ScenePruning
    clock: StageClock
    exact: bool = True
    fallback: MemoryFallback = field(default_factory=MemoryFallback)

    # From those above:
    in_scene: bool = field(init=False)  # it is about the scene, not about one image
    points: bool = field(init=False)  # the grounding head answers it
    max_new_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        question, in_scene = self.question, self.question.scope is Scope.SCENE
        limit = question.max_new_tokens or self.config.generation.max_new_tokens
        points = bool(question.phrase) and in_scene and self.loaded.head is not None
        object.__setattr__(self, "in_scene", in_scene)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "max_new_tokens", limit)


@torch.inference_mode()
def build_prompt(
    query: QueryContext, context: SceneContext, text: str | None = None
) -> PromptSequence:
    """The whole prompt of the question, or of other words about the same scene.

    Raises InvalidRequestError, QuestionTooLongError.
    """
    loaded, model = query.loaded, query.loaded.model
    words = query.question.text if text is None else text
    text, points = parse_coordinates(check_question(words, MAX_PROMPT_CHARS))
    ids = loaded.tokenizer.encode(render_question(text, query.config.model.conversation))
    clicks = model.encode_clicks(points) if points else None
    prompt = model.build_prompt(ids, context.embeds, clicks, context.chosen.tokens.xyz_m)
    length, limit = prompt.embeds.shape[0], model.config.decoder.max_positions
    if length >= limit:
        raise QuestionTooLongError(
            f"the prompt has {length} tokens ({len(context.embeds)} spatial), the model's positions"
            f" end at {limit}: no room for an answer. Ask a shorter question or keep fewer views"
            " (keyframe.max_views)."
        )
    return prompt


def timed_prompt(query: QueryContext, context: SceneContext) -> PromptSequence:
    """The question's prompt, timed as spatial_s."""
    with query.clock.stage("spatial_s"):
        return build_prompt(query, context)


def prefill_prompt(
    query: QueryContext,
    context: SceneContext,
    prompt: PromptSequence,
    pruner: LayerPruner | None = None,
) -> PrefillOutput:
    """The prompt through the decoder; where its scene is cached, only what follows the scene."""
    start, stop = prompt.spatial_span
    reserve, states = query.max_new_tokens, query.points
    if context.prefix is None:
        return prefill(query.loaded.model.decoder, prompt, reserve, pruner, states)
    question = prompt.embeds[stop:]
    return prefill_question(context.prefix, question, reserve, pruner, stop - start, states)


def prefill_pruned(
    query: QueryContext, context: SceneContext, prompt: PromptSequence
) -> PrefillOutput:
    """The prompt through the decoder under the question's pruning policy, timed.

    Raises ConfigError for a budget that cannot be met, what hooks.check raises, and as `prefill`.
    """
    clock, hooks, scene = query.clock, query.hooks, context.scene
    hooks.check()

    # A schedule fitted to this scene is measured at its first question.
    with clock.stage("scene_s") if query.policy.fitted else nullcontext():
        total, scope = context.chosen.num_before_selection, query.question.scope.name
        decoder = query.loaded.model.decoder
        pruner = query.pruning.pruner(decoder, query.policy, prompt, total, scene.version, scope)

    hooks.on_stage(Stage.PREFILL)
    hooks.check()
    with clock.stage("prefill_s"):
        prefilled = prefill_prompt(query, context, prompt, pruner)
    clock.record("rank_s", prefilled.rank_s)
    return prefilled
