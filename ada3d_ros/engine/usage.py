"""Counts and costs of one prompt, from what the layers really held."""

from __future__ import annotations

import itertools

import numpy as np

from ada3d_ros.engine.information import decoder_shape
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.token_selection import ChosenTokens
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import RankingQueries, cost_of, question_macs
from ada3d_ros.pruning.coverage import cell_coverage
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.types import NAN, PromptSequence, SpatialTokens, TokenUsage


def token_usage(
    decoder: LlamaDecoder,
    prompt: PromptSequence,
    tokens: SpatialTokens,
    chosen: ChosenTokens,
    prefilled: PrefillOutput,
    pruner: LayerPruner | None,
    in_room: bool,
    cached: bool = False,
) -> TokenUsage:
    """Of all `tokens`, those chosen to enter the prompt, and those each layer kept; what the
    request asked and what was generated is the caller's to add. in_room: whether tokens have places
    (an image's patches have none). cached: only what is behind the spatial tokens passed the
    layers, so prefill_flops and rank_flops are of that.
    """
    counts, behind = prefilled.counts, prompt.embeds.shape[0] - prompt.spatial_span[1]
    ranking = pruner.ranking_queries(behind) if pruner is not None else RankingQueries()
    cost = cost_of(
        decoder_shape(decoder.config),
        counts,
        text=prompt.embeds.shape[0] - counts[0],
        element_size=prompt.embeds.element_size(),
        num_before_selection=chosen.num_before_selection,
        ranking=ranking,
    )
    shape, prefill_flops, rank_flops = (
        decoder_shape(decoder.config),
        cost.prefill_flops,
        cost.rank_flops,
    )
    if cached:
        prefill_flops = 2 * question_macs(
            shape, behind, [n + prompt.spatial_span[0] for n in counts]
        )
        drops = sum(after < before for before, after in itertools.pairwise(counts))
        queries = ranking.num_queries
        rank_flops = 2.0 * drops * queries * shape.hidden_size * prompt.embeds.shape[0]
    return TokenUsage(
        prompt=prompt.embeds.shape[0],
        spatial_total=chosen.num_before_selection,
        spatial_kept=counts[-1],
        keep_ratio_achieved=float(np.mean(counts)) / chosen.num_before_selection
        if chosen.num_before_selection
        else NAN,
        kv_bytes=cost.kv_bytes,
        full_kv_bytes=cost.unpruned_kv_bytes,
        prefill_flops=prefill_flops,
        full_prefill_flops=cost.unpruned_prefill_flops,
        rank_flops=rank_flops,
        decode_flops=cost.decode_flops,
        full_decode_flops=cost.unpruned_decode_flops,
        per_layer=counts,
        coverage=(
            cell_coverage(tokens.xyz_m, chosen.kept[prefilled.kept[-1]])
            if in_room and counts[-1]
            else NAN
        ),
    )
