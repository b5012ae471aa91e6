"""The embedded model in LLaVA-3D's form and in Video-3D-LLM's, trained on the same passes over the
same rooms (`ada3d train --curriculum hour`), asked the same questions, whole and pruned.

`--only NAME` trains one form (or goes on with it), asks it, and leaves what it found in the folder;
two processes may do one each. Without it both are done that are not there yet, and --json holds
them side by side. Pruning is compared with the whole scene question by question; intervals are over
rooms. Information is measured on validation rooms, everything else on test rooms.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.query_context import encode_scene, select_context, timed_prompt
from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.lab.analysis.calibrate import Samples, calibration_of
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.evaluation.intervals import (
    difference_interval,
    per_room,
    room_draws,
    share_interval,
    standard_error,
)
from ada3d_ros.lab.evaluation.pipelines import load_room
from ada3d_ros.lab.evaluation.pruning_rows import UNPRUNED, Row
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.synthetic import ask_room
from ada3d_ros.lab.evaluation.tally import Tally
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.lab.train.export import trained_model
from ada3d_ros.lab.train.run import run_stage
from ada3d_ros.lab.train.session import BACKBONES, Session, open_session
from ada3d_ros.lab.train.stages import HOUR
from ada3d_ros.lab.train.warm_start import take_decoder, take_tower
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.model.checkpoint import LoadedModel, load_model
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.pruning.calibration import Calibration, write_calibration
from ada3d_ros.pruning.information import falls_with_depth
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import AskHooks, ModelInfo, Question

LEVEL = 1
KINDS = ("existence", "color", "category", "count", "grounding", "absent")  # asked of each room
BAR = ("existence", "color", "category")  # within BAR_POINTS of the LLaVA-3D form
BAR_POINTS = 5.0
GROUPS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("existence", "color", "category", "count")},
    "text": ("existence", "color", "category", "count"),
    "acc25": ("grounding_unique_acc25", "grounding_distractor_acc25"),
    "acc50": ("grounding_unique_acc50", "grounding_distractor_acc50"),
    "absent_false_box_rate": ("absent_false_box_rate",),
}
MEASURED_KINDS = ("existence", "color", "category", "count")  # of information, a question each
MEASURED_ROOMS = 12
FITTED = "adatoken3d fitted to"  # and whose information
ROWS = (
    Row("random", "before", 0.4),
    Row("voxel_dpp", "before", 0.4),
    Row("adatoken3d", "paper", 0.4),
    Row("adatoken3d", "build", 0.4),
    Row("random", "before", 0.1),
    Row("voxel_dpp", "before", 0.1),
    Row("adatoken3d", "build", 0.1),
    Row("voxel_dpp+adatoken3d", "paper", 0.1),
)
FITTED_KEEP = 0.4


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the runs lie, and how many rooms: rendered to learn from, asked about whole, and asked
    about pruned (the first of those).
    """

    folder: Path
    rooms: int
    scenes: int
    pruned: int
    seed: int

    def part(self, backbone: str) -> Path:
        return self.folder / f"{backbone}.json"

    def calibration(self, backbone: str) -> Path:
        return self.folder / f"{backbone}.yaml"


# -- training


def train_form(plan: Plan, backbone: str) -> Session:
    """The trained run of one form, begun or gone on with."""
    folder = plan.folder / backbone
    session = open_session(folder, LEVEL, plan.rooms, Workers("cpu"), plan.seed, backbone)
    shipped = load_model(embedded_model_path())
    take_decoder(session, shipped)
    take_tower(session, shipped)
    for stage in HOUR:
        run_stage(session, stage, math.inf, report_every_s=480.0)
    return session


# -- asking


class AskedModel:
    """A trained form that is asked; its tower sees each view once."""

    def __init__(self, loaded: LoadedModel, name: str) -> None:
        model = loaded.model
        self.loaded = loaded
        self.info = ModelInfo(
            name=name,
            revision="unread",
            sha256="",
            device=str(model.device),
            precision="float32",
            parameters=sum(p.numel() for p in model.parameters()),  # type: ignore[attr-defined]
            memory_bytes=0,
            max_input_tokens=model.config.max_length,
            random_weights=False,
            has_3d=True,
            has_grounding_head=True,
        )
        self.side = model.config.vision.image_size
        seen: dict[bytes, torch.Tensor] = {}
        encode = model.encode_views

        def remembered(pixels: torch.Tensor) -> torch.Tensor:
            key = pixels.numpy().tobytes()
            if key not in seen:
                seen[key] = encode(pixels)
            return seen[key]

        model.encode_views = remembered  # type: ignore[method-assign]

    def pipeline(self, settings: Mapping[str, object]) -> Ada3DPipeline:
        """Every view a keyframe, nothing measured; as `open_pipeline`."""
        values: dict[str, object] = {
            "model.path": str(self.loaded.info.path),
            "keyframe.min_translation_m": 0.0,
            "keyframe.min_rotation_deg": 0.0,
            "question.measure": False,
            "objects.enabled": False,
        }
        config = from_flat(values | dict(settings), AgentConfig())
        pipeline = Ada3DPipeline(config, opened=(self.loaded, self.info))
        pipeline.load()
        return pipeline

    def ask(self, settings: Mapping[str, object], rooms: Sequence[Room], title: str) -> Tally:
        """The questions of KINDS about every room."""
        pipeline, tally = self.pipeline(settings), Tally()
        for room in tqdm(rooms, desc=title, mininterval=10):
            load_room(pipeline, room.frames)
            asked = [question for question in room.questions if question.kind in KINDS]
            ask_room(pipeline, asked, room.boxes, tally)
        return tally


def shares(tally: Tally) -> dict[str, Any]:
    """Of every group: value, n and 95 % interval over rooms."""
    draws, found = room_draws(tally.num_rooms), {}
    for group in GROUPS:
        right, asked = _group(tally, group)
        low, high = share_interval(right, asked, draws)
        value = float(right.sum() / asked.sum())
        found[group] = {"value": value, "n": int(asked.sum()), "interval": [low, high]}
    return found


def beside(tally: Tally, whole: Tally) -> dict[str, Any]:
    """Of every group: value, n, and the difference to the whole scene in points, with its standard
    error and 95 % interval over rooms.
    """
    draws, found = room_draws(tally.num_rooms), {}
    for group in GROUPS:
        right, asked = _group(tally, group)
        base, _ = _group(whole, group)
        low, high = difference_interval(right, base, asked, draws)
        found[group] = {
            "value": float(right.sum() / asked.sum()),
            "n": int(asked.sum()),
            "points": 100.0 * float((right - base).sum() / asked.sum()),
            "error": 100.0 * standard_error(right, base, asked),
            "interval": [100.0 * low, 100.0 * high],
        }
    return found


def _group(tally: Tally, group: str) -> tuple[Any, Any]:
    names = GROUPS[group]
    right = [value for name in names for value in tally.right[name]]
    room = [value for name in names for value in tally.room[name]]
    return per_room(right, room, tally.num_rooms)


def _tokens_kept(tally: Tally) -> dict[str, float]:
    """Means over the questions: spatial tokens of the scene, and after the last layer that drops,
    newlines among both.
    """
    names = ("spatial_total", "spatial_kept")
    return {n: float(np.mean([getattr(usage, n) for usage in tally.usages])) for n in names}


# -- information


def calibrate_form(asked: AskedModel, rooms: Sequence[Room], keep_ratio: float) -> Calibration:
    """Information of every layer, and the schedule fitted to it."""
    settings = {
        "pruning.strategy": "adatoken3d",
        "pruning.adatoken3d.schedule": "fitted",
        "pruning.keep_ratio": keep_ratio,
        "cache.mode": "paper",
    }
    pipeline = asked.pipeline({"pruning.strategy": "none", "cache.mode": "paper"})
    samples, sizes = Samples(), list[int]()
    decoder, config = asked.loaded.model.decoder, from_flat(settings, AgentConfig())
    stride = config.pruning.adatoken3d.inf.query_stride
    for room in tqdm(rooms, desc="information", mininterval=10):
        load_room(pipeline, room.frames)
        for kind in MEASURED_KINDS:
            text = next(q.text for q in room.questions if q.kind == kind)
            query, cache = pipeline.open_query(Question(text), AskHooks())
            tokens = encode_scene(query, cache.encoder)
            prompt = timed_prompt(query, select_context(query, tokens, cache))
            samples.append(measure_information(decoder, prompt, stride))
        sizes.append(rows_of(tokens).num_placed)
    return calibration_of(asked.loaded, "", (), (samples, sizes), config)


def described(calibration: Calibration) -> dict[str, Any]:
    """Of a calibration what results hold."""
    c = calibration
    return {
        "n": c.samples,
        "information": c.information,
        "INF": c.INF,
        "INF_std": c.INF_std,
        "masses": [asdict(masses) for masses in c.masses],
        "falls_with_depth": falls_with_depth(np.array(c.information)),
        "parameters": c.parameters,
        "fitted_retention": c.retention,
        "mean_spatial_tokens": c.mean_spatial_tokens,
    }


# -- one form, and both


def measure_form(plan: Plan, backbone: str) -> None:
    """Train, ask whole, measure information; what was found goes to the form's file."""
    session = train_form(plan, backbone)
    loaded = trained_model(session)
    asked = AskedModel(loaded, backbone)
    measured = RoomSelection("val", 0, MEASURED_ROOMS, LEVEL)
    calibration = calibrate_form(asked, list(rooms_of(measured, asked.side)), FITTED_KEEP)
    write_calibration(plan.calibration(backbone), calibration)
    rooms = list(rooms_of(RoomSelection("test", 0, plan.scenes, LEVEL), asked.side))
    whole = asked.ask(Row(UNPRUNED).settings(0), rooms, "whole")
    results = {
        "n": {"training_seeds": 1, "rooms": plan.scenes},
        "backbone": backbone,
        "parameters": asked.info.parameters,
        "room_passes": session.seen,
        "cpu_s": session.seconds,
        "cpu_minutes": sum(session.seconds.values()) / 60,
        "tokens": _tokens_kept(whole),
        "whole": shares(whole),
        "information": described(calibration),
    }
    file = ResultFile(plan.part(backbone), device_name(torch.device("cpu")), plan.seed)
    file.write(plain(results))


def prune_form(plan: Plan, backbone: str) -> None:
    """Ask pruned, once the other form's information is there, too."""
    part = json.loads(plan.part(backbone).read_text(encoding="utf-8"))
    session = open_session(
        plan.folder / backbone, LEVEL, plan.rooms, Workers("cpu"), plan.seed, backbone
    )
    asked = AskedModel(trained_model(session), backbone)
    rooms = list(rooms_of(RoomSelection("test", 0, plan.pruned, LEVEL), asked.side))
    whole = asked.ask(Row(UNPRUNED).settings(0), rooms, "whole")
    total = int(part["tokens"]["spatial_total"])
    variants = {row.key: row.settings(total) for row in ROWS}
    for other in BACKBONES:
        if plan.calibration(other).exists():
            variants[f"{FITTED} {other}"] = Row("adatoken3d", "paper", FITTED_KEEP).settings(
                total
            ) | {
                "pruning.adatoken3d.schedule": "fitted",
                "pruning.adatoken3d.calibration_file": str(plan.calibration(other)),
            }
    rows = []
    for name, settings in variants.items():
        try:
            tally = asked.ask(settings, rooms, name)
            found = {"tokens": _tokens_kept(tally)} | beside(tally, whole)
        except ConfigError as error:
            found = {"refused": str(error)}
        rows.append({"variant": name} | found)
    results = {name: value for name, value in part.items() if name != "provenance"}
    file = ResultFile(plan.part(backbone), device_name(torch.device("cpu")), plan.seed)
    file.write(results | {"pruned": plain(rows), "pruned_whole": plain(shares(whole))})


def side_by_side(plan: Plan) -> dict[str, Any]:
    """Both forms, and whether the second one is within the bar."""
    parts = {name: json.loads(plan.part(name).read_text(encoding="utf-8")) for name in BACKBONES}
    for name, part in parts.items():
        part["learning"] = _learning(plan.folder / name / "log.jsonl")
    commits = {name: part.pop("provenance")["commit"] for name, part in parts.items()}
    first, second = parts.values()
    points = {
        group: 100.0 * (second["whole"][group]["value"] - first["whole"][group]["value"])
        for group in GROUPS
    }
    return {
        "n": {"training_seeds": 1, "rooms": plan.scenes, "pruned_rooms": plan.pruned},
        "commits": commits,
        "stages": [asdict(stage) for stage in HOUR],
        "training_rooms": plan.rooms,
        "split": "test",
        "level": LEVEL,
        "forms": parts,
        "points": points,
        "bar_points": BAR_POINTS,
        "bar_met": all(points[group] >= -BAR_POINTS for group in BAR),
    }


def _learning(log: Path) -> list[dict[str, Any]]:
    """What validations said while the form was trained, true places fed; [] of none."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [{k: line[k] for k in ("stage", "rooms", "val")} for line in map(json.loads, lines)]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with a sentence for what cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m ada3d_ros.lab.benchmarks.two_backbones", description=__doc__
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the runs")
    add("--json", type=Path, metavar="FILE", help="both forms, once both are there")
    add("--only", choices=BACKBONES, help="one form alone, into --out")
    add("--rooms", type=int, default=1000, help="rendered to learn from (default %(default)s)")
    add("--scenes", type=int, default=200, help="asked about whole (default %(default)s)")
    add("--pruned", type=int, default=40, help="of them asked about pruned (default %(default)s)")
    add("--seed", type=int, default=0, help="of the first weights")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    plan = Plan(options.out, options.rooms, options.scenes, options.pruned, options.seed)
    try:
        _run(plan, options.only, options.json)
    except (Ada3DError, OSError) as error:
        print(f"two_backbones: {error}", file=sys.stderr)
        return 2
    return 0


def _run(plan: Plan, only: str | None, file: Path | None) -> None:
    out = ResultFile(file, device_name(torch.device("cpu")), plan.seed) if file else None
    names = (only,) if only else BACKBONES
    for name in names:
        if not plan.part(name).exists():
            measure_form(plan, name)
    if all(plan.part(name).exists() for name in BACKBONES):
        for name in names:
            if "pruned" not in json.loads(plan.part(name).read_text(encoding="utf-8")):
                prune_form(plan, name)
    if out:
        out.write(side_by_side(plan))


if __name__ == "__main__":
    sys.exit(main())
