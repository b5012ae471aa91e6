"""The list of objects against generated rooms: what it holds, and what of it is gone in time.

`python -m ada3d_ros.lab.evaluation.objects --scenes 100` prints both. An object is taken out by
rendering the room again without it, from other places along the walls.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.results import write_results
from ada3d_ros.lab.world.generated import frames_of, true_boxes
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import ABSENT, Rooms, make_rooms
from ada3d_ros.measures import SceneObject
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.object_detections import iou_matrix
from ada3d_ros.scene.object_evidence import GONE_VIEWS
from ada3d_ros.types import Box3D, Keyframe, KeyframeReason, Question, RgbdFrame

MIN_IOU = 0.25
MIN_VISIBLE = 0.5  # share of an object's pixels that nothing hides where a view looks at it
MIN_PIXELS = 20  # that it covers there
PATHS_APART = 50_000  # between the seeds of a room and of the path it is seen from again


@dataclass(frozen=True, slots=True)
class InventoryCount:
    """Of one room or several: objects at the right place, under the right name too, all that were
    found, and all that there are.
    """

    placed: int = 0
    named: int = 0
    found: int = 0
    true: int = 0

    def plus(self, other: InventoryCount) -> InventoryCount:
        return InventoryCount(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def metrics(self) -> dict[str, float]:
        """`inventory_recall25`, `inventory_precision25`: of places; `inventory_named`: share of
        those under the right name. NaN of nothing.
        """
        return {
            "inventory_recall25": _share(self.placed, self.true),
            "inventory_precision25": _share(self.placed, self.found),
            "inventory_named": _share(self.named, self.placed),
        }


@dataclass(frozen=True, slots=True)
class RemovalCount:
    """Objects of the list that were taken out of a room that is then seen again; those of them
    that enough views looked at; of these the ones not gone by then; and objects left in place
    that were taken for gone, over all that were looked for.
    """

    taken_out: int = 0
    seen: int = 0
    late: int = 0
    left: int = 0
    wrongly_gone: int = 0

    def plus(self, other: RemovalCount) -> RemovalCount:
        return RemovalCount(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def inventory_of(pipeline: Ada3DPipeline) -> tuple[SceneObject, ...]:
    """The objects of the loaded room that are not gone, looked for now where they were not."""
    return pipeline.inventory_now().present


def match_inventory(found: Sequence[SceneObject], truth: Mapping[int, Box3D]) -> InventoryCount:
    """Found objects against the true boxes, labelled "red chair", one to one, at IoU .25."""
    boxes = list(truth.values())
    pairs = _pairs(found, boxes)
    named = sum(found[i].label == boxes[j].label for i, j in pairs)
    return InventoryCount(len(pairs), named, len(found), len(boxes))


def _pairs(found: Sequence[SceneObject], boxes: Sequence[Box3D]) -> list[tuple[int, int]]:
    """Which found object is which true one, where they overlap by MIN_IOU."""
    if not found or not boxes:
        return []
    ious = iou_matrix([thing.box for thing in found], boxes)
    rows, columns = linear_sum_assignment(-ious)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in pairs if ious[i, j] >= MIN_IOU]


# -- objects that are taken out


def count_removals(pipeline: Ada3DPipeline, room: Rooms, path: Rooms) -> RemovalCount:
    """Each listed object of one room taken out in turn, and the room seen again from `path`.

    room, path: one room each; the loaded scene of the pipeline is that of `room`.
    """
    # The list, and what each of its objects truly is.
    listed = inventory_of(pipeline)
    numbers = [i for i, kind in enumerate(room.category[0].tolist()) if kind != ABSENT]
    is_number = {numbers[j]: listed[i] for i, j in _pairs(listed, true_boxes(room, 0))}
    later = replace(room, T_world_cam=path_within(room, path))

    # One object at a time.
    count = RemovalCount()
    for number, thing in is_number.items():
        frames = _later_frames(without(later, number), pipeline)
        gone_at = _gone_at(pipeline, frames)
        enough = _views_until_gone(later, number, pipeline.view_side)
        in_time = gone_at.get(thing.id, len(frames)) < enough
        others = {other.id for other in is_number.values()} - {thing.id}
        count = count.plus(
            RemovalCount(
                taken_out=1,
                seen=int(enough <= len(frames)),
                late=int(enough <= len(frames) and not in_time),
                left=len(others),
                wrongly_gone=len(others & gone_at.keys()),
            )
        )
    return count


def without(room: Rooms, number: int) -> Rooms:
    """The room without one of its objects; what stood on it stays where it is."""
    category = room.category.clone()
    category[0, number] = ABSENT
    return replace(room, category=category)


def path_within(room: Rooms, path: Rooms) -> torch.Tensor:
    """The poses (1, V, 4, 4) of another room's camera, moved between this room's walls."""
    poses = path.T_world_cam.clone()
    poses[..., :2, 3] *= (room.room_m / path.room_m)[:, None]
    return poses


def _later_frames(room: Rooms, pipeline: Ada3DPipeline) -> list[RgbdFrame]:
    """The views of a room as frames that come after those of the pipeline's scene."""
    frames = frames_of(room, render(room, pipeline.view_side), 0)
    behind_ns = pipeline.scene_state().newest_ns
    return [replace(frame, stamp_ns=frame.stamp_ns + behind_ns) for frame in frames]


def _gone_at(pipeline: Ada3DPipeline, frames: Sequence[RgbdFrame]) -> dict[str, int]:
    """The objects that are gone once the scene's memory was shown these frames one by one, by id:
    after which of them. The pipeline's own memory stays.
    """
    assert pipeline.inventory is not None
    memory, scene = pipeline.inventory.memory.copied(), pipeline.scene
    first = scene.keyframes[-1].index + 1
    gone: dict[str, int] = {}
    keyframes = list(scene.keyframes)
    for i, frame in enumerate(frames):
        keyframes.append(Keyframe(frame, first + i, KeyframeReason.TRANSLATION))
        memory.observe(SceneSnapshot(tuple(keyframes)))
        for thing in memory.objects:
            if thing.is_gone:
                gone.setdefault(thing.id, i)
    return gone


def _views_until_gone(room: Rooms, number: int, side: int) -> int:
    """How many of the room's views there are up to the second that looks at an object's place:
    were it there, all of it would be in the picture and most of it to be seen. One more than there
    are where no second one does.
    """
    alone = torch.full_like(room.category, ABSENT)
    alone[0, number] = room.category[0, number]
    covers = render(replace(room, category=alone), side, noise=False).object_index[0] == number
    shows = render(room, side, noise=False).object_index[0] == number
    edge = covers.clone()
    edge[:, 1:-1, 1:-1] = False
    num_covered, num_shown = covers.sum((1, 2)), shows.sum((1, 2))
    enough = (num_covered >= MIN_PIXELS) & (num_shown >= MIN_VISIBLE * num_covered)
    views = torch.nonzero(enough & ~edge.any(2).any(1))[:, 0].tolist()
    views = [view for view in views if view < int(room.num_views[0])]
    return views[GONE_VIEWS - 1] + 1 if len(views) >= GONE_VIEWS else int(room.num_views[0]) + 1


# -- rooms


def evaluate_objects(
    pipeline: Ada3DPipeline, seeds: Sequence[int], level: int = 1, removals: bool = True
) -> dict[str, Any]:
    """The inventory of fresh rooms, and what becomes of the objects taken out of them."""
    inventory, removed, seconds = InventoryCount(), RemovalCount(), 0.0
    for seed in tqdm(seeds, desc="rooms", mininterval=2):
        room = make_rooms("test", torch.tensor([seed]), level)
        load_room(pipeline, frames_of(room, render(room, pipeline.view_side), 0))
        pipeline.ask(Question("Is there a red chair?", want_boxes=False))  # encodes the scene
        begun = time.process_time()
        found = inventory_of(pipeline)
        seconds += time.process_time() - begun
        truth = dict(enumerate(true_boxes(room, 0)))
        inventory = inventory.plus(match_inventory(found, truth))
        if removals:
            path = make_rooms("test", torch.tensor([seed + PATHS_APART]), level)
            removed = removed.plus(count_removals(pipeline, room, path))
    return {
        "n": len(seeds),
        "level": level,
        "metrics": inventory.metrics(),
        "inventory": asdict(inventory),
        "removals": asdict(removed) if removals else None,
        "seconds_per_update": seconds / max(len(seeds), 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=embedded_model_path())
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--first", type=int, default=730_451, help="seed of the first room")
    parser.add_argument("--level", type=int, default=1, choices=(1, 2))
    parser.add_argument("--strategy", default="none")
    parser.add_argument("--keep-ratio", type=float)
    parser.add_argument("--no-removals", action="store_true")
    parser.add_argument("--json", type=Path, help="write the results with their provenance")
    options = parser.parse_args(arguments)
    pipeline = open_pipeline(
        options.model, options.strategy, options.keep_ratio, {"objects.enabled": True}
    )
    seeds = range(options.first, options.first + options.scenes)
    results = evaluate_objects(pipeline, seeds, options.level, not options.no_removals)
    print(json.dumps(results, indent=2))
    if options.json is not None:
        write_results(options.json, results, str(pipeline.model.model.device), options.first)


if __name__ == "__main__":
    main()
