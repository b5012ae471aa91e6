"""A detector from an ONNX file, run by onnxruntime."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.perception.class_names import (
    COCO_IDS,
    COCO_NAMES,
    UNNAMED_KIND,
    names_in_metadata,
    read_names,
)
from ada3d_ros.perception.detector import DetectorInfo, FrameDetections
from ada3d_ros.perception.onnx_decoders import Array, Classes, Decoder, Outputs
from ada3d_ros.perception.onnx_input import ImageInput, Placement, grey, prepare
from ada3d_ros.perception.onnx_outputs import Trial, recognise
from ada3d_ros.perception.onnx_session import OnnxSession, open_session
from ada3d_ros.perception.select_boxes import EPSILON, select_boxes
from ada3d_ros.types import RgbdFrame

logger = logging.getLogger(__name__)

TASKS = ("detect", "segment")  # in the metadata of YOLO files
MaskMaker = Callable[[int], npt.NDArray[np.bool_] | None]


class Masks(Sequence[npt.NDArray[np.bool_] | None]):
    """The masks of boxes, each made when it is asked for."""

    def __init__(self, count: int, make: MaskMaker) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._make(index)


class OnnxDetector:
    """Boxes, and masks where the file has them, by one ONNX file.

    The file is opened, tried on a grey picture and recognised when this is made. Raises
    DetectorError: no such file, no ONNX file, no detector, names that do not fit its classes, a
    device that is not there, onnxruntime missing.
    """

    def __init__(self, config: DetectorConfig) -> None:
        path = Path(config.path).expanduser()
        self._session = open_session(path, config)
        self._said: set[str] = set()
        names = read_names(Path(config.names).expanduser()) if config.names else ()
        names = names or names_in_metadata(self._session.metadata, path.name)
        self._decoder = _recognised(path, self._session, len(names))
        self._names = _fitting(path, names, self._decoder)
        self._info = DetectorInfo(
            name=path.name,
            format=self._decoder.format,
            kinds=tuple(dict.fromkeys(name for name in self._names if name)),
            min_score=config.min_score or self._decoder.min_score,
            sha256=_sha256(path),
            input_size=_describe_input(self._session.image, self._decoder),
        )

    @property
    def info(self) -> DetectorInfo:
        return self._info

    def detect(self, frame: RgbdFrame) -> FrameDetections:
        """The boxes in a frame. Raises DetectorError where the network fails."""
        return self.detect_picture(frame.rgb)

    def detect_picture(self, rgb: npt.NDArray[np.uint8]) -> FrameDetections:
        """The boxes in a picture (H, W, 3) uint8 RGB. Raises DetectorError where it fails."""
        start = time.perf_counter()
        picture, placed = prepare(rgb, self._session.image, self._decoder.convention)
        outputs = self._session.run(picture)
        try:
            with np.errstate(all="ignore"):  # what is NaN or endless is counted at the end
                found = self._read(outputs, placed)
        except (ValueError, IndexError) as error:
            shapes = ", ".join(str(array.shape) for array in outputs)
            raise DetectorError(
                f"{self._info.name} gave outputs of other shapes than when it was opened"
                f" ({shapes[:300]}): export it for pictures of one size."
            ) from error
        return replace(found, seconds=time.perf_counter() - start)

    def set_min_score(self, min_score: float) -> None:
        self._info = replace(self._info, min_score=min_score or self._decoder.min_score)

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        raise DetectorError(
            f"{self._info.name} finds its {len(self._info.kinds)} kinds, no free phrases: those"
            " need a zero-shot detector (detector.path of a transformers folder)."
        )

    def _read(self, outputs: Outputs, placed: Placement) -> FrameDetections:
        """What the outputs say; counts what cannot be used."""
        # Rows that count: likely ones, and those whose score is none, which are counted.
        scores, classes = self._decoder.scores(outputs)
        rows = np.flatnonzero(~(scores < self._info.faint_score) | (scores < 0))
        named = np.array([self._name(number) != "" for number in classes[rows]], dtype=bool)
        unnamed, rows = rows[~named], rows[named]
        self._warn(scores[rows], classes[unnamed])

        # Their boxes and masks in pixels of the picture.
        boxes = placed.to_picture(self._decoder.boxes(outputs, rows))

        def mask(index: int) -> npt.NDArray[np.bool_] | None:
            logits = self._decoder.mask(outputs, int(rows[index]))
            if logits is None:
                return None
            return placed.mask(logits, self._session.image, boxes[index])

        found = select_boxes(
            boxes,
            scores[rows],
            [self._name(number) for number in classes[rows]],
            (placed.width, placed.height),
            self._info.faint_score,
            Masks(len(rows), mask),
        )
        if not unnamed.size:
            return found
        return replace(found, refused={**found.refused, UNNAMED_KIND: unnamed.size})

    def _name(self, number: int) -> str:
        """The name of a class, "" where it has none."""
        return self._names[number] if 0 <= number < len(self._names) else ""

    def _warn(self, scores: Array, unnamed: Classes) -> None:
        """Says once what is wrong with outputs, with a value; each time it is counted."""
        wrong = scores[~((scores >= -EPSILON) & (scores <= 1 + EPSILON))]
        if wrong.size and "score" not in self._said:
            self._said.add("score")
            logger.warning(
                "%s gave %d scores in one picture that are none, the first %g, where 0 to 1 is"
                " possible; such boxes are left out. Export it in float32 and with its last step.",
                *(self._info.name, wrong.size, wrong[0]),
            )
        if unnamed.size and "name" not in self._said:
            self._said.add("name")
            logger.warning(
                "%s gave the class %d, and its %d names go from 0 to %d; such boxes are left out."
                " Set detector.names to a text file with all its names, one a line.",
                *(self._info.name, unnamed[0], len(self._names), len(self._names) - 1),
            )


def _recognised(path: Path, session: OnnxSession, num_names: int) -> Decoder:
    """The format of the outputs for a grey picture. Raises DetectorError where it is not known."""
    task = session.metadata.get("task", TASKS[0])
    if task not in TASKS:
        raise DetectorError(
            f"detector.path {path} is made for the task {task!r}: {' and '.join(TASKS)} give boxes."
        )
    image = session.image
    outputs = session.run(grey(image))
    size = (image.height, image.width)
    trial = Trial(session.outputs, outputs, size, tuple(session.sizes), num_names)
    decoder = recognise(trial)
    if decoder is None:
        shown = ", ".join(
            f"{name} {shape}" for name, shape in zip(trial.names, trial.shapes, strict=True)
        )
        raise DetectorError(
            f"detector.path {path} gives {shown[:300]}, which is no output of a detector that is"
            " known (PicoDet, YOLOX, YOLO, DETR, mmdetection; docs/detectors.md): a classifier,"
            " another network, or an export with another end. Export it as that page says."
        )
    return decoder


def _fitting(path: Path, names: tuple[str, ...], decoder: Decoder) -> tuple[str, ...]:
    """The name of every class. Raises DetectorError where there are more or fewer."""
    wanted = decoder.num_kinds
    if not names and wanted in (None, len(COCO_NAMES)):
        return COCO_NAMES
    if not names and wanted == len(COCO_IDS) and decoder.format == "detr":
        return COCO_IDS
    if wanted is not None and len(names) != wanted:
        raise DetectorError(
            f"{path} tells {wanted} kinds apart, and {len(names) or 'no'} names are known: set"
            f" detector.names to a text file with {wanted} lines, one name each, in the order of"
            " its classes."
        )
    return names


def _describe_input(image: ImageInput, decoder: Decoder) -> str:
    return f"{image.width} x {image.height}, {decoder.convention.fit}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
