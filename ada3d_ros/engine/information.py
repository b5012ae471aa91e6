"""Measuring information contribution: one unpruned pass over a prompt, three attention masses per
layer.
"""

from __future__ import annotations

import math

import torch

from ada3d_ros.errors import ModelError
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.information import Masses, layer_masses, query_rows
from ada3d_ros.types import PromptSequence


def decoder_shape(config: DecoderConfig) -> DecoderShape:
    """The sizes that pruning's cost model needs."""
    return DecoderShape(
        config.num_layers,
        config.hidden_size,
        config.num_kv_heads * config.head_dim,
        config.intermediate_size,
        config.vocab_size,
    )


@torch.inference_mode()
def measure_information(
    decoder: LlamaDecoder, prompt: PromptSequence, stride: int = 1
) -> list[Masses]:
    """Masses of every layer. Each layer's queries and keys are made once, for the measurement and
    the layer.

    stride: every n-th spatial token is a query. Raises InvalidRequestError without spatial tokens
    or text behind them, ModelError where attention is not finite.
    """
    hidden, span = prompt.embeds[None], prompt.spatial_span
    rows = query_rows(prompt.embeds.shape[0], span, stride, hidden.device)
    found, rope = [], decoder.rope(prompt.positions)
    for layer in range(decoder.config.num_layers):
        made = decoder.ranking_inputs(
            layer, decoder.start_layer(layer, hidden, with_queries=True), rope, rows
        )
        found.append(layer_masses(made.q[0], made.k[0], rows, span))
        hidden = decoder.run_layers(
            layer, layer + 1, hidden, prompt.positions, first=made.start, rope=rope
        )
    bad = next(
        (i for i, m in enumerate(found) if not math.isfinite(m.S_self + m.S_sp + m.S_ss)), None
    )
    if bad is not None:
        raise ModelError(
            f"the attention of layer {bad + 1} is not finite: the weights are damaged, or float16"
            " overflowed (use model.precision bf16 or fp32)."
        )
    return found
