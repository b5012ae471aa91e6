"""The decoder of LLaMA and Qwen2, which differ in sizes and in biases on queries, keys and values:
RMSNorm, rotate-half RoPE, grouped-query attention, SiLU-gated MLP, SDPA.

Runs any range of layers, so that the engine can act between them; it knows nothing of pruning,
images or text. Module names are those of transformers' LlamaModel. Shapes: B batch, T tokens, D
hidden, H heads, G key-value heads, d head dimension.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn
from torch.nn import functional as F

from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.fused import FusedLinears, empty_weight
from ada3d_ros.model.rope import Rope, RopeTable, apply_rope, rope_rows


class KeyValueStore(Protocol):
    """What attention needs of a KV cache (engine/kv_cache.py). Each layer has its own length."""

    def length(self, layer: int) -> int: ...

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores (B, G, T, d) and returns all keys and values of the layer, (B, G, length, d)."""
        ...


# A layer's attention: layer, q (B, H, T, d) and k, v (B, G, T, d) of the new tokens, roped, to the
# heads' outputs (B, H, T, d).
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class LayerInputs:
    """What a layer computes first of all its tokens, for those who rank by its attention.

    normed (B, T, D); k_unroped (B, G, T, d) and, once roped, k; q_unroped (B, H, T, d) where all
    queries were asked for. Handed to `run_layer` nothing of it is computed twice.
    """

    normed: torch.Tensor
    k_unroped: torch.Tensor
    k: torch.Tensor | None = None
    q_unroped: torch.Tensor | None = None

    def take(self, index: torch.Tensor) -> LayerInputs:
        """Of the tokens index (n,) int64 that stay."""
        k = None if self.k is None else self.k[:, :, index]
        q = None if self.q_unroped is None else self.q_unroped[:, :, index]
        return LayerInputs(self.normed[:, index], self.k_unroped[:, :, index], k, q)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean of squares in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


ALIGNED = 16  # elements: where SDPA's kernels want the rows of a mask to begin
CPU_CHUNK = 2**19  # float32 values of keys at a time on a CPU: what its cache holds
_thread = threading.local()


def attend_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of one query per head over many keys, which decoding asks for token by token.

    q (B, H, 1, d), k and v (B, G, T, d); returns (B, H, 1, d). mask (B or 1, 1, 1, T): bool, or
    added to the scores. On a CPU in float32 and by hand: SDPA's kernel reads keys and values at a
    tenth of the memory's speed there.
    """
    # The heads of a group are the queries of one product, so that no key is copied.
    queries = q.reshape(*k.shape[:2], -1, k.shape[3])  # (B, G, H / G, d)
    if q.device.type != "cpu" or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(queries, k, v, attn_mask=mask).reshape(q.shape)

    # Scores (B, G, T, H / G), a chunk of keys at a time.
    chunk = max(1, CPU_CHUNK // (k.shape[0] * k.shape[1] * k.shape[3]))
    scaled = queries.float().mT * k.shape[3] ** -0.5  # (B, G, d, H / G)
    scores = torch.cat([_to_float32(part) @ scaled for part in k.split(chunk, dim=2)], dim=2)
    if mask is not None and mask.is_floating_point():
        scores = scores + mask.mT
    elif mask is not None:
        scores = scores.masked_fill(~mask.mT, -torch.inf)
    weights = torch.softmax(scores, dim=2)

    # The weighted sum of the values, by the same chunks.
    out = torch.zeros_like(queries, dtype=torch.float32)
    for w, part in zip(weights.split(chunk, dim=2), v.split(chunk, dim=2), strict=True):
        if queries.shape[2] > 1:
            out += w.mT @ _to_float32(part)
        else:  # a sum reads twice as fast as a product of one row
            out += torch.mul(_to_float32(part), w, out=_scratch(part)).sum(2, keepdim=True)
    return out.to(q.dtype).reshape(q.shape)


def _to_float32(part: torch.Tensor) -> torch.Tensor:
    """In float32: itself, or a copy in this thread's scratch."""
    return part if part.dtype == torch.float32 else _scratch(part).copy_(part)


def _scratch(part: torch.Tensor) -> torch.Tensor:
    """This thread's float32 memory in the shape of `part`.

    Kept between calls: fresh pages at every call would cost more than the sums.
    """
    held: torch.Tensor | None = getattr(_thread, "scratch", None)
    if held is None or held.numel() < part.numel():
        with torch.inference_mode(False):
            held = _thread.scratch = torch.empty(max(CPU_CHUNK, part.numel()), dtype=torch.float32)
    return held[: part.numel()].view(part.shape)


class Attention(FusedLinears):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__("q_proj", "k_proj", "v_proj")
        self.head_dim, self._groups = config.head_dim, config.num_kv_heads
        width, kv_width = config.hidden_size, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, heads * d) to (B, heads, T, d)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def queries(self, x: torch.Tensor) -> torch.Tensor:
        """Queries (B, H, T, d) of normed x (B, T, D), before RoPE."""
        return self.split_heads(self.q_proj(x))

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """Keys (B, G, T, d) of normed x (B, T, D), before RoPE."""
        return self.split_heads(self.k_proj(x))

    def forward(
        self, x: torch.Tensor, rope: Rope, layer: int, attend: Attend, inputs: LayerInputs | None
    ) -> torch.Tensor:
        """Of normed x (B, T, D), (B, T, D); inputs: what was made of the very same x already."""
        q, k, v = self._project(x, rope) if inputs is None else self._complete(inputs, rope)
        out = attend(layer, q, k, v)
        return cast(torch.Tensor, self.o_proj(out.transpose(1, 2).flatten(2)))

    def _project(
        self, x: torch.Tensor, rope: Rope
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of x, roped."""
        projected = self.fused_linear(x)
        if projected is None:
            return self._complete(LayerInputs(x, self.keys(x)), rope)
        heads, groups = self.split_heads(projected), self._groups
        roped = apply_rope(heads[:, :-groups], rope)
        return roped[:, :-groups], roped[:, -groups:], heads[:, -groups:]

    def _complete(
        self, inputs: LayerInputs, rope: Rope
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same of tokens whose keys are there."""
        q_unroped = self.queries(inputs.normed) if inputs.q_unroped is None else inputs.q_unroped
        q = apply_rope(q_unroped, rope)
        k = apply_rope(inputs.k_unroped, rope) if inputs.k is None else inputs.k
        return q, k, self.split_heads(self.v_proj(inputs.normed))


class MLP(FusedLinears):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__("gate_proj", "up_proj")
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.down_proj(self._gated(x)))

    def _gated(self, x: torch.Tensor) -> torch.Tensor:
        """What `down_proj` multiplies, (B, T, intermediate)."""
        both = self.fused_linear(x)
        if both is None:
            return F.silu(self.gate_proj(x)) * cast(torch.Tensor, self.up_proj(x))
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def inputs(self, hidden: torch.Tensor, with_queries: bool = False) -> LayerInputs:
        normed = self.input_layernorm(hidden)
        queries = self.self_attn.queries(normed) if with_queries else None
        return LayerInputs(normed, self.self_attn.keys(normed), q_unroped=queries)

    def forward(
        self,
        hidden: torch.Tensor,
        rope: Rope,
        layer: int,
        attend: Attend,
        inputs: LayerInputs | None = None,
    ) -> torch.Tensor:
        # No name for what is made here: the MLP's memory would come on top of it.
        hidden = hidden + self.self_attn(
            self.input_layernorm(hidden) if inputs is None else inputs.normed,
            rope,
            layer,
            attend,
            inputs,
        )
        return hidden + cast(torch.Tensor, self.mlp(self.post_attention_layernorm(hidden)))


def attention_mask(past: int, tokens: int, key_mask: torch.Tensor) -> torch.Tensor:
    """Which keys each new token attends to, (B, 1, T, past + T) bool.

    key_mask (B, past + T) bool: False marks padding. A padded token still attends to itself, so
    that its softmax is defined.
    """
    query_index = torch.arange(past, past + tokens, device=key_mask.device)[:, None]
    key_index = torch.arange(past + tokens, device=key_mask.device)
    visible = (key_index <= query_index)[None, None]
    return (visible & key_mask[:, None, None, :]) | (key_index == query_index)


def causal_bias(past: int, q: torch.Tensor) -> torch.Tensor | None:
    """What is added to the scores of q (B, H, T, d): 0 for what is visible, (1, 1, T, past + T).

    None where SDPA's own causal rule says the same. In q's format, and its rows aligned: of any
    other mask SDPA would make such a one in every layer.
    """
    tokens = q.shape[2]
    if past == 0 or tokens == 1:
        return None
    later = q.new_full((tokens, tokens), -torch.inf).triu_(1)
    bias = q.new_zeros(tokens, -(-(past + tokens) // ALIGNED) * ALIGNED)[:, : past + tokens]
    bias[:, past:] = later
    return bias[None, None]


def causal_attention(
    cache: KeyValueStore | None = None, key_mask: torch.Tensor | None = None
) -> Attend:
    """SDPA over what `cache` holds and the new tokens, which are added to it.

    key_mask as in `run_layers`.
    """
    masks: dict[tuple[int, int], torch.Tensor | None] = {}  # that of the last layer

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        past = 0 if cache is None else cache.length(layer)
        # Layers of one length share a mask; pruning makes the lengths differ.
        size = past, q.shape[2]
        if size not in masks:
            masks.clear()
            masks[size] = (
                causal_bias(past, q) if key_mask is None else attention_mask(*size, key_mask)
            )
        mask = masks[size]
        if cache is not None:
            k, v = cache.append(layer, k, v)
        # A single query sees every key: no kernel for causal blocks is needed.
        if q.shape[2] == 1:
            return attend_one(q, k, v, mask)
        grouped = k.shape[1] != q.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        )

    return attend


class LlamaDecoder(nn.Module):
    """Embedding, layers, final norm and head. All positions are absolute, 1-D, chosen by the
    caller.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.head_dim = config, config.head_dim
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rope_table = RopeTable(config.max_positions, config.head_dim, config.rope_theta)

    def prepare(self) -> None:
        """For weights that are final: queries, keys and values are made in one product from now on,
        gate and up in another, and the rope table is there before the first prompt.

        Values, names and results stay. Takes the memory of one layer's weights meanwhile.
        """
        self.rope(torch.zeros(1, dtype=torch.int64, device=self.device))
        head = self.lm_head.weight
        with torch.no_grad():
            laid = empty_weight((head.shape[0], head.shape[1]), head.dtype, head.device)
            if laid.stride() != head.stride() and not head.is_meta:
                self.lm_head.weight = nn.Parameter(laid.copy_(head), head.requires_grad)
        for layer in self.layers:
            cast(DecoderLayer, layer).self_attn.fuse()
            cast(DecoderLayer, layer).mlp.fuse()
            if self.device.type == "cuda":  # freed pieces that nothing else would fit in
                torch.cuda.empty_cache()

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (...,) int64 to embeddings (..., D)."""
        return cast(torch.Tensor, self.embed_tokens(ids))

    def run_layer(
        self,
        layer: int,
        hidden: torch.Tensor,
        rope: Rope,
        attend: Attend,
        inputs: LayerInputs | None = None,
    ) -> torch.Tensor:
        """One layer on hidden (B, T, D), (B, T, D). inputs: what `layer_inputs` made of these very
        tokens already.
        """
        return cast(torch.Tensor, self.layers[layer](hidden, rope, layer, attend, inputs))

    def run_layers(
        self,
        start: int,
        stop: int,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        cache: KeyValueStore | None = None,
        key_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Layers start..stop-1 on hidden (B, T, D) with positions (T,) or (B, T); returns hidden
        (B, T, D).

        cache: the new tokens attend to what it holds and are added to it. key_mask (B, past + T)
        bool, False = padding.
        """
        rope, attend = self.rope(positions), causal_attention(cache, key_mask)
        for layer in range(start, stop):
            hidden = self.run_layer(layer, hidden, rope, attend)
        return hidden

    def layer_inputs(
        self, layer: int, hidden: torch.Tensor, with_queries: bool = False
    ) -> LayerInputs:
        """Layer `layer`'s norm and keys of hidden (B, T, D); its queries too, where many will be
        ranked by.
        """
        return cast(DecoderLayer, self.layers[layer]).inputs(hidden, with_queries)

    def ranking_inputs(
        self, layer: int, inputs: LayerInputs, rope: Rope, query_index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, LayerInputs]:
        """Queries of the tokens query_index (R,), as layer `layer` would compute them: roped and
        unroped (B, H, R, d), and the inputs with their keys roped. rope: of all tokens.
        """
        attention = cast(DecoderLayer, self.layers[layer]).self_attn
        if inputs.q_unroped is None:
            q = attention.queries(inputs.normed[:, query_index])
        else:
            q = inputs.q_unroped[:, :, query_index]
        roped = LayerInputs(
            inputs.normed, inputs.k_unroped, apply_rope(inputs.k_unroped, rope), inputs.q_unroped
        )
        return apply_rope(q, rope_rows(rope, query_index)), q, roped

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Final norm and head: (..., D) to (..., vocab). Callers pass only the rows they need."""
        return cast(torch.Tensor, self.lm_head(self.norm(hidden)))

    def rope(self, positions: torch.Tensor) -> Rope:
        """`Rope` of positions (T,) or (B, T), below max_positions, in the model's dtype."""
        weight = self.lm_head.weight
        return self._rope_table.rows(positions, weight.device, weight.dtype)
