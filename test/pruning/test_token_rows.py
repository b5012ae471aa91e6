"""Rows of tokens that newlines close, against the same said token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.token_rows import TokenRows, rows_of
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import generator
from test.support.newlines import Grid

SETTINGS = settings(deadline=None, derandomize=True, max_examples=150)
SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=8)


def is_newline(grid: Grid) -> torch.Tensor:
    mask = torch.zeros(grid.total, dtype=torch.bool)
    mask[list(grid.newlines)] = True
    return mask


def rows(grid: Grid) -> TokenRows:
    return TokenRows.from_mask(is_newline(grid))


def shuffled(count: int, seed: int) -> torch.Tensor:
    return torch.randperm(count, generator=generator(seed))


@SETTINGS
@given(SIZES, st.integers(0, 4))
def test_the_rows_of_tokens_in_their_order(sizes: list[int], tail: int) -> None:
    grid = Grid.of(sizes, tail)
    found = rows(grid)
    assert (found.count, found.num_newlines) == (grid.total, len(grid.newlines))
    assert found.num_placed == sum(sizes) + tail
    assert found.placed.tolist() == grid.placed
    assert found.row.tolist() == [grid.row(i) for i in range(grid.total)]
    assert found.number[found.placed].tolist() == list(range(len(grid.placed)))
    every = torch.arange(grid.total)
    assert found.with_place(every).tolist() == grid.placed
    assert found.count_placed([every, every[:1]]) == [len(grid.placed), int(sizes[0] > 0)]


@SETTINGS
@given(SIZES, st.integers(0, 4), st.integers(0, 30), st.integers(0, 10_000))
def test_newlines_stay_with_their_rows(sizes: list[int], tail: int, count: int, seed: int) -> None:
    """Of every first part of an order of the candidates; twice in a row, as layers drop."""
    grid = Grid.of(sizes, tail)
    found, placed = rows(grid), grid.placed
    best = shuffled(len(placed), seed)
    ordered, count = found.order(best), min(count, len(placed))
    kept = [placed[i] for i in best[:count].tolist()]
    assert found.keep(best[:count]).tolist() == grid.closed(kept)
    first = ordered.first(count).tolist()
    assert sorted(first) == grid.closed(kept)
    assert [i for i in first if i in placed] == kept
    counts = list(range(len(placed) + 1))
    newlines = [len(grid.closed(placed[i] for i in best[:n].tolist())) - n for n in counts]
    assert ordered.num_newlines(counts) == newlines

    # A newline stands directly behind the first token of its row.
    for at, token in enumerate(first):
        if token in grid.newlines:
            assert grid.row(first[at - 1]) == grid.row(token)
            assert first[at - 1] in placed

    # What is left is ranked and dropped again.
    alive = found.keep(best[:count])
    left = found.take(alive, count)
    assert left.num_placed == count
    assert alive[left.placed].tolist() == sorted(kept)
    assert [placed[i] for i in left.number[left.placed].tolist()] == sorted(kept)
    again = shuffled(count, seed + 1)[: count // 2]
    twice = alive[left.keep(again)].tolist()
    assert twice == grid.closed(sorted(kept)[i] for i in again.tolist())


@SETTINGS
@given(SIZES, st.integers(0, 4), st.integers(0, 10_000))
def test_an_order_of_its_own_has_rows_and_first_parts(
    sizes: list[int], tail: int, seed: int
) -> None:
    """Tokens in the order of selection keep the rows that they had in the scene."""
    grid = Grid.of(sizes, tail)
    found, placed = rows(grid), grid.placed
    tokens = found.order(shuffled(len(placed), seed)).tokens
    moved = TokenRows.from_mask(found.is_newline[tokens], found.row[tokens])
    assert moved.plain == found.plain
    for count in range(len(placed) + 1):
        stop = moved.end_of(count)
        part = tokens[:stop].tolist()
        if count < len(placed):
            assert sorted(part) == grid.closed(part)
        assert len(grid.with_place(part)) == count
        cut = moved.crop(0, stop)
        assert (cut.count, cut.num_placed) == (stop, count)
    best = shuffled(len(placed), seed + 1)[: len(placed) // 2]
    chosen = tokens[moved.keep(best)].tolist()
    assert sorted(chosen) == grid.closed(chosen)
    assert len(grid.with_place(chosen)) == len(best)


def test_tokens_that_all_have_a_place_are_plain() -> None:
    found = TokenRows.from_mask(torch.zeros(5, dtype=torch.bool))
    assert found.plain
    assert (found.num_placed, found.num_newlines) == (5, 0)
    best = torch.tensor([4, 1, 3])
    assert found.keep(best).tolist() == [1, 3, 4]
    assert found.take(best, 3).plain
    assert found.crop(1, 4).count == 3
    assert found.end_of(2) == 2
    assert found.with_place(best) is best
    assert found.count_placed([best]) == [3]
    assert found.order(best).first(2).tolist() == [4, 1]


def test_the_rows_of_a_scene_are_found_once() -> None:
    grid = Grid.of((2, 0, 3))
    tokens = SpatialTokens(torch.zeros(8, 4), grid.places(), (~is_newline(grid)).long(), 0.2)
    found = rows_of(tokens)
    assert found.placed.tolist() == [0, 1, 4, 5, 6]
    assert rows_of(tokens) is found
    prompt = PromptSequence(torch.zeros(10, 4), torch.arange(10), (1, 9), grid.places())
    assert rows_of(prompt).placed.tolist() == [0, 1, 4, 5, 6]
    unknown = PromptSequence(torch.zeros(10, 4), torch.arange(10), (1, 9))
    assert rows_of(unknown).plain
    assert rows_of(unknown).num_placed == 8


@pytest.mark.parametrize("sizes", [(0,), (0, 0, 0)])
def test_newlines_alone_have_no_candidates(sizes: tuple[int, ...]) -> None:
    found = rows(Grid.of(sizes))
    assert found.num_placed == 0
    assert found.keep(torch.empty(0, dtype=torch.int64)).tolist() == []
