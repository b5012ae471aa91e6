"""Figure 4: which spatial tokens survive each strategy, and how much of the room they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ada3d_ros.config import AgentConfig, PruningConfig, from_flat
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.token_selection import pruner_for
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.contribution import Progress
from ada3d_ros.lab.benchmarks.spread import spread
from ada3d_ros.lab.evaluation.scenes import VoxelScene, scene_prompt
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.pruning.cost import DecoderShape, cost_of
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.ranking import CELL_M, cell_coverage, position_bias
from ada3d_ros.token_rows import rows_of

UNROPED = "ada-unroped"  # ranking without rotary positions, to show what those prefer
STRATEGIES = ("adatoken3d", UNROPED, "random", "uniform", "voxel_dpp", "geo_fps", "pdrop", "fastv")
MAX_VIEWS = 6
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class NamedStrategy:
    """A row of the figure: label, and its settings at one keep ratio."""

    label: str
    config: PruningConfig
    keep_ratio: float


def named_strategies(
    labels: Sequence[str], keep_ratios: Sequence[float], base: AgentConfig
) -> list[NamedStrategy]:
    """Every label at every keep ratio. Raises ConfigError for an unknown name or bad ratio."""
    rows = []
    for ratio in keep_ratios:
        for label in labels:
            settings: dict[str, object] = {"pruning.strategy": label, "pruning.keep_ratio": ratio}
            if label == UNROPED:
                settings |= {
                    "pruning.strategy": "adatoken3d",
                    "pruning.adatoken3d.rank.rope": False,
                }
            rows.append(NamedStrategy(label, from_flat(settings, base).pruning, ratio))
    return rows


@torch.inference_mode()
def kept_by_layer(
    loaded: LoadedModel, scene: VoxelScene, question: str, policy: Policy
) -> list[torch.Tensor]:
    """Per layer the spatial tokens (k,) int64 alive, as ascending indices into all N of the scene.

    Of a merged group its anchor. Raises ConfigError where this decoder cannot reach the keep ratio.
    """
    decoder = loaded.model.decoder
    prompt, chosen = scene_prompt(loaded, scene, question, policy)
    pruner = pruner_for(decoder, policy, prompt, chosen.num_candidates)
    if pruner is None:
        return [chosen.kept] * decoder.config.num_layers
    # What the decoder keeps are places among the tokens that entered the prompt.
    return [chosen.kept[stage] for stage in prefill(decoder, prompt, 1, pruner).kept]


def measure_survival(
    loaded: LoadedModel,
    scenes: Sequence[VoxelScene],
    questions: Sequence[str],
    strategies: Sequence[NamedStrategy],
    progress: Progress,
) -> tuple[dict[str, Any], Arrays]:
    """JSON rows per scene, keep ratio and strategy, and the arrays to draw.

    Rows: coverage and position bias per layer over the questions. Arrays: views, places, and the
    tokens alive in the last layer for the first question.
    """
    rows: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for number, scene in enumerate(scenes):
        arrays |= scene_arrays(number, scene, loaded.model.config.vision)
        for strategy in strategies:
            progress(
                f"survival: {scene.name}, {strategy.label}, keep ratio {strategy.keep_ratio:g}"
            )
            row, kept = _survive(loaded, scene, questions, strategy)
            rows.append({"scene": number, "scene_name": scene.name, **row})
            # A strategy out of reach has a sentence and no picture.
            if kept is not None:
                mask = torch.zeros(len(scene.tokens.xyz_m), dtype=torch.bool)
                mask[kept.cpu()] = True
                arrays[mask_name(number, strategy.label, strategy.keep_ratio)] = mask.numpy()
    return {
        "n": len(scenes) * len(questions),
        "cell_m": CELL_M,
        "drawn_question": questions[0],
        "labels": list(dict.fromkeys(strategy.label for strategy in strategies)),
        "seed": strategies[0].config.seed,
        "rows": rows,
    }, arrays


def prompt_cost(
    loaded: LoadedModel, scene: VoxelScene, question: str, policy: Policy, counts: Sequence[int]
) -> dict[str, float]:
    """What the prompt costs with counts[i] tokens alive in layer i, beside it unpruned."""
    decoder = loaded.model.decoder
    prompt, chosen = scene_prompt(loaded, scene, question, policy)
    text = prompt.embeds.shape[0] - len(chosen.kept)
    total, shape = chosen.num_before_selection, DecoderShape.from_config(decoder.config)
    pruner, rank_macs = pruner_for(decoder, policy, prompt, chosen.num_candidates), 0.0
    if pruner is not None:
        text_after = prompt.embeds.shape[0] - prompt.spatial_span[1]
        rank_macs = pruner.ranking_macs(shape, counts, text, text_after)
    return asdict(cost_of(shape, counts, text, decoder.dtype.itemsize, total, rank_macs))


def _survive(
    loaded: LoadedModel, scene: VoxelScene, questions: Sequence[str], strategy: NamedStrategy
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """The row of one strategy, and its last layer's tokens for the first question.

    An error sentence and None where this decoder cannot reach the keep ratio.
    """
    head: dict[str, Any] = {
        "strategy": strategy.label,
        "keep_ratio": strategy.keep_ratio,
        "error": "",
    }
    xyz_m = scene.tokens.xyz_m

    # Where the choice is the scene's, one question stands for all.
    try:
        policy = Policy.from_config(strategy.config, strategy.keep_ratio)
        depends = bool(policy.in_llm) or policy.is_query_conditioned
        asked = questions if depends else questions[:1]
        survivors = [kept_by_layer(loaded, scene, question, policy) for question in asked]
    except ConfigError as error:
        return {**head, "error": str(error)}, None

    # Layer by layer of every question; the first one is drawn.
    rows = rows_of(scene.tokens)
    counts = [[len(kept) for kept in layers] for layers in survivors]
    placed = [rows.count_placed(layers) for layers in survivors]
    coverage = [[cell_coverage(xyz_m, kept) for kept in layers] for layers in survivors]
    bias = [[position_bias(xyz_m, kept) for kept in layers] for layers in survivors]
    drawn = survivors[0][-1]
    return {
        **head,
        "n": len(asked),
        "depends_on_question": depends,
        "merges": _merges(policy),
        "counts": counts[0],
        "cost": prompt_cost(loaded, scene, asked[0], policy, counts[0]),
        "drawn": {
            "tokens": len(drawn),
            "coverage": coverage[0][-1],
            "position_bias": bias[0][-1],
        },
        "keep_ratio_achieved": float(np.mean(placed)) / rows.num_placed,
        "coverage": spread(coverage),
        "position_bias": spread(bias),
    }, drawn


def _merges(policy: Policy) -> bool:
    """Whether tokens that are not kept live on in the mean of one that is."""
    return policy.pre_llm == "coarse_voxels" or (
        policy.pre_llm == "voxel_dpp" and policy.config.voxel_dpp.merge
    )


def patches_match(scene: VoxelScene) -> bool:
    """Whether as many patches went into each token as `patch_token` says.

    They are counted anew on the CPU, where a point on a voxel's border may fall to the other side.
    If not, the views show some patches wrongly.
    """
    with_token = scene.patch_token[scene.patch_token >= 0]
    found = torch.bincount(with_token, minlength=len(scene.tokens.num_patches))
    return torch.equal(found, scene.tokens.num_patches.cpu())


def mask_name(scene: int, label: str, keep_ratio: float) -> str:
    """Name of the array (N,) bool of tokens alive in the last layer."""
    return f"scene{scene}.kept.{label}.{keep_ratio:g}"


def scene_arrays(number: int, scene: VoxelScene, vision: VisionConfig) -> Arrays:
    """What is drawn of a scene.

    `views` (V, S, S, 3) uint8 and `patch_token` (V, P) int64 of up to MAX_VIEWS views spread over
    the recording, `xyz_m` (N, 3) of the tokens and `camera_m` (all views, 3) float32, world frame.
    """
    total = scene.patch_token.shape[0]
    chosen = torch.arange(min(total, MAX_VIEWS)) * total // min(total, MAX_VIEWS)
    # The images as they were before the vision tower's normalisation.
    mean = torch.tensor(vision.image_mean).view(3, 1, 1)
    std = torch.tensor(vision.image_std).view(3, 1, 1)
    pixels = (scene.views.pixels[chosen].cpu() * std + mean).clamp(0.0, 1.0)
    prefix = f"scene{number}."
    return {
        prefix + "views": (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy(),
        prefix + "patch_token": scene.patch_token[chosen].cpu().numpy(),
        prefix + "xyz_m": scene.tokens.xyz_m.float().cpu().numpy(),
        prefix + "camera_m": scene.views.T_world_cam[:, :3, 3].float().cpu().numpy(),
    }


def patch_states(
    patch_token: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int8]:
    """(V, P) int8: 1 where a patch's token is kept, 0 where dropped, -1 where there is none."""
    states = kept[np.maximum(patch_token, 0)].astype(np.int8)
    states[patch_token < 0] = -1
    return states
