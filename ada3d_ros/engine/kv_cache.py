"""Keys and values of past tokens: one buffer per layer, each with its own length; in the model's
format or in 8 bits.

After pruning, later layers hold fewer tokens than earlier ones. Knows nothing of positions: a key
is stored roped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, cast

import torch

GROWTH = 128  # tokens that a full buffer grows by at least


class KVCache:
    """Buffers (2, B, G, capacity, d) per layer, made at a layer's first append with room for
    `reserve` more tokens: their plan.

    A full buffer is replaced by one with room for `reserve` or GROWTH more, until `give_back`.
    `append` returns views: the next append may write behind them, never into them.
    """

    plain = True  # the buffers hold the keys and values themselves

    def __init__(self, num_layers: int, reserve: int = 0) -> None:
        self._buffers: list[torch.Tensor | None] = [None] * num_layers
        self._num_empty = num_layers  # layers without a buffer
        self._lengths, self._planned = [0] * num_layers, [0] * num_layers
        self._reserve = reserve
        self._borrowed: set[int] = set()  # layers in another cache's buffer

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
        """Memory of the buffers as the allocator counts it, the room behind what is held included,
        without those borrowed.
        """
        return sum(buffer.untyped_storage().nbytes() for _, buffer in self._own())

    @property
    def held_bytes(self) -> int:
        """Of the keys and values held in buffers of its own, without the room behind them."""
        return sum(buffer[:, :, :, : self._lengths[layer]].nbytes for layer, buffer in self._own())

    @property
    def token_bytes(self) -> int:
        """Of one token's key and value in one layer."""
        return self.buffers[0][:, :, :, :1].nbytes

    @property
    def borrowed(self) -> frozenset[int]:
        """The layers in another cache's buffer."""
        return frozenset(self._borrowed)

    def _own(self) -> list[tuple[int, torch.Tensor]]:
        """The layers that have a buffer of their own, and it."""
        return [
            (layer, buffer)
            for layer, buffer in enumerate(self._buffers)
            if buffer is not None and layer not in self._borrowed
        ]

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

    def keys(self, layer: int) -> torch.Tensor:
        """The layer's keys alone, (B, G, length, d), as `held` has them."""
        return KVCache.held(self, layer)[0]

    def borrow(self, layer: int, lender: KVCache) -> None:
        """Begin a layer in the buffer of another plain cache, behind what that holds of it; the
        lender's own tokens and length stay, and what it appends next takes the place of ours.
        """
        assert lender.plain
        assert self._buffers[layer] is None
        self._buffers[layer], self._lengths[layer] = lender.buffers[layer], lender.length(layer)
        self._borrowed.add(layer)
        self._num_empty -= 1

    def take(self, layer: int, source: KVCache, index: torch.Tensor) -> None:
        """Begin a layer with the tokens index (n,) int64 of another cache's, gathered straight into
        a buffer with the reserved room.
        """
        assert self._buffers[layer] is None
        self._buffers[layer] = source.gathered(layer, index, self._reserve)
        self._lengths[layer] = len(index)
        self._num_empty -= 1

    def gathered(self, layer: int, index: torch.Tensor, reserve: int) -> torch.Tensor:
        """A new buffer (2, B, G, n + reserve, d) that begins with the layer's tokens index (n,)."""
        old, count = self._buffers[layer], len(index)
        assert old is not None, "the layer holds nothing yet"
        made = old.new_empty(*old.shape[:3], count + reserve, old.shape[4])
        torch.index_select(old, 3, index, out=made[:, :, :, :count])
        return made

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

    def keep_tokens(self, rows: Sequence[torch.Tensor]) -> None:
        """Go on with the tokens rows (n_i,) int64 of each layer, in the same buffers, so that a
        graph that works in them still does. On the way it takes one layer's memory, and nothing has
        changed where there is none.
        """
        self._move_up(rows, self._spare(rows))

    def _spare(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Memory for the longest of rows, in one layer's format."""
        like = self.buffers[0]
        return like.new_empty(*like.shape[:3], max(map(len, rows)), like.shape[4])

    def _move_up(self, rows: Sequence[torch.Tensor], spare: torch.Tensor) -> None:
        for buffer, index in zip(self.buffers, rows, strict=True):
            taken = torch.index_select(buffer, 3, index, out=spare[:, :, :, : len(index)])
            buffer[:, :, :, : len(index)] = taken
        self._lengths = [len(index) for index in rows]

    def copy_to(self, layer: int, buffer: torch.Tensor) -> None:
        """Write the layer's keys and values into the first places of `buffer` (2, B, G, capacity,
        d), in its number format.
        """
        length = self._lengths[layer]
        buffer[:, :, :, :length].copy_(self.buffers[layer][:, :, :, :length])

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Forget the newest tokens, or count those that were written into the buffers behind the
        cache's back.
        """
        for buffer, length in zip(self.buffers, lengths, strict=True):
            assert 0 <= length <= buffer.shape[3], "beyond the buffer"
        self._lengths = list(lengths)

    def give_back(self) -> None:
        """Replace buffers that outgrew their plan by smaller ones: as planned where what is held
        leaves the reserve, else with a reserve behind it, which is the plan from then on.
        """
        for layer, (buffer, length) in enumerate(zip(self.buffers, self._lengths, strict=True)):
            planned = self._planned[layer]
            if length + self._reserve > planned:
                planned = length + max(self._reserve, GROWTH)
            if buffer.shape[3] > planned:
                self._planned[layer] = planned
                self._move(layer, buffer, planned)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Go on with rows (n,) int64 of the batch only; every layer must hold some."""
        self._buffers = [buffer[:, rows] for buffer in self.buffers]
        self._borrowed.clear()

    def _room(self, layer: int, keys: torch.Tensor, needed: int) -> torch.Tensor:
        """The layer's buffer, with room for `needed` tokens; keys (B, G, T, d): of what kind."""
        old = self._buffers[layer]
        if old is None:
            self._num_empty -= 1
            self._planned[layer] = needed + self._reserve
            like = keys.new_empty(2, *keys.shape[:2], 0, keys.shape[3])
            return self._move(layer, like, self._planned[layer])
        if old.shape[3] >= needed:
            return old
        return self._move(layer, old, needed + max(self._reserve, GROWTH))

    def _move(self, layer: int, old: torch.Tensor, capacity: int) -> torch.Tensor:
        """Give the layer a buffer of this capacity that holds what `old` does."""
        length, (two, batch, groups, _, width) = self._lengths[layer], old.shape
        buffer = old.new_empty(two, batch, groups, capacity, width)
        if length:
            buffer[:, :, :, :length] = old[:, :, :, :length]
        self._buffers[layer] = buffer
        self._borrowed.discard(layer)
        return buffer


class Int8KVCache(KVCache):
    """A cache that rounds every key and value vector (per token and head) to 127 steps of its
    largest element each way.

    append and held hand out dequantised copies of one layer. Decoding, which would ask for them at
    every token, does so with `in_model_format`.
    """

    plain = False

    def __init__(self, num_layers: int, reserve: int = 0) -> None:
        super().__init__(num_layers, reserve)
        self.scales = KVCache(num_layers, reserve)  # (2, B, G, capacity, 1)
        self._dtype = torch.float32

    @property
    def num_bytes(self) -> int:
        return super().num_bytes + self.scales.num_bytes

    @property
    def held_bytes(self) -> int:
        return super().held_bytes + self.scales.held_bytes

    @property
    def token_bytes(self) -> int:
        return super().token_bytes + self.scales.token_bytes

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._dtype = keys.dtype
        rounded, scales = zip(
            *(quantize_vectors(vectors) for vectors in (keys, values)), strict=True
        )
        super().append(layer, *rounded)
        self.scales.append(layer, *scales)
        return self.held(layer)

    def held(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().held(layer)
        key_scales, value_scales = self.scales.held(layer)
        return keys.to(self._dtype) * key_scales, values.to(self._dtype) * value_scales

    def keys(self, layer: int) -> torch.Tensor:
        return super().keys(layer).to(self._dtype) * self.scales.keys(layer)

    def gathered(self, layer: int, index: torch.Tensor, reserve: int) -> torch.Tensor:
        """In the model's format."""
        rounded, scales = super().gathered(layer, index, 0), self.scales.gathered(layer, index, 0)
        count = len(index)
        made = scales.new_empty(*rounded.shape[:3], count + reserve, rounded.shape[4])
        torch.mul(rounded, scales, out=made[:, :, :, :count])
        return made

    def copied(self, reserve: int) -> Self:
        cache = super().copied(reserve)
        cache.scales, cache._dtype = self.scales.copied(reserve), self._dtype
        return cache

    def keep_tokens(self, rows: Sequence[torch.Tensor]) -> None:
        spare, of_scales = self._spare(rows), self.scales._spare(rows)
        self._move_up(rows, spare)
        self.scales._move_up(rows, of_scales)

    def set_lengths(self, lengths: Sequence[int]) -> None:
        super().set_lengths(lengths)
        self.scales.set_lengths(lengths)

    def copy_to(self, layer: int, buffer: torch.Tensor) -> None:
        super().copy_to(layer, buffer)
        length = self._lengths[layer]
        buffer[:, :, :, :length].mul_(self.scales.buffers[layer][:, :, :, :length])

    def give_back(self) -> None:
        super().give_back()
        self.scales.give_back()

    def in_model_format(self, reserve: int) -> KVCache:
        """The same keys and values dequantised, in a cache of its own with room for `reserve` more
        tokens a layer.
        """
        cache = KVCache(len(self._lengths), reserve)
        for layer, (buffer, length) in enumerate(zip(self.buffers, self._lengths, strict=True)):
            empty = buffer[:, :, :, :0].to(self._dtype)
            self.copy_to(layer, cache._move(layer, empty, length + reserve))
        cache._lengths, cache._planned = list(self._lengths), [n + reserve for n in self._lengths]
        cache._num_empty = 0
        return cache


def quantize_vectors(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (..., d) as int8 (..., d) and scales (..., 1) in their dtype; vector = int8 * scale
    within half a scale.
    """
    wide = vectors.float()
    scales = (wide.abs().amax(dim=-1, keepdim=True) / 127.0).clamp(min=1e-7).to(vectors.dtype)
    return (wide / scales.float()).round().clamp(-127, 127).to(torch.int8), scales
