"""Weight-only int8 and int4: errors within the quantiser's own step, packing, bytes, every path of
the engine, loading, the pipeline.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from ada3d_ros.config import from_flat
from ada3d_ros.engine.decode import decode_step
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.token_selection import pruner_for
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.quantize import (
    WEIGHTS,
    WeightOnlyLinear,
    group_size,
    is_quantized,
    kernel_of,
    linear_bytes,
    pack_int4,
    quantize_layers,
    quantize_linear,
    stored_bytes,
)
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence, Question
from test.support.box_room import build_box_room

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CONFIG = DecoderConfig(
    vocab_size=64, hidden_size=64, intermediate_size=96, num_layers=4, num_heads=4, num_kv_heads=2
)


def weight_of(kind: str, dtype: torch.dtype, outputs: int = 24, inputs: int = 192) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(kind))
    weight = torch.randn(outputs, inputs, generator=generator) * 0.02
    if kind == "outliers":
        weight[::3, ::50] *= 40
    elif kind == "offset":  # far from zero: `lowest` is rounded by more than a step
        weight += 3.0
    elif kind == "constant":
        weight = torch.full_like(weight, 0.7)
    elif kind == "zero":
        weight = torch.zeros_like(weight)
    elif kind == "tiny":
        weight *= 1e-4
    return weight.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "outliers", "offset", "constant", "zero", "tiny"])
def test_int8_is_off_by_half_a_step_at_most(kind: str, dtype: torch.dtype) -> None:
    weight = weight_of(kind, dtype)
    layer = WeightOnlyLinear(weight, "int8")
    wide = weight.double()
    step = layer.step.double()
    assert torch.allclose(step[:, 0], wide.abs().amax(1) / 127, rtol=1e-6, atol=1e-37)
    assert layer.levels.abs().max() <= 127
    off = (layer.levels.double() * step - wide).abs()
    assert (off <= step / 2 * (1 + 1e-5)).all()  # the levels are computed in float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "outliers", "offset", "constant", "zero", "tiny"])
def test_int4_is_off_by_half_a_step_or_the_rounding_of_the_lowest(
    kind: str, dtype: torch.dtype
) -> None:
    weight = weight_of(kind, dtype)
    layer = WeightOnlyLinear(weight, "int4")
    assert layer.lowest is not None
    assert layer.step.dtype == layer.lowest.dtype == dtype
    wide = weight.double().unflatten(1, (-1, 64))
    step, lowest = layer.step.double(), layer.lowest.double()
    low, high = wide.aminmax(dim=2, keepdim=True)
    info = torch.finfo(dtype)
    rounding = low.abs() * info.eps / 2
    assert ((lowest - low).abs() <= rounding).all()
    assert (15 * step >= (high - low) * (1 - 1e-6)).all()
    assert (step <= ((high - low) / 15 * (1 + 2 * info.eps)).clamp(min=info.tiny)).all()
    levels = (
        torch.stack((layer.levels & 15, layer.levels >> 4), -1)
        .flatten(1)
        .unflatten(1, (-1, 64))
        .double()
    )
    off = (lowest + levels * step - wide).abs()
    assert (
        off <= torch.maximum(step / 2, rounding) * (1 + 1e-5) + wide.abs() * 2**-23
    ).all()  # computed in float32


def test_packing_keeps_every_pair_of_levels() -> None:
    pairs = torch.cartesian_prod(torch.arange(16), torch.arange(16)).to(torch.uint8)
    packed = pack_int4(pairs)
    assert packed.shape == (256, 1)
    assert packed.dtype == torch.uint8
    assert len(packed.unique()) == 256
    assert torch.equal(torch.cat((packed & 15, packed >> 4), 1), pairs)


@pytest.mark.parametrize("inputs", [64, 96, 192])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_products_are_those_of_the_dequantized_weight(
    weights: str, dtype: torch.dtype, inputs: int
) -> None:
    layer = WeightOnlyLinear(weight_of("normal", dtype, inputs=inputs), weights)
    x = torch.randn(2, 5, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    result = layer(x)
    assert (result.shape, result.dtype) == ((2, 5, 24), dtype)
    exact = x.double() @ layer.dequantized(torch.float64).T
    bound = (
        x.double().abs() @ layer.dequantized(torch.float64).abs().T
    )  # every term and the sum are rounded a few times
    assert ((result.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * bound).all()


def test_int8_sums_do_not_overflow_float16() -> None:
    weight = torch.full((4, 512), 0.01, dtype=torch.float16)
    result = WeightOnlyLinear(weight, "int8")(torch.full((1, 512), 100.0, dtype=torch.float16))
    assert torch.allclose(result, torch.full_like(result, 512.0), rtol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fewer_bytes_are_really_stored(dtype: torch.dtype) -> None:
    weight = weight_of("normal", dtype)
    count, size = weight.numel(), dtype.itemsize
    int8, int4 = WeightOnlyLinear(weight, "int8"), WeightOnlyLinear(weight, "int4")
    assert int8.levels.nbytes == count
    assert int4.levels.nbytes == count // 2
    assert stored_bytes(int8) == count + 24 * 4
    assert stored_bytes(int4) == count // 2 + count // 64 * 2 * size
    assert stored_bytes(nn.Linear(192, 24, bias=False, dtype=dtype)) == count * size
    assert "bits=4" in repr(int4)
    for weights in WEIGHTS:
        linear = nn.Linear(192, 24, bias=False, dtype=dtype)
        predicted = linear_bytes((24, 192), dtype, weights, "cpu")
        assert (
            stored_bytes(linear if weights == "full" else quantize_linear(linear, weights))
            == predicted
        )


def test_who_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    found = {
        (w, str(d).removeprefix("torch."), device): kernel_of(w, d, device)
        for w in ("int8", "int4")
        for d in DTYPES
        for device in ("cpu", "cuda")
    }
    assert {key for key, kernel in found.items() if kernel == "torchao"} == {
        ("int8", "float32", "cpu"),
        ("int8", "bfloat16", "cpu"),
        ("int8", "float32", "cuda"),
        ("int8", "bfloat16", "cuda"),
        ("int4", "bfloat16", "cuda"),
    }
    # torchao's CUDA kernel pads 11008 inputs to 11264
    assert linear_bytes((4096, 11008), torch.bfloat16, "int4", "cuda") == 4096 * 11264 * (
        1 / 2 + 4 / 64
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert {kernel_of(w, d, "cuda") for w in ("int8", "int4") for d in DTYPES} == {"torch"}
    assert linear_bytes((4096, 11008), torch.bfloat16, "int4", "cuda") == 4096 * 11008 * (
        1 / 2 + 4 / 64
    )


def test_int4_needs_groups() -> None:
    assert [group_size(n) for n in (4096, 11008, 1376, 96)] == [64, 64, 32, 32]
    for inputs in (48, 100, 33):
        with pytest.raises(
            ConfigError,
            match=rf"groups of 32 or 64 inputs, a layer of this model has {inputs}: use",
        ):
            WeightOnlyLinear(torch.zeros(4, inputs), "int4")


def test_only_the_linear_layers_of_the_decoder_are_concerned() -> None:
    names = [name for name, _ in LlamaDecoder(CONFIG).named_parameters()]
    concerned = {name for name in names if is_quantized(name)}
    assert len(concerned) == 7 * CONFIG.num_layers
    assert {name.split(".")[0] for name in set(names) - concerned} == {
        "embed_tokens",
        "layers",
        "norm",
        "lm_head",
    }
    assert all("norm" in name for name in set(names) - concerned if name.startswith("layers."))
    assert is_quantized("decoder.layers.11.mlp.down_proj.weight")
    assert not is_quantized("vision.encoder.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize("strategy", ["none", "adatoken3d", "fastv"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_engine_runs_on_them(weights: str, strategy: str) -> None:
    """Prefill, pruning inside it and decode give what a decoder with the dequantised weights gives."""
    torch.manual_seed(0)
    decoder = LlamaDecoder(CONFIG).eval().requires_grad_(False)
    rounded = copy.deepcopy(decoder)
    quantize_layers(decoder, weights)
    for name, parameter in rounded.named_parameters():
        if is_quantized(name):  # whoever quantised it: what it makes of the unit rows
            layer = decoder.get_submodule(name.removesuffix(".weight"))
            with torch.inference_mode():
                unit_rows = layer(torch.eye(parameter.shape[1]))
            parameter.copy_(unit_rows.T)
    if kernel_of(weights, torch.float32, "cpu") == "torch":
        assert (
            sum(isinstance(layer, WeightOnlyLinear) for layer in decoder.modules())
            == 7 * CONFIG.num_layers
        )
    assert (decoder.dtype, decoder.device.type) == (torch.float32, "cpu")
    prompt = PromptSequence(torch.randn(60, 64), torch.arange(60), (10, 50), torch.rand(40, 3))
    policy = Policy.from_config(
        from_flat({"pruning.strategy": strategy, "pruning.keep_ratio": 0.6}).pruning
    )
    outputs = []
    for one in (decoder, rounded):
        output = prefill(
            one, prompt, pruner=pruner_for(one, policy, prompt, 40) if strategy != "none" else None
        )
        with torch.inference_mode():
            step = decode_step(one, output.logits.argmax(), output.next_positions, output.cache)
        outputs.append((output, step))
    (ours, next_logits), (expected, expected_next) = outputs
    assert ours.counts == expected.counts
    assert (min(ours.counts) < 40) == (strategy != "none")
    assert torch.allclose(ours.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert torch.allclose(next_logits, expected_next, rtol=1e-4, atol=1e-5)


# -- loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_loading_predicts_its_bytes_and_says_who_multiplies(
    folder: Path, weights: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        loaded = load_model(folder, "cpu", dtype, weights=weights)
    assert stored_bytes(loaded.model) == loaded.info.weight_bytes(dtype, weights)
    said = [record.message for record in caplog.records if "linear layers" in record.message]
    assert len(said) == (weights != "full")
    assert all(f"in {weights}, by {kernel_of(weights, dtype, 'cpu')}" in text for text in said)


def test_full_and_quantized_weights_are_never_there_together(folder: Path) -> None:
    """While loading, memory is that of the quantised model and of a few matrices, not of both
    models.
    """
    full = stored_bytes(load_model(folder).model)
    largest = 512 * 192 * 4
    kept = []
    peak = peak_bytes(lambda: kept.append(load_model(folder, weights="int4")), torch.device("cpu"))
    quantized = stored_bytes(kept[0].model)
    assert quantized < peak < quantized + 8 * largest < full


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_pipeline_answers(folder: Path, weights: str) -> None:
    room = build_box_room(num_views=3, width=160, height=120)
    flat = {"model.path": str(folder), "generation.max_new_tokens": 4, "model.weights": weights}
    pipeline = Ada3DPipeline(from_flat(flat))
    predicted = pipeline.check().memory_bytes
    pipeline.load()
    for frame in room.frames:
        pipeline.observe(frame)
    answer = pipeline.ask(Question("What is there?"))
    assert answer.tokens.generated == 4
    assert pipeline.info is not None
    assert predicted == pipeline.info.memory_bytes == stored_bytes(pipeline.model.model)
    assert pipeline.info.precision == f"float32 with {weights} weights"
    assert pipeline.info.parameters == sum(p.numel() for p in load_model(folder).model.parameters())


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.weights.*'full', 'int8', 'int4'"):
        from_flat({"model.weights": "int5"})


# -- torchao


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torchao_int8_is_off_by_a_step_at_most(dtype: torch.dtype) -> None:
    """Its levels reach from -128, its step may be a little larger than ours; rounding gives half of
    it.
    """
    pytest.importorskip("torchao")
    weight = weight_of("outliers", dtype)
    linear = nn.Linear(192, 24, bias=False, dtype=dtype).requires_grad_(False)
    linear.weight.copy_(weight)
    made = quantize_linear(linear, "int8")
    assert made is linear
    step = weight.double().abs().amax(1, keepdim=True) / 127
    with torch.inference_mode():
        off = (made(torch.eye(192, dtype=dtype)).double().T - weight.double()).abs()
    rounding = (
        2 * torch.finfo(dtype).eps * weight.double().abs()
    )  # of the step and the product in the model's format
    assert (off <= step / 2 * (1 + 1e-3) + rounding).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_cuda_gives_what_plain_torch_gives(weights: str) -> None:
    """Whoever multiplies there: near WeightOnlyLinear on the CPU, and as many bytes as predicted."""
    weight = weight_of("normal", torch.bfloat16, 128, 1376)
    linear = nn.Linear(1376, 128, bias=False, dtype=torch.bfloat16, device="cuda").requires_grad_(
        False
    )
    linear.weight.copy_(weight)
    made = quantize_linear(linear, weights)
    assert stored_bytes(made) == linear_bytes((128, 1376), torch.bfloat16, weights, "cuda")
    x = torch.randn(7, 1376, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.inference_mode():
        ours, theirs = WeightOnlyLinear(weight, weights)(x).float(), made(x.cuda()).float().cpu()
        exact = x.float() @ weight.float().T
    assert (theirs - exact).norm() <= 1.3 * (ours - exact).norm()
