"""A detector of transformers on a device: the boxes of the host, nothing left on the wrong side.

YOLOS alone: what the others make anew while they load (positions, indices) stays unwritten where
devices are emulated.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.perception.transformers_detector import TransformersDetector
from test.cuda.emulator import EmulatedCuda
from test.support.tiny_detectors import frame_of, write_yolos

ROUNDING_PX = 0.2  # of float16 in a picture of 60 x 48


def test_boxes_of_a_device_are_those_of_the_host(cuda: EmulatedCuda, tmp_path: Path) -> None:
    folder = str(write_yolos(tmp_path / "detector"))
    there = TransformersDetector(DetectorConfig(folder, min_score=0.1, device="cuda:0"))
    here = TransformersDetector(DetectorConfig(folder, min_score=0.1))
    assert (there.dtype, here.dtype) == (torch.float16, torch.float32)
    found, expected = there.detect(frame_of()), here.detect(frame_of())
    assert len(expected.detections) >= 1
    for one in expected.detections[:3]:
        assert any(
            one.label == other.label
            and one.score == pytest.approx(other.score, abs=0.01)
            and one.box_px == pytest.approx(other.box_px, abs=ROUNDING_PX)
            for other in found.detections
        ), one
