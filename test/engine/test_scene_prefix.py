"""Questions on a cached scene against the full prompt.

Equal within the order of sums; pruned ones against an attention written out.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import InvalidRequestError, ModelError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import LAYERS, SHAPE, make_prompt, policy_of
from test.support.decoders import make_decoder as wild_decoder

N, SYSTEM, TEXT = 40, 3, 5
TOLERANCE = {
    torch.float32: 2e-6,
    torch.bfloat16: 0.03,
}  # relative to the largest value; the same sums in another order


def make_decoder(num_kv_heads: int = 2, seed: int = 0) -> LlamaDecoder:
    """Weights of half the usual size, which amplify rounding less.

    With the usual ones the full prefill itself is 3e-6 from float64.
    """
    decoder = wild_decoder(num_kv_heads=num_kv_heads, seed=seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" not in name:
                parameter.mul_(0.5)
    return decoder


def tokens_of(prompt: PromptSequence, count: int = N) -> SpatialTokens:
    start = prompt.spatial_span[0]
    rows = prompt.embeds[start : start + count]
    return SpatialTokens(rows, torch.randn(count, 3), torch.ones(count, dtype=torch.int64), 0.2)


def prefix_of(
    decoder: LlamaDecoder, prompt: PromptSequence, chunk: int = 16, **options: Any
) -> ScenePrefix:
    start, stop = prompt.spatial_span
    part = PromptSequence(prompt.embeds[:stop], prompt.positions[:stop], (start, stop))
    tokens = tokens_of(prompt, stop - start)
    chosen = ChosenTokens(tokens, torch.arange(stop - start), stop - start)
    context = SceneContext(SceneSnapshot(), tokens, chosen, prompt.embeds[start:stop])
    prefix = ScenePrefix(decoder, part, context, PrefixOptions(chunk, **options))
    while prefix.step():
        pass
    return prefix


def question_of(prompt: PromptSequence) -> torch.Tensor:
    return prompt.embeds[prompt.spatial_span[1] :]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())


def pruner_of(strategy: str, ratio: float = 0.5, **flat: Any) -> LayerPruner:
    pruner = policy_of(strategy, ratio, n_min=2, **flat).pruner(SHAPE, N, N, SYSTEM + TEXT)
    assert pruner is not None
    return pruner


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("chunk", [7, 16, 1000])
def test_a_question_on_the_cached_scene_is_the_full_prefill(
    dtype: torch.dtype, kv_heads: int, chunk: int
) -> None:
    decoder = make_decoder(num_kv_heads=kv_heads, seed=kv_heads).to(dtype)
    prompt = make_prompt(N, SYSTEM, TEXT, seed=chunk)
    prompt = dataclasses.replace(prompt, embeds=prompt.embeds.to(dtype))
    full = prefill(decoder, prompt, 8, with_states=True)
    prefix = prefix_of(decoder, prompt, chunk, with_states=True)
    warm = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(warm.logits, full.logits) <= TOLERANCE[dtype]
    assert warm.counts == full.counts
    assert warm.next_positions == full.next_positions
    assert full.states is not None
    assert warm.states is not None
    assert relative(warm.states.spatial, full.states.spatial) <= TOLERANCE[dtype]
    assert relative(warm.states.query, full.states.query) <= TOLERANCE[dtype]
    for layer in range(LAYERS):
        for ours, theirs in zip(warm.cache.held(layer), full.cache.held(layer), strict=True):
            assert relative(ours, theirs) <= TOLERANCE[dtype]
    if dtype is torch.float32:
        assert (
            decode(decoder, warm, GenerationRequest(8)).token_ids
            == decode(decoder, full, GenerationRequest(8)).token_ids
        )


def test_questions_leave_no_trace() -> None:
    """Hundreds of questions with answers: the first one's logits come again bit for bit.

    And memory stays.
    """
    decoder, prompt = make_decoder(seed=0), make_prompt(N, SYSTEM, TEXT, seed=0)
    prefix = prefix_of(decoder, prompt)
    first = prefill_question(prefix, question_of(prompt), 8).logits
    size = prefix.num_bytes
    for seed in range(200):
        other = make_prompt(N, SYSTEM, 2 + seed % 7, seed=seed)
        pruner = pruner_of("adatoken3d") if seed % 3 == 0 else None
        decode(
            decoder, prefill_question(prefix, question_of(other), 8, pruner), GenerationRequest(4)
        )
    assert torch.equal(prefill_question(prefix, question_of(prompt), 8).logits, first)
    assert prefix.num_bytes == size


@pytest.mark.parametrize("count", [1, 13, 39, 40])
def test_a_smaller_budget_is_a_prefix_of_the_scene(count: int) -> None:
    decoder, prompt = make_decoder(seed=1), make_prompt(N, SYSTEM, TEXT, seed=1)
    start, stop = prompt.spatial_span
    embeds = torch.cat((prompt.embeds[: start + count], prompt.embeds[stop:]))
    fresh = PromptSequence(embeds, torch.arange(len(embeds)), (start, start + count))
    expected = prefill(decoder, fresh, 8)
    prefix = prefix_of(decoder, prompt)
    warm = prefill_question(prefix, question_of(prompt), 8, count=count)
    assert relative(warm.logits, expected.logits) <= 2e-6
    assert warm.counts == (count,) * LAYERS
    assert (
        decode(decoder, warm, GenerationRequest(6)).token_ids
        == decode(decoder, expected, GenerationRequest(6)).token_ids
    )
    whole = prefill(decoder, prompt, 8)
    assert relative(prefill_question(prefix, question_of(prompt), 8).logits, whole.logits) <= 2e-6


def test_what_is_appended_equals_a_scene_in_that_order() -> None:
    decoder, prompt = make_decoder(seed=2), make_prompt(N, SYSTEM, TEXT, seed=2)
    start = prompt.spatial_span[0]
    early = PromptSequence(
        torch.cat((prompt.embeds[: start + 25], question_of(prompt))),
        torch.arange(start + 25 + TEXT),
        (start, start + 25),
    )
    prefix = prefix_of(decoder, early, with_states=True)
    prefill_question(prefix, question_of(early), 8)  # a question in between
    tokens = tokens_of(prompt)
    later = SpatialTokens(tokens.features[25:], tokens.xyz_m[25:], tokens.num_patches[25:], 0.2)
    prefix.append_tokens(prompt.embeds[start + 25 : start + N], later, SceneSnapshot())
    assert not prefix.ready
    while prefix.step():
        pass
    full = prefill(decoder, prompt, 8, with_states=True)
    warm = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(warm.logits, full.logits) <= 2e-6
    assert full.states is not None
    assert warm.states is not None
    assert relative(warm.states.spatial, full.states.spatial) <= 2e-6
    assert len(prefix.xyz_m) == N


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("adatoken3d", {}),
    ("adatoken3d", {"adatoken3d__rank__query": "all"}),
    ("adatoken3d", {"adatoken3d__rank__rope": False, "adatoken3d__prune_layers": "1,4,5"}),
    ("fastv", {}),
    ("pdrop", {}),
    ("logistic", {}),
]


@pytest.mark.parametrize(("strategy", "flat"), VARIANTS)
def test_selection_is_attention_to_the_best_keys_written_out(
    strategy: str, flat: dict[str, Any]
) -> None:
    """float64, whole matrices: scene tokens see the whole scene, the question what is kept.

    The question's tokens see the text and the kept keys of each layer.
    """
    decoder, prompt = make_decoder(seed=3), make_prompt(N, SYSTEM, TEXT, seed=3)
    pruner = pruner_of(strategy, **flat)
    warm = prefill_question(prefix_of(decoder, prompt), question_of(prompt), 8, pruner)
    expected = attend_to_kept(decoder, prompt, [stage.tolist() for stage in warm.kept])
    assert relative(warm.logits, expected) <= 1e-5
    counts = pruner.counts(N, None) if pruner.probe_layer is None else warm.counts
    assert warm.counts == tuple(counts)
    assert warm.cache.lengths == tuple(count + SYSTEM + TEXT for count in warm.counts)
    for stage in warm.kept:
        assert stage.tolist() == sorted(set(stage.tolist()))


def attend_to_kept(
    decoder: LlamaDecoder, prompt: PromptSequence, kept: list[list[int]]
) -> torch.Tensor:
    config, (start, stop) = decoder.config, prompt.spatial_span
    x, total = prompt.embeds.double(), len(prompt.embeds)
    half = config.head_dim // 2
    angle = torch.arange(total)[:, None].double() / config.rope_theta ** (
        torch.arange(half).double() / half
    )

    def rotate(v: torch.Tensor) -> torch.Tensor:
        a, b = v[:, :half], v[:, half:]
        return torch.cat(
            (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=1
        )

    def norm(v: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (
            v
            / torch.sqrt((v * v).mean(dim=-1, keepdim=True) + config.rms_norm_eps)
            * weight.double()
        )

    for layer, alive in zip(decoder.layers, kept, strict=True):
        w = {name: tensor.double() for name, tensor in layer.state_dict().items()}
        y = norm(x, w["input_layernorm.weight"])
        q, k, v = (y @ w[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        hidden = torch.ones(total, total, dtype=torch.bool).triu(1)
        dropped = [start + i for i in range(stop - start) if i not in alive]
        hidden[stop:, dropped] = True
        outputs, d = [], config.head_dim
        for head in range(config.num_heads):
            group = head * config.num_kv_heads // config.num_heads
            scores = (
                rotate(q[:, head * d : head * d + d])
                @ rotate(k[:, group * d : group * d + d]).T
                / math.sqrt(d)
            )
            weights = torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1)
            outputs.append(weights @ v[:, group * d : group * d + d])
        x = x + torch.cat(outputs, dim=1) @ w["self_attn.o_proj.weight"].T
        y = norm(x, w["post_attention_layernorm.weight"])
        gate, up = y @ w["mlp.gate_proj.weight"].T, y @ w["mlp.up_proj.weight"].T
        x = x + (gate / (1 + torch.exp(-gate)) * up) @ w["mlp.down_proj.weight"].T
    return norm(x[-1], decoder.norm.weight) @ decoder.lm_head.weight.double().T


@pytest.mark.parametrize("strategy", ["adatoken3d", "fastv", "pdrop"])
def test_the_first_drop_keeps_what_the_paper_keeps(strategy: str) -> None:
    """Up to the first pruned layer both modes are one computation, so they rank alike there."""
    decoder, prompt = make_decoder(seed=4), make_prompt(N, SYSTEM, TEXT, seed=4)
    flat = {"pdrop__positions": "original"} if strategy == "pdrop" else {}
    pruner = pruner_of(strategy, **flat)
    paper = prefill(decoder, prompt, 8, pruner)
    warm = prefill_question(prefix_of(decoder, prompt), question_of(prompt), 8, pruner)
    first = next(i for i in range(LAYERS) if paper.counts[i] < N)
    assert warm.kept[first].tolist() == paper.kept[first].tolist()
    assert warm.counts == paper.counts


def test_eight_bit_keys_are_near_and_half_the_size() -> None:
    decoder, prompt = make_decoder(seed=5), make_prompt(N, SYSTEM, TEXT, seed=5)
    plain = prefix_of(decoder, prompt, with_states=True)
    small = prefix_of(decoder, prompt, with_states=True, int8=True)
    width = decoder.config.head_dim
    assert small.num_bytes / plain.num_bytes == pytest.approx((width + 4) / (4 * width))
    for layer in range(LAYERS):
        for ours, exact in zip(small.cache.held(layer), plain.cache.held(layer), strict=True):
            step = exact.abs().amax(dim=-1, keepdim=True) / 127
            if layer == 0:  # deeper layers' inputs differ too
                assert bool(((ours - exact).abs() <= 0.51 * step).all())
    expected = prefill_question(plain, question_of(prompt), 8).logits
    assert relative(prefill_question(small, question_of(prompt), 8).logits, expected) < 0.05


def test_a_question_without_rows_is_refused() -> None:
    decoder, prompt = make_decoder(seed=6), make_prompt(N, SYSTEM, TEXT, seed=6)
    with pytest.raises(InvalidRequestError, match="behind the scene"):
        prefill_question(prefix_of(decoder, prompt), prompt.embeds[:0], 8)


def test_damaged_weights_are_named() -> None:
    decoder, prompt = make_decoder(seed=7), make_prompt(N, SYSTEM, TEXT, seed=7)
    prefix = prefix_of(decoder, prompt)
    with torch.no_grad():
        decoder.layers[2].self_attn.q_proj.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        prefill_question(prefix, question_of(prompt), 8, pruner_of("adatoken3d"))
