"""The decoder against transformers' LlamaForCausalLM and Qwen2ForCausalLM, and against itself cut
into ranges.
"""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder, causal_attention, rope_rows


def make_decoder(num_kv_heads: int = 2, seed: int = 0) -> LlamaDecoder:
    torch.manual_seed(seed)
    config = DecoderConfig(61, 32, 48, 3, 4, num_kv_heads, rope_theta=500.0)
    decoder = LlamaDecoder(config).requires_grad_(False).eval()
    for name, parameter in decoder.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.15 * noise)
    return decoder


def hidden_of(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(seed))


def full_hidden(
    decoder: LlamaDecoder, hidden: torch.Tensor, key_mask: torch.Tensor | None = None
) -> torch.Tensor:
    return decoder.run_layers(0, 3, hidden, torch.arange(hidden.shape[1]), key_mask=key_mask)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_equals_transformers(num_kv_heads: int) -> None:
    decoder = make_decoder(num_kv_heads)
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    config = LlamaConfig(
        **sizes,
        num_key_value_heads=num_kv_heads,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    oracle = LlamaForCausalLM(config).eval()

    # transformers has all but the head in `model.`.
    prefixes = {
        name: "" if name.startswith("lm_head") else "model." for name in decoder.state_dict()
    }
    oracle.load_state_dict({prefixes[n] + n: t for n, t in decoder.state_dict().items()})
    ids = torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = oracle(input_ids=ids).logits
    assert torch.allclose(
        decoder.logits(full_hidden(decoder, decoder.embed(ids))), expected, atol=1e-5
    )


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(7, 1), (8, 4), (6, 2), (4, 4)])
@pytest.mark.parametrize("prepared", [False, True], ids=["apart", "fused"])
def test_equals_transformers_qwen2(num_heads: int, num_kv_heads: int, prepared: bool) -> None:
    """Logits of a prompt, and 12 greedy ids on a cache; biases large enough to matter."""
    torch.manual_seed(num_heads)
    width = 8 * num_heads
    sizes = {
        "vocab_size": 61,
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64,
    }
    rope = {"rope_type": "default", "rope_theta": 1e6}
    oracle = Qwen2ForCausalLM(Qwen2Config(**sizes, rope_parameters=rope)).eval()
    for name, parameter in oracle.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 1 + 0.1 * noise if "norm" in name else 0.15 * noise
    decoder = LlamaDecoder(
        DecoderConfig(
            61, width, 48, 3, num_heads, num_kv_heads, 1e-6, 1e6, max_positions=64, qkv_bias=True
        )
    )
    state = {name.removeprefix("model."): value for name, value in oracle.state_dict().items()}
    decoder.load_state_dict(state, strict=True)
    decoder.requires_grad_(False).eval()
    if prepared:
        decoder.prepare()

    ids = torch.randint(0, 61, (1, 17), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cache = KVCache(3)
        hidden = decoder.run_layers(0, 3, decoder.embed(ids), torch.arange(17), cache)
        logits = decoder.logits(hidden)
        assert torch.allclose(logits, oracle(input_ids=ids).logits, atol=1e-5)
        assert float(logits.std()) > 0.1
        new = [int(logits[0, -1].argmax())]
        for position in range(17, 28):
            fed = decoder.embed(torch.tensor([[new[-1]]]))
            hidden = decoder.run_layers(0, 3, fed, torch.tensor([position]), cache)
            new.append(int(decoder.logits(hidden)[0, -1].argmax()))
        chosen = oracle.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert new == chosen[0, 17:].tolist()

    # Without the biases it would be another model.
    for layer in decoder.layers:
        layer.self_attn.q_proj.bias.zero_()
    with torch.inference_mode():
        hidden = decoder.run_layers(0, 3, decoder.embed(ids), torch.arange(17))
        assert not torch.allclose(decoder.logits(hidden), logits, atol=1e-3)


def test_ranges_and_cache_equal_one_pass() -> None:
    decoder, hidden = make_decoder(), hidden_of(12, seed=2)
    whole, cache = full_hidden(decoder, hidden), KVCache(3)
    parts = []
    for start, stop in ((0, 5), (5, 11), (11, 12)):
        x = decoder.run_layers(0, 2, hidden[:, start:stop], torch.arange(start, stop), cache)
        parts.append(decoder.run_layers(2, 3, x, torch.arange(start, stop), cache))
    assert cache.lengths == (12, 12, 12)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_real_tokens(side: str) -> None:
    decoder, hidden = make_decoder(), hidden_of(7, seed=3)
    # The first of two sequences is 4 tokens shorter.
    pad = 4
    padded = torch.cat((torch.zeros(1, 7 + pad, 32), hidden_of(7 + pad, seed=4)))
    real = slice(pad, None) if side == "left" else slice(0, 7)
    padded[0, real] = hidden[0]
    mask = torch.ones(2, 7 + pad, dtype=torch.bool)
    mask[0] = False
    mask[0, real] = True

    # Each gives what it gives alone.
    out = full_hidden(decoder, padded, mask)
    assert torch.isfinite(out).all()
    assert torch.allclose(out[0, real], full_hidden(decoder, hidden)[0], atol=1e-5)
    assert torch.allclose(out[1:], full_hidden(decoder, padded[1:]), atol=1e-5)


def test_future_tokens_have_no_influence() -> None:
    decoder, hidden = make_decoder(), hidden_of(9, seed=5)
    changed = hidden.clone()
    changed[:, 6:] += 1.0
    assert torch.allclose(
        full_hidden(decoder, hidden)[:, :6], full_hidden(decoder, changed)[:, :6], atol=1e-6
    )
    assert not torch.allclose(
        full_hidden(decoder, hidden)[:, 6:], full_hidden(decoder, changed)[:, 6:], atol=1e-2
    )


def test_only_relative_positions_matter() -> None:
    decoder, hidden = make_decoder(), hidden_of(9, seed=6)
    moved = decoder.run_layers(0, 3, hidden, torch.arange(9) + 40)
    stretched = decoder.run_layers(0, 3, hidden, torch.arange(9) * 3)
    assert torch.allclose(moved, full_hidden(decoder, hidden), atol=1e-4)
    assert not torch.allclose(stretched, full_hidden(decoder, hidden), atol=1e-2)


def test_dropping_rows_with_a_reused_start_equals_computing_it_again() -> None:
    """What a pruning strategy does: rank with the next layer's q and k, keep some rows, hand on
    what the layer started with.
    """
    decoder, hidden = make_decoder(), hidden_of(10, seed=7)
    positions, keep = torch.arange(10), torch.tensor([0, 1, 4, 5, 8, 9])
    hidden = decoder.run_layers(0, 1, hidden, positions)
    rope = decoder.rope(positions)
    q, q_unroped, inputs = decoder.ranking_inputs(
        1, decoder.layer_inputs(1, hidden), rope, torch.tensor([9])
    )
    assert q.shape == q_unroped.shape == (1, 4, 1, 8)
    assert inputs.k is not None
    assert inputs.k.shape == inputs.k_unroped.shape == (1, 2, 10, 8)
    anew = decoder.run_layers(1, 3, hidden[:, keep], positions[keep])

    def reuse(index: torch.Tensor) -> torch.Tensor:
        """Layer 1 on the tokens kept, with inputs of the tokens `index`; then layer 2."""
        kept = hidden[:, keep], rope_rows(rope, keep)
        out = decoder.run_layer(1, *kept, causal_attention(), inputs.take(index))
        return decoder.run_layers(2, 3, out, positions[keep])

    reused, wrong = reuse(keep), reuse(torch.arange(6))
    assert torch.allclose(anew, reused, atol=1e-6)
    assert not torch.allclose(anew, wrong, atol=1e-3)


def test_ranking_inputs_give_the_layers_own_attention() -> None:
    decoder, hidden = make_decoder(), hidden_of(6, seed=8)
    positions, cache = torch.arange(6), KVCache(3)
    q, _, inputs = decoder.ranking_inputs(
        0, decoder.layer_inputs(0, hidden), decoder.rope(positions), torch.tensor([5, 2])
    )
    decoder.run_layers(0, 1, hidden, positions, cache)
    keys, _ = cache.append(0, hidden.new_zeros(1, 2, 0, 8), hidden.new_zeros(1, 2, 0, 8))
    assert inputs.k is not None
    assert torch.allclose(inputs.k, keys, atol=1e-6)
    alone = decoder.layer_inputs(0, hidden[:, 2:3])
    row_2, _, _ = decoder.ranking_inputs(0, alone, decoder.rope(positions[2:3]), torch.tensor([0]))
    assert torch.allclose(q[:, :, 1], row_2[:, :, 0], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_is_close_to_float32(dtype: torch.dtype) -> None:
    decoder, hidden = make_decoder(), hidden_of(8, seed=9)
    expected = decoder.logits(full_hidden(decoder, hidden))
    actual = decoder.to(dtype).logits(full_hidden(decoder, hidden.to(dtype)))
    assert actual.dtype == dtype
    assert (actual.float() - expected).abs().max() < 0.05 * expected.abs().max()
