"""The room from above, as shapes to draw: walls, camera, boxes, tokens, labels, axes, scale."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.geometry.boxes import corners
from ada3d_ros.lab.report.content import Evidence, Points, RunReport
from ada3d_ros.lab.report.labels import Label, place_labels
from ada3d_ros.types import Box3D

WIDTH = 560.0  # units of the picture
SMALL_WIDTH = 320.0  # of a picture of evidence
DOTS_WIDTH = 200.0  # of a layer's tokens
FONT, SMALL_FONT = 19.0, 22.0  # that labels are kept apart for: the largest they are shown
MARGIN_M = 0.45
HEADING_M = 0.25  # length of a viewing direction


@dataclass(frozen=True, eq=False, slots=True)
class Outline:
    """A box from above: corners (4, 2), and a class of the style sheet."""

    points: Points
    kind: str


@dataclass(frozen=True, eq=False, slots=True)
class RoomMap:
    """Everything in units of the picture: x right, y down, as SVG has it.

    walls (4, 2), None where unknown; ticks: along x and along y, place and metres; metre: the
    length of one metre; path (F, 2): the camera's; headings (2, 2): from each camera where it
    looked; arrows (2, 2): lines of evidence.
    """

    width: float
    height: float
    metre: float
    walls: Points | None
    ticks: tuple[list[tuple[float, str]], list[tuple[float, str]]]
    path: Points
    headings: list[Points]
    outlines: list[Outline]
    kept: Points
    labels: list[Label]
    arrows: list[Points]
    description: str


class Sheet:
    """World x and y in metres fitted into a picture `width` units wide."""

    def __init__(self, report: RunReport, width: float, margin_m: float = MARGIN_M) -> None:
        # Everything that is drawn.
        path = np.array([f.T_world_cam[:2, 3] for f in report.frames])
        boxes = [corners(box)[:4, :2] for box in (*report.true_boxes, *report.found)]
        parts = [path, *boxes, report.tokens.all_xy_m]
        if report.walls_m is not None:
            half = np.array(report.walls_m) / 2
            parts.append(np.stack((-half, half)))
        points = np.concatenate([part for part in parts if len(part)])

        self.low = points.min(axis=0) - margin_m
        self.high = points.max(axis=0) + margin_m
        self.scale = width / (self.high[0] - self.low[0])
        self.width = width
        self.height = float(self.high[1] - self.low[1]) * self.scale

    def __call__(self, xy_m: Points) -> Points:
        """Metres (..., 2) as units of the picture."""
        placed: Points = (xy_m - (self.low[0], self.high[1])) * (self.scale, -self.scale)
        return placed

    def outline(self, box: Box3D, kind: str) -> Outline:
        return Outline(self(corners(box)[:4, :2]), kind)

    def walls(self, report: RunReport) -> Points | None:
        """Corners (4, 2)."""
        if report.walls_m is None:
            return None
        half = np.array(report.walls_m) / 2
        return self(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half)

    def ticks(self) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
        """Whole metres along both axes."""
        x, y = (
            np.arange(np.ceil(low), np.floor(high) + 1)
            for low, high in zip(self.low, self.high, strict=True)
        )
        along_x = self(np.stack((x, 0 * x), -1))[:, 0]
        along_y = self(np.stack((0 * y, y), -1))[:, 1]
        return (
            [(float(at), f"{metres + 0.0:g}") for at, metres in zip(along_x, x, strict=True)],
            [(float(at), f"{metres + 0.0:g}") for at, metres in zip(along_y, y, strict=True)],
        )


def draw_map(report: RunReport) -> RoomMap:
    """The whole room: true boxes with names, boxes that were found, camera, kept tokens."""
    sheet = Sheet(report, WIDTH)
    path = np.array([f.T_world_cam[:2, 3] for f in report.frames])
    forward = np.array([f.T_world_cam[:2, 2] for f in report.frames])
    ends = path + HEADING_M * forward
    outlines = [sheet.outline(box, "true") for box in report.true_boxes]
    outlines += [sheet.outline(box, "found") for box in report.found]
    named = report.true_boxes or report.found  # where the truth is not known
    names = [box.label for box in named]
    centres = [sheet(box.center_m[:2]) for box in named]
    return RoomMap(
        width=sheet.width,
        height=sheet.height,
        metre=sheet.scale,
        walls=sheet.walls(report),
        ticks=sheet.ticks(),
        path=sheet(path),
        headings=[sheet(np.stack(ray)) for ray in zip(path, ends, strict=True)],
        outlines=outlines,
        kept=sheet(report.tokens.xyz_m[:, :2]),
        labels=place_labels(names, centres, FONT, (sheet.width, sheet.height)),
        arrows=[],
        description=f"The room from above with {len(names)} objects: " + ", ".join(names),
    )


def draw_evidence(report: RunReport, evidence: Evidence) -> RoomMap:
    """The room from above, small: what the answer rests on with names, the rest as outlines."""
    sheet = Sheet(report, SMALL_WIDTH, margin_m=0.2)
    shown = evidence.shown
    names = evidence.names
    centres = [sheet(box.center_m[:2]) for box in shown]
    outlines = [sheet.outline(box, "faint") for box in report.true_boxes]
    outlines += [sheet.outline(box, "found") for box in shown]

    # From place to place as they were pointed at; lines of a measurement.
    arrows = [np.stack(pair) for pair in itertools.pairwise(centres)]
    if not evidence.places:
        at = [sheet(box.center_m[:2]) for box in evidence.boxes]
        arrows = [np.stack((at[i], at[j])) for i, j in evidence.joins]
    return RoomMap(
        width=sheet.width,
        height=sheet.height,
        metre=sheet.scale,
        walls=sheet.walls(report),
        ticks=([], []),
        path=np.empty((0, 2)),
        headings=[],
        outlines=outlines,
        kept=np.empty((0, 2)),
        labels=place_labels(names, centres, SMALL_FONT, (sheet.width, sheet.height)),
        arrows=arrows,
        description="Evidence on the map: " + ", ".join(names),
    )


@dataclass(frozen=True, eq=False, slots=True)
class LayerDots:
    """The tokens of one layer as dots: `kept` and `gone` are SVG paths of points."""

    layer: int
    count: int
    total: int
    width: float
    height: float
    walls: Points | None
    kept: str
    gone: str


def draw_layers(report: RunReport, most: int = 8) -> list[LayerDots]:
    """Up to `most` layers, spread over all, each as a small map of its tokens."""
    tokens = report.tokens
    if not tokens.layers:
        return []
    sheet = Sheet(report, DOTS_WIDTH, margin_m=0.1)
    count = len(tokens.layers)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    everything = _dots(sheet(tokens.all_xy_m))
    return [
        LayerDots(
            layer=int(i) + 1,
            count=len(tokens.layers[i]),
            total=len(tokens.all_xy_m),
            width=sheet.width,
            height=sheet.height,
            walls=sheet.walls(report),
            kept=_dots(sheet(tokens.layers[i])),
            gone=everything,
        )
        for i in chosen
    ]


def _dots(places: Sequence[Points] | Points) -> str:
    """Points as a path of strokes without length, which round caps make dots."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
