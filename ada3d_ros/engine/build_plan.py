"""From settings to how the cached scene is pruned while it is built, or why it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.errors import ConfigError, RequestError
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import IMAGE_ID, check_question
from ada3d_ros.pruning.allocation import Allocation, allocate, uses_curve
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes
from ada3d_ros.pruning.policy import NOMINAL_SPATIAL, NOMINAL_TEXT, Policy, traits_of
from ada3d_ros.pruning.question_queries import RecordedQueries
from ada3d_ros.pruning.scene_ranking import scene_ranking
from ada3d_ros.pruning.schedule import UnreachableBudgetError

if TYPE_CHECKING:
    from ada3d_ros.engine.prune_choice import SceneSize

MAX_PROMPT_CHARS, MAX_PROMPTS_CHARS = 1000, 4000  # of one general prompt, and of all together


def serves_questions(config: AgentConfig, policy: Policy) -> bool:
    """Whether questions under these settings are answered from the cached scene."""
    reference = config.model.compat == "reference"
    return config.cache.mode == "cached" and not reference and not policy.is_query_conditioned


def prunes_at_build(config: AgentConfig, policy: Policy) -> bool:
    """Whether the cached scene of these settings is pruned while it is built. A schedule that
    follows from a question's attention cannot be used then: it selects for each question.
    """
    if config.cache.prune not in ("build", "auto") or not policy.in_llm or not policy.prunes:
        return False
    by_question = traits_of(policy.in_llm, policy.config).depends_on_prompt or policy.per_scene
    return serves_questions(config, policy) and not by_question


def leaves_whole(config: AgentConfig, policy: Policy) -> bool:
    """Whether `cache.prune: none` keeps a strategy inside the language model from the cached scene:
    questions attend to all that entered.
    """
    acts = bool(policy.in_llm) and policy.prunes and config.cache.prune == "none"
    return acts and serves_questions(config, policy)


def plan_allocation(
    config: AgentConfig,
    policy: Policy,
    shape: DecoderShape,
    information: tuple[float, ...] | None,
    sizes: PromptSizes | None = None,
    worth: tuple[float, ...] | None = None,
) -> Allocation:
    """The layers' shares of what enters, of a scene of `sizes` (None: the paper's); worth: what was
    measured of each layer's share, or None.

    Raises ConfigError for settings out of reach on a decoder of this shape.
    """
    if sizes is None:
        entered = policy.num_kept_pre_llm(NOMINAL_SPATIAL)
        sizes = PromptSizes(entered, NOMINAL_TEXT, NOMINAL_SPATIAL)
    share = sizes.num_spatial / max(sizes.num_before_selection, 1)
    ratio = min(1.0, policy.keep_ratio / share)
    curve = (1.0,) * shape.num_layers
    curved = uses_curve(config.cache, ratio * share) and not (
        policy.by_worth and config.cache.alive == "auto"
    )
    if policy.fixed_by or curved:
        try:
            counts = policy.build(shape, sizes, information).counts(sizes.num_spatial, None)
            curve = tuple(count / sizes.num_spatial for count in counts)
        except UnreachableBudgetError:
            if policy.fixed_by or config.cache.alive != "auto":
                raise
            curve = (0.0,) * shape.num_layers  # so that `auto` takes even shares
    if policy.fixed_by:  # what is kept is written in the schedule
        return Allocation(curve, curve)
    return allocate(config.cache, ratio, curve, worth, share, policy.by_worth)


def scene_size(config: AgentConfig, total: int) -> SceneSize:
    """A scene of so many spatial tokens as `cache.prune: auto` weighs it."""
    from ada3d_ros.engine.prune_choice import SceneSize  # where it is weighed

    return SceneSize(total, config.pruning.keep_ratio, config.generation.max_new_tokens)


def prompts_of(config: AgentConfig) -> tuple[str, ...]:
    """The general prompts of `cache.prompts`. Raises ConfigError for what is no question."""
    texts = [text for text in config.cache.prompts.split("|") if text.strip()]
    try:
        prompts = tuple(check_question(text, MAX_PROMPT_CHARS) for text in texts)
    except RequestError as error:
        raise ConfigError(f"cache.prompts: {error}") from None
    if not prompts:
        raise ConfigError(
            "cache.prompts is empty: name at least one general question, as 'What is in the room?'."
        )
    if (length := sum(map(len, prompts))) > MAX_PROMPTS_CHARS:
        raise ConfigError(
            f"cache.prompts has {len(prompts)} prompts of {length} characters together, which ride"
            f" along with every scene; allowed: up to {MAX_PROMPTS_CHARS}. Name fewer."
        )
    return prompts


def plan_build(
    loaded: LoadedModel, config: AgentConfig, allocation: Allocation, queries: RecordedQueries
) -> ScenePruner:
    """What prunes the scene under these settings, and what is known of questions. Raises as
    `prompts_of`.
    """
    ranking = scene_ranking(config.cache, config.pruning.seed, queries)
    prompts = []
    for text in prompts_of(config) if ranking.rides == "prompts" else ():
        ids = loaded.tokenizer.encode_question(text, config.model.conversation)
        behind = torch.tensor(ids[ids.index(IMAGE_ID) + 1 :], device=loaded.model.device)
        prompts.append(loaded.model.decoder.embed(behind))
    return ScenePruner(allocation, ranking, tuple(prompts), config.pruning.n_min)
