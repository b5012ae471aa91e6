"""What a question looks at: the cached scene, the scene's tokens as they are, or one image; and how
much of it.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.deadline import FACTORS, LatencyModel
from ada3d_ros.engine.prefix_cache import PrefixCache, crop_to_budget, fits_prefix
from ada3d_ros.engine.scene_encoder import patch_tokens
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import ChosenTokens
from ada3d_ros.errors import ConfigError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import NAN, AskHooks, Question, SceneState, Scope, SpatialTokens


@dataclass(frozen=True, slots=True)
class MemoryFallback:
    """How much memory a question may take: the share of the keyframes, and whether at the lowest
    keep ratio. Only a full one uses the cached scene.
    """

    views: float = 1.0
    least: bool = False

    @property
    def full(self) -> bool:
        return self.views == 1.0


MEMORY_FALLBACKS = (
    MemoryFallback(),
    MemoryFallback(views=0.5),
    MemoryFallback(views=0.5, least=True),
)  # tried in turn when memory runs out


@dataclass(frozen=True, eq=False, slots=True)
class SceneContext:
    """tokens: all spatial tokens (or patches); chosen: those that enter the language model, rows
    (N, D) as it gets them; scene: the keyframes they are of; policy: what prunes them; prefix: the
    cached scene that holds them, or None; staleness of that.
    """

    tokens: SpatialTokens
    chosen: ChosenTokens
    rows: torch.Tensor
    scene: SceneSnapshot
    policy: Policy
    prefix: ScenePrefix | None = None
    staleness: float = NAN


@torch.inference_mode()
def encode_scene(
    cache: PrefixCache,
    loaded: LoadedModel,
    pruning: ScenePruning,
    question: Question,
    scene: SceneSnapshot,
    policy: Policy,
    config: AgentConfig,
    hooks: AskHooks,
    clock: StageClock,
    effort: MemoryFallback,
    exact: bool,
) -> SceneContext:
    """What this question looks at. exact: the scene as it is, not one a little behind. Raises what
    the stages raise.
    """
    if effort.least:
        policy = replace(policy, keep_ratio=keep_ratios(policy, pruning)[-1])
    in_room = question.scope is Scope.SCENE
    if in_room and effort.full and PrefixCache.serves(policy, config):
        prefix = cache.for_question(scene, policy, config, hooks, clock, exact)
        chosen = crop_to_budget(prefix, policy)
        if chosen is not None:
            rows = prefix.rows[: chosen.tokens.features.shape[0]]
            return SceneContext(
                prefix.tokens, chosen, rows, prefix.scene, policy, prefix, cache.staleness()
            )
    if not in_room:
        tokens = patch_tokens(loaded.model, scene.keyframes[-1].frame, clock)
    else:
        tokens = cache.follow(scene, hooks, clock)
        if not effort.full:
            scene = thin(scene, effort.views)
            tokens = cache.part([keyframe.index for keyframe in scene.keyframes], clock)
    key = scene.version if in_room and effort.full else None
    ids = loaded.tokenizer.encode(question.text)[1:] if policy.is_query_conditioned else ()
    with clock.stage("scene_s") if policy.pre_llm and policy.prunes else nullcontext():
        chosen = pruning.choose(loaded.model, tokens, policy, key, ids)
    with clock.stage("spatial_s"):
        rows = loaded.model.project(chosen.tokens.features)
    return SceneContext(tokens, chosen, rows, scene, policy)


def thin(scene: SceneSnapshot, share: float) -> SceneSnapshot:
    """An evenly spread share of the keyframes, the newest among them."""
    total = len(scene.keyframes)
    count = max(1, math.floor(share * total))
    kept = tuple(scene.keyframes[total - 1 - i * total // count] for i in reversed(range(count)))
    stamps = [keyframe.frame.stamp_ns for keyframe in kept]
    state = SceneState(count, scene.state.epoch, scene.state.version, min(stamps), max(stamps))
    return SceneSnapshot(kept, state)


def keep_ratios(policy: Policy, pruning: ScenePruning) -> list[float]:
    """The keep ratios, falling from the policy's own, that its strategy can meet; that one alone
    where another setting decides.
    """
    if policy.fixed_by or not (policy.pre_llm or policy.in_llm):
        return [policy.keep_ratio]
    met = []
    for factor in FACTORS:
        try:
            lower = Policy.from_config(policy.config, round(factor * policy.keep_ratio, 6))
            pruning.check_policy(lower)
        except ConfigError:  # below what a request may ask, or what the strategy reaches
            continue
        met.append(lower.keep_ratio)
    return met or [policy.keep_ratio]


def budget_for_deadline(
    latency: LatencyModel,
    policy: Policy,
    question: Question,
    config: AgentConfig,
    cache: PrefixCache,
    pruning: ScenePruning,
) -> Policy:
    """The policy with the largest keep ratio, up to its own, that should keep the question's
    deadline; itself without one.
    """
    if math.isnan(question.deadline_s) or question.scope is not Scope.SCENE:
        return policy
    ratios = keep_ratios(policy, pruning)
    if len(ratios) == 1:
        return policy
    total, cached = cache.num_voxels, PrefixCache.serves(policy, config)
    budgets = [
        (ratio, cached and fits_prefix(replace(policy, keep_ratio=ratio), total))
        for ratio in ratios
    ]
    limit = question.max_new_tokens or config.generation.max_new_tokens
    return replace(policy, keep_ratio=latency.choose(budgets, total, question.deadline_s, limit))
