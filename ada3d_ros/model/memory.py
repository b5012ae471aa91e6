"""Peak memory before a weight is read: every part in bytes, from sizes and settings alone.

Weights and cache are exact. Activations are counted along model/decoder.py and model/vision.py: the
tensors that are alive at the worst moment. One thread owns the model, so of a prompt's and a view's
only the larger count; a question's copy and the scene that is being built are there together. What
a cached scene takes to lose a frame, one layer's keys and its tokens again, is less than a prompt.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import torch

from ada3d_ros.config import KeyframeConfig
from ada3d_ros.model.config import FLOAT32_BYTES, BackboneConfig
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.layout import build_meta_model
from ada3d_ros.model.vision import MAX_VIEWS_PER_BATCH
from ada3d_ros.model.weight_format import WeightFormat

CUDA_CONTEXT_BYTES = 600 * 2**20  # driver context, kernels and library workspaces of one process
DEFAULT_VIEWS = KeyframeConfig().max_views


@dataclass(frozen=True, slots=True)
class Workload:
    """The most that a model is asked at once: prompts of `tokens` and what is kept for them.

    scene_copies: KV caches of the scene that are alive together, in int8 or not; scene_tokens: for
    which one of them has memory, the mean of the layers, `tokens` by default. own_tokens: of the
    copy that one question takes beside them, in the same format; decode_tokens: of the buffers that
    its answer is decoded in, in the model's format. chunk_tokens: prompt tokens run at once, all by
    default; riding_tokens: of prompts that pass with a scene to rank it. max_views: keyframes whose
    features are kept; views_at_once: that are encoded together, all by default.
    """

    tokens: int
    scene_copies: int = 1
    kv_int8: bool = False
    own_tokens: float = 0
    chunk_tokens: int | None = None
    max_views: int = DEFAULT_VIEWS
    scene_tokens: float | None = None
    decode_tokens: float = 0
    riding_tokens: int = 0
    views_at_once: int | None = None

    @property
    def chunk(self) -> int:
        return min(self.tokens, self.chunk_tokens or self.tokens) + self.riding_tokens

    @property
    def copy_tokens(self) -> float:
        return self.tokens if self.scene_tokens is None else self.scene_tokens


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by part.

    decoder_layers: as `model.weights` says. embeddings: of the vocabulary, with lm_head and last
    norm. kv_cache: all copies of the scene; question_copy: where its answer is too long for their
    room, or it selects; decode_buffers: of a CUDA graph, or dequantised. final_states: those that a
    grounding head points with, of all copies, and of a model that points before it speaks their
    keys, and the question's own of both in float32. prefill: activations of the prompt.
    vision_activations: of one batch of views, or of pooling where that is more.
    """

    decoder_layers: int
    embeddings: int
    vision_tower: int
    projector: int
    point_encoders: int
    grounding_head: int
    kv_cache: int
    question_copy: int
    decode_buffers: int
    final_states: int
    rope_table: int
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
        return sum(self.counted.values())

    @property
    def counted(self) -> dict[str, int]:
        """The parts that are there together, by name."""
        is_prompt = self.prefill >= self.vision_activations
        absent = "vision_activations" if is_prompt else "prefill"
        return {p.name: getattr(self, p.name) for p in fields(self) if p.name != absent}

    def __str__(self) -> str:
        """Every part that counts in MiB, as one phrase."""
        named = ((name.replace("_", " "), size) for name, size in self.counted.items())
        return ", ".join(f"{name} {size / 2**20:.1f}" for name, size in named) + " MiB"


def predict_memory(
    config: BackboneConfig, form: WeightFormat, load: Workload, head_width: int = 0
) -> MemoryPlan:
    """The plan for a model whose weights are in `form` under `load`.

    head_width: of the grounding head, 0 = none. Raises ConfigError where int4 does not fit the
    sizes.
    """
    # Weights, part by part.
    parts = dict.fromkeys(("layers", "embeddings", "vision", "projector", "points", "heads"), 0)
    for name, shape in _parameter_shapes(config):
        parts[_part_of(name)] += form.num_bytes(name, shape)
    head = parts["heads"]
    head += FLOAT32_BYTES * _head_parameters(config.decoder.hidden_size, head_width)

    # What is kept between questions.
    per_token, wide = (kv_bytes_per_token(config, form.dtype, n) for n in (load.kv_int8, False))
    decoder, at_once = config.decoder, load.views_at_once or load.max_views
    view_features = load.max_views * config.view_values

    return MemoryPlan(
        decoder_layers=parts["layers"],
        embeddings=parts["embeddings"],
        vision_tower=parts["vision"],
        projector=parts["projector"],
        point_encoders=parts["points"],
        grounding_head=head,
        kv_cache=round(load.scene_copies * load.copy_tokens * per_token),
        question_copy=round(load.own_tokens * per_token),
        decode_buffers=round(load.decode_tokens * wide),
        final_states=_state_bytes(config, form, load, head_width),
        rope_table=2 * decoder.max_positions * decoder.head_dim * form.dtype.itemsize,
        view_features=view_features * form.dtype.itemsize,
        prefill=_prefill_bytes(config, form, load),
        vision_activations=_vision_bytes(config, form.dtype, at_once * config.squares_per_image),
        runtime=CUDA_CONTEXT_BYTES if form.device_type == "cuda" else 0,
    )


def kv_bytes_per_token(config: BackboneConfig, dtype: torch.dtype, kv_int8: bool) -> int:
    """Keys and values of one token in all layers.

    In int8 with one scale per head and token in the model's format.
    """
    decoder = config.decoder
    per_head = decoder.head_dim + dtype.itemsize if kv_int8 else decoder.head_dim * dtype.itemsize
    return 2 * decoder.num_layers * decoder.num_kv_heads * per_head


@functools.lru_cache(maxsize=8)
def _parameter_shapes(config: BackboneConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(p.shape)) for name, p in build_meta_model(config).named_parameters())


def _head_parameters(hidden_size: int, head_width: int) -> int:
    if not head_width:
        return 0
    with torch.device("meta"):
        return sum(p.numel() for p in GroundingHead(hidden_size, head_width).parameters())


def _state_bytes(
    config: BackboneConfig, form: WeightFormat, load: Workload, head_width: int
) -> int:
    if not head_width:
        return 0
    width = config.decoder.hidden_size
    state, keys = width * form.dtype.itemsize, FLOAT32_BYTES * head_width
    if config.point_id < 0:
        return round(load.scene_copies * load.copy_tokens * state)
    own = load.tokens * (FLOAT32_BYTES * width + keys)
    return round(load.scene_copies * load.copy_tokens * (state + keys) + own)


def _part_of(name: str) -> str:
    owner = name.split(".", 1)[0]
    if owner == "ground":
        return "heads"
    if owner == "newline":
        return "projector"
    if owner == "decoder":
        return "layers" if name.startswith("decoder.layers.") else "embeddings"
    return owner if owner in ("vision", "projector") else "points"


def _prefill_bytes(config: BackboneConfig, form: WeightFormat, load: Workload) -> int:
    """The prompt's embeddings, and one chunk's activations in a decoder layer at their most."""
    decoder, size = config.decoder, form.dtype.itemsize
    width, hidden = decoder.hidden_size, decoder.intermediate_size
    kv = decoder.num_kv_heads * decoder.head_dim

    # Per token. RMSNorm takes less than the MLP.
    # RoPE of the keys: residual, normed, queries before and after; keys, and three on the way.
    rope = (4 * width + 4 * kv) * size
    # SDPA: residual, normed, queries, its result, projected; keys and values twice. Made in one
    # product, as full weights are, queries and keys live on as they were before RoPE.
    attention = (5 * width + 3 * kv) * size
    attention += (width + kv) * size if form.weights == "full" else 0
    # The projection besides. int8: its result before the scale; int4: in and out in bfloat16.
    cast = 0 if form.dtype == torch.bfloat16 else 4 * width
    projection = {"full": 0, "int8": width * size, "int4": cast}[form.weights]
    # MLP: the residual twice, normed, result; gate, up and their product.
    gated = (4 * width + 3 * hidden) * size
    # The same where up_proj's weight is dequantised: its result is there, their product not yet.
    product = (3 * width + 2 * hidden) * size

    # The projected spatial tokens, and the prompt that they were put into; cosines and sines.
    total = load.tokens * 2 * width * size + load.chunk * 2 * decoder.head_dim * size
    total += max(
        load.chunk * max(rope, gated),
        load.chunk * attention + max(load.chunk * projection, form.scratch_bytes((width, width))),
        load.chunk * product + form.scratch_bytes((hidden, width)),
    )
    if load.chunk_tokens and load.chunk < load.tokens:  # a mask of what is cached
        total += load.chunk * load.tokens * size
    if load.kv_int8:  # one layer's keys and values, dequantised
        total += 2 * load.tokens * kv * size
    return total


def _vision_bytes(config: BackboneConfig, dtype: torch.dtype, views: int) -> int:
    """Pixels of all views, and the larger of one batch in the tower's block and of pooling."""
    vision, size = config.vision, dtype.itemsize
    patches = vision.patches_per_side**2

    # Pixels arrive in float32 and are kept beside their copy in another format.
    pixel_size = FLOAT32_BYTES if dtype == torch.float32 else FLOAT32_BYTES + size
    pixels = views * 3 * vision.image_size**2 * pixel_size

    # One batch in a block, attention or MLP, beside the features of all batches put together.
    tokens = min(views, MAX_VIEWS_PER_BATCH) * (patches + 1)
    mlp = 3 * vision.hidden_size + 3 * vision.intermediate_size
    block = tokens * max(7 * vision.hidden_size, mlp) * size
    features = views * patches * vision.hidden_size

    return pixels + max(block + features * size, config.pooling_bytes(views, size))
