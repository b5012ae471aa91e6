"""Prefill and decode against the slow reference engine, token for token; how they stop."""

import dataclasses
import math

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode, greedy, make_sampler
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.parity.reference_engine import reference_generate, reference_logits
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import DecoderShape, kv_bytes
from ada3d_ros.types import PromptSequence, StopReason


def make_decoder(num_kv_heads: int = 2, max_positions: int = 4096) -> LlamaDecoder:
    torch.manual_seed(0)
    decoder = LlamaDecoder(
        DecoderConfig(97, 32, 64, 3, 4, num_kv_heads, max_positions=max_positions, eos_ids=(96,))
    )
    decoder.requires_grad_(False).eval()
    for name, parameter in decoder.named_parameters():
        parameter.copy_(
            1 + 0.1 * torch.randn_like(parameter)
            if "norm" in name
            else 0.2 * torch.randn_like(parameter)
        )
    return decoder


def make_prompt(length: int = 20, seed: int = 1) -> PromptSequence:
    embeds = torch.randn(length, 32, generator=torch.Generator().manual_seed(seed))
    return PromptSequence(embeds, torch.arange(length), (3, 12))


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("seed", [1, 3, 5])
def test_fast_path_equals_reference_engine(num_kv_heads: int, seed: int) -> None:
    decoder, prompt = make_decoder(num_kv_heads), make_prompt(seed=seed)
    seen: list[torch.Tensor] = []

    def recording(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits)
        return greedy(logits)

    output = decode(decoder, prefill(decoder, prompt), GenerationRequest(16, recording))
    ids, logits = reference_generate(decoder, prompt, 16)
    assert list(output.token_ids) == ids
    assert len(set(ids)) > 1  # not one token over and over
    assert (torch.stack(seen) - logits).abs().max() < 1e-4


def test_sampled_fast_path_equals_reference_engine() -> None:
    decoder, prompt = make_decoder(), make_prompt()
    cpu = torch.device("cpu")
    fast = decode(
        decoder, prefill(decoder, prompt), GenerationRequest(16, make_sampler(0.8, 0.9, 5, cpu))
    )
    slow, _ = reference_generate(decoder, prompt, 16, make_sampler(0.8, 0.9, 5, cpu))
    assert list(fast.token_ids) == slow
    assert slow != reference_generate(decoder, prompt, 16)[0]


def test_prefill_keeps_last_logits_all_tokens_and_per_layer_lengths() -> None:
    decoder, prompt = make_decoder(), make_prompt()
    output = prefill(decoder, prompt, reserve=7)
    assert torch.allclose(
        output.logits, reference_logits(decoder, prompt.embeds, prompt.positions)[-1], atol=1e-4
    )
    assert output.cache.lengths == (20, 20, 20)
    assert output.cache.num_bytes == kv_bytes(DecoderShape.from_config(decoder.config), [27] * 3, 4)
    assert output.next_positions == (20, 20, 20)
    assert [layer.tolist() for layer in output.kept] == [list(range(9))] * 3


def test_decode_grows_a_cache_without_reserve() -> None:
    decoder, prompt = make_decoder(), make_prompt()
    small, large = prefill(decoder, prompt, reserve=0), prefill(decoder, prompt, reserve=64)
    assert (
        decode(decoder, small, GenerationRequest(30)).token_ids
        == decode(decoder, large, GenerationRequest(30)).token_ids
    )
    assert small.cache.lengths == (49, 49, 49)  # the last token is not fed


def test_decode_goes_on_where_layers_hold_different_numbers_of_tokens() -> None:
    """As after pruning: layer 0 keeps 20 tokens, layers 1 and 2 keep 12, all go on at 20."""
    decoder, prompt = make_decoder(), make_prompt()
    keep = torch.tensor([0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19])
    cache = KVCache(3, reserve=8)
    hidden = decoder.run_layers(0, 1, prompt.embeds[None], prompt.positions, cache)
    hidden = decoder.run_layers(1, 3, hidden[:, keep], prompt.positions[keep], cache)
    pruned = dataclasses.replace(
        prefill(decoder, prompt), cache=cache, logits=decoder.logits(hidden[0, -1])
    )
    output = decode(decoder, pruned, GenerationRequest(5))
    assert len(output.token_ids) == 5
    assert cache.lengths == (24, 16, 16)
    assert (
        output.token_ids
        != decode(decoder, prefill(decoder, prompt), GenerationRequest(5)).token_ids
    )


def test_stop_reasons() -> None:
    decoder, prompt = make_decoder(), make_prompt()
    free = decode(decoder, prefill(decoder, prompt), GenerationRequest(12))
    assert free.stop_reason is StopReason.MAX_TOKENS
    assert len(free.token_ids) == 12
    stop_at = free.token_ids[5]
    first = free.token_ids.index(stop_at)
    ending = make_decoder()
    ending.config = dataclasses.replace(ending.config, eos_ids=(stop_at,))
    ended = decode(ending, prefill(ending, prompt), GenerationRequest(12))
    assert ended.stop_reason is StopReason.EOS
    assert ended.token_ids == free.token_ids[:first]
    for reason in (StopReason.TIMEOUT, StopReason.CANCELED):
        words: list[int] = []
        stopped = decode(
            decoder,
            prefill(decoder, prompt),
            GenerationRequest(
                12, greedy, lambda w=words, r=reason: r if len(w) == 3 else None, words.append
            ),
        )
        assert stopped.stop_reason is reason
        assert list(stopped.token_ids) == words == list(free.token_ids[:3])


def test_stopped_before_the_first_token() -> None:
    decoder = make_decoder()
    output = decode(
        decoder,
        prefill(decoder, make_prompt()),
        GenerationRequest(4, should_stop=lambda: StopReason.CANCELED),
    )
    assert output.token_ids == ()
    assert math.isnan(output.mean_probability)


def test_generation_ends_with_the_models_positions() -> None:
    decoder = make_decoder(max_positions=23)
    output = decode(decoder, prefill(decoder, make_prompt(20)), GenerationRequest(12))
    assert len(output.token_ids) == 3
    assert output.stop_reason is StopReason.MAX_TOKENS


def test_output_that_is_not_finite_is_an_error() -> None:
    """Greedy decoding of NaN logits would give some token, and the robot a meaningless answer."""
    decoder = make_decoder()
    decoder.norm.weight[3] = float("inf")
    with pytest.raises(ModelError, match="not finite"):
        prefill(decoder, make_prompt())


def test_mean_probability_is_that_of_the_chosen_tokens() -> None:
    decoder, prompt = make_decoder(), make_prompt()
    ids, logits = reference_generate(decoder, prompt, 6)
    expected = torch.softmax(logits, dim=-1)[torch.arange(6), torch.tensor(ids)].mean()
    assert decode(
        decoder, prefill(decoder, prompt), GenerationRequest(6)
    ).mean_probability == pytest.approx(float(expected), abs=1e-5)
