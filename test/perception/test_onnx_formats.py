"""Each format of outputs, read from small files that answer with known arrays.

The network's input is 96 x 64 px, the picture 120 x 60: stretched by 0.8 and 64/60, or letterboxed
by 0.8 to 96 x 48, 8 px below the top where it lies in the middle. Expected boxes are worked out by
hand from these numbers.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.perception.onnx_detector import OnnxDetector
from test.support.onnx_models import PICTURE, write_model

Arrays = dict[str, npt.NDArray[Any]]
CELLS = 96 + 24 + 6  # of strides 8, 16, 32 on 96 x 64 px
RGB = np.zeros((60, 120, 3), np.uint8)
SIZES = {"orig_target_sizes": (TensorProto.INT64, (1, 2))}
# A thing at (30, 15) to (90, 45) of the picture, in pixels of a letterboxed input.
CENTRED = [48.0, 32.0, 48.0, 24.0]  # centre and size: x 24..72, y 20..44
IN_PICTURE = (30.0, 15.0, 90.0, 45.0)


def zeros(*shape: int) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def detect(path: Path, outputs: Arrays, **more: Any) -> tuple[OnnxDetector, Detection2D]:
    """The detector of a file, and its only detection in the picture."""
    config = DetectorConfig(str(write_model(path / "net.onnx", outputs, **more)))
    detector = OnnxDetector(config)
    found = detector.detect_picture(RGB)
    assert found.refused == {}
    assert found.seconds > 0
    (one,) = found.detections
    return detector, one


def expect(one: Detection2D, label: str, score: float, box: tuple[float, ...]) -> None:
    assert one.label == label
    assert one.score == pytest.approx(score, abs=1e-5)
    assert one.box_px == pytest.approx(box, abs=1e-3)


def picodet(strides: tuple[int, ...], kinds: int = 80) -> Arrays:
    """Cell (6, 4) of stride 8, its centre at (52, 36) px: sides of 3, 2, 2.5 and 1 cells."""
    counts = {8: 96, 16: 24, 32: 6, 64: 2}
    scores = {f"score_{s}": zeros(1, counts[s], kinds) for s in strides}
    sides = {f"side_{s}": zeros(1, counts[s], 32) for s in strides}
    cell = 4 * 12 + 6
    scores["score_8"][0, cell, 62 % kinds] = 0.75
    bins = sides["side_8"][0, cell].reshape(4, 8)
    bins[:] = -50
    bins[0, 3] = bins[1, 2] = bins[2, 2] = bins[2, 3] = bins[3, 1] = 50
    return {**scores, **sides}


# 52 - 24, 36 - 16, 52 + 20, 36 + 8 px of the input, stretched back.
PICODET_BOX = (28 / 0.8, 20 * 60 / 64, 72 / 0.8, 44 * 60 / 64)


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
def test_picodet(strides: tuple[int, ...], tmp_path: Path) -> None:
    detector, one = detect(tmp_path, picodet(strides))
    expect(one, "tv", 0.75, PICODET_BOX)
    assert (detector.info.format, detector.info.min_score) == ("picodet", 0.45)
    assert detector.info.input_size == "96 x 64, stretched"
    assert len(detector.info.kinds) == 80
    assert len(detector.info.sha256) == 64


def test_nanodet_counts_from_the_top_left_of_a_cell(tmp_path: Path) -> None:
    arrays = picodet((8, 16, 32, 64))
    scores = np.concatenate([arrays[f"score_{s}"] for s in (8, 16, 32, 64)], axis=1)
    sides = np.concatenate([arrays[f"side_{s}"] for s in (8, 16, 32, 64)], axis=1)
    detector, one = detect(tmp_path, {"out": np.concatenate([scores, sides], axis=2)})
    # The cell's corner is (48, 32): 4 px less than its centre.
    expect(one, "tv", 0.75, (24 / 0.8, 16 * 60 / 64, 68 / 0.8, 40 * 60 / 64))
    assert detector.info.format == "nanodet"


def test_picodet_with_decoded_boxes(tmp_path: Path) -> None:
    boxes, scores = zeros(1, CELLS, 4), zeros(1, 80, CELLS)
    boxes[0, 7], scores[0, 41, 7] = (8, 16, 40, 48), 0.875
    detector, one = detect(tmp_path, {"boxes": boxes, "scores": scores})
    expect(one, "cup", 0.875, (10, 15, 50, 45))
    assert detector.info.format == "picodet"


@pytest.mark.parametrize(("extra", "form"), [({}, "picodet"), ({"im_shape": 1}, "detr")])
def test_paddle_with_suppression_inside(extra: Any, form: str, tmp_path: Path) -> None:
    rows = np.array([[41, 0.875, 8, 16, 40, 48], [-1, 0.9, 0, 0, 9, 9]], np.float32)
    sizes = dict.fromkeys(("scale_factor", *extra), (TensorProto.FLOAT, (1, 2)))
    arrays: Arrays = {"rows": rows, "count": np.array([2], np.int32)}
    detector, one = detect(tmp_path, arrays, inputs={**PICTURE, **sizes})
    expect(one, "cup", 0.875, (10, 15, 50, 45))
    assert detector.info.format == form


def test_yolox_offsets_in_cells(tmp_path: Path) -> None:
    table = zeros(1, CELLS, 85)
    # Stride 16, cell (2, 1), at 96 + 1 * 6 + 2: centre (2.5 + .5, 1.25 + .25) * 16 = (40, 20) px.
    row = table[0, 96 + 6 + 2]
    row[:4] = [0.5, 0.25, np.log(2), np.log(1.5)]  # 32 x 24 px
    row[4], row[5 + 56] = 0.8, 0.75
    detector, one = detect(tmp_path, {"output": table})
    expect(one, "chair", 0.6, (24 / 0.8, 8 / 0.8, 56 / 0.8, 32 / 0.8))
    assert (detector.info.format, detector.info.min_score) == ("yolox", 0.35)
    assert detector.info.input_size == "96 x 64, letterboxed, the picture at the top left"


def test_yolox_decoded_in_the_file(tmp_path: Path) -> None:
    table = zeros(1, CELLS, 85)
    table[0, :, 0] = np.linspace(0, 95, CELLS)  # as centres do, over the whole width
    table[0, 9, :5] = [40, 20, 32, 24, 0.8]
    table[0, 9, 5 + 56] = 0.75
    _, one = detect(tmp_path, {"output": table})
    expect(one, "chair", 0.6, (24 / 0.8, 8 / 0.8, 56 / 0.8, 32 / 0.8))


def test_yolov5_with_objectness(tmp_path: Path) -> None:
    table = zeros(1, 3 * CELLS, 85)
    table[0, 200, :5] = [*CENTRED, 0.8]
    table[0, 200, 5 + 66] = 0.75
    detector, one = detect(tmp_path, {"output": table})
    expect(one, "keyboard", 0.6, IN_PICTURE)
    assert detector.info.format == "yolo"


@pytest.mark.parametrize("across", [False, True])
def test_yolov8(across: bool, tmp_path: Path) -> None:
    table = zeros(1, 84, CELLS)
    table[0, :4, 100], table[0, 4 + 66, 100] = CENTRED, 0.625
    outputs = {"output0": table.transpose(0, 2, 1).copy() if across else table}
    detector, one = detect(tmp_path, outputs)
    expect(one, "keyboard", 0.625, IN_PICTURE)
    assert (detector.info.format, detector.info.min_score) == ("yolo", 0.4)
    assert detector.info.input_size == "96 x 64, letterboxed, the picture in the middle"


def test_yolov8_names_of_its_metadata_count_its_kinds(tmp_path: Path) -> None:
    table = zeros(1, 6, CELLS)
    table[0, :4, 100], table[0, 5, 100] = CENTRED, 0.625
    metadata = {"names": "{0: 'TVmonitor', 1: 'Hex  Nut'}", "task": "detect"}
    detector, one = detect(tmp_path, {"output0": table}, metadata=metadata)
    expect(one, "hex nut", 0.625, IN_PICTURE)
    assert detector.info.kinds == ("tv", "hex nut")


def dfl_maps(kinds: int) -> tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.float32]]]:
    """Cell (2, 1) of stride 16, its centre at (40, 24): 1, 0.5, 2 and 1.5 cells to the sides."""
    shapes = [(8, 12), (4, 6), (2, 3)]
    sides = [zeros(1, 64, *shape) for shape in shapes]
    scores = [np.full((1, kinds, *shape), -9, np.float32) for shape in shapes]
    bins = sides[1][0, :, 1, 2].reshape(4, 16)  # a copy: written back below
    bins[:] = -50
    bins[0, 1] = bins[1, 0] = bins[1, 1] = bins[2, 2] = bins[3, 1] = bins[3, 2] = 50
    sides[1][0, :, 1, 2] = bins.reshape(64)
    scores[1][0, kinds - 1, 1, 2] = np.log(3)  # of odds: 0.75
    return sides, scores


@pytest.mark.parametrize("form", ["one map", "two maps", "in 0..1, with their sums"])
def test_yolo_maps_before_their_last_step(form: str, tmp_path: Path) -> None:
    sides, scores = dfl_maps(80)
    outputs: Arrays = {}
    for number, (side, score) in enumerate(zip(sides, scores, strict=True)):
        if form == "one map":
            outputs[f"map{number}"] = np.concatenate([side, score], axis=1)
            continue
        shown = score if form == "two maps" else 1 / (1 + np.exp(-score))
        outputs |= {f"side{number}": side, f"score{number}": shown}
        if form != "two maps":
            outputs[f"sum{number}"] = shown.sum(axis=1, keepdims=True)
    _, one = detect(tmp_path, outputs)
    # 40 - 16, 24 - 8, 40 + 32, 24 + 24 px of the input.
    expect(one, "toothbrush", 0.75, (24 / 0.8, 8 / 0.8, 72 / 0.8, 40 / 0.8))


def test_yolov10_with_suppression_inside(tmp_path: Path) -> None:
    rows = zeros(1, 300, 6)
    rows[0, 0] = [24, 20, 72, 44, 0.625, 66]
    detector, one = detect(tmp_path, {"output0": rows})
    expect(one, "keyboard", 0.625, IN_PICTURE)
    assert detector.info.format == "yolo"


def test_yolov7_with_suppression_inside(tmp_path: Path) -> None:
    rows = np.array([[0, 24, 20, 72, 44, 66, 0.625]], np.float32)
    _, one = detect(tmp_path, {"output": rows})
    expect(one, "keyboard", 0.625, IN_PICTURE)


@pytest.mark.parametrize("suppressed", [False, True])
def test_yolo_masks_lie_where_the_picture_does(suppressed: bool, tmp_path: Path) -> None:
    """Prototype 3 is inside in the columns 6 to 11 of 24 (24 to 48 px), weighed by 2."""
    masks = np.full((1, 32, 16, 24), -1, np.float32)
    masks[0, 3, :, 6:12] = 1
    table = zeros(1, 5, 38) if suppressed else zeros(1, 84 + 32, CELLS)
    if suppressed:
        table[0, 0, :6], table[0, 0, 6 + 3] = [24, 20, 72, 44, 0.625, 66], 2
    else:
        table[0, :4, 100], table[0, 4 + 66, 100] = CENTRED, 0.625
        table[0, 84 + 3, 100] = 2
    _, one = detect(tmp_path, {"output0": table, "output1": masks})
    expect(one, "keyboard", 0.625, IN_PICTURE)
    assert one.mask is not None
    expected = np.zeros((60, 120), bool)
    expected[15:45, 30:60] = True  # x 24..48 px of the input is 30..60 of the picture
    assert np.array_equal(one.mask, expected)


def detr(classes: int, mask: bool = False) -> Arrays:
    """Query 5 at (48, 32) of 0.5 x 0.5: a quarter to three quarters of the picture each way."""
    logits = np.full((1, 10, classes), -6, np.float32)
    boxes = np.full((1, 10, 4), 0.5, np.float32)
    logits[0, 5, 1] = np.log(4)  # of odds: 0.8
    arrays: Arrays = {"logits": logits, "pred_boxes": boxes}
    if mask:
        masks = np.full((1, 10, 6, 6), -1, np.float32)
        masks[0, 5, 3:] = 1
        arrays["pred_masks"] = masks
    return arrays


@pytest.mark.parametrize(
    ("classes", "label", "names"),
    [(80, "bicycle", {}), (91, "person", {}), (2, "nut", {"names": "['bolt', 'nut']"})],
)
def test_detr_that_judges_each_class_alone(
    classes: int, label: str, names: dict[str, str], tmp_path: Path
) -> None:
    detector, one = detect(tmp_path, detr(classes), metadata=names)
    expect(one, label, 0.8, (30, 15, 90, 45))
    assert (detector.info.format, detector.info.min_score) == ("detr", 0.5)


@pytest.mark.parametrize(
    ("classes", "label", "names"),
    [(92, "person", {}), (81, "bicycle", {}), (3, "nut", {"names": "['bolt', 'nut']"})],
)
def test_detr_whose_last_class_is_nothing(
    classes: int, label: str, names: dict[str, str], tmp_path: Path
) -> None:
    arrays = detr(classes)
    arrays["logits"][0, :, -1] = 9  # nothing, in every query but one
    arrays["logits"][0, 5, :] = -50
    arrays["logits"][0, 5, [1, -1]] = [np.log(9), 0]
    detector, one = detect(tmp_path, arrays, metadata=names)
    expect(one, label, 0.9, (30, 15, 90, 45))
    assert detector.info.min_score == 0.8


def test_rfdetr_has_a_class_more_that_is_never_meant(tmp_path: Path) -> None:
    arrays = detr(3)
    outputs = {"dets": arrays["pred_boxes"], "labels": arrays["logits"]}
    _, one = detect(tmp_path, outputs, metadata={"names": "['bolt', 'nut']"})
    expect(one, "nut", 0.8, (30, 15, 90, 45))


def test_detr_with_masks(tmp_path: Path) -> None:
    _, one = detect(tmp_path, detr(80, mask=True))
    assert one.mask is not None
    expected = np.zeros((60, 120), bool)
    expected[30:45, 30:90] = True
    assert np.array_equal(one.mask, expected)


def test_rtdetr_with_its_last_step_inside(tmp_path: Path) -> None:
    labels = np.full((1, 10), 62, np.int64)
    boxes, scores = zeros(1, 10, 4), zeros(1, 10)
    boxes[0, 3], scores[0, 3] = (24, 16, 72, 48), 0.875
    outputs = {"labels": labels, "boxes": boxes, "scores": scores}
    detector, one = detect(tmp_path, outputs, inputs={**PICTURE, **SIZES})
    expect(one, "tv", 0.875, (30, 15, 90, 45))
    assert detector.info.format == "detr"


def test_rtdetr_in_one_table(tmp_path: Path) -> None:
    table = zeros(1, 300, 84)
    table[0, 7, :4], table[0, 7, 4 + 62] = 0.5, 0.875
    detector, one = detect(tmp_path, {"output0": table})
    expect(one, "tv", 0.875, (30, 15, 90, 45))
    assert detector.info.format == "detr"


@pytest.mark.parametrize("labels_first", [False, True])
def test_mmdetection_with_suppression_inside(labels_first: bool, tmp_path: Path) -> None:
    """Its lists are filled up by rows of the label -1, or of the score 0."""
    boxes, labels = zeros(1, 4, 5), np.array([[66, 3, -1, 0]], np.int64)
    # Letterboxed from the top left by 0.8.
    boxes[0, 0], boxes[0, 1] = (24, 12, 72, 36, 0.625), (24, 12, 72, 36, 0.1)
    boxes[0, 2, 4] = 0.9
    outputs: Arrays = {"dets": boxes, "labels": labels}
    if labels_first:
        outputs = {"labels": labels, "dets": boxes}
    detector, one = detect(tmp_path, outputs)
    expect(one, "keyboard", 0.625, IN_PICTURE)
    assert (detector.info.format, detector.info.min_score) == ("mmdet", 0.4)
    assert detector.info.input_size == "96 x 64, letterboxed, the picture at the top left"


def test_mmdetection_that_finds_nothing_in_grey(tmp_path: Path) -> None:
    """A list without a row, as it is for the picture that a file is tried with."""
    outputs: Arrays = {"dets": zeros(1, 0, 5), "labels": np.zeros((1, 0), np.int64)}
    detector = OnnxDetector(DetectorConfig(str(write_model(tmp_path / "net.onnx", outputs))))
    assert detector.info.format == "mmdet"
    assert detector.detect_picture(RGB).detections == ()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.UINT8])
def test_half_floats_and_bytes(kind: int, tmp_path: Path) -> None:
    table = zeros(1, 84, CELLS).astype(np.float16)
    table[0, :4, 100], table[0, 4 + 66, 100] = CENTRED, 0.625
    _, one = detect(tmp_path, {"output0": table}, inputs={"images": (kind, (1, 3, 64, 96))})
    expect(one, "keyboard", 0.625, IN_PICTURE)


def test_channels_last(tmp_path: Path) -> None:
    table = zeros(1, 84, CELLS)
    table[0, :4, 100], table[0, 4 + 66, 100] = CENTRED, 0.625
    inputs = {"images": (TensorProto.FLOAT, (1, 64, 96, 3))}
    _, one = detect(tmp_path, {"output0": table}, inputs=inputs)
    expect(one, "keyboard", 0.625, IN_PICTURE)


def test_a_file_of_any_size_takes_that_of_its_metadata(tmp_path: Path) -> None:
    table = zeros(1, 84, CELLS)
    table[0, :4, 100], table[0, 4 + 66, 100] = CENTRED, 0.625
    inputs = {"images": (TensorProto.FLOAT, ("batch", 3, "height", "width"))}
    metadata = {"imgsz": "[64, 96]"}
    detector, one = detect(tmp_path, {"output0": table}, inputs=inputs, metadata=metadata)
    expect(one, "keyboard", 0.625, IN_PICTURE)
    assert detector.info.input_size.startswith("96 x 64")


def test_as_transformers_reads_the_same_logits() -> None:
    """Softmax and sigmoid, centre and size: as its own last step, which we did not write."""
    torch = pytest.importorskip("torch")
    from transformers import DetrImageProcessor, RTDetrImageProcessor

    from ada3d_ros.perception.onnx_rows import Detr

    random = np.random.default_rng(3)
    logits = random.normal(-4.5, 2.5, (1, 40, 11)).astype(np.float32)
    boxes = random.uniform(0.2, 0.8, (1, 40, 4)).astype(np.float32)
    given = SimpleNamespace(logits=torch.from_numpy(logits), pred_boxes=torch.from_numpy(boxes))
    for theirs, softmaxed in ((DetrImageProcessor(), True), (RTDetrImageProcessor(), False)):
        ours = Detr(10 if softmaxed else 11, (64, 96), 0, 1, last_is_nothing=softmaxed)
        scores, classes = ours.scores([logits, boxes])
        rows = np.flatnonzero(scores > 0.5)
        (answer,) = theirs.post_process_object_detection(
            given, threshold=0.5, target_sizes=torch.tensor([[64, 96]])
        )
        # RT-DETR may give a query twice, as two classes: ours is the better one of them.
        best: dict[tuple[float, ...], tuple[float, int]] = {}
        listed = zip(answer["boxes"], answer["scores"], answer["labels"], strict=True)
        for box, score, label in listed:
            key = tuple(round(float(v), 2) for v in box)
            best[key] = max(best.get(key, (0.0, 0)), (float(score), int(label)))
        mine = zip(ours.boxes([logits, boxes], rows), scores[rows], classes[rows], strict=True)
        found = {tuple(round(float(v), 2) for v in b): (float(s), int(c)) for b, s, c in mine}
        assert len(found) == len(rows) > 3
        assert found.keys() == best.keys()
        for key, (score, label) in found.items():
            assert best[key] == (pytest.approx(score, abs=1e-5), label)


def test_boxes_come_in_pixels_of_the_input_whatever_the_file_scales_by(tmp_path: Path) -> None:
    """A last step inside the file multiplies by orig_target_sizes, width before height."""
    kinds = {"images": TensorProto.FLOAT, "orig_target_sizes": TensorProto.INT64}
    shapes = {"images": (1, 3, 64, 96), "orig_target_sizes": (1, 2)}
    constants = {
        "quarters": np.array([[[0.25, 0.25, 0.75, 0.75]]], np.float32),
        "labels_0": np.array([[62]], np.int64),
        "scores_0": np.array([[0.875]], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["sides"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["sides", "sides"], ["scale"], axis=1),
        helper.make_node("Mul", ["quarters", "scale"], ["boxes"]),
        helper.make_node("Identity", ["labels_0"], ["labels"]),
        helper.make_node("Identity", ["scores_0"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in kinds],
        [
            helper.make_tensor_value_info("labels", TensorProto.INT64, (1, 1)),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (1, 1, 4)),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 1)),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path / "scaled.onnx"
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    (one,) = OnnxDetector(DetectorConfig(str(path))).detect_picture(RGB).detections
    expect(one, "tv", 0.875, (30, 15, 90, 45))


def test_an_input_whose_every_side_is_open_takes_a_picture(tmp_path: Path) -> None:
    inputs = {"pixel_values": (TensorProto.FLOAT, ("batch", "channels", "height", "width"))}
    detector, one = detect(tmp_path, detr(80), inputs=inputs)
    expect(one, "bicycle", 0.8, (30, 15, 90, 45))
    assert detector.info.input_size == "640 x 640, stretched"
