"""Whether a detector's boxes, offered as proposals, are better than the grounding head's own.

Generated rooms with an oracle detector that errs as detectors do: faces off by 5 to 10 % of the
box, one label in twenty wrong, one object in ten missed. `python -m
ada3d_ros.lab.evaluation.proposals --scenes 100` asks for the rooms' phrases with and without.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.asking.words import fits
from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.engine.query_context import (
    encode_scene,
    prefill_pruned,
    select_context,
    timed_prompt,
)
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.grounding.from_head import point_at
from ada3d_ros.grounding.from_proposals import best_proposals
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT, refine_boxes
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.command_line import check_writable
from ada3d_ros.lab.evaluation.intervals import (
    DRAWS,
    difference_interval,
    per_room,
    room_draws,
    standard_error,
)
from ada3d_ros.lab.evaluation.metrics import IOU_PERCENT, is_found
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.results import write_results
from ada3d_ros.lab.world.rooms import CATEGORIES
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, Box3D, GroundingMethod, Question

OWN = "own"  # the grounding head's own box, refined by depth
SNAP_IOU = 0.1  # a proposal that overlaps the own box so much may take its place


@dataclass(frozen=True, slots=True)
class Noise:
    """How the oracle errs. jitter: share of a side by which a face is off (standard deviation),
    between these two from box to box; wrong, missed: shares of the objects.
    """

    jitter: tuple[float, float] = (0.05, 0.10)
    wrong: float = 0.05
    missed: float = 0.10


def noisy_boxes(
    boxes: Sequence[Box3D], noise: Noise, generator: np.random.Generator
) -> list[Box3D]:
    """The true boxes as a detector lifted into the map may give them; labels as "red chair"."""
    found = []
    for box in boxes:
        # All drawn for each, so that one kind of error does not move the others.
        missed, wrong, amount = generator.uniform(size=3)
        other = CATEGORIES[int(generator.integers(len(CATEGORIES)))]
        faces = generator.normal(size=(2, 3))
        if missed < noise.missed:
            continue
        share = noise.jitter[0] + amount * (noise.jitter[1] - noise.jitter[0])
        low = box.center_m - box.size_m / 2 + share * faces[0] * box.size_m
        high = box.center_m + box.size_m / 2 + share * faces[1] * box.size_m
        label = box.label
        if wrong < noise.wrong:
            label = f"{label.rpartition(' ')[0]} {other}".strip()
        found.append(
            replace(
                box,
                center_m=(low + high) / 2,
                size_m=np.maximum(high - low, 0.01),
                label=label,
                score=0.9,
                method=GroundingMethod.DETECTOR,
            )
        )
    return found


@dataclass(frozen=True, eq=False, slots=True)
class Pointed:
    """What the grounding head knows of one phrase: final states, and places (N, 3) of the tokens;
    own: its best box, refined by depth, None where there is none.
    """

    states: FinalStates
    xyz_m: torch.Tensor
    own: Box3D | None


def point(pipeline: Ada3DPipeline, phrase: str) -> Pointed:
    """As `ground` does, up to the boxes."""
    text = GROUNDING_PROMPT.format(phrase=phrase)
    asked = Question(text, phrase=phrase, want_boxes=True)
    query, cache = pipeline.open_query(asked, AskHooks())
    context = select_context(query, encode_scene(query, cache.encoder), cache)
    prefilled = prefill_pruned(query, context, timed_prompt(query, context))
    assert prefilled.states is not None
    kept = context.chosen.rows.with_place(prefilled.kept[-1])
    xyz_m = query.in_world(context.chosen.tokens.xyz_m[kept])
    assert query.loaded.head is not None
    limits = pipeline.config.boxes
    guesses = point_at(
        query.loaded.head, prefilled.states, xyz_m, phrase, limits.max_count, limits.min_score
    )
    boxes = refine_boxes(guesses, context.scene.frames, limits.min_support_points, AskHooks().check)
    return Pointed(prefilled.states, xyz_m, max(boxes, key=lambda box: box.score, default=None))


def ways_of(
    pipeline: Ada3DPipeline, phrase: str, proposals: Sequence[Box3D]
) -> dict[str, Box3D | None]:
    """The box of each way to ground the phrase."""
    pointed, head = point(pipeline, phrase), pipeline.model.head
    assert head is not None
    least = pipeline.config.boxes.min_score
    name = phrase.removeprefix("the ")
    named = [box for box in proposals if fits(name, box.label)]
    of_kind = [box for box in proposals if fits(name.split()[-1], box.label)]

    def scored(among: Sequence[Box3D]) -> Box3D | None:
        found = best_proposals(head, pointed.states, pointed.xyz_m, among, phrase, least)
        return found[0] if found else None

    own = pointed.own
    near = None
    if own is not None and proposals:
        near = max(proposals, key=lambda box: iou_axis_aligned(box, own))
        near = near if iou_axis_aligned(near, own) >= SNAP_IOU else None
    return {
        OWN: own,
        "label": named[0] if named else None,
        "proposals": scored(proposals),
        "snapped": near or own,
        "label, else own": scored(named) if named else own,
        # What `ground` does with a detector, and with detector.proposals.
        "label first, else own": _first(named) or own,
        "several chosen, else own": _chosen(named, scored) or own,
        # The same of a detector that sees no colours.
        "kind first, else own": _first(of_kind) or own,
        "several of the kind chosen, else own": _chosen(of_kind, scored) or own,
    }


def _first(named: Sequence[Box3D]) -> Box3D | None:
    return named[0] if named else None


def _chosen(
    named: Sequence[Box3D], scored: Callable[[Sequence[Box3D]], Box3D | None]
) -> Box3D | None:
    """The head has a say where there are several."""
    return (scored(named) if len(named) > 1 else None) or _first(named)


# -- all rooms


@dataclass(eq=False, slots=True)
class Tally:
    """Per group (unique, distractor) and way: each phrase's IoU, in the same order for all ways;
    rooms: the room of each phrase.
    """

    ious: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    rooms: dict[str, list[int]] = field(default_factory=dict)

    def add(self, group: str, room: int, ious: Mapping[str, float]) -> None:
        """One phrase."""
        self.rooms.setdefault(group, []).append(room)
        for way, iou in ious.items():
            self.ious.setdefault(group, {}).setdefault(way, []).append(iou)


def evaluate(
    pipeline: Ada3DPipeline, selection: RoomSelection, noise: Noise = Noise()
) -> dict[str, Any]:
    """Accuracies of each way, and their differences to the head's own box in points, question by
    question; intervals over rooms.
    """
    tally, count = Tally(), 0
    generator = np.random.default_rng(selection.seed)
    rooms = tqdm(rooms_of(selection, pipeline.view_side), total=selection.scenes, mininterval=5)
    for number, room in enumerate(rooms):
        load_room(pipeline, room.frames)
        proposals = noisy_boxes(list(room.boxes.values()), noise, generator)
        count += len(proposals)
        for asked in room.questions:
            if asked.phrase and asked.target is not None:
                true = room.boxes[asked.target]
                found = ways_of(pipeline, asked.phrase, proposals)
                ious = {
                    way: iou_axis_aligned(box, true) if box is not None else 0.0
                    for way, box in found.items()
                }
                tally.add("unique" if asked.unique else "distractor", number, ious)
    return {
        "n": selection.scenes,
        "rooms": selection.scenes,
        "level": selection.level,
        "split": selection.split,
        "noise": plain(noise),
        "proposals_per_room": count / selection.scenes,
        "intervals": f"95 %, bootstrap over rooms, {DRAWS} draws",
        "groups": {group: _group(tally, group, selection.scenes) for group in tally.ious},
    }


def _group(tally: Tally, group: str, rooms: int) -> dict[str, Any]:
    """Phrases of one group: per way and threshold the accuracy, and points against OWN."""
    index, draws = tally.rooms[group], room_draws(rooms)
    found: dict[str, Any] = {"phrases": len(index), "ways": {}}
    for way, ious in tally.ious[group].items():
        cells: dict[str, Any] = {"mean_iou": float(np.mean(ious))}
        for percent in IOU_PERCENT:
            right = [float(is_found(iou, percent)) for iou in ious]
            before = [float(is_found(iou, percent)) for iou in tally.ious[group][OWN]]
            mine, asked = per_room(right, index, rooms)
            theirs, _ = per_room(before, index, rooms)
            low, high = difference_interval(mine, theirs, asked, draws)
            cells[f"acc{percent}"] = {
                "value": float(np.mean(right)),
                "points": 100 * float(np.mean(right) - np.mean(before)),
                "standard_error": 100 * standard_error(mine, theirs, asked),
                "interval": (100 * low, 100 * high),
            }
        found["ways"][way] = cells
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=embedded_model_path())
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of rooms and noise (default 0)")
    parser.add_argument("--level", type=int, default=1, choices=(1, 2))
    parser.add_argument("--json", type=Path, help="write the results with their provenance")
    options = parser.parse_args(arguments)
    if options.json is not None:
        check_writable(options.json, "--json")
    torch.set_num_threads(1)
    pipeline = open_pipeline(options.model, "none", None)
    selection = RoomSelection("test", options.seed, options.scenes, options.level)
    results = plain(evaluate(pipeline, selection))
    print(json.dumps(results, indent=2))
    if options.json is not None:
        device = str(pipeline.model.model.device)
        write_results(options.json, results, device, options.seed)


if __name__ == "__main__":
    main()
