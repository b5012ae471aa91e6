"""`ada3d doctor --detector`, without ROS: what it prints, its exit code, and the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from ada3d_ros.perception.boxes_picture import COLORS, draw_boxes, sample_picture
from ada3d_ros.perception.detector import Detection2D
from ada3d_ros.ros.doctor import main as doctor
from test.support.tiny_detectors import write_grounding_dino, write_rt_detr

Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Doctor:
    """run(*arguments) -> exit code and what is said of the detector, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str]:
        capsys.readouterr()
        code = doctor(["--no-graph", *args])
        lines = capsys.readouterr().out.splitlines()
        first = next(n for n, line in enumerate(lines) if " detector" in line[:19])
        return code, "\n".join(lines[first:])

    return call


def pixels_of(file: Path) -> npt.NDArray[np.uint8]:
    with Image.open(file) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rt_detr(tmp_path_factory.mktemp("detectors") / "rt_detr")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("picodet_s_416_coco.onnx", "format picodet: finds 80 kinds (person, bicycle,"),
        ("yolox_nano.onnx", "format yolox: finds 80 kinds (person, bicycle,"),
    ],
)
def test_a_real_detector_sees_the_stop_sign_that_is_drawn(
    run: Doctor, shared_dir: Path, tmp_path: Path, file: str, told: str
) -> None:
    path = shared_dir / "data" / "detectors" / file
    _, text = run("--detector", str(path))
    assert f"{file}, {told}" in text
    assert "no free phrases" in text
    assert "images are scaled to 416 x 416" in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert " ms a frame of 640 x 480 pixels here (median of " in text
    assert "cpu, 1 thread" in text

    # The sign is there, and its box is on it.
    picture = tmp_path / f"{path.stem}_boxes.png"
    assert "in a street corner drawn here: " in text
    assert "1 stop sign" in text
    assert str(picture) in text
    changed = np.argwhere((pixels_of(picture) != sample_picture()).any(axis=2))
    assert changed[:, 1].min() == pytest.approx(100, abs=12)


def test_a_folder_and_an_image_of_ones_own(run: Doctor, tiny: Path, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((90, 120, 3), 200, np.uint8))
    image.save(tmp_path / "mine.jpg")
    names = tmp_path / "names.txt"
    names.write_text("mug\nstool\nscreen\n")
    options = ("--detector", str(tiny), "--names", str(names), "--min-score", "0.05")
    _, text = run(*options, "--image", "mine.jpg", "--output", "seen.png")
    assert "rt_detr, format transformers: finds 3 kinds (mug, stool, screen)" in text
    assert "boxes count from a score of 0.05 on" in text
    assert "ms a frame of 120 x 90 pixels" in text
    assert "in the image: " in text
    assert pixels_of(tmp_path / "seen.png").shape == (90, 120, 3)


def test_a_phrase_detector_is_asked_for_what_is_drawn(run: Doctor, tmp_path: Path) -> None:
    folder = write_grounding_dino(tmp_path / "phrases")
    _, text = run("--detector", str(folder), "--min-score", "0.01")
    assert "looks for any phrase; unasked for 64 kinds (person, chair," in text
    assert (tmp_path / "phrases_boxes.png").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--detector", "/nowhere"], "/nowhere is not there: --detector names an ONNX file"),
        (["--detector", "TINY", "--device", "cuda:7"], "--device is 'cuda:7', and torch sees"),
        (["--detector", "TINY", "--device", "gpu"], "--device = 'gpu'"),
        (["--detector", "TINY", "--threads", "100"], "--threads = 100: out of range"),
        (["--detector", "TINY", "--names", "/no/names"], "the file of --names, /no/names,"),
        (["--detector", "TINY", "--image", "/no/image"], "--image /no/image cannot be read"),
        (["--detector", "TINY", "--image", __file__], "are no JPEG or PNG"),
        (["--detector", "TINY", "--output", "/no/folder/x.png"], "name a file with --output"),
        (["--detector", __file__], "is no ONNX file"),
    ],
)
def test_a_bad_one_ends_with_exit_code_1_and_a_sentence(
    run: Doctor, tiny: Path, arguments: list[str], told: str
) -> None:
    code, text = run(*(str(tiny) if word == "TINY" else word for word in arguments))
    assert told in text
    assert code == 1


def test_weights_that_are_nan_are_told(run: Doctor, tmp_path: Path) -> None:
    folder = write_rt_detr(tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if "class_embed" in name or "score_head" in name:
            value.fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    code, text = run("--detector", str(folder))
    assert "gives no score that is a number: its weights are damaged" in text
    assert code == 1


def test_a_topic_is_told_apart(run: Doctor) -> None:
    _, text = run("--detector", "topic")
    assert "vision_msgs/Detection2DArray" in text


def test_boxes_are_drawn_where_they_are() -> None:
    plain = np.full((100, 200, 3), 255, np.uint8)
    drawn = draw_boxes(plain, [Detection2D((20.0, 40.0, 120.0, 90.0), "cup", 0.9)])
    color = tuple(int(COLORS[0][n : n + 2], 16) for n in (1, 3, 5))
    assert drawn.shape == plain.shape
    assert (plain == 255).all()
    on_box = (drawn == color).all(axis=2)
    assert on_box[60, 20]
    assert on_box[60, 120]
    assert on_box[90, 70]
    assert not on_box[60, 70]
    assert draw_boxes(plain, []).tolist() == plain.tolist()
