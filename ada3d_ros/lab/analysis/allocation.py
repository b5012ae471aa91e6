"""Figure 2: how much attention each kind of token pays to each kind, layer by layer.

The answer runs after the prompt in one pass: the one that the unpruned model gave, or the true one
with its places (asked_rooms.py). Masses per key range, no T x T matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ada3d_ros.engine.layer_walk import inspect_layers
from ada3d_ros.lab.analysis.contribution import Array, Progress
from ada3d_ros.lab.benchmarks.spread import spread
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.information import keys_before, query_rows, range_masses
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence

QUERY_KINDS = ("spatial", "prompt", "answer")
KEY_KINDS = ("system", "spatial", "prompt", "answer")


@torch.inference_mode()
def attention_allocation(
    decoder: LlamaDecoder, prompt: PromptSequence, answer: torch.Tensor, stride: int = 1
) -> Array:
    """Shares of attention (query kinds, key kinds, L) float64; answer (A, D): its embeddings.

    Means over heads and over the queries of a kind; each query kind's shares sum to 1. NaN for the
    answer where there is none; newlines count with the system text and do not ask. stride: every
    n-th spatial token is a query. Raises
    InvalidRequestError without spatial tokens or text after them.
    """
    # Prompt and answer as one sequence, with the borders of each kind of token.
    start, stop = prompt.spatial_span
    length, device = prompt.embeds.shape[0], prompt.embeds.device
    hidden = torch.cat((prompt.embeds, answer.to(prompt.embeds.dtype)))
    tail = prompt.positions[-1] + 1 + torch.arange(len(answer), device=device)
    positions, total = torch.cat((prompt.positions, tail)), length + len(answer)
    among = rows_of(prompt)
    rows = query_rows(total, (start, stop), stride, device, among)
    kinds = (rows < stop, (rows >= stop) & (rows < length), rows >= length)
    ranges = {
        **keys_before((start, stop), total, among),
        "prompt": (stop, length),
        "answer": (length, total),
    }
    shares = np.full((len(QUERY_KINDS), len(KEY_KINDS), decoder.config.num_layers), np.nan)

    def inspect(q: torch.Tensor, k: torch.Tensor) -> dict[str, torch.Tensor]:
        return range_masses(q, k, rows, ranges)

    # One pass over prompt and answer; a mean of nothing is NaN.
    sequence = PromptSequence(hidden, positions, (start, stop))
    for layer, found in enumerate(inspect_layers(decoder, sequence, rows, inspect)):
        for row, chosen in enumerate(kinds):
            for column, key in enumerate(KEY_KINDS):
                shares[row, column, layer] = float(found[key][chosen].double().mean())
    return shares


def measure_allocation(
    decoder: LlamaDecoder,
    prompts: Sequence[PromptSequence],
    answers: Sequence[torch.Tensor],
    stride: int,
    progress: Progress,
) -> dict[str, Any]:
    """Allocation over all prompts and their answers, (A, D) embeddings each: query kind -> key kind
    -> mean and spread per layer.

    With how many tokens each kind has, without which a share says little.
    """
    # Prompt by prompt, then stacked: (n, query, key, L).
    samples = []
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        progress(f"attention allocation, prompt {index + 1} of {len(prompts)}")
        samples.append(attention_allocation(decoder, prompt, answer, stride))
    stacked = np.stack(samples)

    # Tokens of each kind, in the order of KEY_KINDS.
    counts = []
    for prompt, answer in zip(prompts, answers, strict=True):
        (start, stop), rows = prompt.spatial_span, rows_of(prompt)
        behind = len(prompt.embeds) - stop
        counts.append((start + rows.num_newlines, rows.num_placed, behind, len(answer)))
    return {
        "n": len(prompts),
        "n_with_answer": sum(1 for answer in answers if len(answer)),
        "stride": stride,
        "layers": list(range(1, decoder.config.num_layers + 1)),
        "mean_tokens": dict(zip(KEY_KINDS, np.mean(counts, axis=0).tolist(), strict=True)),
        "attention": {
            query: {key: spread(stacked[:, row, column]) for column, key in enumerate(KEY_KINDS)}
            for row, query in enumerate(QUERY_KINDS)
        },
    }
