"""Keys and values in 8 bits: half the memory of 16, a quarter of 32; handed out in the model's own
number format.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ada3d_ros.engine.kv_cache import KVCache


class Int8KVCache(KVCache):
    """A cache that rounds every key and value vector (per token and head) to 127 steps of its
    largest element each way.

    append and held hand out dequantised copies of one layer; nothing else of it is ever there in
    full.
    """

    plain = False

    def __init__(self, num_layers: int, reserve: int = 0) -> None:
        super().__init__(num_layers, reserve)
        self._scales = KVCache(num_layers, reserve)  # (2, B, G, capacity, 1)
        self._dtype = torch.float32

    @property
    def num_bytes(self) -> int:
        return super().num_bytes + self._scales.num_bytes

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._dtype = keys.dtype
        rounded, scales = zip(
            *(quantize_vectors(vectors) for vectors in (keys, values)), strict=True
        )
        super().append(layer, *rounded)
        self._scales.append(layer, *scales)
        return self.held(layer)

    def held(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().held(layer)
        key_scales, value_scales = self._scales.held(layer)
        return keys.to(self._dtype) * key_scales, values.to(self._dtype) * value_scales

    def reserve(self, tokens: int) -> None:
        super().reserve(tokens)
        self._scales.reserve(tokens)

    def set_lengths(self, lengths: Sequence[int]) -> None:
        super().set_lengths(lengths)
        self._scales.set_lengths(lengths)


def quantize_vectors(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (..., d) as int8 (..., d) and scales (..., 1) in their dtype; vector = int8 * scale
    within half a scale.
    """
    wide = vectors.float()
    scales = (wide.abs().amax(dim=-1, keepdim=True) / 127.0).clamp(min=1e-7).to(vectors.dtype)
    return (wide / scales.float()).round().clamp(-127, 127).to(torch.int8), scales
