"""Spatial tokens without a place, that close rows: while a prompt passes and where a question
selects of a cached scene, against the same said token by token.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.engine.token_selection import pruner_for
from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.types import PromptSequence
from test.support.decoders import INNER, LAYERS, SHAPE, policy_of
from test.support.newlines import ROWS, TAIL, Grid, grid_prompt, without_newlines
from test.support.prefixes import SYSTEM, TEXT, make_decoder, prefix_of, question_of, relative
from test.support.slow_engine import slow_prefill
from test.support.slow_selection import slow_question

GRIDS = [*(Grid.of(rows) for rows in ROWS), Grid.of(TAIL, tail=9)]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("adatoken3d", {}),
    ("adatoken3d", {"adatoken3d__positions": "compact"}),
    ("adatoken3d", {"adatoken3d__rank__rope": False, "adatoken3d__prune_layers": "1,4,5"}),
    ("fastv", {}),
    ("pdrop", {}),
    ("pdrop", {"pdrop__positions": "original", "pdrop__layers": "1,2,6"}),
    ("logistic", {}),
]
variants = pytest.mark.parametrize(("strategy", "flat"), VARIANTS)
grids = pytest.mark.parametrize("grid", GRIDS, ids=["even", "holes", "few", "one", "tail"])


def pruner_of(grid: Grid, strategy: str, ratio: float = 0.5, **flat: Any) -> LayerPruner:
    placed = len(grid.placed)
    text = SYSTEM + TEXT + len(grid.newlines)
    pruner = policy_of(strategy, ratio, n_min=2, **flat).pruner(SHAPE, placed, placed, text)
    assert pruner is not None
    return pruner


def assert_rows(kept: list[list[int]], counts: tuple[int, ...], grid: Grid) -> None:
    """Each layer keeps so many tokens with a place, and newlines exactly of their rows; all of them
    before anything went.
    """
    for layer, tokens in enumerate(kept):
        placed = grid.with_place(tokens)
        assert len(placed) == counts[layer]
        whole = counts[layer] == len(grid.placed)
        assert tokens == (list(range(grid.total)) if whole else grid.closed(placed))


# -- while a prompt passes


@variants
@grids
def test_a_newline_goes_exactly_with_its_row(
    strategy: str, flat: dict[str, Any], grid: Grid
) -> None:
    """The tokens of every layer, and logits, as written out in float64. P11, P13, P16."""
    for seed in range(3):
        decoder, prompt = make_decoder(seed=seed), grid_prompt(grid, seed)
        pruner = pruner_of(grid, strategy, **flat)
        fast = prefill(decoder, prompt, pruner=pruner)
        slow = slow_prefill(
            decoder, prompt.embeds, prompt.spatial_span, pruner, newlines=grid.newlines
        )
        kept = [stage.tolist() for stage in fast.kept]
        assert kept == slow.kept
        assert (fast.logits.double() - slow.logits[-1]).abs().max() < 1e-4
        assert_rows(kept, tuple(len(grid.with_place(stage)) for stage in kept), grid)
        if strategy != "logistic":
            counts = pruner.counts(len(grid.placed), None)
            assert [len(grid.with_place(stage)) for stage in kept] == list(counts)
        assert fast.cache.lengths == tuple(SYSTEM + TEXT + n for n in fast.counts)
        compact = pruner.positions == "compact"
        total = SYSTEM + grid.total + TEXT
        ends = [SYSTEM + n + TEXT if compact else total for n in fast.counts]
        assert list(fast.next_positions) == ends
        again = prefill(decoder, prompt, pruner=pruner)  # P18
        assert all(map(torch.equal, fast.kept, again.kept))
        assert torch.equal(fast.logits, again.logits)


@grids
def test_decoding_goes_on_with_what_each_layer_kept(grid: Grid) -> None:
    decoder, prompt = make_decoder(), grid_prompt(grid)
    pruner = pruner_of(grid, "adatoken3d")
    filled = prefill(decoder, prompt, pruner=pruner)
    kept = [stage.tolist() for stage in filled.kept]
    ids = decode(decoder, filled, GenerationRequest(5)).token_ids
    longer = torch.cat((prompt.embeds, decoder.embed(torch.tensor(ids[:-1]))))
    slow = slow_prefill(decoder, longer, prompt.spatial_span, pruner, given=kept)
    assert slow.logits[-5:].argmax(dim=1).tolist() == list(ids)


@grids
def test_what_hangs_on_the_token_alone_is_kept_as_without_newlines(grid: Grid) -> None:
    """Random scores: the same tokens with a place in every layer."""
    decoder, prompt = make_decoder(), grid_prompt(grid)
    pruner = pruner_of(grid, "adatoken3d", adatoken3d__rank__score="random")
    ours = prefill(decoder, prompt, pruner=pruner)
    bare = prefill(decoder, without_newlines(prompt, grid), pruner=pruner)
    for with_newlines, without in zip(ours.kept, bare.kept, strict=True):
        placed = grid.with_place(with_newlines.tolist())
        assert placed == [grid.placed[i] for i in without.tolist()]


@pytest.mark.parametrize("strategy", INNER)
def test_p12_nothing_dropped_is_the_unpruned_model_bit_for_bit(strategy: str) -> None:
    """A newline whose row was never filled stays, too: nothing is touched where nothing goes."""
    grid = Grid.of(ROWS[1])
    decoder, prompt = make_decoder(), grid_prompt(grid)
    plain = prefill(decoder, prompt)
    policy = policy_of(strategy, 1.0)
    assert pruner_for(decoder, policy, prompt, len(grid.placed)) is None
    flat = {"adatoken3d__budget__mode": "endpoint", "adatoken3d__budget__value": 1.0}
    pruner = pruner_of(grid, "adatoken3d", math.nan, **flat)
    filled = prefill(decoder, prompt, pruner=pruner)
    assert filled.counts == plain.counts == (grid.total,) * LAYERS
    assert torch.equal(filled.logits, plain.logits)


def test_budgets_count_tokens_with_a_place() -> None:
    """Of 40 with a place and 8 newlines, as of 40; too few with a place are left alone."""
    grid, decoder = GRIDS[0], make_decoder()
    policy = policy_of("adatoken3d", 0.5, n_min=2)
    prompt = grid_prompt(grid)
    pruner = pruner_for(decoder, policy, prompt, 40)
    bare = pruner_for(decoder, policy, without_newlines(prompt, grid), 40)
    assert pruner == bare
    few = grid_prompt(Grid.of((1, 1, 0, 0, 0)))
    assert pruner_for(decoder, policy, few, 2) is None


def test_p19_no_prompt_token_after_the_scene_is_an_error() -> None:
    """Not the row of index -1, which would be a newline."""
    grid = GRIDS[0]
    whole = grid_prompt(grid)
    stop = whole.spatial_span[1]
    ends = PromptSequence(
        whole.embeds[:stop], whole.positions[:stop], whole.spatial_span, whole.xyz_m
    )
    with pytest.raises(InvalidRequestError, match="no prompt token follows the spatial tokens"):
        prefill(make_decoder(), ends, pruner=pruner_of(grid, "adatoken3d"))
    with pytest.raises(InvalidRequestError, match="40 spatial tokens and 0 behind them"):
        measure_information(make_decoder(), ends)


# -- a choice for each question out of a cached scene


@grids
def test_p14_a_cached_scene_answers_like_one_shot_prefill(grid: Grid) -> None:
    decoder, prompt = make_decoder(seed=5), grid_prompt(grid, seed=5)
    cached = prefill_question(prefix_of(decoder, prompt), question_of(prompt), 8)
    assert relative(cached.logits, prefill(decoder, prompt).logits) <= 1e-5
    assert cached.counts == (grid.total,) * LAYERS


@pytest.mark.parametrize(
    ("strategy", "flat"),
    [
        ("adatoken3d", {}),
        ("adatoken3d", {"adatoken3d__rank__query": "all"}),
        ("adatoken3d", {"adatoken3d__rank__rope": False, "adatoken3d__prune_layers": "1,4,5"}),
        ("adatoken3d", {"adatoken3d__rank__score": "random"}),
        ("fastv", {}),
        ("pdrop", {}),
        ("logistic", {}),
    ],
)
@grids
def test_selection_for_a_question_written_out(
    strategy: str, flat: dict[str, Any], grid: Grid
) -> None:
    decoder, prompt = make_decoder(seed=3), grid_prompt(grid, seed=3)
    pruner = pruner_of(grid, strategy, **flat)
    prefix = prefix_of(decoder, prompt)
    warm = prefill_question(prefix, question_of(prompt), 8, pruner, with_states=False)
    slow = slow_question(decoder, prompt, pruner, newlines=grid.newlines)
    kept = [stage.tolist() for stage in warm.kept]
    assert kept == slow.kept
    assert relative(warm.logits, slow.logits[-1]) <= 1e-5
    assert_rows(kept, tuple(len(grid.with_place(stage)) for stage in kept), grid)
    assert len(grid.with_place(kept[-1])) < len(grid.placed)
    assert warm.cache.lengths == tuple(n + SYSTEM + TEXT for n in warm.counts)


def test_a_question_about_a_first_part_of_the_scene() -> None:
    """As many tokens as the part has; the rest of the prefix is not there."""
    grid = Grid.of((5, 5, 5, 5, 5))
    decoder, prompt = make_decoder(seed=2), grid_prompt(grid, seed=2)
    part = Grid.of((5, 5, 5))
    cut = grid_prompt(grid, seed=2)
    start = SYSTEM
    embeds = torch.cat((cut.embeds[: start + part.total], question_of(cut)))
    assert cut.xyz_m is not None
    short = PromptSequence(
        embeds,
        torch.arange(len(embeds)),
        (start, start + part.total),
        cut.xyz_m[: part.total],
    )
    pruner = pruner_of(part, "adatoken3d")
    prefix = prefix_of(decoder, prompt)
    warm = prefill_question(prefix, question_of(prompt), 8, pruner, count=part.total)
    slow = slow_question(decoder, short, pruner, newlines=part.newlines)
    assert [stage.tolist() for stage in warm.kept] == slow.kept
    assert relative(warm.logits, slow.logits[-1]) <= 1e-5


def test_states_are_of_tokens_with_a_place() -> None:
    """In every mode as many as are kept with a place, in their order."""
    grid = GRIDS[1]
    decoder, prompt = make_decoder(), grid_prompt(grid)
    whole = prefill(decoder, prompt, with_states=True)
    assert whole.states is not None
    every = decoder.norm(decoder.run_layers(0, LAYERS, prompt.embeds[None], prompt.positions))[0]
    expected = every[[SYSTEM + i for i in grid.placed]]
    assert relative(whole.states.spatial, expected) <= 2e-6
    prefix = prefix_of(decoder, prompt, with_states=True)
    assert relative(prefix.final_states(), expected) <= 2e-6
    pruner = pruner_of(grid, "adatoken3d")
    for filled in (
        prefill(decoder, prompt, pruner=pruner, with_states=True),
        prefill_question(prefix, question_of(prompt), 8, pruner, with_states=True),
    ):
        assert filled.states is not None
        kept = grid.with_place(filled.kept[-1].tolist())
        assert len(filled.states.spatial) == len(kept) < len(grid.placed)
    number = [grid.placed.index(i) for i in kept]
    assert torch.equal(filled.states.spatial, prefix.final_states()[number])
