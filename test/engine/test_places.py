"""The egocentric frame, and which tokens may point when."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ada3d_ros.engine.places import MAX_PLACES, Pointable, Pointer, seen_from
from test.support.pointing import random_head

WIDTH, POINT, EGOCENTRIC = 16, 3, 4


def pointable(count: int = 12) -> Pointable:
    made = torch.Generator().manual_seed(0)
    states = torch.randn(count, WIDTH, generator=made)
    xyz_m = 4 * torch.rand(count, 3, generator=made)
    head = random_head(WIDTH)
    return Pointable(
        head,
        states,
        xyz_m,
        encode=lambda xyz: xyz.repeat(1, WIDTH)[:, :WIDTH],
        keys=lambda: head.key_proj(states),
    )


def states(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", range(5))
def test_the_egocentric_frame_is_a_rotation_about_z(seed: int) -> None:
    place, origin, faced = np.random.default_rng(seed).uniform(-3, 3, (3, 3))
    ahead = faced - origin
    turned = Rotation.from_euler("z", -math.atan2(ahead[1], ahead[0])).apply(place - origin)
    found = seen_from(*(torch.tensor(p, dtype=torch.float32) for p in (place, origin, faced)))
    assert found.tolist() == pytest.approx([turned[0], turned[1], place[2]], abs=1e-5)


def test_what_lies_where_from_the_origin() -> None:
    """Standing at (1, 1), facing +y: +y is ahead, -x is left; the height stays."""
    origin, faced = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([1.0, 3.0, 2.0])
    for place, expected in (((1, 4, 0.2), (3, 0, 0.2)), ((0, 1, 9.0), (0, 1, 9.0))):
        found = seen_from(torch.tensor(place, dtype=torch.float32), origin, faced)
        assert found.tolist() == pytest.approx(expected)


def test_one_above_the_other_faces_along_x() -> None:
    origin, faced = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 2.0])
    found = seen_from(torch.tensor([2.0, 3.0, 0.5]), origin, faced)
    assert found.tolist() == [1.0, 2.0, 0.5]


def test_which_tokens_may_point_when() -> None:
    pointer = Pointer(POINT, EGOCENTRIC, pointable())
    logits, open_ids = torch.zeros(8), []
    for state in states(MAX_PLACES + 1):
        offered = pointer.offered(logits)
        open_ids.append([i for i in (POINT, EGOCENTRIC) if offered[i] == 0])
        assert torch.equal(offered[5:], logits[5:])
        if len(open_ids) <= MAX_PLACES:
            assert pointer.embedding(POINT, state) is not None
    assert open_ids == [[POINT]] * 2 + [[POINT, EGOCENTRIC]] * (MAX_PLACES - 2) + [[]]
    assert torch.equal(logits, torch.zeros(8))  # left as they were
    assert len(pointer.places()) == MAX_PLACES


@pytest.mark.parametrize("target", [None, pointable(0)], ids=["no head", "no tokens"])
def test_nothing_to_point_at_closes_both(target: Pointable | None) -> None:
    pointer = Pointer(POINT, EGOCENTRIC, target)
    assert pointer.closed_ids == (POINT, EGOCENTRIC)
    assert pointer.embedding(POINT, states(1)[0]) is None
    assert pointer.places() == ()


def test_a_model_may_have_no_egocentric_token() -> None:
    pointer = Pointer(POINT, -1, pointable())
    logits = torch.zeros(8)
    assert torch.equal(pointer.offered(logits), logits)
    assert pointer.embedding(-1, states(1)[0]) is None


def test_what_is_fed_is_the_centre_or_seen_from_the_two_before() -> None:
    pointer, fed = Pointer(POINT, EGOCENTRIC, pointable()), []
    for state, token in zip(states(4), (POINT, POINT, EGOCENTRIC, POINT), strict=True):
        embedding = pointer.embedding(token, state)
        assert embedding is not None
        fed.append(embedding[:3])
    assert pointer.embedding(5, states(1)[0]) is None
    places = pointer.places()
    assert [place.egocentric for place in places] == [False, False, True, False]
    centers = [torch.tensor(place.center_m) for place in places]
    for index in (0, 1, 3):
        assert places[index].fed_m == places[index].center_m
    told = seen_from(centers[2], centers[0], centers[1])
    assert places[2].fed_m == pytest.approx(told.tolist())
    for place, embedding in zip(places, fed, strict=True):
        assert embedding.tolist() == pytest.approx(place.fed_m)
