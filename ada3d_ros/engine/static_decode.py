"""Decode steps of fixed shapes: nothing grows and nothing waits for the host, so a CUDA graph can
hold a whole step.

Buffers are larger than what they hold; every step attends over all of a buffer, with what lies
behind its length masked. A graph works in the buffers that were there at its capture. Those of a
cache that is kept between questions are adopted, and nothing is copied; what a question holds for
itself is copied into buffers of ours, in buckets.

The rule of buckets: each layer's capacity is what the question needs, its answer included, and
GRANULE / 2 more, rounded up to a multiple of GRANULE. A held bucket serves a later question that
fits into every layer of it and needs at least 1 / MAX_WASTE of it. So there is a bucket, and one
capture, per budget in use, whatever the lengths of questions; buckets that fit share one set of
buffers.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ada3d_ros.engine.cuda_graph import Retries, can_capture, record
from ada3d_ros.engine.decode import Stepped, after
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.timing import on_device
from ada3d_ros.model.decoder import LlamaDecoder, attend_one

GRANULE = 128  # tokens that capacities are multiples of
MAX_HELD = 8  # graphs per decoder; the one unused for longest goes
MAX_COPIES = 3  # memory of all our buffers, in that of the largest
MAX_ROOM = 4  # a bucket with so many times another's room for answers goes with its question
MAX_WASTE = 1.25  # a bucket is used again where it reads at most so many times what is needed
ALIGNED = 16  # mask rows begin at multiples of so many elements, else SDPA copies them


class StaticStep:
    """One decode step on buffers (2, 1, G, capacity_i, d) that stay where they are, each with its
    own length and position.

    The state is on the device: what is fed (D,), positions and lengths (L,) int64; a step moves
    both on by one.
    """

    def __init__(
        self,
        buffers: Sequence[torch.Tensor],
        width: int,
        storage: Sequence[torch.Tensor] = (),
        room: int = 0,
    ) -> None:
        """width: D. storage: of ours, one per layer, in which the buffers lie, with `room` for so
        many more tokens; otherwise they are someone's cache and go when that lets them go.
        """
        self._buffers, self.storage = tuple(map(weakref.ref, buffers)), tuple(storage)
        self._ours = tuple(buffers) if storage else ()  # keeps them
        self.room, device = max(room, GRANULE), buffers[0].device
        self.capacities = tuple(buffer.shape[3] for buffer in buffers)
        slots = -(-max(self.capacities) // ALIGNED) * ALIGNED
        self.fed = buffers[0].new_zeros(width)
        self._state = torch.zeros(2, len(buffers), dtype=torch.int64, device=device)
        self.lengths, self.positions = self._state
        self._slots = torch.arange(slots, device=device)
        self._graph: Any = None
        self._after: Stepped | None = None  # where the graph leaves that

    @property
    def ours(self) -> bool:
        """Whether caches are copied into the buffers."""
        return bool(self.storage)

    @property
    def own_bytes(self) -> int:
        """Memory of the buffers that are ours."""
        return sum(flat.nbytes for flat in self.storage)

    @property
    def captured(self) -> bool:
        return self._graph is not None

    @property
    def buffers(self) -> tuple[torch.Tensor, ...]:
        """None are left where the cache they belonged to has let them go."""
        alive = [ref() for ref in self._buffers]
        return () if None in alive else tuple(b for b in alive if b is not None)

    def is_on(self, cache: KVCache) -> bool:
        """Whether the buffers are the cache's own."""
        mine, theirs = self.buffers, cache.buffers
        return bool(mine) and all(map(operator.is_, mine, theirs))

    def start(self, lengths: Sequence[int], positions: Sequence[int]) -> None:
        """What the layers hold, and the position of the next token in each. Forgets what lies
        behind: a NaN left there would pass the mask.
        """
        self._state.copy_(torch.tensor([list(lengths), list(positions)]))
        for buffer, length in zip(self.buffers, lengths, strict=True):
            buffer[:, :, :, length:].zero_()

    def load(self, cache: KVCache) -> None:
        """Copies what `cache` holds into the buffers, in their number format."""
        for layer, buffer in enumerate(self.buffers):
            cache.copy_to(layer, buffer)

    def __call__(self, decoder: LlamaDecoder, fed: torch.Tensor) -> Stepped:
        """What follows the embedding `fed` (D,); the next step may write over it."""
        self.fed.copy_(fed)
        if self._graph is None or self._after is None:
            return self._run(decoder)
        self._graph.replay()
        return self._after

    def capture(self, decoder: LlamaDecoder) -> None:
        """Record the step as a CUDA graph, after warm-up on the same side stream; lengths must
        leave room for one token.

        Raises RuntimeError where CUDA refuses. Lengths and positions stay as they are.
        """
        self._graph, self._after = record(lambda: self._run(decoder), self._state)

    def _run(self, decoder: LlamaDecoder) -> Stepped:
        buffers = self.buffers
        hidden = self.fed.view(1, 1, -1)
        cos, sin = decoder.rope(self.positions)  # (1, 1, L, d)
        hidden_slots = self._slots > self.lengths[:, None]  # (L, slots)
        bias = torch.zeros_like(hidden_slots, dtype=hidden.dtype).masked_fill(
            hidden_slots, -torch.inf
        )

        def attend(i: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            buffer, slot = buffers[i], self.lengths[i : i + 1]
            buffer[0].index_copy_(2, slot, k)
            buffer[1].index_copy_(2, slot, v)
            mask = bias[i : i + 1, : self.capacities[i]][None, None]  # a row's stride is aligned
            return attend_one(q, buffer[0], buffer[1], mask)

        for i, layer in enumerate(decoder.layers):
            hidden = layer(hidden, (cos[:, :, i : i + 1], sin[:, :, i : i + 1]), i, attend, None)
        self._state += 1
        return after(decoder, hidden[0, -1])


class StaticSteps:
    """The static steps of one decoder, at most MAX_HELD; one thread decodes with them at a time."""

    def __init__(self) -> None:
        self.held: list[StaticStep] = []  # the one used last is the last
        self._adopted: weakref.WeakSet[KVCache] = weakref.WeakSet()
        self._busy = threading.Lock()
        self._weights = 0  # where the weights were at capture
        self._retries = Retries("the decode step")

    @contextmanager
    def lent(
        self, decoder: LlamaDecoder, cache: KVCache, positions: Sequence[int], tokens: int
    ) -> Iterator[StaticStep | None]:
        """A step that starts where `cache` ends, with room for `tokens` more; positions: of the
        next token, per layer.

        Works in the cache's own buffers where they were adopted and have the room, else in a copy.
        None where another thread decodes, or CUDA refuses a graph (or the memory for it): it is
        asked again after 1, 2, 4 .. MAX_PAUSE questions.
        """
        if not self._busy.acquire(blocking=False):
            yield None
            return
        try:
            self._retries.count_question()
            step = self._find(decoder, cache, tokens)
            if step is not None:
                step.start(cache.lengths, positions)
            yield step
        finally:
            # What a long answer took goes with it.
            self._drop_roomy(min((s.room for s in self.held if s.ours), default=0))
            self._busy.release()

    @torch.inference_mode()
    def adopt(self, decoder: LlamaDecoder, cache: KVCache) -> None:
        """Work in the buffers of `cache`, which its owner keeps between questions: a graph is
        captured now, and again at a question after they have moved. Every layer needs room for a
        token.
        """
        with self._busy:
            self._adopted.add(cache)
            self._forget_gone(decoder)
            if cache.has_room(1):
                self._on(decoder, cache)

    def clear(self) -> None:
        """Free all graphs and our buffers; a refused capture is tried again at once."""
        with self._busy:
            self.held.clear()
            self._retries.forget()

    def _find(self, decoder: LlamaDecoder, cache: KVCache, tokens: int) -> StaticStep | None:
        self._forget_gone(decoder)
        # First choice: in this very cache; nothing is copied.
        if cache in self._adopted and cache.has_room(max(tokens, 1)):
            return self._on(decoder, cache)
        # Second choice: the held bucket that reads least; else a new one.
        self._drop_roomy(max(tokens, GRANULE))
        needed = [length + tokens for length in cache.lengths]
        rounded = [-(-(n + GRANULE // 2) // GRANULE) * GRANULE for n in needed]
        buckets = [
            s
            for s in self.held
            if s.ours
            and all(map(operator.ge, s.capacities, needed))
            and sum(s.capacities) <= MAX_WASTE * sum(rounded)
        ]
        step = min(buckets, key=lambda s: sum(s.capacities), default=None)
        if step is None:
            like = cache.buffers
            step = self._captured(
                decoder, lambda: self._bucket(decoder, like, rounded, tokens), [0] * len(like)
            )
        if step is not None:
            step.load(cache)
            self._use(step)
        return step

    def _on(self, decoder: LlamaDecoder, cache: KVCache) -> StaticStep | None:
        """A step in the cache's own buffers."""
        step = next((s for s in self.held if not s.ours and s.is_on(cache)), None)
        if step is None:
            width = decoder.config.hidden_size
            step = self._captured(decoder, lambda: StaticStep(cache.buffers, width), cache.lengths)
        if step is not None:
            self._use(step)
        return step

    def _bucket(
        self,
        decoder: LlamaDecoder,
        like: Sequence[torch.Tensor],
        capacities: Sequence[int],
        room: int,
    ) -> StaticStep:
        """A step in buffers of ours like these, of those capacities, `room` of each for answers."""
        shapes = [
            torch.Size((*b.shape[:3], n, b.shape[4])) for b, n in zip(like, capacities, strict=True)
        ]
        storage = self._storage(decoder, [shape.numel() for shape in shapes])
        buffers = [
            flat[: shape.numel()].view(shape) for flat, shape in zip(storage, shapes, strict=True)
        ]
        return StaticStep(buffers, decoder.config.hidden_size, storage, room)

    def _storage(self, decoder: LlamaDecoder, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Memory of at least so many elements per layer: that of another bucket, or zeros, large
        enough for all buckets where there are some.
        """
        shared = {id(s.storage): s.storage for s in self.held if s.ours}
        for storage in shared.values():
            if all(len(flat) >= size for flat, size in zip(storage, sizes, strict=True)):
                return storage
        largest = [max(n) for n in zip(sizes, *(map(len, s) for s in shared.values()), strict=True)]
        return tuple(torch.zeros(n, dtype=decoder.dtype, device=decoder.device) for n in largest)

    def _captured(
        self, decoder: LlamaDecoder, make: Callable[[], StaticStep], lengths: Sequence[int]
    ) -> StaticStep | None:
        """What `make` makes, captured; as it is where there is no CUDA. None where CUDA refuses, or
        did a short while ago.
        """
        if not can_capture(decoder.device):
            return make()
        if not self._retries.due:
            return None
        try:
            with on_device(decoder.device):
                step = make()
                step.start(lengths, [0] * len(lengths))
                step.capture(decoder)
        except RuntimeError as error:
            self.held = [step for step in self.held if not step.ours]  # frees what is ours
            self._retries.refused(error)
            return None
        self._retries.succeeded()
        return step

    def _drop_roomy(self, usual: int) -> None:
        """Drop buckets for much longer answers than of `usual` tokens."""
        self.held = [s for s in self.held if not s.ours or s.room <= MAX_ROOM * usual]

    def _use(self, step: StaticStep) -> None:
        """The newest of those held, at most MAX_HELD and MAX_COPIES of its memory."""
        self.held = [s for s in self.held if s is not step] + [step]
        self.held = self.held[-MAX_HELD:]
        while self._own_bytes() > MAX_COPIES * max(s.own_bytes for s in self.held):
            self.held.remove(next(s for s in self.held if s.ours))

    def _own_bytes(self) -> int:
        """Memory of all our buffers, shared ones once."""
        return sum({id(s.storage): s.own_bytes for s in self.held}.values())

    def _forget_gone(self, decoder: LlamaDecoder) -> None:
        """Graphs that read where weights or keys no longer are."""
        place = decoder.lm_head.weight.data_ptr()
        if place != self._weights:
            self.held.clear()
        self._weights = place
        self.held = [step for step in self.held if step.buffers]


_steps: weakref.WeakKeyDictionary[LlamaDecoder, StaticSteps] = weakref.WeakKeyDictionary()


def static_steps(decoder: LlamaDecoder) -> StaticSteps:
    """Those of this decoder; they go when it goes."""
    return _steps.setdefault(decoder, StaticSteps())
