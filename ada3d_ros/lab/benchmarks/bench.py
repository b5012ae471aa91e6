"""`ada3d bench`: ratios against a baseline in the same process, interleaved, with spread; JSON with
provenance.

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
    """One run: seconds of wall time, and of this process's CPU time (what a busy machine does not
    change).
    """

    wall_s: float
    cpu_s: float

    def of(self, device: torch.device) -> float:
        """The one that ratios are made of."""
        return self.cpu_s if device.type == "cpu" else self.wall_s


def timed(run: Callable[[], Any], device: torch.device) -> Timing:
    """Run once; the device is synchronised before and behind it."""
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
    """Each repetition runs every variant once, the order reversed every other time; so what the
    machine does meanwhile meets all alike.
    """
    times: dict[str, list[Timing]] = {name: [] for name in variants}
    rounds = [(False, list(variants))] * warm_ups
    rounds += [
        (True, list(variants) if n % 2 == 0 else list(variants)[::-1]) for n in range(repetitions)
    ]
    with tqdm(total=len(rounds) * len(variants), unit="run", desc=label) as progress:
        for counts, names in rounds:
            for name in names:
                timing = timed(variants[name], device)
                if counts:
                    times[name].append(timing)
                progress.update()
    return times


def ratio_of(times: Sequence[Timing], baseline: Sequence[Timing], device: torch.device) -> Spread:
    """Repetition by repetition."""
    return Spread.from_values(
        [a.of(device) / b.of(device) for a, b in zip(times, baseline, strict=True)]
    )


SUITES = {  # name: what it measures
    "pruning": "strategies against the unpruned prefill (default)",
    "cold-warm": (
        "a question that brings the scene along against one on the cached scene, and transformers"
    ),
    "batch": "questions answered together against one after the other",
    "decode": "time per token against the memory's floor and transformers",
    "memory": "what fits, and model.weights int8 and int4 against full",
    "scene-update": "what a new keyframe costs a cached scene",
    "many-questions": "31 questions a scene, cold against behind the cached scene",
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


def main(argv: Sequence[str]) -> int:
    """`ada3d bench`: returns 0; 2 with a sentence on stderr where something is missing or out of
    range.
    """
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
    parser.add_argument(
        "--repetitions",
        type=int,
        help="interleaved rounds after one warm-up (default 5; 20 on cuda)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and scene (default 0)")
    parser.add_argument("--json", type=Path, help="write the results with their provenance")
    options = parser.parse_args(list(argv))

    def work() -> None:
        device = resolve_device(options.device)
        if options.repetitions is not None and options.repetitions < 1:
            raise ConfigError(f"--repetitions {options.repetitions}: at least 1 is needed.")
        if options.stride < 1:
            raise ConfigError(f"--stride {options.stride}: at least 1 is needed.")
        if options.json:
            check_writable(options.json, "--json")
        if device.type == "cpu":
            torch.set_num_threads(
                1
            )  # two threads on a shared machine wait for each other: 30 times the spread
        torch.manual_seed(options.seed)
        results = run_suite(options.suite, options, device)
        results["load_average_after"] = os.getloadavg()[0]
        if options.json:
            print(
                "wrote"
                f" {write_results(options.json, plain(results), device_name(device), options.seed)}"
            )

    return run_verb("bench", work)
