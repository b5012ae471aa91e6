"""Decode: one token per step on the KV cache, until end of sequence, a limit, or a word from the caller."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.sampling import Sampler, greedy
from ada3d_ros.engine.timing import synchronize
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import NAN, StopReason

ShouldStop = Callable[[], StopReason | None]  # TIMEOUT or CANCELED to stop, None to go on
OnToken = Callable[[int], None]


@dataclass(frozen=True, eq=False, slots=True)
class DecodeOutput:
    """token_ids without the end-of-sequence id; mean_probability: of the chosen tokens (the end one included) at
    temperature 1, NaN where none was chosen; first_token_s: sampling of the first token; decode_s: all after it."""

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    mean_probability: float = NAN
    first_token_s: float = NAN
    decode_s: float = NAN


def decode_step(decoder: LlamaDecoder, token: torch.Tensor, positions: Sequence[int], cache: KVCache) -> torch.Tensor:
    """Logits (vocab,) after `token` () int64 at positions[i] in layer i; its keys and values are added to the cache."""
    hidden, start = decoder.embed(token.view(1, 1)), 0
    for position, layers in itertools.groupby(positions):  # one run, unless pruning counted positions anew
        stop = start + len(list(layers))
        hidden = decoder.run_layers(start, stop, hidden, torch.tensor([position], device=token.device), cache)
        start = stop
    return decoder.logits(hidden[0, -1])


@torch.inference_mode()
def decode(
    decoder: LlamaDecoder,
    prefilled: PrefillOutput,
    max_new_tokens: int,
    sampler: Sampler = greedy,
    should_stop: ShouldStop = lambda: None,
    on_token: OnToken = lambda token_id: None,
) -> DecodeOutput:
    """Generates up to max_new_tokens, fewer where the model's positions end. Uses up `prefilled.cache`.

    should_stop is read before every token; on_token gets each id that is part of the answer, as soon as it is chosen.
    """
    limit = min(max_new_tokens, decoder.config.max_positions - max(prefilled.next_positions))
    token_ids: list[int] = []
    probabilities: list[torch.Tensor] = []
    logits, start, first_token_s = prefilled.logits, time.perf_counter(), NAN
    reason = StopReason.MAX_TOKENS
    while len(token_ids) < limit:
        stop = should_stop()
        if stop is not None:
            reason = stop
            break
        token = sampler(logits)
        probabilities.append(torch.softmax(logits.float(), dim=-1)[token])
        token_id = int(token)  # waits for the device
        if len(probabilities) == 1:
            first_token_s = time.perf_counter() - start
        if token_id == decoder.config.eos_id:
            reason = StopReason.EOS
            break
        token_ids.append(token_id)
        on_token(token_id)
        if len(token_ids) < limit:
            positions = [first + len(token_ids) - 1 for first in prefilled.next_positions]
            logits = decode_step(decoder, token, positions, prefilled.cache)
    synchronize(decoder.device)
    return DecodeOutput(
        token_ids=tuple(token_ids),
        stop_reason=reason,
        mean_probability=float(torch.stack(probabilities).mean()) if probabilities else NAN,
        first_token_s=first_token_s,
        decode_s=time.perf_counter() - start - first_token_s,
    )
