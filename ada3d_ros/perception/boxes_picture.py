"""Pictures for people: an image with a detector's boxes, and one drawn here to try it on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ada3d_ros.perception.detector import Detection2D

# Apart for people who see colours differently (Okabe and Ito); one a label, in turn.
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
LINE_SHARE = 250  # of the picture's longer side to the width of a line
TEXT_SHARE = 40
MIN_TEXT_PX = 11
SAMPLE_SIZE = (640, 480)
SAMPLE_THINGS = ("stop sign", "traffic light", "ball")


def draw_boxes(
    rgb: npt.NDArray[np.uint8], detections: Sequence[Detection2D]
) -> npt.NDArray[np.uint8]:
    """A copy of an image (H, W, 3) uint8 with boxes, labels and scores; the best lie on top."""
    picture = Image.fromarray(rgb).convert("RGB")
    draw = ImageDraw.Draw(picture)
    longer = max(picture.size)
    font = ImageFont.load_default(max(MIN_TEXT_PX, longer // TEXT_SHARE))
    labels = sorted({detection.label for detection in detections})

    for detection in reversed(detections):
        color = COLORS[labels.index(detection.label) % len(COLORS)]
        draw.rectangle(detection.box_px, outline=color, width=max(1, longer // LINE_SHARE))

        # The text within the picture: above its box where there is place.
        text = f"{detection.label} {detection.score:.2f}"
        left, _, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom + 3
        x = min(max(0, detection.box_px[0]), max(0, picture.width - width))
        y = detection.box_px[1] - height if detection.box_px[1] >= height else detection.box_px[1]
        draw.rectangle((x, y, x + width, y + height), fill=color)
        draw.text((x + 2, y + 1), text, fill="black", font=font)
    return np.asarray(picture)


def sample_picture() -> npt.NDArray[np.uint8]:
    """A drawn street corner (480, 640, 3) uint8: what it shows is in COCO, a stop sign before all.

    It shows whether a file runs and where its boxes lie, nothing of how good it is.
    """
    picture = Image.new("RGB", SAMPLE_SIZE, "#9fc5e8")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 330, 640, 480), fill="#7f7f7f")  # street
    draw.rectangle((0, 310, 640, 335), fill="#b7b7a4")  # pavement
    draw.rectangle((380, 60, 640, 315), fill="#c9b79c")  # house
    for x in (420, 520):
        draw.rectangle((x, 100, x + 60, 180), fill="#44546a", outline="white", width=5)

    # The sign: a red octagon with a white edge on a pole.
    draw.rectangle((186, 250, 198, 420), fill="#6d6d6d")
    for radius, color in ((92, "white"), (84, "#b3121d")):
        draw.regular_polygon((192, 165, radius), 8, rotation=22, fill=color)
    font = ImageFont.load_default(58)
    draw.text((192, 165), "STOP", fill="white", font=font, anchor="mm")

    # A ball and a traffic light.
    draw.ellipse((420, 380, 500, 460), fill="#e8751a", outline="#8a3d05", width=3)
    draw.arc((380, 380, 470, 460), -70, 70, fill="#8a3d05", width=3)
    draw.rectangle((560, 190, 600, 300), fill="#1d1d1d", outline="#3d3d3d", width=3)
    for row, color in enumerate(("#ff3b30", "#4d3d00", "#0d3d14")):
        draw.ellipse((567, 197 + 34 * row, 593, 223 + 34 * row), fill=color)
    draw.rectangle((577, 300, 583, 400), fill="#4d4d4d")
    return np.asarray(picture)
