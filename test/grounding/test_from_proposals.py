"""Proposed boxes scored by where a grounding head points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.errors import ModelError
from ada3d_ros.grounding.from_proposals import MARGIN_M, best_proposals
from ada3d_ros.model.grounding_head import GroundingHead, LoadedHead
from ada3d_ros.types import Box3D, GroundingMethod

PLACES = torch.tensor([[0.0, 0.0, 0.5], [0.2, 0.0, 0.5], [3.0, 0.0, 0.5], [6.0, 0.0, 0.5]])
LOGITS = torch.tensor([0.0, 1.0, 2.0, -1.0])


class Planted(GroundingHead):
    """Points at PLACES by LOGITS; presence 0.8."""

    def __init__(self, logits: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.planted = logits

    def point(
        self, queries: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.planted[None, None], torch.full((1, 1), float(np.log(4.0)))


def cube(x: float, label: str = "thing") -> Box3D:
    return Box3D(
        np.array([x, 0.0, 0.5]), np.full(3, 0.5), label=label, method=GroundingMethod.DETECTOR
    )


@pytest.fixture
def scored() -> Callable[..., list[Box3D]]:
    states = FinalStates(torch.zeros(8), torch.zeros(4, 8))

    def run(
        proposals: list[Box3D], least: float = 0.0, logits: torch.Tensor = LOGITS
    ) -> list[Box3D]:
        head = LoadedHead(Planted(logits), 0.1, "")
        return best_proposals(head, states, PLACES, proposals, "the cup", least)

    return run


def test_the_mass_inside_a_box_over_the_largest_one_s(
    scored: Callable[..., list[Box3D]],
) -> None:
    boxes = [cube(6.0), cube(0.0), cube(3.0), cube(9.0)]
    found = scored(boxes)
    weights = np.exp(LOGITS.numpy())
    weights /= weights.sum()
    largest = weights[2]
    expected = [
        (3.0, 0.8),
        (0.0, 0.8 * (weights[0] + weights[1]) / largest),
    ]
    assert [box.center_m[0] for box in found] == [x for x, _ in expected]  # others: below .1
    assert [box.score for box in found] == pytest.approx([score for _, score in expected])
    assert {box.label for box in found} == {"the cup"}
    assert {box.method for box in found} == {GroundingMethod.DETECTOR}
    assert [box.center_m[0] for box in scored(boxes, 0.6)] == [3.0]


def test_a_token_beside_a_box_counts_within_the_margin(
    scored: Callable[..., list[Box3D]],
) -> None:
    near = cube(3.0 + 0.25 + 0.9 * MARGIN_M)
    far = cube(3.0 + 0.25 + 1.1 * MARGIN_M)
    assert [box.center_m[0] for box in scored([far, near])] == [near.center_m[0]]


def test_none_where_nothing_is_pointed_at_or_proposed(
    scored: Callable[..., list[Box3D]],
) -> None:
    assert scored([]) == []
    assert scored([cube(9.0)]) == []
    with pytest.raises(ModelError, match="not finite"):
        scored([cube(0.0)], 0.0, torch.tensor([0.0, float("nan"), 0.0, 0.0]))
