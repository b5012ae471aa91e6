"""Fused weights: the same values under the same names, in one storage and one product."""

import copy
import itertools

import pytest
import torch
from torch import nn

from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.model import rope as rope_module
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.quantize import quantize_layers
from test.support import decoders

FUSED = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))


def make_pair(num_kv_heads: int = 2, qkv_bias: bool = False) -> tuple[LlamaDecoder, LlamaDecoder]:
    """Equal decoders, the second of them prepared."""
    plain, prepared = (
        decoders.make_decoder(num_kv_heads=num_kv_heads, qkv_bias=qkv_bias) for _ in range(2)
    )
    prepared.prepare()
    assert not is_fused(plain)
    assert is_fused(prepared)
    return plain, prepared


@torch.inference_mode()
def is_fused(decoder: LlamaDecoder) -> bool:
    found = {
        getattr(layer, part).fused_weight() is not None
        for layer in decoder.layers
        for part, _ in FUSED
    }
    assert len(found) == 1
    return found.pop()


@torch.inference_mode()
def logits_of(decoder: LlamaDecoder) -> torch.Tensor:
    """Of a prompt of 9 tokens, and of two more, one by one on its cache: (11, vocab)."""
    layers, cache = len(decoder.layers), KVCache(len(decoder.layers))
    ids, rows = torch.arange(11), []
    for start, stop in ((0, 9), (9, 10), (10, 11)):
        hidden = decoder.embed(ids[None, start:stop])
        hidden = decoder.run_layers(0, layers, hidden, ids[start:stop], cache)
        rows.append(decoder.logits(hidden[0]))
    return torch.cat(rows)


def close(actual: torch.Tensor, expected: torch.Tensor, bound: float = 1e-6) -> bool:
    """Within 1e-6 of the largest value: sums are in another order."""
    return float((actual - expected).abs().max()) <= bound * float(expected.abs().max())


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
def test_equals_the_unfused_decoder(num_kv_heads: int, qkv_bias: bool) -> None:
    plain, prepared = make_pair(num_kv_heads, qkv_bias)
    expected = logits_of(plain)
    # A bias begins the sum or ends it, as the width of the product has it.
    assert close(logits_of(prepared), expected, 2e-6 if qkv_bias else 1e-6)
    assert float(expected.std()) > 0.1


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
def test_one_storage_for_weights_of_one_input_and_no_second_copy(qkv_bias: bool) -> None:
    plain, prepared = make_pair(qkv_bias=qkv_bias)
    parts = [(part, names, "weight") for part, names in FUSED]
    parts += [(*FUSED[0], "bias")] if qkv_bias else []
    for layer in prepared.layers:
        for part, names, kind in parts:
            weights = [getattr(layer, part).get_parameter(f"{name}.{kind}") for name in names]
            for before, after in itertools.pairwise(weights):
                assert after.data_ptr() == before.data_ptr() + before.nbytes
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in prepared.parameters()}
    held = sum(storage.nbytes() for storage in storages.values())
    assert held == sum(p.nbytes for p in plain.parameters())


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
def test_names_and_values_stay(qkv_bias: bool) -> None:
    plain, prepared = make_pair(qkv_bias=qkv_bias)
    ours, theirs = prepared.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_weights_loaded_afterwards_are_used(assign: bool) -> None:
    _, prepared = make_pair()
    other = decoders.make_decoder(num_kv_heads=2, seed=5)
    expected = logits_of(other)
    assert not torch.allclose(logits_of(prepared), expected, atol=1e-2)
    prepared.load_state_dict(other.state_dict(), strict=True, assign=assign)
    assert close(logits_of(prepared), expected)
    assert is_fused(prepared) != assign  # assigned tensors are no views


@pytest.mark.parametrize("name", ["self_attn.v_proj", "mlp.gate_proj"])
def test_a_weight_replaced_is_used(name: str) -> None:
    plain, prepared = make_pair()
    before = logits_of(plain)
    for decoder in (plain, prepared):
        linear = decoder.layers[1].get_submodule(name)
        linear.weight = nn.Parameter(-linear.weight, requires_grad=False)
    assert not torch.allclose(logits_of(plain), before, atol=1e-3)
    assert close(logits_of(prepared), logits_of(plain))


@pytest.mark.parametrize("how", ["replaced", "dropped", "in place"])
def test_a_bias_changed_is_used(how: str) -> None:
    plain, prepared = make_pair(qkv_bias=True)
    before = logits_of(plain)
    for decoder in (plain, prepared):
        linear = decoder.layers[1].self_attn.k_proj
        if how == "replaced":
            linear.bias = nn.Parameter(3.0 * linear.bias, requires_grad=False)
        elif how == "dropped":
            linear.bias = None
        else:
            linear.bias.mul_(-1.0)
    assert not torch.allclose(logits_of(plain), before, atol=1e-4)
    assert close(logits_of(prepared), logits_of(plain))


@pytest.mark.parametrize("name", ["self_attn.v_proj", "mlp.gate_proj"])
def test_a_layer_wrapped_is_run(name: str) -> None:
    """As adapters wrap it: with the layer's own weight as theirs, and something added."""

    class Adapted(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

        @property
        def weight(self) -> torch.Tensor:
            return self.layer.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + 0.5 * x.mean(-1, keepdim=True)

    plain, prepared = make_pair()
    before = logits_of(plain)
    for decoder in (plain, prepared):
        layer = decoder.layers[1].get_submodule(name)
        decoder.layers[1].set_submodule(name, Adapted(layer))
    assert not torch.allclose(logits_of(plain), before, atol=1e-3)
    assert close(logits_of(prepared), logits_of(plain))


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
def test_a_copy_has_weights_of_its_own(qkv_bias: bool) -> None:
    plain, prepared = make_pair(qkv_bias=qkv_bias)
    copied, expected = copy.deepcopy(prepared), logits_of(plain)
    assert close(logits_of(copied), expected)
    for decoder in (plain, copied):
        decoder.layers[0].self_attn.k_proj.weight.mul_(-1.0)
    assert close(logits_of(copied), logits_of(plain))
    assert close(logits_of(prepared), expected)
    assert not torch.allclose(logits_of(plain), expected, atol=1e-3)


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
def test_stays_fused_in_another_format(qkv_bias: bool) -> None:
    plain, prepared = make_pair(qkv_bias=qkv_bias)
    plain.double()
    prepared.double()
    assert is_fused(prepared)
    assert torch.allclose(logits_of(prepared), logits_of(plain), rtol=0, atol=1e-12)


def test_fused_without_memory_and_filled_afterwards() -> None:
    """No copy at all: the weights are read into their places."""
    plain = decoders.make_decoder(num_kv_heads=2)
    with torch.device("meta"):
        made = LlamaDecoder(plain.config)
    made.prepare()
    made = made.to_empty(device="cpu").requires_grad_(False)
    for name, parameter in made.named_parameters():
        parameter.copy_(plain.get_parameter(name))
    assert is_fused(made)
    assert close(logits_of(made), logits_of(plain))


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
def test_gradients_reach_the_weights(qkv_bias: bool) -> None:
    grads = []
    for decoder in make_pair(qkv_bias=qkv_bias):
        decoder.requires_grad_(True)
        hidden = decoder.run_layers(0, 2, decoder.embed(torch.arange(6)[None]), torch.arange(6))
        hidden.square().sum().backward()
        grads.append([p.grad for layer in decoder.layers[:2] for p in layer.parameters()])
    for expected, actual in zip(*grads, strict=True):
        assert expected is not None
        assert actual is not None
        assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["llama", "qwen2"])
def test_quantised_afterwards_is_quantised(qkv_bias: bool) -> None:
    """And the storage of the full weights goes when the layer runs."""
    plain, prepared = make_pair(qkv_bias=qkv_bias)
    for decoder in (plain, prepared):
        quantize_layers(decoder, "int8")
    assert torch.equal(logits_of(prepared), logits_of(plain))
    assert not is_fused(prepared)


def test_layers_of_different_formats_are_left_alone() -> None:
    plain, _ = make_pair()
    for layer in plain.layers:
        layer.self_attn.v_proj.double()
        layer.self_attn.fuse()
        assert layer.self_attn.v_proj.weight.dtype == torch.float64
        with torch.inference_mode():
            assert layer.self_attn.fused_weight() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rope_is_read_from_one_table(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what the formula gives for these positions alone; sin is minus in its first half,
    which turns with the second.
    """
    made, formula = [], rope_module.rope_tables

    def counted(*args: object) -> rope_module.Rope:
        made.append(args)
        return formula(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(rope_module, "rope_tables", counted)
    config = DecoderConfig(61, 64, 48, 1, 4, 4, rope_theta=500.0, max_positions=300)
    decoder = LlamaDecoder(config).to(dtype)
    for shape in ((7,), (2, 5), (1,)):
        positions = torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(1))
        frequencies = 1.0 / 500.0 ** (torch.arange(0, 16, 2) / 16)
        angles = positions[..., None].float() * frequencies
        expected = (
            torch.cat((angles.cos(), angles.cos()), dim=-1).to(dtype),
            torch.cat((-angles.sin(), angles.sin()), dim=-1).to(dtype),
        )
        for actual, right in zip(decoder.rope(positions), expected, strict=True):
            assert actual.shape == (len(positions) if len(shape) > 1 else 1, 1, shape[-1], 16)
            assert torch.equal(actual, right.reshape(actual.shape))
    assert len(made) == 1
    assert decoder.double().rope(torch.tensor([299]))[0].dtype == torch.float64
    assert len(made) == 2
