#!/usr/bin/env python3
"""The factors of geometry/measure/uncertainty.py, and how well those in force cover new rooms.

    python tools/calibrate_uncertainty.py [--scenes 60] [--split val] [--model FOLDER] [--json FILE]

Rooms of both levels. `factor` is what the split asks for; `stated` and `coverage` are of the one in
force. Factors are taken from val, coverage is checked on test.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.uncertainty import Errors, measure_rooms
from ada3d_ros.lab.results import require_citable, write_results
from ada3d_ros.model.startup import embedded_model_path

KINDS = ("SURFACES", "CENTERS", "PLAN", "EXTENT", "TOP", "PLACE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60, help="rooms of each level")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--seed", type=int, default=3, help="which rooms")
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: embedded)")
    parser.add_argument("--json", type=Path, help="also write the results, as docs/measures.md has")
    options = parser.parse_args()
    if options.json:
        require_citable(options.json)
    torch.set_num_threads(1)
    model = options.model or embedded_model_path()
    pipeline = open_pipeline(model, "none", None, {"question.measure": True})
    selections = [
        RoomSelection(options.split, options.seed, options.scenes, level) for level in (1, 2)
    ]
    per_level = [
        measure_rooms(pipeline, rooms_of(selection, pipeline.view_side)) for selection in selections
    ]
    levels = [errors.summary() for errors in per_level]
    for level, summary in zip((1, 2), levels, strict=True):
        print(f"level {level}: ", {k: round(v, 3) for k, v in summary.items()})
    both, kinds = Errors(), dict[str, dict[str, Any]]()
    for kind in KINDS:
        both.by_kind[kind] = list(chain(*(errors.by_kind[kind] for errors in per_level)))
        kinds[kind] = {
            "factor": both.factor(kind),
            "in_force": getattr(uncertainty, kind).model,
            "stated_m": both.half_width_m(kind),
            "coverage": [errors.coverage(kind) for errors in per_level],
            "n": [len(errors.by_kind[kind]) for errors in per_level],
        }
        found, shares = kinds[kind], (f"{errors.coverage(kind):.3f}" for errors in per_level)
        print(
            f"{kind:9s} factor {found['factor']:.2f} (in force {found['in_force']:.2f}),"
            f" stated {found['stated_m']:.3f} m at the median, coverage {', '.join(shares)}"
        )
    if options.json:
        pairs = sum(int(level["pairs"]) for level in levels)
        results: dict[str, Any] = {"split": options.split, "scenes": options.scenes, "n": pairs}
        results |= {"levels": levels, "kinds": kinds}
        print(f"wrote {write_results(options.json, results, 'cpu', options.seed)}")


if __name__ == "__main__":
    main()
