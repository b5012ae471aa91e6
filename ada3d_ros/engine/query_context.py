"""One question on its way: what it is answered from, its prompt, and the prefill of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.build_plan import prunes_at_build, scene_size
from ada3d_ros.engine.memory_fallback import MemoryFallback
from ada3d_ros.engine.prefill import PrefillOutput, prefill, prefill_question
from ada3d_ros.engine.prefix_cache import PrefixCache
from ada3d_ros.engine.scene_encoder import SceneEncoder, encode_image
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import QuestionTooLongError
from ada3d_ros.model.backbone import Origin
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.coordinates import Point
from ada3d_ros.model.prompt import (
    MAX_PROMPT_CHARS,
    check_question,
    parse_coordinates,
)
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.schedule import UnreachableBudgetError
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import (
    AskHooks,
    PromptSequence,
    Question,
    SceneState,
    Scope,
    SpatialTokens,
    Stage,
)

if TYPE_CHECKING:
    from ada3d_ros.engine.prune_choice import PruneChoice


@dataclass(frozen=True, eq=False, slots=True)
class QueryContext:
    """A question, and the model, scene, settings and clock of its time.

    policy, pruning: what prunes its spatial tokens, and what is kept for that between questions;
    exact: answer from the scene as it is, not from one a little behind. origin_m: where in the
    world frame the model's world begins, in which tokens and clicks lie.
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
    with_states: bool = field(init=False)  # it needs them, or may point before it speaks
    max_new_tokens: int = field(init=False)
    origin_m: Origin = field(init=False)

    def __post_init__(self) -> None:
        question, in_scene = self.question, self.question.scope is Scope.SCENE
        limit = question.max_new_tokens or self.config.generation.max_new_tokens
        headed = in_scene and self.loaded.head is not None
        points, config = bool(question.phrase) and headed, self.loaded.model.config
        # Ground heads compare proposals with the state of the last token.
        scores = bool(question.proposals) and self.loaded.model.scores_proposals
        asked = headed and self.config.question.point
        places = asked and max(config.point_id, config.egocentric_point_id) >= 0
        object.__setattr__(self, "in_scene", in_scene)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "with_states", points or places or scores)
        object.__setattr__(self, "max_new_tokens", limit)
        object.__setattr__(self, "origin_m", self.loaded.model.origin_of(self.scene))

    @property
    def as_configured(self) -> bool:
        """Whether the node's own keep ratio is in force, not one of the request."""
        return self.policy.keep_ratio == self.config.pruning.keep_ratio

    @property
    def text_origin_m(self) -> Origin:
        """Where in the world frame the places of the model's text begin; 0 where it has none."""
        return self.origin_m if self.loaded.model.config.text_has_places else (0.0, 0.0, 0.0)

    def in_world(self, xyz_m: torch.Tensor) -> torch.Tensor:
        """Points (..., 3) of the model's world in the world frame."""
        return xyz_m + xyz_m.new_tensor(self.origin_m) if any(self.origin_m) else xyz_m

    def in_model(self, point: Point) -> Point:
        """A point of the world frame in the model's world, to the millimetre."""
        return in_model(point, self.origin_m)


def in_model(point: Point, origin_m: Origin) -> Point:
    """The same for a world that begins at origin_m."""
    x, y, z = (
        round(at - begin, 3) if begin else at for at, begin in zip(point, origin_m, strict=True)
    )
    return x, y, z


# -- steps 1 and 2: from the scene to what the question is answered from


def encode_scene(query: QueryContext, encoder: SceneEncoder) -> SpatialTokens:
    """All spatial tokens of the keyframes, or the patches of the newest image.

    Keyframes that are not encoded yet pass the vision tower now.

    Raises NoFramesError without depth, what hooks.check raises.
    """
    query.hooks.on_stage(Stage.ENCODING)
    if not query.in_scene:
        frame = query.scene.keyframes[-1].frame
        return encode_image(query.loaded.model, frame, query.clock)
    if query.scene.version != encoder.version:
        encoder.update(query.scene, query.clock, query.hooks.check)
    if query.fallback.view_share < 1.0:
        return encoder.tokens_of(thin(query.scene, query.fallback.view_share), query.clock)
    return encoder.tokens(query.clock)


def select_context(
    query: QueryContext, tokens: SpatialTokens, cache: PrefixCache, together: bool = False
) -> SceneContext:
    """The cached prefix where one serves the question, else a fresh selection of the tokens.

    together: for a batch, which attends to all of a prefix. Raises what the selection and the
    building of a prefix raise.
    """
    # The cached prefix, or its first part for a smaller budget; none is built that cannot serve.
    model, policy, clock = query.loaded.model, query.policy, query.clock
    cold_reason = why_cold(query, rows_of(tokens).num_placed)
    prefix = None if cold_reason else cache.ensure_usable(query)
    chosen = None if prefix is None else prefix.chosen
    if prefix is not None and not query.as_configured:
        chosen = None if prefix.held is not None else crop_to_budget(prefix, policy)
        cold_reason = _own_ratio(policy) if chosen is None else ""
    if prefix is not None and chosen is not None:
        clock.prepared_s = clock.elapsed_s()
        embeds = prefix.embeds[: len(chosen.kept)]
        mode = mode_of(query, prefix, None if together else cache.choice)
        staleness = cache.staleness
        return SceneContext(prefix.scene, prefix.tokens, chosen, embeds, prefix, staleness, mode)

    # A selection for this question alone, or kept for the next one about the same scene.
    whole = query.in_scene and query.fallback.view_share == 1.0
    conditioned, key = policy.is_query_conditioned, query.scene.version if whole else None
    words = check_question(query.question.text, MAX_PROMPT_CHARS) if conditioned else ""
    ids = query.loaded.tokenizer.encode_text(words) if conditioned else ()
    clock.prepared_s = clock.elapsed_s()
    with clock.stage("scene_s") if policy.pre_llm and policy.prunes else nullcontext():
        chosen = query.pruning.choose(model, tokens, policy, key, ids)
    if not conditioned:
        clock.prepared_s = clock.elapsed_s()
    with clock.stage("spatial_s"), torch.inference_mode():
        embeds = model.project(chosen.tokens.features)
    scene = query.scene
    if query.in_scene and not whole:
        scene = thin(scene, query.fallback.view_share)
    return SceneContext(scene, tokens, chosen, embeds, cold_reason=cold_reason)


def why_cold(query: QueryContext, total: int) -> str:
    """Why a question brings its scene along though others are answered from the cached one; ''
    where the cached one serves it. total: spatial tokens of the scene with a place.
    """
    config, policy = query.config, query.policy
    if config.cache.mode != "cached":
        return "cache.mode is paper: every question brings the scene along"
    if not query.in_scene:
        return "the question is about the newest image alone"
    if query.fallback.view_share < 1.0:
        return "memory ran out: fewer keyframes were used"
    if config.model.compat == "reference":
        return "model.compat is reference"
    if policy.is_query_conditioned:
        return f"strategy {policy.pre_llm} selects anew for each question"
    if query.as_configured:
        return ""
    built = prunes_at_build(config, Policy.from_config(policy.config))
    if built and config.cache.prune == "build":
        return _own_ratio(policy)
    if not fits_prefix(policy, total):
        return f"keep_ratio {policy.keep_ratio:g} is another choice than the cached scene's"
    return ""


def _own_ratio(policy: Policy) -> str:
    """Why a request's own keep ratio is not served by a scene pruned while it was built."""
    return (
        f"keep_ratio {policy.keep_ratio:g} was asked for, the cached scene was pruned to"
        f" {policy.config.keep_ratio:g} while it was built (cache.prune)"
    )


def mode_of(query: QueryContext, prefix: ScenePrefix, choice: PruneChoice | None) -> str:
    """How a question on the cached scene is pruned: as `cache.prune` says it. choice: of what
    `auto` does.
    """
    if prefix.held is not None:
        return "build"
    mode = _mode_on_whole(query)
    if choice is None or mode != "question" or not query.as_configured:
        return mode
    return choice.for_question(scene_size(query.config, len(prefix.embeds)))


def planned_mode(query: QueryContext, total: int, active: ScenePrefix | None) -> str:
    """The same before the prefix is brought up to date, of a scene of so many spatial tokens with a
    place; or "paper". active: the prefix that is there.
    """
    if why_cold(query, total):
        return "paper"
    built = prunes_at_build(query.config, Policy.from_config(query.config.pruning))
    if active is not None:
        built = active.held is not None
    if built:
        return "build" if query.as_configured else "paper"
    return _mode_on_whole(query)


def _mode_on_whole(query: QueryContext) -> str:
    """On a prefix that holds all tokens that entered the language model."""
    selects = bool(query.policy.in_llm) and query.policy.prunes
    wanted = query.config.cache.prune != "none" or not query.as_configured
    if selects and wanted:
        return "question"
    # What enters the language model is chosen when the scene is built.
    return "build" if query.policy.pre_llm and query.policy.prunes else "none"


def crop_to_budget(prefix: ScenePrefix, policy: Policy) -> ChosenTokens | None:
    """What of the prefix's tokens a question under this policy gets: all, or a first part where
    their order is nested; None where its budget needs a choice of its own.
    """
    total = prefix.chosen.num_candidates
    if not fits_prefix(policy, total):
        return None
    count = policy.num_kept_pre_llm(total)
    held = Policy.from_config(policy.config).num_kept_pre_llm(total)
    return prefix.chosen if count == held else prefix.chosen.first(count)


def fits_prefix(policy: Policy, total: int) -> bool:
    """Whether a prefix of `total` spatial tokens with a place, chosen from as configured, begins
    with this policy's choice.
    """
    count = policy.num_kept_pre_llm(total)
    held = Policy.from_config(policy.config).num_kept_pre_llm(total)
    return count == held or (policy.nested and count < held < total)


def thin(scene: SceneSnapshot, share: float) -> SceneSnapshot:
    """An evenly spread share of the keyframes, the newest among them."""
    total = len(scene.keyframes)
    count = max(1, math.floor(share * total))
    kept = tuple(scene.keyframes[total - 1 - i * total // count] for i in reversed(range(count)))
    stamps = [keyframe.frame.stamp_ns for keyframe in kept]
    state = SceneState(count, scene.state.epoch, scene.state.version, min(stamps), max(stamps))
    return SceneSnapshot(kept, state, scene.floor, scene.anchor_xy_m)


# -- steps 3 and 4: the prompt, and its prefill


@torch.inference_mode()
def build_prompt(
    query: QueryContext, context: SceneContext, text: str | None = None
) -> PromptSequence:
    """The whole prompt of the question, or of other words about the same scene.

    Raises InvalidRequestError, QuestionTooLongError.
    """
    loaded, model = query.loaded, query.loaded.model
    words = query.question.text if text is None else text
    text, clicked = parse_coordinates(check_question(words, MAX_PROMPT_CHARS))
    ids = loaded.tokenizer.encode_question(text, query.config.model.conversation)
    clicks = model.encode_clicks([query.in_model(point) for point in clicked]) if clicked else None
    return prompt_of(query, context, ids, clicks)


def prompt_of(
    query: QueryContext,
    context: SceneContext,
    ids: Sequence[int],
    clicks: torch.Tensor | None = None,
) -> PromptSequence:
    """The prompt of token ids with the scene, and clicks, in the place of their placeholders.
    Raises as `build_prompt`.
    """
    model, prefix = query.loaded.model, context.prefix
    prompt = model.build_prompt(ids, context.embeds, clicks, context.chosen.tokens.xyz_m)
    prompt = context.chosen.in_prompt(prompt)
    length, limit = prompt.embeds.shape[0], model.config.decoder.max_positions
    length += 0 if prefix is None else prefix.num_evicted
    if query.config.pruning.pre_positions == "original" and not model.reference:
        prompt = replace(prompt, positions=context.chosen.positions(prompt))
        length += context.chosen.num_before_selection - len(context.embeds)
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
    reserve, states = query.max_new_tokens, query.with_states
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
    clock, hooks = query.clock, query.hooks
    hooks.check()

    # A schedule fitted to this scene is measured at its first question.
    begun, pruner = clock.now(), None
    if context.mode in ("paper", "question"):
        with clock.stage("scene_s") if query.policy.fitted else nullcontext():
            pruner = _layer_pruner(query, context, prompt)
    clock.prepared_s += clock.now() - begun

    hooks.on_stage(Stage.PREFILL)
    hooks.check()
    with clock.stage("prefill_s"):
        prefilled = prefill_prompt(query, context, prompt, pruner)
    clock.record("rank_s", prefilled.rank_s)
    return prefilled


def _layer_pruner(
    query: QueryContext, context: SceneContext, prompt: PromptSequence
) -> LayerPruner | None:
    """What drops or selects this question's spatial tokens in the layers; None where nothing does.

    Raises ConfigError for a budget that cannot be met. The node's own budget may be one that only a
    scene pruned while it is built can meet: a question that cannot use that is not pruned.
    """
    policy, pruning, scene = query.policy, query.pruning, context.scene
    total, decoder = context.chosen.num_candidates, query.loaded.model.decoder
    scope = query.question.scope.name
    try:
        return pruning.pruner(decoder, policy, prompt, total, scene.version, scope)
    except UnreachableBudgetError:
        if not (query.as_configured and prunes_at_build(query.config, policy)):
            raise
        return None
