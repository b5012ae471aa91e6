"""Which keep ratio a question gets: its own, or a lower one that should keep its deadline."""

from __future__ import annotations

from dataclasses import replace

from ada3d_ros.engine.deadline import FACTORS, LatencyModel
from ada3d_ros.engine.prefix_cache import PrefixCache
from ada3d_ros.engine.query_context import QueryContext, planned_mode
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import SpatialTokens


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
    query: QueryContext, tokens: SpatialTokens, cache: PrefixCache, latency: LatencyModel
) -> QueryContext:
    """The question under the largest keep ratio, up to its own, that should keep its deadline with
    the time that is left; itself where nothing is to choose.

    Where the cached scene serves its own ratio, it is built first. Raises as `select_context`.
    """
    policy, deadline_s, clock = query.policy, query.question.deadline_s, query.clock
    whole = query.in_scene and query.fallback.view_share == 1.0
    ratios = keep_ratios(policy, query.pruning) if whole else []
    if len(ratios) < 2:
        return query

    # Each ratio, and the mode that it is answered in.
    total, budgets = len(tokens.features), []
    placed = rows_of(tokens).num_placed
    for ratio in ratios:
        lower = replace(query, policy=replace(policy, keep_ratio=ratio))
        budgets.append((ratio, planned_mode(lower, placed, cache.active)))
    if budgets[0][1] != "paper":
        cache.ensure_usable(query)
    left_s = deadline_s - clock.elapsed_s()
    ratio = latency.choose(budgets, total, left_s, query.max_new_tokens)
    return replace(query, policy=replace(policy, keep_ratio=ratio))
