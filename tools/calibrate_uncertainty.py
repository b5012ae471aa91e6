#!/usr/bin/env python3
"""The factors of geometry/measure/uncertainty.py, and how well those in force cover new rooms.

    python tools/calibrate_uncertainty.py [--scenes 60] [--split val] [--model FOLDER]

Rooms of both levels. `factor` is what the split asks for; `stated` and `coverage` are of the one in
force. Factors are taken from val, coverage is checked on test.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

import torch

from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.uncertainty import Errors, measure_rooms
from ada3d_ros.model.startup import embedded_model_path

KINDS = ("SURFACES", "CENTERS", "PLAN", "EXTENT", "TOP", "PLACE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60, help="rooms of each level")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--seed", type=int, default=3, help="which rooms")
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: embedded)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = options.model or embedded_model_path()
    pipeline = open_pipeline(model, "none", None, {"question.measure": True})
    selections = [
        RoomSelection(options.split, options.seed, options.scenes, level) for level in (1, 2)
    ]
    per_level = [
        measure_rooms(pipeline, rooms_of(selection, pipeline.view_side)) for selection in selections
    ]
    for level, errors in zip((1, 2), per_level, strict=True):
        print(f"level {level}: ", {k: round(v, 3) for k, v in errors.summary().items()})
    both = Errors()
    for kind in KINDS:
        both.by_kind[kind] = list(chain(*(errors.by_kind[kind] for errors in per_level)))
        shares = ", ".join(f"{errors.coverage(kind):.3f}" for errors in per_level)
        print(
            f"{kind:9s} factor {both.factor(kind):.2f} (in force {getattr(uncertainty, kind):.2f}),"
            f" stated {both.half_width_m(kind):.3f} m at the median, coverage {shares}"
        )


if __name__ == "__main__":
    main()
