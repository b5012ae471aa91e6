"""A question on a cached scene with a choice of its keys, written out in float64: scene tokens see
the whole scene, the question's see the text and what their layer kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.types import PromptSequence
from test.support.decoders import attention_of
from test.support.slow_engine import SlowPrefill, closed, normed, slow_counts


def slow_question(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    pruner: LayerPruner,
    given: Sequence[list[int]] = (),
    newlines: Collection[int] = (),
) -> SlowPrefill:
    """What each layer keeps for the question, and the logits (T, vocab). given: what each layer
    keeps, instead of ranking; newlines: which of the spatial tokens close rows.
    """
    hidden, positions, span = prompt.embeds.double(), prompt.positions, prompt.spatial_span
    total, lag = span[1] - span[0], pruner.rank_lag
    ranked = [i for i in range(total) if i not in newlines]
    counts: tuple[int, ...] = (len(ranked),) * decoder.config.num_layers
    order, kept, before = ranked, list[list[int]](), list[float]()
    for layer in range(decoder.config.num_layers):
        if layer == (pruner.probe_layer or 0):
            spatial = [span[0] + i for i in ranked], span[1]
            counts = slow_counts(decoder, layer, hidden, positions, spatial, pruner)
        scores = slow_scores(decoder, layer, hidden, prompt, pruner)
        if pruner.score == "random":  # a number for each of those that are ranked
            scores = [scores[ranked.index(i)] if i in ranked else 0.0 for i in range(total)]
        if layer in slow_rankings(counts):
            used = before if lag else scores
            order = sorted(ranked, key=lambda i: (-used[i], i))
        best = order[: counts[layer]]
        whole = counts[layer] == counts[0]  # before anything is selected
        stays = list(range(total)) if whole else closed(best, newlines)
        kept.append(given[layer] if given else stays)
        hidden = layer_output(decoder, layer, hidden, prompt, kept[-1])
        before = scores
    x = normed(decoder, hidden) * decoder.norm.weight.double()
    return SlowPrefill(kept, x @ decoder.lm_head.weight.double().T)


def slow_rankings(counts: tuple[int, ...]) -> list[int]:
    """All layers with fewer tokens than the one before, or three of them."""
    falls = [i for i in range(1, len(counts)) if counts[i] != counts[i - 1]]
    return (
        falls if len(falls) < 4 else [falls[0], falls[len(falls) // 3], falls[2 * len(falls) // 3]]
    )


def slow_scores(
    decoder: LlamaDecoder,
    layer: int,
    hidden: torch.Tensor,
    prompt: PromptSequence,
    pruner: LayerPruner,
) -> list[float]:
    """Of all spatial tokens, by the attention of this layer."""
    start, stop = prompt.spatial_span
    if pruner.score == "random":
        made = torch.Generator().manual_seed(1009 * pruner.seed + layer)
        return torch.rand(stop - start, generator=made).tolist()
    assert pruner.score == "softmax_mean"
    attention, _ = attention_of(decoder, layer, hidden, prompt.positions, pruner.rope)
    rows = attention.mean(dim=0)[stop:, start:stop]
    return (rows.amax(dim=0) if pruner.query == "all" else rows[-1]).tolist()


def layer_output(
    decoder: LlamaDecoder,
    layer: int,
    hidden: torch.Tensor,
    prompt: PromptSequence,
    kept: list[int],
) -> torch.Tensor:
    """hidden (T, D) after the layer."""
    block, (start, stop) = decoder.layers[layer], prompt.spatial_span
    attention, values = attention_of(decoder, layer, hidden, prompt.positions)
    gone = [start + i for i in range(stop - start) if i not in kept]
    attention[:, stop:, gone] = 0.0  # a softmax over the others
    attention = attention / attention.sum(dim=-1, keepdim=True)
    mixed = (attention @ values).transpose(0, 1).flatten(1)
    hidden = hidden + mixed @ block.self_attn.o_proj.weight.double().T

    y = normed(decoder, hidden) * block.post_attention_layernorm.weight.double()
    gate, up = y @ block.mlp.gate_proj.weight.double().T, y @ block.mlp.up_proj.weight.double().T
    return hidden + (gate / (1 + torch.exp(-gate)) * up) @ block.mlp.down_proj.weight.double().T
