"""Prefill: the prompt through all decoder layers, keys and values kept, logits of the last token only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.errors import ModelError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import NAN, PromptSequence


@dataclass(frozen=True, eq=False, slots=True)
class PrefillOutput:
    """What decode starts from.

    logits (vocab,) of the last prompt token; next_position: of the first generated token, every layer; kept: one (N_k,)
    int64 tensor per stage, ascending indices into the original N spatial tokens (without pruning one stage: all).
    """

    logits: torch.Tensor
    cache: KVCache
    next_position: int
    kept: tuple[torch.Tensor, ...]
    prefill_s: float = NAN
    rank_s: float = NAN


@torch.inference_mode()
def prefill(decoder: LlamaDecoder, prompt: PromptSequence, reserve: int = 256) -> PrefillOutput:
    """Runs `prompt` through all layers. reserve: tokens that decode may append before a buffer must grow.

    Raises ModelError where the logits are not finite, as after an overflow in float16.
    """
    start = time.perf_counter()
    num_layers = decoder.config.num_layers
    cache = KVCache(num_layers, reserve)
    hidden = decoder.run_layers(0, num_layers, prompt.embeds[None], prompt.positions, cache)  # (1, T, D)
    logits = decoder.logits(hidden[0, -1])
    if not bool(torch.isfinite(logits).all()):  # waits for the device
        raise ModelError(
            f"the model's output is not finite in {logits.dtype}: the weights are damaged, or float16 overflowed "
            "(use model.precision bf16 or fp32)."
        )
    first, stop = prompt.spatial_span
    return PrefillOutput(
        logits=logits,
        cache=cache,
        next_position=int(prompt.positions[-1]) + 1,
        kept=(torch.arange(stop - first, device=logits.device),),
        prefill_s=time.perf_counter() - start,
    )


def pad_batch(prompts: Sequence[PromptSequence], side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of several lengths as one batch: embeds (B, T, D), zero-padded, and key_mask (B, T) bool for `run_layers`."""
    rows = [prompt.embeds for prompt in prompts]
    embeds = pad_sequence(rows, batch_first=True, padding_side=side)
    ones = [torch.ones(row.shape[0], dtype=torch.bool, device=row.device) for row in rows]
    return embeds, pad_sequence(ones, batch_first=True, padding_side=side)
