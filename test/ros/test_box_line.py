"""How a box is told to a person: where it is, and what found it."""

from __future__ import annotations

import numpy as np
import pytest

from ada3d_ros.lab.ask_recording import describe_box as describe_recorded_box
from ada3d_ros.msg import GroundedBox
from ada3d_ros.ros.client import describe_box
from ada3d_ros.types import Box3D, GroundingMethod


@pytest.mark.parametrize(
    ("method", "end", "begin"),
    [
        (GroundingMethod.HEAD, "9 depth points, score 0.75", "box 'cup'"),
        (GroundingMethod.DETECTOR, ", score 0.75, of the detector", "box of the detector 'cup'"),
        (
            GroundingMethod.PROPOSAL,
            ", score 0.75, chosen among the detector's",
            "box chosen among the detector's 'cup'",
        ),
    ],
)
def test_a_box_says_what_found_it(method: GroundingMethod, end: str, begin: str) -> None:
    message = GroundedBox(label="cup", score=0.75, support_points=9, method=int(method))
    assert describe_box(0, message, "map").endswith(end)
    box = Box3D(np.zeros(3), np.ones(3), label="cup", score=0.75, method=method)
    assert describe_recorded_box(box, "map").startswith(begin)
