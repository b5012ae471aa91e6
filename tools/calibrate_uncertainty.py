#!/usr/bin/env python3
"""The factors of geometry/measure/uncertainty.py, and how well those in force cover new rooms.

    python tools/calibrate_uncertainty.py [--scenes 60] [--split val] [--model FOLDER] [--json FILE]

Rooms of both levels. `factor` is what the split asks for; `stated` and `coverage` are of the one in
force. Factors are taken from val, coverage is checked on test.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import both_levels

from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.lab.evaluation.selection import rooms_of
from ada3d_ros.lab.evaluation.uncertainty import Errors, measure_rooms

KINDS = ("SURFACES", "CENTERS", "PLAN", "EXTENT", "TOP", "PLACE")


def main() -> None:
    options = both_levels.parsed(__doc__)
    pipeline = both_levels.measuring_pipeline(options)
    selections = [both_levels.selection_of(options, level) for level in both_levels.LEVELS]
    per_level = [
        measure_rooms(pipeline, rooms_of(selection, pipeline.view_side)) for selection in selections
    ]
    levels = [errors.summary() for errors in per_level]
    for level, summary in zip(both_levels.LEVELS, levels, strict=True):
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
    pairs = sum(int(level["pairs"]) for level in levels)
    both_levels.write(options, pairs, {"levels": levels, "kinds": kinds})


if __name__ == "__main__":
    main()
