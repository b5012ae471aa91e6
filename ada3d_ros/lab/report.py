"""A report of one run as a single HTML file that opens offline: views, map, answers, boxes, times.

Takes plain values; knows nothing of ROS or the model.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
LABEL_PX = (75.0, 14.0)  # room that a label on the map takes
TRUE_COLOUR, FOUND_COLOUR, KEPT_COLOUR = "#888", "#0a7d33", "#ffd400"
MIN_DEPTH_M = 0.05  # what is nearer to the image plane is not drawn
HIDDEN_M = 0.3  # a token this far behind what depth measures is hidden
EDGES = (
    (0, 1),
    (1, 2),
    (2, 3),
    (3, 0),
    (4, 5),
    (5, 6),
    (6, 7),
    (7, 4),
    (0, 4),
    (1, 5),
    (2, 6),
    (3, 7),
)  # of geometry.boxes.corners
Points = npt.NDArray[np.float64]
NO_POINTS: Points = np.empty((0, 3))

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.warning { background: #fff3cd; border-left: 4px solid #d39e00; padding: .6rem 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.views { display: flex; flex-wrap: wrap; gap: 6px; } .views figure { margin: 0; } .views figcaption { font-size: 12px; color: #666; }
.error { color: #a33; } .right { color: #0a7d33; } .answer { white-space: pre-wrap; overflow-wrap: anywhere; } code { background: #f3f3f3; padding: 0 .2em; }
"""


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """One question and what came of it. latency_ms: stage -> milliseconds; stages that did not run
    are absent.

    truth: the true answer, empty where none is known; right: whether the answer agrees with it,
    None where nobody can say.
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
    """A phrase, its true box (None: there is no such object) and the one found for it (None: none),
    with their IoU.
    """

    phrase: str
    true: Box3D | None
    found: Box3D | None
    iou: float


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> str:
    def cell(tag: str, index: int, text: str) -> str:
        kind = ' class="number"' if index >= numbers_from else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    head = "".join(cell("th", i, html.escape(t)) for i, t in enumerate(header))
    body = "".join(
        "<tr>" + "".join(cell("td", i, t) for i, t in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _thumbnail(frame: RgbdFrame, found_boxes: Sequence[Box3D], kept_xyz_m: Points) -> str:
    """The view as a data URL, found boxes and kept tokens drawn into it."""
    scale = VIEW_WIDTH_PX / frame.intrinsics.width
    image = Image.fromarray(frame.rgb).resize(
        (VIEW_WIDTH_PX, round(frame.intrinsics.height * scale))
    )
    pen = ImageDraw.Draw(image)
    for x, y in _in_view(frame, kept_xyz_m) * scale:
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=KEPT_COLOUR, outline="black")
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
    """Pixels (K, 2) of the points that nothing hides: depth measures nothing clearly nearer there."""
    uv, z = _project(frame, xyz_m)
    column, row = np.round(uv).T
    camera = frame.intrinsics
    inside = (
        (z > MIN_DEPTH_M)
        & (column >= 0)
        & (row >= 0)
        & (column < camera.width)
        & (row < camera.height)
    )
    uv, z = uv[inside], z[inside]
    reading = frame.depth_m[row[inside].astype(int), column[inside].astype(int)]
    visible: Points = uv[~(reading < z - HIDDEN_M)]  # no reading hides nothing
    return visible


def _views(frames: Sequence[RgbdFrame], found_boxes: Sequence[Box3D], kept_xyz_m: Points) -> str:
    chosen = [
        frames[i]
        for i in np.unique(np.linspace(0, len(frames) - 1, min(MAX_VIEWS, len(frames))).astype(int))
    ]
    start_ns = frames[0].stamp_ns
    figures = "".join(
        f'<figure><img src="{_thumbnail(f, found_boxes, kept_xyz_m)}"'
        f' alt="view"><figcaption>{(f.stamp_ns - start_ns) / 1e9:.1f} s</figcaption></figure>'
        for f in chosen
    )
    return f'<div class="views">{figures}</div>'


def map_svg(
    frames: Sequence[RgbdFrame],
    true_boxes: Sequence[Box3D],
    found_boxes: Sequence[Box3D],
    kept_xyz_m: Points = NO_POINTS,
) -> str:
    """The room from above (x right, y up, metres): camera path with viewing directions, true boxes
    with their labels, found boxes, kept tokens (K, 3).
    """
    path = np.array([f.T_world_cam[:2, 3] for f in frames])
    outlines = [
        (corners(box)[:, :2], colour)
        for boxes, colour in ((true_boxes, TRUE_COLOUR), (found_boxes, FOUND_COLOUR))
        for box in boxes
    ]
    points = np.concatenate([path, *(outline for outline, _ in outlines)])
    low, high = points.min(axis=0) - 0.5, points.max(axis=0) + 0.5
    scale = MAP_WIDTH_PX / (high[0] - low[0])

    def pixel(xy: npt.NDArray[np.float64]) -> str:
        return f"{(xy[0] - low[0]) * scale:.1f},{(high[1] - xy[1]) * scale:.1f}"

    shapes = [
        f'<polyline points="{" ".join(map(pixel, path))}" fill="none" stroke="#36c"'
        ' stroke-width="2"/>'
    ]
    for frame in frames:
        eye, forward = frame.T_world_cam[:2, 3], frame.T_world_cam[:2, 2]
        shapes.append(
            f'<polyline points="{pixel(eye)} {pixel(eye + 0.25 * forward)}" stroke="#9bd"'
            ' fill="none"/>'
        )
    for outline, colour in outlines:
        around = outline[np.argsort(np.arctan2(*(outline - outline.mean(axis=0)).T[::-1]))]
        shapes.append(
            f'<polygon points="{" ".join(map(pixel, around))}" fill="{colour}" fill-opacity="0.15"'
            f' stroke="{colour}" stroke-width="2"/>'
        )
    for xyz in kept_xyz_m:
        x, y = map(float, pixel(xyz[:2]).split(","))
        shapes.append(
            f'<circle cx="{x}" cy="{y}" r="3" fill="{KEPT_COLOUR}" stroke="#333"'
            ' stroke-width="0.6"/>'
        )
    placed: list[tuple[float, float]] = []
    for box in true_boxes:
        x, y = map(float, pixel(box.center_m[:2]).split(","))
        while any(abs(x - u) < LABEL_PX[0] and abs(y - v) < LABEL_PX[1] for u, v in placed):
            y += LABEL_PX[1]  # what stands on a table has its label below the table's
        placed.append((x, y))
        label = html.escape(box.label)
        shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="middle">{label}</text>'
        )
    height = (high[1] - low[1]) * scale
    return (
        f'<svg viewBox="0 0 {MAP_WIDTH_PX} {height:.0f}" width="{MAP_WIDTH_PX}" role="img"'
        f' aria-label="map">{"".join(shapes)}</svg>'
    )


def _box_text(box: Box3D | None, without: str) -> list[str]:
    """Centre and size of a box; `without` where there is none."""
    if box is None:
        return [without, ""]
    return [", ".join(f"{v:.2f}" for v in box.center_m), ", ".join(f"{v:.2f}" for v in box.size_m)]


def _verdict(right: bool | None) -> str:
    if right is None:
        return ""
    return '<span class="right">right</span>' if right else '<span class="error">wrong</span>'


def write_report(
    path: Path,
    title: str,
    warning: str,
    frames: Sequence[RgbdFrame],
    true_boxes: Sequence[Box3D],
    compared: Sequence[ComparedBox],
    questions: Sequence[AskedQuestion],
    facts: dict[str, str],
    kept: tuple[str, Points] = ("", NO_POINTS),
) -> Path:
    """Write the HTML file; returns its path. `warning` is shown first; `facts` last. kept: a
    question, and where (K, 3) the spatial tokens lie that the last layer kept for it.
    """
    found = [c.found for c in compared if c.found is not None]
    stages = list(dict.fromkeys(stage for q in questions for stage in q.latency_ms))
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="warning">{html.escape(warning)}</p>' if warning else "",
        "<h2>Questions and answers</h2>",
        _table(
            ["question", "answer", "true answer", ""],
            [
                [
                    html.escape(q.question),
                    f'<div class="answer">{html.escape(q.text)}</div>'
                    + (f'<div class="error">{html.escape(q.error)}</div>' if q.error else "")
                    + f"<small>{html.escape(q.tokens)}</small>",
                    html.escape(q.truth),
                    _verdict(q.right),
                ]
                for q in questions
            ],
            numbers_from=9,
        ),
        "<h2>Where the time went, milliseconds</h2>",
        _table(
            ["question", *stages],
            [
                [
                    html.escape(q.question),
                    *(f"{q.latency_ms[s]:.1f}" if s in q.latency_ms else "" for s in stages),
                ]
                for q in questions
            ],
        ),
        "<h2>The room from above</h2>",
        "<p>Blue: the camera's path and where it looked. Grey: the true boxes. Green: the boxes"
        " that the model grounded and depth refined."
        + (
            f" Yellow: the {len(kept[1])} spatial tokens that the last layer kept for"
            f" <i>{html.escape(kept[0])}</i>."
            if kept[0]
            else ""
        )
        + "</p>",
        map_svg(frames, true_boxes, found, kept[1]),
        "<h2>Boxes</h2>",
        _table(
            [
                "asked for",
                "true centre, m",
                "true size, m",
                "found centre, m",
                "found size, m",
                "IoU",
            ],
            [
                [
                    html.escape(c.phrase),
                    *_box_text(c.true, "not in the room"),
                    *_box_text(c.found, "none"),
                    f"{c.iou:.2f}" if c.true is not None and c.found is not None else "",
                ]
                for c in compared
            ],
        ),
        "<h2>What the robot saw</h2>",
        _views(frames, found, kept[1]),
        "<h2>This run</h2>",
        _table(
            ["what", "value"],
            [[html.escape(k), html.escape(v)] for k, v in facts.items()],
            numbers_from=9,
        ),
    ]
    document = (
        '<!doctype html><html lang="en"><head><meta'
        f' charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{"".join(parts)}</body></html>\n'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document, encoding="utf-8")
    return path
