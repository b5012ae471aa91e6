"""Stated uncertainties against true ones, on generated rooms; and whether free floor is free.

Every object that colour and category name alone is looked for as `measure` does; what is found is
measured, in pairs and alone. An error over its box's scale, at the quantile CALIBRATED, is the
factor that geometry/measure/uncertainty.py should have; the share of errors within what is stated
is the coverage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ada3d_ros.errors import NotGroundedError, RequestError
from ada3d_ros.geometry.boxes import footprint_overlap_m2
from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.geometry.measure.distance import (
    center_distance_m,
    plan_distance_m,
    surface_distance_m,
)
from ada3d_ros.geometry.measure.fitted import fit_to_depth
from ada3d_ros.geometry.measure.free_floor import free_rectangle
from ada3d_ros.geometry.measure.relations import top_m
from ada3d_ros.geometry.measure.uncertainty import Factor, half_width_m
from ada3d_ros.lab.evaluation.metrics import mean_relative_accuracy
from ada3d_ros.lab.evaluation.pipelines import load_room
from ada3d_ros.lab.evaluation.selection import Room
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Box3D

CALIBRATED = 0.93  # of validation rooms; the 90 % that are promised, and a margin for new rooms
SCALE = Factor(1.0, 1.0)  # the half width is the scale of the boxes
TOUCHING_M2 = 1e-4  # of a rectangle under a true box: more is not free


@dataclass(eq=False, slots=True)
class Errors:
    """What was found and measured in some rooms.

    by_kind: per factor's name, (error, scale of the boxes) pairs; distances: (true, measured)
    between surfaces, measured NaN where a thing was not found; free: per room, of each stated
    rectangle whether no true box stands in it.
    """

    by_kind: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    distances: list[tuple[float, float]] = field(default_factory=list)
    free: list[list[bool]] = field(default_factory=list)

    def factor(self, kind: str) -> float:
        """What the factor of this name should be."""
        error, scale = np.array(self.by_kind[kind]).T
        return float(np.quantile(error / scale, CALIBRATED))

    def coverage(self, kind: str) -> float:
        """Share of true values within the stated interval."""
        error, scale = np.array(self.by_kind[kind]).T
        return float((error <= getattr(uncertainty, kind).model * scale).mean())

    def half_width_m(self, kind: str) -> float:
        """The median of what is stated."""
        return float(np.median([scale for _, scale in self.by_kind[kind]])) * float(
            getattr(uncertainty, kind).model
        )

    def summary(self) -> dict[str, float]:
        """Shares and medians of the distances, and of free floor."""
        true, measured = np.array(self.distances).T
        found = np.isfinite(measured)
        errors = np.abs(measured - true)[found]
        accuracy = [
            mean_relative_accuracy(value, truth) if np.isfinite(value) else 0.0
            for truth, value in self.distances
            if truth > 0.0
        ]
        stated = [one for room in self.free for one in room]
        return {
            "pairs": float(len(true)),
            "both_found": float(found.mean()),
            "median_error_m": float(np.median(errors)),
            "mra": float(np.mean(accuracy)),
            "rectangles": float(len(stated)),
            "rectangles_free": float(np.mean(stated)),
            "rooms_all_free": float(np.mean([all(room) for room in self.free if room])),
        }


def measure_rooms(pipeline: Ada3DPipeline, rooms: Iterable[Room]) -> Errors:
    """All errors in the rooms. pipeline: one that measures."""
    errors = Errors()
    for room in rooms:
        load_room(pipeline, room.frames)
        found = {number: locate(pipeline, name) for number, name in named_alone(room).items()}
        measure_room(room, found, pipeline.scene.floor.z_m, errors)
    return errors


def named_alone(room: Room) -> dict[int, str]:
    """The objects whose colour and category no other one has, by number."""
    labels = [box.label for box in room.boxes.values()]
    return {number: box.label for number, box in room.boxes.items() if labels.count(box.label) == 1}


def locate(pipeline: Ada3DPipeline, name: str) -> Box3D | None:
    """The box that a name resolves to when something is measured of it; None where none does."""
    asked = Reference(phrase=name, label=name)
    try:
        answer = pipeline.measure(MeasureRequest(MeasureKind.WHERE, of=asked))
    except (NotGroundedError, RequestError):
        return None
    return answer.boxes[0]


def measure_room(
    room: Room, found: Mapping[int, Box3D | None], floor_z_m: float, errors: Errors
) -> None:
    """What was found in one room against its solids, into the errors."""
    # Things alone.
    boxes = {number: box for number, box in found.items() if box is not None}
    fitted = {number: fit_to_depth(box, room.frames, floor_z_m) for number, box in boxes.items()}
    for number, box in boxes.items():
        true, fit = room.solids[number], fitted[number]
        sides = np.abs(np.sort(fit.size_m[:2]) - np.sort(true.size_m[:2]))
        for kind, error, seen in (
            ("EXTENT", float(sides.max()), fit),
            ("TOP", abs(top_m(box) - top_m(true)), box),
            ("PLACE", float(np.abs(box.center_m - true.center_m).max()), box),
        ):
            errors.by_kind[kind].append((error, half_width_m(SCALE, seen)))

    # Things in pairs.
    for a, b in combinations(found, 2):
        true_m = surface_distance_m(room.solids[a], room.solids[b])
        if a not in boxes or b not in boxes:
            errors.distances.append((true_m, np.nan))
            continue
        errors.distances.append((true_m, surface_distance_m(fitted[a], fitted[b])))
        for kind, distance, used in (
            ("SURFACES", surface_distance_m, fitted),
            ("CENTERS", center_distance_m, boxes),
            ("PLAN", plan_distance_m, boxes),
        ):
            error = abs(distance(used[a], used[b]) - distance(room.solids[a], room.solids[b]))
            errors.by_kind[kind].append((error, half_width_m(SCALE, used[a], used[b])))

    # Free floor beside each thing; other things are known by depth alone.
    stated = (free_rectangle(room.frames, box, floor_z_m) for box in boxes.values())
    errors.free.append([is_free(one, room) for one in stated if one is not None])


def is_free(rectangle: Box3D, room: Room) -> bool:
    """Whether no true box of the room stands in a rectangle of floor."""
    overlaps = (footprint_overlap_m2(rectangle, solid) for solid in room.solids.values())
    return max(overlaps, default=0.0) <= TOUCHING_M2
