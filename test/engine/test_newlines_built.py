"""A scene with newlines, pruned while it is built: by every ranking, with tokens appended, and cut,
against the same written out.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ada3d_ros.engine.prefill import prefill_question
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.question_queries import RecordedQueries
from ada3d_ros.pruning.scene_ranking import (
    ExpectedRanking,
    PromptRanking,
    QueryRanking,
    SceneRanking,
)
from ada3d_ros.pruning.scene_rivals import RIVALS
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import LAYERS, WIDTH, generator
from test.support.newlines import ROWS, TAIL, Grid, grid_prompt, without_newlines
from test.support.prefixes import SYSTEM, make_decoder, prefix_of, question_of, relative
from test.support.slow_build import SlowDecoder

TOLERANCE = 2e-6
GRIDS = [*(Grid.of(rows) for rows in ROWS), Grid.of(TAIL, tail=9)]
FALLING = (1.0, 0.8, 0.6, 0.6, 0.5, 0.4, 0.3, 0.3)
SAME = Allocation(FALLING, FALLING)
EVEN = Allocation((1.0, *[0.4] * 7), (0.4,) * 8)
LATE = Allocation((1.0, *[0.6] * 7), (0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.6, 0.6))
allocations = pytest.mark.parametrize(
    "allocation", [SAME, EVEN, LATE], ids=["same", "even", "late"]
)
grids = pytest.mark.parametrize("grid", GRIDS, ids=["even", "holes", "few", "one", "tail"])


def prompts_of(*lengths: int) -> tuple[torch.Tensor, ...]:
    made = generator(5)
    return tuple(torch.randn(n, WIDTH, generator=made) for n in lengths)


def recorded(prompt: PromptSequence) -> RecordedQueries:
    """Of three questions about a scene."""
    seen = RecordedQueries()
    prefix = prefix_of(make_decoder(seed=9), prompt, queries=seen)
    for words in prompts_of(4, 6, 9):
        prefill_question(prefix, words, 4)
    return seen


def ranking_of(name: str, prompt: PromptSequence) -> SceneRanking:
    if name == "prompts":
        return PromptRanking()
    if name in RIVALS:
        return RIVALS[name](3)
    queries = recorded(prompt)
    last, known = queries.last(), queries.statistics()
    if name == "last_questions":
        assert last is not None
        return QueryRanking(last, "max")
    assert known is not None
    return ExpectedRanking(known.mean.float(), known.covariance.float())


RANKINGS = ("prompts", "last_questions", "expected", *RIVALS)


@allocations
@grids
def test_a_build_written_out(allocation: Allocation, grid: Grid) -> None:
    """What each layer holds, and the answer's logits."""
    decoder, prompt = make_decoder(seed=1), grid_prompt(grid, seed=3)
    pruner = ScenePruner(allocation, PromptRanking(), prompts_of(6, 4), n_min=2)
    prefix = prefix_of(decoder, prompt, pruner=pruner, with_states=True)
    slow = SlowDecoder(decoder)
    with torch.inference_mode():
        embeds = prompt.embeds[: SYSTEM + grid.total]
        scene = slow.build(embeds, SYSTEM, pruner, newlines=grid.newlines)
        expected = slow.ask(scene, question_of(prompt))
    assert prefix.held is not None
    assert [kept.tolist() for kept in prefix.held] == scene.held
    answered = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(answered.logits, expected) <= TOLERANCE
    assert answered.states is not None
    assert len(answered.states.spatial) == len(grid.with_place(scene.held[-1]))
    assert prefix.lengths == tuple(SYSTEM + len(held) for held in scene.held)


@pytest.mark.parametrize("name", RANKINGS)
@allocations
@grids
def test_each_layer_holds_newlines_exactly_of_its_rows(
    name: str, allocation: Allocation, grid: Grid
) -> None:
    decoder, prompt = make_decoder(seed=2), grid_prompt(grid, seed=4)
    riding = prompts_of(6) if name == "prompts" else ()
    pruner = ScenePruner(allocation, ranking_of(name, prompt), riding, n_min=2)
    prefix = prefix_of(decoder, prompt, pruner=pruner)
    assert prefix.held is not None
    _, held = allocation.counts(len(grid.placed), 2)
    for layer, tokens in enumerate(prefix.held):
        placed = grid.with_place(tokens.tolist())
        assert len(placed) == held[layer]
        if held[layer] < len(grid.placed):
            assert tokens.tolist() == grid.closed(placed)
        else:
            assert tokens.tolist() == list(range(grid.total))
    assert torch.isfinite(prefill_question(prefix, question_of(prompt), 4).logits).all()


@allocations
def test_random_numbers_hang_on_the_token_alone(allocation: Allocation) -> None:
    """The same tokens with a place as in a scene without newlines."""
    grid = GRIDS[1]
    decoder, prompt = make_decoder(), grid_prompt(grid)
    pruner = ScenePruner(allocation, RIVALS["random"](7), n_min=2)
    ours = prefix_of(decoder, prompt, pruner=pruner).held
    bare = prefix_of(decoder, without_newlines(prompt, grid), pruner=pruner).held
    assert ours is not None
    assert bare is not None
    for with_newlines, without in zip(ours, bare, strict=True):
        placed = grid.with_place(with_newlines.tolist())
        assert placed == [grid.placed[i] for i in without.tolist()]


@allocations
def test_appended_frames_and_a_cut_written_out(allocation: Allocation) -> None:
    """Two frames behind a scene, ranked by its frozen queries; then the first of them goes."""
    grid, frames = Grid.of((5, 5, 0, 6, 4)), (Grid.of((6, 6)), Grid.of((1, 8, 0, 3)))
    decoder, prompt = make_decoder(seed=7), grid_prompt(grid, seed=11)
    pruner = ScenePruner(allocation, PromptRanking(), prompts_of(6, 6), n_min=2)
    prefix = prefix_of(decoder, prompt, pruner=pruner, with_states=True)
    slow = SlowDecoder(decoder)
    with torch.inference_mode():
        embeds = prompt.embeds[: SYSTEM + grid.total]
        scene = slow.build(embeds, SYSTEM, pruner, newlines=grid.newlines)
        for number, frame in enumerate(frames):
            made = grid_prompt(frame, seed=20 + number)
            start, stop = made.spatial_span
            new = made.embeds[start:stop]
            patches = torch.ones(frame.total, dtype=torch.int64)
            patches[list(frame.newlines)] = 0
            tokens = SpatialTokens(new, frame.places(number), patches, 0.2)
            prefix.append_tokens(new, tokens, SceneSnapshot())
            while prefix.step():
                pass
            queries = scene.queries
            scene = slow.build(new, 0, pruner, scene, newlines=frame.newlines)
            scene.queries = queries
        expected = slow.ask(scene, question_of(prompt))
    assert prefix.held is not None
    assert [kept.tolist() for kept in prefix.held] == scene.held
    answered = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(answered.logits, expected) <= TOLERANCE

    # All of it is rows: 5 + 1, 5 + 1, ...
    whole = Grid.of((5, 5, 0, 6, 4, 6, 6, 1, 8, 0, 3))
    assert prefix.chosen.rows.placed.tolist() == whole.placed
    for tokens, count in zip(prefix.held, allocation.counts(20, 2)[1], strict=True):
        if count < 20:
            assert tokens.tolist() == whole.closed(tokens.tolist())
    assert answered.states is not None
    last = prefix.held[-1].tolist()
    assert len(answered.states.spatial) == len(whole.with_place(last))

    # A frame goes: its tokens and its newlines.
    first, stop = grid.total, grid.total + frames[0].total
    stays = torch.tensor([i for i in range(whole.total) if not first <= i < stop])
    states = prefix.final_states()
    prefix.evict(stays)
    left = [i for i in last if not first <= i < stop]
    assert prefix.held[-1].tolist() == [i if i < first else i - stop + first for i in left]
    numbers = [n for n, i in enumerate(whole.with_place(last)) if not first <= i < stop]
    assert torch.equal(prefix.final_states(), states[numbers])


@grids
def test_what_is_computed_and_held_counts_newlines(grid: Grid) -> None:
    decoder, prompt = make_decoder(), grid_prompt(grid)
    everything = Allocation((1.0,) * LAYERS, (1.0,) * LAYERS)
    built, whole = (
        prefix_of(decoder, prompt, pruner=pruner)
        for pruner in (ScenePruner(everything, PromptRanking(), prompts_of(4)), None)
    )
    assert built.lengths == whole.lengths == (SYSTEM + grid.total,) * LAYERS
    assert built.macs > 0.0
    chunks = prefix_of(decoder, prompt, chunk=10_000)
    assert built.macs == chunks.macs


def test_places_that_are_not_known_are_no_newlines() -> None:
    """A prompt without places has as many candidates as spatial tokens."""
    grid = GRIDS[0]
    prompt = dataclasses.replace(grid_prompt(grid), xyz_m=None)
    decoder = make_decoder()
    pruner = ScenePruner(EVEN, PromptRanking(), prompts_of(6), n_min=2)
    prefix = prefix_of(decoder, prompt, pruner=pruner)
    assert prefix.held is not None
    assert len(prefix.held[0]) == EVEN.counts(grid.total, 2)[1][0]
