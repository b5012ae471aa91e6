"""Peaks become boxes: a head built by hand points at known tokens."""

import pytest
import torch

from ada3d_ros.engine.pointing import point_at
from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.model.grounding_head import GroundingHead, LoadedHead
from ada3d_ros.types import GroundingMethod

XYZ = torch.tensor([[0.0, 0.0, 0.5], [3.0, 0.0, 0.5], [0.0, 3.0, 0.5], [3.1, 0.1, 0.6]])
TOKENS = torch.eye(4)


def pointing_head(presence: float) -> LoadedHead:
    """Logit of token i = 10 x entry i of the query; presence as said, whatever is seen."""
    head = GroundingHead(4, 4)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.query_proj.weight.copy_(torch.eye(4) * 10)
        head.key_proj.weight.copy_(torch.eye(4) * 2)
        head.presence[2].bias.fill_(presence)
        head.box[2].bias[3:] = torch.tensor([0.5, 0.6, 0.7]).log()
    return LoadedHead(head, 0.5, "")


def states(*query: float) -> FinalStates:
    return FinalStates(torch.tensor(query), TOKENS)


def test_the_pointed_token_gives_the_box() -> None:
    (box,) = point_at(pointing_head(5.0), states(0, 0, 1, 0), XYZ, "the lamp", 10, 0.1)
    assert box.center_m == pytest.approx([0.0, 3.0, 0.5], abs=1e-3)
    assert box.size_m == pytest.approx([0.5, 0.6, 0.7], abs=1e-5)
    assert (box.label, box.method) == ("the lamp", GroundingMethod.HEAD)
    assert box.score == pytest.approx(0.99331, abs=1e-5)
    assert box.evidence_xyz_m[0] == (0.0, 3.0, 0.5)
    assert 0.99 < sum(box.evidence_weights) <= 1.0 + 1e-6


def test_what_is_not_there_gives_no_box() -> None:
    assert point_at(pointing_head(-5.0), states(0, 0, 1, 0), XYZ, "", 10, 0.0) == []


def test_two_peaks_are_two_boxes_the_stronger_first() -> None:
    boxes = point_at(pointing_head(5.0), states(1.0, 0, 1.03, 0), XYZ, "", 10, 0.1)
    assert [round(float(b.center_m[1])) for b in boxes] == [3, 0]
    assert boxes[0].score > boxes[1].score
    assert len(point_at(pointing_head(5.0), states(1.0, 0, 1.03, 0), XYZ, "", 1, 0.1)) == 1


def test_neighbouring_tokens_are_one_peak() -> None:
    (box,) = point_at(pointing_head(5.0), states(0, 1, 0, 1), XYZ, "", 10, 0.1)
    assert box.center_m == pytest.approx([3.05, 0.05, 0.55], abs=0.01)


def test_no_tokens_no_boxes() -> None:
    assert (
        point_at(pointing_head(5.0), FinalStates(torch.ones(4), torch.zeros(0, 4)), torch.zeros(0, 3), "", 5, 0.1) == []
    )
