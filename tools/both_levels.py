"""What tools share that measure drawn rooms of both levels: their options, the pipeline, the rooms,
and the file of results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.evaluation.selection import RoomSelection
from ada3d_ros.lab.results import require_citable, write_results
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline

LEVELS = (1, 2)


def parsed(description: str | None) -> argparse.Namespace:
    """The options. Raises ConfigError for --json in docs/results of a tree that is not clean."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scenes", type=int, default=60, help="rooms of each level")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--seed", type=int, default=3, help="which rooms")
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: embedded)")
    parser.add_argument("--json", type=Path, help="also write the results")
    options = parser.parse_args()
    if options.json:
        require_citable(options.json)
    return options


def measuring_pipeline(options: argparse.Namespace) -> Ada3DPipeline:
    """Unpruned, on one thread."""
    torch.set_num_threads(1)
    model = options.model or embedded_model_path()
    return open_pipeline(model, "none", None, {"question.measure": True})


def selection_of(options: argparse.Namespace, level: int) -> RoomSelection:
    return RoomSelection(options.split, options.seed, options.scenes, level)


def write(options: argparse.Namespace, count: int, results: dict[str, Any]) -> None:
    """Where --json says, if it does; count: how many were measured."""
    if options.json:
        told = {"split": options.split, "scenes": options.scenes, "n": count} | results
        print(f"wrote {write_results(options.json, told, 'cpu', options.seed)}")
