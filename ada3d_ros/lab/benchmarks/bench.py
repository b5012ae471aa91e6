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
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.model.startup import resolve_device

Save = Callable[[dict[str, Any]], None]  # takes the results of a suite as far as they are
Times = dict[str, list["Timing"]]  # of each variant


def ignore(results: dict[str, Any]) -> None:
    """Saves nothing."""


class Rows:
    """The rows of one suite, saved behind its head as they come; head may still be filled."""

    def __init__(self, head: dict[str, Any], save: Save) -> None:
        self.head, self.rows = head, list[dict[str, Any]]()
        self._save = save

    @property
    def results(self) -> dict[str, Any]:
        """The head and the rows added."""
        return {**self.head, "rows": self.rows}

    def show(self, found: Sequence[dict[str, Any]]) -> None:
        """Save rows that are not final behind those that are."""
        self._save({**self.head, "rows": [*self.rows, *found]})

    def add(self, found: Sequence[dict[str, Any]]) -> None:
        """Rows that are final."""
        self.rows += found
        self.show([])


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
    after_round: Callable[[Times], None] | None = None,
) -> Times:
    """Each repetition runs every variant once, the order reversed every other time.

    So what the machine does meanwhile meets all alike. Warm-ups are run and not counted.
    after_round: gets the times so far after each repetition, to save what there is.
    """
    times: Times = {name: [] for name in variants}
    forward = list(variants)
    rounds = [(False, forward)] * warm_ups
    rounds += [(True, forward if n % 2 == 0 else forward[::-1]) for n in range(repetitions)]
    with tqdm(total=len(rounds) * len(variants), unit="run", desc=label, disable=None) as progress:
        for is_counted, names in rounds:
            for name in names:
                timing = timed(variants[name], device)
                if is_counted:
                    times[name].append(timing)
                progress.update()
            if is_counted and after_round is not None:
                after_round(times)
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
    "default": "the scene pruned while it is built, as the node does, against the whole scene",
    "pruning": "strategies against the unpruned prefill (default)",
    "cold-warm": (
        "a question that brings the scene along against one on the cached scene, and transformers"
    ),
    "batch": "questions answered together against one after the other",
    "decode": "time per token against the memory's floor and transformers",
    "loading": "a checkpoint in shards against reading its bytes",
    "memory": "what fits, and model.weights int8 and int4 against full",
    "scene-update": "what a new keyframe costs a cached scene",
    "many-questions": "31 questions a scene, cold against warm (the scene cached)",
    "device": "what the device gives: copy and matmul speed, launches, graphs, memory",
    "same": "the embedded model's answers on this device against a CPU's",
}

OF_LLAVA3D = ("loading", "scene-update", "same")  # suites about its files, views or weights


def run_suite(
    name: str, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """Run one of SUITES; what goes into the JSON."""
    from ada3d_ros.lab.benchmarks.shapes import choose_shape

    if options.backbone != "llava3d" and name in OF_LLAVA3D:
        raise ConfigError(
            f"--suite {name} measures LLaVA-3D alone: take --backbone llava3d, or one of"
            f" {', '.join(suite for suite in SUITES if suite not in OF_LLAVA3D)}."
        )
    suite = importlib.import_module(f"ada3d_ros.lab.benchmarks.{name.replace('-', '_')}")
    shape = choose_shape(options.shape, device, options.spatial, options.backbone)
    results: dict[str, Any] = suite.run_shape(shape, options, device, save)
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
            " minutes on one core. The JSON is written again as rows come in, with `complete` false"
            " until the end."
        ),
        epilog=(
            "Shapes: A d=1024 L=8 N=2560 and B d=1024 L=32 N=595 (a quarter of the 7B in every"
            " size), C d=512 L=32 N=290 (an eighth); W the 7B's own widths with 4 layers, N=1659"
            " (seven minutes on one core); 7B: LLaVA-3D-7B with its vision tower, N 850, 1700,"
            " 2560, for a CUDA GPU; embedded: the embedded model's own weights, N=480. With"
            " --backbone video3dllm: A d=896 L=7 N=3136, B d=896 L=28 N=1568 (a quarter of Qwen2-7B"
            " in every size, one KV head), C d=448 L=28 N=784 (an eighth), W the 7B's widths with 4"
            " layers, N=1568; 7B: N 1960, 3920, 6272, without a vision tower. Example:"
            " ada3d bench --suite pruning --shape B --json docs/results/pruning_B.json"
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
        "--backbone",
        default="llava3d",
        choices=("llava3d", "video3dllm"),
        help="whose sizes: LLaVA-3D's (LLaMA) or Video-3D-LLM's (Qwen2, default llava3d)",
    )
    parser.add_argument(
        "--shape",
        choices=("A", "B", "C", "W", "7B", "embedded"),
        help="sizes of the model (default: 7B on cuda, C on cpu)",
    )
    parser.add_argument(
        "--spatial", type=int, metavar="N", help="one scene of N tokens, not the shape's own"
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
        "--strategy",
        "--strategies",
        default="",
        help="names with commas (default: all, and voxel_dpp+adatoken3d)",
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

    # Written as rows come in: what breaks off the run loses what comes after.
    file = ResultFile(options.json, device_name(device), options.seed) if options.json else None

    def save(results: dict[str, Any]) -> None:
        if file is not None:
            file.write(plain(results), complete=False)

    results = run_suite(options.suite, options, device, save)
    results["load_average_after"] = os.getloadavg()[0]
    if file is not None:
        print(f"wrote {file.write(plain(results))}")


def main(argv: Sequence[str]) -> int:
    """`ada3d bench`: returns 0; 2 with a sentence on stderr for what is missing or out of range."""
    options = build_parser().parse_args(list(argv))
    return run_verb("bench", lambda: run(options))
