"""What settings ask of a model's memory: of the 7B, by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.engine.memory_plan import plan_workload
from ada3d_ros.errors import ConfigError
from ada3d_ros.model.config import LlavaConfig
from ada3d_ros.model.memory import Workload, predict_memory
from ada3d_ros.model.video3dllm.config import Video3DConfig
from ada3d_ros.model.weight_format import WeightFormat
from ada3d_ros.pipeline import Ada3DPipeline

SEVEN_B = LlavaConfig()  # 2560 spatial tokens, 4096 positions
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BUILD = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.41, "cache.prune": "build"}


def load_of(device: torch.device = CUDA, **changes: Any) -> Workload:
    flat = {**BUILD, **{name.replace("__", "."): value for name, value in changes.items()}}
    return plan_workload(from_flat(flat), SEVEN_B, device)


def test_copies_hold_what_is_kept_and_room_for_a_usual_answer() -> None:
    """.41 of 2560 in the mean of the layers, 64 system tokens, 64 of a question and the answer."""
    pruned, whole = load_of(generation__max_new_tokens=128), load_of(cache__prune="none")
    assert pruned.scene_copies == whole.scene_copies == 2
    assert pruned.copy_tokens == pytest.approx(0.41 * 2560 + 64 + 64 + 128, rel=0.01)
    assert whole.copy_tokens == 2560 + 64 + 64 + 256
    long = load_of(cache__prune="none", generation__max_new_tokens=2000)
    assert long.copy_tokens == 2560 + 64 + 512  # such an answer gets a copy
    assert load_of(cache__prune="auto").copy_tokens == whole.copy_tokens  # it may be whole
    small = load_of(pruning__keep_ratio=0.1, generation__max_new_tokens=128)
    assert small.copy_tokens == pytest.approx(0.1 * 2560 + 256, rel=0.01)


def test_the_file_beside_the_weights_says_what_layers_hold() -> None:
    """`measured` was refused at the start, as if there were none."""
    settings = {"model.path": "embedded", "pruning.keep_ratio": 0.1, "cache.held": "measured"}
    assert Ada3DPipeline(from_flat(settings)).check().name == "embedded"


def test_what_rides_along_passes_too() -> None:
    one, two = load_of(), load_of(cache__prompts="What is in the room?|Where is the red chair?")
    assert 0 < one.riding_tokens < two.riding_tokens < 60
    assert load_of(cache__ranking="kvzip").riding_tokens == 2560
    assert load_of(cache__ranking="values").riding_tokens == 0
    assert load_of(cache__prune="none").riding_tokens == 0


def test_an_answers_own() -> None:
    """A request may ask for 2048 tokens: to the last of 4096 positions; in whole granules of 128 on
    a GPU, and of a usual one beside it where the scene's own buffers do not serve.
    """
    assert load_of(CPU).own_tokens == load_of().own_tokens == 4096
    assert load_of(CPU).decode_tokens == 0
    assert load_of(CPU, cache__kv="int8").decode_tokens == 4096  # dequantised
    assert load_of().decode_tokens == 4224
    assert load_of(cache__prune="question").decode_tokens == 4224 + 3200
    paper = load_of(cache__mode="paper")
    assert (paper.scene_copies, paper.decode_tokens, paper.kv_int8) == (0, 4224 + 3200, False)
    assert load_of(model__compat="reference").views_at_once is None
    assert load_of().views_at_once == 1


def test_a_cut_takes_less_on_the_way_than_a_prompt() -> None:
    """One layer of the largest scene, and its tokens once more: nothing that had to be planned."""
    model, load = Video3DConfig(), plan_workload(from_flat({}), Video3DConfig(), CUDA)
    for kv in ("model", "int8"):
        load = plan_workload(from_flat({"cache.kv": kv}), model, CUDA)
        plan = predict_memory(model, WeightFormat(torch.bfloat16, "full", "cuda"), load)
        layer = plan.kv_cache / load.scene_copies / model.decoder.num_layers
        width = model.decoder.hidden_size * 2  # bytes of a token's embedding, in bfloat16
        assert 0 < layer + 2 * load.copy_tokens * width < plan.prefill


def test_what_fits_8_gb() -> None:
    """gpu.md, G7: a plan that left out decode buffers said that the 7B in int4 fits with 2071."""
    form = WeightFormat(torch.bfloat16, "int4", "cuda")
    plan, whole = (
        predict_memory(SEVEN_B, form, load) for load in (load_of(), load_of(cache__prune="none"))
    )
    assert plan.kv_cache < 0.5 * whole.kv_cache
    assert plan.decode_buffers == 4224 * 524_288
    assert plan.total > 8 * 2**30


def test_a_budget_out_of_reach_is_said_here_too() -> None:
    with pytest.raises(ConfigError, match=re.escape("cache.alive")):
        load_of(cache__alive="1.0,0.5")
