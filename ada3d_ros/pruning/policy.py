"""From settings to a strategy: names, how two are joined, budgets, what a decoder can do with them.

A `Policy` is one setting of strategy and keep ratio, checked. `Policy.pruner` makes the in-LLM part
for one prompt; `Policy.select` is the part before the language model.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from ada3d_ros.config import SETTINGS, PruningConfig
from ada3d_ros.config.pruning import COMPOSED, IN_LLM
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning import schedule
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes
from ada3d_ros.pruning.strategy import (
    NOMINAL_SIZES,
    Candidates,
    LayerBudget,
    LayerPruner,
    Selection,
    Traits,
    load_strategy,
    select,
)

logger = logging.getLogger(__name__)

ENTERING = 2.0  # budgets that enter under adatoken3d_plus at most
NOMINAL_SPATIAL, NOMINAL_TEXT = NOMINAL_SIZES.num_spatial, NOMINAL_SIZES.num_text


def split_name(strategy: str) -> tuple[str, str]:
    """A checked strategy name as (before the language model, inside it); '' where there is none."""
    if strategy == "none":
        return "", ""
    if strategy in COMPOSED:
        return COMPOSED[strategy]
    first, _, second = strategy.partition("+")
    return ("", first) if first in IN_LLM else (first, second)


@dataclass(frozen=True, slots=True)
class Policy:
    """A strategy and the keep ratio in force: the request's, or the node's setting.

    pre_llm, in_llm: the strategies before and inside the language model, or ''; prunes: whether
    either does anything; fixed_by: the setting that decides what is kept instead of keep_ratio, or
    ''; is_query_conditioned: the choice before the language model is another for every question;
    nested: a smaller budget's choice there begins a larger one's (groups that are merged are those
    of the larger); by_worth: twice the budget enters (or its square root, where that is less), and
    each layer of a cached scene holds what its share is worth (adatoken3d_plus); fitted: the
    schedule is fitted to measured information, per_scene to each scene's own, from_file to that of
    the calibration file.
    """

    config: PruningConfig
    keep_ratio: float
    pre_llm: str = field(init=False, compare=False)
    in_llm: str = field(init=False, compare=False)
    prunes: bool = field(init=False, compare=False)
    fixed_by: str = field(init=False, compare=False)
    is_query_conditioned: bool = field(init=False, compare=False)
    nested: bool = field(init=False, compare=False)
    by_worth: bool = field(init=False, compare=False)
    fitted: bool = field(init=False, compare=False)
    per_scene: bool = field(init=False, compare=False)
    from_file: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        config, ada = self.config, self.config.adatoken3d
        # The strategy's name says which stages run; their traits say the rest.
        pre_llm, in_llm = split_name(config.strategy)
        before, inside = traits_of(pre_llm, config), traits_of(in_llm, config)
        prunes = bool(pre_llm or in_llm) and (self.keep_ratio < 1.0 or bool(inside.fixed_by))
        uses_fit = ada.schedule == "fitted" and ada.budget.mode != "parameters"
        fitted = in_llm == "adatoken3d" and uses_fit and prunes
        for name, value in {
            "pre_llm": pre_llm,
            "in_llm": in_llm,
            "prunes": prunes,
            "fixed_by": inside.fixed_by,
            "is_query_conditioned": before.is_query_conditioned,
            "by_worth": config.strategy in COMPOSED,
            "nested": config.order == "selection" and before.is_nested,
            "fitted": fitted,
            "per_scene": fitted and ada.calibration == "per_scene",
            "from_file": fitted and ada.calibration == "file",
        }.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_config(cls, config: PruningConfig, keep_ratio: float = math.nan) -> Policy:
        """keep_ratio NaN or 0: the configured one.

        Raises ConfigError for a ratio that the strategy cannot take.
        """
        # The ratio in force, within the range of its setting.
        is_requested = not (math.isnan(keep_ratio) or keep_ratio == 0.0)
        if is_requested:
            SETTINGS["pruning.keep_ratio"].check(float(keep_ratio))
        policy = cls(config, keep_ratio if is_requested else config.keep_ratio)
        ratio, share = policy.keep_ratio, config.pre_keep_ratio

        # What contradicts it.
        if policy.pre_llm and policy.in_llm and share and share < ratio:
            raise ConfigError(
                f"pruning.pre_keep_ratio = {share:g} is below the keep ratio {ratio:g}: what does"
                f" not enter the language model cannot be kept in it; allowed: {ratio:g} to 1, or 0"
                " for the square root of the keep ratio."
            )
        if is_requested and ratio < 1.0 and not (policy.pre_llm or policy.in_llm):
            raise ConfigError(
                f"keep_ratio = {ratio:g} was asked for, but pruning.strategy is 'none', which keeps"
                " all tokens: set a strategy (docs/pruning.md), or leave keep_ratio at 0."
            )
        if is_requested and policy.fixed_by:
            raise ConfigError(
                f"keep_ratio = {keep_ratio:g} was asked for, but {policy.fixed_by} fixes what is"
                " kept; leave keep_ratio at 0, or let the node's settings meet a mean keep ratio."
            )
        return policy

    # -- before the language model

    @property
    def _share_before(self) -> float:
        """Share that enters where no setting says it, of two strategies joined."""
        root = math.sqrt(self.keep_ratio)
        return min(ENTERING * self.keep_ratio, root) if self.by_worth else root

    def num_kept_pre_llm(self, num_tokens: int) -> int:
        """Spatial tokens of num_tokens that enter the language model."""
        if not self.pre_llm or not self.prunes:
            return num_tokens
        share = self.keep_ratio
        if self.in_llm:
            share = self.config.pre_keep_ratio or self._share_before
        wanted = math.floor(share * num_tokens + schedule.ROUNDING)
        return min(num_tokens, max(wanted, self.config.n_min))

    def choice_key(self, num_tokens: int) -> tuple[object, ...]:
        """What the choice before the language model depends on, of a scene of num_tokens.

        Its budget, and the configured one, of whose groups a smaller nested one is made.
        """
        c, name = self.config, self.pre_llm
        configured = Policy.from_config(c).num_kept_pre_llm(num_tokens)
        budgets = self.num_kept_pre_llm(num_tokens), configured, c.n_min
        settings = load_strategy(name).read_settings(c) if name else None
        return name, *budgets, c.order, settings

    def select(self, candidates: Candidates) -> Selection:
        """The choice before the language model, in the configured order."""
        budget = self.num_kept_pre_llm(candidates.features.shape[0])
        chosen = select(self.pre_llm, candidates, budget, self.config)
        return chosen.in_order() if self.config.order == "sorted" else chosen

    # -- inside the language model

    def pruner(
        self,
        shape: DecoderShape,
        entered: int = NOMINAL_SPATIAL,
        num_before_selection: int = NOMINAL_SPATIAL,
        text: int = NOMINAL_TEXT,
        information: tuple[float, ...] | None = None,
    ) -> LayerPruner | None:
        """The in-LLM part for a prompt of `entered` spatial tokens and `text` others.

        num_before_selection: spatial tokens before any choice; information: I per layer, for fitted
        schedules; where it is None they read their file. None where nothing is pruned inside.
        Raises ConfigError for a budget out of reach, a calibration of another depth, stage layers
        the decoder lacks.
        """
        if not self.in_llm or not self.prunes:
            return None
        if entered <= self.config.n_min:
            logger.warning(
                "%d spatial tokens, pruning.n_min is %d: nothing is pruned inside the language"
                " model.",
                entered,
                self.config.n_min,
            )
            return None
        return self.build(shape, PromptSizes(entered, text, num_before_selection), information)

    def build(
        self, shape: DecoderShape, sizes: PromptSizes, information: tuple[float, ...] | None
    ) -> LayerPruner:
        """The in-LLM part as `pruner` makes it, whatever n_min."""
        # The budget in shares of what enters; of the sizes only what the strategy depends on, so
        # that one schedule serves every prompt.
        share = round(sizes.num_spatial / max(sizes.num_before_selection, 1), 6)
        by_sizes = traits_of(self.in_llm, self.config).depends_on_sizes
        if information is None:
            information = ()
            if self.fitted:
                from ada3d_ros.pruning.fitted import filed_information

                information = filed_information(self.config.adatoken3d, shape.num_layers)
        budget = LayerBudget(
            shape,
            keep_ratio=self.keep_ratio if self.fixed_by else min(1.0, self.keep_ratio / share),
            pre_llm_share=share,
            sizes=sizes if by_sizes else NOMINAL_SIZES,
            information=information,
            n_min=self.config.n_min,
        )

        # Built once; an error tells the budget as it was asked, in shares of all tokens.
        settings = load_strategy(self.in_llm).read_settings(self.config)
        try:
            return build_pruner(self.in_llm, settings, budget)
        except schedule.UnreachableBudgetError as error:
            given = not self.pre_llm or self.config.pre_keep_ratio
            is_root = not given and self._share_before == math.sqrt(self.keep_ratio)
            raise error if by_sizes else error.scaled(share, is_root) from None


@functools.lru_cache(maxsize=64)
def traits_of(name: str, config: PruningConfig) -> Traits:
    """The traits of a strategy under these settings; for '' those of keeping everything."""
    if not name:
        return Traits()
    strategy = load_strategy(name)
    traits: Traits = strategy.traits(strategy.read_settings(config))
    return traits


@functools.lru_cache(maxsize=64)
def build_pruner(name: str, settings: Hashable, budget: LayerBudget) -> LayerPruner:
    """The pruner of a strategy; kept, since a fit takes long."""
    pruner: LayerPruner = load_strategy(name).build(settings, budget)
    return pruner


# -- what a decoder can do with the settings, before any scene is there


def check_policy(
    config: PruningConfig,
    shape: DecoderShape,
    keep_ratio: float = math.nan,
    information: tuple[float, ...] | None = None,
) -> LayerPruner | None:
    """The in-LLM part for a scene of the paper's size.

    Raises ConfigError where these settings cannot work on a decoder of this shape. Schedules that
    follow from scene or question are checked with an example.
    """
    policy = Policy.from_config(config, keep_ratio)
    if not policy.in_llm or not policy.prunes:
        return None
    if policy.per_scene:
        information = tuple(map(float, np.linspace(1.0, 0.0, shape.num_layers)))
    entered = policy.num_kept_pre_llm(NOMINAL_SPATIAL)
    sizes = PromptSizes(entered, NOMINAL_TEXT, NOMINAL_SPATIAL)
    return policy.build(shape, sizes, information)


def planned_retention(
    config: PruningConfig, shape: DecoderShape, information: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    """Share of all spatial tokens that each layer will keep.

    () where nothing is pruned, or where the scene (schedules fitted per scene) or the question
    (`logistic`) decides.
    """
    policy = Policy.from_config(config)
    by_prompt = traits_of(policy.in_llm, config).depends_on_prompt
    if not policy.prunes or policy.per_scene or by_prompt:
        return ()
    share = policy.num_kept_pre_llm(NOMINAL_SPATIAL) / NOMINAL_SPATIAL
    pruner = check_policy(config, shape, information=information)
    inside = pruner.schedule.retention if pruner is not None else (1.0,) * shape.num_layers
    return tuple(share * value for value in inside)


def describe_policy(config: PruningConfig, retention: tuple[float, ...]) -> str:
    """'adatoken3d keep_ratio 0.41', or what fixes the counts and the mean that comes of it."""
    policy = Policy.from_config(config)
    if not policy.prunes:
        return "none"
    if not policy.fixed_by:
        return f"{config.strategy} keep_ratio {config.keep_ratio:g}"
    mean = f", mean {np.mean(retention):.3f}" if retention else ""
    return f"{config.strategy} {policy.fixed_by}{mean}"
