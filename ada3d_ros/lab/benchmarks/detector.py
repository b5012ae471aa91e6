"""What a detector costs a keyframe on one core: detecting, lifting, merging.

`python -m ada3d_ros.lab.benchmarks.detector BAG DETECTOR...` runs the steps of the node's list of
objects on a recording's frames, the detectors in turn on each frame. Times are of the process; a
question that comes while a keyframe is looked at waits for one such step at most.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks.spread import Spread, plain
from ada3d_ros.lab.command_line import check_writable, run_verb
from ada3d_ros.lab.evaluation.scenes import open_frames
from ada3d_ros.lab.results import write_results
from ada3d_ros.perception.detector import Detector
from ada3d_ros.perception.lifting import lift_all
from ada3d_ros.perception.object_map import ObjectMap
from ada3d_ros.perception.open_detector import open_detector
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.scene.objects import ObjectMemory
from ada3d_ros.types import RgbdFrame

STEPS = ("detect", "lift", "merge")
EVERY_FRAME: dict[str, object] = {"keyframe.min_translation_m": 0.0, "keyframe.min_rotation_deg": 0}
T = TypeVar("T")


@dataclass(eq=False)
class Times:
    """Milliseconds of process time per step, an entry a keyframe; wall_ms: of the whole; found:
    candidates of all.
    """

    ms: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    wall_ms: list[float] = field(default_factory=list)
    found: int = 0

    def timed(self, step: str, work: Callable[[], T]) -> T:
        """Run it, and note what it took."""
        begun = time.process_time()
        made = work()
        self.ms[step].append((time.process_time() - begun) * 1e3)
        return made

    def row(self) -> dict[str, Any]:
        """Median, least and largest of each step and of all together, and the 95th percentile."""
        total = np.sum([self.ms[step] for step in STEPS], axis=0)
        return {
            "keyframes": len(total),
            "candidates": self.found,
            **{f"{step}_ms": Spread.from_values(self.ms[step]) for step in STEPS},
            "total_ms": Spread.from_values(total.tolist()),
            "total_p95_ms": float(np.quantile(total, 0.95)),
            "wall_ms": Spread.from_values(self.wall_ms),
        }


class Looker:
    """One detector and the list of objects that it makes."""

    def __init__(self, path: str, config: AgentConfig) -> None:
        self.detector: Detector = open_detector(config.detector)
        self.name, self.times = Path(path).name, Times()
        self._config = config
        self.begin()

    def begin(self) -> None:
        """Of a pass over the recording: nothing is known of it."""
        self._buffer = KeyframeBuffer(self._config.keyframe, self._config.world.floor_z)
        least = max(self._config.objects.min_score, self.detector.info.min_score)
        self._map = ObjectMap(self._config.detector.min_views, least)
        self._memory = ObjectMemory(self._config.objects.max_count)

    def take_in(self, frame: RgbdFrame, times: Times) -> None:
        """One frame as a keyframe: the node's own steps."""
        begun = time.perf_counter()
        self._buffer.offer(frame)
        scene = self._buffer.snapshot()
        seen = times.timed("detect", lambda: self.detector.detect(frame))
        detections = () if seen is None else seen.detections
        lifted = times.timed("lift", lambda: lift_all(frame, detections))

        def merge() -> None:
            self._map.add(frame, lifted.candidates)
            self._memory.update(self._map.found(), scene)

        times.timed("merge", merge)
        times.found += len(lifted.candidates)
        times.wall_ms.append((time.perf_counter() - begun) * 1e3)


def measure(
    detectors: Sequence[str], frames: Sequence[RgbdFrame], repetitions: int
) -> dict[str, Any]:
    """Every detector on every frame, in turn, the order reversed every other frame; a first pass
    over a few frames is not counted. Raises DetectorError, ConfigError.
    """
    if repetitions < 1 or not frames:
        raise ConfigError(f"--repetitions {repetitions}, {len(frames)} frames: at least 1 of each.")
    lookers = [
        Looker(path, from_flat({**EVERY_FRAME, "detector.path": path})) for path in detectors
    ]
    for looker in lookers:
        for frame in frames[:3]:
            looker.take_in(frame, Times())
    for _ in range(repetitions):
        for looker in lookers:
            looker.begin()
        for index, frame in enumerate(frames):
            for looker in lookers if index % 2 == 0 else lookers[::-1]:
                looker.take_in(frame, looker.times)
    return {
        "suite": "detector",
        "n": repetitions * len(frames),
        "frames": len(frames),
        "repetitions": repetitions,
        "image": [frames[0].intrinsics.width, frames[0].intrinsics.height],
        "rows": [
            {
                "detector": looker.name,
                "format": looker.detector.info.format,
                "input": looker.detector.info.input_size,
                **looker.times.row(),
            }
            for looker in lookers
        ],
    }


def table(results: dict[str, Any]) -> str:
    """A line for each detector."""
    lines = [f"{'detector':<28}{'detect':>24}{'lift':>22}{'merge':>22}{'all, p95':>10}"]
    for row in results["rows"]:
        cells = [row[f"{step}_ms"] for step in STEPS]
        shown = [f"{c['median']:.1f} [{c['min']:.1f}-{c['max']:.1f}]" for c in cells]
        lines.append(
            f"{row['detector']:<28}{shown[0]:>24}{shown[1]:>22}{shown[2]:>22}"
            f"{row['total_p95_ms']:>10.1f}"
        )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("source", help="a bag or posed folder")
    add("detectors", nargs="+", metavar="DETECTOR", help="as detector.path")
    add("--repetitions", type=int, default=3, help="passes over the recording (default 3)")
    add("--note", default="", help="what else the machine did, for the JSON")
    add("--json", type=Path, help="write the results with their provenance")
    return parser


def run(options: argparse.Namespace) -> None:
    """Measure, print, write. Raises Ada3DError."""
    if options.json:
        check_writable(options.json, "--json")
    torch.set_num_threads(1)
    frames = tuple(open_frames(options.source, AgentConfig()))
    results = plain(measure(options.detectors, frames, options.repetitions))
    results |= {"note": options.note, "load_average_after": os.getloadavg()[0]}
    print(table(results))
    if options.json:
        print(f"wrote {write_results(options.json, results, 'cpu')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with a sentence on stderr."""
    options = build_parser().parse_args(arguments)
    return run_verb("bench-detector", lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
