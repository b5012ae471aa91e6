"""What `ada3d doctor --detector` says: what a file, folder or topic is, how fast, and a picture.

Needs no ROS.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ada3d_ros.config.objects import TOPIC, DetectorConfig
from ada3d_ros.errors import Ada3DError, DetectorError, FrameError
from ada3d_ros.perception.boxes_picture import SAMPLE_THINGS, draw_boxes, sample_picture
from ada3d_ros.perception.detector import Detector, DetectorInfo, FrameDetections
from ada3d_ros.perception.open_detector import open_detector
from ada3d_ros.perception.select_boxes import NAN_SCORE
from ada3d_ros.ros.doctor import BAD, NOTE, OK, WRONG, Finding
from ada3d_ros.ros.vision_messages import INSTALL, vision_type
from ada3d_ros.sources.images import decode_compressed_color
from ada3d_ros.types import Intrinsics, RgbdFrame

SUBJECT = "detector"
NAMED_KINDS = 6  # of all kinds, in the line that counts them
MAX_RUNS = 5
MAX_TIMED_S = 10.0
OPTIONS = {
    "detector.path": "--detector",
    "detector.names": "--names",
    "detector.min_score": "--min-score",
    "detector.threads": "--threads",
    "detector.device": "--device",
}


@dataclass(frozen=True, slots=True)
class DetectorCheck:
    """What is asked for: the settings, an image file (empty: one drawn here), and where the picture
    with its boxes goes (empty: NAME_boxes.png in the current folder).
    """

    config: DetectorConfig
    image: str = ""
    output: str = ""


def check_detector(check: DetectorCheck) -> Iterator[Finding]:
    """What the detector is, whether it runs, and where its picture was written."""
    if check.config.path == TOPIC:
        yield _topic()
        return
    try:
        frame = _frame(check.image)
        detector = open_detector(check.config)
        yield from _description(detector.info)
        found, text = _run(detector, frame, check)
        yield Finding(OK, f"{SUBJECT} time", text)
        yield from _faults(detector.info, found)
        yield _picture(detector.info, frame, found, check)
    except Ada3DError as error:
        yield Finding(BAD, SUBJECT, with_options(str(error)))


def _topic() -> Finding:
    """`topic`: what the node expects, and whether it can."""
    found, why = vision_type("Detection2DArray")
    if found is None:
        text = f"detections of a topic are vision_msgs/Detection2DArray, and {why}"
        return Finding(BAD, SUBJECT, text, f"on a distribution: {INSTALL}")
    return Finding(
        OK,
        SUBJECT,
        "a topic: the node takes vision_msgs/Detection2DArray from ~/detections_2d, each array for"
        " the image of its stamp; kinds, scores and speed are the publisher's. There is nothing to"
        " open here.",
    )


def _description(info: DetectorInfo) -> Iterator[Finding]:
    """What it says of itself."""
    named = ", ".join(info.kinds[:NAMED_KINDS])
    more = f", ... {info.kinds[-1]}" if len(info.kinds) > NAMED_KINDS else ""
    kinds = f"{len(info.kinds)} kinds ({named}{more})"
    what = f"looks for any phrase; unasked for {kinds}" if info.takes_phrases else f"finds {kinds}"
    text = f"{info.name}, format {info.format}: {what}"
    text += "" if info.takes_phrases else ", no free phrases"
    yield Finding(OK, SUBJECT, text)
    size = f"images are scaled to {info.input_size}; " if info.input_size else ""
    yield Finding(OK, f"{SUBJECT} use", f"{size}boxes count from a score of {info.min_score:g} on")
    if info.sha256:
        yield Finding(OK, f"{SUBJECT} sha256", info.sha256)


def _run(detector: Detector, frame: RgbdFrame, check: DetectorCheck) -> tuple[FrameDetections, str]:
    """The boxes in the frame, and how long one takes. Raises DetectorError."""
    # A phrase detector is asked for what the drawn picture shows.
    asks = detector.info.takes_phrases and not check.image

    def once() -> FrameDetections:
        found = detector.find(frame, SAMPLE_THINGS) if asks else detector.detect(frame)
        if found is None:
            raise DetectorError(f"{detector.info.name} says nothing of the picture.")
        return found

    # The first run prepares much, and is not counted.
    found, times = once(), list[float]()
    begin = time.perf_counter()
    while len(times) < MAX_RUNS and (not times or time.perf_counter() - begin < MAX_TIMED_S):
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    size = f"{frame.intrinsics.width} x {frame.intrinsics.height}"
    text = (
        f"{1e3 * statistics.median(times):.0f} ms a frame of {size} pixels here (median of"
        f" {len(times)}; {_threads(detector.info, check.config)}); other programs slow it"
    )
    return found, text


def _threads(info: DetectorInfo, config: DetectorConfig) -> str:
    """On what it ran."""
    threads = config.threads
    if info.format in ("transformers", "zero-shot"):
        import torch

        threads = torch.get_num_threads()
        if config.device != "cpu" and torch.cuda.is_available():
            return torch.cuda.get_device_name(0)
    return f"{config.device}, {threads} thread{'s' if threads > 1 else ''}"


def _faults(info: DetectorInfo, found: FrameDetections) -> Iterator[Finding]:
    """What it gave that cannot be used."""
    if not found.detections and found.refused.get(NAN_SCORE):
        text = f"{info.name} gives no score that is a number: its weights are damaged or half-made"
        yield Finding(BAD, SUBJECT, text, "copy the file or folder again from where it came from")
        return
    for reason, count in found.refused.items():
        yield Finding(NOTE, f"{SUBJECT} output", f"left out: {reason}, {count} times")


def _picture(
    info: DetectorInfo, frame: RgbdFrame, found: FrameDetections, check: DetectorCheck
) -> Finding:
    """Writes the picture with its boxes and says where."""
    boxes = [detection for detection in found.detections if detection.score >= info.min_score]
    counts = Counter(detection.label for detection in boxes)
    what = ", ".join(f"{count} {label}" for label, count in counts.most_common()) or "no box"
    where = "the image" if check.image else "a street corner drawn here"
    file = Path(check.output or f"{Path(info.name).stem}_boxes.png").expanduser().resolve()
    try:
        Image.fromarray(draw_boxes(frame.rgb, boxes)).save(file)
    except (OSError, ValueError) as error:
        text = f"the picture with boxes cannot be written to {file}: {error}"
        return Finding(WRONG, f"{SUBJECT} picture", text, "name a file with --output")
    cure = "" if boxes or check.image else "give --image a photograph of the place it is meant for"
    level = OK if boxes else NOTE
    return Finding(level, f"{SUBJECT} picture", f"in {where}: {what}; see {file}", cure)


def _frame(image: str) -> RgbdFrame:
    """A frame without depth of an image file, or of the drawn picture. Raises DetectorError."""
    rgb = sample_picture()
    if image:
        try:
            rgb = decode_compressed_color(Path(image).expanduser().read_bytes(), "png or jpeg")
        except (OSError, FrameError) as error:
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise DetectorError(
                f"--image {image} cannot be read ({reason}): name a JPEG or PNG file."
            ) from error
    height, width = rgb.shape[:2]
    lens = Intrinsics(float(width), float(width), width / 2, height / 2, width, height)
    depth_m = np.full((height, width), np.nan, np.float32)
    return RgbdFrame(0, rgb, depth_m, lens, np.eye(4), "map")


def with_options(text: str) -> str:
    """An error's text with the options of this command in the place of settings."""
    for setting, option in OPTIONS.items():
        text = text.replace(setting, option)
    return text
