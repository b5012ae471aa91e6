"""Each part of the predicted memory against what the device's allocator counts of it."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator

import pytest
import torch

from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.static_decode import static_steps
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.grounding_head import inspect_grounding_head
from ada3d_ros.model.memory import Workload, kv_bytes_per_token, predict_memory
from ada3d_ros.model.random_checkpoint import TINY_CONFIG
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.model.weight_format import WeightFormat
from ada3d_ros.types import PromptSequence
from test.cuda.emulator import EmulatedCuda
from test.cuda.scenes import ready_prefix

NARROW_7B = DecoderConfig(512, 128, 344, 32, 32, 32, max_positions=4096)  # its layers and heads
CONFIG = dataclasses.replace(TINY_CONFIG, decoder=NARROW_7B)
SPATIAL, TEXT = 300, 20


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def close(counted: float, predicted: float) -> None:
    assert counted == pytest.approx(predicted, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_the_embedded_model(cuda: EmulatedCuda, dtype: torch.dtype) -> None:
    folder = embedded_model_path()
    loaded = load_model(folder, "cuda:0", dtype)
    config = loaded.model.config
    facts = inspect_grounding_head(folder, config.decoder.hidden_size)
    assert facts is not None
    width = int(str(facts["head_width"]))
    plan = predict_memory(config, WeightFormat(dtype, "full", "cuda"), Workload(600), width)
    gc.collect()
    # The rope table is made at the first use, or with the weights.
    assert 0.98 * plan.weights <= cuda.memories[0].allocated_bytes
    assert cuda.memories[0].allocated_bytes <= 1.02 * (plan.weights + plan.rope_table)
    # While loading, one weight more, as it is cast; or what the rope table is made of.
    largest = 4 * max(parameter.numel() for parameter in loaded.model.parameters())
    table = config.decoder.max_positions * config.decoder.head_dim * 4  # of angles, in float32
    more = cuda.memories[0].max_allocated_bytes - cuda.memories[0].allocated_bytes
    assert more <= max(largest, 2.1 * table)


def decoder_and_prompt(dtype: torch.dtype) -> tuple[LlamaDecoder, PromptSequence]:
    torch.manual_seed(0)
    decoder = LlamaDecoder(NARROW_7B).requires_grad_(False).eval().to(dtype).to("cuda")
    total = SPATIAL + TEXT
    embeds = 0.1 * torch.randn(total, NARROW_7B.hidden_size).to(dtype)
    positions = torch.arange(total, device="cuda")
    xyz_m = torch.rand(SPATIAL, 3).to("cuda")
    return decoder, PromptSequence(embeds.to("cuda"), positions, (0, SPATIAL), xyz_m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompt_at_its_most(cuda: EmulatedCuda, dtype: torch.dtype) -> None:
    """Keys and values exactly, what else lives in a layer within 2 % of the whole."""
    decoder, prompt = decoder_and_prompt(dtype)
    memory = cuda.memories[0]
    decoder.rope(prompt.positions)
    gc.collect()
    before = memory.allocated_bytes
    memory.reset_peak()
    output = prefill(decoder, prompt, reserve=0)
    load = Workload(SPATIAL + TEXT)
    plan = predict_memory(CONFIG, WeightFormat(dtype, "full", "cuda"), load)
    held = sum(buffer.nbytes for buffer in output.cache.buffers)
    assert held == plan.kv_cache == load.tokens * kv_bytes_per_token(CONFIG, dtype, kv_int8=False)
    # The prompt's embeddings were there, and there is one copy of them.
    prompt_bytes = prompt.embeds.nbytes
    predicted = plan.kv_cache + plan.prefill - 2 * prompt_bytes
    close(memory.max_allocated_bytes - before, predicted)


@pytest.mark.parametrize("int8", [False, True])
def test_a_kept_scene_and_no_graph_beside_it(cuda: EmulatedCuda, int8: bool) -> None:
    decoder, prompt = decoder_and_prompt(torch.bfloat16)
    memory, reserve = cuda.memories[0], 64
    decoder.rope(prompt.positions)
    gc.collect()
    before = memory.allocated_bytes
    prefix = ready_prefix(decoder, prompt, int8=int8, reserve=reserve, chunk_tokens=512)
    gc.collect()
    load = Workload(SPATIAL + reserve, kv_int8=int8)
    plan = predict_memory(CONFIG, WeightFormat(torch.bfloat16, "full", "cuda"), load)
    close(memory.allocated_bytes - before, plan.kv_cache)
    assert prefix.num_bytes == plan.kv_cache
    assert not static_steps(decoder).held
