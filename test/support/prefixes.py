"""Small cached scenes, and questions about them."""

from __future__ import annotations

from typing import Any

import torch

from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import SHAPE, policy_of
from test.support.decoders import make_decoder as wild_decoder

N, SYSTEM, TEXT = 40, 3, 5


def make_decoder(num_kv_heads: int = 2, seed: int = 0) -> LlamaDecoder:
    """Weights of half the usual size, which amplify rounding less.

    With the usual ones the full prefill itself is 3e-6 from float64.
    """
    decoder = wild_decoder(num_kv_heads=num_kv_heads, seed=seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" not in name:
                parameter.mul_(0.5)
    return decoder


def tokens_of(prompt: PromptSequence, count: int = N) -> SpatialTokens:
    start = prompt.spatial_span[0]
    rows = prompt.embeds[start : start + count]
    xyz_m = torch.randn(count, 3) if prompt.xyz_m is None else prompt.xyz_m[:count]
    patches = (~xyz_m.isnan().any(dim=1)).long()  # of newlines none
    return SpatialTokens(rows, xyz_m, patches, 0.2)


def prefix_of(
    decoder: LlamaDecoder, prompt: PromptSequence, chunk: int = 16, **options: Any
) -> ScenePrefix:
    start, stop = prompt.spatial_span
    part = PromptSequence(prompt.embeds[:stop], prompt.positions[:stop], (start, stop))
    tokens = tokens_of(prompt, stop - start)
    chosen = ChosenTokens(tokens, torch.arange(stop - start), stop - start)
    context = SceneContext(SceneSnapshot(), tokens, chosen, prompt.embeds[start:stop])
    prefix = ScenePrefix(decoder, part, context, PrefixOptions(chunk, **options))
    while prefix.step():
        pass
    return prefix


def question_of(prompt: PromptSequence) -> torch.Tensor:
    return prompt.embeds[prompt.spatial_span[1] :]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())


def pruner_of(strategy: str, ratio: float = 0.5, **flat: Any) -> LayerPruner:
    pruner = policy_of(strategy, ratio, n_min=2, **flat).pruner(SHAPE, N, N, SYSTEM + TEXT)
    assert pruner is not None
    return pruner
