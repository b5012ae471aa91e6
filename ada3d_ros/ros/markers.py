"""What RViz shows: boxes of answers, places that were pointed at, measured distances, objects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.geometry.boxes import yaw_rotation
from ada3d_ros.measures import MeasureKind
from ada3d_ros.msg import Answer, GroundedBox, Measurement, SceneObjectArray

GREEN = ColorRGBA(r=0.1, g=0.8, b=0.3, a=0.35)
BLUE = ColorRGBA(r=0.2, g=0.5, b=0.9, a=0.25)
ORANGE = ColorRGBA(r=1.0, g=0.6, b=0.1, a=0.9)
YELLOW = ColorRGBA(r=1.0, g=0.9, b=0.2, a=0.95)
WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.95)
TEXT_M, ABOVE_M = 0.12, 0.1  # height of letters; of a label above what it names
SPHERE_M, LINE_M, RULER_M = 0.15, 0.02, 0.03  # diameters
STEPS = 50  # of finding the nearest points of two boxes
Array = npt.NDArray[np.float64]


class Drawing:
    """Markers of one header and lifetime, each namespace numbered from 0."""

    def __init__(self, header: Header, lifetime_s: float = 0.0) -> None:
        sec, nanosec = divmod(int(lifetime_s * 1e9), 1_000_000_000)
        self._header, self._lifetime = header, Duration(sec=sec, nanosec=nanosec)
        self._ids: dict[str, Iterator[int]] = {}
        # What was shown before goes first.
        self.markers = [Marker(header=header, action=Marker.DELETEALL)]

    def _add(self, namespace: str, kind: int, color: ColorRGBA) -> Marker:
        index = next(self._ids.setdefault(namespace, count()))
        marker = Marker(
            header=self._header,
            ns=namespace,
            id=index,
            type=kind,
            color=color,
            lifetime=self._lifetime,
        )
        self.markers.append(marker)
        return marker

    def box(self, namespace: str, box: GroundedBox, color: ColorRGBA) -> None:
        cube = self._add(namespace, Marker.CUBE, color)
        cube.pose, cube.scale = box.center, box.size

    def sphere(self, namespace: str, at: Point) -> None:
        sphere = self._add(namespace, Marker.SPHERE, ORANGE)
        sphere.pose.position, sphere.scale = at, Vector3(x=SPHERE_M, y=SPHERE_M, z=SPHERE_M)

    def line(
        self, namespace: str, points: Sequence[Point], color: ColorRGBA, width_m: float
    ) -> None:
        line = self._add(namespace, Marker.LINE_STRIP, color)
        line.points, line.scale.x = list(points), width_m

    def lines(
        self, namespace: str, points: Sequence[Point], color: ColorRGBA, width_m: float
    ) -> None:
        """A line from each point of an even place to the next one."""
        lines = self._add(namespace, Marker.LINE_LIST, color)
        lines.points, lines.scale.x = list(points), width_m

    def text(self, namespace: str, text: str, at: Point, above_m: float = ABOVE_M) -> None:
        """A label that faces whoever looks."""
        label = self._add(namespace, Marker.TEXT_VIEW_FACING, WHITE)
        label.text, label.scale.z = text, TEXT_M
        label.pose.position = Point(x=at.x, y=at.y, z=at.z + above_m)

    def done(self) -> MarkerArray:
        return MarkerArray(markers=self.markers)


def answer_to_markers(answer: Answer, lifetime_s: float) -> MarkerArray:
    """Its boxes with their labels, the places that the model pointed at in their order, and what
    was measured; earlier markers are deleted first.
    """
    # A translucent cube and a label per box.
    drawing = Drawing(answer.header, lifetime_s)
    for box in answer.boxes:
        drawing.box("boxes", box, GREEN)
        score = "" if math.isnan(box.score) else f" {box.score:.2f}"
        above_m = box.size.z / 2 + ABOVE_M
        drawing.text("labels", box.label + score, box.center.position, above_m)

    # Numbered spheres, and a thin line through them.
    places = [place.center.position for place in answer.places]
    for number, place in enumerate(places, start=1):
        drawing.sphere("places", place)
        drawing.text("place_numbers", str(number), place, SPHERE_M)
    if len(places) > 1:
        drawing.line("chain", places, ORANGE, LINE_M)

    # The measured distance.
    ends = measured_line(answer.measurement)
    if ends:
        start, end = ends
        middle = Point(x=(start.x + end.x) / 2, y=(start.y + end.y) / 2, z=(start.z + end.z) / 2)
        drawing.line("measured", ends, YELLOW, RULER_M)
        drawing.text("measured_labels", value_text(answer.measurement), middle)
    return drawing.done()


def objects_to_markers(objects: SceneObjectArray) -> MarkerArray:
    """A translucent cube and a label per object that is there; none for those that are gone."""
    drawing = Drawing(objects.header)
    for item in objects.objects:
        if not item.gone:
            box = item.box
            drawing.box("objects", box, BLUE)
            label = f"{item.label} #{item.id}"
            drawing.text("object_labels", label, box.center.position, box.size.z / 2 + ABOVE_M)
    return drawing.done()


def measured_line(measurement: Measurement) -> tuple[Point, Point] | None:
    """The ends of a measured distance: on the two surfaces, or the two centres where those are as
    far apart as was measured; None for other kinds and for boxes that touch.
    """
    if measurement.kind != MeasureKind.DISTANCE or len(measurement.boxes) < 2:
        return None
    start, end = (np.array(_center(box)) for box in measurement.boxes[:2])
    centers = start, end

    # From one box to the other and back, to the point that is nearest each time: it converges on
    # the two nearest points of convex bodies.
    for _ in range(STEPS):
        start, end = _nearest(measurement.boxes[0], end), _nearest(measurement.boxes[1], start)
    gap_m = float(np.linalg.norm(end - start))
    value_m = measurement.values[0] if measurement.values else gap_m
    if abs(float(np.linalg.norm(centers[1] - centers[0])) - value_m) < abs(gap_m - value_m):
        start, end = centers
    return (_point(start), _point(end)) if gap_m > 0 else None


def value_text(measurement: Measurement) -> str:
    """`0.85 m` of a measured distance."""
    return f"{measurement.values[0]:.2f} {measurement.unit}" if measurement.values else ""


def _center(box: GroundedBox) -> tuple[float, float, float]:
    at = box.center.position
    return at.x, at.y, at.z


def _nearest(box: GroundedBox, point: Array) -> Array:
    """The point of a box (3,) that is nearest to one outside; of one inside, itself."""
    rotation = yaw_rotation(2 * math.atan2(box.center.orientation.z, box.center.orientation.w))
    center, half = np.array(_center(box)), np.array([box.size.x, box.size.y, box.size.z]) / 2
    return rotation @ np.clip(rotation.T @ (point - center), -half, half) + center


def _point(xyz: Array) -> Point:
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))
