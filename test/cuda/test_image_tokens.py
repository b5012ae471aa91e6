"""LLaVA-NeXT's image on a device: tokens, places and rows as on the host, pruned answers too."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from ada3d_ros.engine.scene_encoder import encode_image
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.lab.evaluation.field.images import image_frame
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import Question, Scope
from test.cuda.emulator import EmulatedCuda
from test.support.checkpoints import SMALL_NEXT
from test.support.llava_oracle import drawn

ASK = Question("What is it?", scope=Scope.LATEST_IMAGE, max_new_tokens=8, routed=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("next"), 5, SMALL_NEXT)


def tokens_on(folder: Path, device: str, size: tuple[int, int]) -> list[torch.Tensor]:
    model = load_model(folder, device).model
    frame = image_frame(drawn(*size), 0)
    tokens = encode_image(model, frame, StageClock(model.device, time.perf_counter))
    rows = rows_of(tokens)
    found = [tokens.features, tokens.xyz_m, tokens.num_patches, rows.row, rows.placed]
    assert {tensor.device for tensor in found if len(tensor)} == {model.device}
    return [tensor.cpu() for tensor in found]


@pytest.mark.parametrize("size", [(90, 120), (1000, 1)])
def test_tokens_are_those_of_the_host(
    folder: Path, cuda: EmulatedCuda, size: tuple[int, int]
) -> None:
    with torch.inference_mode():
        found, expected = tokens_on(folder, "cuda:1", size), tokens_on(folder, "cpu", size)
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine.nan_to_num(-9.0), other.nan_to_num(-9.0))


@pytest.mark.parametrize("strategy", ["adatoken3d", "pdrop", "voxel_dpp"])
def test_a_pruned_answer_is_that_of_the_host(
    folder: Path, cuda: EmulatedCuda, strategy: str
) -> None:
    texts = []
    for device in ("cuda:0", "cpu"):
        settings = {"model.device": device, "model.precision": "fp32", "cache.mode": "paper"}
        pipeline = open_pipeline(folder, strategy, 0.6, settings)
        pipeline.observe(image_frame(drawn(90, 120), 0))
        answer = pipeline.ask(ASK)
        texts.append((answer.text, answer.tokens.per_layer))
    assert texts[0][0]
    assert texts[0] == texts[1]
