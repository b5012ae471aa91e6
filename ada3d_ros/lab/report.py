"""A report of one run as a single HTML file that opens offline.

Views, map, answers, boxes and times. Takes plain values; knows nothing of ROS or the model. The
page is report.html.j2, the map in it map.svg.j2; jinja2 escapes every value that goes into them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from ada3d_ros.geometry.boxes import corners
from ada3d_ros.geometry.camera import project_points
from ada3d_ros.types import Box3D, RgbdFrame

MAX_VIEWS = 12
VIEW_WIDTH_PX = 240
MAP_WIDTH_PX = 560
MAP_MARGIN_M = 0.5
HEADING_M = 0.25  # length of a viewing direction on the map
LABEL_PX = (75.0, 14.0)  # room that a label on the map takes
TRUE_COLOUR, FOUND_COLOUR, KEPT_COLOUR = "#888", "#0a7d33", "#ffd400"
MIN_DEPTH_M = 0.05  # what is nearer to the image plane is not drawn
HIDDEN_M = 0.3  # a token this far beyond what depth measures is hidden
# Of geometry.boxes.corners: bottom, top, and what joins them.
EDGES = [(i, (i + 1) % 4) for i in range(4)]
EDGES += [(i + 4, j + 4) for i, j in EDGES] + [(i, i + 4) for i in range(4)]
Points = npt.NDArray[np.float64]

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """One question and what came of it.

    latency_ms: stage -> milliseconds; stages that did not run are absent. truth: the true answer,
    empty where none is known; right: whether the answer agrees with it, None where nobody can say.
    """

    question: str
    text: str
    error: str
    latency_ms: dict[str, float]
    tokens: str
    truth: str = ""
    right: bool | None = None


@dataclass(frozen=True, eq=False, slots=True)
class ComparedBox:
    """A phrase, its true box (None: no such object), the one found (None: none), and their IoU."""

    phrase: str
    true: Box3D | None
    found: Box3D | None
    iou: float


@dataclass(frozen=True, eq=False, slots=True)
class RunReport:
    """What a report shows.

    warning: shown first, empty for none; facts: shown last. kept_xyz_m (K, 3), metres, world: where
    the spatial tokens lie that the last layer kept for the question `kept_for` (empty: not drawn).
    """

    title: str
    warning: str
    frames: Sequence[RgbdFrame]
    true_boxes: Sequence[Box3D]
    compared: Sequence[ComparedBox]
    questions: Sequence[AnsweredQuestion]
    facts: Mapping[str, str]
    kept_for: str = ""
    kept_xyz_m: Points = field(default_factory=lambda: np.empty((0, 3)))

    @property
    def found_boxes(self) -> list[Box3D]:
        return [c.found for c in self.compared if c.found is not None]


@dataclass(frozen=True, eq=False, slots=True)
class RoomMap:
    """The room from above in pixels: x right, y down, as SVG has it.

    path (F, 2): the camera's; headings: from each camera (2, 2) where it looked; outlines: of the
    boxes (4, 2) with their colour; kept (K, 2): tokens; labels: of the true boxes, with places.
    """

    width_px: int
    height_px: float
    path: Points
    headings: list[Points]
    outlines: list[tuple[Points, str]]
    kept: Points
    labels: list[tuple[str, Points]]
    kept_colour: str = KEPT_COLOUR


def draw_map(report: RunReport) -> RoomMap:
    """The room from above (x right, y up, metres) fitted into MAP_WIDTH_PX."""
    # Extent of the camera's path and all boxes.
    path = np.array([f.T_world_cam[:2, 3] for f in report.frames])
    forward = np.array([f.T_world_cam[:2, 2] for f in report.frames])
    outlines = [(corners(box)[:4, :2], TRUE_COLOUR) for box in report.true_boxes]
    outlines += [(corners(box)[:4, :2], FOUND_COLOUR) for box in report.found_boxes]
    points = np.concatenate([path, *(outline for outline, _ in outlines)])
    low, high = points.min(axis=0) - MAP_MARGIN_M, points.max(axis=0) + MAP_MARGIN_M
    scale = MAP_WIDTH_PX / (high[0] - low[0])

    def to_pixels(xy_m: Points) -> Points:
        pixels: Points = (xy_m - (low[0], high[1])) * (scale, -scale)
        return pixels

    # Everything at that scale.
    centres = [to_pixels(box.center_m[:2]) for box in report.true_boxes]
    labels = [box.label for box in report.true_boxes]
    ends = path + HEADING_M * forward
    return RoomMap(
        width_px=MAP_WIDTH_PX,
        height_px=float(high[1] - low[1]) * scale,
        path=to_pixels(path),
        headings=[to_pixels(np.stack(ray)) for ray in zip(path, ends, strict=True)],
        outlines=[(to_pixels(outline), colour) for outline, colour in outlines],
        kept=to_pixels(report.kept_xyz_m[:, :2]),
        labels=list(zip(labels, _place_labels(centres), strict=True)),
    )


def _place_labels(centres: Sequence[Points]) -> list[Points]:
    """Where the labels go: what stands on a table has its label below the table's."""
    placed: list[Points] = []
    for centre in centres:
        place = centre.copy()
        while any((np.abs(place - other) < LABEL_PX).all() for other in placed):
            place[1] += LABEL_PX[1]
        placed.append(place)
    return placed


def _views(report: RunReport) -> list[tuple[str, float]]:
    """Up to MAX_VIEWS views over the whole recording: data URLs, seconds since the first."""
    frames = report.frames
    spread = np.linspace(0, len(frames) - 1, min(MAX_VIEWS, len(frames))).astype(int)
    chosen = [frames[i] for i in np.unique(spread)]
    return [
        (
            _thumbnail(frame, report.found_boxes, report.kept_xyz_m),
            (frame.stamp_ns - frames[0].stamp_ns) / 1e9,
        )
        for frame in chosen
    ]


def _thumbnail(frame: RgbdFrame, found_boxes: Sequence[Box3D], kept_xyz_m: Points) -> str:
    """The view as a data URL, found boxes and kept tokens drawn into it."""
    scale = VIEW_WIDTH_PX / frame.intrinsics.width
    size = (VIEW_WIDTH_PX, round(frame.intrinsics.height * scale))
    image = Image.fromarray(frame.rgb).resize(size)
    pen = ImageDraw.Draw(image)

    # Tokens that nothing hides.
    for x, y in _in_view(frame, kept_xyz_m) * scale:
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=KEPT_COLOUR, outline="black")

    # Boxes that lie before the camera as a whole.
    for box in found_boxes:
        uv, z = _project(frame, corners(box))
        if (z > MIN_DEPTH_M).all():
            for i, j in EDGES:
                pen.line((*(uv[i] * scale), *(uv[j] * scale)), fill=FOUND_COLOUR, width=2)

    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _project(frame: RgbdFrame, xyz_m: Points) -> tuple[Points, Points]:
    """Pixels (N, 2) and depth (N,) of world points (N, 3)."""
    K, T = torch.from_numpy(frame.intrinsics.matrix), torch.from_numpy(frame.T_world_cam.copy())
    uv, z = project_points(torch.from_numpy(xyz_m), K, T)
    return uv.numpy(), z.numpy()


def _in_view(frame: RgbdFrame, xyz_m: Points) -> Points:
    """Pixels (K, 2) of the points that nothing hides: depth there is not clearly nearer."""
    # Those that fall into the image.
    uv, z = _project(frame, xyz_m)
    column, row = np.round(uv).T
    width, height = frame.intrinsics.width, frame.intrinsics.height
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height) & (z > MIN_DEPTH_M)
    uv, z = uv[inside], z[inside]

    # No reading hides nothing: NaN compares false.
    reading = frame.depth_m[row[inside].astype(int), column[inside].astype(int)]
    visible: Points = uv[~(reading < z - HIDDEN_M)]
    return visible


def write_report(path: Path, report: RunReport) -> Path:
    """Write the HTML file, its folder too; returns its path."""
    stages = dict.fromkeys(stage for q in report.questions for stage in q.latency_ms)
    document = TEMPLATES.get_template("report.html.j2").render(
        report=report,
        stages=list(stages),
        views=_views(report),
        map=draw_map(report),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document + "\n", encoding="utf-8")
    return path
