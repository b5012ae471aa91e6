"""Peaks become boxes: a head built by hand points at known tokens."""

import pytest
import torch

from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.grounding.from_head import (
    MAX_EVIDENCE,
    SceneStates,
    SearchLimits,
    point_at,
    point_at_each,
)
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


def test_a_faint_peak_is_an_object_for_who_asks_for_it() -> None:
    """Of logits 2.66 apart, 7 % of the mass: no second object, unless all names are asked for."""
    faint = states(0.867, 0, 1.0, 0)
    assert len(point_at(pointing_head(5.0), faint, XYZ, "", 10, 0.1)) == 1
    scene, query = SceneStates(TOKENS, XYZ), faint.query[None]
    head = pointing_head(5.0).head
    (boxes,) = point_at_each(head, query, scene, ["x"], SearchLimits(10, 0.3, faint=True))
    assert [round(float(b.center_m[1])) for b in boxes] == [3, 0]
    assert boxes[1].score == pytest.approx(0.5 * 0.99331, abs=1e-3)
    nothing_else = states(0.5, 0, 1.0, 0)
    (boxes,) = point_at_each(
        head, nothing_else.query[None], scene, ["x"], SearchLimits(10, 0.3, faint=True)
    )
    assert len(boxes) == 1


def test_neighbouring_tokens_are_one_peak() -> None:
    (box,) = point_at(pointing_head(5.0), states(0, 1, 0, 1), XYZ, "", 10, 0.1)
    assert box.center_m == pytest.approx([3.05, 0.05, 0.55], abs=0.01)


def test_no_tokens_no_boxes() -> None:
    nothing = FinalStates(torch.ones(4), torch.zeros(0, 4))
    assert point_at(pointing_head(5.0), nothing, torch.zeros(0, 3), "", 5, 0.1) == []


def test_two_clusters_are_two_boxes_with_their_own_evidence() -> None:
    torch.manual_seed(0)
    middles = torch.tensor([[2.0, -1.0, 0.4], [-2.0, 1.0, 0.8]])
    xyz = torch.cat([middle + 0.2 * (torch.rand(12, 3) - 0.5) for middle in middles])
    tokens = torch.eye(4)[[0] * 12 + [1] * 12]
    seen = FinalStates(torch.tensor([1.0, 1.05, 0, 0]), tokens)
    found = point_at(pointing_head(5.0), seen, xyz, "x", 10, 0.1)
    assert len(found) == 2
    assert found[0].score > found[1].score
    for box, middle in zip(found, middles.flip(0), strict=True):
        assert box.center_m == pytest.approx(middle.tolist(), abs=0.11)
        assert len(box.evidence_xyz_m) == len(box.evidence_weights) == MAX_EVIDENCE
        # The other 4 of 12 are not shown.
        assert sum(box.evidence_weights) == pytest.approx(MAX_EVIDENCE / 12, abs=1e-4)
        places = torch.tensor(box.evidence_xyz_m)
        assert (places - middle).abs().max() <= 0.11


@pytest.mark.parametrize(
    ("presence", "min_score", "count"), [(1.0, 0.1, 1), (1.0, 0.8, 0), (-0.1, 0.1, 0)]
)
def test_the_stricter_of_both_thresholds_counts(
    presence: float, min_score: float, count: int
) -> None:
    found = point_at(pointing_head(presence), states(0, 0, 1, 0), XYZ, "", 10, min_score)
    assert len(found) == count
