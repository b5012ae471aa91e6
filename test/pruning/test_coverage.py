"""How much of the room kept tokens still cover, against sets of cells."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.pruning.ranking import CELL_M, cell_coverage, position_bias
from test.support.decoders import scene_3d

SETTINGS = settings(deadline=None, derandomize=True, max_examples=40)


@SETTINGS
@given(st.data())
def test_coverage_is_the_share_of_occupied_cells(data: st.DataObject) -> None:
    xyz = scene_3d(60, seed=data.draw(st.integers(0, 100))).xyz_m
    kept = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 59), min_size=1))))
    cells = [tuple(round(v / CELL_M) for v in row) for row in xyz.double().tolist()]
    expected = len({cells[i] for i in kept.tolist()}) / len(set(cells))
    assert cell_coverage(xyz, kept) == pytest.approx(expected)


def test_one_side_of_the_room_is_half_of_it() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [2.0, 0, 0], [2.1, 0, 0]])
    assert cell_coverage(xyz, torch.tensor([0, 1])) == 0.5
    assert cell_coverage(xyz, torch.tensor([0, 3])) == 1.0
    assert cell_coverage(xyz, torch.arange(4)) == 1.0


def test_position_bias() -> None:
    xyz = torch.zeros(101, 3)
    assert position_bias(xyz, torch.arange(101)) == pytest.approx(0.5)
    assert position_bias(xyz, torch.tensor([100])) == 1.0
    assert position_bias(xyz, torch.tensor([0])) == 0.0
    assert position_bias(torch.zeros(1, 3), torch.tensor([0])) == 0.0


def test_no_tokens() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert cell_coverage(torch.zeros(0, 3), nothing) == 0.0
    assert math.isnan(position_bias(torch.zeros(0, 3), nothing))
