"""Peak memory before a weight is read: every part in bytes, from the model's sizes and settings
alone.

Weights and cache are exact. Activations are counted along model/decoder.py and model/vision.py: the
tensors that are alive at the worst moment. Parts that are never alive together are still added, so
that a scene may be built while a question is answered.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import torch

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.model.checkpoint import build_meta_model, target_dtype
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.quantize import is_quantized, linear_bytes
from ada3d_ros.model.vision import MAX_VIEWS_PER_BATCH

CUDA_CONTEXT_BYTES = 600 * 2**20  # driver context, kernels and library workspaces of one process
DEFAULT_VIEWS = KeyframeConfig().max_views
FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by part. decoder_layers: as `model.weights` says; embeddings: of the tokens, with
    lm_head and last norm; prefill: activations of the prompt; vision_activations: of one batch of
    views, or of pooling where that is more.
    """

    decoder_layers: int
    embeddings: int
    vision_tower: int
    projector: int
    point_encoders: int
    grounding_head: int
    kv_cache: int
    view_features: int
    prefill: int
    vision_activations: int
    runtime: int

    @property
    def weights(self) -> int:
        """All that is loaded from files."""
        return (
            self.decoder_layers
            + self.embeddings
            + self.vision_tower
            + self.projector
            + self.point_encoders
            + self.grounding_head
        )

    @property
    def total(self) -> int:
        return sum(getattr(self, part.name) for part in fields(self))

    def __str__(self) -> str:
        """Every part in MiB, as one phrase."""
        named = ((part.name.replace("_", " "), getattr(self, part.name)) for part in fields(self))
        return ", ".join(f"{name} {size / 2**20:.1f}" for name, size in named) + " MiB"


def predict_memory(
    config: LlavaConfig,
    dtype: torch.dtype,
    weights: str,
    tokens: int,
    scene_copies: int,
    kv_int8: bool,
    device_type: str,
    chunk_tokens: int | None = None,
    max_views: int = DEFAULT_VIEWS,
    head_width: int = 0,
) -> MemoryPlan:
    """The plan for prompts of `tokens` in a model of format `dtype` under `model.weights`.

    scene_copies: KV caches of so many tokens that are alive together. chunk_tokens: prompt tokens
    run at once, all by default. max_views: keyframes kept; head_width: of the grounding head, 0 =
    none. Raises ConfigError where int4 does not fit the sizes.
    """
    parts = dict.fromkeys(("layers", "embeddings", "vision", "projector", "points"), 0)
    largest = 0  # matrix that a quantised product makes wide
    for name, shape in _parameter_shapes(config):
        quantized = weights != "full" and is_quantized(name)
        plain = _count(shape) * target_dtype(name, dtype).itemsize
        parts[_part_of(name)] += (
            linear_bytes(shape, dtype, weights, device_type) if quantized else plain
        )
        largest = max(largest, plain if quantized else 0)
    chunk = min(tokens, chunk_tokens or tokens)
    return MemoryPlan(
        decoder_layers=parts["layers"],
        embeddings=parts["embeddings"],
        vision_tower=parts["vision"],
        projector=parts["projector"],
        point_encoders=parts["points"],
        grounding_head=FLOAT32_BYTES * _head_parameters(config.decoder.hidden_size, head_width),
        kv_cache=scene_copies * tokens * kv_bytes_per_token(config, dtype, kv_int8),
        view_features=max_views
        * config.vision.patches_per_side**2
        * config.vision.hidden_size
        * dtype.itemsize,
        prefill=_prefill_bytes(config, dtype, tokens, chunk, kv_int8) + largest,
        vision_activations=_vision_bytes(config, dtype, max_views),
        runtime=CUDA_CONTEXT_BYTES if device_type == "cuda" else 0,
    )


def kv_bytes_per_token(config: LlavaConfig, dtype: torch.dtype, kv_int8: bool) -> int:
    """Keys and values of one token in all layers. int8: with one scale per head and token in the
    model's format.
    """
    decoder = config.decoder
    per_head = decoder.head_dim + dtype.itemsize if kv_int8 else decoder.head_dim * dtype.itemsize
    return 2 * decoder.num_layers * decoder.num_kv_heads * per_head


@functools.lru_cache(maxsize=8)
def _parameter_shapes(config: LlavaConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(p.shape)) for name, p in build_meta_model(config).named_parameters())


def _head_parameters(hidden_size: int, head_width: int) -> int:
    if not head_width:
        return 0
    with torch.device("meta"):
        return sum(p.numel() for p in GroundingHead(hidden_size, head_width).parameters())


def _part_of(name: str) -> str:
    owner = name.split(".", 1)[0]
    if owner == "decoder":
        return "layers" if name.startswith("decoder.layers.") else "embeddings"
    return owner if owner in ("vision", "projector") else "points"


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _prefill_bytes(
    config: LlavaConfig, dtype: torch.dtype, tokens: int, chunk: int, kv_int8: bool
) -> int:
    """Activations of `chunk` prompt tokens in one decoder layer at the worst moment, and the
    prompt's rows themselves.
    """
    decoder, size = config.decoder, dtype.itemsize
    width, kv, inner = (
        decoder.hidden_size,
        decoder.num_kv_heads * decoder.head_dim,
        decoder.intermediate_size,
    )
    widened = 0 if dtype == torch.float32 else FLOAT32_BYTES
    norm = 2 * width * size + width * (
        widened + FLOAT32_BYTES + size
    )  # before and behind attention, in float32, out
    attention = max(
        (4 * width + 4 * kv)
        # RoPE of the keys: hidden, normed, queries before and behind; keys, and three on the way
        * size,
        (6 * width + 4 * kv)
        # SDPA: hidden, normed, queries twice, its result, projected; keys twice, values twice
        * size,
    )
    gated = (
        4 * width + 3 * inner
    ) * size  # before and behind attention, normed, result; gate, up and their product
    rows = 2 * width * size  # projected spatial tokens, and the prompt they were put into
    total = tokens * rows + chunk * max(norm, attention, gated)
    if chunk < tokens:  # a mask of what is cached, as bool and in the model's format
        total += chunk * tokens * (1 + size)
    return total + (
        2 * tokens * kv * size if kv_int8 else 0
    )  # one layer's keys and values, made wide


def _vision_bytes(config: LlavaConfig, dtype: torch.dtype, views: int) -> int:
    """Pixels of all views, and the larger of one batch in a CLIP block and of pooling their
    features into voxels.
    """
    vision, size = config.vision, dtype.itemsize
    patches = vision.patches_per_side**2
    pixels = (
        views
        * 3
        * vision.image_size**2
        * (FLOAT32_BYTES if dtype == torch.float32 else FLOAT32_BYTES + size)
    )
    batch = min(views, MAX_VIEWS_PER_BATCH) * (patches + 1)
    block = (
        batch
        * max(7 * vision.hidden_size, 3 * vision.hidden_size + 3 * vision.intermediate_size)
        * size
    )
    joined = (
        views * patches * vision.hidden_size * size
    )  # the batches' features put into one tensor
    pooled = (
        views * patches * vision.hidden_size * (size + 2 * FLOAT32_BYTES)
        if config.has_video_tower
        else 0
    )
    return pixels + max(block + joined, pooled)
