"""Frames in the order of their names: what is held of them, what is stale, what a cut leaves."""

from __future__ import annotations

import pytest
import torch

from ada3d_ros.scene.frame_table import FrameTable, FrameTokens


def frame(first: int, count: int) -> FrameTokens:
    """Tokens that are numbered from `first` on."""
    numbers = torch.arange(first, first + count).float()
    places = numbers[:, None].expand(-1, 3)
    return FrameTokens(numbers[:, None], places, torch.ones(count, dtype=torch.int64))


def table_of(*sizes: int) -> FrameTable:
    table = FrameTable()
    for name, size in enumerate(sizes):
        table.add(name, frame(100 * name, size))
    return table


def test_tokens_stand_in_the_order_of_the_frames_names() -> None:
    """Whenever they came."""
    table = FrameTable()
    table.add(7, frame(0, 2))
    table.add(3, frame(50, 3))
    assert table.views == (3, 7)
    assert table.num_tokens == 5
    assert table.tokens().features[:, 0].tolist() == [50, 51, 52, 0, 1]
    assert table.of_views([3]).tokens().features[:, 0].tolist() == [50, 51, 52]
    assert table.of_views([7, 3]).views == (3, 7)


def test_a_table_without_frames_has_no_tokens_to_give() -> None:
    table = FrameTable()
    assert table.num_tokens == 0
    with pytest.raises(LookupError):
        table.tokens()


def test_revisions_grow_with_every_change() -> None:
    table = table_of(2, 2)
    before = table.revision
    table.remove(0)
    assert table.revision > before
    assert table.views == (1,)


def test_a_frame_that_is_new_is_all_that_is_stale() -> None:
    table = table_of(4, 4)
    held = table.hold()
    assert held.in_order
    assert table.stale_share(held) == 0.0
    table.add(2, frame(200, 2))
    assert table.stale_share(held) == pytest.approx(2 / 10)
    new, grown = table.new_frames(held)
    assert new == (2,)
    assert grown.in_order
    assert table.stale_share(grown) == 0.0
    assert table.without_gone(grown) is None


def test_what_came_after_a_frame_that_is_gone_is_stale_until_it_is_made_anew() -> None:
    table = table_of(4, 3, 2)
    held = table.hold()
    table.remove(1)
    # Gone are 3 of 9 tokens, 2 have seen them.
    assert table.stale_share(held) == pytest.approx(5 / 9)
    left = table.without_gone(held)
    assert left is not None
    kept, rest = left
    assert kept.tolist() == [0, 1, 2, 3, 7, 8]
    assert not rest.in_order
    assert table.stale_share(rest) == pytest.approx(2 / 6)
    table.add(3, frame(300, 4))
    _, grown = table.new_frames(rest)
    assert table.stale_share(grown) == pytest.approx(6 / 10)  # it stands behind what is stale
    assert table.stale_share(table.hold()) == 0.0


def test_a_frame_that_comes_back_stands_behind_newer_ones_and_all_of_them_are_stale() -> None:
    table = table_of(4, 3, 2, 5)
    table.remove(1)
    held = table.hold()
    table.add(1, frame(100, 3))
    # New are 3 of 14 tokens, 7 have not seen them.
    assert table.stale_share(held) == pytest.approx(10 / 14)
    new, grown = table.new_frames(held)
    assert new == (1,)
    assert grown.names == (0, 2, 3, 1)
    assert grown.stale == (False, True, True, True)
    assert not grown.in_order
    assert table.stale_share(grown) == pytest.approx(10 / 14)
    table.add(4, frame(400, 2))
    _, grown = table.new_frames(grown)
    assert grown.stale == (False, True, True, True, True)
    assert table.stale_share(table.hold()) == 0.0
    assert table.hold().names == (0, 1, 2, 3, 4)


def test_the_last_frame_leaves_nothing_stale_behind() -> None:
    table = table_of(4, 3)
    held = table.hold()
    table.remove(1)
    left = table.without_gone(held)
    assert left is not None
    kept, rest = left
    assert kept.tolist() == [0, 1, 2, 3]
    assert rest.in_order
    assert table.stale_share(rest) == 0.0


def test_all_frames_gone() -> None:
    table = table_of(2)
    held = table.hold()
    table.remove(0)
    assert table.stale_share(held) == 1.0
    left = table.without_gone(held)
    assert left is not None
    assert not len(left[0])
    assert len(left[1]) == 0
