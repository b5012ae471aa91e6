"""Training time to the same validation accuracy, pruned against unpruned.

`python -m ada3d_ros.lab.benchmarks.pruned_training --out RUN --json FILE` trains a small form of
the embedded model. It learns from a few true points first, where nothing can be pruned. From these
weights two copies a seed learn from pictures, one on all spatial tokens and one on those that
AdaToken-3D keeps; a seed is the order of the rooms, how they are turned, and what is asked. All
copies take their steps in turns in one process, so that a load of the machine falls on all. The
tower is the shipped one and stays as it is, so its features are kept; the clock is the process's
CPU time of forward pass, backward pass and optimisers. Each copy is validated as it is trained. The
same command goes on where it was stopped, and `--minutes` ends it where it stands; every copy is
exported in the end, to be evaluated as any checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import Spread, plain
from ada3d_ros.lab.benchmarks.time_to_accuracy import (
    PRUNED,
    UNPRUNED,
    Point,
    compared,
    compared_by_loss,
)
from ada3d_ros.lab.command_line import parse_list
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.lab.train.batches import autocast, batch_loss, draw_rooms, encode
from ada3d_ros.lab.train.export import export_model
from ada3d_ros.lab.train.optimizers import Optimizers, learning_rate
from ada3d_ros.lab.train.run import planned_pruner, run_stage
from ada3d_ros.lab.train.session import Session, open_session, save_state, trained_parameters
from ada3d_ros.lab.train.stages import Stage
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.lab.world.rooms import NUM_VIEWS
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.model.vision import VisionTower

START = (  # all copies begin with the weights that these come to
    Stage("symbolic", "symbolic", 1_000, 4, 22, 2e-3, per_object=1, background=3),
    Stage("points", "symbolic", 1_000, 4, 22, 1.5e-3, per_object=5, background=16),
)
MEASURED = Stage("features", "features", 160, 2, 24, 2e-3)
LEVEL = 1  # of the rooms
VAL_ROOMS = 12
VALIDATE_EVERY = 10  # steps
LEVELS = (0.42, 0.44, 0.46, 0.48, 0.5, 0.55, 0.6)
SHARE_OF_FINAL = 0.95  # of what the unpruned copy comes to: the level of the headline
TRIALS = (1, 24)  # questions a room whose step is timed alone
TRIAL_STEPS = 6


@dataclass(eq=False)
class Copy:
    """One model that learns, of a seed: the seconds of its steps so far, and its validations."""

    name: str
    seed: int
    session: Session
    optimizers: Optimizers
    seconds: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


class KeptTower:
    """A tower that stays as it is, and the features of the pictures that it has seen."""

    def __init__(self, tower: VisionTower) -> None:
        self.state = tower.state_dict()
        self._seen: dict[bytes, torch.Tensor] = {}

    def install(self, session: Session) -> None:
        """The session's model gets these weights, and remembers with all others that have them."""
        model = session.model
        model.vision.load_state_dict(self.state)
        plainly = model.encode_views

        def remembered(pixels: torch.Tensor) -> torch.Tensor:
            return torch.cat([features_of(room) for room in pixels.split(NUM_VIEWS[LEVEL])])

        def features_of(room: torch.Tensor) -> torch.Tensor:
            key = room.numpy().tobytes()
            if key not in self._seen:
                self._seen[key] = plainly(room)
            return self._seen[key]

        model.encode_views = remembered  # type: ignore[method-assign]


# -- the run


class Run:
    """The common start and the copies of every seed, in one folder."""

    def __init__(self, folder: Path, seeds: Sequence[int], keep_ratio: float) -> None:
        self.folder, self.seeds, self.keep_ratio = folder, seeds, keep_ratio
        self.start = open_session(folder / "start", LEVEL, MEASURED.rooms, Workers("cpu"), 0)
        self.copies: list[Copy] = []

    def train_start(self) -> None:
        """The first stages, without pictures; done stages are left out."""
        for stage in START:
            run_stage(self.start, stage, math.inf)

    def open_copies(self) -> None:
        """From the weights of the start, or from where they were stopped."""
        tower = KeptTower(load_model(embedded_model_path()).llava3d.vision)
        saved = torch.load(self._saved, weights_only=True) if self._saved.exists() else {}
        for seed in self.seeds:
            for name in (UNPRUNED, PRUNED):
                copy = self._new_copy(name, seed, tower)
                if _key(copy) in saved:
                    _restore(copy, saved[_key(copy)])
                self.copies.append(copy)

    def _new_copy(self, name: str, seed: int, tower: KeptTower) -> Copy:
        folder, start = self.folder / f"seed{seed}" / name, self.start
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(start.folder / "tokenizer.model", folder / "tokenizer.model")
        session = open_session(folder, LEVEL, MEASURED.rooms, start.workers, 0)
        session.galleries, session.seen = start.galleries, dict(start.seen)
        session.model.load_state_dict(start.model.state_dict())
        session.head.load_state_dict(start.head.state_dict())
        tower.install(session)
        if name == PRUNED:
            session.pruner = planned_pruner(session.model, self.keep_ratio)
        return Copy(name, seed, session, Optimizers(trained_parameters(session, MEASURED)))

    @property
    def _saved(self) -> Path:
        return self.folder / "copies.pt"

    def save(self) -> None:
        """All copies in one move, so that they always stand at the same step."""
        content = {
            _key(copy): {
                "model": copy.session.model.state_dict(),
                "head": copy.session.head.state_dict(),
                "optimizers": copy.optimizers.state(),
                "seconds": copy.seconds,
                "points": [asdict(point) for point in copy.points],
            }
            for copy in self.copies
        }
        part = self._saved.with_suffix(".tmp")
        torch.save(content, part)
        part.replace(self._saved)

    def train(self, until: float) -> None:
        """Step by step in turns, validated and saved; until: monotonic seconds."""
        steps = MEASURED.rooms // MEASURED.batch
        for step in range(len(self.copies[0].seconds), steps):
            if self.start.stopped or time.monotonic() > until:
                return
            if not self.copies[0].points:
                self.validate()
            for copy in self.copies if step % 2 else reversed(self.copies):
                train_step(copy, step, copy.seed * steps)
            if (step + 1) % VALIDATE_EVERY == 0 or step + 1 == steps:
                self.validate()

    def validate(self) -> None:
        """All copies, then they are saved."""
        for copy in self.copies:
            copy.points.append(validate(copy))
            last = copy.points[-1]
            print(
                f"seed {copy.seed} {copy.name}: {last.rooms} rooms, {last.seconds:.0f} s,"
                f" {last.right}/{last.asked} right, loss {last.loss:.3f}",
                flush=True,
            )
        self.save()

    def export(self) -> None:
        """Each copy as a checkpoint folder `model` with its head."""
        for copy in self.copies:
            session = copy.session
            session.seen[MEASURED.name] = copy.points[-1].rooms
            save_state(session, MEASURED, copy.optimizers)
            folder = session.folder
            export_model(folder, folder / "model", 0.5, session.llava3d, session.head)


def _key(copy: Copy) -> str:
    return f"{copy.seed} {copy.name}"


def _restore(copy: Copy, saved: dict[str, Any]) -> None:
    copy.session.model.load_state_dict(saved["model"])
    copy.session.head.load_state_dict(saved["head"])
    copy.optimizers.load(saved["optimizers"])
    copy.seconds = list(saved["seconds"])
    copy.points = [Point(**point) for point in saved["points"]]


def train_step(copy: Copy, step: int, first: int) -> None:
    """One timed step on batch `first + step`, whose features are there already."""
    number, session = first + step, copy.session
    _have_features(session, "train", number)
    started = time.process_time()
    with autocast(session):
        loss, _, _ = batch_loss(session, MEASURED, "train", number)
    loss.backward()
    progress = step * MEASURED.batch / MEASURED.rooms
    copy.optimizers.step(learning_rate(MEASURED, step, progress))
    copy.seconds.append(time.process_time() - started)


def _have_features(session: Session, split: str, number: int) -> None:
    """Have the features of a batch's pictures, untimed."""
    _, _, rgb = draw_rooms(session, MEASURED, split, number, 0)
    assert rgb is not None
    with autocast(session):
        encode(session, MEASURED, rgb)


@torch.no_grad()
def validate(copy: Copy) -> Point:
    """Exact matches on rooms of validation, with the tokens that the copy is trained on."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    losses = []
    for number in range(VAL_ROOMS // MEASURED.batch):
        with autocast(copy.session):
            _, parts, answers = batch_loss(copy.session, MEASURED, "val", number)
        losses.append(parts["answer"])
        for kind, values in answers.items():
            right[kind] += sum(values)
            asked[kind] += len(values)
    kinds = {kind: (right[kind], asked[kind]) for kind in sorted(asked)}
    rooms = len(copy.seconds) * MEASURED.batch
    loss = sum(losses) / len(losses)
    return Point(rooms, sum(copy.seconds), right.total(), asked.total(), kinds, loss)


# -- what comes of it


def seed_results(unpruned: Copy, pruned: Copy) -> dict[str, Any]:
    """Curves, seconds of a step and their ratio, and time to each level."""
    final = unpruned.points[-1]
    level = SHARE_OF_FINAL * final.accuracy
    ratios = [b / a for a, b in zip(unpruned.seconds, pruned.seconds, strict=True)]
    pair = (unpruned, pruned)
    return {
        "seed": unpruned.seed,
        "points": {copy.name: [asdict(point) for point in copy.points] for copy in pair},
        "step_s": {copy.name: Spread.from_values(copy.seconds) for copy in pair},
        "step_ratio": Spread.from_values(ratios),
        "headline": compared(unpruned.points, pruned.points, level),
        "levels": [compared(unpruned.points, pruned.points, level) for level in LEVELS],
        "losses": compared_by_loss(unpruned.points, pruned.points),
    }


def time_steps(copies: Sequence[Copy]) -> list[dict[str, Any]]:
    """What a step's passes take with few and many questions a room, in turns, and their FLOPs;
    nothing is learned. On the true labels of the patches: no tower, nothing of its log.
    """
    rows = []
    for questions in TRIALS:
        stage = Stage("trial", "oracle", MEASURED.rooms, MEASURED.batch, questions, 0.0)
        seconds: dict[str, list[float]] = {copy.name: [] for copy in copies}
        for number in range(TRIAL_STEPS):
            for copy in copies if number % 2 else reversed(copies):
                seconds[copy.name].append(_passes(copy, stage, number))
        flops = {}
        for copy in copies:
            # The fused kernel is not counted; spelled out, scores are the full square.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                _passes(copy, stage, 0)
            flops[copy.name] = counter.get_total_flops()
        ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
        rows.append(
            {
                "questions": questions,
                "step_s": {name: Spread.from_values(values) for name, values in seconds.items()},
                "step_ratio": Spread.from_values(ratios),
                "flops": flops,
                "flop_ratio": flops[PRUNED] / flops[UNPRUNED],
            }
        )
    return rows


def _passes(copy: Copy, stage: Stage, number: int) -> float:
    """Seconds of one forward and backward pass; the gradients are thrown away."""
    started = time.process_time()
    with autocast(copy.session):
        loss, _, _ = batch_loss(copy.session, stage, "train", number)
    loss.backward()
    passed = time.process_time() - started
    for parameter in copy.optimizers.parameters:
        parameter.grad = None
    return passed


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with a sentence for a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m ada3d_ros.lab.benchmarks.pruned_training", description=__doc__
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the runs")
    add("--json", type=Path, required=True, metavar="FILE", help="written after every seed")
    add("--seeds", default="0,1,2", help="(default: %(default)s)")
    add("--keep-ratio", type=float, default=0.41, metavar="R", help="(default: %(default)s)")
    add("--minutes", type=float, default=1e9, help="of training with pictures, this time")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        _run(options)
    except (Ada3DError, OSError) as error:
        print(f"pruned_training: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    seeds = parse_list(options.seeds, int, "--seeds")
    if not 0.0 < options.keep_ratio < 1.0:
        raise ConfigError(f"--keep-ratio {options.keep_ratio:g}: allowed: above 0 and below 1.")
    out = ResultFile(options.json, device_name(torch.device("cpu")), seeds[0])

    # The start, then all copies; Ctrl-C and `kill` end either after a step.
    run = Run(options.out, seeds, options.keep_ratio)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, run.start.stop)
    run.train_start()
    if run.start.stopped:
        return
    run.open_copies()
    trials = time_steps(run.copies[:2])
    run.train(time.monotonic() + 60 * options.minutes)
    if len(run.copies[0].points) < 2:
        return

    # What has come of it.
    run.export()
    pruner = run.copies[1].session.pruner
    assert pruner is not None
    pairs = zip(run.copies[::2], run.copies[1::2], strict=True)
    results = {
        "n": {
            "seeds": len(seeds),
            "steps": len(run.copies[0].seconds),
            "questions": run.copies[0].points[-1].asked,
            "trials": TRIAL_STEPS,
        },
        "keep_ratio": options.keep_ratio,
        "retention": pruner.schedule.retention,
        "stages": [asdict(stage) for stage in (*START, MEASURED)],
        "val_rooms": VAL_ROOMS,
        "trials": trials,
        "seeds": [seed_results(unpruned, pruned) for unpruned, pruned in pairs],
    }
    out.write(
        plain(results), complete=len(run.copies[0].seconds) * MEASURED.batch == MEASURED.rooms
    )
    for one in results["seeds"]:
        print(json.dumps(plain({"seed": one["seed"], **one["headline"]})), flush=True)


if __name__ == "__main__":
    sys.exit(main())
