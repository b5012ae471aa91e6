"""Views with boxes and names drawn over them: shapes for SVG above a JPEG picture.

Edges of a box are drawn where the depth picture shows nothing before them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ada3d_ros.geometry.boxes import corners
from ada3d_ros.geometry.depth_support import readings_in_box
from ada3d_ros.geometry.sparse_points import project_to_frame
from ada3d_ros.geometry.visible_edges import MIN_DEPTH_M, is_visible, visible_edges
from ada3d_ros.lab.report.content import DetectedView, Evidence, Points
from ada3d_ros.lab.report.labels import Label, place_labels
from ada3d_ros.types import Box3D, RgbdFrame

MAX_VIEWS = 12
VIEW_PX, HERO_PX, CROP_PX = 384, 560, 320  # widths that pictures are stored with
HIGHEST_PX = 1000  # of a picture of a whole view: a narrow one is made narrower
HERO_FONT, CROP_FONT = 19.0, 17.0  # that labels are kept apart for: as large as a phone shows them
ASPECT = 3 / 4  # height to width of hero and crops
TOKEN_HIDDEN_M = 0.3  # a token: it lies within its voxel
STRIDE_PX = 4
ROOM_AROUND = 0.3  # of the size of what a crop shows
LEAST_SHARE = 0.3  # of a view's width that a crop takes at least
ENOUGH = 200  # readings of a box: more do not make a view a better hero
SEEN = 6  # readings of a box that make it seen


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """An image as a data URL and what lies over it, in units of the picture.

    edges: (2, 2) lines with a class each; dots (K, 2): tokens; joins: (2, 2) lines between boxes.
    """

    url: str
    width: float
    height: float
    edges: list[tuple[Points, str]]
    dots: Points
    joins: list[Points]
    labels: list[Label]
    description: str


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a view, px, that is shown `width` units wide."""

    left: float
    top: float
    size: tuple[float, float]
    width: float

    @property
    def scale(self) -> float:
        return self.width / self.size[0]

    @property
    def height(self) -> float:
        return self.size[1] * self.scale

    def __call__(self, uv_px: Points) -> Points:
        placed: Points = (uv_px - (self.left, self.top) + 0.5) * self.scale
        return placed


def whole(frame: RgbdFrame, width: float) -> Window:
    """The view as a picture of this width, narrower where it would be higher than HIGHEST_PX."""
    camera = frame.intrinsics
    narrowest = min(width, HIGHEST_PX * camera.width / camera.height)
    return Window(0.0, 0.0, (float(camera.width), float(camera.height)), narrowest)


def encode(frame: RgbdFrame, window: Window) -> str:
    """The part of the view as a JPEG in a data URL."""
    left, top = round(window.left), round(window.top)
    right, bottom = round(window.left + window.size[0]), round(window.top + window.size[1])
    image = Image.fromarray(frame.rgb).crop((left, top, right, bottom))
    size = max(1, round(window.width)), max(1, round(window.height))
    image = image.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def draw_views(
    frames: Sequence[RgbdFrame], found: Sequence[Box3D], kept_xyz_m: Points
) -> list[Picture]:
    """Up to MAX_VIEWS views over the whole recording, with boxes and kept tokens."""
    spread = np.linspace(0, len(frames) - 1, min(MAX_VIEWS, len(frames))).astype(int)
    views = []
    for number, i in enumerate(np.unique(spread)):
        frame = frames[i]
        window = whole(frame, VIEW_PX)
        seconds = (frame.stamp_ns - frames[0].stamp_ns) / 1e9
        names = ", ".join(box.label for box in found if _is_seen(frame, box)) or "no box"
        what = f"View {number + 1}, {seconds:.1f} s, in it: {names}"
        picture = overlay(frame, window, Evidence(tuple(found)), CROP_FONT, what)
        views.append(replace(picture, dots=window(_visible(frame, kept_xyz_m))))
    return views


def draw_detections(views: Sequence[DetectedView]) -> list[Picture]:
    """Each view with the boxes that a detector gives in it, named, with their scores."""
    pictures = []
    for view in views:
        window = whole(view.frame, HERO_PX)
        edges, texts, anchors = [], [], []
        for each in view.detections:
            x0, y0, x1, y1 = each.box_px
            at = window(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) - 0.5)
            edges += [(np.stack((at[i], at[(i + 1) % 4])), "seen") for i in range(4)]
            texts.append(f"{each.label} {each.score:.2f}")
            anchors.append(at.mean(axis=0))
        names = ", ".join(texts) or "nothing"
        size = window.width, window.height
        pictures.append(
            Picture(
                url=encode(view.frame, window),
                width=window.width,
                height=window.height,
                edges=edges,
                dots=np.empty((0, 2)),
                joins=[],
                labels=place_labels(texts, anchors, HERO_FONT, size),
                description=f"What the detector sees: {names}",
            )
        )
    return pictures


def draw_hero(frames: Sequence[RgbdFrame], found: Sequence[Box3D]) -> Picture:
    """The view that shows most of what was found, cut to ASPECT around it."""
    shown = [sum(min(_worth(frame, box), ENOUGH) for box in found) for frame in frames]
    frame = frames[int(np.argmax(shown))] if found else frames[0]
    camera = frame.intrinsics

    # As wide as the view; from top to bottom around the boxes.
    height = min(ASPECT * camera.width, float(camera.height))
    seen = [box for box in found if _is_seen(frame, box)]
    rows = [_extent(frame, box)[:, 1] for box in seen]
    middle = float(np.mean([np.clip(r, 0, camera.height).mean() for r in rows])) if rows else 0.0
    top = float(np.clip(middle - height / 2, 0.0, camera.height - height))
    window = Window(0.0, top, (float(camera.width), height), HERO_PX)
    names = ", ".join(box.label for box in seen) or "nothing"
    what = f"A view of the room; found in it: {names}"
    return overlay(frame, window, Evidence(tuple(seen)), HERO_FONT, what)


def draw_crop(frames: Sequence[RgbdFrame], evidence: Evidence) -> Picture | None:
    """What an answer rests on, cut out of the view that shows all of it best; None where no view
    shows all of it.
    """
    shown = evidence.shown
    if not shown:
        return None
    seen = [frame for frame in frames if all(_is_seen(frame, box) for box in shown)]
    if not seen:
        return None
    least = [min(_worth(frame, box) for box in shown) for frame in seen]
    best = int(np.argmax(least))
    frame = seen[best]
    window = _window_around(frame, shown)
    what = "Evidence in a view: " + ", ".join(evidence.names)
    return overlay(frame, window, evidence, CROP_FONT, what)


def draw_beside(frames: Sequence[RgbdFrame], evidence: Evidence) -> Picture | None:
    """The evidence's boxes in the view that shows them best, and its places there, even where
    nothing stands; None where no view shows a box.
    """
    worth = [sum(_worth(frame, box) for box in evidence.boxes) for frame in frames]
    if not any(worth):
        return None
    frame = frames[int(np.argmax(worth))]
    window = _window_around(frame, evidence.shown)
    what = "Evidence in a view: " + ", ".join(evidence.names)
    return overlay(frame, window, evidence, CROP_FONT, what, supported=False)


def _window_around(frame: RgbdFrame, boxes: Sequence[Box3D]) -> Window:
    """The boxes with room around them, at ASPECT, inside the view."""
    camera = frame.intrinsics
    extents = np.concatenate([_extent(frame, box) for box in boxes])
    full = np.array([camera.width, camera.height], dtype=float)
    low, high = np.clip(extents.min(0), 0, full), np.clip(extents.max(0), 0, full)
    wanted = (high - low) * (1 + 2 * ROOM_AROUND)
    width = max(wanted[0], wanted[1] / ASPECT, LEAST_SHARE * full[0])
    width = min(width, full[0], full[1] / ASPECT)
    size = np.array([width, ASPECT * width])
    left, top = np.clip((low + high) / 2 - size / 2, 0.0, full - size)
    return Window(float(left), float(top), (float(size[0]), float(size[1])), CROP_PX)


def overlay(
    frame: RgbdFrame,
    window: Window,
    evidence: Evidence,
    font: float,
    description: str,
    supported: bool = True,
) -> Picture:
    """The view, edges and names of boxes that are seen in it, and the evidence's lines. supported:
    of those alone that depth readings lie in.
    """
    edges, texts, anchors, kinds = [], [], [], []
    for number, (box, name) in enumerate(zip(evidence.shown, evidence.names, strict=True)):
        if supported and not _is_seen(frame, box):
            continue
        kind = "place" if number < len(evidence.places) else "found"
        edges += [(window(line), kind) for line in visible_edges(frame, box)]
        uv, _ = project_to_frame(frame, box.center_m[None].copy())
        texts.append(name)
        anchors.append(window(uv[0]))
        kinds.append(kind)

    # Lines between boxes, with their value.
    joins = [_join(frame, window, evidence, pair) for pair in evidence.joins]
    if joins and evidence.join_label:
        texts.append(evidence.join_label)
        anchors.append(joins[0].mean(axis=0))
        kinds.append("value")
    return Picture(
        url=encode(frame, window),
        width=window.width,
        height=window.height,
        edges=edges,
        dots=np.empty((0, 2)),
        joins=joins,
        labels=place_labels(texts, anchors, font, (window.width, window.height), kinds),
        description=description,
    )


def nearest_points(a: Box3D, b: Box3D) -> Points:
    """(2, 3): points of the world-axis-aligned boxes around a and b that lie nearest to each
    other; where the boxes share a range of an axis, in the middle of it.
    """
    low_a, high_a = corners(a).min(0), corners(a).max(0)
    low_b, high_b = corners(b).min(0), corners(b).max(0)
    shared = (np.maximum(low_a, low_b) + np.minimum(high_a, high_b)) / 2
    apart = np.maximum(low_a, low_b) > np.minimum(high_a, high_b)
    at_a = np.where(apart, np.where(low_b > high_a, high_a, low_a), shared)
    at_b = np.where(apart, np.where(low_b > high_a, low_b, high_b), shared)
    return np.stack((at_a, at_b))


def _join(frame: RgbdFrame, window: Window, evidence: Evidence, pair: tuple[int, int]) -> Points:
    ends = nearest_points(evidence.boxes[pair[0]], evidence.boxes[pair[1]])
    uv, _ = project_to_frame(frame, ends)
    return window(uv)


# -- what is seen


def _extent(frame: RgbdFrame, box: Box3D) -> Points:
    """Pixels (8, 2) of the corners; those at the camera's plane or behind it are left out."""
    uv, z = project_to_frame(frame, corners(box))
    before = uv[z > MIN_DEPTH_M]
    return before if len(before) else uv


def _readings(frame: RgbdFrame, box: Box3D) -> int:
    return len(readings_in_box(frame, box, STRIDE_PX))


def _worth(frame: RgbdFrame, box: Box3D) -> float:
    """How well a view shows a box: readings, less where a part of it is out of view."""
    uv, z = project_to_frame(frame, corners(box))
    size = np.array([frame.intrinsics.width, frame.intrinsics.height])
    inside = ((uv >= 0) & (uv < size)).all(axis=1) & (z > MIN_DEPTH_M)
    return _readings(frame, box) * float(inside.mean()) ** 4


def _is_seen(frame: RgbdFrame, box: Box3D) -> bool:
    return _readings(frame, box) >= SEEN


def _visible(frame: RgbdFrame, xyz_m: Points) -> Points:
    """Pixels (K, 2) of the points that nothing hides."""
    uv, z = project_to_frame(frame, xyz_m)
    seen: Points = uv[is_visible(frame, uv, z, TOKEN_HIDDEN_M)]
    return seen
