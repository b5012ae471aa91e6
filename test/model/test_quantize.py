"""Weight-only int8 and int4 by torchao, against an oracle in plain torch.

What is stored, products, bytes, refusals, every path of the engine, loading, the pipeline.
"""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
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
from ada3d_ros.model import startup
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.quantize import (
    quantize_layers,
    quantize_linear,
    require_kernel,
    slower_than_full,
    stored_bytes,
)
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.model.weight_format import (
    WEIGHTS,
    WeightFormat,
    group_size,
    int8_groups,
    is_quantized,
    linear_bytes,
)
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence, Question
from test.support.box_room import build_box_room
from test.support.weight_oracle import (
    DTYPES,
    KINDS,
    OracleLinear,
    Quantized,
    packed,
    quantize_int4,
    quantize_int8,
    weight_of,
)

CONFIG = DecoderConfig(
    vocab_size=64, hidden_size=64, intermediate_size=96, num_layers=4, num_heads=4, num_kv_heads=2
)


def linear_of(weight: torch.Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=False, dtype=weight.dtype, device=weight.device)
    linear.requires_grad_(False).weight.copy_(weight)
    return linear


def oracle_of(weight: torch.Tensor, weights: str) -> Quantized:
    if weights == "int8":
        return quantize_int8(weight, int8_groups(weight.dtype))
    return quantize_int4(weight, group_size(weight.shape[1]))


# -- what is stored


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_int8_stores_what_the_oracle_does(kind: str, dtype: torch.dtype) -> None:
    weight = weight_of(kind, dtype)
    expected = oracle_of(weight, "int8")
    stored = quantize_linear(linear_of(weight), "int8").weight
    assert torch.equal(stored.qdata, expected.levels.to(torch.int8))
    assert torch.equal(stored.scale, expected.step)
    assert not stored.zero_point.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_int4_stores_what_the_oracle_does(kind: str, dtype: torch.dtype) -> None:
    weight = weight_of(kind, dtype)
    expected = oracle_of(weight, "int4")
    stored = quantize_linear(linear_of(weight), "int4").weight
    assert stored.scale_and_zero.dtype == torch.bfloat16
    assert torch.equal(stored.scale_and_zero[..., 0].T, expected.step)
    assert torch.equal(stored.scale_and_zero[..., 1].T, expected.zero)
    assert torch.equal(stored.qdata, packed(expected.levels))


def test_packing_keeps_every_pair_of_levels() -> None:
    """A weight of whole steps from 0 to 15 comes back as it was, every pair of neighbours in it."""
    pairs = torch.cartesian_prod(torch.arange(16), torch.arange(16)).reshape(8, 64)
    weight = torch.cat((pairs, pairs.flip(1))).float()  # each row holds 0 and 15: step 1
    weight[:, 0], weight[:, 63] = 0.0, 15.0
    layer = quantize_linear(linear_of(weight), "int4")
    with torch.inference_mode():
        assert torch.equal(layer(torch.eye(64)).T, weight)


# -- how far off


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_off_by_half_a_step_at_most(kind: str, dtype: torch.dtype) -> None:
    """Half a step; at the largest weight also what its format rounds the step by."""
    weight = weight_of(kind, dtype)
    found = oracle_of(weight, "int8")
    wide, step = weight.double(), found.steps()
    assert found.levels.abs().max() <= 128
    half = step / 2 * (1 + 1e-5)
    clipped = found.levels.abs() >= 127
    off = (found.weight() - wide).abs()
    assert (off[~clipped] <= half[~clipped]).all()
    assert (off <= half + wide.abs() * torch.finfo(dtype).eps).all()
    largest = wide.unflatten(1, (found.step.shape[1], -1)).abs().amax(2)
    rounding = torch.finfo(dtype).eps * largest
    smallest = torch.finfo(torch.float32).eps  # torchao's least step
    assert ((found.step.double() - (largest / 127.5).clamp(min=smallest)).abs() <= rounding).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_int4_is_off_by_half_a_step_or_the_rounding_of_the_zero_point(
    kind: str, dtype: torch.dtype
) -> None:
    """All in bfloat16: levels to a sixteenth of a step, zero point and weights to 8 bits."""
    weight = weight_of(kind, dtype)
    found = oracle_of(weight, "int4")

    # The step and the lowest value of a group.
    eps = torch.finfo(torch.bfloat16).eps
    wide = weight.double().unflatten(1, (-1, 64))
    step, zero = found.step.double(), found.zero.double()
    low, high = wide.aminmax(dim=2)
    reach = wide.abs().amax(2)
    assert ((zero - 8 * step - low).abs() <= 2 * eps * (reach + 8 * step)).all()
    assert ((step - ((high - low) / 15).clamp(min=1e-6)).abs() <= eps * (step + reach / 15)).all()

    # The weights.
    off = (found.weight().unflatten(1, (-1, 64)) - wide).abs()
    bound = step * (1 / 2 + 1 / 16) + 2 * eps * (reach + 8 * step)
    assert (off <= bound[..., None]).all()


# -- products


@pytest.mark.parametrize("inputs", [64, 96, 192])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_products_are_those_of_the_dequantized_weight(
    weights: str, dtype: torch.dtype, inputs: int
) -> None:
    weight = weight_of("normal", dtype, inputs=inputs)
    layer, exact = quantize_linear(linear_of(weight), weights), oracle_of(weight, weights).weight()
    x = torch.randn(2, 5, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        result = layer(x)
    assert (result.shape, result.dtype) == ((2, 5, 32), dtype)
    # Every term and the sum are rounded a few times, in the format of the product.
    eps = torch.finfo(dtype if weights == "int8" else torch.bfloat16).eps
    bound = x.double().abs() @ exact.abs().T
    assert ((result.double() - x.double() @ exact.T).abs() <= 4 * eps * bound).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_bias_is_added_as_it_is(weights: str, dtype: torch.dtype) -> None:
    weight = weight_of("normal", dtype, inputs=64)
    bias = torch.randn(32, generator=torch.Generator().manual_seed(2)).to(dtype)
    with_bias = linear_of(weight)
    with_bias.bias = nn.Parameter(bias, requires_grad=False)
    with_bias, without = (
        quantize_linear(with_bias, weights),
        quantize_linear(linear_of(weight), weights),
    )
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        found, product = with_bias(x), without(x)
    assert (with_bias.bias.dtype, found.dtype) == (dtype, dtype)
    # A kernel may add it before or after its sum is rounded.
    eps = torch.finfo(dtype).eps
    bound = eps * (product.double().abs() + bias.double().abs())
    assert ((found.double() - product.double() - bias.double()).abs() <= bound).all()


def test_int8_sums_do_not_overflow_float16() -> None:
    """The levels' own sums would be 512 * 100 * 127."""
    weight = torch.full((4, 512), 0.01, dtype=torch.float16)
    layer, exact = quantize_linear(linear_of(weight), "int8"), oracle_of(weight, "int8").weight()
    with torch.inference_mode():
        result = layer(torch.full((1, 512), 100.0, dtype=torch.float16))
    assert torch.allclose(result.double(), 100 * exact.sum(1), rtol=2e-3)


# -- bytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fewer_bytes_are_really_stored(dtype: torch.dtype) -> None:
    weight = weight_of("normal", dtype)
    count, groups = weight.numel(), 2 if dtype == torch.float16 else 1
    int8, int4 = (quantize_linear(linear_of(weight), w) for w in ("int8", "int4"))
    assert int8.weight.qdata.nbytes == count
    assert int4.weight.qdata.nbytes == count // 2
    assert stored_bytes(int8) == count + 32 * groups * (4 + 1)
    assert stored_bytes(int4) == count // 2 + count // 64 * 2 * 2
    assert stored_bytes(linear_of(weight)) == count * dtype.itemsize
    for weights, layer in (("int8", int8), ("int4", int4), ("full", linear_of(weight))):
        form = WeightFormat(dtype, weights)
        name = "decoder.layers.0.mlp.up_proj.weight"
        assert form.num_bytes(name, (32, 192)) == stored_bytes(layer)
        assert form.num_bytes("decoder.lm_head.weight", (32, 192)) == count * dtype.itemsize


def test_cuda_pads_int4_to_whole_tiles() -> None:
    """11008 inputs to 11264, 100 outputs to 104; on a CPU nothing is padded."""
    cuda, cpu = (WeightFormat(torch.bfloat16, "int4", device) for device in ("cuda", "cpu"))
    assert linear_bytes((4096, 11008), cuda) == 4096 * 11264 * (1 / 2 + 4 / 64)
    assert linear_bytes((100, 1024), cuda) == 104 * 1024 * (1 / 2 + 4 / 64)
    assert linear_bytes((4096, 11008), cpu) == 4096 * 11008 * (1 / 2 + 4 / 64)
    for dtype in DTYPES:  # the products are in bfloat16 whatever the model's format
        assert linear_bytes((64, 64), WeightFormat(dtype, "int4")) == 64 * 64 / 2 + 64 * 4


# -- refusals


def test_int4_needs_groups() -> None:
    assert [group_size(n) for n in (4096, 11008, 1376, 96)] == [64, 64, 32, 32]
    for inputs in (48, 100, 33):
        with pytest.raises(
            ConfigError,
            match=rf"groups of 32 or 64 inputs, a layer of this model has {inputs}: use",
        ):
            quantize_linear(linear_of(torch.zeros(16, inputs)), "int4")
    with pytest.raises(
        ConfigError, match=r"multiples of 16 outputs on a CPU, a layer of this model has 24: use"
    ):
        quantize_linear(linear_of(torch.zeros(24, 64)), "int4")


def test_without_torchao_the_way_out_is_named_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    model = from_flat({"model.path": str(folder), "model.weights": "int8"}).model
    words = r"model\.weights int8 needs torchao.*`pip install \.\[quantisation\]`.*weights full\."
    with pytest.raises(ConfigError, match=words):
        startup.check_model(model)
    monkeypatch.setattr("ada3d_ros.model.checkpoint.read_tensors", None)
    with pytest.raises(ConfigError, match=words):
        load_model(folder, weights="int8")
    assert startup.check_model(from_flat({"model.path": str(folder)}).model)[0].parameters > 0


def test_the_import_of_the_model_says_nothing() -> None:
    """transformers imports torchao, which would warn of kernels that nobody asked for."""
    code = "import ada3d_ros.model.llava3d"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_gpu_without_the_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    require_kernel("int8", torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"capability 8\.0 or more, cuda has 7\.5: use model\.w"):
        require_kernel("int4", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 7))
    require_kernel("int4", torch.device("cuda"))


def test_int8_on_a_gpu_says_that_it_is_slower(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    slow = [(w, d.type) for w in WEIGHTS for d in (cpu, cuda) if slower_than_full(w, d)]
    assert slow == [("int8", "cuda")]
    monkeypatch.setattr("ada3d_ros.model.quantize.slower_than_full", lambda w, d: f"{w} on {d}: so")
    load_model(folder, weights="int8")
    told = [(r.levelname, r.message) for r in caplog.records if r.levelno >= logging.WARNING]
    assert told == [("WARNING", "int8 on cpu: so")]
    assert "Use full where it fits" in slower_than_full("int8", cuda)


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
    """Prefill, pruning inside it and decode give what a decoder of the oracle's layers gives."""
    # The same weights, quantised by torchao and by the oracle.
    torch.manual_seed(0)
    decoder = LlamaDecoder(CONFIG).eval().requires_grad_(False)
    expected_decoder = copy.deepcopy(decoder)
    quantize_layers(decoder, weights)
    names = [name for name, _ in expected_decoder.named_parameters() if is_quantized(name)]
    assert len(names) == 7 * CONFIG.num_layers
    for name in names:
        layer = OracleLinear(oracle_of(expected_decoder.get_parameter(name), weights))
        expected_decoder.set_submodule(name.removesuffix(".weight"), layer)
    assert (decoder.dtype, decoder.device.type) == (torch.float32, "cpu")

    # A prompt with 40 spatial tokens, and one more token.
    prompt = PromptSequence(torch.randn(60, 64), torch.arange(60), (10, 50), torch.rand(40, 3))
    policy = Policy.from_config(
        from_flat({"pruning.strategy": strategy, "pruning.keep_ratio": 0.6}).pruning
    )
    outputs = []
    for one in (decoder, expected_decoder):
        pruner = pruner_for(one, policy, prompt, 40) if strategy != "none" else None
        output = prefill(one, prompt, pruner=pruner)
        with torch.inference_mode():
            fed = one.embed(output.logits.argmax())
            step = decode_step(one, fed, output.next_positions, output.cache)
        outputs.append((output, step.logits))
    (ours, next_logits), (expected, expected_next) = outputs

    assert ours.counts == expected.counts
    assert (min(ours.counts) < 40) == (strategy != "none")
    assert torch.allclose(ours.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert torch.allclose(next_logits, expected_next, rtol=1e-4, atol=1e-5)


# -- loading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_loading_predicts_its_bytes_and_says_who_multiplies(
    folder: Path, weights: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        loaded = load_model(folder, "cpu", dtype, weights=weights)
    assert stored_bytes(loaded.model) == loaded.info.weight_bytes(WeightFormat(dtype, weights))
    told = [record.message for record in caplog.records if "linear layers" in record.message]
    assert told == (
        [f"the decoder's linear layers are in {weights}, by torchao"] if weights != "full" else []
    )


def test_full_and_quantized_weights_are_never_there_together(folder: Path) -> None:
    """While loading, memory is that of the quantised model and of a few matrices."""
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
    loaded = load_model(folder, weights=weights)
    assert predicted == pipeline.info.memory_bytes == stored_bytes(loaded.model)
    assert pipeline.info.precision == f"float32 with {weights} weights"
    assert pipeline.info.parameters == sum(p.numel() for p in load_model(folder).model.parameters())


def test_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.weights.*'full', 'int8', 'int4'"):
        from_flat({"model.weights": "int5"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_cuda_gives_what_the_oracle_gives(weights: str, dtype: torch.dtype) -> None:
    """As near to the full weight's product as the oracle's, and as many bytes as predicted."""
    weight = weight_of("normal", dtype, 128, 1376)
    made = quantize_linear(linear_of(weight.cuda()), weights)
    assert stored_bytes(made) == linear_bytes((128, 1376), WeightFormat(dtype, weights, "cuda"))
    x = torch.randn(7, 1376, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        found = made(x.cuda()).double().cpu()
    exact = x.double() @ weight.double().T
    oracle = x.double() @ oracle_of(weight, weights).weight().T
    assert (found - exact).norm() <= 1.3 * (oracle - exact).norm()
