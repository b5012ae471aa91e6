"""Benchmarks about single images: the image of an item, as a frame, and what is asked about it.

The pipeline takes an image as the newest keyframe of a scene: a frame without any depth, at the
world's origin, seen by a camera that nothing reads. A question of scope LATEST_IMAGE is then about
its patches alone, in 2D, as LLaVA-1.5 answers it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.errors import FrameError, SourceError
from ada3d_ros.lab.evaluation.field.benchmark import NO_ANSWER, Item, Record, Scoring
from ada3d_ros.lab.evaluation.field.json_files import read_text_answers
from ada3d_ros.sources.images import decode_compressed_color
from ada3d_ros.types import Answer, Intrinsics, Question, RgbdFrame, Scope

IMAGE = "image"  # in Item.extra: the image file as base64 text, where the official file holds it
WORLD = "image"  # the frame's world: of one image
# LLaVA-1.5's prompts (docs/Evaluation.md there).
SHORT_PROMPT = "Answer the question using a single word or phrase."
LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
# Square brackets are places to the pipeline; an image has none.
_ROUND = str.maketrans("[]", "()")


def image_of(item: Item, folder: Path | None) -> npt.NDArray[np.uint8]:
    """The item's image, (H, W, 3) uint8 RGB: from its official file, else `folder` / source.

    Raises SourceError for one that is not there or is no JPEG or PNG.
    """
    content = item.extra.get(IMAGE)
    name = f"the image of item {item.id!r}"
    if content is not None:
        try:
            data = base64.b64decode(str(content), validate=False)
        except (binascii.Error, ValueError) as error:
            raise SourceError(f"{name} is not base64 ({error}): is the file whole?") from None
    else:
        if folder is None:
            raise SourceError(f"{name} is {item.source!r}: name its folder with --images.")
        inside = PurePosixPath(item.source)
        if inside.is_absolute() or ".." in inside.parts:  # a file may say anything
            raise SourceError(f"{name} is {item.source!r}, outside of the folder of --images.")
        path = folder / inside
        if not path.is_file():
            raise SourceError(
                f"{name} is not there: {path}. Name the folder of the official images with"
                " --images."
            )
        data = path.read_bytes()
    try:
        return decode_compressed_color(data, IMAGE)
    except FrameError as error:
        raise SourceError(f"{name} ({item.source}) cannot be read: {error}") from None


def image_frame(rgb: npt.NDArray[np.uint8], number: int) -> RgbdFrame:
    """The image as the frame that the pipeline is shown.

    rgb (H, W, 3) uint8; number: from 0, the frames' stamps rise with it.
    """
    height, width = rgb.shape[:2]
    camera = Intrinsics(
        float(width), float(width), (width - 1) / 2, (height - 1) / 2, width, height
    )
    depth_m = np.full((height, width), np.nan, dtype=np.float32)
    return RgbdFrame(number + 1, rgb, depth_m, camera, np.eye(4), WORLD)


class ImageBenchmark:
    """Question, record and answers of a benchmark about images."""

    scope = Scope.LATEST_IMAGE
    grounds = False
    prompt = ""

    def question(self, item: Item) -> Question:
        """The item's text and the prompt, as LLaVA-1.5's scripts ask; the model answers, whatever
        is asked.
        """
        text = f"{item.text}\n{self.prompt}" if self.prompt else item.text
        return Question(text.translate(_ROUND), scope=self.scope, want_boxes=False, routed=False)

    def record(self, item: Item, answer: Answer) -> Record:
        """The answer's words."""
        return {"text": answer.text}

    def remarks(self, scored: Sequence[tuple[Item, Record]], scoring: Scoring) -> list[str]:
        """None: the numbers are of all that was scored."""
        return []

    def read_answers(self, path: Path) -> dict[str, Record]:
        return read_text_answers(path)


def said(record: Record) -> str | None:
    """The answer's words; None where none came."""
    text: Any = None if NO_ANSWER in record else record.get("text")
    return None if text is None else str(text)
