"""The SigLIP vision tower up to the selected layer: patch features of views.

From transformers' SigLIP blocks, under their names. There is no class token, no norm before the
blocks, and what follows the selected hidden state does not exist here: the reference deletes the
last block and never applies the last norm.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.vision import MAX_VIEWS_PER_BATCH


class PatchEmbeddings(nn.Module):
    """Pixels (V, 3, S, S) to patch tokens (V, P, C).

    Names as transformers has them, without its buffer of position ids: a model that is filled from
    the meta device has parameters alone.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position_embedding = nn.Embedding(config.patches_per_side**2, width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.patch_embedding(pixels)
        return patches.flatten(2).transpose(1, 2) + self.position_embedding.weight


class SiglipTower(nn.Module):
    """SigLIP blocks 1 to num_run_layers; the output is transformers' hidden_states[select_layer].

    Pixels beyond the last whole patch, at the right and at the bottom, are not seen.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        siglip = SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_run_layers,
            num_attention_heads=config.num_attention_heads,
            patch_size=config.patch_size,
            image_size=config.image_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
        )
        siglip._attn_implementation = "sdpa"
        self.embeddings = PatchEmbeddings(config)
        # Declared for SiglipConfig, reads fields that both have.
        self.encoder = SiglipEncoder(siglip)  # type: ignore[arg-type]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch features (V, P, C), row-major, in the tower's dtype, of pixels (V, 3, S, S).

        The pixels are normalised with the tower's mean and standard deviation.
        """
        pixels = pixels.to(self.embeddings.patch_embedding.weight)
        return torch.cat([self._encode(batch) for batch in pixels.split(MAX_VIEWS_PER_BATCH)])

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(pixels)
        return cast(torch.Tensor, self.encoder(inputs_embeds=hidden).last_hidden_state)
