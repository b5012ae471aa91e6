"""A small model with random weights that points before it speaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ada3d_ros.model.config import DecoderConfig, VisionConfig
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint

POINT, EGOCENTRIC = 3, 4  # the first control pieces of its tokenizer
POINTING = dataclasses.replace(
    TINY_CONFIG,
    decoder=DecoderConfig(512, 64, 96, 4, 4, 2),
    vision=VisionConfig(32, 48, 3, 2, image_size=56),
    point_id=POINT,
    egocentric_point_id=EGOCENTRIC,
)


def random_head(width: int, seed: int = 5) -> GroundingHead:
    """Points at few tokens, differently for each query; boxes of different sizes."""
    torch.manual_seed(seed)
    head = GroundingHead(width).requires_grad_(False).eval()
    for name, parameter in head.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * (3 if "_proj.weight" in name else 0.5))
        if parameter.ndim > 1:
            parameter.mul_(parameter.shape[1] ** -0.5)
    return head


def write_pointing_checkpoint(folder: Path, strength: float = 6.0, head: bool = True) -> Path:
    """strength: how much more the logits of the tokens that point vary than those of others."""
    write_random_checkpoint(folder, seed=0, config=POINTING)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][[POINT, EGOCENTRIC]] *= strength
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if head:
        save_grounding_head(random_head(POINTING.decoder.hidden_size), folder, 0.0)
    return folder
