"""Small decoders, prompts and cached scenes on a device."""

from __future__ import annotations

from typing import Any

import torch

from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import make_decoder, make_prompt

SPATIAL = 40


def decoder_on(device: str, num_layers: int) -> LlamaDecoder:
    """Prepared, as a loaded one is."""
    decoder = make_decoder(num_layers).to(device)
    decoder.prepare()
    return decoder


def prompt_on(device: str, spatial: int = SPATIAL) -> PromptSequence:
    """System tokens, spatial tokens, and a question."""
    made = make_prompt(spatial)
    assert made.xyz_m is not None
    moved = made.embeds.to(device), made.positions.to(device)
    return PromptSequence(*moved, made.spatial_span, made.xyz_m.to(device))


def tokens_of(prompt: PromptSequence) -> SpatialTokens:
    start, stop = prompt.spatial_span
    rows, xyz_m = prompt.embeds[start:stop], prompt.xyz_m
    assert xyz_m is not None
    ones = torch.ones(len(rows), dtype=torch.int64, device=rows.device)
    return SpatialTokens(rows, xyz_m, ones, 0.2)


def waiting_prefix(decoder: LlamaDecoder, prompt: PromptSequence, **options: Any) -> ScenePrefix:
    """The scene of a prompt, nothing of which has passed the layers."""
    stop, tokens = prompt.spatial_span[1], tokens_of(prompt)
    part = PromptSequence(prompt.embeds[:stop], prompt.positions[:stop], prompt.spatial_span)
    total = len(tokens.features)
    index = torch.arange(total, device=decoder.device)
    chosen = ChosenTokens(tokens, index, total)
    context = SceneContext(SceneSnapshot(), tokens, chosen, tokens.features)
    settings = PrefixOptions(**{"chunk_tokens": 16, **options})
    return ScenePrefix(decoder, part, context, settings)


def ready_prefix(decoder: LlamaDecoder, prompt: PromptSequence, **options: Any) -> ScenePrefix:
    """The same once all has passed."""
    prefix = waiting_prefix(decoder, prompt, **options)
    while prefix.step():
        pass
    return prefix


def question_of(prompt: PromptSequence) -> torch.Tensor:
    return prompt.embeds[prompt.spatial_span[1] :]
