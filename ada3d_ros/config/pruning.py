"""The settings of spatial-token pruning.

Where the AdaToken-3D paper leaves something open or contradicts itself, the default follows
docs/pruning.md, and the other reading is a key of its own here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.config.setting import setting
from ada3d_ros.errors import ConfigError

CONTROLS = ("none", "random", "uniform")
PRE_LLM = (
    "coarse_voxels",
    "geo_fps",
    "cond_dpp",
    "voxel_dpp",
    "kitoke",
    "holitom",
    "condensed_grid",
)
IN_LLM = ("adatoken3d", "fastv", "pdrop", "logistic")
COMPOSED = {"adatoken3d_plus": ("voxel_dpp", "adatoken3d")}  # with a budget of their own
STRATEGIES = (*CONTROLS, *PRE_LLM, *IN_LLM, *COMPOSED)
LAYER_LIST = r"\d+(,\d+)*"
RATIO_LIST = r"[\d.]+(,[\d.]+)*"


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    mode: str = setting(
        "mean",
        "what the schedule meets: mean = pruning.keep_ratio as the mean over layers; endpoint ="
        " value in the last layer, 1 in the first; flops = value as the share of the unpruned"
        " prefill FLOPs; parameters = alpha, beta, M as written",
        choices=("mean", "endpoint", "flops", "parameters"),
    )
    value: float = setting(
        0.2,
        "the budget of modes endpoint and flops; under parameters, the last layer of schedule"
        " quadratic",
        low=0.01,
        high=1.0,
    )
    semantics: str = setting(
        "last_layer_retained",
        "what value, the paper's 'ratio', stands for in mode endpoint: the share kept in the last"
        " layer, or the mean share kept, or the mean share dropped",
        choices=("last_layer_retained", "mean_retained", "mean_dropped"),
    )


@dataclass(frozen=True, slots=True)
class InformationConfig:
    a1: float = setting(
        0.3, "eq. 3: weight of the prompt's attention to spatial tokens", low=0.0, high=10.0
    )
    a2: float = setting(
        0.7, "eq. 3: weight of the spatial tokens' attention to system tokens", low=0.0, high=10.0
    )
    sigma: float = setting(0.73, "eq. 2: weight of a layer's own self term", low=0.0, high=1.0)
    gamma: float = setting(
        0.27,
        "eq. 2: weight of the layers before; the authors' code has 1, a running sum that only"
        " rises",
        low=0.0,
        high=1.0,
    )
    eps: float = setting(1.0, "eq. 4: temperature of the cross term", low=0.05, high=100.0)
    alpha_f: float = setting(1.0, "eq. 4: weight of F (the paper's alpha_i)", low=0.0, high=10.0)
    query_stride: int = setting(
        10,
        "every n-th spatial token is a query when attention masses are measured",
        low=1,
        high=1000,
    )


@dataclass(frozen=True, slots=True)
class FitConfig:
    lam: float = setting(1.0, "eq. 7: weight of the slope term", low=0.0, high=1000.0)
    L0: float = setting(
        1.0,
        "eq. 5: the paper's offset L; above 1 an onset: the layers before it see all tokens",
        low=1.0,
        high=128.0,
    )
    r_min: float = setting(0.05, "least share kept in any layer", low=0.0, high=1.0)
    alpha: tuple[float, ...] = setting(
        (0.5, 1.2), "eq. 5: bounds of the amplitude", length=2, low=0.0, high=10.0
    )
    beta: tuple[float, ...] = setting(
        (0.001, 2.0), "eq. 5: bounds of the decay per layer", length=2, low=0.0, high=20.0
    )
    M: tuple[float, ...] = setting(
        (-1.0, 1.0), "eq. 5: bounds of the floor", length=2, low=-10.0, high=10.0
    )
    beta_l2: float = setting(
        0.0, "adds beta_l2 * beta^2 to the loss (the paper's L2 term)", low=0.0, high=1000.0
    )

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "M"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(
                    f"pruning.adatoken3d.fit.{name} = [{low:g}, {high:g}]: the lower bound comes"
                    " first and is the smaller one."
                )


@dataclass(frozen=True, slots=True)
class RankConfig:
    score: str = setting(
        "softmax_mean",
        "score of a spatial token: softmax over all keys, mean over heads; or the mean of the"
        " logits; or the largest head; random is a control",
        choices=("softmax_mean", "logit_mean", "head_max", "random"),
    )
    query: str = setting(
        "last",
        "which prompt tokens are the queries: the last one, or all after the scene tokens (the"
        " largest score counts)",
        choices=("last", "all"),
    )
    rope: bool = setting(
        True, "rank with rotary positions; false removes their preference for late tokens"
    )


@dataclass(frozen=True, slots=True)
class AdaTokenConfig:
    schedule: str = setting(
        "fixed",
        "retention curve: fixed = eq. 5 without calibration; fitted = eq. 5 fitted to measured"
        " information; quadratic = the paper's figure 3, 1-(1-r)x^2; stages = a list by hand",
        choices=("fixed", "fitted", "quadratic", "stages"),
    )
    alpha: float = setting(0.8, "eq. 5 under budget.mode parameters: amplitude", low=0.0, high=2.0)
    beta: float = setting(
        0.1236, "eq. 5 under budget.mode parameters: decay per layer", low=0.0, high=20.0
    )
    M: float = setting(
        0.2,
        "eq. 5: floor; schedule fixed lowers it to half the budget where that is less",
        low=0.0,
        high=1.0,
    )
    stage_layers: str = setting(
        "4,8,12,16,18,20,22,24,26,28",
        "schedule stages: 1-based layers behind which tokens go",
        pattern=LAYER_LIST,
    )
    stage_ratios: str = setting(
        "auto",
        "schedule stages: share of all spatial tokens kept behind each; auto = equal factors that"
        " meet the budget",
        pattern=f"auto|{RATIO_LIST}",
    )
    budget: BudgetConfig = BudgetConfig()
    inf: InformationConfig = InformationConfig()
    fit: FitConfig = FitConfig()
    prune_layers: str = setting(
        "all",
        "1-based layers behind which tokens may go, as 4,12,24; between them the count is held",
        pattern=f"all|{LAYER_LIST}",
    )
    first_prune_layer: int = setting(
        2, "1-based first layer that may see fewer tokens", unit="layers", low=2, high=1000
    )
    rank: RankConfig = RankConfig()
    positions: str = setting(
        "original",
        "of the kept tokens: original, or compact = counted anew after every drop",
        choices=("original", "compact"),
    )
    calibration: str = setting(
        "file",
        "schedule fitted: where the information curve comes from, calibration_file or the scene's"
        " first question",
        choices=("file", "per_scene"),
    )
    calibration_file: str = setting("", "YAML written by `ada3d calibrate`")
    on_degenerate: str = setting(
        "fallback",
        "schedule fitted, information flat or rising with depth: fallback = the fixed curve, with a"
        " warning; flat = the fit as it comes; error = refuse",
        choices=("fallback", "flat", "error"),
    )


@dataclass(frozen=True, slots=True)
class FastvConfig:
    k: int = setting(
        2, "layers that see all tokens; the last of them ranks", unit="layers", low=1, high=1000
    )
    round: str = setting(
        "round",
        "how the count becomes whole: half to even, as FastV, or down",
        choices=("round", "floor"),
    )


@dataclass(frozen=True, slots=True)
class PdropConfig:
    layers: str = setting(
        "auto",
        "1-based layers behind which tokens go; auto = after each quarter",
        pattern=f"auto|{LAYER_LIST}",
    )
    ratios: str = setting(
        "auto",
        "share of all spatial tokens kept behind each; auto = equal factors that meet"
        " pruning.keep_ratio",
        pattern=f"auto|{RATIO_LIST}",
    )
    positions: str = setting(
        "compact",
        "of the kept tokens; compact as PyramidDrop has it",
        choices=("original", "compact"),
    )


@dataclass(frozen=True, slots=True)
class LogisticConfig:
    slope_min: float = setting(
        2.0, "steepness over the whole depth for a prompt that attends evenly", low=0.0, high=100.0
    )
    slope_max: float = setting(
        20.0,
        "steepness for a prompt whose tokens attend to quite different places",
        low=0.0,
        high=100.0,
    )
    midpoint: float = setting(0.3, "relative depth at which half is dropped", low=0.0, high=1.0)


@dataclass(frozen=True, slots=True)
class VoxelDppConfig:
    merge: bool = setting(
        True, "tokens not chosen are averaged into the most similar chosen one nearby"
    )
    merge_radius_voxels: float = setting(
        5.0, "how near that one must lie", unit="voxels", low=0.0, high=1000.0
    )


@dataclass(frozen=True, slots=True)
class GeoFpsConfig:
    lam: float = setting(
        0.5,
        "weight of distance in space; the rest goes to 1 - cosine of the features",
        low=0.0,
        high=1.0,
    )
    salient_share: float = setting(
        0.0,
        "share of the budget given to the most distinct tokens before spreading",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True, slots=True)
class KitokeConfig:
    bandwidth: float = setting(
        0.6,
        "of the Gaussian kernel, as a distance of unit features over the square root of 2",
        low=0.01,
        high=10.0,
    )
    merge_radius_voxels: float = setting(
        5.0,
        "how near a chosen token must lie for another to be averaged into it",
        unit="voxels",
        low=0.0,
        high=1000.0,
    )


@dataclass(frozen=True, slots=True)
class HolitomConfig:
    tau: float = setting(
        0.8,
        "cosine above which neighbours of two slices are the same; raised where too few would be"
        " left",
        low=-1.0,
        high=1.0,
    )
    neighbours: int = setting(
        7, "whose distances make a token's density", unit="tokens", low=1, high=1000
    )


@dataclass(frozen=True, slots=True)
class CondensedGridConfig:
    file: str = setting(
        "",
        "trained pooling, as tools/train_pooling.py writes it for one model; embedded = that of the"
        " embedded model; empty = every voxel has the same share",
    )


@dataclass(frozen=True, slots=True)
class PruningConfig:
    strategy: str = setting(
        "adatoken3d",
        "how spatial tokens are pruned: before the language model (random, uniform, coarse_voxels,"
        " geo_fps, cond_dpp, voxel_dpp, kitoke, holitom, condensed_grid), inside it (adatoken3d,"
        " fastv, pdrop, logistic), one of each joined by +, or adatoken3d_plus:"
        " voxel_dpp+adatoken3d with twice keep_ratio entering, held by each layer as its share is"
        " worth",
        choices=STRATEGIES,
        joined=((*CONTROLS[1:], *PRE_LLM), IN_LLM),
    )
    keep_ratio: float = setting(
        0.41, "mean over layers of kept / total spatial tokens", low=0.0001, high=1.0
    )
    pre_keep_ratio: float = setting(
        0.0,
        "for two strategies joined: share that enters the language model; 0 = the square root of"
        " keep_ratio (adatoken3d_plus: or twice keep_ratio, where that is less)",
        low=0.0,
        high=1.0,
    )
    n_min: int = setting(8, "spatial tokens always kept", unit="tokens", low=1, high=2560)
    order: str = setting(
        "sorted",
        "in which tokens chosen before the language model enter it: as they were, or as chosen",
        choices=("sorted", "selection"),
    )
    pre_positions: str = setting(
        "compact",
        "of tokens chosen before the language model: compact = counted anew, as of a smaller scene;"
        " original = as in the whole scene",
        choices=("compact", "original"),
    )
    seed: int = setting(0, "of strategy random and rank.score random", low=0, high=2**31 - 1)
    adatoken3d: AdaTokenConfig = AdaTokenConfig()
    fastv: FastvConfig = FastvConfig()
    pdrop: PdropConfig = PdropConfig()
    logistic: LogisticConfig = LogisticConfig()
    voxel_dpp: VoxelDppConfig = VoxelDppConfig()
    geo_fps: GeoFpsConfig = GeoFpsConfig()
    kitoke: KitokeConfig = KitokeConfig()
    holitom: HolitomConfig = HolitomConfig()
    condensed_grid: CondensedGridConfig = CondensedGridConfig()
