"""Memory predicted from sizes alone, against built models, counted tensors and the 7B's numbers."""

from __future__ import annotations

import dataclasses
import json
import re
import types
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import ConfigError, OutOfMemoryError
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.model import startup
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.config import BackboneConfig, DecoderConfig, LlavaConfig, VisionConfig
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.memory import (
    CUDA_CONTEXT_BYTES,
    MemoryPlan,
    Workload,
    kv_bytes_per_token,
    predict_memory,
)
from ada3d_ros.model.quantize import quantize_layers, stored_bytes
from ada3d_ros.model.random_checkpoint import (
    TINY_CONFIG,
    TINY_VIDEO3D,
    write_random_checkpoint,
)
from ada3d_ros.model.spatial import pool_spatial_tokens
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.model.weight_format import WEIGHTS, WeightFormat
from ada3d_ros.types import PromptSequence

CPU = torch.device("cpu")
VISION = VisionConfig(64, 256, 4, 4, image_size=112)
SHAPES = {
    "tiny": TINY_CONFIG,
    "wide": LlavaConfig(DecoderConfig(128, 256, 704, 3, 4, 4), VISION),
    "grouped": LlavaConfig(
        DecoderConfig(128, 256, 320, 3, 8, 2), replace(VISION, intermediate_size=96)
    ),
    "2d": replace(TINY_CONFIG, has_video_tower=False),
    "video3dllm": TINY_VIDEO3D,
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def built(config: BackboneConfig, dtype: torch.dtype, weights: str = "full") -> Any:
    torch.manual_seed(0)
    made = Llava3D(config) if isinstance(config, LlavaConfig) else Video3DLLM(config)
    model = made.to(dtype).eval().requires_grad_(False)
    if isinstance(model, Llava3D) and config.has_video_tower:
        model.position_embedding.float()
        model.click_encoder.float()
    quantize_layers(model.decoder, weights)
    return model


def plan_of(
    config: BackboneConfig,
    dtype: torch.dtype = torch.float32,
    weights: str = "full",
    head_width: int = 0,
    **changes: Any,
) -> MemoryPlan:
    load = replace(Workload(300), **changes)
    return predict_memory(config, WeightFormat(dtype, weights), load, head_width)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_those_of_a_built_model(shape: str, weights: str, dtype: torch.dtype) -> None:
    config = SHAPES[shape]
    model, plan = built(config, dtype, weights), plan_of(config, dtype, weights, head_width=32)
    names = ("position_embedding", "click_encoder")
    points = [getattr(model, name) for name in names if hasattr(model, name)]
    head = GroundingHead(config.decoder.hidden_size, 32)
    own = stored_bytes(model.ground) if shape == "video3dllm" else 0
    assert plan.decoder_layers == stored_bytes(model.decoder.layers)
    assert plan.decoder_layers + plan.embeddings == stored_bytes(model.decoder)
    assert plan.vision_tower == stored_bytes(model.vision)
    newline = model.newline.nbytes if shape == "video3dllm" else 0
    assert plan.projector == stored_bytes(model.projector) + newline
    assert plan.point_encoders == sum(stored_bytes(encoder) for encoder in points)
    assert plan.grounding_head == stored_bytes(head) + own
    assert plan.weights == stored_bytes(model) + stored_bytes(head)
    both = plan.prefill, plan.vision_activations
    assert plan.total == sum(getattr(plan, part.name) for part in fields(plan)) - min(both)
    assert plan_of(config, dtype, weights).grounding_head == own


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", ["tiny", "wide", "grouped", "video3dllm"])
def test_a_prefill_takes_what_was_predicted(shape: str, weights: str, dtype: torch.dtype) -> None:
    """Cache and activations of 300 tokens, counted: at most as predicted, and not much less."""
    config, tokens = SHAPES[shape], 300
    decoder = built(config, dtype, weights).decoder

    @torch.inference_mode()
    def answer() -> Any:
        # 60 tokens of text and 240 of a scene.
        text, scene = (
            torch.zeros(count, config.decoder.hidden_size, dtype=dtype)
            for count in (60, tokens - 60)
        )
        prompt = PromptSequence(torch.cat((text, scene)), torch.arange(tokens), (60, tokens), None)
        return prefill(decoder, prompt, reserve=0)

    plan = plan_of(config, dtype, weights, tokens=tokens)
    assert plan.kv_cache == answer().cache.num_bytes
    peak = peak_bytes(answer, CPU)
    assert peak <= plan.kv_cache + plan.prefill <= 1.25 * peak


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_final_states_are_counted_where_a_head_points(dtype: torch.dtype) -> None:
    """Of both copies of the scene, their keys, and a question's own of both in float32."""
    config, head = TINY_CONFIG, GroundingHead(TINY_CONFIG.decoder.hidden_size, 32)
    states = torch.zeros(300, head.width, dtype=dtype)
    keys = head.key_proj(states.float())
    both = plan_of(config, dtype, head_width=32, scene_copies=2).final_states
    assert both == 2 * states.nbytes
    pointing = replace(config, point_id=3, egocentric_point_id=4)
    plan = plan_of(pointing, dtype, head_width=32, scene_copies=2)
    assert plan.final_states == both + states.float().nbytes + 3 * keys.nbytes
    assert plan_of(pointing, dtype).final_states == 0


@pytest.mark.parametrize("views", [3, 12])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ["tiny", "wide", "grouped"])
def test_views_take_what_was_predicted(shape: str, dtype: torch.dtype, views: int) -> None:
    config = SHAPES[shape]
    model, side = built(config, dtype), config.vision.patches_per_side
    size = config.vision.image_size

    @torch.inference_mode()
    def encode() -> torch.Tensor:
        return model.encode_views(torch.zeros(views, 3, size, size))

    features, xyz = encode(), torch.rand(views, side, side, 3)

    @torch.inference_mode()
    def pool() -> Any:
        return pool_spatial_tokens(features, xyz, model.position_embedding, 0.2)

    # Encoding and pooling are never alive together; the features outlive both.
    plan = plan_of(config, dtype, max_views=views)
    assert plan.view_features == features.nbytes
    peak = max(peak_bytes(encode, CPU), peak_bytes(pool, CPU) + features.nbytes)
    assert peak <= plan.view_features + plan.vision_activations <= 1.25 * peak


@pytest.mark.parametrize("views", [1, 3, 12])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_frames_take_what_was_predicted(dtype: torch.dtype, views: int) -> None:
    """Of Video-3D-LLM: pixels to tokens, and what each frame keeps of them."""
    model, size = built(TINY_VIDEO3D, dtype), TINY_VIDEO3D.vision.image_size
    square = SimpleNamespace(points_m=torch.rand(views, size, size, 3))

    @torch.inference_mode()
    def encode() -> torch.Tensor:
        return model.encode_views(torch.zeros(views, 3, size, size))

    features = encode()

    @torch.inference_mode()
    def tokens() -> Any:
        return model.view_parts(features, square)

    plan = plan_of(TINY_VIDEO3D, dtype, max_views=views)
    kept = sum(part.features.nbytes + part.patches.nbytes for part in tokens())
    assert plan.view_features == kept
    peak = max(peak_bytes(encode, CPU), peak_bytes(tokens, CPU) + features.nbytes)
    # Places are on the CPU, beside the model's: of each pixel and cell.
    places = 2 * square.points_m.nbytes
    assert peak <= plan.view_features + plan.vision_activations + places


def test_the_numbers_of_the_7b() -> None:
    """Those of the performance study, in GB: linear layers 12.95, decoder 13.48, tower 0.61."""
    plan, int8, int4 = (
        predict_memory(LlavaConfig(), WeightFormat(torch.bfloat16, weights, "cuda"), Workload(2620))
        for weights in WEIGHTS
    )
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008) * 2
    assert linear / 1e9 == pytest.approx(12.95, abs=0.005)
    assert plan.decoder_layers == linear + 32 * 2 * 4096 * 2
    assert (plan.decoder_layers + plan.embeddings) / 1e9 == pytest.approx(13.48, abs=0.005)
    assert plan.vision_tower / 1e9 == pytest.approx(0.58, abs=0.03)
    assert plan.kv_cache == 2620 * 524_288
    assert kv_bytes_per_token(LlavaConfig(), torch.bfloat16, True) == 266_240
    assert plan.runtime == CUDA_CONTEXT_BYTES
    assert plan.rope_table == 2 * 4096 * 128 * 2
    two = plan_of(LlavaConfig(), torch.bfloat16, tokens=2620, scene_copies=2)
    assert two.kv_cache == 2 * plan.kv_cache
    own = plan_of(LlavaConfig(), torch.bfloat16, tokens=2620, kv_int8=True, own_tokens=4096)
    assert (own.kv_cache, own.question_copy) == (2620 * 266_240, 4096 * 266_240)
    decode = plan_of(LlavaConfig(), torch.bfloat16, kv_int8=True, decode_tokens=4224)
    assert decode.decode_buffers == 4224 * 524_288
    pruned = plan_of(LlavaConfig(), torch.bfloat16, scene_copies=2, scene_tokens=1000.5)
    assert pruned.kv_cache == 2 * 524_288 * 1000.5
    assert int8.decoder_layers / plan.decoder_layers == pytest.approx(0.5, abs=0.001)
    # 4.5 bits a weight, and of down_proj's 11008 inputs as many as 11264
    padded = (4 * 4096**2 + (2 * 11008 + 11264) * 4096) / (4 * 4096**2 + 3 * 11008 * 4096)
    assert int4.decoder_layers / plan.decoder_layers == pytest.approx(4.5 / 16 * padded, abs=1e-4)
    on_cpu = plan_of(LlavaConfig(), torch.bfloat16, "int4")
    assert on_cpu.decoder_layers / plan.decoder_layers == pytest.approx(4.5 / 16, abs=0.001)


def test_what_takes_less() -> None:
    plan = plan_of(SHAPES["wide"], tokens=2000)
    assert plan_of(SHAPES["wide"], tokens=2000, kv_int8=True).kv_cache < plan.kv_cache / 2
    chunked = plan_of(SHAPES["wide"], tokens=2000, chunk_tokens=128)
    assert chunked.prefill < plan.prefill / 2
    assert replace(chunked, prefill=plan.prefill) == plan
    assert plan_of(SHAPES["wide"], tokens=2000, chunk_tokens=4000) == plan
    fewer = plan_of(SHAPES["wide"], tokens=2000, max_views=10)
    assert fewer.view_features == plan.view_features / 2
    assert fewer.vision_activations < plan.vision_activations
    alone = plan_of(SHAPES["wide"], tokens=2000, views_at_once=1)
    assert alone.vision_activations < fewer.vision_activations / 5
    assert replace(alone, vision_activations=plan.vision_activations) == plan


def test_int4_that_does_not_fit_the_sizes_is_refused_before_loading() -> None:
    odd = LlavaConfig(DecoderConfig(128, 64, 112, 1, 4, 4), VISION)
    assert plan_of(odd, weights="int8").total > 0
    with pytest.raises(
        ConfigError, match=r"a layer of this model has 112: use model\.weights int8 or full"
    ):
        plan_of(odd, weights="int4")


# -- at start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_random_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    save_grounding_head(GroundingHead(192, 16), path, 0.5)
    return path


def settings(folder: Path, **changes: Any) -> Any:
    return from_flat(
        {"model.path": str(folder)} | {f"model.{name}": value for name, value in changes.items()}
    ).model


def test_a_model_too_large_is_refused_with_every_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_model(folder).info.config
    largest = startup.largest_prompt(config, 20)
    longest = min(config.max_length, largest + 2048)  # with the longest answer that may be asked
    plan = plan_of(config, head_width=16, tokens=largest, scene_copies=2, own_tokens=longest)
    monkeypatch.setattr(startup, "free_bytes", lambda device: float(plan.total))
    startup.check_model(settings(folder))
    monkeypatch.setattr(startup, "free_bytes", lambda device: float(plan.total - 1))
    with pytest.raises(OutOfMemoryError) as caught:
        startup.check_model(settings(folder))

    # Every part, and their sum.
    text = str(caught.value)
    assert f"need {plan.total / 2**20:.0f} MiB in float32, cpu has" in text
    assert f"prompts of {largest} tokens" in text
    for name, size in plan.counted.items():
        assert f"{name.replace('_', ' ')} {size / 2**20:.1f}" in text
    numbers = re.search(r"Of it: (.*) MiB\.", text)
    assert numbers is not None
    assert sum(float(n) for n in re.findall(r" (\d+\.\d)", " " + numbers[1])) == pytest.approx(
        plan.total / 2**20, abs=1
    )
    assert (
        "Ways out: model.weights int8 or int4, model.precision bf16, cache.kv int8, cache.prune"
        " build, keyframe.max_views below 20, another" in text
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"weights": "int8", "precision": "bf16"},
            "Ways out: model.weights int4, cache.kv int8, cache.prune build, keyframe",
        ),
        ({"weights": "int4", "precision": "bf16"}, "Ways out: cache.kv int8, cache.prune build"),
        ({"weights": "int4"}, "need [0-9]+ MiB in float32 with int4 weights, cpu has 1 MiB free"),
    ],
)
def test_ways_out_are_those_that_are_left(
    folder: Path, changes: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "free_bytes", lambda device: 2.0**20)
    with pytest.raises(OutOfMemoryError, match=said):
        startup.check_model(settings(folder, **changes))


def test_what_counts_at_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone lets a model start that did not fit: less to keep, or smaller weights."""
    config = load_model(folder).info.config
    largest = startup.largest_prompt(config, 20)
    longest = min(config.max_length, largest + 2048)  # with the longest answer that may be asked
    plan = plan_of(config, head_width=16, tokens=largest, scene_copies=2, own_tokens=longest)
    monkeypatch.setattr(startup, "free_bytes", lambda device: float(plan.total - 1))

    # Less to keep, or smaller weights.
    whole = startup.whole_scenes(config, CPU)

    def check(**changes: Any) -> None:
        startup.check_model(settings(folder), lambda config, device: replace(whole, **changes))

    for less in (
        {"max_views": 19},
        {"tokens": largest - 1},
        {"scene_copies": 1},
        {"kv_int8": True},
        {"scene_tokens": largest - 0.5},
    ):
        check(**less)
    for smaller in ({"weights": "int8"}, {"weights": "int4"}, {"precision": "bf16"}):
        startup.check_model(settings(folder, **smaller))
    for more in ({"max_views": 21}, {"decode_tokens": 128}, {"riding_tokens": 40}):
        with pytest.raises(OutOfMemoryError):
            check(**more)


def test_model_info_counts_the_weights_alone(folder: Path) -> None:
    for weights in WEIGHTS:
        info, config = startup.check_model(settings(folder, weights=weights))
        assert info.memory_bytes == plan_of(config, weights=weights).weights


def test_the_pipelines_views_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ada3d_ros.pipeline import Ada3DPipeline

    monkeypatch.setattr(startup, "free_bytes", lambda device: 2.0**20)
    pipeline = Ada3DPipeline(from_flat({"model.path": str(folder), "keyframe.max_views": 7}))
    with pytest.raises(OutOfMemoryError, match=r"keyframe\.max_views below 7"):
        pipeline.check()


def test_a_folder_of_odd_sizes_says_so_at_start(folder: Path, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        TINY_CONFIG, decoder=dataclasses.replace(TINY_CONFIG.decoder, intermediate_size=520)
    )
    path = write_random_checkpoint(tmp_path / "odd", config=odd)
    assert json.loads((path / "config.json").read_text())["intermediate_size"] == 520
    startup.check_model(settings(path, weights="int8"))
    with pytest.raises(ConfigError, match="a layer of this model has 520"):
        startup.check_model(settings(path, weights="int4"))


# -- the device


@pytest.mark.parametrize(
    "name", ["cuda:7", "cuda:1000", "cuda:99999999999999999999", "cuda:2"], ids=str
)
def test_a_gpu_that_is_not_there(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.device("cuda:1000") is another device, and was taken."""
    for count, found in ((0, "none"), (1, "cuda:0"), (2, "cuda:0 to cuda:1")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(ConfigError, match=rf"{name}'.*sees {count} .*\({found}\); use one"):
            startup.check_model(settings(folder, device=name))


@pytest.mark.parametrize(
    "name", ["cuda:-1", "cpu:3", "mps", "nonsense", "cuda:", "CUDA", "", "xpu", "meta", "cuda:0x1"]
)
def test_what_is_no_device_of_ours(folder: Path, name: str) -> None:
    """In the settings, and of `--device`, which no setting checks."""
    with pytest.raises(ConfigError, match=r"model\.device = .*allowed: .*cuda"):
        settings(folder, device=name)
    with pytest.raises(ConfigError, match=r"model\.device = .*; allowed: auto, cpu, cuda, cuda:0"):
        startup.resolve_device(name)


def test_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = [str(startup.resolve_device(n)) for n in ("auto", "cpu", "cuda", "cuda:0", "cuda:1")]
    assert found == ["cuda", "cpu", "cuda", "cuda:0", "cuda:1"]


@pytest.mark.parametrize("integrated", [False, True])
def test_memory_that_is_free(integrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Jetson what the kernel gives back counts: as much as a program on the host could have.

    What torch reserved and does not use is ours either way.
    """
    facts = types.SimpleNamespace(is_integrated=integrated)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 2**30, 8 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    meminfo = "MemTotal:  8000000 kB\nMemFree: 1000 kB\nMemAvailable:  6000000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: meminfo)
    expected = 6_000_000 * 1024 if integrated else 3 * 2**30
    assert startup.free_bytes(torch.device("cuda:0")) == expected + 500
    assert startup.free_bytes(CPU) == 6_000_000 * 1024
