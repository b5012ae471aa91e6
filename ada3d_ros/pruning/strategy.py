"""What a pruning strategy gets and offers, and how the configured one is loaded by its name.

The three functions of every strategy are described in `pruning/baselines/__init__.py`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch.nn import functional as F

from ada3d_ros.config import PruningConfig
from ada3d_ros.config.pruning import CONTROLS, PRE_LLM
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes, ranking_macs
from ada3d_ros.pruning.ranking import PruneContext, random_scores, rank_scores
from ada3d_ros.pruning.schedule import RetentionSchedule

NOMINAL_SIZES = PromptSizes(1659, 61, 1659)  # the paper's scene: for checks before a scene is there
# Modules that are not called as their strategy: our own method, and a name of the standard library.
MODULES = {"adatoken3d": "adatoken", "random": "baselines.random_tokens"}


@dataclass(frozen=True, slots=True)
class Traits:
    """What the policy and the engine must know of a strategy under its settings.

    fixed_by: the setting that decides what is kept instead of pruning.keep_ratio, or ''.
    """

    fixed_by: str = ""
    depends_on_sizes: bool = False  # the schedule is another for other counts of tokens
    depends_on_prompt: bool = False  # the schedule follows from each prompt's attention
    is_query_conditioned: bool = False  # the selection is another for another question
    is_nested: bool = False  # the first k selected are the selection of budget k


@dataclass(frozen=True, slots=True)
class LayerBudget:
    """What the schedule of an in-LLM strategy has to meet, and on which decoder.

    keep_ratio: mean over layers of the tokens that enter the decoder; pre_llm_share: how many of
    all spatial tokens these are; sizes: of the prompt, for strategies that depend on them;
    information: I per layer (eq. 6), for schedules fitted to it.
    """

    shape: DecoderShape
    keep_ratio: float
    pre_llm_share: float = 1.0
    sizes: PromptSizes = NOMINAL_SIZES
    information: tuple[float, ...] = ()
    n_min: int = 1


@functools.cache
def load_strategy(name: str) -> ModuleType:
    """The module of a strategy that the settings allow; it is imported when first asked for."""
    return importlib.import_module(f"ada3d_ros.pruning.{MODULES.get(name, f'baselines.{name}')}")


# -- inside the language model


@dataclass(frozen=True, slots=True)
class LayerPruner:
    """One in-LLM strategy, ready for one prompt.

    rank_lag 0: the layer about to run ranks, and keeps the keys made for that (AdaToken-3D,
    PyramidDrop); 1: the layer before it (FastV). positions `compact`: those of the kept tokens are
    counted anew after every drop. probe_layer: the 0-based layer whose attention of all prompt
    tokens the schedule needs before it can say anything (None: it needs none).
    """

    name: str
    schedule: RetentionSchedule
    n_min: int = 1
    score: str = "softmax_mean"
    query: str = "last"
    rope: bool = True
    seed: int = 0
    rank_lag: int = 0
    positions: str = "original"
    probe_layer: int | None = None

    def counts(self, num_tokens: int, probe: PruneContext | None) -> tuple[int, ...]:
        """Spatial tokens alive in each layer."""
        return _counts(self.schedule, num_tokens, self.n_min)

    def rank(self, context: PruneContext) -> torch.Tensor:
        """Scores (n,) float32 of the spatial tokens alive; higher stays."""
        if self.score == "random":
            return random_scores(context, self.seed)
        return rank_scores(context, self.score, self.query, self.rope)

    def ranking_macs(
        self, shape: DecoderShape, counts: Sequence[int], num_text: int, num_text_after: int
    ) -> float:
        """Extra MACs of a prefill that ranked for these counts of spatial tokens per layer.

        num_text: other tokens of the prompt; num_text_after: those of them after the scene tokens.
        """
        queries = num_text_after if self.query == "all" else 1
        macs = ranking_macs(shape, counts, num_text, self.rank_lag, queries)
        if self.probe_layer is not None:  # the attention that the schedule was made from
            tokens = counts[0] + num_text
            macs += num_text_after * shape.hidden_size * (shape.hidden_size + tokens)
        return macs


@functools.lru_cache(maxsize=64)
def _counts(schedule: RetentionSchedule, num_tokens: int, n_min: int) -> tuple[int, ...]:
    """Those of the schedule; the same for every question about a scene."""
    return schedule.counts(num_tokens, n_min)


# -- before the language model


NAMES = (*CONTROLS[1:], *PRE_LLM)


@dataclass(frozen=True, eq=False, slots=True)
class Candidates:
    """What can be selected.

    features (N, C); xyz_m (N, 3) float32 in metres, or in 2D (column, row, 0) in patches;
    num_patches (N,) that each stands for; the size of a voxel (in 2D 1); relevance (N,) float32 in
    0..1 to the question, None for strategies that are not conditioned on it.
    """

    features: torch.Tensor
    xyz_m: torch.Tensor
    num_patches: torch.Tensor
    voxel_size_m: float
    relevance: torch.Tensor | None = None

    def cosines(self) -> torch.Tensor:
        """Cosine similarity of all pairs of features, (N, N) float32."""
        unit = F.normalize(self.features.float(), dim=1)
        # 1 with itself exactly, so that which token a DPP starts from is no matter of rounding
        return (unit @ unit.T).fill_diagonal_(1.0)

    def distances_m(self) -> torch.Tensor:
        """Distance of all pairs of places, (N, N) float32."""
        # exact far from the map's origin too, where |a|^2 + |b|^2 - 2ab is metres off
        return torch.cdist(self.xyz_m, self.xyz_m, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True, eq=False, slots=True)
class Selection:
    """Which of N candidates stay, and which are averaged into which.

    kept (k,) int64: their indices, in the order of selection; groups (N,) int64: for each candidate
    the place in `kept` of the one it is averaged into, -1 = dropped; weights (N,) float32 of that
    average; merges False: nothing is averaged.
    """

    kept: torch.Tensor
    groups: torch.Tensor
    weights: torch.Tensor
    merges: bool = True

    @classmethod
    def without_merging(cls, kept: torch.Tensor, total: int) -> Selection:
        """Everything but kept (k,) of the `total` candidates is dropped."""
        groups = torch.full((total,), -1, dtype=torch.int64, device=kept.device)
        groups[kept] = torch.arange(len(kept), device=kept.device)
        return cls(kept, groups, torch.ones(total, device=kept.device), merges=False)

    def in_order(self) -> Selection:
        """The same with `kept` ascending."""
        kept, order = torch.sort(self.kept)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        groups = torch.where(self.groups >= 0, place[self.groups.clamp(min=0)], self.groups)
        return replace(self, kept=kept, groups=groups)

    def merge(self, values: torch.Tensor) -> torch.Tensor:
        """Values (N, C) to (k, C): weighted means of the groups, summed in float32, fixed order."""
        if not self.merges:
            return values[self.kept]
        places = torch.arange(len(self.kept), device=self.groups.device)
        share = (self.groups == places[:, None]).float() * self.weights  # (k, N)
        share = share / share.sum(dim=1, keepdim=True)
        return (share @ values.float()).to(values.dtype)


def select(name: str, candidates: Candidates, budget: int, config: PruningConfig) -> Selection:
    """Select `budget` of the candidates (coarse_voxels: at most that many) by the strategy `name`.

    Raises ConfigError for an unknown name or a budget outside 1..N, ModelError for features that
    are not finite.
    """
    # Check what was asked for.
    total = candidates.features.shape[0]
    if name not in NAMES:
        raise ConfigError(
            f"{name!r} is not a strategy before the language model; allowed: {', '.join(NAMES)}."
        )
    if not 1 <= budget <= total:
        raise ConfigError(
            f"a budget of {budget} tokens for {name}; allowed: 1 to {total}, the tokens there are."
        )

    # Check the numbers: NaN has no rank, and would be kept or dropped at random.
    inputs = {"spatial features": candidates.features, "relevance": candidates.relevance}
    for what, values in inputs.items():
        if values is not None and not bool(torch.isfinite(values).all()):
            raise ModelError(
                f"{name}: {what} are not finite (NaN); the weights are damaged or overflowed."
            )

    # Select by the strategy's own file.
    if budget == total:
        every = torch.arange(total, device=candidates.features.device)
        return Selection.without_merging(every, total)
    strategy = load_strategy(name)
    selection: Selection = strategy.select(candidates, budget, strategy.read_settings(config))
    return selection
