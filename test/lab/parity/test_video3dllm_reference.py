"""The reference's views of a data set's frames, its `<ground>` token, loss and best box."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from ada3d_ros.errors import FrameError, InvalidRequestError, PoseError
from ada3d_ros.lab.parity.video3dllm_reference import (
    build_recorded_views,
    choose_one,
    find_ground,
    ground_loss,
)
from ada3d_ros.scene.views import RecordedViews
from test.support.video3d import SMALL_VIDEO3D


def recorded(poses: np.ndarray, shape: tuple[int, int] = (120, 160)) -> RecordedViews:
    count, K = len(poses), np.eye(4)
    K[0, 0] = K[1, 1] = 100.0
    K[0, 2], K[1, 2] = shape[1] / 2 - 0.5, shape[0] / 2 - 0.5
    rgb = [np.zeros((90, 140, 3), np.uint8)] * count
    depth = [np.full(shape, 2000, np.uint16)] * count
    return RecordedViews(rgb, depth, np.broadcast_to(K, (count, 4, 4)), (0, 0), poses, 1000.0)


def test_portrait_images_are_refused() -> None:
    words = r"120x160 px is less than 96 px wide where it is 96 px high.*set model\.compat: default"
    with pytest.raises(FrameError, match=words):
        build_recorded_views(recorded(np.eye(4)[None], (160, 120)), SMALL_VIDEO3D)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_pose_that_is_not_finite_is_refused(value: float) -> None:
    """ScanNet writes -inf for a lost pose; the reference makes NaN of the whole answer then."""
    poses = np.stack([np.eye(4)] * 3)
    poses[1] = value
    with pytest.raises(PoseError, match=r"pose of view 1 .*\(views \[1\]\).*leave such frames out"):
        build_recorded_views(recorded(poses), SMALL_VIDEO3D)


def test_alignment_comes_before_the_pose() -> None:
    align, pose = np.eye(4), np.eye(4)
    align[:3, 3], pose[:3, 3] = (1.0, 2.0, 3.0), (0.5, 0.0, 0.0)
    views = recorded(pose[None])
    aligned = RecordedViews(
        views.rgb, views.depth, views.intrinsics, (0, 0), views.poses, 1000.0, align
    )
    found = build_recorded_views(aligned, SMALL_VIDEO3D)
    assert found.T_model_cam[0, :3, 3].tolist() == [1.5, 2.0, 3.0]
    difference = found.points_m - build_recorded_views(views, SMALL_VIDEO3D).points_m
    assert torch.allclose(difference, torch.tensor([1.0, 2.0, 3.0]), atol=1e-6)


@pytest.mark.parametrize(("ids", "count"), [([1, 2], 0), ([37, 1, 37], 2)])
def test_one_ground_token_exactly(ids: list[int], count: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"has {count} <ground> tokens; exactly one"):
        find_ground(ids, SMALL_VIDEO3D)
    assert find_ground([1, 37, 2], SMALL_VIDEO3D) == 1


def test_no_ground_token_without_ground_heads() -> None:
    with pytest.raises(InvalidRequestError, match="no ground heads"):
        find_ground([1, 37], dataclasses.replace(SMALL_VIDEO3D, ground_id=-1))


def test_loss_is_the_share_that_the_targets_get() -> None:
    scores = torch.tensor([0.3, -0.1, 0.2, 0.05])
    shares = torch.softmax(scores / 0.07, dim=0)
    assert float(ground_loss(scores, [0, 2], 0.07)) == pytest.approx(
        -math.log(float(shares[0] + shares[2])), abs=1e-5
    )
    for nothing in ([], [-1]):
        assert float(ground_loss(scores, nothing, 0.07)) == pytest.approx(
            -math.log(float(shares[3])), abs=1e-5
        )


def test_the_best_box_whatever_no_object_has() -> None:
    assert choose_one(torch.tensor([0.1, 0.3, 0.2, 0.9])) == 1
