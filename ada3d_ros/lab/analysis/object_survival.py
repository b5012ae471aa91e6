"""How much of real objects each pruning strategy still holds, beside what it holds of the rest.

`python -m ada3d_ros.lab.analysis.object_survival BAG=OBJECTS ...`, OBJECTS being a JSON file of
boxes or a detector. Every strategy answers through a pipeline of its own; a layer's share of the
objects' voxels is taken from the indices that the layer held for the question.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.object_voxels import (
    ObjectVoxels,
    RealScene,
    held_by_layer,
    object_voxels,
)
from ada3d_ros.lab.analysis.real_objects import read_objects
from ada3d_ros.lab.analysis.survival import UNROPED
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import Spread, plain
from ada3d_ros.lab.command_line import check_writable, parse_list, run_verb
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.evaluation.scene_pruning import remember_views
from ada3d_ros.lab.evaluation.scene_variants import (
    BOTH,
    EACH_QUESTION,
    RANKINGS,
    WHOLE,
    Variant,
    variant,
)
from ada3d_ros.lab.evaluation.scenes import open_frames, read_questions
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, Question

KIND = "ada3d_ros object survival"
KEEP_RATIOS = (0.4, 0.2, 0.1)
SEEDS = (0, 1, 2)
# As published: tokens are dropped for each question, nothing is cached.
DROPPED = (UNROPED, "pdrop", "fastv", "logistic")
CHOSEN = ("random", "uniform", "coarse_voxels", "geo_fps", "voxel_dpp", "cond_dpp")  # before it
WHAT_IT_IS = (
    "The embedded model knows drawn rooms. Its attention is real, the images are real, but nobody"
    " taught it these objects: what is measured is which voxels each strategy keeps, not answers."
)


# -- strategies


def strategies(ratios: Sequence[float], only: str = "") -> list[Variant]:
    """All that `ada3d analyze` and `ada3d eval scene-pruning` know; only: names with commas.

    Raises ConfigError for an unknown name.
    """
    cached = (*RANKINGS, BOTH, *EACH_QUESTION)
    known = [*DROPPED, *(f"{name} before" for name in CHOSEN), *cached]
    names = parse_list(only, str, "--only") if only else known
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigError(f"--only {wrong[0]!r}: not among {', '.join(known)}.")
    return [_strategy(name, ratio) for ratio in ratios for name in names]


def _strategy(name: str, ratio: float) -> Variant:
    if name in DROPPED or name.removesuffix(" before") in CHOSEN:
        settings: dict[str, object] = {
            "pruning.strategy": name.removesuffix(" before"),
            "pruning.keep_ratio": ratio,
            "cache.mode": "paper",
        }
        if name == UNROPED:
            settings["pruning.strategy"] = "adatoken3d"
            settings["pruning.adatoken3d.rank.rope"] = False
        return Variant(name, ratio, settings)
    return variant(name, ratio)


# -- one strategy on one scene


@dataclass(frozen=True, eq=False, slots=True)
class Measuring:
    """What is the same for all rows. seen: views that passed the tower before, added to."""

    model: Path
    config: AgentConfig
    questions: Sequence[str]
    seeds: Sequence[int]
    seen: dict[bytes, torch.Tensor]


def measure(measuring: Measuring, scene: RealScene, chosen: Variant) -> dict[str, Any]:
    """The row of one strategy on one scene, or the sentence that refused it."""
    head = {"scene": scene.name, "strategy": chosen.name, "keep_ratio": chosen.keep_ratio}
    by_seed = "random" in chosen.name
    runs: list[list[npt.NDArray[np.bool_]]] = []
    voxels: ObjectVoxels | None = None
    try:
        for seed in measuring.seeds if by_seed else measuring.seeds[:1]:
            pipeline = _open(measuring, scene, {**chosen.settings, "pruning.seed": seed})
            for question in measuring.questions:
                layers, xyz_m, mode = held_by_layer(pipeline, question)
                voxels = voxels or object_voxels(pipeline, scene.objects, xyz_m)
                runs.append(layers)
                if not _asks_the_question(pipeline, mode):
                    break
    except ConfigError as error:
        return head | {"error": str(error)}
    assert voxels is not None
    return head | {"error": "", **_summary(voxels, runs)}


def _asks_the_question(pipeline: Ada3DPipeline, mode: str) -> bool:
    """Whether what is held depends on the question."""
    policy = pipeline.open_query(Question("objects"), AskHooks())[0].policy
    return mode != "build" and (bool(policy.in_llm) or policy.is_query_conditioned)


def _summary(
    voxels: ObjectVoxels, runs: Sequence[Sequence[npt.NDArray[np.bool_]]]
) -> dict[str, Any]:
    """Shares over the runs: the mean over layers, and those of the last layer."""
    by_layer = [[voxels.shares(kept) for kept in layers] for layers in runs]
    each = [[voxels.of_each(kept) for kept in layers] for layers in runs]
    names = list(by_layer[0][0])
    mean = {n: [float(np.mean([s[n] for s in layers])) for layers in by_layer] for n in names}
    return {
        "n": len(runs),
        "held": {name: Spread.from_values(values) for name, values in mean.items()},
        "last_layer": {
            name: Spread.from_values([layers[-1][name] for layers in by_layer]) for name in names
        },
        "each_object": np.mean(each, axis=(0, 1)).tolist(),
        "lost_whole": _lost_whole(each),
    }


def _lost_whole(each: Sequence[Sequence[Sequence[float]]]) -> Spread:
    """Objects of which the last layer holds no voxel, over the runs."""
    return Spread.from_values([sum(share == 0.0 for share in layers[-1]) for layers in each])


def _open(measuring: Measuring, scene: RealScene, settings: Mapping[str, object]) -> Ada3DPipeline:
    """A pipeline that holds the scene: all its frames offered, those kept that the buffer keeps."""
    others = dict(settings)
    strategy = str(others.pop("pruning.strategy"))
    others["keyframe.max_views"] = measuring.config.keyframe.max_views
    pipeline = open_pipeline(measuring.model, strategy, None, others)
    remember_views(pipeline, measuring.seen)
    for frame in scene.frames:
        pipeline.observe(frame)
    return pipeline


# -- the command


def _show(line: str) -> None:
    print(line, flush=True)


def survey(
    measuring: Measuring,
    scenes: Sequence[RealScene],
    chosen: Sequence[Variant],
    file: ResultFile | None = None,
    show: Callable[[str], None] = _show,
) -> dict[str, Any]:
    """All strategies on all scenes; written and shown row by row."""
    whole = [_open(measuring, scene, WHOLE.settings) for scene in scenes]
    info = whole[0].info
    assert info is not None
    results: dict[str, Any] = {
        "kind": KIND,
        "what_it_is": WHAT_IT_IS,
        "n": sum(len(scene.objects) for scene in scenes),  # objects
        "model": info.name,
        "sha256": info.sha256.split()[0],
        "random_weights": info.random_weights,
        "questions": list(measuring.questions),
        "seeds": list(measuring.seeds),
        "scenes": [_described(*pair) for pair in zip(whole, scenes, strict=True)],
        "rows": [],
    }
    for scene in scenes:
        for each in chosen:
            row = plain(measure(measuring, scene, each))
            results["rows"].append(row)
            show(format_row(row))
            if file is not None:
                file.write(plain(results), complete=False)
    if file is not None:
        file.write(plain(results))
    written: dict[str, Any] = plain(results)
    return written


def _described(pipeline: Ada3DPipeline, scene: RealScene) -> dict[str, Any]:
    """The scene in numbers: its objects, and how many voxels hold something of each."""
    _, xyz_m, _ = held_by_layer(pipeline, "objects")
    voxels = object_voxels(pipeline, scene.objects, xyz_m)
    objects = [
        {
            "label": box.label,
            "center_m": box.center_m,
            "size_m": box.size_m,
            "yaw_rad": box.yaw_rad,
            "voxels": int((patches > 0).sum()),
            "patches": int(patches.sum()),
        }
        for box, patches in zip(scene.objects, voxels.patches, strict=True)
    ]
    return {
        "name": scene.name,
        "views": len(pipeline.scene.frames),
        "spatial_tokens": len(xyz_m),
        "voxel_size_m": pipeline.model.model.config.voxel_size_m,
        "object_voxels": int(voxels.of_any.sum()),
        "objects": objects,
    }


def format_row(row: Mapping[str, Any]) -> str:
    """'desk  prompts  0.4  objects .46 (.44 to .48)  background .39'."""
    head = f"{row['scene']:<10} {row['strategy']:<27} {row['keep_ratio']:<4g}"
    if row["error"]:
        return f"{head} {row['error']}"
    held, last = row["held"], row["last_layer"]
    inside = held["objects"]
    return (
        f"{head} objects {inside['median']:.2f} ({inside['min']:.2f} to {inside['max']:.2f})"
        f" background {held['background']['median']:.2f}; last layer"
        f" {last['objects']['median']:.2f} / {last['background']['median']:.2f}, whole objects lost"
        f" {row['lost_whole']['median']:g}; n={row['n']}"
    )


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "scenes",
        nargs="+",
        metavar="NAME=SOURCE=OBJECTS",
        help="a bag or posed folder, and its objects: a JSON file of boxes, or a detector",
    )
    add("--model", type=Path, default=embedded_model_path(), help="checkpoint folder")
    add("--keep", default=",".join(f"{ratio:g}" for ratio in KEEP_RATIOS), help="with commas")
    add("--only", default="", help="strategies with commas (default: all)")
    add("--seeds", default=",".join(map(str, SEEDS)), help="of random strategies, with commas")
    add("--questions", type=Path, help="text file, one a line (default: six about rooms)")
    add("--json", type=Path, help="write the results with their provenance")
    return parser


def _read(text: str, config: AgentConfig) -> RealScene:
    """A scene of the command line. Raises ConfigError, SourceError, DetectorError."""
    parts = text.split("=")
    if len(parts) != 3 or not all(parts):
        raise ConfigError(f"{text!r} is not NAME=SOURCE=OBJECTS.")
    name, source, objects = parts
    frames = tuple(open_frames(source, config))
    return RealScene(name, frames, tuple(read_objects(objects, frames)))


def run(options: argparse.Namespace) -> None:
    """Measure, show, write. Raises Ada3DError."""
    if options.json:
        check_writable(options.json, "--json")
    config, seeds = AgentConfig(), parse_list(options.seeds, int, "--seeds")
    ratios = parse_list(options.keep, float, "--keep")
    chosen = strategies(ratios, options.only)
    torch.set_num_threads(1)
    scenes = [_read(text, config) for text in options.scenes]
    questions = read_questions(options.questions)
    measuring = Measuring(options.model, config, questions, seeds, {})
    file = None
    if options.json:
        file = ResultFile(options.json, device_name(torch.device("cpu")), seeds[0])
    survey(measuring, scenes, chosen, file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with a sentence on stderr."""
    options = build_parser().parse_args(arguments)
    return run_verb("object-survival", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
