"""Detectors of transformers by value: ours against transformers called directly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.perception.detector import FAINT_SHARE, FrameDetections
from ada3d_ros.perception.open_detector import open_detector
from ada3d_ros.perception.select_boxes import NAN_SCORE, select_boxes
from ada3d_ros.perception.transformers_detector import TransformersDetector
from ada3d_ros.perception.zero_shot import room_things, with_article
from test.support.tiny_detectors import (
    frame_of,
    write_grounding_dino,
    write_owlv2,
    write_rt_detr,
    write_yolos,
)

MIN_SCORE = 0.05  # random weights are not sure of anything
FAINT = FAINT_SHARE * MIN_SCORE
PHRASES = ("cup", "office chair", "trash can")
FRAME = frame_of()
SIZES = [(48, 60)]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folder_of(family): written once."""
    writers = {
        "rt_detr": write_rt_detr,
        "yolos": write_yolos,
        "owlv2": write_owlv2,
        "grounding_dino": write_grounding_dino,
    }
    root = tmp_path_factory.mktemp("detectors")

    def find(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else writers[family](folder)

    return find


def opened(folder: Path, *phrases: str, **settings: Any) -> TransformersDetector:
    config = DetectorConfig(path=str(folder), **{"min_score": MIN_SCORE, **settings})
    return TransformersDetector(config, phrases)


def same(found: FrameDetections, boxes: Any, scores: Any, labels: Sequence[str]) -> None:
    """What we give is what transformers gave, after the step that all detectors share."""
    theirs = select_boxes(np.asarray(boxes), np.asarray(scores), labels, (60, 48), FAINT)
    assert [d.label for d in found.detections] == [d.label for d in theirs.detections]
    for part in ("score", "box_px"):
        ours = [getattr(detection, part) for detection in found.detections]
        assert np.allclose(ours, [getattr(d, part) for d in theirs.detections], atol=1e-4)
    assert found.refused == theirs.refused
    assert len(found.detections) >= 2


# -- by value


@pytest.mark.parametrize("family", ["rt_detr", "yolos"])
def test_fixed_kinds_are_those_of_transformers(
    folder_of: Callable[[str], Path], family: str
) -> None:
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    # Theirs.
    folder = folder_of(family)
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForObjectDetection.from_pretrained(folder)
    with torch.inference_mode():
        outputs = model(**processor(images=Image.fromarray(FRAME.rgb), return_tensors="pt"))
    theirs = processor.post_process_object_detection(outputs, FAINT, target_sizes=SIZES)[0]
    names = {"Cup": "cup", "chair": "chair", "tvmonitor": "tv", "N/A": "n/a"}
    labels = [names[model.config.id2label[int(label)]] for label in theirs["labels"]]

    # Ours, opened as the node does it.
    detector = open_detector(DetectorConfig(path=str(folder), min_score=MIN_SCORE))
    found = detector.detect(FRAME)
    assert found is not None
    same(found, theirs["boxes"], theirs["scores"], labels)
    assert found.seconds > 0
    assert "n/a" not in {detection.label for detection in found.detections}

    # What it says of itself.
    info = detector.info
    assert (info.name, info.format) == (family, "transformers")
    assert info.kinds == ("cup", "chair", "tv")
    assert (info.takes_phrases, len(info.sha256)) == (False, 64)
    with pytest.raises(DetectorError, match="finds its 3 kinds, no free phrases"):
        detector.find(FRAME, ["red cup"])


def test_phrases_of_owl_are_those_of_transformers(folder_of: Callable[[str], Path]) -> None:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = folder_of("owlv2")
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder)
    text = [["a photo of a cup", "a photo of an office chair", "a photo of a trash can"]]
    inputs = processor(images=Image.fromarray(FRAME.rgb), text=text, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    theirs = processor.post_process_grounded_object_detection(
        outputs, threshold=FAINT, target_sizes=SIZES, text_labels=[list(PHRASES)]
    )[0]

    detector = opened(folder, *PHRASES)
    assert detector.info.kinds == PHRASES
    assert detector.info.takes_phrases
    found = detector.find(FRAME, PHRASES)
    same(found, theirs["boxes"], theirs["scores"], theirs["text_labels"])
    again = detector.detect(FRAME)
    assert [(d.label, d.score) for d in again.detections] == [
        (d.label, d.score) for d in found.detections
    ]


def test_phrases_of_grounding_dino_are_those_of_transformers(
    folder_of: Callable[[str], Path],
) -> None:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = folder_of("grounding_dino")
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder)
    text = "a cup. an office chair. a trash can."
    inputs = processor(images=Image.fromarray(FRAME.rgb), text=text, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    theirs = processor.post_process_grounded_object_detection(
        outputs, threshold=FAINT, text_threshold=2.0, target_sizes=SIZES
    )[0]

    # Tokens: [CLS] a cup . an office chair . a trash can . [SEP]
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens[1:8] == ["a", "cup", ".", "an", "office", "chair", "."]
    scores = outputs.logits[0].sigmoid()
    best = [scores[:, 1:3], scores[:, 4:7], scores[:, 8:11]]
    sure = torch.stack([part.max(dim=1).values for part in best]).argmax(dim=0)
    kept = scores.max(dim=1).values > FAINT
    labels = [PHRASES[int(index)] for index in sure[kept]]

    found = opened(folder, *PHRASES).find(FRAME, PHRASES)
    same(found, theirs["boxes"], theirs["scores"], labels)
    assert len({detection.label for detection in found.detections}) > 1


def test_phrases_that_do_not_fit_one_text_are_looked_for_in_several(tmp_path: Path) -> None:
    """Of 12 tokens two are for the ends; `a cup. an office chair.` takes 7, the next one 4."""
    folder = write_grounding_dino(tmp_path / "short", max_tokens=12)
    detector = opened(folder, *PHRASES)
    together = detector.find(FRAME, PHRASES)
    apart = [*detector.find(FRAME, PHRASES[:2]).detections]
    apart += detector.find(FRAME, PHRASES[2:]).detections
    assert len(together.detections) == len(apart)
    assert sorted(d.score for d in together.detections) == sorted(d.score for d in apart)
    with pytest.raises(DetectorError, match=r"has 11 tokens .* at most 10: say it shorter"):
        detector.find(FRAME, ["red cup of red cup of red office chair"])


# -- what is looked for


def test_without_phrases_things_of_rooms_are_looked_for(folder_of: Callable[[str], Path]) -> None:
    detector = opened(folder_of("owlv2"))
    assert detector.info.kinds == room_things()
    assert {"door", "trash can", "cabinet", "window", "shelf", "pillow"} <= set(room_things())
    assert len(room_things()) == len(set(room_things())) >= 60


def test_the_names_file_says_what_is_looked_for(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("red cup\nDoor\n")
    assert opened(folder_of("owlv2"), "chair", names=str(names)).info.kinds == ("red cup", "door")
    names.write_text("mug\nstool\nscreen\n")
    assert opened(folder_of("rt_detr"), names=str(names)).info.kinds == ("mug", "stool", "screen")


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("cup", "a cup"),
        ("Oven", "an oven"),
        ("the red cup", "the red cup"),
        ("stairs", "stairs"),
        ("glass", "a glass"),
        ("any cup", "an any cup"),
    ],
)
def test_a_phrase_gets_its_article(phrase: str, expected: str) -> None:
    assert with_article(phrase) == expected


@pytest.mark.parametrize(
    ("phrases", "sentence"),
    [
        ([], "no phrase to look for"),
        (["  "], "1 to 80 printable characters"),
        (["?"], "a letter or digit among them"),
        (["cup\x00"], "1 to 80 printable characters"),
        (["x" * 81], "1 to 80 printable characters"),
        (["a cup of an office chair of a door"], r"has 36 tokens .* at most 32"),
    ],
)
def test_phrases_that_cannot_be_looked_for_are_refused(
    folder_of: Callable[[str], Path], phrases: list[str], sentence: str
) -> None:
    detector = opened(folder_of("owlv2"), "cup")
    with pytest.raises(DetectorError, match=sentence):
        detector.find(FRAME, phrases)
    assert detector.find(FRAME, ["cup"]).seconds > 0


# -- what it gives that cannot be used


@pytest.mark.parametrize("family", ["rt_detr", "yolos", "owlv2", "grounding_dino"])
def test_scores_that_are_nan_are_counted(
    folder_of: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    """Weights spoilt on disk: what scores the boxes is NaN."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(folder_of(family), tmp_path / family))
    weights = load_file(folder / "model.safetensors")
    heads = [name for name in weights if "class" in name or "text_projection" in name]
    assert heads
    for name in heads:
        weights[name].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    found = opened(folder, *(PHRASES if family in ("owlv2", "grounding_dino") else ())).detect(
        FRAME
    )
    assert found.detections == ()
    assert found.refused[NAN_SCORE] == (16 if family == "owlv2" else 10)


def test_odd_images_are_looked_at(folder_of: Callable[[str], Path]) -> None:
    """As small as three pixels, where the order of a picture's axes can be mistaken."""
    detector = opened(folder_of("rt_detr"))
    for width, height in ((3, 3), (200, 3), (640, 480)):
        found = detector.detect(frame_of(width, height))
        assert all(
            0 <= d.box_px[0] < d.box_px[2] <= width and 0 <= d.box_px[1] < d.box_px[3] <= height
            for d in found.detections
        )
        assert found.seconds > 0
