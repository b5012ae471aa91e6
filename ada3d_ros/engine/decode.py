"""Decode: one token per step on the KV cache, until end of sequence, a limit, or a stop."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from ada3d_ros.engine.kv_cache import Int8KVCache, KVCache
from ada3d_ros.engine.prefill import PrefillOutput, not_finite
from ada3d_ros.engine.repetition import penalty_for
from ada3d_ros.engine.timing import Now, on_device, synchronize
from ada3d_ros.errors import ConfigError, ModelError, QuestionTooLongError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import NAN, StopReason

if TYPE_CHECKING:
    from ada3d_ros.engine.places import Place, Pointer

Sampler = Callable[
    [torch.Tensor], torch.Tensor
]  # logits (vocab,) to a token id () int64 on the same device

StoppingCriteria = Callable[[], StopReason | None]  # TIMEOUT or CANCELED to stop, None to go on
OnToken = Callable[[int], None]
Step = Callable[[torch.Tensor], "Stepped"]  # of what is fed, (D,)

NO_TOKEN = -1  # read instead of the id that was chosen of logits that are not finite


class Stepped(NamedTuple):
    """What follows a token: logits (..., vocab), and the final normed state (..., D) that they are
    made of. The next step may write over both.
    """

    logits: torch.Tensor
    state: torch.Tensor


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token; the lowest id of equals."""
    return logits.argmax(dim=-1)


@dataclass(eq=False)
class GenerationRequest:
    """What is asked of decode: at most max_new_tokens, chosen by `sampler`.

    should_stop is read before every token; on_token gets each id that is part of the answer, as
    soon as it is chosen. now: the clock that times are read from. pointer: of a model that points
    before it speaks (engine/places.py); the prefill kept its states then. repetition_penalty: of
    what was said already (engine/repetition.py), 1 for none.
    """

    max_new_tokens: int
    sampler: Sampler = greedy
    should_stop: StoppingCriteria = lambda: None
    on_token: OnToken = lambda token_id: None
    now: Now = time.perf_counter
    pointer: Pointer | None = None
    repetition_penalty: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class DecodeOutput:
    """token_ids without the end-of-sequence id; mean_probability: of the chosen tokens (the end one
    included) at temperature 1 and before a repetition penalty, NaN where none was chosen;
    first_token_s: sampling of the first token; decode_s: all after it, the capture of a CUDA graph
    included; text: where the ids were decoded; error: why there is no answer, of one question of a
    batch; own_kv_bytes: memory of keys and values that decoding held beside the prefill's cache;
    places: those pointed at, in order, in the model's world, one for each token that points.
    """

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    mean_probability: float = NAN
    first_token_s: float = NAN
    decode_s: float = NAN
    text: str = ""
    error: ModelError | None = None
    own_kv_bytes: int = 0
    places: tuple[Place, ...] = ()


@torch.inference_mode()
def decode(
    decoder: LlamaDecoder,
    prefilled: PrefillOutput,
    request: GenerationRequest,
    static: bool | None = None,
) -> DecodeOutput:
    """Generates up to request.max_new_tokens, fewer where the model's positions end. Uses up
    `prefilled.cache`.

    static: steps of fixed shapes (engine/static_decode.py), in a CUDA graph where there is CUDA;
    the cache's lengths then stay. Yes on CUDA, no on a CPU; the answer is the same. A cache with
    room for max_new_tokens - 1 tokens is not moved. Raises ModelError at the first token whose
    logits are not finite, QuestionTooLongError where no position is left for one.
    """
    room = decoder.config.max_positions - max(prefilled.next_positions)
    if room <= 0:
        raise QuestionTooLongError(
            f"the prompt ends at position {max(prefilled.next_positions)}, the model's at"
            f" {decoder.config.max_positions}: no room for an answer. Ask a shorter question or"
            " keep fewer views (keyframe.max_views)."
        )
    limit = min(request.max_new_tokens, room)
    static = decoder.device.type == "cuda" if static is None else static
    with on_device(decoder.device), _Steps(decoder, prefilled, limit - 1, static) as steps:
        return _generate(decoder, prefilled, request, steps, limit)


def prepare_decoding(decoder: LlamaDecoder, cache: KVCache) -> None:
    """Have answers to questions on `cache` decoded in its own buffers, of which a CUDA graph is
    captured now, and anew after they have moved. For a cache that is kept between questions; on a
    CPU nothing is to prepare.
    """
    if decoder.device.type == "cuda" and cache.plain:
        from ada3d_ros.engine.static_decode import static_steps  # where steps are static

        with on_device(decoder.device):
            static_steps(decoder).adopt(decoder, cache)


def free_decoding(decoder: LlamaDecoder) -> None:
    """Free CUDA graphs and their buffers, which the next answers make anew, and torch's cache."""
    if decoder.device.type == "cuda":
        from ada3d_ros.engine.static_batch import static_batches  # where steps are static
        from ada3d_ros.engine.static_decode import static_steps

        static_steps(decoder).clear()
        static_batches(decoder).clear()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # of a GPU that no longer works; what is next says so
            torch.cuda.empty_cache()


def _generate(
    decoder: LlamaDecoder,
    prefilled: PrefillOutput,
    request: GenerationRequest,
    steps: _Steps,
    limit: int,
) -> DecodeOutput:
    token_ids: list[int] = []
    probabilities: list[torch.Tensor] = []
    logits, states, pointer = prefilled.logits, prefilled.states, request.pointer
    state = None if states is None else states.query
    penalty = penalty_for(request.repetition_penalty, logits)
    start, first_token_s = request.now(), NAN
    reason, is_queued = StopReason.MAX_TOKENS, decoder.device.type == "cuda"
    read_later = _host_reader(decoder.device) if is_queued else None
    while len(token_ids) < limit:
        stop = request.should_stop()
        if stop is not None:
            reason = stop
            break

        # Choose a token and wait for its id: no step is paid for what comes after the last one.
        offered = logits if pointer is None else pointer.offered(logits)
        token = request.sampler(offered if penalty is None else penalty(offered))
        probabilities.append(torch.softmax(offered.float(), dim=-1).gather(0, token.view(1)))
        checked = torch.where(torch.isfinite(logits).all(), token, NO_TOKEN)
        token_id = int(checked) if read_later is None else read_later(checked)
        if token_id == NO_TOKEN:
            raise no_token(logits, pointer)
        if len(probabilities) == 1:
            first_token_s = request.now() - start

        # The end-of-sequence token is no part of the answer.
        if token_id in decoder.config.eos_ids:
            reason = StopReason.EOS
            break
        token_ids.append(token_id)
        if penalty is not None:
            penalty.add(token_id)
        last = len(token_ids) == limit
        # What a token points at is fed in its place.
        place = None if pointer is None else pointer.embedding(token_id, state)
        # A GPU works on the next step while the caller hears of this token; a CPU would keep the
        # caller waiting for it.
        if is_queued and not last:
            logits, state = steps(token, place)
        request.on_token(token_id)
        if not is_queued and not last:
            logits, state = steps(token, place)
    synchronize(decoder.device)
    return DecodeOutput(
        token_ids=tuple(token_ids),
        stop_reason=reason,
        mean_probability=float(torch.cat(probabilities).mean()) if probabilities else NAN,
        first_token_s=first_token_s,
        decode_s=request.now() - start - first_token_s,
        own_kv_bytes=steps.own_bytes,
        places=() if pointer is None else pointer.places(),
    )


def no_token(logits: torch.Tensor, pointer: Pointer | None) -> ModelError:
    """Why none can be chosen of logits that are not finite: the place that was fed, or the model.

    Raises ModelError for a place that is not finite.
    """
    if pointer is not None:
        pointer.places()
    return not_finite(logits.dtype)


def after(decoder: LlamaDecoder, hidden: torch.Tensor) -> Stepped:
    """What follows tokens that have passed all layers, hidden (..., D)."""
    return Stepped(decoder.logits(hidden), decoder.norm(hidden))


def decode_step(
    decoder: LlamaDecoder, fed: torch.Tensor, positions: Sequence[int], cache: KVCache
) -> Stepped:
    """What follows the embedding `fed` (D,) of a token or place at positions[i] in layer i; its
    keys and values are added to the cache.
    """
    hidden, start = fed.view(1, 1, -1), 0
    with without_onednn(hidden):
        # One run of layers, unless pruning counted positions anew.
        for position, layers in itertools.groupby(positions):
            stop = start + len(list(layers))
            at = torch.full((1,), position, device=fed.device)  # not copied there: no wait
            hidden = decoder.run_layers(start, stop, hidden, at, cache)
            start = stop
        return after(decoder, hidden[0, -1])


class _Steps:
    """The steps of one answer: on its cache, which grows where it must, or of fixed shapes. All
    they need is made at the first one, when the first token is out.

    own_bytes: memory of keys and values that the steps hold beside the cache.
    """

    def __init__(
        self, decoder: LlamaDecoder, prefilled: PrefillOutput, tokens: int, static: bool
    ) -> None:
        """tokens: steps at most."""
        self._decoder, self._cache, self._static = decoder, prefilled.cache, static
        self._positions, self._tokens = prefilled.next_positions, tokens
        self._stack = ExitStack()
        self._step: Step | None = None
        self._fed = 0
        self.own_bytes = 0

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *raised: object) -> None:
        self._step = None
        self._stack.close()

    def __call__(self, token: torch.Tensor, place: torch.Tensor | None = None) -> Stepped:
        """What follows `token` () int64, or the embedding (D,) of a place in its stead."""
        if self._step is None:
            self._step = self._open_static() if self._static else None
            self._step = self._step or self._open_growing()
        stepped = self._step(self._decoder.embed(token) if place is None else place)
        self._fed += 1
        return stepped

    def _open_static(self) -> Step | None:
        from ada3d_ros.engine.static_decode import static_steps  # where steps are static

        lender = static_steps(self._decoder).lent(
            self._decoder, self._cache, self._positions, self._tokens
        )
        lent = self._stack.enter_context(lender)
        if lent is None:
            return None
        self.own_bytes = lent.own_bytes
        return functools.partial(lent, self._decoder)

    def _open_growing(self) -> Step:
        if isinstance(self._cache, Int8KVCache):
            self._cache = self._cache.in_model_format(self._tokens)
            self.own_bytes = self._cache.num_bytes
        return self._grow

    def _grow(self, fed: torch.Tensor) -> Stepped:
        positions = [first + self._fed for first in self._positions]
        return decode_step(self._decoder, fed, positions, self._cache)


def _host_reader(device: torch.device) -> Callable[[torch.Tensor], int]:
    """Copies a token id from this GPU and waits for that alone."""
    host = torch.empty((), dtype=torch.int64, pin_memory=True)
    arrived = torch.cuda.Event()

    def read(token: torch.Tensor) -> int:
        host.copy_(token, non_blocking=True)
        arrived.record(torch.cuda.current_stream(device))
        arrived.synchronize()
        return int(host)

    return read


_lock = threading.Lock()
_inside = 0  # threads between enter and exit: the switch is one for the whole process
_before = True


@contextmanager
def without_onednn(tensor: torch.Tensor) -> Iterator[None]:
    """Torch's own products inside, where `tensor` is bfloat16 on a CPU; sums are in float32 either
    way.

    For one row only: from eight rows on oneDNN is the faster one. A thread that multiplies
    meanwhile is slower, not wrong.
    """
    global _inside, _before
    if tensor.device.type != "cpu" or tensor.dtype != torch.bfloat16:
        yield
        return
    # The switch is the process's: the first that enters turns it, the last that leaves restores it.
    with _lock:
        if _inside == 0:
            _before = torch._C._get_mkldnn_enabled()
            torch._C._set_mkldnn_enabled(False)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch._C._set_mkldnn_enabled(_before)


# -- sampling


def nucleus_probabilities(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Probabilities (vocab,) float32 of the smallest set of tokens whose probability reaches top_p;
    0 for the others.
    """
    shifted = logits.float() - logits.max()  # so that no temperature can make the largest infinite
    probabilities = torch.softmax(shifted / temperature, dim=-1)
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p  # the token that crosses top_p stays
    kept = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0.0))
    return kept / kept.sum()


def make_sampler(temperature: float, top_p: float, seed: int, device: torch.device) -> Sampler:
    """temperature 0, or too small to divide by in float32: greedy, which is the limit. Otherwise a
    sampler with its own generator: the same seed gives the same answer.

    Raises ConfigError outside temperature 0..2 and top_p 0.01..1.
    """
    if not 0.0 <= temperature <= 2.0 or not 0.01 <= top_p <= 1.0:
        raise ConfigError(
            f"temperature = {temperature} (allowed 0 to 2), top_p = {top_p} (allowed 0.01 to 1)."
        )
    if temperature < torch.finfo(torch.float32).tiny:
        return greedy
    generator = torch.Generator(device).manual_seed(seed)

    def sample(logits: torch.Tensor) -> torch.Tensor:
        probabilities = nucleus_probabilities(logits, temperature, top_p)
        # torch.multinomial's own way for one draw, without its check, for which a GPU's host would
        # wait at every token.
        return probabilities.div_(
            torch.empty_like(probabilities).exponential_(1, generator=generator)
        ).argmax(dim=-1)

    return sample
