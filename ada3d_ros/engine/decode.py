"""Decode: one token per step on the KV cache, until end of sequence, a limit, or a word from the
caller.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.onednn import without_onednn
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.sampling import Sampler, greedy
from ada3d_ros.engine.static_decode import static_steps
from ada3d_ros.engine.timing import synchronize
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import NAN, StopReason

ShouldStop = Callable[[], StopReason | None]  # TIMEOUT or CANCELED to stop, None to go on
OnToken = Callable[[int], None]


@dataclass(frozen=True, eq=False, slots=True)
class DecodeOutput:
    """token_ids without the end-of-sequence id; mean_probability: of the chosen tokens (the end one
    included) at temperature 1, NaN where none was chosen; first_token_s: sampling of the first
    token; decode_s: all after it.
    """

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    mean_probability: float = NAN
    first_token_s: float = NAN
    decode_s: float = NAN


def decode_step(
    decoder: LlamaDecoder, token: torch.Tensor, positions: Sequence[int], cache: KVCache
) -> torch.Tensor:
    """Logits (vocab,) after `token` () int64 at positions[i] in layer i; its keys and values are
    added to the cache.
    """
    hidden, start = decoder.embed(token.view(1, 1)), 0
    with without_onednn(hidden):
        for position, layers in itertools.groupby(
            positions
        ):  # one run, unless pruning counted positions anew
            stop = start + len(list(layers))
            hidden = decoder.run_layers(
                start, stop, hidden, torch.tensor([position], device=token.device), cache
            )
            start = stop
        return decoder.logits(hidden[0, -1])


class _GrowingSteps:
    """Steps on the cache itself, which grows where it must."""

    def __init__(self, decoder: LlamaDecoder, prefilled: PrefillOutput) -> None:
        self._decoder, self._prefilled, self._fed = decoder, prefilled, 0

    def __call__(self, token: torch.Tensor) -> torch.Tensor:
        positions = [first + self._fed for first in self._prefilled.next_positions]
        self._fed += 1
        return decode_step(self._decoder, token, positions, self._prefilled.cache)


class _Reading:
    """Token ids on their way to the host: the copy is queued at once, `read` waits for it and not
    for what came after.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda, self._token = device.type == "cuda", torch.empty(0)
        if self._cuda:
            self._host = torch.empty((), dtype=torch.int64, pin_memory=True)
            self._arrived = torch.cuda.Event()

    def start(self, token: torch.Tensor) -> None:
        self._token = token
        if self._cuda:
            self._host.copy_(token, non_blocking=True)
            self._arrived.record()

    def read(self) -> int:
        if not self._cuda:
            return int(self._token)
        self._arrived.synchronize()
        return int(self._host)


@torch.inference_mode()
def decode(
    decoder: LlamaDecoder,
    prefilled: PrefillOutput,
    max_new_tokens: int,
    sampler: Sampler = greedy,
    should_stop: ShouldStop = lambda: None,
    on_token: OnToken = lambda token_id: None,
    ahead: int | None = None,
    static: bool | None = None,
) -> DecodeOutput:
    """Generates up to max_new_tokens, fewer where the model's positions end. Uses up
    `prefilled.cache`.

    should_stop is read before every token; on_token gets each id that is part of the answer, as
    soon as it is chosen. ahead 1: the step after a token is queued before its id is read, so that
    the device never waits for the host; after the last id it was for nothing. static: steps of
    fixed shapes (engine/graphs.py), in a CUDA graph where there is CUDA; the cache's lengths then
    stay. Both: yes on CUDA, no on a CPU. Neither changes the answer. A cache with room for
    max_new_tokens - 1 tokens is not moved.
    """
    cuda = decoder.device.type == "cuda"
    ahead = int(cuda) if ahead is None else ahead
    assert ahead in (0, 1), "one step at most"
    limit = min(max_new_tokens, decoder.config.max_positions - max(prefilled.next_positions))
    with ExitStack() as stack:
        step: Callable[[torch.Tensor], torch.Tensor] = _GrowingSteps(decoder, prefilled)
        if limit > 1 and prefilled.cache.plain and (cuda if static is None else static):
            lender = static_steps(decoder).lent(
                decoder, prefilled.cache, prefilled.next_positions, limit - 1
            )
            lent = stack.enter_context(lender)
            step = step if lent is None else functools.partial(lent, decoder)
        return _decode(decoder, prefilled, limit, step, ahead == 1, sampler, should_stop, on_token)


def _decode(
    decoder: LlamaDecoder,
    prefilled: PrefillOutput,
    limit: int,
    step: Callable[[torch.Tensor], torch.Tensor],
    ahead: bool,
    sampler: Sampler,
    should_stop: ShouldStop,
    on_token: OnToken,
) -> DecodeOutput:
    token_ids: list[int] = []
    probabilities: list[torch.Tensor] = []
    logits, start, first_token_s = prefilled.logits, time.perf_counter(), NAN
    reason, reading, cache = StopReason.MAX_TOKENS, _Reading(decoder.device), prefilled.cache
    while len(token_ids) < limit:
        stop = should_stop()
        if stop is not None:
            reason = stop
            break
        token = sampler(logits)
        probabilities.append(torch.softmax(logits.float(), dim=-1).gather(0, token.view(1)))
        reading.start(token)
        last, lengths = len(token_ids) + 1 == limit, cache.lengths
        if ahead and not last:
            logits = step(token)
        token_id = reading.read()  # waits for the device, though not for the step ahead
        if len(probabilities) == 1:
            first_token_s = time.perf_counter() - start
        if token_id == decoder.config.eos_id:
            reason = StopReason.EOS
            cache.set_lengths(lengths)
            break
        token_ids.append(token_id)
        on_token(token_id)
        if not ahead and not last:
            logits = step(token)
    synchronize(decoder.device)
    return DecodeOutput(
        token_ids=tuple(token_ids),
        stop_reason=reason,
        mean_probability=float(torch.cat(probabilities).mean()) if probabilities else NAN,
        first_token_s=first_token_s,
        decode_s=time.perf_counter() - start - first_token_s,
    )
