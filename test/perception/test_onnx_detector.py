"""Real ONNX detectors on a real desk, and files and outputs that are at fault."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.perception import onnx_session
from ada3d_ros.perception.class_names import UNNAMED_KIND
from ada3d_ros.perception.detector import FrameDetections
from ada3d_ros.perception.onnx_detector import OnnxDetector
from ada3d_ros.perception.open_detector import open_detector
from ada3d_ros.perception.select_boxes import (
    BOX_OUTSIDE,
    BOX_WITHOUT_EXTENT,
    NAN_BOX,
    NAN_SCORE,
    SCORE_OUTSIDE,
)
from ada3d_ros.types import Intrinsics, RgbdFrame
from test.support.onnx_models import PICTURE, write_model

CELLS = 126  # of strides 8, 16, 32 on 96 x 64 px
Box = tuple[float, float, float, float]
# Read off the pictures by eye, px.
DESK = "1305031238.529670.png"
MONITOR: Box = (343, 0, 640, 182)  # without its stand
KEYBOARD: Box = (377, 226, 640, 373)
ROOM = "1305031240.361685.png"
CHAIR: Box = (93, 287, 230, 420)
PERSON: Box = (282, 240, 395, 408)


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(areas) - shared)


def read(shared_dir: Path, name: str) -> npt.NDArray[np.uint8]:
    path = shared_dir / "data/tum_fr1_rpy/rgb" / name
    bgr = cv2.imread(str(path)) if path.is_file() else None
    if bgr is None:
        pytest.skip(f"no recorded data: {path} is absent")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@pytest.fixture(scope="module", params=["picodet_s_416_coco", "yolox_nano"])
def real(request: pytest.FixtureRequest, shared_dir: Path) -> OnnxDetector:
    path = shared_dir / "data/detectors" / f"{request.param}.onnx"
    if not path.is_file():
        pytest.skip(f"no recorded data: {path} is absent")
    return OnnxDetector(DetectorConfig(str(path)))


def test_what_lies_on_the_desk_is_found_where_it_lies(real: OnnxDetector, shared_dir: Path) -> None:
    found = real.detect_picture(read(shared_dir, DESK))
    sure = [one for one in found.detections if one.score >= real.info.min_score]
    assert all(one.score >= real.info.faint_score for one in found.detections)
    by_label = {one.label: one for one in sure}
    assert set(by_label) == {"tv", "keyboard"}
    assert len(sure) == 2
    assert iou(by_label["tv"].box_px, MONITOR) > 0.9
    assert iou(by_label["keyboard"].box_px, KEYBOARD) > 0.85
    assert all(one.score > 0.8 for one in sure)
    assert found.refused == {}


def test_who_sits_in_the_room_is_found_where_he_sits(real: OnnxDetector, shared_dir: Path) -> None:
    found = real.detect_picture(read(shared_dir, ROOM)).detections
    best = {one.label: one for one in reversed(found)}
    assert iou(best["chair"].box_px, CHAIR) > 0.75
    assert iou(best["person"].box_px, PERSON) > 0.75


def test_a_frame_is_a_picture_and_a_real_file_says_what_it_is(
    real: OnnxDetector, shared_dir: Path
) -> None:
    rgb = read(shared_dir, DESK)
    depth = np.ones(rgb.shape[:2], np.float32)
    frame = RgbdFrame(1, rgb, depth, Intrinsics(517, 517, 319, 255, 640, 480), np.eye(4), "map")
    labels = [one.label for one in real.detect(frame).detections]
    assert labels == [one.label for one in real.detect_picture(rgb).detections]
    assert real.info.format in ("picodet", "yolox")
    assert real.info.kinds[62] == "tv"
    assert not real.info.takes_phrases
    with pytest.raises(DetectorError, match="finds its 80 kinds, no free phrases"):
        real.find(frame, ["a red mug"])


# Files that are at fault.


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(DetectorError) as caught:
        open_detector(DetectorConfig(str(path), **settings))
    return str(caught.value)


def yolo_file(path: Path, kinds: int = 80, **more: Any) -> Path:
    return write_model(
        path / "net.onnx", {"output0": np.zeros((1, 4 + kinds, CELLS), np.float32)}, **more
    )


def test_no_such_file(tmp_path: Path) -> None:
    assert "does not exist: name an ONNX file" in refusal(tmp_path / "net.onnx")
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.onnx")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes that begin with nothing"),
        (b"cup\nchair\n", "10 bytes that begin with 63 75 70"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
        (b"PK\x03\x04 archive", "as PyTorch writes its weights: export the network to ONNX"),
        (b"<!doctype html><html>", "a web page: download the file itself"),
    ],
)
def test_what_is_no_onnx_file_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert said in refusal(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = yolo_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    text = refusal(path)
    assert f"a truncated one: {len(whole) // 2} bytes" in text
    assert "Copy it again" in text


def test_a_classifier(tmp_path: Path) -> None:
    scores = np.zeros((1, 1000), np.float32)
    text = refusal(write_model(tmp_path / "net.onnx", {"probabilities": scores}))
    assert "gives probabilities (1, 1000), which is no output of a detector" in text
    assert "a classifier" in text


def test_a_newer_opset_and_a_newer_format(tmp_path: Path) -> None:
    text = refusal(yolo_file(tmp_path, opset=99))
    assert "reads (opset 99, and opset " in text
    assert "update onnxruntime, or export the file again with opset 17" in text
    path = yolo_file(tmp_path)
    model = onnx.load(path)
    model.ir_version = 99
    onnx.save(model, path)
    assert "newer ONNX than this onnxruntime reads (Unsupported model IR version: 99" in refusal(
        path
    )


def test_weights_that_lie_beside_the_file_and_are_gone(tmp_path: Path) -> None:
    path = yolo_file(tmp_path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "net.data").unlink()
    assert "keeps its weights in another file that is not there" in refusal(path)


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    path, names = yolo_file(tmp_path, kinds=3), tmp_path / "names.txt"
    assert "tells 3 kinds apart, and no names are known: set detector.names" in refusal(path)
    names.write_text("bolt\nnut\n")
    assert "tells 3 kinds apart, and 2 names are known" in refusal(path, names=str(names))
    names.write_text("bolt\nNut\nwasher\n\n")
    opened = open_detector(DetectorConfig(str(path), str(names)))
    assert opened.info.kinds == ("bolt", "nut", "washer")


def test_names_that_cannot_be_read(tmp_path: Path) -> None:
    path, names = yolo_file(tmp_path), tmp_path / "names.txt"
    assert "names.txt, cannot be read" in refusal(path, names=str(names))
    names.write_text("\n \n")
    assert "holds no name" in refusal(path, names=str(names))
    names.write_text("cup\n\nchair\n")
    assert "has no name in line 2 ('')" in refusal(path, names=str(names))
    names.write_bytes(b"\xff\xfe\xfa")
    assert "name a text file in UTF-8" in refusal(path, names=str(names))
    for text in ("{0: 'cup', 2: 'chair'}", "__import__('os')", "{}", "[1, 2]", "(" * 300):
        told = refusal(yolo_file(tmp_path, metadata={"names": text}))
        assert "the metadata `names` of net.onnx cannot be read" in told


def test_other_tasks_and_other_inputs(tmp_path: Path) -> None:
    assert "made for the task 'pose': detect and segment give boxes" in refusal(
        yolo_file(tmp_path, metadata={"task": "pose"})
    )
    words = {"input_ids": (TensorProto.INT64, (1, 16))}
    text = refusal(yolo_file(tmp_path, inputs={**PICTURE, **words}))
    assert "also takes input_ids (1, 16), which nothing here gives" in text
    wanted = {
        "it takes wave (1, 16000)": {"wave": (TensorProto.FLOAT, (1, 16000))},
        "takes 4 pictures at once": {"images": (TensorProto.FLOAT, (4, 3, 64, 96))},
        "a side has 32 to 4096 px": {"images": (TensorProto.FLOAT, (1, 3, 8, 9000))},
        "takes its picture as tensor(int64)": {"images": (TensorProto.INT64, (1, 3, 64, 96))},
    }
    for said, inputs in wanted.items():
        assert said in refusal(yolo_file(tmp_path, inputs=inputs))


def test_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path = yolo_file(tmp_path)
    text = refusal(path, device="cuda:1")
    assert text.startswith(
        "detector.device is cuda:1, and this onnxruntime computes with CPUExecutionProvider only"
    )
    assert open_detector(DetectorConfig(str(path), device="auto")).info.format == "yolo"

    # A library built for CUDA on a machine without it: onnxruntime takes the processor.
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    made = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda file, options, providers: made(file, options, providers=both[1:]),
    )
    assert "could not start CUDA there (it took CPUExecutionProvider)" in refusal(
        path, device="cuda"
    )
    assert open_detector(DetectorConfig(str(path), device="auto")).info.format == "yolo"


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert 'pip install "ada3d_ros[detect]"' in refusal(yolo_file(tmp_path))


def test_threads_are_those_of_the_settings_and_do_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    seen: list[Any] = []
    made = onnxruntime.InferenceSession

    def record(file: Any, options: Any, **more: Any) -> Any:
        seen.append(options)
        return made(file, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    onnx_session.open_session(yolo_file(tmp_path), DetectorConfig(threads=2))
    (options,) = seen
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("path", ["", "topic"])
def test_the_node_alone_reads_a_topic(path: str) -> None:
    with pytest.raises(DetectorError, match="a topic of detections is read by the node alone"):
        open_detector(DetectorConfig(path))


# Outputs that are at fault.


def detect_rows(tmp_path: Path, rows: list[list[float]]) -> FrameDetections:
    """What a file with these rows (x0, y0, x1, y1, score, class) gives for a 192 x 128 picture."""
    table = np.zeros((1, 20, 6), np.float32)
    table[0, : len(rows)] = rows
    path = write_model(tmp_path / "net.onnx", {"output0": table})
    return open_detector(DetectorConfig(str(path))).detect_picture(
        np.zeros((128, 192, 3), np.uint8)
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([10, 10, 20, 20, np.nan, 1], NAN_SCORE),
        ([10, 10, 20, 20, np.inf, 1], SCORE_OUTSIDE),
        ([10, 10, 20, 20, 7.5, 1], SCORE_OUTSIDE),
        ([10, 10, 20, 20, -2, 1], SCORE_OUTSIDE),
        ([10, np.nan, 20, 20, 0.9, 1], NAN_BOX),
        ([20, 10, 10, 20, 0.9, 1], BOX_WITHOUT_EXTENT),
        ([10, 70, 20, 80, 0.9, 1], BOX_OUTSIDE),
        ([10, 10, 20, 20, 0.9, 80], UNNAMED_KIND),
        ([10, 10, 20, 20, 0.9, np.nan], UNNAMED_KIND),
    ],
)
def test_rows_at_fault_are_counted_the_others_stay(
    row: list[float], reason: str, tmp_path: Path
) -> None:
    found = detect_rows(tmp_path, [row, [48, 32, 200, 48, 0.75, 62]])
    assert found.refused == {reason: 1}
    (one,) = found.detections
    assert (one.label, one.score) == ("tv", 0.75)
    assert one.box_px == (96, 64, 192, 96)  # twice as large as in the input, and clipped


def test_what_is_wrong_is_said_once_with_its_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = np.zeros((1, 20, 6), np.float32)
    table[0, 0], table[0, 1] = [1, 1, 9, 9, 7.5, 1], [1, 1, 9, 9, 0.9, 97]
    detector = OnnxDetector(
        DetectorConfig(str(write_model(tmp_path / "net.onnx", {"output0": table})))
    )
    for _ in range(3):
        detector.detect_picture(np.zeros((64, 96, 3), np.uint8))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "net.onnx gave 1 scores in one picture that are none, the first 7.5" in said[0]
    assert "net.onnx gave the class 97, and its 80 names go from 0 to 79" in said[1]


def test_the_threshold_of_the_settings_counts(tmp_path: Path) -> None:
    table = np.zeros((1, 20, 6), np.float32)
    table[0, :2] = [[1, 1, 9, 9, 0.2, 0], [40, 1, 49, 9, 0.6, 1]]
    path = str(write_model(tmp_path / "net.onnx", {"output0": table}))
    rgb = np.zeros((64, 96, 3), np.uint8)
    for min_score, labels in ((0.0, ["bicycle"]), (0.25, ["bicycle", "person"]), (0.85, [])):
        detector = OnnxDetector(DetectorConfig(path, min_score=min_score))
        assert detector.info.min_score == (min_score or 0.4)
        assert [one.label for one in detector.detect_picture(rgb).detections] == labels


def test_masks_that_do_not_fit_the_input_make_no_detector(tmp_path: Path) -> None:
    outputs = {
        "output0": np.zeros((1, 84 + 32, CELLS), np.float32),
        "output1": np.zeros((1, 32, 16, 16), np.float32),  # 24 columns would fit
    }
    text = refusal(write_model(tmp_path / "net.onnx", outputs))
    assert "output1 (1, 32, 16, 16)" in text


def test_a_network_that_fails_says_so(tmp_path: Path) -> None:
    """It takes pictures of any size and then cannot: its own reshape is of another one."""
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["images", "shape"], ["output0"])],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, "h", "w"))],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, (1, 84, 100))],
        [helper.make_tensor("shape", TensorProto.INT64, [3], [1, 84, 100])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    text = refusal(path)
    assert text.startswith("the detector failed (")
    assert "cannot be reshaped to the requested shape" in text
    assert "export it again" in text


FORMATS: dict[str, list[tuple[int, ...]]] = {
    "picodet": [*((1, n, 80) for n in (96, 24, 6)), *((1, n, 32) for n in (96, 24, 6))],
    "yolox": [(1, CELLS, 85)],
    "nanodet": [(1, CELLS, 112)],
    "yolo": [(1, 116, CELLS), (1, 32, 16, 24)],
    "yolo maps": [(1, 144, 8, 12), (1, 144, 4, 6), (1, 144, 2, 3)],
    "yolo rows": [(1, 20, 6)],
    "yolov7 rows": [(20, 7)],
    "detr": [(1, 20, 80), (1, 20, 4), (1, 20, 6, 6)],
    "detr with nothing": [(1, 20, 92), (1, 20, 4)],
    "detr table": [(1, 20, 84)],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FORMATS)
def test_numbers_that_are_none_never_become_boxes(name: str, seed: int, tmp_path: Path) -> None:
    """Every format, its outputs full of NaN, infinities and huge numbers: nothing raises, and
    every box that is left lies within the picture.
    """
    random = np.random.default_rng(seed)
    bad = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, -5, 70], np.float32)
    outputs = {}
    for number, shape in enumerate(FORMATS[name]):
        values = random.uniform(0, 1, shape).astype(np.float32)
        at_fault = random.uniform(0, 1, shape) < 0.003
        outputs[f"out{number}"] = np.where(at_fault, random.choice(bad, shape), values)
    path = write_model(tmp_path / "net.onnx", outputs)
    detector = OnnxDetector(DetectorConfig(str(path), min_score=0.05))
    assert detector.info.format == name.split()[0].replace("v7", "")
    found = detector.detect_picture(np.zeros((60, 120, 3), np.uint8))
    assert found.detections or found.refused
    assert all(count > 0 for count in found.refused.values())
    for one in found.detections:
        assert 0 <= one.box_px[0] < one.box_px[2] <= 120
        assert 0 <= one.box_px[1] < one.box_px[3] <= 60
        assert detector.info.faint_score <= one.score <= 1
        assert one.mask is None or one.mask.shape == (60, 120)
