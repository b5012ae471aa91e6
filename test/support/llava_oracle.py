"""transformers' own LLaVA-1.5 and LLaVA-NeXT on a folder in its layout: logits and greedy ids;
images to ask them about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from test.support.checkpoints import config_of

EOS_ID = 2  # the published folders say so in generation_config.json
Rgb = npt.NDArray[np.uint8]


def drawn(height: int, width: int) -> Rgb:
    """An image of noise on a slope of colours."""
    noise = np.random.default_rng(height * 10_000 + width).integers(0, 64, (height, width, 3))
    slope = np.linspace(0, 190, height)[:, None] + np.linspace(0, 1, width)[None]
    return (noise + slope[..., None]).astype(np.uint8)


class Oracle:
    """The library's model and image processor, as its own classes read the folder."""

    def __init__(self, folder: Path, pads: bool = False) -> None:
        self.data = config_of(folder)
        side = self.data["vision_config"]["image_size"]
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        self.is_next = self.data["model_type"] == "llava_next"
        if self.is_next:
            sizes["image_grid_pinpoints"] = self.data["image_grid_pinpoints"]
            of_class: Any = LlavaNextForConditionalGeneration
            self.processor: Any = LlavaNextImageProcessorPil(**sizes)
        else:
            of_class = LlavaForConditionalGeneration
            kind = LlavaImageProcessorPil if pads else CLIPImageProcessorPil
            self.processor = kind(**sizes, **({"do_pad": True} if pads else {}))
        self.model = of_class.from_pretrained(folder, dtype=torch.float32).eval()
        # No file holds the buffers, and after other tests the library leaves them unset.
        for name, buffer in of_class(self.model.config).named_buffers():
            self.model.get_buffer(name).copy_(buffer)

    def inputs(self, ids: Sequence[int], image_at: int, count: int, rgb: Rgb) -> dict[str, Any]:
        """What the model is called with: `count` image tokens before ids[image_at]."""
        image_id = self.data["image_token_index"]
        tokens = torch.tensor([[*ids[:image_at], *[image_id] * count, *ids[image_at:]]])
        kwargs = {"return_tensors": "pt", "input_data_format": "channels_last"}
        return {"input_ids": tokens, **self.processor(images=rgb, **kwargs)}

    @torch.no_grad()
    def logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """(T, vocab) of all positions."""
        logits: torch.Tensor = self.model(**inputs).logits[0]
        return logits

    @torch.no_grad()
    def greedy_ids(self, inputs: dict[str, Any], count: int) -> list[int]:
        """Generated ids before the end-of-sequence id, at most `count`."""
        mask = torch.ones_like(inputs["input_ids"])
        limits = {"max_new_tokens": count, "pad_token_id": 0, "eos_token_id": EOS_ID}
        output = self.model.generate(**inputs, attention_mask=mask, do_sample=False, **limits)
        new: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return new[:-1] if new[-1] == EOS_ID else new
