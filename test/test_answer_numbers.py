"""What an answer says it kept, covered, cost and took, against values worked out from outside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.engine.scene_prefix import PrefixEntry
from ada3d_ros.engine.token_selection import ChosenTokens
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.scene.voxel_table import VoxelSums, VoxelTable
from ada3d_ros.types import Answer, Question
from test.support.pipelines import ASK, ROOM, cache_of, configured, start

CELL_M = 0.5


def cells_of(xyz_m: np.ndarray) -> set[tuple[int, int, int]]:
    return {(round(x / CELL_M), round(y / CELL_M), round(z / CELL_M)) for x, y, z in xyz_m.tolist()}


def all_places(pipeline: Ada3DPipeline) -> np.ndarray:
    sums = cache_of(pipeline).encoder.table.sums
    return (sums.xyz_m / sums.num_patches[:, None]).double().numpy()


@pytest.mark.parametrize("mode", ["cached", "paper"])
@pytest.mark.parametrize("strategy", ["random", "voxel_dpp", "random+adatoken3d", "adatoken3d"])
def test_coverage_is_of_the_tokens_that_were_kept(model: Path, strategy: str, mode: str) -> None:
    """Cells of the kept places among those of all places; chosen before the model and in it."""
    settings = {"pruning.strategy": strategy, "pruning.keep_ratio": 0.3, "cache.mode": mode}
    pipeline = start(model, **settings, **{"pruning.n_min": 1})
    answer = pipeline.ask(ASK)
    assert answer.kept_xyz_m is not None
    assert len(answer.kept_xyz_m) == answer.tokens.spatial_kept
    kept, every = cells_of(answer.kept_xyz_m.astype(np.float64)), cells_of(all_places(pipeline))
    assert kept < every
    assert answer.tokens.coverage == pytest.approx(len(kept) / len(every))


# -- FLOPs, layer by layer and written out


def flops(shape: DecoderShape, queries: int, keys_before: list[int]) -> float:
    """2 FLOP a multiply-accumulate: projections and MLP of each query, its scores and values over
    the keys it sees, and the head on the last.
    """
    d = shape.hidden_size
    linear = 2 * d * d + 2 * d * shape.kv_width + 3 * d * shape.intermediate_size
    total = 0.0
    for before in keys_before:
        seen = sum(before + i + 1 for i in range(queries))
        total += queries * linear + 2 * seen * d
    return 2 * (total + d * shape.vocab_size)


def shape_of(pipeline: Ada3DPipeline) -> DecoderShape:
    return DecoderShape.from_config(pipeline.model.model.config.decoder)


@pytest.mark.parametrize("strategy", ["none", "adatoken3d", "voxel_dpp"])
def test_a_cached_question_costs_its_own_tokens(model: Path, strategy: str) -> None:
    settings = {} if strategy == "none" else {"pruning.keep_ratio": 0.5, "pruning.n_min": 1}
    pipeline = start(model, **{"pruning.strategy": strategy, **settings})
    answer, shape = pipeline.ask(ASK), shape_of(pipeline)
    assert answer.scene_cached
    prefix = cache_of(pipeline).active
    assert prefix is not None
    own = answer.tokens.prompt - prefix.start - len(prefix.embeds)
    assert 10 < own < 60
    keys = [prefix.start + count for count in answer.tokens.per_layer]
    tokens, whole = answer.tokens, prefix.start + answer.tokens.spatial_total
    layers, row_bytes = shape.num_layers, 2 * shape.kv_width * 4
    assert tokens.prefill_flops == pytest.approx(flops(shape, own, keys), rel=1e-12)
    unpruned = flops(shape, own, [whole] * layers)
    assert tokens.unpruned_prefill_flops == pytest.approx(unpruned, rel=1e-12)
    assert tokens.held_kv_bytes == row_bytes * sum(count + own for count in keys)
    assert tokens.unpruned_kv_bytes == row_bytes * layers * (whole + own)
    head = 2 * shape.hidden_size * shape.vocab_size  # a build needs none
    build = flops(shape, whole, [0] * layers) - head
    assert tokens.unpruned_build_flops == pytest.approx(build, rel=1e-12)
    if strategy == "none":
        assert tokens.build_flops == pytest.approx(build, rel=1e-12)
    else:
        assert tokens.build_flops < 0.9 * build


@pytest.mark.parametrize("kv", ["model", "int8"])
def test_a_selection_holds_the_scene_and_its_own_copy(model: Path, kv: str) -> None:
    """Layers that are lent hold the question's own tokens beside the scene, others a copy; of the
    scene in 8 bits that copy is in the model's format, in every layer.
    """
    settings = {"pruning.strategy": "adatoken3d", "pruning.keep_ratio": 0.5, "cache.kv": kv}
    pipeline = start(model, **settings, **{"cache.prune": "question", "pruning.n_min": 1})
    tokens, shape = pipeline.ask(ASK).tokens, shape_of(pipeline)
    prefix, counts = cache_of(pipeline).active, tokens.per_layer
    assert prefix is not None
    own = tokens.prompt - prefix.start - len(prefix.embeds)
    lent = [kv == "model" and count == tokens.spatial_total for count in counts]
    assert sum(lent) == (kv == "model")
    beside = [
        own if borrowed else prefix.start + count + own
        for borrowed, count in zip(lent, counts, strict=True)
    ]
    row_bytes, head_dim = 2 * shape.kv_width * 4, pipeline.model.model.decoder.head_dim
    scene_bytes = row_bytes  # a scale in float32 for each vector of bytes
    if kv == "int8":
        scene_bytes = 2 * shape.kv_width + 2 * shape.kv_width // head_dim * 4
    whole = (prefix.start + len(prefix.embeds)) * shape.num_layers
    assert tokens.held_kv_bytes == whole * scene_bytes + sum(beside) * row_bytes


@pytest.mark.parametrize("strategy", ["none", "voxel_dpp"])
def test_an_uncached_question_costs_the_whole_prompt(model: Path, strategy: str) -> None:
    settings = {} if strategy == "none" else {"pruning.keep_ratio": 0.5, "pruning.n_min": 1}
    pipeline = start(model, **{"pruning.strategy": strategy, "cache.mode": "paper", **settings})
    tokens, shape = pipeline.ask(ASK).tokens, shape_of(pipeline)
    layers, text = shape.num_layers, tokens.prompt - tokens.per_layer[0]
    whole = text + tokens.spatial_total
    assert tokens.prefill_flops == pytest.approx(flops(shape, tokens.prompt, [0] * layers))
    assert tokens.full_prefill_flops == pytest.approx(flops(shape, whole, [0] * layers))
    assert tokens.decode_flops == pytest.approx(flops(shape, 1, [tokens.prompt] * layers))
    assert tokens.full_decode_flops == pytest.approx(flops(shape, 1, [whole] * layers))
    assert tokens.keep_ratio_achieved == pytest.approx(
        sum(tokens.per_layer) / layers / tokens.spatial_total
    )
    row_bytes = 2 * shape.kv_width * 4  # keys and values in float32
    assert tokens.held_kv_bytes == layers * tokens.prompt * row_bytes
    assert tokens.unpruned_kv_bytes == layers * whole * row_bytes
    assert tokens.kv_bytes == layers * (tokens.prompt + tokens.generated) * row_bytes  # and room
    assert math.isnan(tokens.build_flops)
    assert tokens.full_kv_bytes == layers * whole * row_bytes


# -- times


def ticking(model: Path, **settings: Any) -> Ada3DPipeline:
    """Its clock goes on by one second at every look."""
    ticks: Iterator[float] = map(float, itertools.count())
    pipeline = Ada3DPipeline(configured(model, **settings), now=lambda: next(ticks))
    pipeline.check()
    pipeline.load()
    for frame in ROOM.frames:
        pipeline.observe(frame)
    return pipeline


def asked(pipeline: Ada3DPipeline, **changes: object) -> Answer:
    return pipeline.ask(replace(Question("What is there?"), **changes))  # type: ignore[arg-type]


def test_stages_end_before_the_whole_and_the_first_token_before_the_last(model: Path) -> None:
    times = asked(ticking(model, **{"cache.mode": "paper"})).timings
    stages = (times.preprocess_s, times.vision_s, times.spatial_s, times.prefill_s)
    assert all(seconds >= 1.0 for seconds in stages)
    assert sum(stages) < times.first_token_s < times.first_token_s + times.decode_s < times.total_s


def test_a_deadline_is_kept_in_seconds(model: Path) -> None:
    pipeline = ticking(model)
    total_s = asked(pipeline).timings.total_s
    assert asked(pipeline, deadline_s=2 * total_s).deadline_kept
    assert not asked(pipeline, deadline_s=total_s / 1000).deadline_kept
    assert not asked(pipeline).deadline_kept


# -- staleness


def sums_at(*coords: int) -> VoxelSums:
    """One patch in each voxel (x, 0, 0)."""
    count = len(coords)
    places = torch.tensor([[x, 0, 0] for x in coords], dtype=torch.int64)
    ones = torch.ones(count, dtype=torch.int64)
    return VoxelSums(places, torch.ones(count, 2), places.float(), ones)


def held(table: VoxelTable) -> PrefixEntry:
    """An entry made of the table as it is."""
    entry = object.__new__(PrefixEntry)
    count = len(table.sums)
    entry.chosen = ChosenTokens(None, torch.arange(count), count)  # type: ignore[arg-type]
    entry.embeds = torch.zeros(count, 2)
    entry.hold(table, selected=False)
    return entry


def test_staleness_counts_voxels_that_are_new_changed_and_gone() -> None:
    table = VoxelTable()
    table.add(0, sums_at(0, 1, 2, 3))
    table.add(1, sums_at(3, 4, 5))
    entry = held(table)
    assert entry.stale_share(table) == 0.0
    table.remove(1)  # 4 and 5 are gone, 3 has changed; 0, 1 and 2 are as they were
    assert entry.stale_share(table) == pytest.approx(3 / 6)
    table.add(2, sums_at(2, 6))  # 2 has changed, 6 is new
    assert entry.stale_share(table) == pytest.approx(5 / 7)
    assert held(table).stale_share(table) == 0.0


def test_what_is_gone_alone_makes_it_stale() -> None:
    table = VoxelTable()
    table.add(0, sums_at(0, 1))
    table.add(1, sums_at(5, 6, 7))
    entry = held(table)
    table.remove(1)
    assert entry.stale_share(table) == pytest.approx(3 / 5)
