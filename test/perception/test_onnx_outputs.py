"""Which format outputs have, by the shapes of real exports, and of any others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ada3d_ros.perception.class_names import COCO_IDS, COCO_NAMES
from ada3d_ros.perception.onnx_outputs import Trial, recognise

CELLS = 126  # of strides 8, 16, 32 on 96 x 64 px


def zeros(*shape: int) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


SHAPES = st.lists(
    st.sampled_from([0, 1, 2, 4, 6, 7, 12, 32, 36, 38, 64, 84, 85, 96, 116, CELLS, 3 * CELLS]),
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(SHAPES, SHAPES.map(lambda shape: [1, *shape[:3]])), max_size=9))
def test_any_outputs_are_a_format_that_can_be_read_or_none(shapes: list[list[int]]) -> None:
    arrays = [zeros(*shape) if np.prod(shape) < 1e6 else zeros(1) for shape in shapes]
    names = tuple(f"out{number}" for number in range(len(arrays)))
    decoder = recognise(Trial(names, arrays, (64, 96), ("orig_target_sizes",)))
    if decoder is None:
        return
    scores, classes = decoder.scores(arrays)
    assert scores.shape == classes.shape == (len(scores),)
    rows = np.arange(len(scores))
    assert decoder.boxes(arrays, rows).shape == (len(scores), 4)
    assert decoder.boxes(arrays, rows[:0]).shape == (0, 4)
    if len(scores):
        mask = decoder.mask(arrays, 0)
        assert mask is None or mask.ndim == 2


# Outputs of real exports for 640 x 640 px (416 for PicoDet and NanoDet), as their files name them.
EXPORTS: list[tuple[str, dict[str, tuple[int, ...]], str, int | None]] = [
    ("yolov8n, yolo11n", {"output0": (1, 84, 8400)}, "Yolo", 80),
    ("yolov8n-seg", {"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)}, "Yolo", 80),
    ("yolov10n, yolo26n", {"output0": (1, 300, 6)}, "YoloRows", None),
    ("yolo26n-seg", {"output0": (1, 300, 38), "output1": (1, 32, 160, 160)}, "YoloRows", None),
    ("yolov5s", {"output0": (1, 25200, 85)}, "YoloAnchors", 80),
    ("yolox_s", {"output": (1, 8400, 85)}, "YoloX", 80),
    ("rtdetr-l", {"output0": (1, 300, 84)}, "DetrTable", 80),
    ("rtdetr_r50vd", {"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)}, "Detr", 80),
    ("detr-resnet-50", {"logits": (1, 100, 92), "pred_boxes": (1, 100, 4)}, "Detr", 91),
    ("rtmdet-tiny", {"dets": (1, 100, 5), "labels": (1, 100)}, "MmdetRows", None),
    ("rf-detr-base", {"dets": (1, 300, 4), "labels": (1, 300, 91)}, "Detr", 91),
]


@pytest.mark.parametrize(("name", "shapes", "form", "kinds"), EXPORTS, ids=[e[0] for e in EXPORTS])
def test_real_exports_are_told_apart(
    name: str, shapes: dict[str, tuple[int, ...]], form: str, kinds: int | None
) -> None:
    arrays = [
        np.zeros(shape, np.int64 if len(shape) == 2 else np.float32) for shape in shapes.values()
    ]
    decoder = recognise(Trial(tuple(shapes), arrays, (640, 640)))
    assert (type(decoder).__name__, decoder and decoder.num_kinds) == (form, kinds)


def test_other_networks_are_no_detectors() -> None:
    """A classifier, a depth network, a segmentation, a pose, words beside boxes."""
    for shapes in (
        [(1, 1000)],
        [(1, 1, 640, 640)],
        [(1, 21, 640, 640)],
        [(1, 8400, 4), (1, 8400, 80)],
        [(1, 8400, 5)],
        [(1, 100, 5), (1, 100)],  # labels that are no integers
        [(1, 512)],
        [(4, 84, 8400)],
        [(1, 84, 8399)],
    ):
        arrays = [zeros(*shape) for shape in shapes]
        names = tuple(f"out{number}" for number in range(len(arrays)))
        assert recognise(Trial(names, arrays, (640, 640))) is None, shapes


def test_coco_numbers_its_categories_with_gaps() -> None:
    numbers = {1: "person", 44: "bottle", 62: "chair", 63: "couch", 67: "dining table", 72: "tv"}
    assert {number: COCO_IDS[number] for number in numbers} == numbers
    assert (COCO_IDS[76], COCO_IDS[84], COCO_IDS[90]) == ("keyboard", "book", "toothbrush")
    assert [number for number, name in enumerate(COCO_IDS) if not name] == [
        *(0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
    ]
    assert len(COCO_NAMES) == len(set(COCO_NAMES)) == 80
