"""Keys and values of past tokens: one buffer per layer, each with its own length; in the model's
format or in 8 bits.

After pruning, later layers hold fewer tokens than earlier ones. Knows nothing of positions: a key
is stored roped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

import torch


class KVCache:
    """Buffers (2, B, G, capacity, d) per layer, made at a layer's first append with room for
    `reserve` more tokens.

    A full buffer is replaced by one of twice the size. `append` returns views: the next append may
    write behind them, never into them.
    """

    plain = True  # the buffers hold the keys and values themselves

    def __init__(self, num_layers: int, reserve: int = 0) -> None:
        self._buffers: list[torch.Tensor | None] = [None] * num_layers
        self._num_empty = num_layers  # layers without a buffer
        self._lengths = [0] * num_layers
        self._reserve = reserve

    @classmethod
    def holding(
        cls, tokens: Sequence[tuple[torch.Tensor, torch.Tensor]], reserve: int = 0
    ) -> KVCache:
        """A cache that starts with copies of keys and values (B, G, T_i, d) per layer."""
        cache = cls(len(tokens), reserve)
        for layer, (keys, values) in enumerate(tokens):
            cache.append(layer, keys, values)
        return cache

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens held by each layer."""
        return tuple(self._lengths)

    @property
    def num_bytes(self) -> int:
        """Memory of the buffers, the reserved room included."""
        total = 0
        for buffer in self._buffers:
            total += 0 if buffer is None else buffer.nbytes
        return total

    def length(self, layer: int) -> int:
        return self._lengths[layer]

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys and values (B, G, T, d); returns all of the layer, (B, G, length, d)."""
        start, stop = self._lengths[layer], self._lengths[layer] + keys.shape[2]
        buffer = self._room(layer, keys, stop)
        buffer[0, :, :, start:stop] = keys
        buffer[1, :, :, start:stop] = values
        self._lengths[layer] = stop
        return buffer[0, :, :, :stop], buffer[1, :, :, :stop]

    def held(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the layer's keys and values, (B, G, length, d); the layer must hold some."""
        buffer, length = self._buffers[layer], self._lengths[layer]
        assert buffer is not None, "the layer holds nothing yet"
        return buffer[0, :, :, :length], buffer[1, :, :, :length]

    @property
    def buffers(self) -> tuple[torch.Tensor, ...]:
        """All layers' buffers (2, B, G, capacity_i, d), the room behind what is held included;
        every layer must hold some.
        """
        assert not self._num_empty, "a layer holds nothing yet"
        return cast(tuple[torch.Tensor, ...], tuple(self._buffers))

    def has_room(self, tokens: int) -> bool:
        """Whether every layer takes so many more tokens without a new buffer."""
        ends = [length + tokens for length in self._lengths]
        return all(b.shape[3] >= end for b, end in zip(self.buffers, ends, strict=True))

    def copied(self, reserve: int) -> Self:
        """A cache of its own that holds the same, with room for `reserve` more tokens a layer."""
        cache = type(self)(len(self._lengths), reserve)
        for layer, (buffer, length) in enumerate(zip(self.buffers, self._lengths, strict=True)):
            KVCache.append(cache, layer, *buffer[:, :, :, :length])
        return cache

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Forget the newest tokens, or count those that were written into the buffers behind the
        cache's back.
        """
        for buffer, length in zip(self.buffers, lengths, strict=True):
            assert 0 <= length <= buffer.shape[3], "beyond the buffer"
        self._lengths = list(lengths)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Go on with rows (n,) int64 of the batch only; every layer must hold some."""
        self._buffers = [buffer[:, rows] for buffer in self.buffers]

    def _room(self, layer: int, keys: torch.Tensor, needed: int) -> torch.Tensor:
        old = self._buffers[layer]
        if old is not None and old.shape[3] >= needed:
            return old
        capacity = needed + self._reserve if old is None else max(needed, 2 * old.shape[3])
        buffer = keys.new_empty(2, *keys.shape[:2], capacity, keys.shape[3])
        if old is not None:
            length = self._lengths[layer]
            buffer[:, :, :, :length] = old[:, :, :, :length]
        self._buffers[layer] = buffer
        self._num_empty -= old is None
        return buffer


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

    def copied(self, reserve: int) -> Self:
        cache = super().copied(reserve)
        cache._scales, cache._dtype = self._scales.copied(reserve), self._dtype
        return cache

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
