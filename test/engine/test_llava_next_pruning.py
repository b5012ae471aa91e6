"""Pruning of LLaVA-NeXT's image tokens: counts, newlines, places; logits as written out."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from ada3d_ros.engine.prefill import PrefillOutput, prefill
from ada3d_ros.engine.scene_encoder import encode_image
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import ChosenTokens, choose_tokens, pruner_for
from ada3d_ros.lab.evaluation.field.images import image_frame
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.llava_next.llava_next import LlavaNext
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.types import PromptSequence, Question, Scope, SpatialTokens
from test.support.checkpoints import SMALL_NEXT
from test.support.decoders import PRE, policy_of
from test.support.llava_oracle import drawn
from test.support.slow_engine import slow_prefill

SIZES = [(90, 120), (120, 90), (40, 280), (300, 31), (1, 1000), (1000, 1)]
IDS = [5, 9, 11, IMAGE_ID, *range(20, 29)]
BASE = 16  # patches of the whole image
sizes = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("next"), 5, SMALL_NEXT)


@pytest.fixture(scope="module")
def model(folder: Path) -> LlavaNext:
    model = load_model(folder).model
    assert isinstance(model, LlavaNext)
    return model


def image_of(model: LlavaNext, size: tuple[int, int]) -> SpatialTokens:
    clock = StageClock(model.device, time.perf_counter)
    return encode_image(model, image_frame(drawn(*size), 0), clock)


def row_of(model: LlavaNext, size: tuple[int, int]) -> list[int]:
    """By the grid alone: -1 of the whole image's patches, else the row that a token stands in."""
    grid = model.prepare_image(image_frame(drawn(*size), 0)).grid
    return [-1] * BASE + [r for r in range(grid.rows) for _ in range(grid.columns + 1)]


@torch.inference_mode()
def prompt_of(model: LlavaNext, chosen: ChosenTokens) -> PromptSequence:
    tokens = chosen.tokens
    prompt = model.build_prompt(IDS, model.project(tokens.features), None, tokens.xyz_m)
    return chosen.in_prompt(prompt)


def assert_rows_go_together(tokens: SpatialTokens, kept: list[int], row: list[int]) -> None:
    """Newlines of exactly the rows of which something else is left; kept ascending."""
    newline = tokens.xyz_m.isnan().any(dim=1).tolist()
    left = {row[i] for i in kept if not newline[i]}
    expected = [i for i in range(len(row)) if newline[i] and row[i] in left]
    assert [i for i in kept if newline[i]] == expected
    assert kept == sorted(kept)


@sizes
@pytest.mark.parametrize("strategy", ["fastv", "pdrop", "adatoken3d", "logistic"])
def test_inside_the_language_model(model: LlavaNext, size: tuple[int, int], strategy: str) -> None:
    tokens, row = image_of(model, size), row_of(model, size)
    placed = int((tokens.num_patches > 0).sum())
    assert placed == len(row) - (len(set(row)) - 1)
    prompt = prompt_of(
        model, choose_tokens(model, tokens, policy_of(strategy, 0.6, n_min=2, fastv__k=1))
    )
    pruner = pruner_for(
        model.decoder, policy_of(strategy, 0.6, n_min=2, fastv__k=1), prompt, placed
    )
    assert pruner is not None
    found: PrefillOutput = prefill(model.decoder, prompt, pruner=pruner)

    # Every layer: so many tokens with a place, each at most as many as the layer before.
    counts = [int((tokens.num_patches[kept] > 0).sum()) for kept in found.kept]
    if strategy != "logistic":  # follows from the attention
        assert counts == list(pruner.counts(placed, None))
    assert counts[0] == placed > counts[-1]
    for kept, before in zip(found.kept[1:], found.kept[:-1], strict=True):
        assert set(kept.tolist()) <= set(before.tolist())
        if len(kept) < len(row):
            assert_rows_go_together(tokens, kept.tolist(), row)

    # The same by whole attention matrices in float64.
    given = [kept.tolist() for kept in found.kept]
    slow = slow_prefill(model.decoder, prompt.embeds, prompt.spatial_span, pruner, given)
    assert (found.logits.double() - slow.logits[-1]).abs().max() < 5e-4


@sizes
@pytest.mark.parametrize("strategy", PRE)
def test_before_the_language_model(model: LlavaNext, size: tuple[int, int], strategy: str) -> None:
    tokens, row = image_of(model, size), row_of(model, size)
    placed = int((tokens.num_patches > 0).sum())
    policy = policy_of(strategy, 0.5, n_min=2)
    chosen = choose_tokens(model, tokens, policy, IDS)
    has_place = chosen.tokens.num_patches > 0
    if strategy == "coarse_voxels":  # as many as the finest grid within the budget has
        assert 1 < int(has_place.sum()) <= placed // 2
    else:
        assert int(has_place.sum()) == placed // 2
    order = torch.sort(chosen.kept).indices  # selection order, where the settings say so
    assert_rows_go_together(tokens, chosen.kept[order].tolist(), row)

    # Means lie in the image, whose first patch is around 0; a newline is the one it was.
    extent = tokens.xyz_m.nan_to_num(0.0).amax(dim=0).ceil() + 0.5
    where = chosen.tokens.xyz_m[has_place]
    assert bool((where > -0.5).all())
    assert bool((where < extent).all())
    assert not where[:, 2].any()
    assert chosen.tokens.xyz_m[~has_place].isnan().all()
    assert torch.equal(chosen.tokens.features[~has_place], tokens.features[chosen.kept[~has_place]])
    assert torch.isfinite(prefill(model.decoder, prompt_of(model, chosen)).logits).all()


def test_whole_image_and_crops_are_merged_where_they_show_the_same(model: LlavaNext) -> None:
    """One frame of places for both: a group of coarse voxels holds patches of either kind."""
    tokens = image_of(model, (112, 112))  # 2 x 2 crops: a patch of the whole image spans four
    chosen = choose_tokens(model, tokens, policy_of("coarse_voxels", 0.2))
    has_place = chosen.tokens.num_patches > 0
    assert int(has_place.sum()) == BASE
    assert chosen.tokens.num_patches[has_place].tolist() == [5] * BASE
    assert torch.allclose(chosen.tokens.xyz_m[has_place], tokens.xyz_m[:BASE])


@sizes
def test_keeping_all_is_the_unpruned_model(folder: Path, size: tuple[int, int]) -> None:
    texts = []
    for strategy in ("none", "adatoken3d", "voxel_dpp"):
        pipeline = open_pipeline(folder, strategy, 1.0)
        pipeline.observe(image_frame(drawn(*size), 0))
        question = Question("What is it?", scope=Scope.LATEST_IMAGE, routed=False)
        texts.append(pipeline.ask(question).text)
    assert texts[0]
    assert texts == [texts[0]] * 3


@pytest.mark.parametrize("strategy", ["adatoken3d_plus", "voxel_dpp+fastv", "adatoken3d"])
def test_strategies_of_two_parts_and_a_schedule_measured_on_the_image(
    folder: Path, strategy: str
) -> None:
    settings = {"cache.mode": "paper", "pruning.fastv.k": 1, "pruning.n_min": 2}
    settings |= {"pruning.adatoken3d.calibration": "per_scene"}
    settings |= {"pruning.adatoken3d.schedule": "fitted"} if strategy == "adatoken3d" else {}
    pipeline = open_pipeline(folder, strategy, 0.5, settings)
    pipeline.observe(image_frame(drawn(90, 120), 0))
    question = Question("What is it?", scope=Scope.LATEST_IMAGE, routed=False)
    tokens = pipeline.ask(question).tokens
    assert tokens.keep_ratio_achieved == pytest.approx(0.5, abs=0.02)
    assert tokens.prefill_flops < tokens.full_prefill_flops
