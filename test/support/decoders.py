"""Small decoders (random weights, planted attention), prompts, scenes, curves, calibrations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.image import patch_grid
from ada3d_ros.pruning.calibration import Calibration, write_calibration
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.information import Masses
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.schedule import Curve
from ada3d_ros.pruning.strategy import Candidates
from ada3d_ros.types import PromptSequence

LAYERS = 8
WIDTH = 32
SHAPE = DecoderShape(LAYERS, WIDTH, 16, 64, 97)
PRE = (
    "random",
    "uniform",
    "coarse_voxels",
    "geo_fps",
    "cond_dpp",
    "voxel_dpp",
    "kitoke",
    "holitom",
    "condensed_grid",
)
INNER = ("adatoken3d", "fastv", "pdrop", "logistic")


def config_of(flat: Mapping[str, Any]) -> PruningConfig:
    """Settings by their name behind `pruning.`."""
    return from_flat({f"pruning.{name}": value for name, value in flat.items()}).pruning


def policy_of(strategy: str, keep_ratio: float = math.nan, **flat: Any) -> Policy:
    """A checked policy; settings as keywords with __ for the dot (adatoken3d__budget__mode)."""
    named = {name.replace("__", "."): value for name, value in flat.items()}
    return Policy.from_config(config_of({"strategy": strategy, **named}), keep_ratio)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_decoder(
    num_layers: int = LAYERS,
    num_kv_heads: int = 2,
    seed: int = 0,
    max_positions: int = 4096,
    qkv_bias: bool = False,
) -> LlamaDecoder:
    """Random weights; SHAPE is its shape."""
    torch.manual_seed(seed)
    sizes = 97, WIDTH, 64, num_layers, 4, num_kv_heads
    config = DecoderConfig(*sizes, max_positions=max_positions, eos_ids=(), qkv_bias=qkv_bias)
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
    for name, parameter in decoder.named_parameters():
        parameter.copy_(
            1 + 0.1 * torch.randn_like(parameter)
            if "norm" in name
            else 0.25 * torch.randn_like(parameter)
        )
    return decoder


def make_prompt(spatial: int = 40, system: int = 3, text: int = 5, seed: int = 1) -> PromptSequence:
    """Random embeddings, places scattered in a room."""
    total, made = system + spatial + text, generator(seed)
    embeds = torch.randn(total, WIDTH, generator=made)
    xyz_m = 4 * torch.rand(spatial, 3, generator=made)
    return PromptSequence(embeds, torch.arange(total), (system, system + spatial), xyz_m)


# -- attention written out


def rotated(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    angle = positions[:, None].double() / theta ** (torch.arange(half, dtype=torch.float64) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)


def attention_of(
    decoder: LlamaDecoder,
    layer: int,
    hidden: torch.Tensor,
    positions: torch.Tensor,
    rope: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (H, T, T) and values (H, T, d) of a layer on its input, float64."""
    block, config = decoder.layers[layer], decoder.config

    # RMS norm.
    x = hidden * torch.rsqrt(hidden.square().mean(dim=1, keepdim=True) + config.rms_norm_eps)
    x = x * block.input_layernorm.weight.double()

    # Queries, keys and values (heads, T, d); each key and value head serves a group of queries.
    def heads(name: str) -> torch.Tensor:
        linear = getattr(block.self_attn, f"{name}_proj")
        bias = 0.0 if linear.bias is None else linear.bias.double()
        made = x @ linear.weight.double().T + bias
        return made.unflatten(1, (-1, config.head_dim)).transpose(0, 1)

    q, k, v = map(heads, "qkv")
    k, v = (t.repeat_interleave(config.num_heads // config.num_kv_heads, dim=0) for t in (k, v))
    if rope:
        q, k = rotated(q, positions, config.rope_theta), rotated(k, positions, config.rope_theta)

    # Causal softmax.
    scores = q @ k.transpose(1, 2) / math.sqrt(config.head_dim)
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, -math.inf), dim=-1), v


# -- planted attention: channels that mark planted tokens, the asker, system tokens, their readers

MARK, ASK, SYSTEM, READ = 0, 1, 2, 3


def planted_decoder(
    num_layers: int = LAYERS, sink: Sequence[float] = (), plant: float = 4.0
) -> LlamaDecoder:
    """Layers that pass tokens on unchanged and attend as planted.

    The asker attends to marked tokens, in layer i with strength `plant`; readers to system tokens
    with strength sink[i]. The rotary pairs used turn by less than 1e-2 rad.
    """
    config = DecoderConfig(97, WIDTH, 64, num_layers, 2, 2, rope_theta=1e6, eos_ids=())
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
    torch.manual_seed(0)

    # Everything is zero but the embedding and the head.
    for name, parameter in decoder.named_parameters():
        if "norm" not in name:
            parameter.copy_(
                torch.randn_like(parameter) if "embed" in name or "head" in name else 0 * parameter
            )

    # Both heads attend along the slowest rotary pairs.
    for index, layer in enumerate(decoder.layers):
        for head in range(2):
            attention, first = layer.self_attn, head * 16
            attention.q_proj.weight[first + 7, ASK] = plant
            attention.k_proj.weight[first + 7, MARK] = 1.0
            attention.q_proj.weight[first + 6, READ] = sink[index] if len(sink) else 0.0
            attention.k_proj.weight[first + 6, SYSTEM] = 1.0
    return decoder


def planted_prompt(
    spatial: int, planted: Sequence[int], system: int = 3, text: int = 5, seed: int = 2
) -> PromptSequence:
    """Noise of which the given spatial tokens are marked; the last token asks."""
    total = system + spatial + text
    embeds = torch.randn(total, WIDTH, generator=generator(seed))
    embeds[:, :4] = 0.0
    embeds[:system, SYSTEM] = 4.0
    embeds[system:, READ] = 2.0
    embeds[[system + index for index in planted], MARK] = 4.0
    embeds[-1, ASK] = 4.0
    return PromptSequence(embeds, torch.arange(total), (system, system + spatial))


# -- scenes before the language model


def scene_3d(count: int = 200, seed: int = 3, channels: int = 24) -> Candidates:
    """Tokens scattered in a room of 4 x 3 x 2 m, in the order that the model has them.

    Features vary smoothly in space.
    """
    made = generator(seed)
    xyz = torch.rand(count, 3, generator=made) * torch.tensor([4.0, 3.0, 2.0])
    xyz = xyz[torch.argsort(xyz[:, 0])]
    features = torch.sin(xyz @ torch.randn(3, channels, generator=made)) + 0.3 * torch.randn(
        count, channels, generator=made
    )
    patches = torch.randint(1, 9, (count,), generator=made)
    return Candidates(features, xyz, patches, 0.2, torch.rand(count, generator=made))


def scene_2d(side: int = 12, seed: int = 4, channels: int = 24) -> Candidates:
    """The patches of one image."""
    made, count = generator(seed), side * side
    features = torch.randn(count, channels, generator=made)
    ones = torch.ones(count, dtype=torch.int64)
    return Candidates(features, patch_grid(count), ones, 1.0, torch.rand(count, generator=made))


# -- information


def study_masses(num_layers: int = 32) -> list[Masses]:
    """Masses shaped like the paper's figure 2B: S_self .70 -> .16, S_sp .38 -> .08.

    S_ss = 1 - S_self. The shape was fitted so that INF and I are those the study of the algorithm
    tabulates, within rounding.
    """
    u = np.linspace(0.0, 1.0, num_layers)

    def from_1_to_0(values: Curve) -> Curve:
        return (values - values[-1]) / (values[0] - values[-1])

    falling = 0.723 * from_1_to_0(np.exp(-5.7403 * u)) + 0.277 * (1.0 - u) ** 1.9429
    S_self = 0.1616 + (0.6964 - 0.1616) * falling
    S_sp = 0.0845 + (0.385 - 0.0845) * from_1_to_0(1.0 / (1.0 + np.exp(4.9482 * (u - 0.2339))))
    return [Masses(float(a), float(b), 1.0 - float(a)) for a, b in zip(S_self, S_sp, strict=True)]


def write_curve(path: Path, information: Sequence[float]) -> Path:
    """A calibration file whose masses give this information curve (0..1) by default weights.

    S_self is constant, so INF follows exp(0.3 S_sp + 0.35) alone, and S_sp is its inverse.
    """
    curve = tuple(map(float, information))
    low, high = math.exp(0.35), math.exp(0.65)
    masses = tuple(
        Masses(0.5, (math.log(low + (high - low) * value) - 0.35) / 0.3, 0.5) for value in curve
    )
    budget = {"mode": "mean", "value": 0.41}
    return write_calibration(
        path,
        Calibration(
            "tiny", "", curve, curve, masses, curve, {"alpha": 0.8}, budget, 0.41, samples=1
        ),
    )


# -- trained pooling


def write_pooling(path: Path, width: int, hidden: int = 5, seed: int = 9) -> Path:
    """A file of `condensed_grid` with random weights."""
    from safetensors.torch import save_file

    made = generator(seed)
    tensors = {
        "in.weight": torch.randn(hidden, width, generator=made),
        "in.bias": torch.randn(hidden, generator=made),
        "out.weight": torch.randn(1, hidden, generator=made),
    }
    save_file(tensors, path)
    return path
