"""Figure 5: how much of the attention that answers pay falls on how many spatial tokens.

The paper's claim is that over 60 % of the spatial tokens contribute less than 5 % to the final
predictions; it does not say what is counted. Here it is attention, head mean, by two kinds of
query: the last prompt token, by which FastV, PyramidDrop and AdaToken-3D rank, and all tokens that
predict one of the answer (the last prompt token among them). A token's share is its attention over
that of all spatial tokens, per layer and of the mean over layers; then question by question, or
with the attention averaged over all questions about a scene first. Shares are means over scenes,
intervals draw scenes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ada3d_ros.engine.layer_walk import inspect_layers
from ada3d_ros.lab.analysis.contribution import Array, Progress
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.evaluation.intervals import DRAWS, percentiles, room_draws
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence

LEAST_SHARE = 0.6  # of the tokens, the least attended ones
SMALL_SHARE = 0.05  # of what all of them get
GRID = tuple(round(step / 20, 2) for step in range(21))  # shares of the tokens, of the curve
QUERIES = ("last", "answer")
MEASURES = ("mass", "least", "below_small", "each_below_small", "each_below_small_of_most")


@torch.inference_mode()
def attention_on_tokens(
    decoder: LlamaDecoder, prompt: PromptSequence, answer: torch.Tensor
) -> Array:
    """Attention on every spatial token with a place (QUERIES, L, N) float64, means over heads and
    queries.

    answer (A, D): embeddings of the answer; of none, both kinds of query are the last prompt token.
    """
    length, (start, stop), among = len(prompt.embeds), prompt.spatial_span, rows_of(prompt)
    device, total = prompt.embeds.device, length + len(answer)
    tail = prompt.positions[-1] + 1 + torch.arange(len(answer), device=device)
    sequence = PromptSequence(
        torch.cat((prompt.embeds, answer.to(prompt.embeds.dtype))),
        torch.cat((prompt.positions, tail)),
        (start, stop),
    )
    rows = torch.arange(length - 1, total, device=device)
    future = torch.arange(total, device=device) > rows[:, None]

    def inspect(q: torch.Tensor, k: torch.Tensor) -> Array:
        heads, count, width = q.shape
        grouped = (q * width**-0.5).reshape(len(k), -1, width)
        scores = (grouped @ k.transpose(1, 2)).reshape(heads, count, total)
        shares = torch.softmax(scores.float().masked_fill(future, -torch.inf), dim=-1).mean(dim=0)
        spatial = shares[:, start:stop].double()
        spatial = spatial if among.plain else spatial[:, among.placed]
        found: Array = torch.stack((spatial[0], spatial.mean(dim=0))).cpu().numpy()
        return found

    return np.stack(inspect_layers(decoder, sequence, rows, inspect), axis=1)


def with_mean(attention: Array) -> Array:
    """(..., L, N) with the mean over layers as one more layer: (..., L + 1, N)."""
    return np.concatenate((attention, attention.mean(axis=-2, keepdims=True)), axis=-2)


def measures_of(attention: Array) -> dict[str, Array]:
    """Of attention (..., N) on N tokens, per entry of MEASURES (...).

    mass: all of it; least: share of it on the LEAST_SHARE least attended tokens (rounded down);
    below_small: share of the tokens, least attended first, that together get less than SMALL_SHARE;
    each_below_small: share of the tokens that alone get less than SMALL_SHARE of all, or
    (..._of_most) less than SMALL_SHARE of what the most attended one gets.
    """
    tokens = attention.shape[-1]
    mass = attention.sum(axis=-1)
    shares = np.sort(attention, axis=-1) / mass[..., None]
    cumulative = shares.cumsum(axis=-1)
    least = int(LEAST_SHARE * tokens)
    return {
        "mass": mass,
        "least": cumulative[..., least - 1] if least else np.zeros_like(mass),
        "below_small": (cumulative < SMALL_SHARE).mean(axis=-1),
        "each_below_small": (shares < SMALL_SHARE).mean(axis=-1),
        "each_below_small_of_most": (shares < SMALL_SHARE * shares[..., -1:]).mean(axis=-1),
    }


def curve_of(attention: Array) -> Array:
    """Of attention (..., N): the share of it on the least attended GRID of the tokens (..., 21)."""
    shares = np.sort(attention, axis=-1) / attention.sum(axis=-1, keepdims=True)
    cumulative = np.concatenate((np.zeros_like(shares[..., :1]), shares.cumsum(axis=-1)), axis=-1)
    return cumulative[..., [int(share * attention.shape[-1]) for share in GRID]]


def measure_concentration(
    decoder: LlamaDecoder,
    prompts: Sequence[PromptSequence],
    answers: Sequence[torch.Tensor],
    scenes: Sequence[int],
    progress: Progress,
) -> dict[str, Any]:
    """MEASURES and curves over all prompts; answers: their embeddings (A, D); scenes: of each
    prompt, 0 to S - 1, in ascending order.
    """
    each: list[list[dict[str, Array]]] = []
    together: list[dict[str, Array]] = []
    curves: list[Array] = []
    for scene in range(max(scenes) + 1):
        chosen = [i for i, number in enumerate(scenes) if number == scene]
        progress(f"attention on each token, scene {scene + 1} of {max(scenes) + 1}")
        found = [with_mean(attention_on_tokens(decoder, prompts[i], answers[i])) for i in chosen]
        each.append([measures_of(attention) for attention in found])
        together.append(measures_of(np.mean(found, axis=0)))
        curves.append(np.mean([curve_of(attention) for attention in found], axis=0))

    # (S, QUERIES, L + 1) of each measure; every scene counts the same.
    by_question = {
        name: np.array([np.mean([m[name] for m in asked], axis=0) for asked in each])
        for name in MEASURES
    }
    of_scene = {name: np.array([m[name] for m in together]) for name in MEASURES}
    return plain(
        {
            "n": len(prompts),
            "scenes": len(together),
            "least_share": LEAST_SHARE,
            "small_share": SMALL_SHARE,
            "layers": [*range(1, decoder.config.num_layers + 1), "mean"],
            "intervals": f"95 %, bootstrap over scenes, {DRAWS} draws",
            "each_question": _by_query(by_question),
            "all_questions_of_a_scene": _by_query(of_scene),
            "curve": {
                "tokens": GRID,
                **{query: np.mean(curves, axis=0)[i] for i, query in enumerate(QUERIES)},
            },
        }
    )


def _by_query(values: dict[str, Array]) -> dict[str, Any]:
    """Mean and interval per kind of query, measure and layer; values (S, QUERIES, L + 1) each. NaN
    for the intervals of a single scene.
    """
    draws = room_draws(len(values["mass"]))  # (B, S)
    result: dict[str, Any] = {}
    for i, query in enumerate(QUERIES):
        result[query] = {}
        for name, samples in values.items():
            drawn = draws @ samples[:, i] / draws.shape[1]  # (B, L + 1)
            few = len(samples) < 2
            intervals = [(np.nan, np.nan) if few else percentiles(column) for column in drawn.T]
            result[query][name] = {"mean": samples[:, i].mean(axis=0), "interval": intervals}
    return result
