"""From settings to a strategy: names, how two are joined, budgets, and what a decoder can do with
them.

A `Policy` is one setting of strategy and keep ratio, checked. `Policy.pruner` makes the in-LLM part
for one prompt; `Policy.select` is the part before the language model.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ada3d_ros.config import SETTINGS, PruningConfig
from ada3d_ros.config.pruning import IN_LLM
from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning import schedule
from ada3d_ros.pruning.adatoken import adatoken_curve, layer_list, mean_as_held, ratio_list
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.in_llm import LayerPruner, LogisticPruner
from ada3d_ros.pruning.pre_llm import QUERY_CONDITIONED, Candidates, Selection, select
from ada3d_ros.pruning.schedule import Curve, RetentionSchedule, Staircase

logger = logging.getLogger(__name__)

Sizes = tuple[
    int, int, int
]  # spatial tokens that enter the decoder, text tokens, spatial tokens before any choice
NOMINAL_SPATIAL, NOMINAL_TEXT = (
    1659,
    61,
)  # the paper's scene: for checks made before a scene is there


def split_name(strategy: str) -> tuple[str, str]:
    """A checked strategy name as (before the language model, inside it); '' where there is none."""
    if strategy == "none":
        return "", ""
    first, _, second = strategy.partition("+")
    return ("", first) if first in IN_LLM else (first, second)


@dataclass(frozen=True, slots=True)
class Policy:
    """A strategy and its keep ratio. asked: whether the request itself named the keep ratio (else
    the node's setting).
    """

    config: PruningConfig
    keep_ratio: float
    asked: bool = False

    @classmethod
    def from_config(cls, config: PruningConfig, keep_ratio: float = math.nan) -> Policy:
        """keep_ratio NaN or 0: the configured one. Raises ConfigError for a ratio that the strategy
        cannot take.
        """
        asked = not (math.isnan(keep_ratio) or keep_ratio == 0.0)
        if asked:
            SETTINGS["pruning.keep_ratio"].check(float(keep_ratio))
        policy = cls(config, keep_ratio if asked else config.keep_ratio, asked)
        ratio, share = policy.keep_ratio, config.pre_keep_ratio
        if policy.pre_llm and policy.in_llm and share and share < ratio:
            raise ConfigError(
                f"pruning.pre_keep_ratio = {share:g} is below the keep ratio {ratio:g}: what does"
                f" not enter the language model cannot be kept in it; allowed: {ratio:g} to 1, or 0"
                " for the square root of the keep ratio."
            )
        if asked and ratio < 1.0 and not (policy.pre_llm or policy.in_llm):
            raise ConfigError(
                f"keep_ratio = {ratio:g} was asked for, but pruning.strategy is 'none', which keeps"
                " all tokens: set a strategy (docs/pruning.md), or leave keep_ratio at 0."
            )
        if asked and policy.fixed_by:
            raise ConfigError(
                f"keep_ratio = {keep_ratio:g} was asked for, but {policy.fixed_by} fixes what is"
                " kept; leave keep_ratio at 0, or let the node's settings meet a mean keep ratio."
            )
        return policy

    @property
    def pre_llm(self) -> str:
        """Strategy before the language model, or ''."""
        return split_name(self.config.strategy)[0]

    @property
    def in_llm(self) -> str:
        """Strategy inside the language model, or ''."""
        return split_name(self.config.strategy)[1]

    @property
    def fixed_by(self) -> str:
        """The setting that decides what is kept instead of keep_ratio, or ''."""
        c = self.config
        if self.in_llm == "adatoken3d" and c.adatoken3d.budget.mode != "mean":
            return f"pruning.adatoken3d.budget.mode = {c.adatoken3d.budget.mode!r}"
        if self.in_llm == "pdrop" and c.pdrop.ratios != "auto":
            return f"pruning.pdrop.ratios = {c.pdrop.ratios!r}"
        return ""

    @property
    def prunes(self) -> bool:
        return bool(self.pre_llm or self.in_llm) and (self.keep_ratio < 1.0 or bool(self.fixed_by))

    @property
    def is_query_conditioned(self) -> bool:
        """Whether the choice before the language model depends on the question, so that it cannot
        be kept for the next.
        """
        return self.pre_llm in QUERY_CONDITIONED

    @property
    def nested(self) -> bool:
        """Whether the choice before the language model for a smaller budget is the first part of
        the one for a larger.

        Groups that are merged are those of the larger budget then.
        """
        c = self.config
        ordered = self.pre_llm in ("random", "voxel_dpp") or (
            self.pre_llm == "geo_fps" and c.geo_fps.salient_share == 0.0
        )
        return ordered and c.order == "selection"

    @property
    def fitted(self) -> bool:
        """Whether the schedule is fitted to measured information."""
        ada = self.config.adatoken3d
        uses_it = ada.schedule == "fitted" and ada.budget.mode != "parameters"
        return self.in_llm == "adatoken3d" and uses_it and self.prunes

    @property
    def per_scene(self) -> bool:
        """Whether that information is each scene's own."""
        return self.fitted and self.config.adatoken3d.calibration == "per_scene"

    @property
    def from_file(self) -> bool:
        """Whether it comes from the calibration file."""
        return self.fitted and self.config.adatoken3d.calibration == "file"

    def choice_key(self, num_tokens: int) -> tuple[object, ...]:
        """What the choice before the language model depends on, of a scene of num_tokens: its
        budget, and the configured one, of whose groups a smaller nested one is made.
        """
        c = self.config
        budgets = (
            self.num_kept_pre_llm(num_tokens),
            Policy.from_config(c).num_kept_pre_llm(num_tokens),
            c.n_min,
        )
        return self.pre_llm, *budgets, c.order, c.seed, c.voxel_dpp, c.geo_fps

    def num_kept_pre_llm(self, num_tokens: int) -> int:
        """Spatial tokens of num_tokens that enter the language model."""
        if not self.pre_llm or not self.prunes:
            return num_tokens
        share = self.keep_ratio
        if self.in_llm:
            share = self.config.pre_keep_ratio or math.sqrt(self.keep_ratio)
        wanted = math.floor(share * num_tokens + schedule.ROUNDING)
        return min(num_tokens, max(wanted, self.config.n_min))

    def select(self, candidates: Candidates) -> Selection:
        """The choice before the language model, in the configured order."""
        chosen = select(
            self.pre_llm,
            candidates,
            self.num_kept_pre_llm(candidates.features.shape[0]),
            self.config,
        )
        return chosen.in_order() if self.config.order == "sorted" else chosen

    def pruner(
        self,
        shape: DecoderShape,
        entered: int = NOMINAL_SPATIAL,
        num_before_selection: int = NOMINAL_SPATIAL,
        text: int = NOMINAL_TEXT,
        information: tuple[float, ...] | None = None,
    ) -> LayerPruner | None:
        """The in-LLM part for a prompt of `entered` spatial tokens, of `num_before_selection` before any
        choice, and `text` others.

        information: I per layer, for fitted schedules; where it is None they read their file. None
        where nothing is pruned inside. Raises ConfigError for a budget out of reach, a calibration
        of another depth, stage layers the decoder lacks.
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
        return self.build(shape, entered, num_before_selection, text, information)

    def build(
        self,
        shape: DecoderShape,
        entered: int,
        num_before_selection: int,
        text: int,
        information: tuple[float, ...] | None,
    ) -> LayerPruner:
        """The same whatever n_min."""
        share = round(entered / max(num_before_selection, 1), 6)
        sizes = (NOMINAL_SPATIAL, NOMINAL_TEXT, NOMINAL_SPATIAL)
        if self.config.adatoken3d.budget.mode == "flops":  # the only budget that depends on counts
            sizes = (entered, text, num_before_selection)
        ratio = self.keep_ratio if self.fixed_by else min(1.0, self.keep_ratio / share)
        version = _file_version(self.config) if information is None else ("", 0)
        try:
            return _build(
                self.config, self.in_llm, ratio, share, shape, sizes, information, version
            )
        except schedule.UnreachableBudgetError as error:
            in_shares_of_all = self.fixed_by and self.config.adatoken3d.budget.mode == "flops"
            raise error if in_shares_of_all else error.scaled(share) from None  # as it was asked


def check_policy(
    config: PruningConfig,
    shape: DecoderShape,
    keep_ratio: float = math.nan,
    information: tuple[float, ...] | None = None,
) -> LayerPruner | None:
    """The in-LLM part for a scene of the paper's size, before any scene is there.

    Raises ConfigError where these settings cannot work on a decoder of this shape. Schedules that
    follow from scene or question are checked with an example.
    """
    policy = Policy.from_config(config, keep_ratio)
    if not policy.in_llm or not policy.prunes:
        return None
    if policy.per_scene:
        information = tuple(map(float, np.linspace(1.0, 0.0, shape.num_layers)))
    return policy.build(
        shape, policy.num_kept_pre_llm(NOMINAL_SPATIAL), NOMINAL_SPATIAL, NOMINAL_TEXT, information
    )


def planned_retention(
    config: PruningConfig, shape: DecoderShape, information: tuple[float, ...] | None = None
) -> tuple[float, ...]:
    """Share of all spatial tokens that each layer will keep; () where nothing is pruned, or where
    the scene (schedules fitted per scene) or the question (`logistic`) decides.
    """
    policy = Policy.from_config(config)
    if not policy.prunes or policy.per_scene or policy.in_llm == "logistic":
        return ()
    share = policy.num_kept_pre_llm(NOMINAL_SPATIAL) / NOMINAL_SPATIAL
    pruner = check_policy(config, shape, information=information)
    inside = pruner.schedule.retention if pruner is not None else (1.0,) * shape.num_layers
    return tuple(share * value for value in inside)


def describe_policy(config: PruningConfig, retention: tuple[float, ...]) -> str:
    """'adatoken3d keep_ratio 0.41'; where another setting fixes what is kept, that one and the mean
    that comes of it.
    """
    policy = Policy.from_config(config)
    if not policy.prunes:
        return "none"
    if not policy.fixed_by:
        return f"{config.strategy} keep_ratio {config.keep_ratio:g}"
    mean = f", mean {np.mean(retention):.3f}" if retention else ""
    return f"{config.strategy} {policy.fixed_by}{mean}"


def _file_version(config: PruningConfig) -> tuple[str, int]:
    """What makes a calibration file the same file."""
    ada = config.adatoken3d
    if ada.schedule != "fitted" or ada.calibration != "file":
        return "", 0
    try:
        return ada.calibration_file, Path(ada.calibration_file).expanduser().stat().st_mtime_ns
    except OSError:  # reading it says what is wrong
        return ada.calibration_file, 0


@functools.lru_cache(maxsize=64)
def _build(
    config: PruningConfig,
    name: str,
    ratio: float,
    share: float,
    shape: DecoderShape,
    sizes: Sizes,
    information: tuple[float, ...] | None,
    file_version: tuple[str, int],
) -> LayerPruner:
    return BUILDERS[name](config, ratio, share, shape, sizes, information)


def _held(stairs: Staircase, curve: Curve, rounding: str = "floor") -> RetentionSchedule:
    return RetentionSchedule(tuple(map(float, stairs.hold(np.clip(curve, 0.0, 1.0)))), rounding)


def _adatoken3d(
    config: PruningConfig,
    ratio: float,
    share: float,
    shape: DecoderShape,
    sizes: Sizes,
    information: tuple[float, ...] | None,
) -> LayerPruner:
    ada = config.adatoken3d
    stairs = Staircase(shape.num_layers, ada.first_prune_layer, layer_list(ada.prune_layers))
    if ada.schedule == "stages":
        stairs = dataclasses.replace(stairs, prune_layers=layer_list(ada.stage_layers))
    spatial, text, num_before_selection = sizes
    curve = adatoken_curve(
        ada, stairs, ratio, shape, spatial, text, information, num_before_selection, share
    )
    return LayerPruner(
        "adatoken3d",
        _held(stairs, curve),
        config.n_min,
        ada.rank.score,
        ada.rank.query,
        ada.rank.rope,
        config.seed,
        positions=ada.positions,
    )


def _fastv(
    config: PruningConfig,
    ratio: float,
    share: float,
    shape: DecoderShape,
    sizes: Sizes,
    information: object,
) -> LayerPruner:
    """All tokens up to layer k, then a fixed share, ranked by layer k's own attention row."""
    L, k = shape.num_layers, config.fastv.k
    if k >= L:
        raise ConfigError(
            f"pruning.fastv.k = {k}: this decoder has {L} layers; allowed: 1 to {L - 1}."
        )
    stairs = Staircase(L, prune_layers=(k,))
    curve = schedule.equal_factors(L, (k,), mean_as_held(stairs), ratio)
    return LayerPruner("fastv", _held(stairs, curve, config.fastv.round), config.n_min, rank_lag=1)


def _pdrop(
    config: PruningConfig,
    ratio: float,
    share: float,
    shape: DecoderShape,
    sizes: Sizes,
    information: object,
) -> LayerPruner:
    """Stages behind a quarter, a half and three quarters of the layers, or as listed; ranked by the
    next layer.
    """
    L = shape.num_layers
    layers = layer_list(config.pdrop.layers) or tuple(
        sorted({max(1, L * part // 4) for part in (1, 2, 3)} - {L})
    )
    stairs = Staircase(L, prune_layers=layers)
    if config.pdrop.ratios != "auto":
        listed = schedule.stages(L, layers, ratio_list(config.pdrop.ratios))
        held = _held(stairs, listed, "truncate")
    else:
        held = _held(stairs, schedule.equal_factors(L, layers, mean_as_held(stairs), ratio))
    return LayerPruner("pdrop", held, config.n_min, positions=config.pdrop.positions)


def _logistic(
    config: PruningConfig,
    ratio: float,
    share: float,
    shape: DecoderShape,
    sizes: Sizes,
    information: object,
) -> LayerPruner:
    """Ranked as adatoken3d; the curve follows from the prompt."""
    L, c = shape.num_layers, config.logistic
    nominal = schedule.logistic(
        L, (c.slope_min + c.slope_max) / 2, c.midpoint, ratio
    )  # raises where out of reach
    return LogisticPruner(
        "logistic",
        RetentionSchedule(tuple(map(float, nominal))),
        config.n_min,
        probe_layer=1,
        keep_ratio=ratio,
        slope_min=c.slope_min,
        slope_max=c.slope_max,
        midpoint=c.midpoint,
    )


BUILDERS = {"adatoken3d": _adatoken3d, "fastv": _fastv, "pdrop": _pdrop, "logistic": _logistic}
