"""Decode steps of fixed shapes for batches of questions (engine/batch.py), so that a CUDA graph can
hold a whole step.

The questions' own keys and values lie in buffers larger than what they hold, with what lies behind
masked; the prefix is read where it lies. A graph serves batches of as many questions, in as large
buffers, on a prefix that neither moved nor grew. Questions that have ended stay in: a step costs
the same without them. Shapes as in engine/batch.py.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ada3d_ros.engine.batch import SharedPrefixAttention
from ada3d_ros.engine.cuda_graph import Retries, can_capture, record
from ada3d_ros.engine.decode import Stepped, after
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.timing import on_device
from ada3d_ros.model.decoder import LlamaDecoder

GRANULE = 128  # tokens that capacities are multiples of
MAX_HELD = 2  # graphs per decoder; the one unused for longest goes
PATIENCE = 8  # steps of a batch until a graph is captured, for which a step runs four times


@dataclass(frozen=True, eq=False, slots=True)
class OwnTokens:
    """What a batch holds beside its prefix.

    cache: keys and values (B, G, n, d), of the same n in all layers; padding (B,) int64: columns
    before each question; first: the position of its first token; columns: n at the end, at most.
    """

    cache: KVCache
    padding: torch.Tensor
    first: int
    columns: int


class StaticBatchStep:
    """One decode step of B questions on one prefix; their own keys and values in buffers
    (2, B, G, capacity, d) that stay where they are.

    The state is on the device: what is fed (B, D), positions (B,) and the column that is written
    next, both int64; a step moves positions and column on by one.
    """

    def __init__(self, prefix: KVCache, batch: int, capacity: int, width: int) -> None:
        buffers = prefix.buffers
        self._prefix, self._lengths = tuple(map(weakref.ref, buffers)), prefix.lengths
        self.batch, self.capacity, device = batch, capacity, buffers[0].device
        self._own = tuple(b.new_zeros(2, batch, b.shape[2], capacity, b.shape[4]) for b in buffers)
        self._fed = buffers[0].new_zeros(batch, width)
        self._padding = torch.zeros(batch, dtype=torch.int64, device=device)
        self._state = torch.zeros(batch + 1, dtype=torch.int64, device=device)
        self._positions, self._column = self._state[:batch], self._state[batch:]
        self._columns = torch.arange(capacity, device=device)
        self._graph: Any = None
        self._after: Stepped | None = None  # where the graph leaves that

    @property
    def own_bytes(self) -> int:
        """Memory of the buffers."""
        return sum(buffer.nbytes for buffer in self._own)

    @property
    def captured(self) -> bool:
        return self._graph is not None

    @property
    def alive(self) -> bool:
        """Whether the prefix's buffers are still there."""
        return all(ref() is not None for ref in self._prefix)

    def serves(self, prefix: KVCache, batch: int, capacity: int) -> bool:
        """Whether it is of this size, and its prefix is where and as long as this one."""
        if (self.batch, self.capacity) != (batch, capacity) or self._lengths != prefix.lengths:
            return False
        return all(map(operator.is_, (ref() for ref in self._prefix), prefix.buffers))

    def start(self, own: OwnTokens) -> None:
        """Go on where `own` ends, a copy of which is made."""
        held = own.cache.length(0)
        for layer, buffer in enumerate(self._own):
            own.cache.copy_to(layer, buffer)
            buffer[:, :, :, held:].zero_()  # a NaN of an earlier batch would pass the mask
        self._padding.copy_(own.padding)
        self._state.fill_(held)
        self._positions.add_(own.first).sub_(own.padding)

    def __call__(self, decoder: LlamaDecoder, prefix: KVCache, fed: torch.Tensor) -> Stepped:
        """What follows the embeddings `fed` (B, D); the next step may write over it."""
        self._fed.copy_(fed)
        if self._after is None:
            return self._run(decoder, prefix)
        self._graph.replay()
        return self._after

    def capture(self, decoder: LlamaDecoder, prefix: KVCache) -> None:
        """Record the step as a CUDA graph; one column must be left.

        Raises RuntimeError where CUDA refuses. The state stays as it is.
        """
        self._graph, self._after = record(lambda: self._run(decoder, prefix), self._state)

    def _run(self, decoder: LlamaDecoder, prefix: KVCache) -> Stepped:
        # A question that has ended may go on beyond the model's positions.
        positions = self._positions.clamp(max=decoder.config.max_positions - 1)
        rope = decoder.rope(positions[:, None])
        visible = (self._columns >= self._padding[:, None]) & (self._columns <= self._column)
        attend = SharedPrefixAttention(prefix, self._append, visible[:, None, None])
        hidden = self._fed[:, None]
        for layer in range(decoder.config.num_layers):
            hidden = decoder.run_layer(layer, hidden, rope, attend)
        self._state += 1
        return after(decoder, hidden[:, -1])

    def _append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys and values (B, G, 1, d); returns all columns, (B, G, capacity, d)."""
        own_keys, own_values = self._own[layer]
        own_keys.index_copy_(2, self._column, keys)
        own_values.index_copy_(2, self._column, values)
        return own_keys, own_values


class StaticBatches:
    """The static steps of one decoder's batches, at most MAX_HELD; one thread at a time has them
    `lent`.
    """

    def __init__(self) -> None:
        self.held: list[StaticBatchStep] = []  # the one used last is the last
        self._busy = threading.Lock()
        self._weights = 0  # where the weights were at capture
        self._retries = Retries("the decode step of a batch")

    @contextmanager
    def lent(self) -> Iterator[StaticBatches | None]:
        """For one batch. None where another thread has them."""
        if not self._busy.acquire(blocking=False):
            yield None
            return
        try:
            self._retries.count_question()
            yield self
        finally:
            self._busy.release()

    def clear(self) -> None:
        """Free all graphs and their buffers; a refused capture is tried again at once."""
        with self._busy:
            self.held.clear()
            self._retries.forget()

    def find(
        self, decoder: LlamaDecoder, prefix: KVCache, own: OwnTokens, fed: int
    ) -> StaticBatchStep | None:
        """A step that goes on where `own` ends: at a batch's first step (fed 0) one that is held,
        and after PATIENCE steps a new one. None otherwise, or where CUDA refuses a graph (or the
        memory for it): it is asked again after 1, 2, 4 .. batches.
        """
        if fed not in (0, PATIENCE):
            return None
        self._forget_gone(decoder)
        size = len(own.padding), -(-own.columns // GRANULE) * GRANULE
        step = next((s for s in self.held if s.serves(prefix, *size)), None)
        if step is not None:
            step.start(own)
        elif fed == PATIENCE:
            step = self._captured(decoder, prefix, own, size)
        if step is not None:  # the newest of those held
            self.held = [*(s for s in self.held if s is not step), step]
        return step

    def _captured(
        self, decoder: LlamaDecoder, prefix: KVCache, own: OwnTokens, size: tuple[int, int]
    ) -> StaticBatchStep | None:
        """A new one for (questions, capacity), as it is where there is no CUDA. None where CUDA
        refuses, or did a short while ago.
        """
        captures = can_capture(decoder.device)
        if captures and not self._retries.due:
            return None
        self.held = self.held[-(MAX_HELD - 1) :]
        try:
            with on_device(decoder.device):
                step = StaticBatchStep(prefix, *size, decoder.config.hidden_size)
                step.start(own)
                if captures:
                    step.capture(decoder, prefix)
        except RuntimeError as error:
            if not captures:
                raise
            self.held.clear()  # frees what is ours
            self._retries.refused(error)
            return None
        self._retries.succeeded()
        return step

    def _forget_gone(self, decoder: LlamaDecoder) -> None:
        """Graphs that read where weights or keys no longer are."""
        place = decoder.lm_head.weight.data_ptr()
        if place != self._weights:
            self.held.clear()
        self._weights = place
        self.held = [step for step in self.held if step.alive]


_batches: weakref.WeakKeyDictionary[LlamaDecoder, StaticBatches] = weakref.WeakKeyDictionary()


def static_batches(decoder: LlamaDecoder) -> StaticBatches:
    """Those of this decoder; they go when it goes."""
    return _batches.setdefault(decoder, StaticBatches())
