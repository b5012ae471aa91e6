"""Decode: one token per step on the KV cache, until end of sequence, a limit, or a stop."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput, not_finite
from ada3d_ros.engine.timing import Now, synchronize
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import NAN, StopReason

Sampler = Callable[
    [torch.Tensor], torch.Tensor
]  # logits (vocab,) to a token id () int64 on the same device

StoppingCriteria = Callable[[], StopReason | None]  # TIMEOUT or CANCELED to stop, None to go on
OnToken = Callable[[int], None]
Step = Callable[[torch.Tensor], torch.Tensor]  # a token id () int64 to the logits (vocab,) after it

NO_TOKEN = -1  # read instead of the id that was chosen of logits that are not finite


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The most likely token; the lowest id of equals."""
    return logits.argmax(dim=-1)


@dataclass(eq=False)
class GenerationRequest:
    """What is asked of decode: at most max_new_tokens, chosen by `sampler`.

    should_stop is read before every token; on_token gets each id that is part of the answer, as
    soon as it is chosen. now: the clock that times are read from.
    """

    max_new_tokens: int
    sampler: Sampler = greedy
    should_stop: StoppingCriteria = lambda: None
    on_token: OnToken = lambda token_id: None
    now: Now = time.perf_counter


@dataclass(frozen=True, eq=False, slots=True)
class DecodeOutput:
    """token_ids without the end-of-sequence id; mean_probability: of the chosen tokens (the end one
    included) at temperature 1, NaN where none was chosen; first_token_s: sampling of the first
    token; decode_s: all after it; text: where the ids were decoded; error: why there is no answer,
    of one question of a batch.
    """

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    mean_probability: float = NAN
    first_token_s: float = NAN
    decode_s: float = NAN
    text: str = ""
    error: ModelError | None = None


@torch.inference_mode()
def decode(
    decoder: LlamaDecoder,
    prefilled: PrefillOutput,
    request: GenerationRequest,
    steps_ahead: int | None = None,
    static: bool | None = None,
) -> DecodeOutput:
    """Generates up to request.max_new_tokens, fewer where the model's positions end. Uses up
    `prefilled.cache`.

    steps_ahead 1: the step after a token is queued before its id is read, so that the device never
    waits for the host; after the last id it was for nothing. static: steps of fixed shapes
    (engine/static_decode.py), in a CUDA graph where there is CUDA; the cache's lengths then stay.
    Both: yes on CUDA, no on a CPU. Neither changes the answer. A cache with room for
    max_new_tokens - 1 tokens is not moved. Raises ModelError at the first token whose logits are
    not finite.
    """
    cuda = decoder.device.type == "cuda"
    ahead = int(cuda) if steps_ahead is None else steps_ahead
    assert ahead in (0, 1), "one step at most"
    limit = min(
        request.max_new_tokens, decoder.config.max_positions - max(prefilled.next_positions)
    )
    with ExitStack() as stack:
        step = _growing_step(decoder, prefilled)
        if limit > 1 and prefilled.cache.plain and (cuda if static is None else static):
            from ada3d_ros.engine.static_decode import static_steps  # where steps are static

            lender = static_steps(decoder).lent(
                decoder, prefilled.cache, prefilled.next_positions, limit - 1
            )
            lent = stack.enter_context(lender)
            step = step if lent is None else functools.partial(lent, decoder)
        return _generate(decoder, prefilled, request, step, limit, ahead == 1)


def _generate(
    decoder: LlamaDecoder,
    prefilled: PrefillOutput,
    request: GenerationRequest,
    step: Step,
    limit: int,
    ahead: bool,
) -> DecodeOutput:
    token_ids: list[int] = []
    probabilities: list[torch.Tensor] = []
    logits, start, first_token_s = prefilled.logits, request.now(), NAN
    reason, cache = StopReason.MAX_TOKENS, prefilled.cache
    read_later = _host_reader(decoder.device) if decoder.device.type == "cuda" else None
    while len(token_ids) < limit:
        stop = request.should_stop()
        if stop is not None:
            reason = stop
            break

        # Choose a token; its id is on the way to the host while the next step may run already.
        token = request.sampler(logits)
        probabilities.append(torch.softmax(logits.float(), dim=-1).gather(0, token.view(1)))
        checked = torch.where(torch.isfinite(logits).all(), token, NO_TOKEN)
        read = functools.partial(int, checked) if read_later is None else read_later(checked)
        last, lengths = len(token_ids) + 1 == limit, cache.lengths
        if ahead and not last:
            logits = step(token)
        token_id = read()  # waits for the device, though not for the step ahead
        if token_id == NO_TOKEN:
            raise not_finite(logits.dtype)
        if len(probabilities) == 1:
            first_token_s = request.now() - start

        # The end-of-sequence token is no part of the answer, nor is the step queued after it.
        if token_id == decoder.config.eos_id:
            reason = StopReason.EOS
            cache.set_lengths(lengths)
            break
        token_ids.append(token_id)
        request.on_token(token_id)
        if not ahead and not last:
            logits = step(token)
    synchronize(decoder.device)
    return DecodeOutput(
        token_ids=tuple(token_ids),
        stop_reason=reason,
        mean_probability=float(torch.cat(probabilities).mean()) if probabilities else NAN,
        first_token_s=first_token_s,
        decode_s=request.now() - start - first_token_s,
    )


def decode_step(
    decoder: LlamaDecoder, token: torch.Tensor, positions: Sequence[int], cache: KVCache
) -> torch.Tensor:
    """Logits (vocab,) after `token` () int64 at positions[i] in layer i; its keys and values are
    added to the cache.
    """
    hidden, start = decoder.embed(token.view(1, 1)), 0
    with without_onednn(hidden):
        # One run of layers, unless pruning counted positions anew.
        for position, layers in itertools.groupby(positions):
            stop = start + len(list(layers))
            at = torch.tensor([position], device=token.device)
            hidden = decoder.run_layers(start, stop, hidden, at, cache)
            start = stop
        return decoder.logits(hidden[0, -1])


def _growing_step(decoder: LlamaDecoder, prefilled: PrefillOutput) -> Step:
    """Steps on the cache itself, which grows where it must."""
    fed = itertools.count()

    def step(token: torch.Tensor) -> torch.Tensor:
        positions = list(map(next(fed).__add__, prefilled.next_positions))
        return decode_step(decoder, token, positions, prefilled.cache)

    return step


def _host_reader(device: torch.device) -> Callable[[torch.Tensor], Callable[[], int]]:
    """Starts to copy a token id from a GPU; what is handed out waits for that alone."""
    host = torch.empty((), dtype=torch.int64, pin_memory=True)
    arrived = torch.cuda.Event()

    def wait() -> int:
        arrived.synchronize()
        return int(host)

    def start(token: torch.Tensor) -> Callable[[], int]:
        host.copy_(token, non_blocking=True)
        arrived.record()
        return wait

    return start


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
