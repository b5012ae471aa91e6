"""A decoder of three layers with random weights, and prefills of all or less of one prompt."""

from __future__ import annotations

import dataclasses

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import PromptSequence


def make_decoder(
    num_kv_heads: int = 2, eos_ids: tuple[int, ...] = (96,), qkv_bias: bool = False
) -> LlamaDecoder:
    torch.manual_seed(0)
    sizes = 97, 32, 64, 3, 4, num_kv_heads
    decoder = LlamaDecoder(DecoderConfig(*sizes, eos_ids=eos_ids, qkv_bias=qkv_bias))
    decoder.requires_grad_(False).eval()
    for name, parameter in decoder.named_parameters():
        parameter.copy_(
            1 + 0.1 * torch.randn_like(parameter)
            if "norm" in name
            else 0.2 * torch.randn_like(parameter)
        )
    return decoder


def make_prompt(decoder: LlamaDecoder) -> PromptSequence:
    embeds = torch.randn(20, 32, generator=torch.Generator().manual_seed(1)).to(
        decoder.device, decoder.dtype
    )
    return PromptSequence(embeds, torch.arange(20, device=decoder.device), (3, 12))


@torch.inference_mode()
def pruned(decoder: LlamaDecoder, compact: bool = False, reserve: int = 16) -> PrefillOutput:
    """Layers that hold 20, 14 and 9 tokens; compact: positions counted anew in each layer."""
    whole, prompt = prefill(decoder, make_prompt(decoder)), make_prompt(decoder)
    cache, hidden, positions = KVCache(3, reserve), prompt.embeds[None], prompt.positions
    lengths = (20, 14, 9)
    for layer, count in enumerate(lengths):
        drop = hidden.shape[1] - count
        hidden = torch.cat((hidden[:, :3], hidden[:, 3 + drop :]), dim=1)
        positions = torch.cat((positions[:3], positions[3 + drop :]))
        if compact:
            positions = torch.arange(count, device=decoder.device)
        hidden = decoder.run_layers(layer, layer + 1, hidden, positions, cache)
    following = lengths if compact else (20, 20, 20)
    return dataclasses.replace(
        whole, cache=cache, logits=decoder.logits(hidden[0, -1]), next_positions=following
    )


CASES = {
    "whole": lambda decoder: prefill(decoder, make_prompt(decoder)),
    "pruned": pruned,
    "compact": lambda decoder: pruned(decoder, compact=True),
}
