"""The CLIP vision tower up to the selected layer: patch features of views.

Built from transformers' CLIP blocks. Blocks after the selected hidden state and the post-LayerNorm
do not exist here, since they never influence a feature. Parameter names are those of transformers'
vision model.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoder

from ada3d_ros.model.config import VisionConfig

# Bounds the activations: 8 views of ViT-L/14-336 take about 0.3 GB in 16 bits.
MAX_VIEWS_PER_BATCH = 8


class PatchEmbeddings(nn.Module):
    """Pixels (V, 3, S, S) to patch tokens with the class token in front (V, 1 + P, C)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(
            3, width, config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(config.patches_per_side**2 + 1, width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (V, P, C)
        classes = self.class_embedding.expand(pixels.shape[0], 1, -1)
        return torch.cat((classes, patches), dim=1) + self.position_embedding.weight


class VisionTower(nn.Module):
    """CLIP blocks 1 to num_run_layers.

    The output is transformers' hidden_states[select_layer] without the class token.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        clip = CLIPVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_run_layers,
            num_attention_heads=config.num_attention_heads,
            patch_size=config.patch_size,
            image_size=config.image_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
        )
        clip._attn_implementation = "sdpa"
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # Declared for CLIPConfig, reads fields that both have.
        self.encoder = CLIPEncoder(clip)  # type: ignore[arg-type]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch features (V, P, C), row-major, in the tower's dtype, of pixels (V, 3, S, S).

        The pixels are normalised with CLIP's mean and standard deviation.
        """
        pixels = pixels.to(self.pre_layrnorm.weight)
        return torch.cat([self._encode(batch) for batch in pixels.split(MAX_VIEWS_PER_BATCH)])

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.pre_layrnorm(self.embeddings(pixels))
        return cast(torch.Tensor, self.encoder(inputs_embeds=hidden).last_hidden_state[:, 1:])
