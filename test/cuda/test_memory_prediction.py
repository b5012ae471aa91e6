"""Memory predicted from sizes alone against what the device's allocator counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.engine.static_decode import GRANULE, static_steps
from ada3d_ros.model.config import DecoderConfig, LlavaConfig
from ada3d_ros.model.memory import Workload, predict_memory
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.model.weight_format import WeightFormat
from ada3d_ros.types import Question, StopReason
from test.cuda.emulator import EmulatedCuda
from test.cuda.emulator.device import Kind
from test.support.pipelines import MANY, cache_of, settle, start_background, stop_at

CUDA = torch.device("cuda:0")
ROOM, LONGEST = 64 + 64, 2048  # of a question and an answer; of the longest answer
CONFIG = LlavaConfig(
    DecoderConfig(512, 384, 1024, 12, 6, 6),
    dataclasses.replace(TINY_CONFIG.vision, num_hidden_layers=2),
    random_weights=True,
)
SETTINGS = {
    "pruning.strategy": "adatoken3d",
    "model.device": "cuda:0",
    "model.precision": "fp32",
    "generation.max_new_tokens": 64,
    "keyframe.max_views": 4,
}
WAYS = [{}, {"cache.prune": "none"}, {"cache.kv": "int8"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "one", config=CONFIG)


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_what_is_predicted_is_what_is_counted(folder: Path, changes: dict[str, Any]) -> None:
    """Once a scene is built, at a usual question and at one that may be answered at length."""
    with EmulatedCuda(num_devices=1, kind=Kind(total_bytes=2**34)) as cuda:
        pipeline = start_background(folder, MANY[:3], **SETTINGS, **changes)
        settle(pipeline)
        prefix = cache_of(pipeline).active
        assert prefix is not None
        system, scene = prefix.start, len(prefix.embeds)
        kept = [n - system for n in prefix.lengths]
        assert (sum(kept) < 0.9 * 12 * scene) == ("cache.prune" not in changes)

        def within_2_percent(counted: int, **asked: Any) -> None:
            load = Workload(
                system + scene + ROOM,
                kv_int8="cache.kv" in changes,
                scene_tokens=sum(prefix.lengths) / 12 + ROOM,
                max_views=3,
                views_at_once=1,
                **asked,
            )
            form = WeightFormat(torch.float32, "full", "cuda")
            plan = predict_memory(pipeline.model.info.config, form, load)
            activations = max(plan.prefill, plan.vision_activations)
            predicted = plan.total - plan.runtime  # the context is not the allocator's
            assert counted <= predicted * 1.02
            # At rest and while decoding no prompt passes.
            assert counted >= (predicted - activations) * 0.98

        within_2_percent(cuda.memories[0].allocated_bytes)
        pipeline.ask(Question("What is there?"))
        steps = static_steps(pipeline.model.model.decoder).held
        decode = sum(s.own_bytes for s in steps) / (2 * 12 * 384 * 4)
        within_2_percent(cuda.memories[0].allocated_bytes, decode_tokens=decode)

        peak = cuda.memories[0].max_allocated_bytes
        answer = pipeline.ask(Question("What is there?", max_new_tokens=LONGEST), stop_at(2))
        assert answer.stop_reason is StopReason.CANCELED
        assert cuda.memories[0].max_allocated_bytes > 1.2 * peak
        own = sum(prefix.lengths) / 12 + answer.tokens.prompt - system - scene + LONGEST
        within_2_percent(
            cuda.memories[0].max_allocated_bytes,
            own_tokens=own,
            decode_tokens=decode + own + GRANULE,
        )
