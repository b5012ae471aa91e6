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
from PIL import Image

from ada3d_ros.geometry.boxes import corners
from ada3d_ros.types import Box3D, RgbdFrame

MAX_VIEWS = 12
VIEW_WIDTH_PX = 240
MAP_WIDTH_PX = 560
TRUE_COLOUR, FOUND_COLOUR = "#888", "#0a7d33"

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
    """One question and what came of it. latency_ms: stage -> milliseconds; stages that did not run are absent.

    truth: the true answer, empty where none is known; right: whether the answer agrees with it, None where nobody can say.
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
    """A phrase, its true box (None: there is no such object) and the one found for it (None: none), with their IoU."""

    phrase: str
    true: Box3D | None
    found: Box3D | None
    iou: float


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> str:
    def cell(tag: str, index: int, text: str) -> str:
        kind = ' class="number"' if index >= numbers_from else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    head = "".join(cell("th", i, html.escape(t)) for i, t in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", i, t) for i, t in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _thumbnail(rgb: npt.NDArray[np.uint8]) -> str:
    image = Image.fromarray(rgb)
    image.thumbnail((VIEW_WIDTH_PX, VIEW_WIDTH_PX))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _views(frames: Sequence[RgbdFrame]) -> str:
    chosen = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, min(MAX_VIEWS, len(frames))).astype(int))]
    start_ns = frames[0].stamp_ns
    figures = "".join(
        f'<figure><img src="{_thumbnail(f.rgb)}" alt="view"><figcaption>{(f.stamp_ns - start_ns) / 1e9:.1f} s</figcaption></figure>'
        for f in chosen
    )
    return f'<div class="views">{figures}</div>'


def map_svg(frames: Sequence[RgbdFrame], true_boxes: Sequence[Box3D], found_boxes: Sequence[Box3D]) -> str:
    """The room from above (x right, y up, metres): camera path with viewing directions, true boxes with their labels, found boxes."""
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

    shapes = [f'<polyline points="{" ".join(map(pixel, path))}" fill="none" stroke="#36c" stroke-width="2"/>']
    for frame in frames:
        eye, forward = frame.T_world_cam[:2, 3], frame.T_world_cam[:2, 2]
        shapes.append(f'<polyline points="{pixel(eye)} {pixel(eye + 0.25 * forward)}" stroke="#9bd" fill="none"/>')
    for outline, colour in outlines:
        around = outline[np.argsort(np.arctan2(*(outline - outline.mean(axis=0)).T[::-1]))]
        shapes.append(
            f'<polygon points="{" ".join(map(pixel, around))}" fill="{colour}" fill-opacity="0.15" stroke="{colour}" stroke-width="2"/>'
        )
    for box in true_boxes:
        x, y = pixel(box.center_m[:2]).split(",")
        label = html.escape(box.label)
        shapes.append(f'<text x="{x}" y="{y}" font-size="12" text-anchor="middle">{label}</text>')
    height = (high[1] - low[1]) * scale
    return f'<svg viewBox="0 0 {MAP_WIDTH_PX} {height:.0f}" width="{MAP_WIDTH_PX}" role="img" aria-label="map">{"".join(shapes)}</svg>'


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
) -> Path:
    """Write the HTML file; returns its path. `warning` is shown first; `facts` last."""
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
                [html.escape(q.question), *(f"{q.latency_ms[s]:.1f}" if s in q.latency_ms else "" for s in stages)]
                for q in questions
            ],
        ),
        "<h2>The room from above</h2>",
        "<p>Blue: the camera's path and where it looked. Grey: the true boxes. Green: the boxes that the model grounded and depth refined.</p>",
        map_svg(frames, true_boxes, [c.found for c in compared if c.found is not None]),
        "<h2>Boxes</h2>",
        _table(
            ["asked for", "true centre, m", "true size, m", "found centre, m", "found size, m", "IoU"],
            [
                [
                    html.escape(c.phrase),
                    *_box_text(c.true, "not in the room"),
                    *_box_text(c.found, "none"),
                    f"{c.iou:.2f}" if c.found is not None else "",
                ]
                for c in compared
            ],
        ),
        "<h2>What the robot saw</h2>",
        _views(frames),
        "<h2>This run</h2>",
        _table(["what", "value"], [[html.escape(k), html.escape(v)] for k, v in facts.items()], numbers_from=9),
    ]
    document = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{"".join(parts)}</body></html>\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document, encoding="utf-8")
    return path
