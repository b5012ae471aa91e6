"""A keyframe's picture with boxes and their names drawn over it, by OpenCV.

Of a box those parts of its edges are drawn that the view shows: nothing behind the camera, nothing
behind what depth measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ada3d_ros.geometry.visible_edges import visible_edges
from ada3d_ros.types import Box3D, RgbdFrame

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

ANSWER_RGB: Color = (60, 220, 90)
OBJECT_RGB: Color = (90, 160, 255)
INK_RGB: Color = (10, 10, 10)
SPECK = 0.15  # of the longest line of a box: shorter ones are not drawn
WIDTH_OF_LINE = 320  # px of the picture for each px that a line is wide
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45  # at 640 px
PAD_PX = 3
SHIFT = 4  # OpenCV takes sixteenths of a pixel


class Drawn(NamedTuple):
    """A box, what stands above it, and its colour."""

    box: Box3D
    text: str
    rgb: Color


def annotate(frame: RgbdFrame, boxes: Sequence[Drawn]) -> Image:
    """The frame's picture (H, W, 3) uint8 with the boxes that it shows; later ones lie over earlier
    ones, names never over each other where there is room.
    """
    picture = frame.rgb.copy()
    width = frame.intrinsics.width
    shown = [(one, _lines(frame, one.box)) for one in boxes]
    for one, edges in shown:
        for edge in edges:
            start, stop = np.round(edge * 2**SHIFT).astype(int).tolist()
            thick = max(round(width / WIDTH_OF_LINE), 1)
            cv2.line(picture, start, stop, one.rgb, thick, cv2.LINE_AA, SHIFT)
    taken: list[tuple[int, int, int, int]] = []
    for one, edges in shown:
        if edges and one.text:
            points = np.concatenate(edges)
            _label(picture, one, points[points[:, 1].argmin()], taken)
    return picture


def _lines(frame: RgbdFrame, box: Box3D) -> list[npt.NDArray[np.float64]]:
    """The visible edges (2, 2), without specks that gaps in the depth picture let through."""
    edges = visible_edges(frame, box)
    lengths_px = [float(np.linalg.norm(edge[1] - edge[0])) for edge in edges]
    least_px = SPECK * max(lengths_px, default=0.0)
    return [edge for edge, length in zip(edges, lengths_px, strict=True) if length >= least_px]


def _label(
    picture: Image,
    one: Drawn,
    above_px: npt.NDArray[np.float64],
    taken: list[tuple[int, int, int, int]],
) -> None:
    """The text on a chip of the box's colour above a point, inside the picture, below what is
    taken already.
    """
    height, width = picture.shape[:2]
    scale = FONT_SCALE * max(width, 320) / 640
    text = one.text.encode("ascii", "replace").decode()  # the font has no other letters
    (long, high), below = cv2.getTextSize(text, FONT, scale, 1)
    size = long + 2 * PAD_PX, high + below + 2 * PAD_PX
    left = int(np.clip(above_px[0] - size[0] / 2, 0, max(width - size[0], 0)))
    top = int(np.clip(above_px[1] - size[1] - PAD_PX, 0, max(height - size[1], 0)))
    for _ in taken:
        under = [t for t in taken if _overlap((left, top, *size), t)]
        if not under:
            break
        top = max(t[1] + t[3] for t in under)
    taken.append((left, top, *size))
    cv2.rectangle(picture, (left, top), (left + size[0], top + size[1]), one.rgb, cv2.FILLED)
    at = left + PAD_PX, top + PAD_PX + high
    cv2.putText(picture, text, at, FONT, scale, INK_RGB, 1, cv2.LINE_AA)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))
