"""Repetition penalty and several ids that end an answer, in every way of decoding."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import DecodeOutput, GenerationRequest, decode, make_sampler
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.repetition import RepetitionPenalty
from ada3d_ros.lab.parity.reference_engine import reference_generate
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import PromptSequence, StopReason
from test.support.small_decoder import make_decoder, make_prompt

TOKENS = 24
Ask = Callable[[LlamaDecoder, PromptSequence, GenerationRequest], DecodeOutput]


def growing(d: LlamaDecoder, p: PromptSequence, request: GenerationRequest) -> DecodeOutput:
    return decode(d, prefill(d, p), request, static=False)


def static(d: LlamaDecoder, p: PromptSequence, request: GenerationRequest) -> DecodeOutput:
    return decode(d, prefill(d, p), request, static=True)


def batched(d: LlamaDecoder, p: PromptSequence, request: GenerationRequest) -> DecodeOutput:
    """As the second of three questions about a scene: the prompt's first 12 tokens."""
    layers, start = d.config.num_layers, p.spatial_span[1]
    cache = KVCache(layers)
    with torch.inference_mode():
        d.run_layers(0, layers, p.embeds[None, :start], p.positions[:start], cache)
    question = p.embeds[start:]
    others = [BatchedQuestion(question[n:], GenerationRequest(TOKENS)) for n in (1, 3)]
    asked = [others[0], BatchedQuestion(question, request), others[1]]
    return answer_batch(d, cache, start, asked).outputs[1]


def batched_static(d: LlamaDecoder, p: PromptSequence, request: GenerationRequest) -> DecodeOutput:
    layers, start = d.config.num_layers, p.spatial_span[1]
    cache = KVCache(layers)
    with torch.inference_mode():
        d.run_layers(0, layers, p.embeds[None, :start], p.positions[:start], cache)
    question = BatchedQuestion(p.embeds[start:], request)
    return answer_batch(d, cache, start, [question], static=True).outputs[0]


WAYS: dict[str, Ask] = {f.__name__: f for f in (growing, static, batched, batched_static)}


def unending(qkv_bias: bool = True) -> LlamaDecoder:
    return make_decoder(eos_ids=(), qkv_bias=qkv_bias)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("penalty", [1.05, 1.6, 0.8])
def test_equals_the_slow_reference(way: str, penalty: float) -> None:
    decoder, prompt = unending(), make_prompt(unending())
    expected, _ = reference_generate(decoder, prompt, TOKENS, repetition_penalty=penalty)
    free, _ = reference_generate(decoder, prompt, TOKENS)
    output = WAYS[way](decoder, prompt, GenerationRequest(TOKENS, repetition_penalty=penalty))
    assert list(output.token_ids) == expected
    if penalty == 1.6:
        assert expected != free
        assert len(set(expected)) > len(set(free))


@pytest.mark.parametrize("penalty", [1.05, 1.5])
def test_equals_transformers(penalty: float) -> None:
    """A prompt of embeddings, as Video-3D-LLM gives it: the penalty sees the new tokens alone."""
    decoder, prompt = unending(), make_prompt(unending())
    oracle = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    ).eval()
    state = decoder.state_dict()
    oracle.load_state_dict(
        {n if n.startswith("lm_head") else f"model.{n}": value for n, value in state.items()}
    )
    with torch.inference_mode():
        ids = oracle.generate(
            inputs_embeds=prompt.embeds[None],
            attention_mask=torch.ones(1, len(prompt.embeds), dtype=torch.int64),
            max_new_tokens=TOKENS,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=None,
            pad_token_id=0,
        )
    output = growing(decoder, prompt, GenerationRequest(TOKENS, repetition_penalty=penalty))
    assert list(output.token_ids) == ids[0].tolist()


@pytest.mark.parametrize("case", ["case_a", "case_b", "case_c_ground"])
def test_recorded_ids_of_the_reference(case: str, shared_dir: Path) -> None:
    """Of the recorded logits, as long as both lists agree: behind that the inputs differ."""
    expected = load_file(shared_dir / f"golden/video3dllm/{case}/expected.safetensors")
    free, ids = expected["greedy_ids"].tolist(), expected["greedy_ids_rp105"].tolist()
    penalty = RepetitionPenalty(1.05, expected["greedy_logits"].shape[1], torch.device("cpu"))
    for step, logits in enumerate(expected["greedy_logits"]):
        offered = penalty(logits)
        assert int(offered.argmax()) == ids[step]
        top = offered.topk(2).values
        margin = float(expected["greedy_margin_rp105"][step])
        assert float(top[0] - top[1]) == pytest.approx(margin, abs=1e-4)
        if free[step] != ids[step]:
            break
        penalty.add(ids[step])


@pytest.mark.parametrize("way", WAYS)
def test_one_changes_nothing_and_costs_nothing(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompt = unending(), make_prompt(unending())
    expected = WAYS[way](decoder, prompt, GenerationRequest(TOKENS))
    monkeypatch.setattr("ada3d_ros.engine.repetition.RepetitionPenalty", None)
    again = WAYS[way](decoder, prompt, GenerationRequest(TOKENS, repetition_penalty=1.0))
    assert again.token_ids == expected.token_ids
    assert again.mean_probability == expected.mean_probability


def test_a_sampler_draws_from_what_is_left() -> None:
    decoder, prompt = unending(), make_prompt(unending())

    def sampler() -> Callable[[torch.Tensor], torch.Tensor]:
        return make_sampler(0.8, 0.9, 5, torch.device("cpu"))

    slow, _ = reference_generate(decoder, prompt, TOKENS, sampler(), repetition_penalty=4.0)
    request = GenerationRequest(TOKENS, sampler(), repetition_penalty=4.0)
    assert list(growing(decoder, prompt, request).token_ids) == slow
    assert slow != reference_generate(decoder, prompt, TOKENS, sampler())[0]


def test_negative_logits_become_more_so_and_the_others_stay() -> None:
    penalty = RepetitionPenalty(2.0, 4, torch.device("cpu"))
    logits = torch.tensor([4.0, -4.0, 4.0, -torch.inf])
    assert torch.equal(penalty(logits), logits)
    for token in (0, 1, 3, 0):
        penalty.add(token)
    assert penalty(logits).tolist() == [2.0, -8.0, 4.0, -torch.inf]
    assert logits.tolist() == [4.0, -4.0, 4.0, -torch.inf]


def test_probabilities_are_the_models_own() -> None:
    """Before the penalty: those say how sure it is."""
    decoder, prompt = unending(), make_prompt(unending())
    output = growing(decoder, prompt, GenerationRequest(TOKENS, repetition_penalty=1.6))
    ids, logits = reference_generate(decoder, prompt, TOKENS, repetition_penalty=1.6)
    chosen = torch.softmax(logits, dim=-1)[torch.arange(len(ids)), torch.tensor(ids)]
    assert output.mean_probability == pytest.approx(float(chosen.mean()), rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_each_of_several_ids_ends_the_answer(way: str) -> None:
    decoder = unending()
    prompt = make_prompt(decoder)
    free = WAYS[way](decoder, prompt, GenerationRequest(TOKENS)).token_ids
    first = [free.index(token) for token in dict.fromkeys(free)]  # where each is said first
    at = first[2]
    for ids in ((free[at],), (free[at], 90), (90, free[at]), (free[first[-1]], free[at])):
        decoder.config = dataclasses.replace(decoder.config, eos_ids=ids)
        output = WAYS[way](decoder, prompt, GenerationRequest(TOKENS))
        assert output.token_ids == free[:at]
        assert output.stop_reason is StopReason.EOS
        slow, _ = reference_generate(decoder, prompt, TOKENS)
        assert slow == list(free[:at])
