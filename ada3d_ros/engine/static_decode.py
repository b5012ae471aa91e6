"""Decode steps of fixed shapes: nothing grows and nothing waits for the host, so a CUDA graph can
hold a whole step.

Buffers are larger than what they hold; every step attends over all of a buffer, with what lies
behind its length masked.
"""

from __future__ import annotations

import logging
import operator
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.model.decoder import LlamaDecoder, attend_one

GRANULE = (
    128  # capacities are multiples of it, so that caches of nearly the same lengths share a graph
)
MAX_HELD = 2  # graphs with their buffers per decoder; the one unused for longest goes
MAX_ROOM = 4  # a graph with so many times another's room for answers goes with its question
MAX_WASTE = 1.25  # a held graph is used again where it reads at most so many times what is needed
WARM_UPS = 3

_log = logging.getLogger(__name__)


def can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


class StaticStep:
    """One decode step on buffers (2, 1, G, capacity_i, d) that stay where they are, each with its
    own length and position.

    The state is on the device: token () int64, positions and lengths (L,) int64; a step moves both
    on by one.
    """

    def __init__(self, buffers: Sequence[torch.Tensor], ours: bool = False, room: int = 0) -> None:
        """ours: caches are copied into the buffers, with `room` for so many more tokens; otherwise
        they are someone's cache.
        """
        self.buffers, self.ours, device = tuple(buffers), ours, buffers[0].device
        self.room = max(room, GRANULE)
        self.capacities = tuple(buffer.shape[3] for buffer in self.buffers)
        self.token = torch.zeros((), dtype=torch.int64, device=device)
        self.positions = torch.zeros(len(self.buffers), dtype=torch.int64, device=device)
        self.lengths = torch.zeros_like(self.positions)
        self._slots = torch.arange(max(self.capacities), device=device)
        self._graph: Any = None
        self._logits: torch.Tensor | None = None  # where the graph leaves them

    def start(self, lengths: Sequence[int], positions: Sequence[int]) -> None:
        """What the layers hold, and the position of the next token in each. Forgets what lies
        behind: a NaN left there would pass the mask.
        """
        self.lengths.copy_(torch.tensor(lengths))
        self.positions.copy_(torch.tensor(positions))
        for buffer, length in zip(self.buffers, lengths, strict=True):
            buffer[:, :, :, length:].zero_()

    def load(self, cache: KVCache) -> None:
        """Copies what `cache` holds into the buffers."""
        for layer, (buffer, length) in enumerate(zip(self.buffers, cache.lengths, strict=True)):
            for mine, held in zip(buffer, cache.held(layer), strict=True):
                mine[:, :, :length].copy_(held)

    def __call__(self, decoder: LlamaDecoder, token: torch.Tensor) -> torch.Tensor:
        """Logits (vocab,) after `token` () int64."""
        self.token.copy_(token)
        if self._graph is None or self._logits is None:
            return self._run(decoder)
        self._graph.replay()
        return self._logits.clone()  # the next replay writes there

    def capture(self, decoder: LlamaDecoder) -> None:
        """Record the step as a CUDA graph, after warm-up on a side stream; lengths must leave room
        for one token.

        Raises RuntimeError where CUDA refuses. Lengths and positions stay as they are.
        """
        device = self.token.device
        lengths, positions = self.lengths.clone(), self.positions.clone()
        side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._run(decoder)
                self.lengths.copy_(lengths)
                self.positions.copy_(positions)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._run(decoder)
        self._graph, self._logits = graph, logits

    def _run(self, decoder: LlamaDecoder) -> torch.Tensor:
        hidden = decoder.embed(self.token.view(1, 1))
        cos, sin = decoder.rope(self.positions)  # (1, 1, L, d)
        hidden_slots = self._slots > self.lengths[:, None]  # (L, largest capacity)
        bias = torch.zeros_like(hidden_slots, dtype=hidden.dtype).masked_fill(
            hidden_slots, -torch.inf
        )

        def attend(i: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self._put(i, k, v)
            return attend_one(q, keys, values, bias[i, : self.capacities[i]].view(1, 1, 1, -1))

        for i, layer in enumerate(decoder.layers):
            hidden = layer(hidden, (cos[:, :, i : i + 1], sin[:, :, i : i + 1]), i, attend, None)
        self.lengths += 1
        self.positions += 1
        return decoder.logits(hidden[0, -1])

    def _put(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores one token's keys and values (1, G, 1, d) at the layer's length; returns the whole
        buffers (1, G, capacity, d).
        """
        buffer, slot = self.buffers[layer], self.lengths[layer : layer + 1]
        buffer[0].index_copy_(2, slot, keys)
        buffer[1].index_copy_(2, slot, values)
        return buffer[0], buffer[1]


class StaticSteps:
    """The static steps of one decoder, at most MAX_HELD; one thread decodes with them at a time."""

    def __init__(self) -> None:
        self.held: list[StaticStep] = []  # the one used last is the last
        self._busy = threading.Lock()
        self._weights = 0  # where the weights were at capture
        self._refused = False

    @contextmanager
    def lent(
        self, decoder: LlamaDecoder, cache: KVCache, positions: Sequence[int], tokens: int
    ) -> Iterator[StaticStep | None]:
        """A step that starts where `cache` ends, with room for `tokens` more; positions: of the
        next token, per layer.

        Works in the cache's own buffers where a graph was captured on them (`adopt`), else in a
        copy. None where another thread decodes, or memory is short.
        """
        if not self._busy.acquire(blocking=False):
            yield None
            return
        step = None
        try:
            step = self._find(decoder, cache, tokens)
            if step is not None:
                step.start(cache.lengths, positions)
            yield step
        finally:
            if step is not None and any(
                s.ours and s.room * MAX_ROOM < step.room for s in self.held
            ):
                self.held.remove(step)
            self._busy.release()

    @torch.inference_mode()
    def adopt(self, decoder: LlamaDecoder, cache: KVCache) -> None:
        """Capture a graph on the buffers of `cache`, which its owner keeps in place; every layer
        needs room for one token.
        """
        with self._busy:
            self._forget_moved(decoder)
            self._add(decoder, StaticStep(cache.buffers), cache.lengths)

    def _find(self, decoder: LlamaDecoder, cache: KVCache, tokens: int) -> StaticStep | None:
        self._forget_moved(decoder)
        needed = [length + tokens for length in cache.lengths]
        rounded = [-(-length // GRANULE) * GRANULE for length in needed]
        with_room = [
            s
            for s in self.held
            if all(have >= n for have, n in zip(s.capacities, needed, strict=True))
        ]
        # First choice: a graph recorded on this very cache; nothing is copied.
        step = next(
            (s for s in with_room if all(map(operator.is_, s.buffers, cache.buffers))), None
        )
        if step is not None:
            return self._used(step)
        # Second choice: our own buffers, if not much too long; else new ones.
        step = next(
            (s for s in with_room if s.ours and sum(s.capacities) <= MAX_WASTE * sum(rounded)), None
        )
        if step is None:
            try:
                shapes = [
                    (*buffer.shape[:3], n, buffer.shape[4])
                    for buffer, n in zip(cache.buffers, rounded, strict=True)
                ]
                buffers = [
                    torch.zeros(s, dtype=decoder.dtype, device=decoder.device) for s in shapes
                ]
            except torch.OutOfMemoryError:
                self.held.clear()
                _log.warning("no memory for a second KV cache: decoding without a CUDA graph")
                return None
            step = self._add(decoder, StaticStep(buffers, True, tokens), [0] * len(buffers))
        step.load(cache)
        return self._used(step)

    def _add(self, decoder: LlamaDecoder, step: StaticStep, lengths: Sequence[int]) -> StaticStep:
        del self.held[: len(self.held) - MAX_HELD + 1]
        if can_capture(decoder.device) and not self._refused:
            try:
                step.start(lengths, lengths)
                step.capture(decoder)
            except RuntimeError as error:
                self._refused = True
                _log.warning(
                    "the decode step cannot be captured as a CUDA graph, decoding is slower: %s",
                    error,
                )
        self.held.append(step)
        return step

    def _used(self, step: StaticStep) -> StaticStep:
        self.held = [s for s in self.held if s is not step] + [step]
        return step

    def _forget_moved(self, decoder: LlamaDecoder) -> None:
        """Graphs that read where the weights no longer are."""
        place = decoder.lm_head.weight.data_ptr()
        if place != self._weights:
            self.held.clear()
        self._weights = place


_steps: weakref.WeakKeyDictionary[LlamaDecoder, StaticSteps] = weakref.WeakKeyDictionary()


def static_steps(decoder: LlamaDecoder) -> StaticSteps:
    """Those of this decoder; they go when it goes."""
    return _steps.setdefault(decoder, StaticSteps())
