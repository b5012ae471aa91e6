"""Proposals: which patches are theirs, their features and scores, and what the rules choose."""

import math

import pytest
import torch
from torch.nn import functional as F

from ada3d_ros.errors import InvalidRequestError
from ada3d_ros.model.video3dllm.ground import choose_several, patches_inside
from ada3d_ros.model.video3dllm.tokens import embed_places
from test.support.video3d import SMALL_VIDEO3D, encode, flat_frame, small_video3d

WALL = [2.0, 0.0, 1.0, 0.2, 9.0, 9.0]
UNSEEN = [-3.0, 0.0, 1.0, 0.5, 0.5, 0.5]


def points_of_columns(columns: int) -> torch.Tensor:
    """A view whose first columns of pixels lie in the unit box around the origin."""
    points = torch.full((96, 96, 3), 9.0)
    points[:, :columns] = 0.0
    return points


@pytest.mark.parametrize(
    ("columns", "patches"), [(0, 0), (6, 0), (7, 6), (14, 6), (20, 6), (21, 12)]
)
def test_a_patch_belongs_to_a_box_with_half_of_its_pixels(columns: int, patches: int) -> None:
    box = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    mask = patches_inside(box, points_of_columns(columns), SMALL_VIDEO3D)
    assert mask.shape == (1, 6, 6)
    assert int(mask.sum()) == patches


def test_borders_belong_to_a_box_and_missing_readings_to_none() -> None:
    points = torch.full((96, 96, 3), 0.5)
    box = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    assert patches_inside(box, points, SMALL_VIDEO3D).all()
    assert not patches_inside(box, points * torch.nan, SMALL_VIDEO3D).any()


@pytest.mark.parametrize("holes", [0.0, 0.2, 0.4])
def test_patches_of_many_boxes_are_those_counted_pixel_by_pixel(holes: float) -> None:
    """Boxes of all sizes, about single points, and one that nothing can lie in."""
    draw = torch.Generator().manual_seed(3)
    base = torch.linspace(-2, 2, 96)
    points = torch.stack(torch.meshgrid(base, base, indexing="ij"), dim=-1)
    points = torch.cat((points, torch.rand(96, 96, 1, generator=draw)), dim=-1)
    points = points + 0.3 * torch.randn(96, 96, 3, generator=draw)
    points[torch.rand(96, 96, generator=draw) < holes] = torch.nan
    boxes = torch.rand(40, 6, generator=draw) * 4 - torch.tensor([2.0, 2, 2, 0, 0, 0])
    sizes = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 1.0, 1.0], [50.0, 50.0, 50.0], [1.0, 9.0, 0.5]])
    boxes = torch.cat((boxes, torch.cat((torch.zeros(4, 3), sizes), dim=1)))
    found = patches_inside(boxes, points, SMALL_VIDEO3D)
    patch, side = SMALL_VIDEO3D.vision.patch_size, SMALL_VIDEO3D.vision.patches_per_side
    for box, patches in zip(boxes, found, strict=True):
        for row in range(side):
            for column in range(side):
                own = points[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                off = own - box[:3]
                count = int((off.abs() <= box[3:] / 2).all(dim=-1).sum())
                border = (off.abs() - box[3:] / 2).abs().min() < 1e-6  # by rounding
                assert border or bool(patches[row, column]) == (count >= patch * patch // 2)
    assert found[:40].any()
    assert not found[41].any()
    assert found[42].float().mean() > 0.8


def test_object_features_are_means_of_patches_and_the_centres_embedding() -> None:
    model = small_video3d()
    frames = encode(model, [flat_frame(), flat_frame(seed=1)])
    boxes = torch.tensor([WALL, UNSEEN])
    assert model.ground is not None
    found = model.ground.object_features(boxes, frames)
    mean = torch.cat([frame.patches for frame in frames]).mean(dim=0)
    places = embed_places(boxes[:, :3], 50, SMALL_VIDEO3D)
    assert torch.allclose(found[0], mean + places[0], atol=1e-5)
    assert torch.equal(found[1], places[1])


def test_scores_are_cosines_with_no_object_last() -> None:
    model = small_video3d()
    frames, state = encode(model, [flat_frame()]), torch.linspace(-1, 1, 50)
    boxes = torch.tensor([WALL, UNSEEN])
    scores = model.ground_scores(state, boxes, frames)
    assert scores.shape == (3,)
    assert bool((scores.abs() <= 1).all())
    heads = model.ground
    assert heads is not None
    none = F.cosine_similarity(heads.object(heads.zero_target), heads.query(state), dim=0)
    assert float(scores[2]) == pytest.approx(float(none), abs=1e-6)
    # Each is scored alone: another proposal beside it changes nothing.
    assert torch.allclose(model.ground_scores(state, boxes[1:], frames), scores[1:], atol=1e-6)


def test_shares_of_what_is_meant() -> None:
    """Zero for what the rule leaves out, and for a proposal that the model cannot place."""
    model = small_video3d()
    table = model.new_table()
    for name, frame in enumerate(encode(model, [flat_frame()])):
        table.add(name, frame)
    far = [20.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    boxes, state = torch.tensor([far, WALL, UNSEEN]), torch.linspace(1, -1, 50)
    scores = model.ground_scores(state, boxes[1:], encode(model, [flat_frame()]))
    assert int(scores.argmax()) == 0
    share = float(torch.softmax(scores / 0.07, dim=0)[0])
    assert share > 0.4  # the other one is not needed
    found = model.score_proposals(state, boxes, table)
    assert found.tolist() == pytest.approx([0.0, share, 0.0], abs=1e-6)
    assert model.score_proposals(-state, boxes, table).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(InvalidRequestError, match="proposal 0 lies outside"):
        model.score_proposals(state, boxes[:1], table)


def test_the_boxes_of_several() -> None:
    assert choose_several(torch.tensor([0.1, 0.3, 0.2, 0.9]), 0.07) == []
    assert choose_several(torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0]), 0.07) == [0, 1]
    assert choose_several(torch.tensor([0.2, 0.9, 0.0]), 0.07) == [1]
    scores = torch.log(torch.tensor([0.15, 0.3, 0.25, 0.2, 0.1]))
    assert choose_several(scores, 1.0, mass=0.7) == [1, 2, 3]


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([], "at least one box"),
        ([[0.0, 0.0, 0.0]], r"shape \(1, 3\): at least one box of six numbers"),
        ([WALL, [math.nan] * 6], "not finite"),
        (
            [WALL, [20.0, 0, 0, 1, 1, 1]],
            r"centre \(20\.00, 0\.00, 0\.00\) m of proposal 1 lies out",
        ),
    ],
)
def test_bad_proposals_are_refused(boxes: list[list[float]], words: str) -> None:
    model = small_video3d()
    frames = encode(model, [flat_frame()])
    with pytest.raises(InvalidRequestError, match=words):
        model.ground_scores(torch.zeros(50), torch.tensor(boxes), frames)


def test_the_reference_takes_a_far_proposal_to_the_border() -> None:
    model = small_video3d("reference")
    frames = encode(model, [flat_frame()])
    far, border = ([[x, 0.0, 0.0, 0.1, 0.1, 0.1]] for x in (20.0, 15.0))
    state = torch.linspace(-1, 1, 50)
    found = [model.ground_scores(state, torch.tensor(box), frames) for box in (far, border)]
    assert torch.equal(*found)
