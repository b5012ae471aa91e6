"""Pruned prefill written out, in float64: whole attention matrices, nothing reused."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.baselines.logistic import LogisticPruner
from ada3d_ros.pruning.schedule import RetentionSchedule, logistic
from ada3d_ros.pruning.strategy import LayerPruner
from test.support.decoders import attention_of


def closed(kept: Collection[int], newlines: Collection[int]) -> list[int]:
    """The kept tokens with a place, and the newlines whose rows they are in, ascending: a newline
    closes the run of tokens since the one before it.
    """
    placed = [token for token in kept if token not in newlines]
    rows = {sum(newline < token for newline in newlines) for token in placed}
    left = [n for n in newlines if sum(other < n for other in newlines) in rows]
    return sorted([*placed, *left])


def normed(decoder: LlamaDecoder, hidden: torch.Tensor) -> torch.Tensor:
    """RMS norm without its weight."""
    return hidden * torch.rsqrt(
        hidden.square().mean(dim=1, keepdim=True) + decoder.config.rms_norm_eps
    )


def layer_output(
    decoder: LlamaDecoder, layer: int, hidden: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """hidden (T, D) after the layer: attention, then the gated MLP, each added to its input."""
    block = decoder.layers[layer]
    attention, values = attention_of(decoder, layer, hidden, positions)
    mixed = (attention @ values).transpose(0, 1).flatten(1)
    hidden = hidden + mixed @ block.self_attn.o_proj.weight.double().T

    y = normed(decoder, hidden) * block.post_attention_layernorm.weight.double()
    gate, up = y @ block.mlp.gate_proj.weight.double().T, y @ block.mlp.up_proj.weight.double().T
    return hidden + (gate / (1 + torch.exp(-gate)) * up) @ block.mlp.down_proj.weight.double().T


@dataclass
class SlowPrefill:
    """kept: the spatial tokens that each layer sees; logits (T, vocab) of the tokens left."""

    kept: list[list[int]]
    logits: torch.Tensor


def slow_prefill(
    decoder: LlamaDecoder,
    embeds: torch.Tensor,
    span: tuple[int, int],
    pruner: LayerPruner,
    given: Sequence[Sequence[int]] = (),
    newlines: Collection[int] = (),
) -> SlowPrefill:
    """Every layer anew. given: the spatial tokens each layer sees, instead of ranking them;
    newlines: those of them that close rows.
    """
    hidden, positions = embeds.double(), torch.arange(len(embeds))
    alive = list(range(span[1] - span[0]))
    counts, kept, attention_before = None, [], None
    for layer in range(decoder.config.num_layers):
        start, stop = span[0], span[0] + len(alive)

        # How many stay: as given, as the pruner counts, or all.
        if layer == (pruner.probe_layer or 0) and not given:
            columns = [start + i for i, token in enumerate(alive) if token not in newlines]
            counts = slow_counts(decoder, layer, hidden, positions, (columns, stop), pruner)
        ranked = [i for i, token in enumerate(alive) if given or token not in newlines]
        wanted = len(given[layer]) if given else counts[layer] if counts else len(ranked)

        # Which ones: the highest scores, the first of equal ones; of newlines those of their rows.
        if wanted < len(ranked):
            if given:
                chosen = [alive.index(token) for token in given[layer]]
            else:
                here, _ = attention_of(decoder, layer, hidden, positions, pruner.rope)
                attention = attention_before if pruner.rank_lag else here
                assert attention is not None
                scores = attention.mean(dim=0)[-1, start:stop].tolist()
                best = sorted(ranked, key=lambda i: (-scores[i], i))[:wanted]
                chosen = [alive.index(t) for t in closed([alive[i] for i in best], newlines)]
            rows = [*range(start), *(start + i for i in chosen), *range(stop, len(hidden))]
            hidden, positions, alive = hidden[rows], positions[rows], [alive[i] for i in chosen]
            if pruner.positions == "compact":
                positions = torch.arange(len(rows))
        kept.append(alive)

        # The layer itself.
        if pruner.rank_lag:
            attention_before, _ = attention_of(decoder, layer, hidden, positions)
        hidden = layer_output(decoder, layer, hidden, positions)

    x = normed(decoder, hidden) * decoder.norm.weight.double()
    return SlowPrefill(kept, x @ decoder.lm_head.weight.double().T)


def slow_counts(
    decoder: LlamaDecoder,
    layer: int,
    hidden: torch.Tensor,
    positions: torch.Tensor,
    spatial: tuple[Sequence[int], int],
    p: LayerPruner,
) -> tuple[int, ...]:
    """How many spatial tokens each layer keeps, where the pruner knows it at this layer; spatial:
    the rows of those that are ranked, and the first row behind the scene.
    """
    ranked, stop = spatial
    if not isinstance(p, LogisticPruner):
        return p.counts(len(ranked), None)

    # Mutual information of who asks and what is attended to decides the slope.
    attention, _ = attention_of(decoder, layer, hidden, positions)
    joint = attention.mean(dim=0)[stop:, list(ranked)]
    joint = joint / joint.sum()
    apart = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    information = float((joint * (joint / apart).log()).sum()) / math.log(min(joint.shape))

    slope = p.slope_min + (p.slope_max - p.slope_min) * information
    curve = logistic(decoder.config.num_layers, slope, p.midpoint, p.keep_ratio)
    return RetentionSchedule(tuple(curve)).counts(len(ranked), p.n_min)
