"""`ada3d bench`: ratios against a baseline in the same process, with spread and provenance.

On a CPU one thread is used and ratios are of process time, since machines are shared; on a GPU wall
time with the device synchronised. Absolute times are reported, never judged. The suites are in
modules of their own.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ada3d_ros.engine.timing import synchronize
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks.spread import Spread, plain
from ada3d_ros.lab.command_line import check_writable, run_verb
from ada3d_ros.lab.results import write_results
from ada3d_ros.model.startup import resolve_device


@dataclass(frozen=True, slots=True)
class Timing:
    """One run in seconds: wall time, and CPU time of this process, whatever else is running."""

    wall_s: float
    cpu_s: float

    def seconds(self, device: torch.device) -> float:
        """The one that ratios are made of."""
        return self.cpu_s if device.type == "cpu" else self.wall_s

    def __add__(self, other: Timing) -> Timing:
        return Timing(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def __mul__(self, factor: float) -> Timing:
        return Timing(self.wall_s * factor, self.cpu_s * factor)

    def __truediv__(self, count: float) -> Timing:
        return Timing(self.wall_s / count, self.cpu_s / count)


def timed(run: Callable[[], Any], device: torch.device) -> Timing:
    """Run once; the device is synchronised before and after."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    synchronize(device)
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    variants: Mapping[str, Callable[[], Any]],
    repetitions: int,
    device: torch.device,
    warm_ups: int = 1,
    label: str = "",
) -> dict[str, list[Timing]]:
    """Each repetition runs every variant once, the order reversed every other time.

    So what the machine does meanwhile meets all alike. Warm-ups are run and not counted.
    """
    times: dict[str, list[Timing]] = {name: [] for name in variants}
    forward = list(variants)
    rounds = [(False, forward)] * warm_ups
    rounds += [(True, forward if n % 2 == 0 else forward[::-1]) for n in range(repetitions)]
    with tqdm(total=len(rounds) * len(variants), unit="run", desc=label) as progress:
        for is_counted, names in rounds:
            for name in names:
                timing = timed(variants[name], device)
                if is_counted:
                    times[name].append(timing)
                progress.update()
    return times


def ratio_of(times: Sequence[Timing], baseline: Sequence[Timing], device: torch.device) -> Spread:
    """Repetition by repetition."""
    pairs = zip(times, baseline, strict=True)
    return Spread.from_values([a.seconds(device) / b.seconds(device) for a, b in pairs])


def milliseconds(times: Sequence[Timing], device: torch.device) -> Spread:
    """Of the time that ratios are made of."""
    return Spread.from_values([t.seconds(device) * 1e3 for t in times])


def wall_milliseconds(times: Sequence[Timing]) -> Spread:
    """Of wall time."""
    return Spread.from_values([t.wall_s * 1e3 for t in times])


SUITES = {  # name: what it measures
    "pruning": "strategies against the unpruned prefill (default)",
    "cold-warm": (
        "a question that brings the scene along against one on the cached scene, and transformers"
    ),
    "batch": "questions answered together against one after the other",
    "decode": "time per token against the memory's floor and transformers",
    "memory": "what fits, and model.weights int8 and int4 against full",
    "scene-update": "what a new keyframe costs a cached scene",
    "many-questions": "31 questions a scene, cold against warm (the scene cached)",
}


def run_suite(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Run one of SUITES; what goes into the JSON."""
    from ada3d_ros.lab.benchmarks.models import choose_shape

    suite = importlib.import_module(f"ada3d_ros.lab.benchmarks.{name.replace('-', '_')}")
    results: dict[str, Any] = suite.run_shape(choose_shape(options.shape, device), options, device)
    return results


def device_name(device: torch.device) -> str:
    """'cpu', or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def build_parser() -> argparse.ArgumentParser:
    """The arguments of `ada3d bench`."""
    parser = argparse.ArgumentParser(
        prog="ada3d bench",
        description=(
            "Measures this package against baselines in the same process, interleaved, with random"
            " weights (times are real, answers mean nothing). A shape on a CPU takes one to five"
            " minutes on one core."
        ),
        epilog=(
            "Shapes: A d=1024 L=8 N=2560 and B d=1024 L=32 N=595 (a quarter of the 7B in every"
            " size), C d=512 L=32 N=290 (an eighth); W the 7B's own widths with 4 layers, N=1659"
            " (seven minutes on one core); 7B: LLaVA-3D-7B with its vision tower, N 850, 1700,"
            " 2560, for a CUDA GPU. Example: ada3d bench --suite pruning --shape B --json"
            " docs/results/pruning_B.json"
        ),
    )
    # What is measured, and where.
    parser.add_argument(
        "--suite",
        default="pruning",
        choices=tuple(SUITES),
        help="; ".join(f"{n}: {w}" for n, w in SUITES.items()),
    )
    parser.add_argument(
        "--shape",
        choices=("A", "B", "C", "W", "7B"),
        help="sizes of the model (default: 7B on cuda, C on cpu)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp32"),
        help="auto: bf16 on cuda and on processors that have it, except shape C (default auto)",
    )
    # Of the suite `pruning`; `decode` takes the first keep ratio.
    parser.add_argument("--keep-ratio", default="0.37,0.2", help="with commas (default 0.37,0.2)")
    parser.add_argument(
        "--strategy", default="", help="names with commas (default: all, and voxel_dpp+adatoken3d)"
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=10,
        help="of queries when information is measured (default 10)",
    )
    # How often, from which seed, and where the results go.
    parser.add_argument(
        "--repetitions",
        type=int,
        help="interleaved rounds after one warm-up (default 5; 20 on cuda)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and scene (default 0)")
    parser.add_argument("--json", type=Path, help="write the results with their provenance")
    return parser


def run(options: argparse.Namespace) -> None:
    """Measure one suite and write its file. Raises ConfigError for an argument out of range."""
    # Check everything before the long part begins.
    device = resolve_device(options.device)
    if options.repetitions is not None and options.repetitions < 1:
        raise ConfigError(f"--repetitions {options.repetitions}: at least 1 is needed.")
    if options.stride < 1:
        raise ConfigError(f"--stride {options.stride}: at least 1 is needed.")
    if options.json:
        check_writable(options.json, "--json")

    # Two threads on a shared machine wait for each other: 30 times the spread.
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(options.seed)

    results = run_suite(options.suite, options, device)
    results["load_average_after"] = os.getloadavg()[0]
    if options.json:
        path = write_results(options.json, plain(results), device_name(device), options.seed)
        print(f"wrote {path}")


def main(argv: Sequence[str]) -> int:
    """`ada3d bench`: returns 0; 2 with a sentence on stderr for what is missing or out of range."""
    options = build_parser().parse_args(list(argv))
    return run_verb("bench", lambda: run(options))
