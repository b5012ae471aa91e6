"""Measuring information contribution: one unpruned pass over a prompt, three attention masses per
layer.
"""

from __future__ import annotations

import math

import torch

from ada3d_ros.engine.layer_walk import inspect_layers
from ada3d_ros.errors import ModelError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.information import Masses, layer_masses, query_rows
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence


def measure_information(
    decoder: LlamaDecoder, prompt: PromptSequence, stride: int = 1
) -> list[Masses]:
    """Masses of every layer. Each layer's queries and keys are made once, for the measurement and
    the layer.

    stride: every n-th spatial token with a place is a query. Raises InvalidRequestError without
    spatial tokens or text after them, ModelError where attention is not finite.
    """
    span, among = prompt.spatial_span, rows_of(prompt)
    index = query_rows(prompt.embeds.shape[0], span, stride, prompt.embeds.device, among)

    def inspect(q: torch.Tensor, k: torch.Tensor) -> Masses:
        return layer_masses(q, k, index, span, among)

    # One pass over all layers, with nothing dropped.
    found = inspect_layers(decoder, prompt, index, inspect, many=True)
    bad = next(
        (i for i, m in enumerate(found) if not math.isfinite(m.S_self + m.S_sp + m.S_ss)), None
    )
    if bad is not None:
        raise ModelError(
            f"the attention of layer {bad + 1} is not finite: the weights are damaged, or float16"
            " overflowed (use model.precision bf16 or fp32)."
        )
    return found
